"""What is a key ring, which states may its versions take, and how is it written down?

Pure and immutable: every change returns a new `Ring` with the next generation and one more line of
history; a store writes it. The document form is docs/reference/keys.md, "Ring document".

    active ──rotate──▶ retired ──disable──▶ disabled ──destroy──▶ destroyed
      └───────────────disable──────────────▶    │
                              retired ◀──enable─┘

`active` seals and opens (at most one), `retired` opens, `disabled` refuses and can come back (as
retired: only a rotation makes an active version, so that a ring never silently goes back to an old
key), `destroyed` has lost its wrapped key for good.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from proxy.keys import record as records
from proxy.keys.record import Record, RecordError

FORMAT = "sealgate-ring/1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class RingError(ValueError):
    """The change or the document is not allowed; the text says which rule."""


class State(Enum):
    ACTIVE = "active"
    RETIRED = "retired"
    DISABLED = "disabled"
    DESTROYED = "destroyed"


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.ACTIVE: frozenset({State.DISABLED}),  # only a rotation retires it
    State.RETIRED: frozenset({State.DISABLED}),
    State.DISABLED: frozenset({State.RETIRED, State.DESTROYED}),
    State.DESTROYED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Version:
    number: int  # 1, 2, 3 … in order of creation
    key_id: bytes  # 16, derived from the key
    state: State
    created: int  # Unix seconds
    wrapped: Record | None  # None: destroyed


@dataclass(frozen=True, slots=True)
class Event:
    generation: int
    time: int  # Unix seconds
    event: str  # "create" | "rotate" | the new state of a version
    version: int


@dataclass(frozen=True, slots=True)
class Ring:
    """`generation` grows by one with each change; stores compare it before they write."""

    name: str
    generation: int
    versions: tuple[Version, ...]
    history: tuple[Event, ...]

    @property
    def active(self) -> Version | None:
        return next((v for v in self.versions if v.state is State.ACTIVE), None)

    @property
    def openable(self) -> tuple[Version, ...]:
        """Active and retired versions, the active one first, then the newest first."""
        usable = [v for v in self.versions if v.state in (State.ACTIVE, State.RETIRED)]
        return tuple(sorted(usable, key=lambda v: (v.state is not State.ACTIVE, -v.number)))

    def next_number(self) -> int:
        return 1 + max((v.number for v in self.versions), default=0)


def check_name(name: str) -> str:
    """The name, or RingError: a ring's name is also a file's and an object's."""
    if _NAME.fullmatch(name) is None:
        raise RingError(
            f"ring name {name!r}: 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit"
        )
    return name


def create(name: str, wrapped: Record, now: int) -> Ring:
    """A ring of generation 1 whose first version is active."""
    if wrapped.subject.version != 1:
        raise RingError("the first version of a ring is 1")
    version = Version(1, wrapped.subject.key_id, State.ACTIVE, now, wrapped)
    return Ring(check_name(name), 1, (version,), (Event(1, now, "create", 1),))


def rotate(ring: Ring, wrapped: Record, now: int) -> Ring:
    """`wrapped` becomes the active version; what was active is retired."""
    number = ring.next_number()
    if wrapped.subject.version != number:
        raise RingError(f"the next version of ring {ring.name} is {number}")
    if any(v.key_id == wrapped.subject.key_id for v in ring.versions):
        raise RingError("this key is in the ring already")
    versions = tuple(
        replace(v, state=State.RETIRED) if v.state is State.ACTIVE else v for v in ring.versions
    )
    fresh = Version(number, wrapped.subject.key_id, State.ACTIVE, now, wrapped)
    return _changed(ring, (*versions, fresh), now, "rotate", number)


def change_state(ring: Ring, number: int, state: State, now: int) -> Ring:
    """Moves one version along `TRANSITIONS`; destroying also drops its wrapped key."""
    current = next((v for v in ring.versions if v.number == number), None)
    if current is None:
        raise RingError(f"ring {ring.name} has no version {number}")
    if state not in TRANSITIONS[current.state]:
        raise RingError(
            f"ring {ring.name} version {number} is {current.state.value}; "
            f"it cannot become {state.value}"
        )
    moved = replace(
        current, state=state, wrapped=None if state is State.DESTROYED else current.wrapped
    )
    versions = tuple(moved if v.number == number else v for v in ring.versions)
    return _changed(ring, versions, now, state.value, number)


def to_document(ring: Ring) -> dict[str, object]:
    return {
        "format": FORMAT,
        "ring": ring.name,
        "generation": ring.generation,
        "versions": [
            {
                "version": v.number,
                "id": v.key_id.hex(),
                "state": v.state.value,
                "created": v.created,
                "wrapped": None
                if v.wrapped is None
                else base64.b64encode(v.wrapped.encode()).decode("ascii"),
            }
            for v in ring.versions
        ],
        "history": [
            {"generation": e.generation, "time": e.time, "event": e.event, "version": e.version}
            for e in ring.history
        ],
    }


def from_document(document: object) -> Ring:
    """The ring in a parsed JSON document; RingError where it contradicts itself."""
    top = _object(document)
    if top.get("format") != FORMAT:
        raise RingError(f"not a {FORMAT} document")
    versions = tuple(_version(_object(item)) for item in _list(top, "versions"))
    history = tuple(
        Event(_int(e, "generation"), _int(e, "time"), _str(e, "event"), _int(e, "version"))
        for e in map(_object, _list(top, "history"))
    )
    ring = Ring(check_name(_str(top, "ring")), _int(top, "generation"), versions, history)
    if len({v.number for v in versions}) != len(versions):
        raise RingError("a version number occurs twice")
    if sum(v.state is State.ACTIVE for v in versions) > 1:
        raise RingError("more than one active version")
    if not history or history[-1].generation != ring.generation:
        raise RingError("the history does not end with the generation of the document")
    return ring


def _version(item: Mapping[str, object]) -> Version:
    raw = item.get("wrapped")
    try:
        state = State(_str(item, "state"))
        key_id = bytes.fromhex(_str(item, "id"))
        wrapped = None
        if raw is not None:
            wrapped = records.parse(base64.b64decode(_str(item, "wrapped"), validate=True))
    except (RecordError, binascii.Error, ValueError) as error:
        raise RingError(f"version {item.get('version')}: {error}") from None
    version = Version(_int(item, "version"), key_id, state, _int(item, "created"), wrapped)
    if (wrapped is None) != (state is State.DESTROYED):
        raise RingError(f"version {version.number}: exactly the destroyed ones have no wrapped key")
    if wrapped is not None and (wrapped.subject.key_id, wrapped.subject.version) != (
        key_id,
        version.number,
    ):
        raise RingError(f"version {version.number}: its record is of another key or version")
    return version


def _changed(ring: Ring, versions: tuple[Version, ...], now: int, event: str, number: int) -> Ring:
    generation = ring.generation + 1
    line = Event(generation, now, event, number)
    return Ring(ring.name, generation, versions, (*ring.history, line))


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RingError("an object is expected")
    return value


def _list(item: Mapping[str, object], name: str) -> list[object]:
    value = item.get(name)
    if not isinstance(value, list):
        raise RingError(f"{name}: a list is expected")
    return value


def _int(item: Mapping[str, object], name: str) -> int:
    value = item.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RingError(f"{name}: a whole number is expected")
    return value


def _str(item: Mapping[str, object], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RingError(f"{name}: a string is expected")
    return value
