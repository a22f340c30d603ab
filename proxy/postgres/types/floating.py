"""float4, float8: the shortest digits that read back the same, laid out as PostgreSQL does."""

import math
import re
import struct
from decimal import Decimal
from fractions import Fraction

from proxy import native
from proxy.postgres.snapshot import FLOAT4, FLOAT8, NUMERIC
from proxy.postgres.types.base import DEFAULT, OUT_OF_RANGE, DataError, TextContext, TypeCodec
from proxy.postgres.types.integer import SIZES

_NUMBER = re.compile(
    rb"\s*([+-]?(?:0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?[0-9]+)?"
    rb"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))\s*"
)
_HEX = re.compile(rb"([+-]?)0[xX]([0-9a-fA-F]*)\.?([0-9a-fA-F]*)(?:[pP]([+-]?[0-9]+))?")
_WORDS = re.compile(rb"\s*[+-]?(?:nan|inf|infinity)\s*", re.IGNORECASE)


class Float(TypeCodec):
    canonical_kind = native.CANON_CALL

    def __init__(self, oid: int, array_oid: int, size: int, name: str) -> None:
        self.oid, self.array_oid, self.typlen, self.size, self.name = (
            oid, array_oid, size, size, name,
        )  # fmt: skip
        self.form = "!f" if size == 4 else "!d"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        word = _WORDS.fullmatch(text)
        if word is not None:
            return self._pack(float(text), text, True)
        begun = _NUMBER.match(text)
        if begun is None:
            raise self.bad(text)
        out = self._number(begun[1])  # out of range is seen before what is wrong behind the number
        if begun.end() != len(text):
            raise self.bad(text)
        return out

    def _number(self, text: bytes) -> bytes:
        if b"x" in text or b"X" in text:
            exact: Fraction | Decimal = _hexadecimal(text)
            value = _nearest(text)
        else:
            mantissa, _, power = text.lower().partition(b"e")
            if len(power.lstrip(b"+-0")) > 6:  # beyond all that a float holds
                if mantissa.strip(b"+-0."):
                    raise self._range(text)
                text = mantissa
            exact, value = Decimal(text.decode()), float(text)
        if self.size == 4 and value and math.isfinite(value):
            value = _to_odd(value, exact)
        out = self._pack(value, text, False)
        if exact and not struct.unpack(self.form, out)[0]:
            raise self._range(text)
        return out

    def _pack(self, value: float, text: bytes, infinite: bool) -> bytes:
        try:
            out = struct.pack(self.form, value)
        except OverflowError:
            raise self._range(text) from None
        if math.isinf(value) and not infinite:
            raise self._range(text)
        return out

    def _range(self, text: bytes) -> DataError:
        if not text:
            return DataError(OUT_OF_RANGE, "value out of range: overflow")
        shown = f'"{text.decode()}" is out of range for type {self.name}'
        return DataError(OUT_OF_RANGE, shown)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (value,) = struct.unpack(self.form, binary)
        if math.isnan(value):
            return b"NaN"
        if math.isinf(value):
            return b"Infinity" if value > 0 else b"-Infinity"
        if ctx.extra_float_digits > 0:
            return _laid_out(self._shortest(value), 6 if self.size == 4 else 15)
        digits = max(1, (6 if self.size == 4 else 15) + ctx.extra_float_digits)
        return b"%.*g" % (digits, value)

    def _shortest(self, value: float) -> str:
        """The fewest digits that lie strictly between the neighbours' midpoints (Ryu, as the server
        uses it, does not take a midpoint itself)."""
        if self.size == 8 and not 2**53 <= abs(value) < 2**1023:
            return repr(value)
        (bits,) = struct.unpack(
            "!q" if self.size == 8 else "!i", struct.pack(self.form, abs(value))
        )
        whole = Fraction(abs(value))
        below, above = (self._of_bits(bits + step) for step in (-1, 1))
        low = (whole + below) / 2 if below is not None else whole / 2
        high = (whole + above) / 2 if above is not None else whole + (whole - low)
        for digits in range(1, 18):
            text = f"{value:.{digits - 1}e}"
            if low < abs(Fraction(text)) < high or Fraction(text) == whole:
                return text
        return repr(value)

    def _of_bits(self, bits: int) -> Fraction | None:
        size = "q" if self.size == 8 else "i"
        if bits < 0:
            return None
        (value,) = struct.unpack(self.form, struct.pack("!" + size, bits))
        return None if math.isinf(value) else Fraction(value)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid in (FLOAT4, FLOAT8) and from_oid != self.oid:
            if len(binary) != (4 if from_oid == FLOAT4 else 8):
                return self.check(b"", typmod)
            (value,) = struct.unpack("!f" if from_oid == FLOAT4 else "!d", binary)
            out = self._pack(value, b"", math.isinf(value))
            if value and not any(out[1:]) and not out[0] & 0x7F:
                raise DataError(OUT_OF_RANGE, "value out of range: underflow")
            return out
        if from_oid in SIZES:
            if len(binary) != SIZES[from_oid]:
                return self.check(b"", typmod)
            return self._number(b"%d" % int.from_bytes(binary, "big", signed=True))
        if from_oid == NUMERIC:
            from proxy.postgres.types.numeric import Numeric

            numeric = Numeric()
            return self.parse(numeric.render(numeric.check(binary, -1), ctx), ctx, typmod)
        return super().coerce(binary, from_oid, typmod, ctx)

    def canonical(self, binary: bytes) -> bytes:
        """8 bytes for both widths; -0 is 0, and there is one NaN."""
        (value,) = struct.unpack(self.form, binary)
        if math.isnan(value):
            return b"\x7f\xf8" + bytes(6)
        return struct.pack("!d", value + 0.0 if value else 0.0)


def _hexadecimal(text: bytes) -> Fraction:
    """The exact value of 0x1.8p3, as far as it can matter: exponents are cut where all is lost."""
    m = _HEX.fullmatch(text)
    assert m is not None
    whole, fraction = m[2], m[3] or b""
    power = max(-20_000, min(20_000, int((m[4] or b"0")[:8]))) - 4 * len(fraction)
    value = Fraction(int(whole + fraction, 16)) * Fraction(2) ** power
    return -value if m[1] == b"-" else value


def _nearest(text: bytes) -> float:
    try:
        return float.fromhex(text.decode())
    except OverflowError:
        return math.inf


def _to_odd(value: float, exact: Fraction | Decimal) -> float:
    """The neighbour with an odd last bit where `value` is not exact: rounding it once more, to a
    float4, then gives what strtof gives for the text itself."""
    near: Fraction | Decimal = Decimal(value) if isinstance(exact, Decimal) else Fraction(value)
    if exact == near or struct.pack("!d", value)[7] & 1:
        return value
    above = exact > near
    return math.nextafter(value, math.inf if above else -math.inf)


def _laid_out(text: str, limit: int) -> bytes:
    """`text` is Python's repr: PostgreSQL writes an exponent from 10**limit on and below 1e-4."""
    sign = "-" if text.startswith("-") else ""
    mantissa, _, power = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0)
    lead = len(whole + fraction) - len((whole + fraction).lstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return (sign + "0").encode()
    exponent = point - lead - 1
    if -5 < exponent < limit:
        if exponent < 0:
            out = "0." + "0" * (-exponent - 1) + digits
        elif len(digits) <= exponent + 1:
            out = digits.ljust(exponent + 1, "0")
        else:
            out = digits[: exponent + 1] + "." + digits[exponent + 1 :]
    else:
        rest = "." + digits[1:] if len(digits) > 1 else ""
        out = f"{digits[0]}{rest}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return (sign + out).encode()
