"""Days and months: the arithmetic below date and timestamp. Proleptic Gregorian, as PostgreSQL.

Day 0 is 2000-01-01. Years are astronomical here (0 is 1 BC).
"""

_EPOCH = 10957  # days from 1970-01-01 to 2000-01-01
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
