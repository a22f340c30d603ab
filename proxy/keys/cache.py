"""Which unwrapped rings are in memory, and until when?

Limits, whichever comes first: age, idle time, uses, bytes, number of entries (LRU). What leaves is
wiped at once, through `wipe()` of the entry. The clock is handed in; production uses
CLOCK_BOOTTIME, which runs on through a suspend, so that a laptop's or a VM's sleep expires
everything. Pure; single thread.
"""

import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from proxy.config.model import CacheLimits

# Refresh when this much of the age is used up; the age itself is drawn ±10 % per entry, so that
# many proxies started together do not come to the token together.
_REFRESH_FROM = 0.9
_JITTER = 0.1


class Wipeable(Protocol):
    def wipe(self) -> None: ...


T = TypeVar("T", bound=Wipeable)


def boottime() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Entry(Generic[T]):
    value: T
    expires: float
    refresh_from: float
    last_use: float
    uses: int = 0
    bytes_used: int = 0


class KeyCache(Generic[T]):
    """Owns its values: whatever way one leaves, it is wiped."""

    def __init__(
        self,
        limits: CacheLimits,
        clock: Callable[[], float] = boottime,
        *,
        on_wipe: Callable[[str, str], None] = lambda name, reason: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`on_wipe(name, reason)` is called after each wipe; reasons: age, idle, uses, bytes,
        capacity, replaced, removed, closed."""
        self._limits = limits
        self._clock = clock
        self._on_wipe = on_wipe
        self._jitter = jitter
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> T | None:
        """The live value, counted as one use; None after wiping it if a limit was reached."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._clock()
        reason = self._spent(entry, now)
        if reason is not None:
            self._drop(name, reason)
            return None
        entry.uses += 1
        entry.last_use = now
        self._entries.move_to_end(name)
        return entry.value

    def peek(self, name: str) -> T | None:
        """The value if it still may be used, without counting a use."""
        entry = self._entries.get(name)
        if entry is None or self._spent(entry, self._clock()) is not None:
            return None
        return entry.value

    def wants_refresh(self, name: str) -> bool:
        """Whether the last tenth of the entry's age has begun."""
        entry = self._entries.get(name)
        return entry is not None and self._clock() >= entry.refresh_from

    def put(self, name: str, value: T) -> None:
        """Takes ownership. Another value under this name is wiped; the least recently used go."""
        old = self._entries.get(name)
        if old is not None and old.value is not value:
            self._drop(name, "replaced")
        now = self._clock()
        age = self._limits.max_age_seconds * (1 - _JITTER * self._jitter())
        self._entries[name] = _Entry(value, now + age, now + age * _REFRESH_FROM, now)
        self._entries.move_to_end(name)
        while len(self._entries) > self._limits.entries:
            self._drop(next(iter(self._entries)), "capacity")

    @property
    def max_uses(self) -> int:
        return self._limits.max_uses

    def note_uses(self, name: str, n: int) -> None:
        """Counts uses that were made of a value handed out before."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.uses += n

    def note_bytes(self, name: str, n: int) -> None:
        """Counts bytes sealed or opened under the entry; the next `get` or `expire` sees the limit
        (wiping here would pull the key from under the batch that reports)."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.bytes_used += n

    def remove(self, name: str, reason: str = "removed") -> None:
        if name in self._entries:
            self._drop(name, reason)

    def expire(self) -> None:
        """Wipes everything whose time is up; the reaper calls it even when nothing is used."""
        now = self._clock()
        for name, entry in list(self._entries.items()):
            reason = self._spent(entry, now)
            if reason is not None:
                self._drop(name, reason)

    def next_deadline(self) -> float | None:
        """On the clock handed in; None when empty."""
        idle = self._limits.max_idle_seconds
        return min(
            (min(e.expires, e.last_use + idle) for e in self._entries.values()), default=None
        )

    def clear(self, reason: str = "closed") -> None:
        for name in list(self._entries):
            self._drop(name, reason)

    def _spent(self, entry: _Entry[T], now: float) -> str | None:
        if now >= entry.expires:
            return "age"
        if now - entry.last_use >= self._limits.max_idle_seconds:
            return "idle"
        if entry.uses >= self._limits.max_uses:
            return "uses"
        if entry.bytes_used >= self._limits.max_bytes:
            return "bytes"
        return None

    def _drop(self, name: str, reason: str) -> None:
        self._entries.pop(name).value.wipe()
        self._on_wipe(name, reason)
