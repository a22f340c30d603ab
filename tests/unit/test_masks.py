"""Verdicts on columns: the strictest rule decides, masks keep the type, nothing shown needs no key."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from proxy.config.model import PolicyRule
from proxy.policy.decide import Policy
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict
from proxy.postgres.masks import masked, needs_no_key, shown_to
from proxy.postgres.plan import Plan, StatementPlan
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.types.registry import resolve
from proxy.postgres.values import needed_for_rows

EMAIL = Resource("column", "shop.public.users.email", "app")
CLERK = Principal("postgres", "clerk")


def column(kind: str = "text", equality: bool = False) -> ProtectedColumn:
    return ProtectedColumn("public", "users", "email", EMAIL.name, resolve(kind), "app", equality)


def policy(*effects: str) -> Policy:
    return Policy(
        [
            PolicyRule.model_validate(
                {"principals": ("*",), "resources": ("column:*",), "effect": effect,
                 "mask": "last4" if effect == "mask" else None}
            )
            for effect in effects
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("effects", "verdict", "seal", "open_", "mask"),
    [
        (("allow",), Verdict.REVEAL, True, True, True),
        (("allow", "mask"), Verdict.MASK, True, False, True),
        (("ciphertext", "mask", "allow"), Verdict.CIPHERTEXT, True, False, False),
        (("mask", "null", "ciphertext"), Verdict.NULL, False, False, False),
        (("null", "deny", "allow"), Verdict.DENY, False, False, False),
    ],
)
def test_the_strictest_rule_decides_what_a_reader_is_shown(
    effects: tuple[str, ...], verdict: Verdict, seal: bool, open_: bool, mask: bool
) -> None:
    rules = policy(*effects)
    assert rules.decide(CLERK, EMAIL, Action.OPEN).verdict is verdict
    allowed = [
        rules.decide(CLERK, EMAIL, a).allowed for a in (Action.SEAL, Action.OPEN, Action.MASK)
    ]
    assert allowed == [seal, open_, mask]


@pytest.mark.parametrize(
    ("pattern", "kind", "value", "shown"),
    [
        ("last4", "text", "4111111111111111", "************1111"),
        ("last4", "text", "1234", "****"),
        ("last4", "char(8)", "12345", "*2345   "),
        ("email", "text", "ada@example.org", "a***@example.org"),
        ("email", "text", "no address", "***"),
        ("email", "varchar(6)", "ada@example.org", "a***@e"),
        ("fixed", "varchar(3)", "anything", "hid"),
        ("hash", "text", "anything", "00112233445566"),
    ],
)
def test_a_mask_is_a_text_of_the_declared_length(
    pattern: str, kind: str, value: str, shown: str
) -> None:
    mask = Mask(pattern, "hidden")  # type: ignore[arg-type]
    tag = bytes.fromhex("00112233445566")
    assert masked(mask, value.encode(), column(kind), tag).decode() == shown


def outputs(verdict: Verdict, mask: Mask | None, *columns: ProtectedColumn) -> tuple[object, ...]:
    plan = Plan((StatementPlan((b"",), True, outputs=columns),), 1)
    shown = shown_to(plan, lambda column: (verdict, mask)).statements[0].outputs
    assert shown is not None
    return shown


def test_verdicts_become_outputs_of_the_declared_type() -> None:
    text, number = column(), column("int4")
    last4, digest = Mask("last4"), Mask("hash")
    assert outputs(Verdict.REVEAL, None, text) == (text,)
    assert outputs(Verdict.CIPHERTEXT, None, text) == (None,)
    assert outputs(Verdict.NULL, None, text) == (replace(text, shown=Verdict.NULL),)
    assert outputs(Verdict.MASK, last4, text) == (replace(text, shown=last4),)
    assert outputs(Verdict.MASK, last4, number) == (replace(number, shown=Verdict.NULL),)
    assert outputs(Verdict.MASK, digest, text) == (replace(text, shown=Verdict.NULL),)
    tagged = column(equality=True)
    assert outputs(Verdict.MASK, digest, tagged) == (replace(tagged, shown=digest),)


def test_what_is_not_shown_asks_for_no_key() -> None:
    null, fixed = (replace(column(), shown=s) for s in (Verdict.NULL, Mask("fixed", "x")))
    last4 = replace(column(), shown=Mask("last4"))
    assert needs_no_key(null) and needs_no_key(fixed)
    assert needed_for_rows((null, fixed, None, last4)) == {(last4, Action.MASK)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"effect": "mask"},
        {"effect": "allow", "mask": "last4"},
        {"effect": "mask", "mask": "last4", "mask_text": "x"},
        {"effect": "null", "actions": ("seal",)},
        {"effect": "null", "resources": ("bucket:*",)},
    ],
)
def test_a_rule_that_says_nothing_sensible_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PolicyRule.model_validate({"principals": ("*",), "resources": ("column:*",)} | wrong)
