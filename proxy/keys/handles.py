"""What does a user of a ring hold? The unwrapped versions of one ring, while they may live.

Nothing here outlives its ring: handles derived from it are adopted and wiped with it, and `derived`
(a cache for the users' codecs) is emptied. A user keeps no reference to a handle across a wait
without looking at `alive` again. Single thread: the loop's.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from proxy.errors import KeyUnavailable
from proxy.native import KeyHandle


class Wipeable(Protocol):
    """A handle, or whatever holds several."""

    def wipe(self) -> None: ...


W = TypeVar("W", bound=Wipeable)


@dataclass(frozen=True, slots=True)
class RingVersionKey:
    id: bytes  # 16, derived from the key
    number: int
    handle: KeyHandle
    state: Literal["active", "retired"]


class RingKeys:
    """Versions of one ring in the arena, the active one first, then the newest first."""

    def __init__(self, ring: str, generation: int, versions: tuple[RingVersionKey, ...]) -> None:
        self.ring = ring
        self.generation = generation  # of the ring document they were read from
        self.versions = versions
        self.derived: dict[object, object] = {}
        self._adopted: list[Wipeable] = []
        self._alive = True

    @property
    def alive(self) -> bool:
        """False once wiped: fetch the ring again."""
        return self._alive

    @property
    def active(self) -> RingVersionKey:
        """The version that seals; KeyUnavailable if the ring has none now or was wiped."""
        if not self._alive:
            raise KeyUnavailable(f"the keys of ring {self.ring} were wiped")
        if not self.versions or self.versions[0].state != "active":
            raise KeyUnavailable(f"ring {self.ring} has no active version")
        return self.versions[0]

    def by_id(self, key_id: bytes) -> RingVersionKey | None:
        """The version with this 16-byte id; None: unknown here (`KeyService.refresh` may help)."""
        return next((v for v in self.versions if v.id == key_id), None)

    def adopt(self, handle: W) -> W:
        """Ties a derived key's life to the ring's; returns it. KeyUnavailable if already wiped."""
        if not self._alive:
            handle.wipe()
            raise KeyUnavailable(f"the keys of ring {self.ring} were wiped")
        self._adopted.append(handle)
        return handle

    def wipe(self) -> None:
        """Ring keys and everything derived from them are gone. Idempotent."""
        self._alive = False
        self.derived.clear()
        for handle in self._adopted:
            handle.wipe()
        self._adopted.clear()
        for version in self.versions:
            version.handle.wipe()

    def merge(self, fresh: "RingKeys") -> bool:
        """Takes over what `fresh` adds, so that keys in use stay where they are.

        True: this object now stands for the newer document and `fresh` is spent. False: a version
        has gone or changed; nothing was touched, and this object has to be wiped.
        """
        mine = {v.id: v for v in self.versions}
        theirs = {v.id: v for v in fresh.versions}
        if not self._alive or not mine.keys() <= theirs.keys():
            return False
        if any(not v.handle.same(theirs[key_id].handle) for key_id, v in mine.items()):
            return False
        merged: list[RingVersionKey] = []
        for version in fresh.versions:
            own = mine.get(version.id)
            if own is None:
                merged.append(version)
                continue
            version.handle.wipe()
            merged.append(RingVersionKey(own.id, own.number, own.handle, version.state))
        if tuple(merged) != self.versions:
            self.versions = tuple(merged)
            self.derived.clear()  # codecs built for the older set of versions
        self.generation = fresh.generation
        fresh.versions = ()
        fresh.wipe()
        return True
