"""Days, zones and styles: the arithmetic below date and timestamp. Proleptic Gregorian, as PostgreSQL.

Day 0 is 2000-01-01. Years are astronomical here (0 is 1 BC).
"""

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

_EPOCH = 10957  # days from 1970-01-01 to 2000-01-01
_CYCLE = 146_097 * 86_400  # seconds in 400 years
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def days_of(year: int, month: int, day: int) -> int:
    """Day number of a civil date (counting in eras of 400 years that begin in March)."""
    shifted = year - (month <= 2)
    era, of_era = divmod(shifted, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468 - _EPOCH


def civil_of(days: int) -> tuple[int, int, int]:
    """(year, month, day) of a day number."""
    era, of_era = divmod(days + _EPOCH + 719468, 146097)
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    march = (5 * of_year + 2) // 153
    day = of_year - (153 * march + 2) // 5 + 1
    month = march + 3 if march < 10 else march - 9
    return year + era * 400 + (month <= 2), month, day


def days_in_month(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return (31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def weekday(days: int) -> int:
    """0 is Monday; 2000-01-01 was a Saturday."""
    return (days + 5) % 7


@cache
def _spelling() -> dict[str, str]:
    """Zone names are case-insensitive for the server."""
    return {name.lower(): name for name in available_timezones()}


def zone(name: str) -> ZoneInfo | None:
    """A named zone; None if there is none of that name."""
    try:
        return ZoneInfo(_spelling().get(name.lower(), name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def offset_at(zone_: ZoneInfo, micros: int) -> tuple[int, str]:
    """Seconds east of UTC, and the abbreviation, at this many microseconds since 2000 (UTC)."""
    moment = _clamped(micros).astimezone(zone_)
    offset = moment.utcoffset()
    return int(offset.total_seconds()) if offset else 0, moment.tzname() or ""


def offset_of_local(zone_: ZoneInfo, micros: int) -> int:
    """Seconds east of UTC for a local time. In a gap, and where it is ambiguous, the standard-time
    offset before it, as PostgreSQL chooses (DetermineTimeZoneOffset)."""
    local = _clamped(micros).replace(tzinfo=None)
    first = local.replace(tzinfo=zone_, fold=0).utcoffset() or timedelta()
    second = local.replace(tzinfo=zone_, fold=1).utcoffset() or timedelta()
    if first == second:
        return int(first.total_seconds())
    # a gap: the offset before it; an overlap: the one after it (standard time)
    return int((first if first < second else second).total_seconds())


def _clamped(micros: int) -> datetime:
    low, high = -62_135_596_800 + 172_800, 253_402_300_799 - 172_800
    seconds, rest = divmod(micros, 1_000_000)
    seconds += _EPOCH * 86_400
    if seconds > high:  # the Gregorian calendar and zone rules repeat every 400 years
        seconds -= ((seconds - high) // _CYCLE + 1) * _CYCLE
    clamped = max(seconds, low)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=clamped, microseconds=rest)
