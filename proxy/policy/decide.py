"""May this principal do this to this resource? Pure, deterministic, and cached.

Rules come from `config.policy`. Without any rule every authenticated principal may seal and open.
With rules the default is deny, and the strictest rule that matches decides, wherever it stands:
deny, null, ciphertext, mask, allow. The answer names the rule by its index in the configuration, so
that the audit log and `policy explain` can show it. What a refusal looks like to a client is the
protocol edge's business.

A policy is made for a moment and says until when it holds: whoever keeps it makes a new one then.
Between the two, the same question has the same answer.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from proxy.config.policy import PolicyConfig, PolicyRule, globs
from proxy.policy.conditions import Who, in_force
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict

_CACHE_ENTRIES = 65_536
_SLACK = timedelta(seconds=1)  # a clock that is being disciplined may step back a little


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is the index of the rule that decided; None: the default did. `verdict` says what a reader
    is shown; whatever it is but REVEAL, the principal may not open the value itself."""

    allowed: bool
    rule: int | None
    verdict: Verdict = field(default=Verdict.DENY, compare=False)
    mask: Mask | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _Compiled:
    principals: re.Pattern[str]
    resources: re.Pattern[str]
    actions: frozenset[str]
    verdict: Verdict
    mask: Mask | None
    who: Who | None
    in_force: bool


# The strictest rule that matches decides, wherever it stands.
_STRICTEST = (Verdict.DENY, Verdict.NULL, Verdict.CIPHERTEXT, Verdict.MASK, Verdict.REVEAL)
_OPENS: dict[Action, tuple[Verdict, ...]] = {
    Action.SEAL: (Verdict.REVEAL,),
    Action.OPEN: (Verdict.REVEAL,),
    Action.MASK: (Verdict.REVEAL, Verdict.MASK),
}


class Policy:
    """Decides; remembers decisions in a bounded LRU (the rules cannot change under it)."""

    def __init__(
        self, written: PolicyConfig | Sequence[PolicyRule], now: datetime | None = None
    ) -> None:
        """`now` (aware; default: the clock's) is the moment that conditions of time are settled for."""
        self.written = written if isinstance(written, PolicyConfig) else PolicyConfig(rules=written)
        self.made = datetime.now(UTC) if now is None else now
        self.until: datetime | None = None  # None: for ever
        self._rules = tuple(self._compiled(rule) for rule in self.written.rules)
        # whether any reader is shown something else than the value or an error
        self.shows = any(r.verdict not in (Verdict.REVEAL, Verdict.DENY) for r in self._rules)
        self._known: OrderedDict[tuple[Principal, Resource, Action], Decision] = OrderedDict()

    def _compiled(self, rule: PolicyRule) -> _Compiled:
        holds, until = (True, None) if rule.when is None else in_force(rule.when, self.made)
        if until is not None:
            self.until = until if self.until is None else min(self.until, until)
        return _Compiled(
            globs(self.written.members(rule.principals)),
            globs(rule.resources),
            frozenset(rule.actions),
            Verdict.REVEAL if rule.effect == "allow" else Verdict(rule.effect),
            Mask(rule.mask, rule.mask_text) if rule.mask is not None else None,
            None if rule.when is None else Who(rule.when),
            holds,
        )

    def stale(self, now: datetime) -> bool:
        """The clock has passed an edge of a condition, or was set back: a new policy has to be made."""
        return now < self.made - _SLACK or (self.until is not None and now >= self.until)

    def renewed(self, now: datetime) -> "Policy":
        return Policy(self.written, now)

    def decide(self, principal: Principal, resource: Resource, action: Action) -> Decision:
        """The decision; never raises. Costs one dictionary look-up when asked again."""
        key = (principal, resource, action)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        decision = self._evaluate(principal, resource, action)
        self._known[key] = decision
        if len(self._known) > _CACHE_ENTRIES:
            self._known.popitem(last=False)
        return decision

    def misses(
        self, index: int, principal: Principal, resource: Resource, action: Action
    ) -> str | None:
        """What keeps a rule from matching: "action", "principal", "resource", "time", "network",
        "identity" or "purpose"; None: it matches."""
        rule = self._rules[index]
        asked = Action.SEAL if action is Action.SEAL else Action.OPEN
        if asked.value not in rule.actions:
            return "action"
        if asked is Action.SEAL and rule.verdict not in (Verdict.DENY, Verdict.REVEAL):
            return "action"  # what readers are shown says nothing of writers
        if rule.principals.fullmatch(f"{principal.kind}:{principal.name}") is None:
            return "principal"
        if (
            rule.resources.fullmatch(f"{resource.kind}:{resource.name}") is None
            and rule.resources.fullmatch(f"ring:{resource.ring}") is None
        ):
            return "resource"
        if not rule.in_force:
            return "time"
        return None if rule.who is None else rule.who.lacks(principal.circumstances)

    def _evaluate(self, principal: Principal, resource: Resource, action: Action) -> Decision:
        if not self._rules:
            return Decision(True, None, Verdict.REVEAL)
        found = min(
            (
                (_STRICTEST.index(rule.verdict), index)
                for index, rule in enumerate(self._rules)
                if self.misses(index, principal, resource, action) is None
            ),
            default=None,
        )
        if found is None:
            return Decision(False, None)
        rule = self._rules[found[1]]
        return Decision(rule.verdict in _OPENS[action], found[1], rule.verdict, rule.mask)
