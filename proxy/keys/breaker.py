"""Is the token worth another call now? A circuit breaker with a clock handed in.

closed: calls go; `threshold` failures within `window_seconds` open it. open: nothing goes until
the cool-down is over (each one drawn ±20 %, so that many proxies do not return together). half
open: one probe goes; its success closes, its failure opens again. Only failures of the *device*
count: data that does not open is the data's fault, and whoever can send it must not be able to
switch the token off for others (facts: SoftHSM says GENERAL_ERROR for both).
"""

import random
from collections import deque
from collections.abc import Callable
from enum import Enum


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """Not thread-safe: used from the loop's thread only."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        threshold: int = 3,
        window_seconds: float = 10.0,
        cooldown_seconds: float = 5.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._threshold = threshold
        self._window = window_seconds
        self._cooldown = cooldown_seconds
        self._jitter = jitter
        self._failures: deque[float] = deque()
        self._opened_until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        if self._opened_until is None:
            return State.CLOSED
        if self._probing or self._clock() >= self._opened_until:
            return State.HALF_OPEN
        return State.OPEN

    def admit(self) -> bool:
        """Whether a call may go now. After a True: `success`, `failure` or `neutral`."""
        if self._opened_until is None:
            return True
        if self._probing or self._clock() < self._opened_until:
            return False
        self._probing = True
        return True

    def success(self) -> None:
        """The device answered well (also: it rejected bad data as such)."""
        self._failures.clear()
        self._opened_until = None
        self._probing = False

    def failure(self) -> None:
        """The device failed or did not answer in time."""
        now = self._clock()
        if self._opened_until is not None:
            self._open(now)
            return
        self._failures.append(now)
        while self._failures and self._failures[0] <= now - self._window:
            self._failures.popleft()
        if len(self._failures) >= self._threshold:
            self._open(now)

    def neutral(self) -> None:
        """The call ended without saying anything about the device (cancelled, refused by us)."""
        self._probing = False

    def _open(self, now: float) -> None:
        self._opened_until = now + self._cooldown * (0.8 + 0.4 * self._jitter())
        self._probing = False
        self._failures.clear()
