"""proxy/policy/decide.py and leakage.py, and proxy/config/secrets.py."""

import os
from pathlib import Path

import pytest

from proxy.config import secrets
from proxy.config.model import ColumnConfig, PolicyRule, SecretRef
from proxy.errors import ConfigError
from proxy.policy import leakage
from proxy.policy.decide import Decision, Policy
from proxy.policy.model import Action, Principal, Resource

APP = Principal("postgres", "app")
EMAIL = Resource("column", "shop.public.users.email", "shop")


def rule(who: str, what: str, effect: str = "allow", actions: str = "seal open") -> PolicyRule:
    return PolicyRule.model_validate(
        {
            "principals": (who,),
            "resources": (what,),
            "effect": effect,
            "actions": tuple(actions.split()),
        }
    )


def test_without_rules_every_principal_may() -> None:
    assert Policy(()).decide(APP, EMAIL, Action.OPEN) == Decision(True, None)


def test_with_rules_the_default_is_deny() -> None:
    policy = Policy([rule("postgres:admin", "column:*")])
    assert policy.decide(APP, EMAIL, Action.OPEN) == Decision(False, None)


def test_a_deny_beats_an_allow_before_it_and_names_itself() -> None:
    policy = Policy(
        [
            rule("*", "*"),
            rule("postgres:*", "column:shop.public.*"),
            rule("postgres:app", "column:*.email", "deny", "open"),
        ]
    )
    assert policy.decide(APP, EMAIL, Action.OPEN) == Decision(False, 2)
    assert policy.decide(APP, EMAIL, Action.SEAL) == Decision(True, 0)
    assert policy.decide(APP, EMAIL, Action.OPEN) == Decision(False, 2)  # from the cache


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("bucket:docs/*", "docs/a/b", True),
        ("bucket:docs/*", "docs", False),
        ("bucket:docs/*", "docs2/a", False),
        ("bucket:d[o]cs/*", "docs/a", False),
        ("bucket:d[o]cs/*", "d[o]cs/a", True),
        ("bucket:d?cs", "docs", False),
        ("bucket:*.x", "a\nb.x", True),
        ("bucket:a.c", "abc", False),
        ("*", "anything", True),
    ],
)
def test_only_the_star_is_special(pattern: str, name: str, matches: bool) -> None:
    decision = Policy([rule("*", pattern)]).decide(
        APP, Resource("bucket", name, "docs"), Action.OPEN
    )
    assert decision.allowed is matches


def test_a_principal_of_another_kind_is_another_principal() -> None:
    policy = Policy([rule("postgres:app", "*")])
    assert not policy.decide(Principal("s3", "app"), EMAIL, Action.OPEN).allowed


def column(**fields: object) -> ColumnConfig:
    return ColumnConfig.model_validate(
        {"column": "public.users.email", "type": "text", "ring": "shop", **fields}
    )


def codes(*columns: ColumnConfig) -> list[tuple[str, bool]]:
    return [(f.code, f.refused) for f in leakage.findings(columns)]


@pytest.mark.parametrize(
    "declared",
    ["bool", "BOOLEAN", "int2", "smallint", "date", "char(1)", "character varying ( 1 )", "bit",
     '"char"', "mood", "public.mood", "char"],
)  # fmt: skip
def test_equality_on_few_values_is_refused_until_acknowledged(declared: str) -> None:
    assert ("equality-low-cardinality", True) in codes(column(type=declared, equality=True))
    accepted = column(type=declared, equality=True, acknowledge=("equality-low-cardinality",))
    assert ("equality-low-cardinality", False) in codes(accepted)
    assert leakage.refusals([accepted]) == []
    assert not any(code.startswith("equality") for code, _ in codes(column(type=declared)))


@pytest.mark.parametrize("declared", ["text", "varchar(40)", "int4", "uuid", "numeric(12,2)"])
def test_equality_on_many_values_is_told_but_not_refused(declared: str) -> None:
    found = codes(column(type=declared, equality=True))
    assert ("equality", False) in found
    assert not any(refused for _, refused in found)


def test_length_leaks_unless_fixed_or_padded() -> None:
    assert codes(column()) == [("length", False)]
    assert codes(column(pad_to_bytes=64)) == []
    assert codes(column(type="uuid")) == []
    assert codes(column(type="int4[]")) == [("length", False)]


def test_a_shared_domain_is_told_for_each_column() -> None:
    a = column(equality=True, domain="people")
    b = column(column="public.orders.email", equality=True, domain="people")
    shared = [f for f in leakage.findings([a, b]) if f.code == "equality-shared-domain"]
    assert [f.column for f in shared] == ["public.users.email", "public.orders.email"]
    assert "public.orders.email" in shared[0].text


def test_a_secret_comes_from_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALGATE_TEST_PIN", "1234")
    path = tmp_path / "pin"
    path.write_bytes(b"12 34\r\n")
    assert secrets.resolve_bytes(SecretRef(env="SEALGATE_TEST_PIN")) == bytearray(b"1234")
    assert secrets.resolve(SecretRef(file=str(path))) == "12 34"
    assert secrets.resolve(SecretRef(command="printf 'a b'")) == "a b"


@pytest.mark.parametrize(
    "ref",
    [
        SecretRef(),
        SecretRef(env="A", file="b"),
        SecretRef(env="SEALGATE_TEST_NOT_SET"),
        SecretRef(file="/nonexistent/pin"),
        SecretRef(file="/dev/null"),
        SecretRef(command="false"),
        SecretRef(command="/nonexistent/program"),
        SecretRef(command="'unbalanced"),
        SecretRef(command=""),
    ],
    ids=repr,
)
def test_a_secret_that_cannot_be_had_is_a_configuration_error(ref: SecretRef) -> None:
    with pytest.raises(ConfigError):
        secrets.resolve_bytes(ref)


def test_an_error_never_shows_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    path.write_bytes(b"\xff\xfehunter2")
    with pytest.raises(ConfigError) as caught:
        secrets.resolve(SecretRef(file=os.fspath(path)))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_order_and_match_want_to_be_acknowledged_and_range_does_not() -> None:
    from proxy.config.model import MatchConfig, RangeConfig

    one = ColumnConfig(column="p.t.a", type="int4", ring="r", order=True)
    two = ColumnConfig(column="p.t.b", type="date", ring="r", order=True, acknowledge=("order",))
    name = ColumnConfig(
        column="p.t.c", type="text", ring="r", match=MatchConfig(), transform="lower"
    )
    pay = ColumnConfig(
        column="p.t.d", type="int8", ring="r", range=RangeConfig(low="0", high="9", width="1")
    )
    refused = {(f.column, f.code) for f in leakage.refusals([one, two, name, pay])}
    assert refused == {
        ("p.t.a", "order"), ("p.t.a", "order-correlated"), ("p.t.b", "order-correlated"),
        ("p.t.c", "match"),
    }  # fmt: skip
    assert {"transform", "range"} <= {f.code for f in leakage.findings([name, pay])}


def test_a_transform_of_a_type_with_few_values_wants_to_be_acknowledged() -> None:
    few = ColumnConfig(column="p.t.a", type="varchar(1)", ring="r", transform="upper")
    assert [f.code for f in leakage.refusals([few])] == ["equality-low-cardinality"]
