"""A client's value as the binary form that its column's type has for it. Pure.

The client's own cast comes first; then the declared length or scale, where the value is written. Errors
are DataError with the server's own SQLSTATE.
"""

from proxy.postgres.plan import Cast, How, Use
from proxy.postgres.snapshot import UNKNOWN, ProtectedColumn
from proxy.postgres.sqlstate import FEATURE_NOT_SUPPORTED
from proxy.postgres.types.array import FIRST_USER_OID, Array, read_array, read_binary_array
from proxy.postgres.types.base import MISMATCH, DataError, TextContext, TypeCodec
from proxy.postgres.types.operands import assigned, compared, cut
from proxy.postgres.types.registry import codec_for, codec_of

_STORES = (Use.STORE, Use.STORE_ARRAY)
SEALS = (*_STORES, Use.SHOW)
ARRAYS = (Use.STORE_ARRAY, Use.TAG_ARRAY, Use.SEARCH_ARRAY)
Item = tuple[bytes | None] | None  # a value: None is NULL, (None,) equals nothing


def items_of(
    column: ProtectedColumn, use: Use, raw: bytes, fmt: int, oid: int, how: How, ctx: TextContext
) -> list[Item]:
    """The value, or the elements of the array, that came in this format (0 text, 1 binary) as this type
    (0: as none in particular), in the form of the column's type."""
    if use in ARRAYS and fmt == 0:
        return _array_text(column, use, raw, oid, how, ctx)
    if use in ARRAYS:
        found, elem = read_binary_array(raw)
        return [
            None if i is None else (_value(column, use, i, 1, elem, how, ctx),) for i in found.items
        ]
    return [(_value(column, use, raw, fmt, oid, how, ctx),)]


def _converted(
    column: ProtectedColumn, use: Use, binary: bytes, oid: int, ctx: TextContext
) -> bytes | None:
    """The binary form for the column of a value of another type. The declared length or scale applies
    to what is written; a comparison takes the value as it is: 1.005 equals nothing in a numeric(12,2),
    and so does what is only shown.
    """
    target = codec_of(column.type)
    if target.foreign_oid and oid >= FIRST_USER_OID:
        oid = 0
    if use is Use.SHOW and oid == column.type.oid:
        return target.check(binary, -1)  # blanks at the end of a char(n) are kept
    if use in SEALS:
        return assigned(target, binary, oid, _typmod(column, use), ctx)
    return compared(target, binary, oid, ctx)


def _typmod(column: ProtectedColumn, use: Use) -> int:
    return column.type.typmod if use in _STORES else -1


def _from_text(
    column: ProtectedColumn, use: Use, text: bytes, oid: int, ctx: TextContext
) -> bytes | None:
    """The same for a value in text format: of its own type first."""
    if oid in (0, UNKNOWN) or oid >= FIRST_USER_OID and column.type.labels:
        return codec_of(column.type).parse(text, ctx, _typmod(column, use))
    return _converted(column, use, _codec_of_parameter(oid).parse(text, ctx, -1), oid, ctx)


def _codec_of_parameter(oid: int) -> TypeCodec:
    try:
        return codec_for(oid)
    except KeyError:
        message = f"a parameter of type {oid} beside a protected column: declare another type"
        raise DataError(FEATURE_NOT_SUPPORTED, message) from None


def _value(
    column: ProtectedColumn, use: Use, raw: bytes, fmt: int, oid: int, how: How, ctx: TextContext
) -> bytes | None:
    """The binary form for the column of a value in a format (0 text, 1 binary), cast before."""
    if not isinstance(how, Cast):
        if fmt == 0:
            return _from_text(column, use, raw, oid, ctx)
        return _converted(column, use, raw, oid or column.type.oid, ctx)
    kind = codec_of(how.type)
    if oid in (0, UNKNOWN, kind.oid):
        plain = kind.parse(raw, ctx, -1) if fmt == 0 else kind.check(raw, -1)
    else:
        source = _codec_of_parameter(oid)
        binary = source.parse(raw, ctx, -1) if fmt == 0 else source.check(raw, -1)
        plain = assigned(kind, binary, oid, -1, ctx)
    return _converted(column, use, cut(kind, plain, how.type.typmod), kind.oid, ctx)


def _array_text(
    column: ProtectedColumn, use: Use, text: bytes, oid: int, how: How, ctx: TextContext
) -> list[Item]:
    elem = 0
    if oid not in (0, UNKNOWN, column.type.array_oid):
        source = _codec_of_parameter(oid)
        if not isinstance(source, Array):
            raise DataError(MISMATCH, f"a parameter of type {source.name} where an array is wanted")
        elem = source.elem.oid
    found = read_array(text, lambda item: item).items
    return [None if i is None else (_value(column, use, i, 0, elem, how, ctx),) for i in found]
