"""When does a rule hold: hours, moments, networks, identities, purposes; and groups."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.load import parse
from proxy.config.policy import Hours, PolicyConfig, When
from proxy.errors import ConfigError
from proxy.keys.agent.messages import OpenItem, open_item, open_request, parse_open_request
from proxy.keys.providers.base import Asking
from proxy.policy.conditions import Who, in_force
from proxy.policy.decide import Decision, Policy
from proxy.policy.model import Action, Circumstances, Principal, Resource
from tests.unit.test_config_load import MINIMAL

CARD = Resource("column", "shop.public.people.card", "shop")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
moments = st.datetimes(datetime(2024, 1, 1), datetime(2028, 1, 1)).map(
    lambda m: m.replace(tzinfo=UTC)
)
clocks = st.integers(0, 24 * 60).map(lambda m: f"{m // 60:02}:{m % 60:02}")
hours = st.builds(
    Hours,
    days=st.lists(st.sampled_from(DAYS), min_size=1, unique=True).map(tuple),
    start=clocks.filter(lambda c: c != "24:00"),
    end=clocks,
    zone=st.sampled_from(("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")),
)


def asks(policy: Policy, name: str = "app", **known: str) -> bool:
    who = Principal("postgres", name, Circumstances(**known))
    return policy.decide(who, CARD, Action.OPEN).allowed


def policy(*rules: dict[str, object], now: datetime | None = None, **groups: list[str]) -> Policy:
    common: dict[str, object] = {"principals": ["postgres:app"], "resources": ["column:*"]}
    written = {"groups": groups, "rules": [common | r for r in rules]}
    return Policy(PolicyConfig.model_validate(written), now)


@given(hours, moments)
def test_the_answer_holds_until_the_moment_that_is_told_and_changes_only_there(
    span: Hours, now: datetime
) -> None:
    when = When(hours=span)
    inside, until = in_force(when, now)
    assert until is not None and until > now
    step = (until - now) / 7
    for i in range(1, 7):
        assert in_force(when, now + i * step)[0] is inside


@given(hours, moments)
def test_hours_are_on_the_clock_of_their_place(span: Hours, now: datetime) -> None:
    """Against a second way of telling: minutes since midnight, away from changes of the clocks."""
    zone = ZoneInfo(span.zone)
    local = now.astimezone(zone)
    if len({(local + timedelta(days=d)).utcoffset() for d in (-2, -1, 0, 1, 2)}) > 1:
        return
    at = local.strftime("%H:%M")
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    if span.end > span.start:
        expected = today in span.days and span.start <= at < span.end
    else:
        expected = (today in span.days and at >= span.start) or (
            yesterday in span.days and at < span.end
        )
    assert in_force(When(hours=span), now)[0] is expected


def test_hours_follow_the_clocks_into_summer() -> None:
    when = When(hours=Hours(start="08:00", end="18:00", zone="Europe/Berlin"))
    assert not in_force(when, datetime(2026, 3, 28, 6, 30, tzinfo=UTC))[0]  # 07:30 in winter
    assert in_force(when, datetime(2026, 3, 29, 6, 30, tzinfo=UTC))[0]  # 08:30 in summer


def test_a_policy_says_when_it_has_to_be_made_again() -> None:
    begins = datetime(2026, 12, 1, tzinfo=UTC)
    ends = begins + timedelta(days=1)
    made = policy(
        {"when": {"not_before": begins.isoformat(), "not_after": ends.isoformat()}},
        now=begins - timedelta(seconds=5),
    )
    assert made.until == begins and not asks(made)
    assert not made.stale(begins - timedelta(seconds=1)) and made.stale(begins)
    made = made.renewed(begins)
    assert asks(made) and made.until == ends
    made = made.renewed(ends)
    assert not asks(made) and made.until is None
    assert made.stale(begins)  # a clock that was set back


@pytest.mark.parametrize(
    ("networks", "client", "holds"),
    [
        (["10.1.0.0/16"], "10.1.200.3", True),
        (["10.1.0.0/16"], "10.2.0.1", False),
        (["10.1.0.0/16"], "::ffff:10.1.0.9", True),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["10.1.0.0/16"], "local", False),
        (["local"], "local", True),
        (["local"], "127.0.0.1", False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["0.0.0.0/0"], "nonsense", False),
    ],
)
def test_networks(networks: list[str], client: str, holds: bool) -> None:
    made = policy({"when": {"networks": networks}})
    assert asks(made, client=client) is holds


@pytest.mark.parametrize(
    ("purposes", "stated", "holds"),
    [
        (["case-*"], "case-17", True),
        (["case-*"], "", False),
        (["*"], "", False),
        (["a"], "ab", False),
    ],
)
def test_what_is_not_stated_matches_nothing(purposes: list[str], stated: str, holds: bool) -> None:
    assert asks(policy({"when": {"purposes": purposes}}), purpose=stated) is holds
    assert asks(policy({"when": {"identities": purposes}}), identity=stated) is holds


def test_all_conditions_of_a_rule_must_hold_and_the_missing_one_is_told() -> None:
    who = Who(When(networks=("10.0.0.0/8",), purposes=("audit",)))
    assert who.lacks(Circumstances("10.0.0.1", purpose="audit")) is None
    assert who.lacks(Circumstances("11.0.0.1", purpose="audit")) == "network"
    assert who.lacks(Circumstances("10.0.0.1")) == "purpose"


def test_principals_of_one_name_in_other_circumstances_are_not_confused() -> None:
    made = policy({"when": {"purposes": ["audit"]}})
    for _ in range(2):
        assert asks(made, purpose="audit")
        assert not asks(made)


def test_groups_contain_groups_and_may_contain_themselves() -> None:
    made = policy(
        {"principals": ["group:all"]},
        all=["group:desk", "postgres:boss", "group:all"],
        desk=["postgres:ann*"],
    )
    assert asks(made, "anna") and asks(made, "boss") and not asks(made, "eve")
    assert not asks(policy({"principals": ["group:nobody"]}, nobody=[]), "anna")


def test_rules_may_name_rings() -> None:
    made = policy({}, {"resources": ["ring:shop"], "effect": "deny"})
    who = Principal("postgres", "app")
    assert made.decide(who, CARD, Action.OPEN) == Decision(False, 1)
    assert made.decide(who, Resource("column", "a.b.c.d", "other"), Action.OPEN).allowed


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "[{principals: ['group:x'], resources: ['*']}]",
            "2:24: policy.0.principals.0: no group 'x'",
        ),
        ("{rules: [{principals: ['*'], resources: ['*'], when: {}}]}", "policy.rules.0.when"),
        (
            "[{principals: ['*'], resources: ['*'], when: {networks: ['10.0.0.1/8']}}]",
            "has host bits set",
        ),
        (
            "[{principals: ['*'], resources: ['*'], when: {hours: {zone: Berlin}}}]",
            "no time zone 'Berlin'",
        ),
        (
            "[{principals: ['*'], resources: ['*'], when: {not_before: 2026-01-01T00:00:00}}]",
            "timezone",
        ),
        ("[{principals: ['*'], resources: ['bucket:*'], effect: 'null'}]", "is for columns"),
    ],
)
def test_a_mistake_is_named_at_its_place(written: str, said: str) -> None:
    text = f"# one\npolicy: {written}\n{MINIMAL}"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", {})
    assert said in str(caught.value), caught.value


def test_principals_that_differ_in_their_circumstances_only_are_spread_over_the_cache() -> None:
    """A client chooses its purpose: with equal hashes each decision would walk through all of them."""
    made = [
        Principal("postgres", "app", Circumstances(f"10.0.0.{i % 50}", "", f"case-{i}"))
        for i in range(1000)
    ]
    assert len({hash(p) for p in made}) == len(made)
    again = Principal("postgres", "app", Circumstances("10.0.0.7", "", "case-7"))
    assert (hash(again), again) == (hash(made[7]), made[7])


def test_the_agent_hears_of_the_circumstances() -> None:
    who = Principal("mtls", "a", Circumstances("10.0.0.1", "CN=a", "case-1"))
    item = OpenItem("shop", b"record", Asking(who, CARD, Action.OPEN))
    (heard,) = parse_open_request(open_request([open_item(item)]))
    assert heard.asking is not None and heard.asking.principal == who


def test_a_rule_that_names_a_column_by_its_path_beside_a_domain_is_a_mistake() -> None:
    text = MINIMAL.replace("type: text,", "type: text, domain: people.mail,") + (
        "policy:\n"
        "  - {principals: ['*'], resources: ['*', 'column:people.mail']}\n"
        "  - {principals: ['*'], resources: ['column:shop.public.*'], effect: deny}\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml", {})
    (said,) = str(caught.value).splitlines()
    assert "policy.1.resources.0: shop.public.people.email has the domain people.mail" in said
