"""date, timestamp, timestamptz: int32 days or int64 microseconds since 2000-01-01."""

import struct

from proxy.postgres.snapshot import DATE, TIMESTAMP, TIMESTAMPTZ
from proxy.postgres.types import zones
from proxy.postgres.types.base import (
    DATETIME_FORMAT,
    DATETIME_OVERFLOW,
    DEFAULT,
    DataError,
    TextContext,
    TypeCodec,
)
from proxy.postgres.types.moment_fields import Fault, Wrong
from proxy.postgres.types.moment_input import moment
from proxy.postgres.types.moment_output import shown_date, shown_moment
from proxy.postgres.types.moment_reading import Reading

_DAY = 86_400_000_000
_FIRST_DAY, _LAST_DAY = -2_451_545, 2_145_031_948
_FIRST, _END = -211_813_488_000_000_000, 9_223_371_331_200_000_000  # microseconds
_INT32, _INT64 = 2**31 - 1, 2**63 - 1


def read_error(wrong: Wrong, codec: TypeCodec, text: bytes) -> DataError:
    """The server's message for a text that cannot be read (DateTimeParseError)."""
    shown = text.decode("utf-8", "replace")
    if wrong.fault is Fault.RANGE:
        if codec.name == "interval":
            return DataError("22015", f'interval field value out of range: "{shown}"')
        return DataError(DATETIME_OVERFLOW, f'date/time field value out of range: "{shown}"')
    if wrong.fault is Fault.DISPLACEMENT:
        return DataError("22009", f'time zone displacement out of range: "{shown}"')
    if wrong.fault is Fault.ZONE:
        return DataError("22023", f'time zone "{wrong.zone}" not recognized')
    return codec.bad(text, DATETIME_FORMAT)


def ascii_text(text: bytes, codec: TypeCodec) -> str:
    """No date, time or address has a byte beyond ASCII in it."""
    try:
        return text.decode("ascii")
    except UnicodeDecodeError:
        raise codec.bad(text, DATETIME_FORMAT) from None


def rounded(micros: int, typmod: int) -> int:
    """To the typmod's number of fractional digits, half away from zero."""
    if not 0 <= typmod < 6:
        return micros
    unit: int = 10 ** (6 - typmod)
    size = (abs(micros) + unit // 2) // unit * unit
    return size if micros >= 0 else -size


class _Dated(TypeCodec):
    """What date and the timestamps share."""

    def _read(self, text: bytes, ctx: TextContext) -> Reading:
        try:
            return moment(ascii_text(text, self), ctx)
        except Wrong as wrong:
            raise read_error(wrong, self, text) from None


class Date(_Dated):
    oid, array_oid, typlen, name, size = DATE, 1182, 4, "date", 4
    _SPECIAL = {"infinity": _INT32, "-infinity": -_INT32 - 1, "epoch": -10957}

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        read = self._read(text, ctx)
        if read.special:
            return struct.pack("!i", self._SPECIAL[read.special])
        return self._packed(read.days, text)

    def _packed(self, days: int, text: bytes) -> bytes:
        if not _FIRST_DAY <= days <= _LAST_DAY:
            shown = f': "{text.decode("ascii")}"' if text else ""
            raise DataError(DATETIME_OVERFLOW, f"date out of range{shown}")
        return struct.pack("!i", days)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (days,) = struct.unpack("!i", binary)
        if days in (_INT32, -_INT32 - 1):
            return b"infinity" if days > 0 else b"-infinity"
        out, bc = shown_date(days, ctx)
        return (out + " BC" if bc else out).encode()

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        (days,) = struct.unpack("!i", binary)
        return binary if days in (_INT32, -_INT32 - 1) else self._packed(days, b"")

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid not in (TIMESTAMP, TIMESTAMPTZ):
            return super().coerce(binary, from_oid, typmod, ctx)
        local = TIMESTAMP_CODEC.coerce(binary, from_oid, -1, ctx)
        (micros,) = struct.unpack("!q", local)
        if micros in (_INT64, -_INT64 - 1):
            return struct.pack("!i", _INT32 if micros > 0 else -_INT32 - 1)
        return self._packed(micros // _DAY, b"")


class Timestamp(_Dated):
    _SPECIAL = {"infinity": _INT64, "-infinity": -_INT64 - 1, "epoch": -946_684_800_000_000}

    def __init__(self, oid: int, array_oid: int, name: str, zoned: bool) -> None:
        self.oid, self.array_oid, self.typlen, self.size, self.name = oid, array_oid, 8, 8, name
        self._zoned = zoned

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        read = self._read(text, ctx)
        if read.special:
            return struct.pack("!q", self._SPECIAL[read.special])
        micros = read.days * _DAY + read.clock
        if self._zoned:
            micros -= read.offset() * 1_000_000
        if not _FIRST_DAY <= read.days <= _LAST_DAY:
            micros = _END
        return self._packed(micros, typmod, text)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == self.oid or from_oid not in (DATE, TIMESTAMP, TIMESTAMPTZ):
            return super().coerce(binary, from_oid, typmod, ctx)
        if from_oid == DATE:
            (days,) = struct.unpack("!i", DATE_CODEC.check(binary, -1))
            if days in (_INT32, -_INT32 - 1):
                return struct.pack("!q", _INT64 if days > 0 else -_INT64 - 1)
            micros = days * _DAY
        else:
            super().check(binary, -1)
            (micros,) = struct.unpack("!q", binary)
            if micros in (_INT64, -_INT64 - 1):
                return binary
        if self._zoned:
            micros -= zones.offset_of_local(zones.session_zone(ctx.time_zone), micros) * 1_000_000
        elif from_oid == TIMESTAMPTZ:
            micros += zones.offset_at(zones.session_zone(ctx.time_zone), micros)[0] * 1_000_000
        return self._packed(micros, typmod, b"")

    def _packed(self, micros: int, typmod: int, text: bytes) -> bytes:
        if not _FIRST <= micros < _END:
            shown = f': "{text.decode("ascii")}"' if text else ""
            raise DataError(DATETIME_OVERFLOW, f"timestamp out of range{shown}")
        return struct.pack("!q", rounded(micros, typmod))

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        (micros,) = struct.unpack("!q", binary)
        if micros in (_INT64, -_INT64 - 1):
            return binary
        return self._packed(micros, typmod, b"")

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (micros,) = struct.unpack("!q", binary)
        if micros in (_INT64, -_INT64 - 1):
            return b"infinity" if micros > 0 else b"-infinity"
        zoned = None
        if self._zoned:
            zoned = zones.offset_at(zones.session_zone(ctx.time_zone), micros)
            micros += zoned[0] * 1_000_000
        return shown_moment(micros, zoned, ctx).encode()


DATE_CODEC = Date()
TIMESTAMP_CODEC = Timestamp(TIMESTAMP, 1115, "timestamp", False)
TIMESTAMPTZ_CODEC = Timestamp(TIMESTAMPTZ, 1185, "timestamp with time zone", True)
