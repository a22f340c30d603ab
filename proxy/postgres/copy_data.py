"""The data stream of a COPY on protected columns: how its cells are read, and how its errors are worded.

Pure. `copy_stream` makes the native stream for a plan and the codecs of its columns; `copy_error` gives
the client the server's own words for a cell or a line that cannot be taken, with the server's CONTEXT
but without the value or the line, which would end up in logs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from proxy.audit.process import note
from proxy.crypto.tokens import TooManyTokens
from proxy.metrics import pg_integrity_failures_total
from proxy.native import (
    COPY_BINARY_FORMAT,
    ROW_BOOL,
    ROW_CALL,
    ROW_COPY,
    ROW_INT,
    ROW_TEXT,
    CopyBad,
    CopyStream,
)
from proxy.policy.model import Action
from proxy.postgres.messages import error_response
from proxy.postgres.needs import Use as KeyUse
from proxy.postgres.plan import CopyPlan
from proxy.postgres.snapshot import BOOL, INT2, INT4, INT8, TEXT, VARCHAR, ProtectedColumn
from proxy.postgres.sqlstate import CHARACTER_NOT_IN_REPERTOIRE, PROGRAM_LIMIT_EXCEEDED
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_of
from proxy.postgres.values import (
    Codecs,
    CopyRows,
    ResultRows,
    needed_for_rows,
    row_codecs,
    row_columns,
)

if TYPE_CHECKING:
    from proxy.native import ColumnCodec

BAD_COPY_FILE_FORMAT = "22P04"
_SIZES = {INT2: 2, INT4: 4, INT8: 8}
_UNLIMITED = 1 << 40

log = structlog.get_logger()
_Column = tuple["ColumnCodec | None", int, "Callable[[bytes], bytes] | bytes | None", int]


class CopyData(CopyStream):
    """A native stream that remembers its plan, so that its keys can be fetched again."""

    plan: CopyPlan
    outputs: tuple[ProtectedColumn | None, ...]
    live: list[ColumnCodec | None]  # as the native part has them
    lost: bool = False

    def renew(self, codecs: Sequence[ColumnCodec | None]) -> None:
        self.live = list(codecs)
        super().renew(codecs)

    def value_lost(self, index: int) -> None:
        """Counted each time, said once."""
        pg_integrity_failures_total.inc()
        column = self.outputs[index]
        if not self.lost and column is not None:
            self.lost = True
            note("open.fail", plane="postgres", resource=f"column:{column.domain}")
            log.error("postgres.value_shown_as_null", column=column.domain)

    @property
    def inwards(self) -> bool:
        return self.plan.inwards


def needed_for_copy(plan: CopyPlan | None) -> set[KeyUse]:
    if plan is None:
        return set()
    if plan.inwards:
        return {(c, Action.SEAL) for c in plan.outputs if c is not None}
    return needed_for_rows(plan.outputs)


def copy_stream(
    plan: CopyPlan, codecs: Codecs, ctx: TextContext, limit_bytes: int, server_version: int
) -> CopyData:
    """A fresh stream. `limit_bytes`: of a line or row; `server_version`: major, 0 if not known."""
    made: list[weakref.ref[ResultRows | CopyRows]] = []
    columns: list[_Column | None]
    if plan.inwards:
        live = [None if c is None else codecs[c, Action.SEAL] for c in plan.outputs]
        columns = [
            None if c is None or codec is None else _inwards(plan, c, codec, ctx)
            for c, codec in zip(plan.outputs, live, strict=True)
        ]
    else:
        live = row_codecs(plan.outputs, codecs)
        formats = (int(plan.form == COPY_BINARY_FORMAT),) * len(live)
        columns = [
            None if row is None else (*row, 0)
            for row in row_columns(plan.outputs, formats, live, ctx, made)
        ]
    names = [name.encode() for name, _ in plan.columns]
    found = CopyData(
        columns,
        plan.inwards,
        plan.form,
        limit=limit_bytes,
        delimiter=plan.delimiter,
        null=plan.null,
        quote=plan.quote,
        escape=plan.escape,
        default=plan.default,
        header=names if plan.inwards and plan.header else None,
        pass_header=not plan.inwards and bool(plan.header),
        check_header=_matching(plan, names) if plan.header == "match" else None,
        force_first=plan.force_not_null if plan.inwards else plan.force_quote,
        force_null=plan.force_null,
        # since 18 the server takes \. in csv data as data (release notes, 18)
        marker=not server_version >= 18,
    )
    found.plan, found.outputs, found.live = plan, plan.outputs, live
    made.append(weakref.ref(found))
    return found


def _inwards(
    plan: CopyPlan, column: ProtectedColumn, codec: ColumnCodec, ctx: TextContext
) -> _Column:
    """(codec, kind, how the rest is read, how long a value the kind reads by itself)."""
    oid, typmod = column.type.oid, column.type.typmod
    elem = codec_of(column.type)
    if plan.form == COPY_BINARY_FORMAT:

        def read(raw: bytes) -> bytes:
            return elem.coerce(raw, oid, typmod, ctx)

        if oid in _SIZES:
            return codec, ROW_COPY, read, _SIZES[oid]
    else:

        def read(raw: bytes) -> bytes:
            return elem.parse(raw, ctx, typmod)

        if oid in _SIZES:
            return codec, ROW_INT, read, _SIZES[oid]
        if oid == BOOL:
            return codec, ROW_BOOL, read, 1
    if oid in (TEXT, VARCHAR) and not column.type.labels:
        return codec, ROW_TEXT, read, _UNLIMITED if typmod < 4 else typmod - 4
    return codec, ROW_CALL, read, 0


def _matching(plan: CopyPlan, names: Sequence[bytes]) -> Callable[[list[bytes | None]], None]:
    """HEADER MATCH: the first line holds the names of the columns (copyfromparse.c)."""

    def check(found: list[bytes | None]) -> None:
        if len(found) != len(names):
            raise CopyBad(
                f"wrong number of fields in header line: got {len(found)}, expected {len(names)}",
                "",
            )
        for i, (got, name) in enumerate(zip(found, names, strict=True)):
            if got is None:
                null = plan.null.decode()
                raise CopyBad(
                    f"column name mismatch in header line field {i + 1}:"
                    f' got null value ("{null}"), expected "{name.decode()}"',
                    "",
                )
            if got != name:
                raise CopyBad(
                    f"column name mismatch in header line field {i + 1}:"
                    f' got "{got.decode("utf-8", "replace")}", expected "{name.decode()}"',
                    "",
                )

    return check


def copy_error(stream: CopyData, error: Exception) -> bytes:
    """The ErrorResponse for a row that cannot be sealed."""
    context = context_of(stream)
    if isinstance(error, DataError):
        if error.sqlstate == CHARACTER_NOT_IN_REPERTOIRE:  # the server checks whole lines
            context = context.partition(", column")[0]
        message = error.message.removesuffix(" in bind parameter")
        return error_response(error.sqlstate, message, context=context)
    if isinstance(error, TooManyTokens):
        message = "the text is too long for a column with pattern search"
        return error_response(PROGRAM_LIMIT_EXCEEDED, message, context=context)
    if isinstance(error, CopyBad):
        message, hint = error.args
        return error_response(BAD_COPY_FILE_FORMAT, message, hint=hint, context=context)
    raise error


def context_of(stream: CopyData) -> str:
    """`COPY t, line 3, column c`, as CopyFromErrorCallback has it, without the value; nothing in a
    binary header."""
    if stream.line == 0:
        return ""
    text = f"COPY {stream.plan.relation}, line {stream.line}"
    if stream.failed >= 0:
        text += f", column {stream.plan.columns[stream.failed][0]}"
    return text
