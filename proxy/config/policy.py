"""The policy as it is written: groups, rules, and the circumstances under which a rule holds."""

import ipaddress
import re
import zoneinfo
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import AwareDatetime, Field, field_validator, model_validator

from proxy.config.base import Section

GROUP = "group:"
LOCAL = "local"
_CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$"

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Hours(Section):
    """A part of the week, on the clock of a place. An end that is not after the start is on the next
    day: `start: "22:00", end: "06:00"` of friday ends on saturday morning."""

    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    start: str = Field("00:00", pattern=_CLOCK)
    end: str = Field("24:00", pattern=_CLOCK)
    zone: str = "UTC"  # a name of the IANA time zone database: Europe/Berlin

    @field_validator("zone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"no time zone {name!r}; write one like Europe/Berlin, or UTC"
            ) from None
        return name


class When(Section):
    """Circumstances; all that are written must hold. What is not known does not hold: a client on a
    Unix socket has no network but `local`, one without a certificate no identity, and a purpose is
    one that the client stated."""

    hours: Hours | None = None
    not_before: AwareDatetime | None = None  # 2026-12-01T00:00:00+01:00
    not_after: AwareDatetime | None = None
    networks: tuple[str, ...] = ()  # 10.1.0.0/16, 2001:db8::/32, or `local`: a Unix socket
    identities: tuple[str, ...] = ()  # of the client's certificate; `*` stands for any text
    # stated by the client: PostgreSQL parameter sealgate.purpose at connect, S3 header (or query
    # parameter) x-sealgate-purpose, signed with the request; `*` stands for any text
    purposes: tuple[str, ...] = ()

    @field_validator("networks")
    @classmethod
    def _networks_are_written_well(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            if network != LOCAL:
                ipaddress.ip_network(network)  # its ValueError says what is wrong
        return networks

    @model_validator(mode="after")
    def _something_is_asked(self) -> "When":
        if not self.model_fields_set:
            raise ValueError("`when` without a condition; leave it out")
        return self


class PolicyRule(Section):
    """What principals may do to resources, and what readers get.

    `principals` are like "postgres:app", "s3:reader", "mtls:billing.example", "group:support" or "*";
    `resources` like "column:shop.public.*", "bucket:docs/*" or "ring:hr" (all that is under this
    ring); `*` stands for any text. Without any rule, every authenticated principal may seal and
    open; with rules, what no rule allows is denied, and of those that match the strictest wins:
    deny, null, ciphertext, mask, allow. `mask` and `null` are for readers of columns.
    """

    principals: tuple[str, ...] = Field(min_length=1)
    resources: tuple[str, ...] = Field(min_length=1)
    actions: tuple[Literal["seal", "open"], ...] = ("seal", "open")
    effect: Literal["allow", "mask", "ciphertext", "null", "deny"] = "allow"
    # with `mask`: last4 "****1234", email "a***@example.com", hash (of the equality tag), fixed
    mask: Literal["last4", "email", "hash", "fixed"] | None = None
    mask_text: str = ""  # what `fixed` shows
    when: When | None = None  # none: always

    @model_validator(mode="after")
    def _mask_goes_with_its_effect(self) -> "PolicyRule":
        if (self.effect == "mask") != (self.mask is not None):
            raise ValueError("`mask` goes with `effect: mask`, and only with it")
        if self.mask_text and self.mask != "fixed":
            raise ValueError("`mask_text` goes with `mask: fixed`")
        if self.effect in ("mask", "ciphertext", "null") and "open" not in self.actions:
            raise ValueError(f"`effect: {self.effect}` is for readers: `actions` needs open")
        columns = all(r.startswith("column:") for r in self.resources)
        if self.effect in ("mask", "null") and not columns:
            raise ValueError(f"`effect: {self.effect}` is for columns: column:<domain>")
        return self


class PolicyConfig(Section):
    """Groups and rules; a list alone is taken for the rules."""

    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)  # members: principals, groups
    rules: tuple[PolicyRule, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _rules_alone(cls, value: Any) -> Any:
        return {"rules": value} if isinstance(value, list | tuple) else value

    def members(self, patterns: tuple[str, ...]) -> tuple[str, ...]:
        """The patterns with every group replaced by its members, groups in groups as well."""
        return _expanded(self.groups, patterns)


def _expanded(groups: Mapping[str, tuple[str, ...]], patterns: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(reversed(patterns))
    while waiting:
        pattern = waiting.pop()
        if not pattern.startswith(GROUP):
            found[pattern] = None
            continue
        name = pattern.removeprefix(GROUP)
        if name not in seen:  # a group that contains itself adds nothing
            seen.add(name)
            waiting += reversed(groups.get(name, ()))
    return tuple(found)


def globs(patterns: Sequence[str]) -> re.Pattern[str]:
    """Matches in full what one of the patterns describes. Only `*` is special: fnmatch would also give
    a meaning to `[` and `?`, which are legal in a quoted PostgreSQL identifier and an object key."""
    one_of = "|".join(".*".join(re.escape(piece) for piece in p.split("*")) for p in patterns)
    return re.compile(one_of, re.DOTALL)


def names_that_miss(
    policy: PolicyConfig, columns: Mapping[str, str]
) -> list[tuple[tuple[str | int, ...], str]]:
    """Patterns that match where a column is, but not the domain that it was given (`columns`: path to
    domain). A mask or deny so written would protect nothing."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    for i, rule in enumerate(policy.rules):
        for k, pattern in enumerate(rule.resources):
            matches = globs((pattern,)).fullmatch
            for path, domain in columns.items():
                if matches(f"column:{path}") and not matches(f"column:{domain}"):
                    at = ("policy", "rules", i, "resources", k)
                    found.append((at, f"{path} has the domain {domain}; write column:{domain}"))
    return found


def unknown_groups(policy: PolicyConfig) -> list[tuple[tuple[str | int, ...], str]]:
    """Groups that are used and not defined, with the place of each."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    places: list[tuple[tuple[str | int, ...], tuple[str, ...]]] = [
        (("policy", "groups", name), members) for name, members in policy.groups.items()
    ]
    places += [
        (("policy", "rules", i, "principals"), rule.principals)
        for i, rule in enumerate(policy.rules)
    ]
    for at, patterns in places:
        for i, pattern in enumerate(patterns):
            name = pattern.removeprefix(GROUP)
            if pattern.startswith(GROUP) and name not in policy.groups:
                known = ", ".join(sorted(policy.groups)) or "none"
                found.append(((*at, i), f"no group {name!r} in policy.groups; there are: {known}"))
    return found
