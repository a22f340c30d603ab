"""numeric(p,s): the base-10000 binary form, typmod rounding, and one form for each value.

Canonical form for the equality tag: plain decimal notation without exponent and without zeros at the
end, `NaN`, `Infinity`, `-Infinity`, as ASCII. 1, 1.0 and 1.00 are equal.
"""

import re
import struct
from decimal import ROUND_HALF_UP, Context, Decimal

from proxy import native
from proxy.postgres.snapshot import FLOAT4, FLOAT8, NUMERIC
from proxy.postgres.types.base import (
    DEFAULT,
    INVALID_BINARY,
    OUT_OF_RANGE,
    SHORT,
    DataError,
    TextContext,
    TypeCodec,
)
from proxy.postgres.types.integer import OTHER_BASE, SIZES

_NUMBER = re.compile(
    rb"\s*([+-]?)(?:([0-9]+(?:_[0-9]+)*)(?:\.((?:[0-9]+(?:_[0-9]+)*)?))?|\.([0-9]+(?:_[0-9]+)*))"
    rb"(?:[eE]([+-]?[0-9]+(?:_[0-9]+)*))?\s*"
)
_SPECIAL = {
    b"nan": 0xC000, b"inf": 0xD000, b"infinity": 0xD000, b"+inf": 0xD000, b"+infinity": 0xD000,
    b"-inf": 0xF000, b"-infinity": 0xF000,
}  # fmt: skip
_NAMES = {0xC000: b"NaN", 0xD000: b"Infinity", 0xF000: b"-Infinity"}
_NEGATIVE = 0x4000
_BEGUN = re.compile(
    rb"\s*[+-]?(?:[0-9]+(?:_[0-9]+)*\.?(?:[0-9]+(?:_[0-9]+)*)?|\.[0-9]+(?:_[0-9]+)*)[eE][+-]?([0-9]+(?:_[0-9]+)*)"
)
_SCALE_MASK = 0x3FFF
_MAX_EXPONENT = 2**30 - 1
_MAX_DIGITS_BEFORE, _MAX_SCALE = 131072, 16383
_WIDE = Context(prec=150_000, Emax=999_999, Emin=-999_999)


class Numeric(TypeCodec):
    oid, array_oid, typlen, name = NUMERIC, 1231, -1, "numeric"
    canonical_kind = native.CANON_CALL

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        match = _NUMBER.fullmatch(text)
        if match is None:
            special = _SPECIAL.get(text.strip(b" \t\n\r\f\v").lower())
            if special is None:
                return self._other_base(text, typmod)
            if special != 0xC000 and typmod >= 4:
                raise DataError(OUT_OF_RANGE, "numeric field overflow")
            return _special(special)
        whole = (match[2] or b"").replace(b"_", b"")
        fraction = (match[3] or match[4] or b"").replace(b"_", b"")
        exponent = int(match[5].replace(b"_", b"")[:20]) if match[5] else 0
        digits = (whole + fraction).lstrip(b"0") or b"0"
        scale = max(0, len(fraction) - exponent)
        if abs(exponent) > _MAX_EXPONENT or scale > _MAX_SCALE:
            raise _overflow()
        if digits == b"0":
            return self._pack(Decimal(0), scale, typmod)
        if exponent > 200_000:
            raise _overflow()
        value = Decimal((int(match[1] == b"-"), tuple(d - 48 for d in digits),
                         exponent - len(fraction)))  # fmt: skip
        return self._pack(value, scale, typmod)

    def _other_base(self, text: bytes, typmod: int) -> bytes:
        match = OTHER_BASE.fullmatch(text)
        if match is None:
            begun = _BEGUN.match(text)
            if begun is not None and int(begun[1].replace(b"_", b"")[:20]) > _MAX_EXPONENT:
                raise _overflow()  # seen before what is wrong behind it
            raise self.bad(text)
        base = 16 if match[2] else 8 if match[3] else 2
        number = int((match[2] or match[3] or match[4]).replace(b"_", b""), base)
        if number.bit_length() > 10_000:  # far beyond use; its decimal digits take quadratic time
            raise _overflow()
        return self._pack(Decimal(-number if match[1] == b"-" else number), 0, typmod)

    def _pack(self, value: Decimal, scale: int, typmod: int) -> bytes:
        if value and value.adjusted() >= _MAX_DIGITS_BEFORE:
            raise _overflow()
        if typmod >= 4:
            precision, limit = (typmod - 4) >> 16 & 0xFFFF, (typmod - 4) & 0x7FF
            if limit >= 1024:
                limit -= 2048  # PostgreSQL 15 allows negative scales: 11 bits, signed
            value = value.quantize(Decimal(1).scaleb(-limit), ROUND_HALF_UP, _WIDE)
            scale = max(0, limit)
            if value and value.adjusted() + 1 > precision - limit:
                raise DataError(OUT_OF_RANGE, "numeric field overflow")
        if scale > _MAX_SCALE or value.adjusted() >= _MAX_DIGITS_BEFORE:
            raise _overflow()
        return pack(value, scale)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        count, weight, sign, scale = struct.unpack_from("!HhHH", binary)
        if sign in _NAMES:
            return _NAMES[sign]
        groups = struct.unpack_from(f"!{count}H", binary, 8)
        text = b"".join(b"%04d" % g for g in groups)
        before = (weight + 1) * 4
        if before > 0:
            whole = text[:before].ljust(before, b"0").lstrip(b"0") or b"0"
            fraction = text[before:]
        else:
            whole, fraction = b"0", b"0" * -before + text
        out = whole
        if scale:
            out += b"." + fraction[:scale].ljust(scale, b"0")
        return b"-" + out if sign == _NEGATIVE else out

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid in SIZES:
            if len(binary) != SIZES[from_oid]:
                return self.check(b"", typmod)
            return self._pack(Decimal(int.from_bytes(binary, "big", signed=True)), 0, typmod)
        if from_oid in (FLOAT4, FLOAT8):
            wide = from_oid == FLOAT8
            if len(binary) != (8 if wide else 4):
                return self.check(b"", typmod)
            (value,) = struct.unpack("!d" if wide else "!f", binary)
            return self.parse(b"%.*g" % (15 if wide else 6, value), ctx, typmod)
        return super().coerce(binary, from_oid, typmod, ctx)

    def check(self, binary: bytes, typmod: int) -> bytes:
        if len(binary) < 8:
            raise DataError(SHORT, "insufficient data left in message")
        count, _, sign, scale = struct.unpack_from("!HhHH", binary)
        if sign not in (0, _NEGATIVE, *_NAMES):
            raise DataError(INVALID_BINARY, 'invalid sign in external "numeric" value')
        if scale & ~_SCALE_MASK:
            raise DataError(INVALID_BINARY, 'invalid scale in external "numeric" value')
        if len(binary) < 8 + 2 * count:
            raise DataError(SHORT, "insufficient data left in message")
        if len(binary) != 8 + 2 * count:
            raise DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
        if any(g > 9999 for g in struct.unpack_from(f"!{count}H", binary, 8)):
            raise DataError(INVALID_BINARY, 'invalid digit in external "numeric" value')
        if sign in _NAMES:
            if typmod >= 4 and sign != 0xC000:
                raise DataError(OUT_OF_RANGE, "numeric field overflow")
            return _special(sign)
        return self._pack(decimal_of(binary), scale, typmod)

    def canonical(self, binary: bytes) -> bytes:
        text = self.render(binary, TextContext())
        if b"." in text:
            text = text.rstrip(b"0").rstrip(b".")
        return b"0" if text == b"-0" else text


def _overflow() -> DataError:
    return DataError(OUT_OF_RANGE, "value overflows numeric format")


def _special(sign: int) -> bytes:
    """NaN or an infinity; the server gives infinities a display scale of 32."""
    return struct.pack("!HhHH", 0, 0, sign, 0 if sign == 0xC000 else 32)


def pack(value: Decimal, scale: int) -> bytes:
    """The binary send form of a finite value with `scale` digits shown after the point."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    text, point = (text + "0" * exponent, 0) if exponent > 0 else (text, -exponent)
    whole, fraction = (text[:-point], text[-point:].rjust(point, "0")) if point else (text, "")
    whole = whole.rjust((len(whole) + 3) // 4 * 4, "0")
    fraction = fraction.ljust((len(fraction) + 3) // 4 * 4, "0")
    both = whole + fraction
    groups = [int(both[i : i + 4]) for i in range(0, len(both), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        return struct.pack("!HhHH", 0, 0, 0, scale)
    head = struct.pack("!HhHH", len(groups), weight, _NEGATIVE if sign else 0, scale)
    return head + struct.pack(f"!{len(groups)}H", *groups)


def decimal_of(binary: bytes) -> Decimal:
    """The value of a binary send form."""
    return Decimal(Numeric().render(binary, TextContext()).decode())
