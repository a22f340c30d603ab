"""The text of an interval: `1 year 2 mons`, `1-2 3 4:05:06`, ISO 8601 (DecodeInterval, PostgreSQL 17).

The result is months, days and microseconds, each with its own sign, or an infinity.
"""

import re
from dataclasses import dataclass

from proxy.postgres.types.moment_fields import (
    INT32,
    INT64,
    Fault,
    Field,
    Kind,
    Wrong,
    fields,
    fraction,
    number,
)
from proxy.postgres.types.moment_reading import WORDS, colons

_DAY = 86_400_000_000
_HOUR, _MINUTE, _SECOND = 3_600_000_000, 60_000_000, 1_000_000
_UNITS = {
    word: unit
    for unit, words in {
        "microsecond": "us usec usecond useconds usecs microsecon",
        "millisecond": "ms msec msecs msecond mseconds millisecon",
        "second": "s sec secs second seconds",
        "minute": "m min mins minute minutes mm",
        "hour": "h hour hours hr hrs",
        "day": "d day days",
        "week": "w week weeks",
        "month": "mon mons month months",
        "year": "y year years yr yrs",
        "decade": "dec decs decade decades",
        "century": "c cent century centuries",
        "millennium": "mil mils millennia millennium",
        "": "qtr quarter timezone dow doy isodow isoyear j jd julian",  # of other functions than this
    }.items()
    for word in words.split()
}  # fmt: skip
_TIME_UNITS = {
    "microsecond": 1,
    "millisecond": 1000,
    "second": _SECOND,
    "minute": _MINUTE,
    "hour": _HOUR,
}
_YEAR_UNITS = {"year": 1, "decade": 10, "century": 100, "millennium": 1000}
_SECONDS = frozenset({"microsecond", "millisecond", "second"})
_CLOCK = frozenset({"hour", "minute"}) | _SECONDS
_INFINITE = {"infinity": 1, "+infinity": 1, "-infinity": -1}
_FLOAT = re.compile(r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass
class Span:
    """What an interval adds up to. `infinite` is 1 or -1, else 0."""

    years: int = 0
    months: int = 0
    days: int = 0
    micros: int = 0
    infinite: int = 0

    def add_time(self, value: int, part: float, unit: int) -> None:
        self._set_micros(self.micros + value * unit)
        self._add_micros(part, unit)

    def _add_micros(self, part: float, unit: int) -> None:
        if part:
            scaled = part * unit
            whole = int(scaled)
            rest = scaled - whole
            self._set_micros(self.micros + whole + (rest > 0.5) - (rest < -0.5))

    def _set_micros(self, value: int) -> None:
        self.micros = _within(value, INT64)

    def add_days(self, value: int, part: float, unit: int) -> None:
        """`unit` days each; a fraction gives days and time."""
        self.days = _within(self.days + _within(_within(value, INT32) * unit, INT32), INT32)
        self.part_of_days(part, unit)

    def part_of_days(self, part: float, unit: int) -> None:
        if part:
            scaled = part * unit
            whole = int(scaled)
            self.days = _within(self.days + whole, INT32)
            self._add_micros(scaled - whole, _DAY)

    def add_months(self, value: int, part: float) -> None:
        self.months = _within(self.months + _within(value, INT32), INT32)
        self.part_of_days(part, 30)

    def add_years(self, value: int, part: float, unit: int) -> None:
        self.years = _within(self.years + _within(_within(value, INT32) * unit, INT32), INT32)
        self.months = _within(self.months + round(part * unit * 12), INT32)

    def add(self, value: int, part: float, unit: str) -> None:
        if unit in _TIME_UNITS:
            self.add_time(value, part, _TIME_UNITS[unit])
        elif unit == "day":
            self.add_days(value, 0, 1)
            self._add_micros(part, _DAY)
        elif unit == "week":
            self.add_days(value, part, 7)
        elif unit == "month":
            self.add_months(value, part)
        elif unit not in _YEAR_UNITS:
            raise Wrong(Fault.FORMAT)
        else:
            self.add_years(value, part, _YEAR_UNITS[unit])

    def negate(self) -> None:
        for value, limit in (
            (self.years, INT32), (self.months, INT32), (self.days, INT32), (self.micros, INT64),
        ):  # fmt: skip
            if value == -limit - 1:
                raise Wrong(Fault.RANGE)
        self.years, self.months, self.days, self.micros = (
            -self.years, -self.months, -self.days, -self.micros,
        )  # fmt: skip


def _within(value: int, limit: int) -> int:
    if not -limit - 1 <= value <= limit:
        raise Wrong(Fault.RANGE)
    return value


def span(text: str, sql_standard: bool) -> Span:
    """An interval's text. `sql_standard`: IntervalStyle, under which one leading minus counts for all
    fields. Wrong."""
    try:
        return _fields(fields(text, WORDS), sql_standard)
    except Wrong as wrong:
        if wrong.fault is not Fault.FORMAT:
            raise
    return _iso(text)


class _Reader:
    """Reads the fields from right to left, so that units come before their values."""

    def __init__(self, negative: bool) -> None:
        self.span = Span()
        self.unit = ""  # of the next number
        self.waiting = False  # a unit was named and has no number yet
        self.seen: frozenset[str] = frozenset()
        self.negative = negative
        self.ago = False

    def mark(self, units: frozenset[str]) -> None:
        if units & self.seen:
            raise Wrong(Fault.FORMAT)
        self.seen |= units

    def clock(self, text: str, minus: bool) -> None:
        micros = _clock(text)
        self.span.micros = -micros if minus or self.negative else micros
        self.unit = "day"
        self.mark(_CLOCK)

    def value(self, text: str) -> None:
        self.unit = self.unit or "second"
        value, rest = number(text, INT64)
        part = 0.0
        if rest[:1] == "-":
            months, rest = number(rest[1:])
            if not 0 <= months < 12:
                raise Wrong(Fault.RANGE)
            if rest:
                raise Wrong(Fault.FORMAT)
            self.unit = "month"
            value = _within(
                _within(value * 12, INT64) + (-months if text[0] == "-" else months), INT64
            )
        elif rest[:1] == ".":
            part = fraction(rest)
            if text[0] == "-":
                part = -part
        elif rest:
            raise Wrong(Fault.FORMAT)
        if self.negative:
            value, part = -abs(value), -abs(part)
        self.span.add(value, part, self.unit)
        self.mark(_SECONDS if self.unit == "second" and part else frozenset({self.unit}))
        if self.unit == "hour":
            self.unit = "day"

    def word(self, text: str, last: bool) -> None:
        if self.waiting:
            raise Wrong(Fault.FORMAT)
        unit = _UNITS.get(text[:10])
        if unit is not None:
            self.unit, self.waiting = unit or "none", True
        elif text == "ago":
            if not last:
                raise Wrong(Fault.FORMAT)
            self.ago = True
            self.unit = "ago"
        elif text in _INFINITE:
            if not last:
                raise Wrong(Fault.FORMAT)
            self.mark(_CLOCK | {"day", "month", "year"})
            self.span.infinite = _INFINITE[text]
        elif text in ("at", "on"):
            self.unit = ""
        else:
            raise Wrong(Fault.FORMAT)


def _fields(parts: list[Field], sql_standard: bool) -> Span:
    signs = [value[0] in "+-" for _, value in parts]
    negative = sql_standard and bool(parts) and parts[0][1][0] == "-" and not any(signs[1:])
    reader = _Reader(negative)
    for index in range(len(parts) - 1, -1, -1):
        kind, value = parts[index]
        if kind in (Kind.STRING, Kind.SPECIAL):
            reader.word(value, index == len(parts) - 1)
            continue
        reader.waiting = False
        if kind is Kind.TIME:
            reader.clock(value, False)
        elif kind is Kind.ZONE and ":" in value[1:] and _is_clock(value[1:]):
            reader.clock(value[1:], value[0] == "-")
        else:
            reader.value(value)
    if not reader.seen or reader.waiting:
        raise Wrong(Fault.FORMAT)
    if reader.ago:
        reader.span.negate()
    return reader.span


def _clock(text: str) -> int:
    hour, minute, second, micros = colons(text)
    return _within(hour * _HOUR + minute * _MINUTE + second * _SECOND + micros, INT64)


def _is_clock(text: str) -> bool:
    try:
        _clock(text)
    except Wrong:
        return False
    return True


# ---- ISO 8601, sections 4.4.3.2 (designators) and 4.4.3.3 (alternative format) -----------------
def _iso_number(text: str, at: int) -> tuple[int, float, int]:
    m = _FLOAT.match(text, at)
    if m is None:
        raise Wrong(Fault.FORMAT)
    value = float(m[0])
    if not -1e15 <= value <= 1e15:
        raise Wrong(Fault.RANGE if abs(value) < float("inf") else Fault.FORMAT)
    whole = int(value)
    return whole, value - whole, m.end()


def _width(text: str, at: int) -> int:
    m = re.compile(r"-?(\d*)").match(text, at)
    return len(m[1]) if m else 0


_DATE_LETTERS = {"Y": "year", "M": "month", "W": "week", "D": "day"}
_TIME_LETTERS = {"H": "hour", "M": "minute", "S": "second"}


def _iso(text: str) -> Span:
    if len(text) < 2 or text[0] != "P":
        raise Wrong(Fault.FORMAT)
    found = Span()
    at, dated, any_field = 1, True, False
    while at < len(text):
        if text[at] == "T":
            dated, any_field, at = False, False, at + 1
            continue
        start = at
        value, part, at = _iso_number(text, at)
        letter = text[at : at + 1]
        at += 1
        if letter in (_DATE_LETTERS if dated else _TIME_LETTERS):
            found.add(value, part, (_DATE_LETTERS if dated else _TIME_LETTERS)[letter])
            any_field = True
            continue
        basic = _width(text, start) == (8 if dated else 6) and not any_field
        if basic and letter == "":
            _basic(found, value, part, dated)
            return found
        if basic and letter == "T" and dated:
            _basic(found, value, part, dated)
            dated, any_field = False, False
            continue
        if any_field or letter not in (("", "T", "-") if dated else ("", ":")):
            raise Wrong(Fault.FORMAT)
        ended, at = _extended(found, text, at, letter, value, part, dated)
        if ended:
            return found
        dated, any_field = False, False
    return found


def _basic(found: Span, value: int, part: float, dated: bool) -> None:
    """yyyymmdd or hhmmss."""
    high, rest = _quotient(value, 10000)
    middle, low = _quotient(rest, 100)
    units = ("year", "month", "day") if dated else ("hour", "minute", "second")
    for amount, unit in zip((high, middle, low), units, strict=True):
        found.add(amount, 0.0, unit)
    found._add_micros(part, _DAY if dated else 1)


def _quotient(value: int, by: int) -> tuple[int, int]:
    """Division towards zero."""
    quotient = abs(value) // by * (1 if value >= 0 else -1)
    return quotient, value - quotient * by


def _extended(
    found: Span, text: str, at: int, letter: str, value: int, part: float, dated: bool
) -> tuple[bool, int]:
    """yyyy-mm-dd or hh:mm:ss, whose first number was read: (whether the text ends, where it goes on)."""
    units = ("year", "month", "day") if dated else ("hour", "minute", "second")
    mark = "-" if dated else ":"
    for index, unit in enumerate(units):
        if index:
            value, part, at = _iso_number(text, at)
            letter = text[at : at + 1]
            at += 1
        found.add(value, part, unit)
        if letter == "":
            return True, at
        if dated and letter == "T":
            return False, at
        if letter != mark or index == 2:
            raise Wrong(Fault.FORMAT)
    raise Wrong(Fault.FORMAT)
