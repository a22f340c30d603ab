"""int2, int4, int8: one canonical form (8 bytes signed), so that cross-width equality holds."""

import math
import re
import struct

from proxy import native
from proxy.postgres.snapshot import FLOAT4, FLOAT8, INT2, INT4, INT8, NUMERIC
from proxy.postgres.types.base import (
    DEFAULT,
    OUT_OF_RANGE,
    UNSUPPORTED,
    DataError,
    TextContext,
    TypeCodec,
)

_DECIMAL = re.compile(rb"[ \t\n\r\f\v]*([+-]?[0-9]+(?:_[0-9]+)*)[ \t\n\r\f\v]*")
OTHER_BASE = re.compile(
    rb"\s*([+-]?)0(?:[xX]((?:_?[0-9a-fA-F])+)|[oO]((?:_?[0-7])+)|[bB]((?:_?[01])+))\s*"
)
_BEGUN = re.compile(rb"[ \t\n\r\f\v]*[+-]?([0-9]+(?:_[0-9]+)*)")
_OTHER_BEGUN = re.compile(
    rb"\s*[+-]?0(?:[xX]((?:_?[0-9a-fA-F])+)|[oO]((?:_?[0-7])+)|[bB]((?:_?[01])+))"
)
SIZES = {INT2: 2, INT4: 4, INT8: 8}


class Integer(TypeCodec):
    canonical_kind = native.CANON_INT

    def __init__(self, oid: int, array_oid: int, size: int, name: str) -> None:
        self.oid, self.array_oid, self.typlen, self.size, self.name = (
            oid, array_oid, size, size, name,
        )  # fmt: skip

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        match = _DECIMAL.fullmatch(text)
        if match is not None:
            if len(match[1]) > 4000:  # int() refuses long texts; leading zeros count there
                sign, digits = match[1][:1].strip(b"0123456789"), match[1].lstrip(b"+-0_") or b"0"
                return self._pack(int(sign + digits) if len(digits) < 30 else 1 << 99, text)
            return self._pack(int(match[1]), text)
        other = OTHER_BASE.fullmatch(text)
        if other is None:
            if self._overflows_first(text):
                raise self._range(text)
            raise self.bad(text)
        base = 16 if other[2] else 8 if other[3] else 2
        value = int((other[2] or other[3] or other[4]).replace(b"_", b""), base)
        return self._pack(-value if other[1] == b"-" else value, text)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return b"%d" % int.from_bytes(binary, "big", signed=True)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        size = SIZES.get(from_oid)
        if size is not None and from_oid != self.oid:
            if len(binary) != size:
                return self.check(b"", typmod)
            return self._pack(int.from_bytes(binary, "big", signed=True), b"")
        if from_oid == NUMERIC:
            return self._from_numeric(binary)
        if from_oid in (FLOAT4, FLOAT8):
            return self._from_float(binary, from_oid)
        return super().coerce(binary, from_oid, typmod, ctx)

    def _from_numeric(self, binary: bytes) -> bytes:
        from decimal import ROUND_HALF_UP

        from proxy.postgres.types.numeric import Numeric, decimal_of

        value = decimal_of(Numeric().check(binary, -1))
        if not value.is_finite():
            what = "NaN" if value.is_nan() else "infinity"
            raise DataError(UNSUPPORTED, f"cannot convert {what} to {self.name}")
        if value.adjusted() > 30:
            raise DataError(OUT_OF_RANGE, f"{self.name} out of range")
        return self._pack(int(value.to_integral_value(ROUND_HALF_UP)), b"")

    def _from_float(self, binary: bytes, oid: int) -> bytes:
        if len(binary) != (4 if oid == FLOAT4 else 8):
            return self.check(b"", -1)
        (value,) = struct.unpack("!f" if oid == FLOAT4 else "!d", binary)
        if not math.isfinite(value):
            raise DataError(OUT_OF_RANGE, f"{self.name} out of range")
        return self._pack(round(value), b"")

    def _pack(self, value: int, text: bytes) -> bytes:
        try:
            return value.to_bytes(self.size, "big", signed=True)
        except OverflowError:
            raise self._range(text) from None

    def _range(self, text: bytes) -> DataError:
        shown = f'value "{text.decode("utf-8", "replace")}" is out of range for type {self.name}'
        return DataError(OUT_OF_RANGE, shown if text else f"{self.name} out of range")

    def _overflows_first(self, text: bytes) -> bool:
        """The server reads digits one by one: too many of them are seen before what is wrong behind."""
        limit: int = 2 ** (self.size * 8 - 1)
        other = _OTHER_BEGUN.match(text)
        if other is not None:
            base = 16 if other[1] else 8 if other[2] else 2
            digits = other[1] or other[2] or other[3]
        else:
            begun = _BEGUN.match(text)
            if begun is None:
                return False
            base, digits = 10, begun[1]
        before = digits.replace(b"_", b"")[:-1].lstrip(b"0")
        return len(before) > 64 or int(before or b"0", base) > limit // base
