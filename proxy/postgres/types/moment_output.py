"""How dates and times are shown in every DateStyle (EncodeDateOnly, EncodeDateTime, EncodeTimezone)."""

from proxy.postgres.types import calendar
from proxy.postgres.types.base import TextContext


def style(ctx: TextContext) -> str:
    return ctx.date_style.split(",")[0].strip()


def day_first(ctx: TextContext) -> bool:
    return "DMY" in ctx.date_style


def shown_date(days: int, ctx: TextContext) -> tuple[str, bool]:
    """(the date without era, whether it is BC)."""
    year, month, day = calendar.civil_of(days)
    bc = year <= 0
    shown = 1 - year if bc else year
    how = style(ctx)
    if how == "ISO":
        return f"{shown:04d}-{month:02d}-{day:02d}", bc
    if how == "German":
        return f"{day:02d}.{month:02d}.{shown:04d}", bc
    mark = "/" if how == "SQL" else "-"
    first, second = (day, month) if day_first(ctx) else (month, day)
    return f"{first:02d}{mark}{second:02d}{mark}{shown:04d}", bc


def shown_clock(micros: int) -> str:
    """hh:mm:ss with as many digits of a fraction as there are."""
    seconds, rest = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    out = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{out}.{rest:06d}".rstrip("0") if rest else out


def shown_offset(east: int) -> str:
    """+hh[:mm[:ss]]."""
    hours, rest = divmod(abs(east), 3600)
    minutes, seconds = divmod(rest, 60)
    out = f"{'-' if east < 0 else '+'}{hours:02d}"
    if minutes or seconds:
        out += f":{minutes:02d}"
    return f"{out}:{seconds:02d}" if seconds else out


def shown_moment(micros: int, zoned: tuple[int, str] | None, ctx: TextContext) -> str:
    """A local time, with the offset and abbreviation of its zone."""
    days, clock = divmod(micros, 86_400_000_000)
    date, bc = shown_date(days, ctx)
    how = style(ctx)
    if how == "Postgres":
        year, month, day = calendar.civil_of(days)
        name = calendar.MONTHS[month - 1]
        pair = f"{day:02d} {name}" if day_first(ctx) else f"{name} {day:02d}"
        weekday = calendar.DAYS[calendar.weekday(days)]
        out = f"{weekday} {pair} {shown_clock(clock)} {1 - year if bc else year:04d}"
    else:
        out = f"{date} {shown_clock(clock)}"
    if zoned is not None:
        east, label = zoned
        out += f" {label[:10]}" if how != "ISO" else shown_offset(east)
    return out + " BC" if bc else out
