"""A policy's own tests: who is expected to get what, written beside it and checked without a server.

A file is a list of cases. `who` and `what` are whole names, not patterns; what is left out of the
circumstances is not known. `expect` is allow, deny, or, for readers, mask, null or ciphertext.

    - {who: "postgres:support", what: "column:shop.public.people.card", expect: mask, mask: last4}
    - {who: "postgres:support", what: "column:shop.public.people.card", action: seal, expect: deny}
    - who: "postgres:doctor"
      what: "column:shop.public.people.notes"
      purpose: "treatment"
      client: 10.1.2.3
      at: 2026-12-01T09:00:00+01:00
      expect: allow
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, field_validator

from proxy.config.base import Section
from proxy.config.policy import PolicyConfig
from proxy.policy.decide import Decision, Policy
from proxy.policy.model import Action, Circumstances, Principal, Resource, Verdict

_WORD = {Verdict.REVEAL: "allow"}


class Case(Section):
    """One expectation."""

    who: str  # postgres:app, s3:reader, mtls:billing.example
    what: str  # column:shop.public.people.card, bucket:docs/
    action: Literal["seal", "open"] = "open"
    expect: Literal["allow", "mask", "null", "ciphertext", "deny"]
    mask: Literal["last4", "email", "hash", "fixed"] | None = None  # which mask; none: any
    rule: int | None = None  # the rule that has to decide; none: whichever
    ring: str = ""  # of the resource, where rules name rings
    client: str = ""  # IP address, or local
    identity: str = ""
    purpose: str = ""
    at: AwareDatetime | None = None  # none: now

    @field_validator("who", "what")
    @classmethod
    def _is_a_kind_and_a_name(cls, value: str) -> str:
        kind, colon, name = value.partition(":")
        if not (kind and colon and name):
            raise ValueError(
                f"{value!r} is no name like postgres:app or column:db.schema.table.column"
            )
        return value


def asked(case: Case) -> tuple[Principal, Resource, Action]:
    """What a case asks the policy."""
    kind, _, name = case.who.partition(":")
    known = Circumstances(case.client, case.identity, case.purpose)
    what, _, where = case.what.partition(":")
    return (
        Principal(kind, name, known),
        Resource(what, where, case.ring),
        Action(case.action),
    )


def word_of(decision: Decision) -> str:
    """allow, mask, null, ciphertext or deny."""
    return _WORD.get(decision.verdict, decision.verdict.value)


def failure(case: Case, policy: PolicyConfig) -> str | None:
    """What is wrong with the answer to a case; None: it is as expected."""
    decision = Policy(policy, case.at or datetime.now(UTC)).decide(*asked(case))
    by = "no rule" if decision.rule is None else f"rule {decision.rule}"
    got = word_of(decision)
    if got != case.expect:
        return f"expected {case.expect}, got {got} by {by}"
    if case.mask is not None and (decision.mask is None or decision.mask.pattern != case.mask):
        shown = "none" if decision.mask is None else decision.mask.pattern
        return f"expected mask {case.mask}, got {shown} by {by}"
    if case.rule is not None and decision.rule != case.rule:
        return f"expected rule {case.rule} to decide, it was {by}"
    return None


def explanation(case: Case, policy: PolicyConfig) -> list[str]:
    """Why: one line for the answer, then one for each rule in its order."""
    made = Policy(policy, case.at or datetime.now(UTC))
    principal, resource, action = asked(case)
    decision = made.decide(principal, resource, action)
    mask = f" {decision.mask.pattern}" if decision.mask is not None else ""
    if not policy.rules:
        reason = "there are no rules, so every authenticated principal may"
    elif decision.rule is None:
        reason = "no rule matches, and what no rule allows is denied"
    else:
        reason = f"rule {decision.rule} is the strictest that matches"
    lines = [f"{word_of(decision)}{mask}: {reason}"]
    for index, rule in enumerate(policy.rules):
        missed = made.misses(index, principal, resource, action)
        says = "matches" if missed is None else f"does not match: {missed}"
        lines.append(f"rule {index} ({rule.effect}) {says}")
    if made.until is not None:
        lines.append(f"conditions of time may change this at {made.until.isoformat()}")
    return lines
