"""What a session may wait for: the vocabulary between the sans-I/O core and its surroundings."""

from dataclasses import dataclass

from proxy.policy.model import Action, Principal
from proxy.postgres.snapshot import ProtectedColumn

Use = tuple[ProtectedColumn, Action]


@dataclass(frozen=True, slots=True)
class KeysWanted:
    """The codecs of these columns; the result is dict[Use, ColumnCodec]."""

    principal: Principal
    uses: tuple[Use, ...]


@dataclass(frozen=True, slots=True)
class SnapshotWanted:
    """A view of the schema as it is now, for all sessions; the result is None."""


@dataclass(frozen=True, slots=True)
class LayoutWanted:
    """It is certain, for a while, in which form the migrating columns are; the result is None."""


Need = KeysWanted | SnapshotWanted | LayoutWanted


@dataclass(slots=True)
class Injection:
    """A query of our own, in the client's stream: the settings, or the schema of its transaction.

    `value` is the first column of its row once `done`. `lost`: the server never came to it,
    since the client's segment had failed before; `failed`: it failed itself. A cancel request that
    hits it is the client's for the statement that waits (`canceled`); where none waits it is
    ignored, as PostgreSQL ignores one between statements, and the query is asked again.
    """

    topic: str  # "settings" | "snapshot"
    in_segment: bool
    leftover: bool = False  # one before it was lost half-way: its statement is closed first
    value: bytes | None = None
    closes: int = 0
    lost: bool = False
    failed: bool = False
    canceled: bool = False
    done: bool = False


class Wait(Exception):
    """The message at hand is to be tried again when `on` has happened (None: all answers)."""

    def __init__(self, on: Need | Injection | None) -> None:
        super().__init__()
        self.on = on
