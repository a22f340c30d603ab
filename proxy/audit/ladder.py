"""The keys of one writer's lines, by number: the ratchet, with rungs kept to go back to. Pure."""

from proxy.crypto import kdf
from proxy.native import KeyHandle

_RUNGS = 256
_AHEAD = 1 << 22  # a line may claim to be so far behind the last one that is proven


class Ladder:
    """Owns all its keys; `wipe` when done. A step costs about 2 µs."""

    def __init__(self, first: KeyHandle) -> None:
        self._rungs: dict[int, KeyHandle] = {1: first}
        self._stride = 256
        self._at = (1, first)  # where the last question ended; may be a rung
        self._proven = 0

    def prove(self, n: int) -> None:
        """Line `n` was found genuine: questions may go beyond it."""
        self._proven = max(self._proven, n)

    def key(self, n: int) -> KeyHandle | None:
        """The key of line `n`, good until the next question; None: `n` is beyond all reason."""
        if not 1 <= n <= self._proven + _AHEAD:
            return None
        at, key = self._at
        rung = max(i for i in self._rungs if i <= n)
        if at > n or rung > at:
            self._leave()
            at, key = rung, self._rungs[rung]
        while at < n:
            following = kdf.audit_next_key(key)
            self._at = (at, key)
            self._leave()
            at, key = at + 1, following
            if at % self._stride == 1 and at not in self._rungs:
                self._rungs[at] = key
                self._thin()
        self._at = (at, key)
        return key

    def _leave(self) -> None:
        at, key = self._at
        if at not in self._rungs:
            key.wipe()

    def _thin(self) -> None:
        if len(self._rungs) < _RUNGS:
            return
        self._stride *= 2
        for at in [i for i in self._rungs if i % self._stride != 1]:
            self._rungs.pop(at).wipe()

    def wipe(self) -> None:
        self._at[1].wipe()
        for key in self._rungs.values():
            key.wipe()
        self._rungs.clear()
