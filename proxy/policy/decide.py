"""May this principal do this to this resource? Pure, deterministic, and cached.

Rules come from `config.model.PolicyRule`. Without any rule every authenticated principal may seal
and open. With rules the default is deny, and the strictest rule that matches decides, wherever it
stands: deny, null, ciphertext, mask, allow. The
answer names the rule by its index in the configuration, so that the audit log and `policy explain`
can show it. What a refusal looks like to a client is the protocol edge's business.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.config.model import PolicyRule
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict

_CACHE_ENTRIES = 65_536


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


# The strictest rule that matches decides, wherever it stands.
_STRICTEST = (Verdict.DENY, Verdict.NULL, Verdict.CIPHERTEXT, Verdict.MASK, Verdict.REVEAL)
_OPENS: dict[Action, tuple[Verdict, ...]] = {
    Action.SEAL: (Verdict.REVEAL,),
    Action.OPEN: (Verdict.REVEAL,),
    Action.MASK: (Verdict.REVEAL, Verdict.MASK),
}


class Policy:
    """Decides; remembers decisions in a bounded LRU (the rules cannot change under it)."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self._rules = tuple(
            _Compiled(
                _globs(rule.principals),
                _globs(rule.resources),
                frozenset(rule.actions),
                Verdict.REVEAL if rule.effect == "allow" else Verdict(rule.effect),
                Mask(rule.mask, rule.mask_text) if rule.mask is not None else None,
            )
            for rule in rules
        )
        # whether any reader is shown something else than the value or an error
        self.shows = any(r.verdict not in (Verdict.REVEAL, Verdict.DENY) for r in self._rules)
        self._known: OrderedDict[tuple[Principal, Resource, Action], Decision] = OrderedDict()

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

    def _evaluate(self, principal: Principal, resource: Resource, action: Action) -> Decision:
        if not self._rules:
            return Decision(True, None, Verdict.REVEAL)
        who = f"{principal.kind}:{principal.name}"
        what = f"{resource.kind}:{resource.name}"
        asked = Action.SEAL if action is Action.SEAL else Action.OPEN
        found: tuple[int, int] | None = None  # (place in _STRICTEST, index of the rule)
        for index, rule in enumerate(self._rules):
            if asked.value not in rule.actions:
                continue
            if asked is Action.SEAL and rule.verdict not in (Verdict.DENY, Verdict.REVEAL):
                continue  # what readers are shown says nothing of writers
            if rule.principals.fullmatch(who) is None or rule.resources.fullmatch(what) is None:
                continue
            place = (_STRICTEST.index(rule.verdict), index)
            found = place if found is None else min(found, place)
        if found is None:
            return Decision(False, None)
        verdict, mask = _STRICTEST[found[0]], self._rules[found[1]].mask
        return Decision(verdict in _OPENS[action], found[1], verdict, mask)


def _globs(patterns: Sequence[str]) -> re.Pattern[str]:
    # Only `*` is special. fnmatch would also give a meaning to `[` and `?`, which are legal in a
    # quoted PostgreSQL identifier and in an object key.
    one_of = "|".join(".*".join(re.escape(piece) for piece in p.split("*")) for p in patterns)
    return re.compile(one_of, re.DOTALL)
