"""Does a rule hold for this principal, now? Pure: the moment is an argument.

The circumstances of a principal do not change while it is connected, but the moment does. So the part
of a condition that asks for the time is settled for all rules at once (`in_force`), together with
the moment at which that may change; the rest (`Who`) is asked with each decision.
"""

import ipaddress
import re
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from proxy.config.policy import LOCAL, Hours, When, globs
from proxy.policy.model import Circumstances

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Who:
    """The conditions of a rule that look at the circumstances."""

    __slots__ = ("_identities", "_local", "_networks", "_purposes")

    def __init__(self, when: When) -> None:
        self._local = LOCAL in when.networks
        networks = [ipaddress.ip_network(n) for n in when.networks if n != LOCAL]
        self._networks: tuple[_Network, ...] | None = tuple(networks) if when.networks else None
        self._identities = globs(when.identities) if when.identities else None
        self._purposes = globs(when.purposes) if when.purposes else None

    def lacks(self, known: Circumstances) -> str | None:
        """Which condition does not hold, as a word; None where all do."""
        if self._networks is not None and not self._inside(known.client):
            return "network"
        if self._identities is not None and not _matches(self._identities, known.identity):
            return "identity"
        if self._purposes is not None and not _matches(self._purposes, known.purpose):
            return "purpose"
        return None

    def _inside(self, client: str) -> bool:
        if client == LOCAL:
            return self._local
        try:
            address = ipaddress.ip_address(
                client.partition("%")[0]
            )  # a zone is no part of a network
        except ValueError:  # not known
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        assert self._networks is not None
        return any((mapped or address) in network for network in self._networks)


def _matches(pattern: re.Pattern[str], text: str) -> bool:
    """What is not known (empty) matches nothing, not even `*`."""
    return bool(text) and pattern.fullmatch(text) is not None


def in_force(when: When, now: datetime) -> tuple[bool, datetime | None]:
    """Whether the time that `when` asks for is now, and until when that answer holds at least
    (None: for ever). `now` is aware."""
    if when.not_after is not None and now >= when.not_after:
        return False, None
    if when.not_before is not None and now < when.not_before:
        return False, when.not_before
    inside, until = (True, None) if when.hours is None else _within(when.hours, now)
    if when.not_after is not None:
        until = when.not_after if until is None else min(until, when.not_after)
    return inside, until


def _within(hours: Hours, now: datetime) -> tuple[bool, datetime | None]:
    """Whether `now` is inside, and the next edge. Edges are computed on the place's calendar, so that
    a change between summer and winter time moves them with its clocks; one that falls into the hour
    that is skipped is taken as the moment after it (PEP 495, fold 0)."""
    zone = ZoneInfo(hours.zone)
    today = now.astimezone(zone).date()
    spans = []
    for back in range(-2, 9):  # a span may have begun yesterday; the next one is within a week
        day = today + timedelta(days=back)
        if _DAYS[day.weekday()] in hours.days:
            ends = day if hours.end > hours.start else day + timedelta(days=1)
            spans.append((_edge(day, hours.start, zone), _edge(ends, hours.end, zone)))
    inside = any(start <= now < end for start, end in spans)
    return inside, min((edge for span in spans for edge in span if edge > now), default=None)


def _edge(day: date, clock: str, zone: ZoneInfo) -> datetime:
    if clock == "24:00":
        day, clock = day + timedelta(days=1), "00:00"
    return datetime.combine(day, time.fromisoformat(clock), zone).astimezone(UTC)
