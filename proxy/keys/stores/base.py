"""What does every store of wrapped key rings promise? (design 3)

* `put(ring, expected)` writes only if the stored generation is `expected` (0: there is none), and
  raises `StoreConflict` otherwise: no update is ever lost.
* A `put` that returned is durable, and every later `get` sees it or something newer.
* `get` gives a whole document or None, never a half.
* What cannot be reached or read raises `StoreUnavailable`; that is never "absent".
"""

from abc import ABC, abstractmethod

from proxy.errors import KeyUnavailable, SealgateError
from proxy.keys.ring import Ring


class StoreUnavailable(KeyUnavailable):
    """The store cannot be reached, or what it holds cannot be read."""


class StoreConflict(SealgateError):
    """Someone else changed the ring since it was read; read it again and decide anew."""


class RingStore(ABC):
    """Wrapped rings by name. Holds nothing secret; safe to call from the event loop."""

    @abstractmethod
    async def get(self, name: str) -> Ring | None:
        """The newest document of this ring; None if there is none."""

    @abstractmethod
    async def put(self, ring: Ring, expected: int) -> None:
        """Makes `ring` the newest document if the stored generation is `expected`."""

    @abstractmethod
    async def names(self) -> list[str]:
        """The names of all rings, sorted."""

    @abstractmethod
    async def close(self) -> None:
        """Gives connections back. Idempotent."""
