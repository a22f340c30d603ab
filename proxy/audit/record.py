"""What is written down about a decision on a key? Names, ids and results; never a value or a key.

Leaf module. Fields are strings or numbers that an operator may see (docs/reference/keys.md,
"Audit lines"); the order is fixed, so that a line can later be chained and verified as bytes.
"""

from dataclasses import dataclass
from typing import Literal

Result = Literal["allowed", "denied", "unavailable", "tampered"]


@dataclass(frozen=True, slots=True)
class KeyDecision:
    """One decision about a key. `rule` None: the default decided. `count` > 1: a summary of
    decisions that were answered from the cache."""

    event: str  # "key.fetch" | "key.deny" | "key.uses"
    principal: str
    resource: str
    action: str
    ring: str
    result: Result
    rule: int | None = None
    detail: str = ""
    count: int = 1

    def fields(self) -> dict[str, str | int | None]:
        return {
            "principal": self.principal,
            "resource": self.resource,
            "action": self.action,
            "ring": self.ring,
            "result": self.result,
            "rule": self.rule,
            "detail": self.detail,
            "count": self.count,
        }


@dataclass(frozen=True, slots=True)
class OperatorAct:
    """What an operator did to a ring or root."""

    event: str  # "root.create" | "ring.create" | "ring.rotate" | "ring.state"
    ring: str
    version: int
    detail: str = ""

    def fields(self) -> dict[str, str | int | None]:
        return {"ring": self.ring, "version": self.version, "detail": self.detail}
