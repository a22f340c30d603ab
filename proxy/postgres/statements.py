"""Which prepared statement or portal does a name mean, at this point of a pipelined stream?

Pure. The server's truth changes only when it answers, while the client may be many messages
ahead. Only names that (may) stand for something the session must treat are kept here; the native
framing looks into the same dicts and lets every other name through. A change that is on its way
decides for messages of the same segment (up to Sync), since the server skips those if it fails;
for later segments the name is uncertain until the answer is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from proxy.native import RowPlan
from proxy.postgres.messages import Bind
from proxy.postgres.plan import Cursor, StatementPlan
from proxy.postgres.snapshot import ProtectedColumn

T = TypeVar("T")

# A Bind of a statement that no client can have prepared makes the server fail where we do.
POISON_NAME = b"sealgate refused " + secrets.token_hex(8).encode()
POISON = Bind(b"", POISON_NAME, (), (), ()).message()


class Uncertain(Exception):
    """The meaning of the name depends on an answer that is still to come."""


@dataclass(eq=False)
class Statement:
    """A prepared statement that needs treatment. `oids`: what the client declared at Parse.

    The server analyses a statement anew when search_path or the schema have changed, so its plan
    holds only `as_of` the settings and the schema it was made under (see `ClientSide._still`).
    """

    plan: StatementPlan
    oids: tuple[int, ...]
    sql: bytes
    as_of: tuple[int, int]
    clears_statements: bool = False  # DEALLOCATE or DISCARD
    slow: bool = False  # its Binds are not done natively
    several: frozenset[ProtectedColumn] = frozenset()  # had several index keys when prepared


@dataclass(frozen=True)
class Portal:
    statement: Statement
    rows: RowPlan | None
    result_formats: tuple[int, ...]  # the client's, one per output column where `rows` is set
    cursor: Cursor | None = None  # made by DECLARE


@dataclass(eq=False)
class Change(Generic[T]):
    """A Parse, Bind or Close on its way; `value` is what the name means after it."""

    names: Names[T]
    name: bytes
    value: T | None
    segment: int
    also: Change[Any] | None = None  # what the same message makes of the name in another table

    def done(self) -> None:
        self.names._settle(self, True)
        if self.also is not None:
            self.also.done()

    def lost(self) -> None:
        self.names._settle(self, False)
        if self.also is not None:
            self.also.lost()


@dataclass
class _Slot(Generic[T]):
    current: T | None = None
    changes: list[Change[T]] = field(default_factory=list)


class Names(Generic[T]):
    def __init__(self) -> None:
        self.table: dict[bytes, _Slot[T]] = {}

    def __len__(self) -> int:
        return len(self.table)

    def look(self, name: bytes, segment: int) -> T | None:
        """What `name` means to a message sent now; None: nothing to treat. Raises Uncertain."""
        slot = self.table.get(name)
        if slot is None:
            return None
        if not slot.changes:
            return slot.current
        last = slot.changes[-1]
        if last.segment == segment:
            return last.value
        if slot.current is None and all(c.value is None for c in slot.changes):
            return None
        raise Uncertain

    def change(
        self, name: bytes, value: T | None, segment: int, also: Change[Any] | None = None
    ) -> Change[T]:
        """Notes a change that goes to the server now."""
        slot = self.table.setdefault(name, _Slot())
        change = Change(self, name, value, segment, also)
        slot.changes.append(change)
        return change

    def settled(self, name: bytes) -> bool:
        """What the name means is known for sure: nothing that changes it is on its way."""
        slot = self.table.get(name)
        return slot is not None and not slot.changes

    def _settle(self, change: Change[T], happened: bool) -> None:
        slot = self.table.get(change.name)
        if slot is None or change not in slot.changes:
            return
        slot.changes.remove(change)
        if happened:
            slot.current = change.value
        self._tidy(change.name, slot)

    def _tidy(self, name: bytes, slot: _Slot[T]) -> None:
        if slot.current is None and not slot.changes:
            del self.table[name]

    def assume(self, name: bytes, value: T) -> None:
        """The name may mean this by now, of which no answer will tell."""
        self.table.setdefault(name, _Slot()).current = value

    def forget(self, keep: Callable[[T], bool] = lambda value: False) -> None:
        """The server has dropped all names but those to keep; changes on their way stay."""
        for name, slot in list(self.table.items()):
            if slot.current is not None and not keep(slot.current):
                slot.current = None
            self._tidy(name, slot)


ANY_NAME = b"\0"  # SQL may have prepared any; no name has a zero in it
_MOST_NAMES = 65536


class PlainNames(Names[bool]):
    """Statements that are at the server as the client sent them; the framing looks into `table`.

    A name that was closed, deallocated or never taken is none of them, from the answer on: values bound to
    it may be meant for something protected.
    """

    def may_be(self, name: bytes, segment: int) -> bool:
        """Whether the server may have such a statement for a message sent now. Raises Uncertain."""
        if ANY_NAME in self.table:
            return True
        slot = self.table.get(name)
        if slot is not None and slot.changes and slot.changes[-1].value:
            return True  # it was sent: what is bound to it is meant for it
        return bool(self.look(name, segment))

    def sent(
        self, name: bytes, segment: int, also: Change[Any] | None = None
    ) -> Change[Any] | None:
        """A Parse or PREPARE of this name goes to the server as it is. Of too many names `also` is left:
        then any may be there."""
        if len(self.table) >= _MOST_NAMES:
            self.assume(ANY_NAME, True)
            return also
        return self.change(name, True, segment, also)
