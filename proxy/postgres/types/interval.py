"""interval: microseconds, days and months; four styles of output; equality by total length.

Canonical form for the equality tag: the total in microseconds with months of 30 days and days of 24
hours, as the server compares, as 16 bytes signed.
"""

import struct

from proxy import native
from proxy.postgres.types.base import (
    DATETIME_OVERFLOW,
    DEFAULT,
    DataError,
    TextContext,
    TypeCodec,
)
from proxy.postgres.types.clock import INTERVAL, TIME, TIME_CODEC
from proxy.postgres.types.datetime import ascii_text, read_error
from proxy.postgres.types.interval_input import span
from proxy.postgres.types.moment_fields import INT32, INT64, Wrong

_DAY = 86_400_000_000
_INFINITY = struct.pack("!qii", INT64, INT32, INT32)
_MINUS_INFINITY = struct.pack("!qii", -INT64 - 1, -INT32 - 1, -INT32 - 1)


class Interval(TypeCodec):
    oid, array_oid, typlen, name, size = INTERVAL, 1187, 16, "interval", 16
    canonical_kind = native.CANON_CALL

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        try:
            read = span(ascii_text(text, self), ctx.interval_style == "sql_standard")
        except Wrong as wrong:
            raise read_error(wrong, self, text) from None
        if read.infinite:
            return _INFINITY if read.infinite > 0 else _MINUS_INFINITY
        months = read.years * 12 + read.months
        if not -INT32 - 1 <= months <= INT32:
            raise DataError(DATETIME_OVERFLOW, "interval out of range")
        return self._packed(read.micros, read.days, months, typmod)

    def _packed(self, micros: int, days: int, months: int, typmod: int) -> bytes:
        precision = typmod & 0xFFFF if typmod >= 0 else 6
        if precision < 6:
            unit: int = 10 ** (6 - precision)
            size = (abs(micros) + unit // 2) // unit * unit
            micros = size if micros >= 0 else -size
            if not -INT64 - 1 <= micros <= INT64:
                raise DataError(DATETIME_OVERFLOW, "interval out of range")
        out = struct.pack("!qii", micros, days, months)
        if out in (_INFINITY, _MINUS_INFINITY):
            raise DataError(DATETIME_OVERFLOW, "interval out of range")
        return out

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        if binary in (_INFINITY, _MINUS_INFINITY):
            return binary
        micros, days, months = struct.unpack("!qii", binary)
        return self._packed(micros, days, months, typmod)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == TIME:
            (micros,) = struct.unpack("!q", TIME_CODEC.check(binary, -1))
            return self._packed(micros, 0, 0, typmod)
        return super().coerce(binary, from_oid, typmod, ctx)

    def canonical(self, binary: bytes) -> bytes:
        micros, days, months = struct.unpack("!qii", binary)
        return int(micros + (months * 30 + days) * _DAY).to_bytes(16, "big", signed=True)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        if binary == _INFINITY:
            return b"infinity"
        if binary == _MINUS_INFINITY:
            return b"-infinity"
        micros, days, months = struct.unpack("!qii", binary)
        parts = _Parts(micros, days, months)
        shown = _STYLES.get(ctx.interval_style, _postgres)
        return shown(parts).encode()


class _Parts:
    """Years to microseconds, each towards zero, so that all of one field have its sign."""

    def __init__(self, micros: int, days: int, months: int) -> None:
        sign = 1 if months >= 0 else -1
        self.year, self.month = (sign * n for n in divmod(abs(months), 12))
        self.day = days
        sign = 1 if micros >= 0 else -1
        seconds, fraction = divmod(abs(micros), 1_000_000)
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        self.hour, self.minute, self.second, self.fraction = (
            sign * n for n in (hour, minute, second, fraction)
        )
        self.clock_sign = 0 if not micros else sign

    def seconds(self, wide: bool) -> str:
        out = f"{abs(self.second):02d}" if wide else str(abs(self.second))
        return f"{out}.{abs(self.fraction):06d}".rstrip("0") if self.fraction else out

    def clock(self, hour_width: int) -> str:
        hour = f"{abs(self.hour):0{hour_width}d}"
        return f"{hour}:{abs(self.minute):02d}:{self.seconds(True)}"


def _postgres(p: _Parts) -> str:
    out: list[str] = []
    negative = False  # the sign of the field before, which the next one has to contradict
    for value, unit in ((p.year, "year"), (p.month, "mon"), (p.day, "day")):
        if value:
            plus = "+" if negative and value > 0 else ""
            out.append(f"{plus}{value} {unit}{'' if value == 1 else 's'}")
            negative = value < 0
    if not out or p.clock_sign:
        sign = "-" if p.clock_sign < 0 else "+" if negative else ""
        out.append(sign + p.clock(2))
    return " ".join(out)


def _verbose(p: _Parts) -> str:
    out = ["@"]
    ago: bool | None = None
    for value, unit in (
        (p.year, "year"), (p.month, "mon"), (p.day, "day"), (p.hour, "hour"), (p.minute, "min"),
    ):  # fmt: skip
        if value:
            if ago is None:
                ago = value < 0
                value = abs(value)
            elif ago:
                value = -value
            out.append(f"{value} {unit}{'' if value == 1 else 's'}")
    if p.second or p.fraction:
        minus = p.second < 0 or p.second == 0 and p.fraction < 0
        if ago is None:
            ago, sign = minus, ""
        else:
            sign = "-" if minus != ago else ""
        plural = "" if abs(p.second) == 1 and not p.fraction else "s"
        out.append(f"{sign}{p.seconds(False)} sec{plural}")
    if ago is None:
        out.append("0")
    return " ".join(out) + (" ago" if ago else "")


def _sql_standard(p: _Parts) -> str:
    values = (p.year, p.month, p.day, p.hour, p.minute, p.second, p.fraction)
    negative, positive = any(v < 0 for v in values), any(v > 0 for v in values)
    calendar, clock = bool(p.year or p.month), bool(p.day or p.clock_sign)
    if not negative and not positive:
        return "0"
    if negative and positive or calendar and clock:
        signs = ["-" if v < 0 else "+" for v in (min(p.year, p.month), p.day, p.clock_sign)]
        return (
            f"{signs[0]}{abs(p.year)}-{abs(p.month)} {signs[1]}{abs(p.day)} {signs[2]}{p.clock(1)}"
        )
    sign = "-" if negative else ""
    if calendar:
        return f"{sign}{abs(p.year)}-{abs(p.month)}"
    if p.day:
        return f"{sign}{abs(p.day)} {p.clock(1)}"
    return sign + p.clock(1)


def _iso_8601(p: _Parts) -> str:
    out = "P" + "".join(f"{v}{u}" for v, u in ((p.year, "Y"), (p.month, "M"), (p.day, "D")) if v)
    if p.clock_sign:
        out += "T" + "".join(f"{v}{u}" for v, u in ((p.hour, "H"), (p.minute, "M")) if v)
        if p.second or p.fraction:
            sign = "-" if p.second < 0 or p.fraction < 0 else ""
            out += f"{sign}{p.seconds(False)}S"
    return "PT0S" if out == "P" else out


_STYLES = {
    "postgres": _postgres,
    "postgres_verbose": _verbose,
    "sql_standard": _sql_standard,
    "iso_8601": _iso_8601,
}
