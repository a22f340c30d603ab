"""From a client's values to sealed ones and back: parameters, literals, and the plan of a row.

Pure: the codecs of the columns were fetched before. Errors in a client's value are DataError
with the server's own SQLSTATE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from proxy.crypto.tokens import TooManyTokens
from proxy.native import ROW_BOOL, ROW_CALL, ROW_COPY, ROW_INT, ROW_TEXT, RowPlan
from proxy.policy.model import Action
from proxy.postgres.lookups import LOOKUPS, lookup
from proxy.postgres.messages import format_of
from proxy.postgres.needs import Use as KeyUse
from proxy.postgres.plan import Literal, Segment, StatementPlan, Use
from proxy.postgres.snapshot import (
    BOOL,
    BPCHAR,
    BYTEA,
    INT2,
    INT4,
    INT8,
    TEXT,
    VARCHAR,
    ProtectedColumn,
)
from proxy.postgres.sqlstate import PROGRAM_LIMIT_EXCEEDED, PROTOCOL_VIOLATION
from proxy.postgres.types.array import binary_array_elements, parse_array
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_for

if TYPE_CHECKING:
    from proxy.native import ColumnCodec

Codecs = Mapping[KeyUse, "ColumnCodec"]
_JSON = 114
_KIND = {TEXT: ROW_TEXT, VARCHAR: ROW_TEXT, BPCHAR: ROW_TEXT, _JSON: ROW_TEXT}
_KIND |= {INT2: ROW_INT, INT4: ROW_INT, INT8: ROW_INT, BOOL: ROW_BOOL}
_STORES = (Use.STORE, Use.STORE_ARRAY)


def action_of(use: Use) -> Action:
    """A tag is asked for by readers, too; it opens nothing but is made from an index key."""
    return Action.SEAL if use in _STORES else Action.OPEN


def needed_for_text(plan: StatementPlan) -> set[KeyUse]:
    """Keys for the literals of a statement."""
    return {(s.column, action_of(s.use)) for s in plan.segments if isinstance(s, Literal)}


def needed_for_bind(plan: StatementPlan) -> set[KeyUse]:
    """Keys for the parameters and the rows of one execution."""
    uses = {(p.column, action_of(p.use)) for p in plan.params if p.column is not None}
    return uses | needed_for_rows(plan.outputs)


def needed_for_rows(outputs: Sequence[ProtectedColumn | None] | None) -> set[KeyUse]:
    return {(c, Action.OPEN) for c in outputs or () if c is not None}


def _one(codec: ColumnCodec, store: bool, binary: bytes) -> bytes:
    if not store:
        return codec.tag(binary)
    try:
        return codec.seal(binary)
    except TooManyTokens:
        raise DataError(
            PROGRAM_LIMIT_EXCEEDED, "the text is too long for a column with pattern search"
        ) from None


def _typmod(column: ProtectedColumn, store: bool) -> int:
    """The declared length or scale applies to what is written. A comparison takes the value as it is,
    as the server does: 1.005 equals nothing in a numeric(12,2)."""
    return column.type.typmod if store else -1


def _array(codec: ColumnCodec, store: bool, elements: Sequence[bytes | None]) -> bytes:
    """bytea[] in binary: one dimension, lower bound 1."""
    if not elements:
        return struct.pack("!iiI", 0, 0, BYTEA)
    parts = [struct.pack("!iiIii", 1, int(None in elements), BYTEA, len(elements), 1)]
    for element in elements:
        if element is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            value = _one(codec, store, element)
            parts.append(struct.pack("!i", len(value)) + value)
    return b"".join(parts)


def seal_text(literal: Literal, codecs: Codecs, ctx: TextContext) -> bytes:
    """Sealed value or tag of a literal."""
    column = literal.column
    codec = codecs[column, action_of(literal.use)]
    elem = codec_for(column.type.oid)
    store = literal.use in _STORES
    typmod = _typmod(column, store)
    if literal.use in LOOKUPS:
        oid = literal.oid or column.type.oid
        return lookup(literal.use, column, literal.text, 0, oid, codec, ctx)
    if literal.use in (Use.STORE_ARRAY, Use.TAG_ARRAY):
        items = parse_array(literal.text, elem, ctx, typmod)
        return _array(codec, store, items)
    return _one(codec, store, elem.parse(literal.text, ctx, typmod))


def render_text(
    segments: Sequence[Segment], codecs: Codecs, ctx: TextContext, conforming: bool
) -> bytes:
    """The server's text of a statement. `conforming`: standard_conforming_strings is on."""
    parts = []
    for segment in segments:
        if isinstance(segment, bytes):
            parts.append(segment)
            continue
        array = segment.use in (Use.STORE_ARRAY, Use.TAG_ARRAY)
        value = seal_text(segment, codecs, ctx)
        if array:
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
) -> tuple[tuple[int, ...], tuple[bytes | None, ...]]:
    """(formats, values) of the server's Bind for the client's."""
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
        raw, fmt = values[index], format_of(formats, index)
        if target.use is Use.PASS:
            out_formats.append(fmt)
            out_values.append(raw)
            continue
        out_formats.append(1)
        if raw is None:
            out_values.append(None)
            continue
        column = target.column
        assert column is not None
        declared = oids[index] if index < len(oids) else 0
        out_values.append(_parameter(target.use, column, raw, fmt, declared, codecs, ctx))
    return tuple(out_formats), tuple(out_values)


def _parameter(
    use: Use,
    column: ProtectedColumn,
    raw: bytes,
    fmt: int,
    declared: int,
    codecs: Codecs,
    ctx: TextContext,
) -> bytes:
    codec = codecs[column, action_of(use)]
    elem = codec_for(column.type.oid)
    store = use in _STORES
    typmod = _typmod(column, store)
    if use in LOOKUPS:
        return lookup(use, column, raw, fmt, declared, codec, ctx)
    if use in (Use.STORE_ARRAY, Use.TAG_ARRAY):
        if fmt == 0:
            items = parse_array(raw, elem, ctx, typmod)
        else:
            items = [
                None if e is None else elem.coerce(e, _element_oid(raw), typmod, ctx)
                for e in binary_array_elements(raw)
            ]
        return _array(codec, store, items)
    if fmt == 0:
        return _one(codec, store, elem.parse(raw, ctx, typmod))
    return _one(codec, store, elem.coerce(raw, declared or column.type.oid, typmod, ctx))


def _element_oid(raw: bytes) -> int:
    return int.from_bytes(raw[8:12], "big")


class ResultRows(RowPlan):
    """A native row plan that remembers its columns, so that its keys can be fetched again."""

    outputs: tuple[ProtectedColumn | None, ...]


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
) -> ResultRows:
    """How rows with these columns are opened and rendered in the client's formats."""
    columns: list[tuple[ColumnCodec, int, Callable[[bytes], bytes] | None] | None] = []
    for column, fmt in zip(outputs, formats, strict=True):
        if column is None:
            columns.append(None)
            continue
        codec = codecs[column, Action.OPEN]
        oid = column.type.oid
        if fmt == 1:
            columns.append((codec, ROW_COPY, None))
        elif oid in _KIND:
            columns.append((codec, _KIND[oid], None))
        else:
            columns.append((codec, ROW_CALL, _renderer(oid, ctx)))
    rows = ResultRows(columns, text_input)
    rows.outputs = outputs
    return rows


def _renderer(oid: int, ctx: TextContext) -> Callable[[bytes], bytes]:
    codec = codec_for(oid)
    return lambda binary: codec.render(binary, ctx)
