"""time and timetz: microseconds since midnight, and for timetz the seconds west of UTC."""

import struct

from proxy.postgres.snapshot import TIMESTAMP, TIMESTAMPTZ
from proxy.postgres.types import zones
from proxy.postgres.types.base import (
    DATETIME_OVERFLOW,
    DEFAULT,
    UNSUPPORTED,
    DataError,
    TextContext,
    TypeCodec,
)
from proxy.postgres.types.datetime import (
    TIMESTAMP_CODEC,
    TIMESTAMPTZ_CODEC,
    ascii_text,
    read_error,
    rounded,
)
from proxy.postgres.types.moment_fields import Wrong
from proxy.postgres.types.moment_input import clock
from proxy.postgres.types.moment_output import shown_clock, shown_offset
from proxy.postgres.types.moment_reading import DATE, Reading

TIME, TIMETZ, INTERVAL = 1083, 1266, 1186
_DAY = 86_400_000_000
_MOST_WEST = 16 * 3600  # TZDISP_LIMIT


class _Clock(TypeCodec):
    def _read(self, text: bytes, ctx: TextContext) -> Reading:
        try:
            return clock(ascii_text(text, self), ctx)
        except Wrong as wrong:
            raise read_error(wrong, self, text) from None


class Time(_Clock):
    oid, array_oid, typlen, name, size = TIME, 1183, 8, "time", 8

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        return struct.pack("!q", rounded(self._read(text, ctx).clock, typmod))

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return shown_clock(struct.unpack("!q", binary)[0]).encode()

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        (micros,) = struct.unpack("!q", binary)
        if not 0 <= micros <= _DAY:
            raise DataError(DATETIME_OVERFLOW, "time out of range")
        return struct.pack("!q", rounded(micros, typmod))

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == TIMETZ:
            return self.check(TIMETZ_CODEC.check(binary, -1)[:8], typmod)
        if from_oid in (TIMESTAMP, TIMESTAMPTZ):
            (micros,) = struct.unpack("!q", TIMESTAMP_CODEC.coerce(binary, from_oid, -1, ctx))
            if abs(micros) >= 2**63 - 1:
                raise DataError(UNSUPPORTED, "an infinite timestamp has no time of day")
            return struct.pack("!q", rounded(micros % _DAY, typmod))
        if from_oid == INTERVAL:
            if len(binary) != 16:
                return self.check(b"", typmod)
            micros, days, _ = struct.unpack("!qii", binary)
            if abs(days) >= 2**31 - 1:
                raise DataError(DATETIME_OVERFLOW, "cannot convert infinite interval to time")
            return struct.pack("!q", rounded(micros % _DAY, typmod))
        return super().coerce(binary, from_oid, typmod, ctx)


class TimeTz(_Clock):
    oid, array_oid, typlen, name, size = TIMETZ, 1270, 12, "time with time zone", 12

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        read = self._read(text, ctx)
        if read.seen & DATE == DATE or read.named is not None or read.east is not None:
            east = read.offset()
        else:
            east = self._session_offset(ctx)
        return struct.pack("!qi", rounded(read.clock, typmod), -east)

    def _session_offset(self, ctx: TextContext) -> int:
        east = zones.fixed_offset(zones.session_zone(ctx.time_zone))
        if east is None:
            raise DataError(
                UNSUPPORTED,
                f"a time without zone depends on today's offset of {ctx.time_zone}: write the offset",
            )
        return east

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        micros, west = struct.unpack("!qi", binary)
        return (shown_clock(micros) + shown_offset(-west)).encode()

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        micros, west = struct.unpack("!qi", binary)
        if not 0 <= micros <= _DAY:
            raise DataError(DATETIME_OVERFLOW, "time out of range")
        if not -_MOST_WEST < west < _MOST_WEST:
            raise DataError("22009", "time zone displacement out of range")
        return struct.pack("!qi", rounded(micros, typmod), west)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == TIME:
            clock_only = TIME_CODEC.check(binary, typmod)
            return clock_only + struct.pack("!i", -self._session_offset(ctx))
        if from_oid == TIMESTAMPTZ:
            (micros,) = struct.unpack("!q", TIMESTAMPTZ_CODEC.check(binary, -1))
            if abs(micros) >= 2**63 - 1:
                raise DataError(UNSUPPORTED, "an infinite timestamp has no time of day")
            east, _ = zones.offset_at(zones.session_zone(ctx.time_zone), micros)
            clock_only = struct.pack("!q", rounded((micros + east * 1_000_000) % _DAY, typmod))
            return clock_only + struct.pack("!i", -east)
        return super().coerce(binary, from_oid, typmod, ctx)


TIME_CODEC = Time()
TIMETZ_CODEC = TimeTz()
