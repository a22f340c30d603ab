"""A client's value of one type where a column of another type stands.

`assigned` is what INSERT and UPDATE store: PostgreSQL's assignment casts. `compared` is what `=` looks
for: the column type's form of the value that the server's operator would take for equal, or None where
no value of the column can be equal. What has no cast or operator gets the server's SQLSTATE; what the
server would compare in a way that a tag cannot (a date with a timestamp, numeric with float) is refused.
"""

import math
import struct

from proxy.postgres.snapshot import (
    BOOL,
    BPCHAR,
    FLOAT4,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    UNKNOWN,
    VARCHAR,
)
from proxy.postgres.types.array import Array, read_binary_array, write_binary_array
from proxy.postgres.types.base import MISMATCH, UNSUPPORTED, DataError, TextContext, TypeCodec
from proxy.postgres.types.enum import Enum
from proxy.postgres.types.floating import Float
from proxy.postgres.types.inet import CIDR, INET
from proxy.postgres.types.integer import SIZES, Integer
from proxy.postgres.types.numeric import Numeric, decimal_of
from proxy.postgres.types.registry import codec_for
from proxy.postgres.types.text import Text, Varchar, characters

NUMBER = -1  # as a literal's type: a bare number, whose own digits decide
_STRINGS = frozenset({TEXT, VARCHAR, BPCHAR})
# element types whose every value the element type on the left has, length and scale aside
_WIDENED = {
    INT4: (INT2,), INT8: (INT2, INT4), NUMERIC: (INT2, INT4, INT8), FLOAT8: (FLOAT4,),
    TEXT: (VARCHAR,), VARCHAR: (TEXT,),
}  # fmt: skip
_ARRAY_OF = {
    codec_for(oid).array_oid: oid for oid in (INT2, INT4, INT8, FLOAT4, TEXT, VARCHAR)
}  # array type -> type of its elements
_EXACT = 2**53  # doubles below it hold every integer


def type_of_number(text: bytes) -> int:
    """int4, int8 or numeric: the type of a numeric constant (SQL grammar, "Numeric Constants")."""
    digits = text.lstrip(b"+-")
    if not digits.isdigit():
        return NUMERIC
    value = int(digits) if len(digits) < 25 else 1 << 64
    return INT4 if value < 2**31 else INT8 if value < 2**63 else NUMERIC


def assigned(
    target: TypeCodec, binary: bytes, from_oid: int, typmod: int, ctx: TextContext
) -> bytes:
    """The binary form that a column of this type stores. DataError."""
    if from_oid in (0, UNKNOWN):
        return target.parse(binary, ctx, typmod)
    if isinstance(target, Enum):
        return target.coerce(binary, from_oid, typmod, ctx)
    if isinstance(target, Text):
        return target.check(_as_text(binary, from_oid, ctx), typmod)
    if isinstance(target, Array):
        return _array(target, binary, from_oid, typmod, ctx)
    if from_oid in _STRINGS:
        raise DataError(MISMATCH, f"column is of type {target.name} but expression is of type text")
    return target.coerce(binary, from_oid, typmod, ctx)


def _array(target: Array, binary: bytes, from_oid: int, typmod: int, ctx: TextContext) -> bytes:
    """An array whose elements every value of the target's has room for is assigned element by element:
    psycopg sends small integers as int2[]. Other arrays keep to their own type."""
    source = _ARRAY_OF.get(from_oid)
    if source is None or source not in _WIDENED.get(target.elem.oid, ()):
        return target.check(binary, typmod)  # the binary form names the type of its elements
    found, _ = read_binary_array(codec_for(from_oid).check(binary, -1))
    items = [
        None if i is None else assigned(target.elem, i, source, typmod, ctx) for i in found.items
    ]
    return write_binary_array(items, target.elem.oid, found.lower)


def cut(kind: TypeCodec, binary: bytes, typmod: int) -> bytes:
    """What an explicit cast to this type with a length or scale makes of its binary form: texts are
    cut where an assignment would fail. DataError."""
    if isinstance(kind, Varchar) and typmod >= 4:
        binary = characters(binary)[: typmod - 4].encode()
    return kind.check(binary, typmod)


def _as_text(binary: bytes, from_oid: int, ctx: TextContext) -> bytes:
    """The cast to text."""
    if from_oid in (TEXT, VARCHAR):
        return binary
    if from_oid == BPCHAR:
        return binary.rstrip(b" ")
    source = _source(from_oid, "text")
    checked = source.check(binary, -1)
    if from_oid == BOOL:
        return b"false" if checked == b"\0" else b"true"
    shown = source.render(checked, ctx)
    if from_oid == INET and b"/" not in shown:
        return shown + (b"/32" if len(checked) == 8 else b"/128")
    return shown


def _source(oid: int, target: str) -> TypeCodec:
    try:
        return codec_for(oid)
    except KeyError:
        message = f"a parameter of type {oid} cannot become {target}: cast it on the client"
        raise DataError(UNSUPPORTED, message) from None


def compared(target: TypeCodec, binary: bytes, from_oid: int, ctx: TextContext) -> bytes | None:
    """The binary form whose tag equality with this value asks for; None: nothing is equal. DataError."""
    if from_oid in (0, UNKNOWN):
        return target.parse(binary, ctx, -1)
    if isinstance(target, (Text, Enum)) and from_oid in _STRINGS:
        return _string(target, binary, from_oid)
    if isinstance(target, Array) and from_oid != target.oid and not target.elem.foreign_oid:
        raise _no_operator(target, _source(from_oid, target.name).name)
    if from_oid == target.oid or isinstance(target, Array):
        return target.check(binary, -1)
    if isinstance(target, Integer):
        return _integer(target, binary, from_oid)
    if isinstance(target, Float):
        return _float(target, binary, from_oid)
    if isinstance(target, Numeric) and from_oid in SIZES:
        return target.coerce(binary, from_oid, -1, ctx)
    if isinstance(target, Numeric) and from_oid in (FLOAT4, FLOAT8):
        raise _refused(target, "double precision")
    if target.oid in (INET, CIDR) and from_oid in (INET, CIDR):
        return _source(from_oid, target.name).check(binary, -1)
    source = _source(from_oid, target.name)
    if source.oid in _TIMES and target.oid in _TIMES:
        raise _refused(target, source.name)
    raise _no_operator(target, source.name)


_TIMES = frozenset({1082, 1083, 1114, 1184, 1186, 1266})


def _no_operator(target: TypeCodec, other: str) -> DataError:
    return DataError("42883", f"operator does not exist: {target.name} = {other}")


def _refused(target: TypeCodec, other: str) -> DataError:
    return DataError(
        UNSUPPORTED,
        f"a protected column of type {target.name} cannot be compared with {other}: "
        f"cast the value to {target.name}",
    )


def _string(target: TypeCodec, binary: bytes, from_oid: int) -> bytes | None:
    """char(n) is compared as text with text, where a blank at the end of the value counts."""
    if target.oid == BPCHAR and from_oid == TEXT and binary.endswith(b" "):
        target.check(binary, -1)
        return None
    if target.oid == TEXT and from_oid == BPCHAR:
        binary = binary.rstrip(b" ")
    return target.check(binary, -1)


def _integer(target: Integer, binary: bytes, from_oid: int) -> bytes | None:
    """8 bytes, so that a value beyond the column's width is compared and not refused."""
    if from_oid in SIZES:
        return _source(from_oid, target.name).check(binary, -1)
    if from_oid == NUMERIC:
        value = decimal_of(Numeric().check(binary, -1))
        if not value.is_finite() or value.adjusted() > 20 or value != value.to_integral_value():
            return None
        number = int(value)
    elif from_oid in (FLOAT4, FLOAT8):
        floating = _value_of(binary, from_oid)
        if not math.isfinite(floating) or floating != math.floor(floating):
            return None
        if target.size == 8 and abs(floating) >= _EXACT:
            raise _refused(target, "double precision")
        number = int(floating)
    else:
        raise _no_operator(target, _source(from_oid, target.name).name)
    if not -(2**63) <= number < 2**63:
        return None
    return number.to_bytes(8, "big", signed=True)


def _value_of(binary: bytes, oid: int) -> float:
    checked = codec_for(oid).check(binary, -1)
    value: float = struct.unpack("!f" if oid == FLOAT4 else "!d", checked)[0]
    return value


def _float(target: Float, binary: bytes, from_oid: int) -> bytes | None:
    """As double precision, which real, integers and numeric become beside a float."""
    if from_oid in (FLOAT4, FLOAT8):
        value = _value_of(binary, from_oid)
    elif from_oid in SIZES or from_oid == NUMERIC:
        double = codec_for(FLOAT8).coerce(binary, from_oid, -1)
        (value,) = struct.unpack("!d", double)
    else:
        raise _no_operator(target, _source(from_oid, target.name).name)
    if target.size == 8 or math.isnan(value) or math.isinf(value):
        return struct.pack(target.form, value)
    try:
        real = struct.pack("!f", value)
    except OverflowError:
        return None
    return real if struct.unpack("!f", real)[0] == value else None
