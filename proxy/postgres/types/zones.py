"""Time zones of a session and of a text: offsets, abbreviations, fixed POSIX specifications.

Zones are those of the machine's tz database (zoneinfo), which has to be in step with the server's.
Abbreviations are those of PostgreSQL's set `Default`; the ones that the set ties to a zone's history
are refused, since zoneinfo does not tell what an abbreviation meant when. A POSIX specification counts
where it has no daylight-saving rule: `SET TIME ZONE -7` is reported as `<-07>+07`.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from proxy.postgres.types.base import UNSUPPORTED, DataError

_EPOCH = 946_684_800  # 2000-01-01 in seconds since 1970
_CYCLE = 146_097 * 86_400  # seconds in 400 years
_POSIX = re.compile(
    r"(?:<([A-Za-z0-9+-]{3,})>|([A-Za-z]{3,}))([+-]?)(\d{1,3})(?::(\d{1,2})(?::(\d{1,2}))?)?"
)

# Hours east of UTC (PostgreSQL, timezonesets/Default); daylight-saving names carry the whole offset.
_HOURS = {
    -12: "", -11: "", -10: "hst taht", -9.5: "mart", -9: "akst gamt", -8: "akdt pst",
    -7: "mst pdt", -6: "cst galt mdt", -5: "act cdt cot est pet", -4: "amt ast bot edt",
    -3.5: "nft nst", -3: "adt bra brt clst gft pmst wgt", -2.5: "ndt",
    -2: "brst fnt pmdt wgst", -1: "azot egt fnst",
    0: "azost egst gmt uct ut utc wet z zulu", 1: "bst cet met mez wat wetdst",
    2: "bdst cest cetdst eet ist mest mesz metdst sast", 3: "eat eest eetdst fet idt",
    3.5: "irt", 4: "msd mut ret sct", 4.5: "aft", 5: "mvt must pkt tft tjt uzt",
    5.75: "npt", 6: "almt bdt btt kgst pkst uzst xjt yekst", 6.5: "mmt", 7: "almst cxt ict",
    8: "awst bnt bort cct hkt myt pht wadt", 8.75: "acwst", 9: "awsst jayt jst kst pwt ulast wdt",
    9.5: "acst cast", 10: "aest chut ddut kdt ligt mpt pgt trut yapt", 10.5: "acdt acsst cadt lhst sadt",
    11: "aedt aesst pont vut", 12: "fjt gilt mht nzst nzt tvt wakt wft", 12.75: "chast",
    13: "fjst nzdt tot", 13.75: "chadt",
}  # fmt: skip
_FIXED = {name: int(hours * 3600) for hours, names in _HOURS.items() for name in names.split()}
_FIXED |= {"pyst": -10800, "uyst": -7200, "uyt": -10800, "wast": 25200}
_DAYLIGHT_WORDS = (
    "akdt brst cdt clst edt egst fnst mdt ndt pdt pmdt pyst uyst wgst almst idt kdt kgst pkst ulast uzst"
    " yekst adt azost acsst acdt aesst aedt awsst cadt sadt wadt wdt bst bdst cest cetdst eest eetdst mest"
    " mesz metdst msd wetdst must chadt fjst nzdt"
)
DAYLIGHT = frozenset(_DAYLIGHT_WORDS.split())
_DYNAMIC_WORDS = (
    "art arst clt gyt pyt vet davt mawt amst anast anat azst azt gest get irkst irkt kgt krast krat"
    " lkt magst magt novst novt omsst omst petst pett sgt tmt ulat vlast vlat yakst yakt yekt fkst fkt lhdt"
    " msk volt ckt easst east iot kost lint nut tkt"
)
_DYNAMIC = frozenset(_DYNAMIC_WORDS.split())


@dataclass(frozen=True, slots=True)
class Fixed:
    """A zone of one offset for ever."""

    east: int
    label: str


Zone = ZoneInfo | Fixed


@cache
def _spelling() -> dict[str, str]:
    """Zone names are case-insensitive for the server."""
    return {name.lower(): name for name in available_timezones()}


@cache
def zone(name: str) -> Zone | None:
    """A named zone, or a fixed one by its POSIX specification; None if there is none of that name."""
    spelled = _spelling().get(name.lower())
    if spelled is not None:
        try:
            return ZoneInfo(spelled)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return None
    m = _POSIX.fullmatch(name)
    if m is None:
        return None
    hours, minutes, seconds = (int(g or 0) for g in m.group(4, 5, 6))
    if hours > 167 or minutes > 59 or seconds > 60:
        return None
    west = (hours * 60 + minutes) * 60 + seconds
    return Fixed(west if m[3] == "-" else -west, m[1] or m[2].upper())


def session_zone(name: str) -> Zone:
    """The zone of the setting TimeZone. DataError where it is not known here."""
    found = zone(name)
    if found is None:
        raise DataError(
            UNSUPPORTED, f"TimeZone {name} is not known to the proxy: SET TimeZone to UTC"
        )
    return found


def abbreviation(word: str, default_set: bool) -> int | None:
    """Seconds east of UTC of an abbreviation; None if it is none. DataError where the session has other
    abbreviations than PostgreSQL's default ones, or the meaning depends on a zone's history."""
    if word in ("utc", "gmt", "z", "zulu", "ut", "uct"):
        return 0
    known = word in _DYNAMIC
    if known or not default_set and word in _FIXED:
        raise DataError(
            UNSUPPORTED, f'time zone abbreviation "{word}": write the offset or the zone'
        )
    return _FIXED.get(word)


@cache
def fixed_offset(found: Zone) -> int | None:
    """Seconds east where the zone never had another offset (no local mean time either)."""
    if isinstance(found, Fixed):
        return found.east
    years = (datetime(y, m, 1, tzinfo=UTC) for y in range(1800, 2100, 2) for m in (1, 7))
    offsets = {moment.astimezone(found).utcoffset() for moment in years}
    only = offsets.pop()
    return int(only.total_seconds()) if only is not None and not offsets else None


def offset_at(found: Zone, micros: int) -> tuple[int, str]:
    """Seconds east of UTC, and the abbreviation, at this many microseconds since 2000 (UTC)."""
    if isinstance(found, Fixed):
        return found.east, found.label
    moment = _clamped(micros).astimezone(found)
    offset = moment.utcoffset()
    return int(offset.total_seconds()) if offset else 0, moment.tzname() or ""


def offset_of_local(found: Zone, micros: int) -> int:
    """Seconds east of UTC for a local time. In a gap the offset before it, in an overlap the one after
    it, as PostgreSQL chooses (DetermineTimeZoneOffset)."""
    if isinstance(found, Fixed):
        return found.east
    local = _clamped(micros).replace(tzinfo=None)
    first = local.replace(tzinfo=found, fold=0).utcoffset() or timedelta()
    second = local.replace(tzinfo=found, fold=1).utcoffset() or timedelta()
    return int(min(first, second).total_seconds())


def _clamped(micros: int) -> datetime:
    low, high = -62_135_596_800 + 172_800, 253_402_300_799 - 172_800
    seconds, rest = divmod(micros, 1_000_000)
    seconds += _EPOCH
    if seconds > high:  # the Gregorian calendar and zone rules repeat every 400 years
        seconds -= ((seconds - high) // _CYCLE + 1) * _CYCLE
    clamped = max(seconds, low)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=clamped, microseconds=rest)
