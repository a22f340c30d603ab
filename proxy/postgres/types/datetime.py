"""date, time, timestamp, timestamptz: int32 days or int64 microseconds since 2000-01-01.

Text input: ISO 8601 and the numeric and month-name forms in the order of DateStyle. What is not one of
them for sure is refused (22007), and so are words whose value depends on the moment (`now`, `today`):
they would be evaluated here instead of on the server. Output: every DateStyle.
"""

import re
import struct

from proxy.postgres.snapshot import DATE, TIMESTAMP, TIMESTAMPTZ
from proxy.postgres.types import calendar
from proxy.postgres.types.base import (
    DATETIME_FORMAT,
    DATETIME_OVERFLOW,
    DEFAULT,
    UNSUPPORTED,
    DataError,
    TextContext,
    TypeCodec,
)

TIME = 1083
_DAY = 86_400_000_000
_MONTH = {m.lower(): i + 1 for i, m in enumerate(calendar.MONTHS)} | {
    m: i + 1
    for i, m in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september",
         "october", "november", "december")
    )
} | {"sept": 9}  # fmt: skip
_VOLATILE = {"now", "today", "tomorrow", "yesterday", "allballs"}
_CLOCK = re.compile(r"(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?\s*(am|pm)?", re.IGNORECASE)
_ZONE = re.compile(r"(z|utc|gmt|[+-]\d{1,2}(?::?\d{2}(?::?\d{2})?)?|[A-Za-z]+(?:/[A-Za-z_+-]+)+)",
                   re.IGNORECASE)  # fmt: skip
_ISO = re.compile(r"(\d{4,7})-(\d{1,2})-(\d{1,2})")
_SLASHED = re.compile(r"(\d{4,7})/(\d{1,2})/(\d{1,2})")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_NUMERIC = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4,7})")
_NAMED_FIRST = re.compile(r"([A-Za-z]+)\.?\s+(\d{1,2})(?:\s+|,\s*)(\d{4,7})")
_NAMED_SECOND = re.compile(r"(\d{1,2})[\s-]([A-Za-z]+)\.?,?[\s-](\d{4,7})")
_YEAR_NAMED = re.compile(r"(\d{4,7})[\s-]([A-Za-z]+)[\s-](\d{1,2})")


def _order(ctx: TextContext) -> str:
    return next((o for o in ("DMY", "YMD") if o in ctx.date_style), "MDY")


def _style(ctx: TextContext) -> str:
    return ctx.date_style.split(",")[0].strip()


def _date(text: str, ctx: TextContext, bad: DataError, bc: bool) -> int:
    """Day number of the date part. Raises `bad`, or an overflow."""
    if m := _ISO.fullmatch(text) or _SLASHED.fullmatch(text) or _COMPACT.fullmatch(text):
        year, month, day = (int(g) for g in m.groups())
    elif m := _NUMERIC.fullmatch(text):
        one, two, year = int(m[1]), int(m[3]), int(m[4])
        if _order(ctx) == "YMD":
            raise _overflow(bad)
        month, day = (two, one) if _order(ctx) == "DMY" else (one, two)
    elif (m := _NAMED_FIRST.fullmatch(text)) and m[1].lower() in _MONTH:
        month, day, year = _MONTH[m[1].lower()], int(m[2]), int(m[3])
    elif (m := _NAMED_SECOND.fullmatch(text)) and m[2].lower() in _MONTH:
        day, month, year = int(m[1]), _MONTH[m[2].lower()], int(m[3])
    elif (m := _YEAR_NAMED.fullmatch(text)) and m[2].lower() in _MONTH:
        year, month, day = int(m[1]), _MONTH[m[2].lower()], int(m[3])
    else:
        raise bad
    if year == 0:
        raise _overflow(bad)
    if bc:
        year = 1 - year
    if not 1 <= month <= 12 or not 1 <= day <= calendar.days_in_month(year, month):
        raise _overflow(bad)
    return calendar.days_of(year, month, day)


def _overflow(bad: DataError) -> DataError:
    quoted = bad.message.partition(": ")[2]
    return DataError(DATETIME_OVERFLOW, f"date/time field value out of range: {quoted}")


def _clock(text: str, bad: DataError) -> int:
    """Microseconds of a time of day."""
    m = _CLOCK.fullmatch(text)
    if m is None:
        raise bad
    hour, minute, second = int(m[1]), int(m[2]), int(m[3] or 0)
    half = (m[5] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            raise _overflow(bad)
        hour = hour % 12 + (12 if half == "pm" else 0)
    fraction = (m[4] or "").ljust(7, "0")
    micros = int(fraction[:6]) + (fraction[6:].strip("0") != "" and _rounds_up(fraction))
    total = ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros
    if minute > 59 or second > 60 or total > _DAY:
        raise _overflow(bad)
    return total


def _rounds_up(fraction: str) -> bool:
    rest = fraction[6:]
    return rest > "5" or rest == "5" and int(fraction[5]) % 2 == 1


def _pieces(text: str) -> tuple[str, str, str, bool]:
    """(date, clock, zone, whether BC) of a timestamp's text."""
    bc = False
    stripped = text.strip()
    if stripped[-3:].lower() == " bc":
        bc, stripped = True, stripped[:-3].rstrip()
    elif stripped[-3:].lower() == " ad":
        stripped = stripped[:-3].rstrip()
    m = re.search(r"(?<![\d:])\d{1,2}:\d", stripped)
    if m is None:
        return stripped, "", "", bc
    date = stripped[: m.start()].rstrip()
    if date[-1:] in "Tt" and date[-2:-1].isdigit():
        date = date[:-1]
    rest = stripped[m.start() :]
    clock = _CLOCK.match(rest)
    if clock is None:
        return stripped, "", "?", bc
    return date, clock[0].strip(), rest[clock.end() :].strip(), bc


class _Displacement(Exception):
    """An offset beyond 15:59:59."""


def _offset(text: str) -> int | None:
    """Seconds east of a numeric or UTC zone; None for a named one."""
    if text.lower() in ("z", "utc", "gmt"):
        return 0
    digits = text[1:].replace(":", "")
    if text[0] not in "+-" or not digits.isdigit():
        return None
    digits = (
        digits.rjust(2, "0")
        if len(digits) <= 2
        else digits.rjust(len(digits) + len(digits) % 2, "0")
    )
    parts = [int(digits[i : i + 2]) for i in range(0, len(digits), 2)]
    if parts[0] > 15 or max(parts[1:], default=0) > 59:
        raise _Displacement
    seconds = sum(p * f for p, f in zip(parts, (3600, 60, 1), strict=False))
    return -seconds if text[0] == "-" else seconds


class _Moment(TypeCodec):
    """What date and the timestamps share."""

    _infinities: dict[str, bytes]

    def _special(self, text: str) -> bytes | None:
        word = text.strip().lower()
        if word in _VOLATILE:
            raise DataError(UNSUPPORTED, f'"{word}" depends on the moment: send the value itself')
        return self._infinities.get(word)

    def _text(self, text: bytes) -> str:
        try:
            return text.decode("ascii")
        except UnicodeDecodeError:
            raise self.bad(text, DATETIME_FORMAT) from None


def _shown_date(days: int, ctx: TextContext) -> tuple[str, bool]:
    year, month, day = calendar.civil_of(days)
    bc = year <= 0
    shown = 1 - year if bc else year
    style, order = _style(ctx), _order(ctx)
    if style == "ISO":
        return f"{shown:04d}-{month:02d}-{day:02d}", bc
    if style == "German":
        return f"{day:02d}.{month:02d}.{shown:04d}", bc
    mark = "/" if style == "SQL" else "-"
    first, second = (day, month) if order == "DMY" else (month, day)
    return f"{first:02d}{mark}{second:02d}{mark}{shown:04d}", bc


def _shown_clock(micros: int) -> str:
    seconds, rest = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    out = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{out}.{rest:06d}".rstrip("0") if rest else out


class Date(_Moment):
    oid, array_oid, typlen, name, size = DATE, 1182, 4, "date", 4
    _infinities = {
        "infinity": b"\x7f\xff\xff\xff", "-infinity": b"\x80\0\0\0", "epoch": struct.pack("!i", -10957)
    }  # fmt: skip

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        bad = self.bad(text, DATETIME_FORMAT)
        value = self._text(text)
        special = self._special(value)
        if special is not None:
            return special
        date, _, _, bc = _pieces(value)  # a time behind the date is dropped, as the server does
        days = _date(date.strip(), ctx, bad, bc)
        if not -2451545 <= days < 2145031949:
            quoted = text.decode()
            raise DataError(DATETIME_OVERFLOW, f'date out of range: "{quoted}"')
        return struct.pack("!i", days)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (days,) = struct.unpack("!i", binary)
        if days in (2**31 - 1, -(2**31)):
            return b"infinity" if days > 0 else b"-infinity"
        out, bc = _shown_date(days, ctx)
        return (out + " BC" if bc else out).encode()


class Time(_Moment):
    oid, array_oid, typlen, name, size = TIME, 1183, 8, "time", 8
    _infinities: dict[str, bytes] = {}

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        value = self._text(text)
        self._special(value)
        micros = _clock(value.strip(), self.bad(text, DATETIME_FORMAT))
        return struct.pack("!q", _rounded(micros, typmod))

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return _shown_clock(struct.unpack("!q", binary)[0]).encode()

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        (micros,) = struct.unpack("!q", binary)
        if not 0 <= micros <= _DAY:
            raise DataError(DATETIME_OVERFLOW, "time out of range")
        return struct.pack("!q", _rounded(micros, typmod))


def _rounded(micros: int, typmod: int) -> int:
    """To the typmod's number of fractional digits, half away from zero."""
    if not 0 <= typmod < 6:
        return micros
    unit: int = 10 ** (6 - typmod)
    size = (abs(micros) + unit // 2) // unit * unit
    return size if micros >= 0 else -size


class Timestamp(_Moment):
    _infinities = {
        "infinity": struct.pack("!q", 2**63 - 1), "-infinity": struct.pack("!q", -(2**63)),
        "epoch": struct.pack("!q", -946_684_800_000_000),
    }  # fmt: skip

    def __init__(self, oid: int, array_oid: int, name: str, zoned: bool) -> None:
        self.oid, self.array_oid, self.typlen, self.size, self.name = oid, array_oid, 8, 8, name
        self._zoned = zoned

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        bad = self.bad(text, DATETIME_FORMAT)
        value = self._text(text)
        special = self._special(value)
        if special is not None:
            return special
        date, clock, zone, bc = _pieces(value)
        date = re.sub(r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+", "", date.strip(), flags=re.I)
        if zone and not _ZONE.fullmatch(zone):
            raise bad
        micros = _date(date, ctx, bad, bc) * _DAY + (_clock(clock, bad) if clock else 0)
        if self._zoned:
            micros -= self._east(zone, micros, ctx, bad) * 1_000_000
        elif zone:
            self._east(zone, micros, ctx, bad)  # read, checked, and of no effect
        return self._packed(micros, typmod, text)

    def _east(self, zone: str, local: int, ctx: TextContext, bad: DataError) -> int:
        try:
            seconds = _offset(zone) if zone else None
        except _Displacement:
            quoted = bad.message.partition(": ")[2]
            message = f"time zone displacement out of range: {quoted}"
            raise DataError("22009", message) from None
        if seconds is not None:
            return seconds
        found = calendar.zone(zone or ctx.time_zone)
        if found is None:
            if zone:
                raise DataError("22023", f'time zone "{zone.lower()}" not recognized')
            raise DataError(UNSUPPORTED, f"TimeZone {ctx.time_zone} is not known here: set UTC")
        return calendar.offset_of_local(found, local)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid == self.oid or from_oid not in (DATE, TIMESTAMP, TIMESTAMPTZ):
            return super().coerce(binary, from_oid, typmod, ctx)
        if from_oid == DATE:
            (days,) = struct.unpack("!i", DATE_CODEC.check(binary, -1))
            if days in (2**31 - 1, -(2**31)):
                return self._infinities["infinity" if days > 0 else "-infinity"]
            micros = days * _DAY
        else:
            super().check(binary, -1)
            if binary in self._infinities.values():
                return binary
            (micros,) = struct.unpack("!q", binary)
        zone = calendar.zone(ctx.time_zone)
        if zone is None and (self._zoned or from_oid == TIMESTAMPTZ):
            raise DataError(UNSUPPORTED, f"TimeZone {ctx.time_zone} is not known here: set UTC")
        if self._zoned and zone is not None:
            micros -= calendar.offset_of_local(zone, micros) * 1_000_000
        elif from_oid == TIMESTAMPTZ and zone is not None:
            micros += calendar.offset_at(zone, micros)[0] * 1_000_000
        return self._packed(micros, typmod, b"")

    def _packed(self, micros: int, typmod: int, text: bytes) -> bytes:
        micros = _rounded(micros, typmod)
        if not -211_813_488_000_000_000 <= micros < 9_223_371_331_200_000_000:
            shown = text.decode("ascii", "replace")
            raise DataError(DATETIME_OVERFLOW, f'timestamp out of range: "{shown}"')
        return struct.pack("!q", micros)

    def check(self, binary: bytes, typmod: int) -> bytes:
        super().check(binary, typmod)
        if binary in self._infinities.values():
            return binary
        return self._packed(struct.unpack("!q", binary)[0], typmod, b"")

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        (micros,) = struct.unpack("!q", binary)
        if micros in (2**63 - 1, -(2**63)):
            return b"infinity" if micros > 0 else b"-infinity"
        east, label = 0, ""
        if self._zoned:
            found = calendar.zone(ctx.time_zone)
            if found is None:
                raise DataError(UNSUPPORTED, f"TimeZone {ctx.time_zone} is not known: set UTC")
            east, label = calendar.offset_at(found, micros)
            micros += east * 1_000_000
        days, rest = divmod(micros, _DAY)
        return self._laid_out(days, _shown_clock(rest), east, label, ctx).encode()

    def _laid_out(self, days: int, clock: str, east: int, label: str, ctx: TextContext) -> str:
        style = _style(ctx)
        date, bc = _shown_date(days, ctx)
        if style == "Postgres":
            year, month, day = calendar.civil_of(days)
            name = calendar.MONTHS[month - 1]
            pair = f"{day:02d} {name}" if _order(ctx) == "DMY" else f"{name} {day:02d}"
            shown = 1 - year if bc else year
            out = f"{calendar.DAYS[calendar.weekday(days)]} {pair} {clock} {shown:04d}"
        else:
            out = f"{date} {clock}"
        if self._zoned:
            named = style != "ISO" and label
            out += f" {label}" if named else _shown_offset(east, style)
        return out + " BC" if bc else out


def _shown_offset(east: int, style: str) -> str:
    hours, rest = divmod(abs(east), 3600)
    minutes, seconds = divmod(rest, 60)
    out = f"{'-' if east < 0 else '+'}{hours:02d}"
    if minutes or seconds:
        out += f":{minutes:02d}"
    if seconds:
        out += f":{seconds:02d}"
    return out if style == "ISO" else f" {out}"


DATE_CODEC = Date()
TIMESTAMP_CODEC = Timestamp(TIMESTAMP, 1115, "timestamp", False)
TIMESTAMPTZ_CODEC = Timestamp(TIMESTAMPTZ, 1185, "timestamp with time zone", True)
