"""float4, float8: the shortest digits that read back the same, laid out as PostgreSQL does."""

import math
import re
import struct
from decimal import Decimal
from fractions import Fraction

from proxy import native
from proxy.postgres.snapshot import FLOAT4, FLOAT8
from proxy.postgres.types.base import DEFAULT, OUT_OF_RANGE, DataError, TextContext, TypeCodec
from proxy.postgres.types.integer import SIZES

_NUMBER = re.compile(rb"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_WORDS = re.compile(rb"\s*[+-]?(?:nan|inf|infinity)\s*", re.IGNORECASE)


class Float(TypeCodec):
    canonical_kind = native.CANON_CALL

    def __init__(self, oid: int, array_oid: int, size: int, name: str) -> None:
        self.oid, self.array_oid, self.typlen, self.size, self.name = (
            oid, array_oid, size, size, name,
        )  # fmt: skip
        self._format = "!f" if size == 4 else "!d"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        if not (_NUMBER.fullmatch(text) or _WORDS.fullmatch(text)):
            raise self.bad(text)
        value = float(text)
        word = _WORDS.fullmatch(text) is not None
        if self.size == 4 and value and not word and math.isfinite(value):
            value = _to_odd(value, text)
        out = self._pack(value, text, word)
        mantissa = re.split(rb"[eE]", text)[0]
        if (
            not word
            and struct.unpack(self._format, out)[0] == 0
            and mantissa.strip(b" \t\n\r\f\v+-0.")
        ):
            raise self._range(text)
        return out

    def _pack(self, value: float, text: bytes, infinite: bool) -> bytes:
        try:
            out = struct.pack(self._format, value)
        except OverflowError:
            raise self._range(text) from None
        if math.isinf(value) and not infinite:
            raise self._range(text)
        return out

    def _range(self, text: bytes) -> DataError:
        shown = f'"{text.decode()}" is out of range for type {self.name}'
        return DataError(OUT_OF_RANGE, shown)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (value,) = struct.unpack(self._format, binary)
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
            "!q" if self.size == 8 else "!i", struct.pack(self._format, abs(value))
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
        (value,) = struct.unpack(self._format, struct.pack("!" + size, bits))
        return None if math.isinf(value) else Fraction(value)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid in (FLOAT4, FLOAT8) and from_oid != self.oid:
            if len(binary) != (4 if from_oid == FLOAT4 else 8):
                return self.check(b"", typmod)
            (value,) = struct.unpack("!f" if from_oid == FLOAT4 else "!d", binary)
            return self._pack(value, repr(value).encode(), math.isinf(value))
        if from_oid in SIZES:
            if len(binary) != SIZES[from_oid]:
                return self.check(b"", typmod)
            number = float(int.from_bytes(binary, "big", signed=True))
            return self._pack(number, b"", False)
        return super().coerce(binary, from_oid, typmod, ctx)

    def canonical(self, binary: bytes) -> bytes:
        """8 bytes for both widths; -0 is 0, and there is one NaN."""
        (value,) = struct.unpack(self._format, binary)
        if math.isnan(value):
            return b"\x7f\xf8" + bytes(6)
        return struct.pack("!d", value + 0.0 if value else 0.0)


def _to_odd(value: float, text: bytes) -> float:
    """The neighbour with an odd last bit where `value` is not exact: rounding it once more, to a
    float4, then gives what strtof gives for the text itself."""
    exact, near = Decimal(text.strip().decode()), Decimal(value)
    if exact == near or struct.pack("!d", value)[7] & 1:
        return value
    return math.nextafter(value, math.inf if exact > near else -math.inf)


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
