"""Which events are there, what do they carry, and how soon are they on the disk? One table.

docs/reference/audit.md is held against it by a test. A field is a name, an id, a count, a result or
a digest: never a value, a literal, a key or a PIN. `fields` lists all that an event may carry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

Field = str | int | None | list[list[str | int]]


class Durability(Enum):
    SYNCED = "synced"  # on the disk before the answer or the act
    SOON = "soon"  # within `sync_milliseconds`


@dataclass(frozen=True, slots=True)
class EventType:
    meaning: str
    fields: tuple[str, ...]
    durability: Durability
    counted: bool = False  # repeats within `summary_seconds` become one line with a count


_KEY = ("principal", "resource", "action", "ring", "result", "rule", "detail", "count")
_RING = ("ring", "version", "detail")
_SYNCED, _SOON = Durability.SYNCED, Durability.SOON

EVENTS: Mapping[str, EventType] = {
    # the log itself
    "file.open": EventType(
        "A file of this writer begins; commits to the one before it",
        ("format", "file", "role", "ring", "version_id", "previous"), _SYNCED,
    ),
    "process.start": EventType(
        "A process starts to write; `heads` are the last lines of others",
        ("pid", "host", "release", "config", "heads"), _SYNCED,
    ),
    "process.stop": EventType("The process ends as it should", ("reason",), _SYNCED),
    "checkpoint": EventType("Last lines of other writers, as seen here", ("heads",), _SOON),
    "checkpoint.signed": EventType(
        "The root key signed this writer's line `at`, by its MAC",
        ("at", "at_mac", "root", "signature"), _SYNCED,
    ),
    "clock.jump": EventType("The wall clock moved against the boot clock", ("seconds",), _SYNCED),
    "audit.gap": EventType("Lines that could not be written", ("lost", "detail"), _SYNCED),
    # keys
    "key.fetch": EventType("The cache did not have the keys", _KEY, _SOON),
    "key.uses": EventType("Answers from the cache, once a minute and user", _KEY, _SOON),
    "key.deny": EventType("Policy said no; no key was fetched", _KEY, _SYNCED, counted=True),
    "agent.open": EventType("The key agent opened a ring version", _KEY, _SOON),
    "agent.deny": EventType(
        "A worker asked the agent for what nobody may have", _KEY, _SYNCED, counted=True
    ),
    # the two planes
    "auth.fail": EventType(
        "A client did not prove who it is", ("plane", "principal", "detail", "count"), _SYNCED,
        counted=True,
    ),
    "open.fail": EventType(
        "Sealed bytes did not open: altered, moved or cut",
        ("plane", "principal", "resource", "detail", "count"), _SYNCED, counted=True,
    ),
    # operators
    "admin.begin": EventType(
        "A command that changes something begins", ("principal", "command", "target"), _SYNCED
    ),
    "admin.end": EventType(
        "How it ended", ("principal", "command", "target", "result", "detail"), _SYNCED
    ),
    "root.create": EventType("A root key was made", _RING, _SYNCED),
    "ring.create": EventType("A ring was made", _RING, _SYNCED),
    "ring.rotate": EventType("A ring has a new active version", _RING, _SYNCED),
    "ring.state": EventType("A version changed its state (`detail`)", _RING, _SYNCED),
    "ceremony.request": EventType("A target asked for a key", _RING, _SYNCED),
    "ceremony.export": EventType("A key was wrapped for a target", _RING, _SYNCED),
    "ceremony.import": EventType("A key was taken over", _RING, _SYNCED),
    "config.change": EventType(
        "Another configuration or policy is in force, or was refused",
        ("config", "policy", "result", "detail"), _SYNCED,
    ),
}  # fmt: skip

MAX_TEXT = 256  # characters of one field: names come from clients


def checked(event: str, fields: Mapping[str, Field]) -> dict[str, Field]:
    """`fields` without what is empty, texts cut at `MAX_TEXT` except the log's own.

    KeyError for an unknown event, ValueError for a field that it does not have.
    """
    known = EVENTS[event]
    if strange := fields.keys() - set(known.fields):
        raise ValueError(f"{event} has no field {sorted(strange)}")
    own = event.startswith(("file.", "checkpoint"))
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) and not own else value
        for name, value in fields.items()
        if value is not None and value != ""
    }
