"""What is written down about a decision on a key? Names, ids and results; never a value or a key.

Fields are strings or numbers that an operator may see; `events.py` is the table of all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from proxy.audit.events import Field

Result = Literal["allowed", "denied", "unavailable", "tampered"]


class Line(Protocol):
    """What a sink takes: an event of the table, and its fields."""

    @property
    def event(self) -> str: ...
    def fields(self) -> dict[str, Field]: ...


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

    def fields(self) -> dict[str, Field]:
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

    def fields(self) -> dict[str, Field]:
        return {"ring": self.ring, "version": self.version, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Happening:
    """Any other event of the table."""

    event: str
    details: Mapping[str, Field] = field(default_factory=dict)

    def fields(self) -> dict[str, Field]:
        return dict(self.details)
