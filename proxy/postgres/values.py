"""From a client's values to sealed ones and back: parameters, literals, and the plan of a row.

Pure: the codecs of the columns were fetched before. Errors in a client's value are DataError
with the server's own SQLSTATE.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy.audit.process import note
from proxy.crypto.tokens import TooManyTokens
from proxy.metrics import pg_integrity_failures_total
from proxy.native import (
    ROW_BOOL,
    ROW_CALL,
    ROW_COPY,
    ROW_DATE,
    ROW_FIXED,
    ROW_HEX,
    ROW_INT,
    ROW_LENIENT,
    ROW_NULL,
    ROW_NUMERIC,
    ROW_TEXT,
    ROW_TIMESTAMP,
    ROW_TIMESTAMP_UTC,
    ROW_UUID,
    RowPlan,
)
from proxy.policy.model import Action, Mask
from proxy.postgres.checks import Operands, row_test
from proxy.postgres.conversions import ARRAYS, SEALS, Item, items_of
from proxy.postgres.lookups import LOOKUPS, lookup
from proxy.postgres.masks import masked, needs_no_key
from proxy.postgres.messages import format_of
from proxy.postgres.needs import Use as KeyUse
from proxy.postgres.plan import (
    Check,
    Either,
    Literal,
    ParamTarget,
    Segment,
    StatementPlan,
    Use,
)
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import (
    BOOL,
    BPCHAR,
    BYTEA,
    DATE,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    UUID,
    VARCHAR,
    ProtectedColumn,
    SealedType,
)
from proxy.postgres.sqlstate import (
    PROGRAM_LIMIT_EXCEEDED,
    PROTOCOL_VIOLATION,
)
from proxy.postgres.token_lists import LISTS, list_binary, list_literal, token_list
from proxy.postgres.types.array import (
    binary_array_elements,
    write_binary_array,
)
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.operands import NUMBER, type_of_number
from proxy.postgres.types.registry import codec_of

if TYPE_CHECKING:
    from proxy.native import ColumnCodec

log = structlog.get_logger()
_Row = tuple["ColumnCodec | None", int, "Callable[[bytes], bytes] | bytes | None"]
Codecs = Mapping[KeyUse, "ColumnCodec"]
_JSON = 114
_KIND = {TEXT: ROW_TEXT, VARCHAR: ROW_TEXT, BPCHAR: ROW_TEXT, _JSON: ROW_TEXT}
_KIND |= {INT2: ROW_INT, INT4: ROW_INT, INT8: ROW_INT, BOOL: ROW_BOOL}
_ALONE = frozenset(_KIND.values())  # rendered natively whatever the value
_KIND |= {UUID: ROW_UUID, NUMERIC: ROW_NUMERIC}
_UTC = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu")
NO_TAG = bytes(16)  # no tag is ever all zeros: what the server would compare, and nothing equals


def action_of(use: Use) -> Action:
    """A tag is asked for by readers, too; it opens nothing but is made from an index key."""
    return Action.SEAL if use in SEALS else Action.OPEN


def needed_for_text(plan: StatementPlan) -> set[KeyUse]:
    """Keys for the literals of a statement, and to know how many index keys there are."""
    uses = {(s.column, action_of(s.use)) for s in plan.segments if isinstance(s, Literal)}
    return uses | {(c, Action.OPEN) for c in searched(plan) | plan.compared}


def searched(plan: StatementPlan) -> set[ProtectedColumn]:
    """Columns that the statement's text depends on the number of index keys of."""
    return {s.column for s in plan.segments if isinstance(s, Either)}


def several_keys(plan: StatementPlan, codecs: Codecs) -> frozenset[ProtectedColumn]:
    """Those of `searched` that have more than one index key now. Refusal where the statement compares
    stored tags with each other, which means nothing across keys."""
    for column in plan.compared:
        if codecs[column, Action.OPEN].index_keys > 1:
            raise refuse(
                "rotation",
                column,
                "comparing stored values, of which some have an older index key,",
            )
    return frozenset(c for c in searched(plan) if codecs[c, Action.OPEN].index_keys > 1)


def needed_for_bind(plan: StatementPlan) -> set[KeyUse]:
    """Keys for the parameters and the rows of one execution."""
    uses = {(p.column, action_of(p.use)) for p in plan.params if p.column is not None}
    uses |= {(c, Action.OPEN) for c in searched(plan) | plan.compared}
    return uses | needed_for_rows(plan.outputs)


def needed_for_rows(outputs: Sequence[ProtectedColumn | None] | None) -> set[KeyUse]:
    return {(c, reading(c)) for c in outputs or () if c is not None and not needs_no_key(c)}


def reading(column: ProtectedColumn) -> Action:
    """What the keys of an output column are asked for."""
    return Action.OPEN if column.shown is None else Action.MASK


def row_codecs(
    outputs: Sequence[ProtectedColumn | None], codecs: Codecs
) -> list[ColumnCodec | None]:
    """The codec of every output column; None where none is needed."""
    return [None if c is None or needs_no_key(c) else codecs[c, reading(c)] for c in outputs]


def _one(codec: ColumnCodec, store: bool, binary: bytes | None) -> bytes:
    """Sealed value or tag; None is a value that nothing equals."""
    if not store:
        return NO_TAG if binary is None else codec.tag(binary)
    assert binary is not None
    try:
        return codec.seal(binary)
    except TooManyTokens:
        raise DataError(
            PROGRAM_LIMIT_EXCEEDED, "the text is too long for a column with pattern search"
        ) from None


def _written(codec: ColumnCodec, use: Use, several: bool, items: Sequence[Item]) -> bytes:
    """The server's value, in binary, for one client value (a list of one), or for the elements of an
    array: bytea, or bytea[] of one dimension, lower bound 1."""
    if use is Use.SEARCH_ARRAY or (use is Use.SEARCH and several):
        found: list[bytes | None] = []
        for item in items:
            if item is None:
                found.append(None)
            else:
                found += [NO_TAG] if item[0] is None else codec.tags(item[0])
        return write_binary_array(found, BYTEA)
    store = use in SEALS
    if use in ARRAYS:
        return write_binary_array(
            [None if item is None else _one(codec, store, item[0]) for item in items], BYTEA
        )
    (item,) = items
    assert item is not None
    return _one(codec, store, item[0])


def seal_text(literal: Literal, codecs: Codecs, ctx: TextContext, several: bool = False) -> bytes:
    """Sealed value or tag of a literal; all its tags, where it is searched for under several keys."""
    column = literal.column
    codec = codecs[column, action_of(literal.use)]
    oid = type_of_number(literal.text) if literal.oid == NUMBER else literal.oid
    if literal.use in LOOKUPS:
        return lookup(literal.use, column, literal.text, 0, oid, codec, ctx)
    given = 0 if literal.use in ARRAYS else oid  # a cast to an array names its elements' type
    items = items_of(column, literal.use, literal.text, 0, given, literal.how, ctx)
    return _written(codec, literal.use, several, items)


def render_text(
    segments: Sequence[Segment],
    codecs: Codecs,
    ctx: TextContext,
    conforming: bool,
    several: frozenset[ProtectedColumn] = frozenset(),
) -> bytes:
    """The server's text of a statement. `conforming`: standard_conforming_strings is on. `several`:
    as `several_keys` says."""
    parts = []
    for segment in segments:
        if isinstance(segment, bytes):
            parts.append(segment)
            continue
        many = segment.column in several
        if isinstance(segment, Either):
            parts.append(segment.several if many else segment.one)
            continue
        if segment.use in LISTS:
            codec = codecs[segment.column, action_of(segment.use)]
            items = token_list(
                segment.use, segment.column, segment.how, codec, Operands((), (), (), ctx)
            )
            parts.append(list_literal(segment.use, items))
            continue
        value = seal_text(segment, codecs, ctx, many)
        if segment.use in ARRAYS or (many and segment.use is Use.SEARCH):
            parts.append(_array_literal(value))
        elif conforming:
            parts.append(b"'\\x" + value.hex().encode() + b"'::bytea")
        else:
            parts.append(b"E'\\\\x" + value.hex().encode() + b"'::bytea")
    return b"".join(parts)


def _array_literal(binary: bytes) -> bytes:
    """ARRAY[...]::bytea[] from the binary form, free of any quoting rule."""
    items = [
        b"NULL" if item is None else b"decode('" + item.hex().encode() + b"','hex')"
        for item in binary_array_elements(binary)
    ]
    return b"ARRAY[" + b",".join(items) + b"]::bytea[]"


def server_parameters(
    plan: StatementPlan,
    oids: Sequence[int],
    formats: Sequence[int],
    values: Sequence[bytes | None],
    codecs: Codecs,
    ctx: TextContext,
    several: frozenset[ProtectedColumn] = frozenset(),
) -> tuple[tuple[int, ...], tuple[bytes | None, ...]]:
    """(formats, values) of the server's Bind for the client's. `several`: those with which the
    statement was prepared."""
    if len(formats) > 1 and len(formats) != len(values):
        raise DataError(
            PROTOCOL_VIOLATION,
            f"bind message has {len(formats)} parameter formats but {len(values)} parameters",
        )
    if not plan.params and not plan.client_params:
        return tuple(formats), tuple(values)
    if plan.client_params and len(values) != len(plan.client_params):
        raise DataError(
            PROTOCOL_VIOLATION,
            f"bind message supplies {len(values)} parameters, but prepared statement requires"
            f" {len(plan.client_params)}",
        )
    out_formats: list[int] = []
    out_values: list[bytes | None] = []
    for target in plan.params:
        index = target.client_index
        if index >= len(values):
            raise DataError(PROTOCOL_VIOLATION, "bind message supplies too few parameters")
        if target.use in LISTS:
            assert target.column is not None
            codec = codecs[target.column, action_of(target.use)]
            items = token_list(
                target.use, target.column, target.how, codec, Operands(oids, formats, values, ctx)
            )
            out_formats.append(1)
            out_values.append(list_binary(target.use, items))
            continue
        raw, fmt = values[index], format_of(formats, index)
        if target.use is Use.PASS:
            out_formats.append(fmt)
            out_values.append(raw)
            continue
        out_formats.append(1)
        column = target.column
        assert column is not None
        many = column in several
        if raw is None:
            listed = many and target.use is Use.SEARCH
            out_values.append(write_binary_array([None], BYTEA) if listed else None)
            continue
        declared = _declared(plan, index, oids, column)
        out_values.append(_parameter(target, column, raw, fmt, declared, codecs, ctx, many))
    return tuple(out_formats), tuple(out_values)


def _declared(plan: StatementPlan, index: int, oids: Sequence[int], column: ProtectedColumn) -> int:
    """The type of a client's value: as it declared it, or as it was told; 0: the column's."""
    if index < len(oids) and oids[index]:
        return oids[index]
    told = plan.client_params[index].oid if plan.client_params else 0
    return 0 if told in (column.type.oid, column.type.array_oid) else told


def _parameter(
    target: ParamTarget,
    column: ProtectedColumn,
    raw: bytes,
    fmt: int,
    declared: int,
    codecs: Codecs,
    ctx: TextContext,
    several: bool,
) -> bytes:
    use, how = target.use, target.how
    codec = codecs[column, action_of(use)]
    if use in LOOKUPS:
        return lookup(use, column, raw, fmt, declared, codec, ctx)
    items = items_of(column, use, raw, fmt, declared, how, ctx)
    return _written(codec, use, several, items)


class CopyRows(Protocol):
    """What a mask needs of rows: their codecs as they are now."""

    live: list[ColumnCodec | None]


class ResultRows(RowPlan):
    """A native row plan that remembers its columns, so that its keys can be fetched again."""

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


def result_formats(outputs: Sequence[object], asked: Sequence[int]) -> tuple[int, ...]:
    """The client's format of every output column."""
    if len(asked) > 1 and len(asked) != len(outputs):
        raise DataError(
            PROTOCOL_VIOLATION,
            f"bind message has {len(asked)} result formats but query has {len(outputs)} columns",
        )
    return tuple(format_of(asked, i) for i in range(len(outputs)))


def result_rows(
    outputs: tuple[ProtectedColumn | None, ...],
    formats: Sequence[int],
    codecs: Codecs,
    ctx: TextContext,
    text_input: bool,
    check: Check | None = None,
    operands: Operands | None = None,
) -> ResultRows:
    """How rows with these columns are opened and rendered in the client's formats; with a check, the
    last columns only decide whether a row stays. DataError for a bad operand of the check."""
    hidden = len(check.columns) if check is not None else 0
    live = row_codecs(outputs, codecs)
    made: list[weakref.ref[ResultRows | CopyRows]] = []
    every = (*formats, *[1] * hidden)
    columns = row_columns(outputs, every, live, ctx, made)
    rows = ResultRows(columns, text_input)
    rows.outputs, rows.live = outputs, live
    made.append(weakref.ref(rows))
    if check is not None:
        assert operands is not None
        rows.filter(hidden, row_test(check, operands))
    return rows


def row_columns(
    outputs: Sequence[ProtectedColumn | None],
    formats: Sequence[int],
    live: Sequence[ColumnCodec | None],
    ctx: TextContext,
    made: list[weakref.ref[ResultRows | CopyRows]],
) -> list[_Row | None]:
    """What native code is told of every output. `made`: where the rows themselves will be found."""
    columns: list[_Row | None] = []
    for index, (column, fmt) in enumerate(zip(outputs, formats, strict=True)):
        if column is None:
            columns.append(None)
            continue
        shown, codec = column.shown, live[index]
        lenient = ROW_LENIENT if column.null_on_error else 0
        if isinstance(shown, Mask) and codec is None:
            columns.append((None, ROW_FIXED, masked(shown, b"", column)))
        elif codec is None:
            columns.append((None, ROW_NULL, None))
        elif isinstance(shown, Mask):
            columns.append((codec, ROW_CALL | lenient, _masker(shown, column, made, index)))
        elif fmt == 1:
            columns.append((codec, ROW_COPY | lenient, None))
        else:
            kind = _kind(column.type.oid, ctx)
            render = None if kind in _ALONE else _renderer(column.type, ctx)
            columns.append((codec, kind | lenient, render))
    return columns


def _kind(oid: int, ctx: TextContext) -> int:
    """How a value is rendered as text under these settings: natively where that gives the same."""
    if oid in _KIND:
        return _KIND[oid]
    iso = ctx.date_style.startswith("ISO")
    if oid == BYTEA and ctx.bytea_output == "hex":
        return ROW_HEX
    if iso and oid in (DATE, TIMESTAMP):
        return ROW_DATE if oid == DATE else ROW_TIMESTAMP
    if iso and oid == TIMESTAMPTZ and ctx.time_zone in _UTC:
        return ROW_TIMESTAMP_UTC
    return ROW_CALL


def _masker(
    mask: Mask, column: ProtectedColumn, made: list[weakref.ref[ResultRows | CopyRows]], index: int
) -> Callable[[bytes], bytes]:
    """Renders the mask. A tag is made by the codec that the rows have then: keys may be renewed."""

    def render(value: bytes) -> bytes:
        tag = b""
        if mask.pattern == "hash":
            rows = made[0]()
            codec = rows.live[index] if rows is not None else None
            assert codec is not None
            tag = codec.tag(value)
        return masked(mask, value, column, tag)

    return render


def _renderer(declared: SealedType, ctx: TextContext) -> Callable[[bytes], bytes]:
    codec = codec_of(declared)
    return lambda binary: codec.render(binary, ctx)
