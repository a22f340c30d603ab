"""May this principal do this to this resource? Pure, deterministic, and cached.

Rules come from `config.model.PolicyRule`. Without any rule every authenticated principal may seal
and open. With rules the default is deny, and a deny beats every allow, wherever it stands. The
answer names the rule by its index in the configuration, so that the audit log and `policy explain`
can show it. What a refusal looks like to a client is the protocol edge's business.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.config.model import PolicyRule
from proxy.policy.model import Action, Principal, Resource

_CACHE_ENTRIES = 65_536


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is the index of the rule that decided; None: the default did."""

    allowed: bool
    rule: int | None


@dataclass(frozen=True, slots=True)
class _Compiled:
    principals: re.Pattern[str]
    resources: re.Pattern[str]
    actions: frozenset[str]
    allow: bool


class Policy:
    """Decides; remembers decisions in a bounded LRU (the rules cannot change under it)."""

    def __init__(self, rules: Sequence[PolicyRule]) -> None:
        self._rules = tuple(
            _Compiled(
                _globs(rule.principals),
                _globs(rule.resources),
                frozenset(rule.actions),
                rule.effect == "allow",
            )
            for rule in rules
        )
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
            return Decision(True, None)
        who = f"{principal.kind}:{principal.name}"
        what = f"{resource.kind}:{resource.name}"
        allowed_by: int | None = None
        for index, rule in enumerate(self._rules):
            if action.value not in rule.actions:
                continue
            if rule.principals.fullmatch(who) is None or rule.resources.fullmatch(what) is None:
                continue
            if not rule.allow:
                return Decision(False, index)
            if allowed_by is None:
                allowed_by = index
        return Decision(allowed_by is not None, allowed_by)


def _globs(patterns: Sequence[str]) -> re.Pattern[str]:
    # Only `*` is special. fnmatch would also give a meaning to `[` and `?`, which are legal in a
    # quoted PostgreSQL identifier and in an object key.
    one_of = "|".join(".*".join(re.escape(piece) for piece in p.split("*")) for p in patterns)
    return re.compile(one_of, re.DOTALL)
