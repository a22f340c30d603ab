"""The two grammars of date and time texts: with a date (DecodeDateTime), and without (DecodeTimeOnly)."""

from proxy.postgres.types import zones
from proxy.postgres.types.base import TextContext
from proxy.postgres.types.moment_fields import Fault, Field, Kind, Wrong, fields, number
from proxy.postgres.types.moment_reading import CLOCK, DATE, DAY, MONTH, WORDS, ZONE, Reading


def moment(text: str, ctx: TextContext) -> Reading:
    """A text that has a date: date, timestamp, timestamptz. Wrong, DataError."""
    found = Reading(ctx)
    for kind, value in fields(text, WORDS):
        _moment_field(found, kind, value)
    if found.prefix:
        raise Wrong(Fault.FORMAT)
    if not found.special:
        found.validate()
        if found.seen & DATE != DATE:
            raise Wrong(Fault.FORMAT)
        found.zone_fits()
    return found


def _moment_field(found: Reading, kind: Kind, value: str) -> None:
    if kind is Kind.DATE:
        if found.prefix == "julian":
            day, rest = number(value)
            found.julian_day(day)
            if rest[:1] not in ("+", "-"):
                raise Wrong(Fault.FORMAT)
            found.zone_offset(rest)
            found.prefix = ""
            found.mark(DATE | CLOCK | ZONE)
        elif found.prefix or found.seen & (MONTH | DAY) == MONTH | DAY:
            _behind_date(found, value)
        else:
            found.date(value)
    elif kind is Kind.TIME:
        _labelled_time(found)
        found.colons(value)
        found.clock_fits()
        found.mark(CLOCK)
    elif kind is Kind.ZONE:
        found.zone_offset(value)
        found.mark(ZONE)
    elif kind is Kind.NUMBER:
        _moment_number(found, value)
    elif value not in ("at", "on"):
        found.word(value)


def _labelled_time(found: Reading) -> None:
    if found.prefix not in ("", "t"):
        raise Wrong(Fault.FORMAT)
    found.prefix = ""


def _behind_date(found: Reading, value: str) -> None:
    """hhmmss-zz, or a zone's name with marks in it."""
    if value[0].isdigit() or found.prefix:
        _labelled_time(found)
        if found.seen & CLOCK or "-" not in value:
            raise Wrong(Fault.FORMAT)
        digits, _, _ = value.partition("-")
        found.zone_offset(value[len(digits) :])
        found.run_together(digits, found.seen)
    else:
        found.zone_name(value, Fault.ZONE)
    found.mark(ZONE)


def _moment_number(found: Reading, value: str) -> None:
    if found.prefix:
        found.labelled(value)
        return
    point = value.find(".")
    if point >= 0 and not found.seen & DATE:
        found.date(value)
    elif point > 2 or len(value) >= 6 and not (found.seen & DATE and found.seen & CLOCK):
        found.run_together(value, found.seen)
    else:
        found.number(value, found.text_month)


def clock(text: str, ctx: TextContext) -> Reading:
    """A text that has a time of day, a zone and perhaps a date: time, timetz. Wrong, DataError."""
    found = Reading(ctx, clock_only=True)
    parts = fields(text, WORDS)
    for index, (kind, value) in enumerate(parts):
        _clock_field(found, index, parts, kind, value)
    if found.prefix:
        raise Wrong(Fault.FORMAT)
    found.validate()
    found.clock_fits()
    if not found.seen & CLOCK:
        raise Wrong(Fault.FORMAT)
    found.zone_fits()
    if found.named is not None:
        east = zones.fixed_offset(found.named)
        if east is not None:
            found.named, found.east = None, east
        elif found.seen & DATE != DATE:
            raise Wrong(Fault.FORMAT)
    elif not found.seen & ZONE and found.seen & DATE not in (0, DATE):
        raise Wrong(Fault.FORMAT)
    return found


def _clock_field(found: Reading, index: int, parts: list[Field], kind: Kind, value: str) -> None:
    if kind is Kind.DATE:
        if index == 0 and len(parts) >= 2 and (
            parts[-1][0] is Kind.DATE or parts[1][0] is Kind.TIME
        ):  # fmt: skip
            found.date(value)
            return
        if value[0].isdigit():
            if found.seen & CLOCK or "-" not in value:
                raise Wrong(Fault.FORMAT)
            digits, _, _ = value.partition("-")
            found.zone_offset(value[len(digits) :])
            found.run_together(digits, found.seen | DATE)
        else:
            found.zone_name(value, Fault.ZONE)
        found.mark(ZONE)
    elif kind is Kind.TIME:
        _labelled_time(found)
        found.colons(value)
        found.mark(CLOCK)
    elif kind is Kind.ZONE:
        found.zone_offset(value)
        found.mark(ZONE)
    elif kind is Kind.NUMBER:
        _clock_number(found, index, parts, value)
    elif value not in ("at", "on"):
        found.word(value)


def _clock_number(found: Reading, index: int, parts: list[Field], value: str) -> None:
    if found.prefix:
        found.labelled(value)
        return
    point = value.find(".")
    if point >= 0:
        if index == 0 and len(parts) >= 2 and parts[-1][0] is Kind.DATE:
            found.date(value)
        elif point > 2:
            found.run_together(value, found.seen | DATE)
        else:
            raise Wrong(Fault.FORMAT)
    elif len(value) > 4:
        found.run_together(value, found.seen | DATE)
    else:
        found.number(value, False, found.seen | DATE)
