"""What the fields of a date or time mean, one by one, and what they add up to (DecodeDate and others).

Words whose value depends on the moment (`now`, `today`, ...) are refused: they would be evaluated here
instead of on the server. PostgreSQL 17 is the reference, checked against a real one.
"""

from dataclasses import dataclass

from proxy.postgres.types import calendar, zones
from proxy.postgres.types.base import UNSUPPORTED, DataError, TextContext
from proxy.postgres.types.moment_fields import Fault, Wrong, fraction, micros, number

# What a text has told so far.
YEAR, MONTH, DAY, ZONE, CLOCK, DOY, AMPM, ERA, WEEKDAY, DST, DYNAMIC, DAYLIGHT = (
    1 << n for n in range(12)
)
DATE = YEAR | MONTH | DAY
_DAY_MICROS = 86_400_000_000

_MONTHS = {m.lower(): i + 1 for i, m in enumerate(calendar.MONTHS)} | {
    m: i + 1 for i, m in enumerate(
        ("january", "february", "march", "april", "may", "june", "july", "august", "september",
         "october", "november", "december"))
} | {"sept": 9}  # fmt: skip
_WEEKDAY_WORDS = (
    "sun sunday mon monday tue tues tuesday wed weds wednesday thu thur thurs thursday fri friday"
    " sat saturday"
)
_WEEKDAYS = frozenset(_WEEKDAY_WORDS.split())
_UNITS = {"j": "julian", "jd": "julian", "julian": "julian"} | dict.fromkeys(
    ("d", "dow", "doy", "h", "isodow", "isoyear", "m", "mm", "s", "y"), "other"
)
_VOLATILE = frozenset({"now", "today", "tomorrow", "yesterday"})
SPECIAL = {
    "epoch": "epoch",
    "infinity": "infinity",
    "+infinity": "infinity",
    "-infinity": "-infinity",
}
WORDS = frozenset(
    {*_MONTHS, *_WEEKDAYS, *_UNITS, *_VOLATILE, *SPECIAL, "ad", "bc", "am", "pm", "at", "on", "t", "dst",
     "allballs"}
)  # fmt: skip


@dataclass
class Reading:
    """A text's meaning. `east` is None where the session's zone counts; `special` is epoch or an
    infinity, and then nothing else counts."""

    ctx: TextContext
    seen: int = 0
    year: int = 0
    month: int = 0
    day: int = 0
    day_of_year: int = 0
    hour: int = 0
    minute: int = 0
    second: int = 0
    micros: int = 0
    east: int | None = None
    named: zones.Zone | None = None
    special: str = ""
    two_digits: bool = False
    before_christ: bool = False
    julian: bool = False
    half: str = ""
    prefix: str = ""  # "julian" or "t": a word that says what the next number is
    text_month: bool = False
    clock_only: bool = False

    # ---- results -------------------------------------------------------------------------------
    @property
    def days(self) -> int:
        """Day number since 2000-01-01."""
        return calendar.days_of(self.year, self.month, self.day)

    @property
    def clock(self) -> int:
        """Microseconds since midnight."""
        return ((self.hour * 60 + self.minute) * 60 + self.second) * 1_000_000 + self.micros

    def offset(self) -> int:
        """Seconds east of UTC: told, of a named zone, or the session's at that local time."""
        if self.named is not None:
            return zones.offset_of_local(self.named, self.days * _DAY_MICROS + self.clock)
        if self.east is not None:
            return self.east
        session = zones.session_zone(self.ctx.time_zone)
        return zones.offset_of_local(session, self.days * _DAY_MICROS + self.clock)

    # ---- fields --------------------------------------------------------------------------------
    def mark(self, mask: int) -> None:
        """What a field told; telling something twice is an error."""
        if mask & self.seen:
            raise Wrong(Fault.FORMAT)
        self.seen |= mask

    def zone_offset(self, text: str) -> None:
        """+hh[:mm[:ss]] or +hhmm."""
        hours, rest = number(text[1:], fault=Fault.DISPLACEMENT)
        minutes = seconds = 0
        if rest[:1] == ":":
            minutes, rest = number(rest[1:], fault=Fault.DISPLACEMENT)
            if rest[:1] == ":":
                seconds, rest = number(rest[1:], fault=Fault.DISPLACEMENT)
        elif not rest and len(text) > 3:
            hours, minutes = divmod(hours, 100)
        if not 0 <= hours <= 15 or not 0 <= minutes < 60 or not 0 <= seconds < 60:
            raise Wrong(Fault.DISPLACEMENT)
        if rest:
            raise Wrong(Fault.FORMAT)
        east = (hours * 60 + minutes) * 60 + seconds
        self.east = -east if text[0] == "-" else east

    def zone_name(self, text: str, fault: Fault) -> None:
        self.named = zones.zone(text)
        if self.named is None and any(c.isdigit() for c in text):  # the server may know it as POSIX
            raise DataError(
                UNSUPPORTED, f'time zone "{text}": write the offset or the zone\'s name'
            )
        if self.named is None:
            raise Wrong(fault, text)

    def colons(self, text: str) -> None:
        """hh:mm[:ss[.f]]; mm:ss.f."""
        self.hour, self.minute, self.second, self.micros = colons(text)

    def date(self, text: str) -> None:
        """A field like 1999-01-08, 8.1.99 or 08-jan-1999."""
        parts = _date_parts(text)
        numbers, text_month = [], False
        for part in parts:
            if part[0].isdigit():
                numbers.append(part)
            elif part in _MONTHS and not self.seen & MONTH:
                self.month, text_month = _MONTHS[part], True
                self.seen |= MONTH
            else:
                raise Wrong(Fault.FORMAT)
        for part in numbers:
            self.number(part, text_month)
        if self.seen & ~(DOY | ZONE) != DATE:
            raise Wrong(Fault.FORMAT)

    def number(self, text: str, text_month: bool, seen: int = -1) -> None:
        """A number in a date, by what is known already and the order of DateStyle (DecodeNumber)."""
        seen = self.seen if seen < 0 else seen
        value, rest = number(text)
        if rest[:1] == "." and rest != text:
            if len(text) - len(rest) > 2:
                self.run_together(text, seen | DATE)
                return
            self.micros = micros(rest)
        elif rest:
            raise Wrong(Fault.FORMAT)
        size, known = len(text), seen & DATE
        if size == 3 and known == YEAR and 1 <= value <= 366:
            self.day_of_year = value
            self.mark(DOY | MONTH | DAY)
            return
        order = _order(self.ctx)
        if known == DATE:
            self.run_together(text, seen)
            return
        if known == 0:
            what = YEAR if size >= 3 or order == "YMD" else DAY if order == "DMY" else MONTH
        elif known in (YEAR, DAY):
            what = MONTH
        elif known == MONTH:
            what = YEAR if text_month and (size >= 3 or order == "YMD") else DAY
        elif known == YEAR | MONTH:
            what = DAY
            if text_month and size >= 3 and self.two_digits:  # the first number was the day
                self.day, self.year, self.two_digits = self.year, value, False
                self.mark(DAY)
                return
        elif known == MONTH | DAY:
            what = YEAR
        else:
            raise Wrong(Fault.FORMAT)
        if what == YEAR:
            self.year, self.two_digits = value, size <= 2
        elif what == MONTH:
            self.month = value
        else:
            self.day = value
        self.mark(what)

    def run_together(self, text: str, seen: int) -> int:
        """yyyymmdd, hhmmss or hhmm with a fraction (DecodeNumberField); returns what it told."""
        whole, point, rest = text.partition(".")
        if point:
            if rest and not rest.isdigit():
                raise Wrong(Fault.FORMAT)
            self.micros = micros("." + rest)
        elif seen & DATE != DATE and len(text) >= 6:
            self.day, self.month = int(text[-2:]), int(text[-4:-2])
            self.year = _wrapped(text[:-4])
            self.two_digits = self.two_digits or len(text) == 6
            self.mark(DATE)
            return DATE
        if seen & CLOCK or len(whole) not in (4, 6):
            raise Wrong(Fault.FORMAT)
        self.hour, self.minute = int(whole[:2]), int(whole[2:4])
        self.second = int(whole[4:]) if len(whole) == 6 else 0
        self.mark(CLOCK)
        return CLOCK

    def labelled(self, text: str) -> None:
        """The number behind "julian" or "t"."""
        prefix, self.prefix = self.prefix, ""
        value, rest = number(text)
        if rest[:1] not in ("", ".") or prefix == "other":
            raise Wrong(Fault.FORMAT)
        if prefix == "t":
            if self.run_together(text, self.seen | DATE) != CLOCK:
                raise Wrong(Fault.FORMAT)
            return
        self.julian_day(value)
        mask = DATE
        if rest:
            total = int(fraction(rest) * _DAY_MICROS)
            seconds, self.micros = divmod(total, 1_000_000)
            minutes, self.second = divmod(seconds, 60)
            self.hour, self.minute = divmod(minutes, 60)
            mask |= CLOCK
        self.mark(mask)

    def julian_day(self, value: int) -> None:
        if value < 0:
            raise Wrong(Fault.RANGE)
        self.year, self.month, self.day = calendar.civil_of(value - 2_451_545)
        self.julian = True

    def word(self, text: str) -> None:
        """A word: zone, month, era, half of the day, or one of the words that stand for a value."""
        east = zones.abbreviation(text, self.ctx.default_abbreviations)
        if east is not None:
            self.mark(ZONE | DAYLIGHT if text in zones.DAYLIGHT else ZONE)
            self.east = east
        elif text in _VOLATILE:
            raise DataError(UNSUPPORTED, f'"{text}" depends on the moment: send the value itself')
        elif text in SPECIAL:
            if self.clock_only:
                raise Wrong(Fault.FORMAT)
            self.special = SPECIAL[text]
            self.mark(DATE | CLOCK | ZONE)
        elif text == "allballs":
            self.east = 0
            self.hour = self.minute = self.second = 0
            self.mark(CLOCK | ZONE)
        elif text in _MONTHS and not self.clock_only:
            if self.seen & MONTH and not self.text_month and not self.seen & DAY and (
                1 <= self.month <= 31
            ):  # fmt: skip
                self.day = self.month
                self.mark(DAY)
            else:
                self.mark(MONTH)
            self.text_month, self.month = True, _MONTHS[text]
        elif text == "dst":
            self.mark(DST | DAYLIGHT)
            self.east = (self.east or 0) + 3600
        elif text in ("am", "pm"):
            self.half = text
            self.mark(AMPM)
        elif text in ("ad", "bc"):
            self.before_christ = text == "bc"
            self.mark(ERA)
        elif text in _WEEKDAYS and not self.clock_only:
            self.mark(WEEKDAY)
        elif text in _UNITS or text == "t":
            if self.prefix or text == "t" and not self.clock_only and self.seen & DATE != DATE:
                raise Wrong(Fault.FORMAT)
            self.prefix = _UNITS.get(text, "t")
        elif text in WORDS:
            raise Wrong(Fault.FORMAT)
        else:
            self.zone_name(text, Fault.FORMAT)
            self.mark(ZONE)

    # ---- endings -------------------------------------------------------------------------------
    def validate(self) -> None:
        """The date is one, AM and PM are applied (ValidateDate)."""
        if self.seen & YEAR and not self.julian:
            if self.before_christ:
                if self.year <= 0:
                    raise Wrong(Fault.RANGE)
                self.year = 1 - self.year
            elif self.two_digits:
                if self.year < 0:
                    raise Wrong(Fault.RANGE)
                self.year += 2000 if self.year < 70 else 1900 if self.year < 100 else 0
            elif self.year <= 0:
                raise Wrong(Fault.RANGE)
        if self.seen & DOY:
            first = calendar.days_of(self.year, 1, 1)
            self.year, self.month, self.day = calendar.civil_of(first + self.day_of_year - 1)
        if self.seen & MONTH and not 1 <= self.month <= 12:
            raise Wrong(Fault.RANGE)
        if self.seen & DAY and not 1 <= self.day <= 31:
            raise Wrong(Fault.RANGE)
        whole = self.seen & DATE == DATE
        if whole and self.day > calendar.days_in_month(self.year, self.month):
            raise Wrong(Fault.RANGE)
        if self.half and self.hour > 12:
            raise Wrong(Fault.RANGE)
        if self.half == "am" and self.hour == 12:
            self.hour = 0
        elif self.half == "pm" and self.hour != 12:
            self.hour += 12

    def clock_fits(self) -> None:
        if self.hour > 24 or self.minute > 59 or self.second > 60 or self.clock > _DAY_MICROS:
            raise Wrong(Fault.RANGE)

    def zone_fits(self) -> None:
        if self.seen & DST and (self.named is not None or not self.seen & ZONE):
            raise Wrong(Fault.FORMAT)


def colons(text: str) -> tuple[int, int, int, int]:
    """(hour, minute, second, microseconds) of hh:mm[:ss[.f]] or mm:ss.f; the hour is not bounded."""
    hour, rest = number(text, 2**63 - 1)
    if rest[:1] != ":":
        raise Wrong(Fault.FORMAT)
    minute, rest = number(rest[1:])
    second = parts = 0
    if rest[:1] == ".":
        parts = micros(rest)
        hour, minute, second = 0, hour, minute
    elif rest[:1] == ":":
        second, rest = number(rest[1:])
        if rest[:1] == ".":
            parts = micros(rest)
        elif rest:
            raise Wrong(Fault.FORMAT)
    elif rest:
        raise Wrong(Fault.FORMAT)
    if not 0 <= minute <= 59 or not 0 <= second <= 60 or parts > 1_000_000:
        raise Wrong(Fault.RANGE)
    return hour, minute, second, parts


def _date_parts(text: str) -> list[str]:
    """Runs of digits and of letters; one character behind each is dropped, whatever it is."""
    parts: list[str] = []
    at, end = 0, len(text)
    while at < end and len(parts) < 25:
        while at < end and not text[at].isalnum():
            at += 1
        if at == end:
            raise Wrong(Fault.FORMAT)
        start, digits = at, text[at].isdigit()
        while at < end and (text[at].isdigit() if digits else text[at].isalpha()):
            at += 1
        parts.append(text[start:at])
        at += 1
    return parts


def _wrapped(digits: str) -> int:
    """atoi of a year."""
    value = min(int(digits), 2**63 - 1) & 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _order(ctx: TextContext) -> str:
    return next((o for o in ("DMY", "YMD") if o in ctx.date_style), "MDY")
