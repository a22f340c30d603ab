"""Which envelopes were opened lately? Opening one costs four key derivations; a hot object's is kept.

Bounded, least recently used first. An entry's object key is in the arena like every other; it is
wiped when the entry is dropped and no request uses it any more: on eviction, or with the ring it was
opened under, whose end takes all its entries. Whoever asks has the ring's keys, so policy was asked.
"""

from collections import OrderedDict

from proxy.crypto.envelope import OpenedEnvelope
from proxy.keys.handles import RingKeys

_Key = tuple[int, str, str, str]


class EnvelopeCache:
    """Envelopes with an object key, by ring keys, text, bucket and key name."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._map: OrderedDict[_Key, OpenedEnvelope] = OrderedDict()
        self._rings: dict[int, _RingEnd] = {}

    def __len__(self) -> int:
        return len(self._map)

    def get(self, keys: RingKeys, text: str, bucket: str, key: str) -> OpenedEnvelope | None:
        """The caller's to close, as if opened for it."""
        where = (id(keys), text, bucket, key)
        found = self._map.get(where)
        if found is None:
            return None
        self._map.move_to_end(where)
        return found.share()

    def put(self, keys: RingKeys, text: str, bucket: str, key: str, opened: OpenedEnvelope) -> None:
        """`opened` stays the caller's. Nothing is kept of a ring that is already gone."""
        if not keys.alive:
            return
        if id(keys) not in self._rings:
            self._rings[id(keys)] = keys.adopt(_RingEnd(self, keys))
        where = (id(keys), text, bucket, key)
        before = self._map.pop(where, None)
        if before is not None:
            before.close()
        self._map[where] = opened.share()
        while len(self._map) > self._entries:
            self._map.popitem(last=False)[1].close()

    def forget(self, ring: int) -> None:
        """Drops what was opened under these ring keys."""
        self._rings.pop(ring, None)
        for where in [w for w in self._map if w[0] == ring]:
            self._map.pop(where).close()


class _RingEnd:
    """Wiped with its ring: takes the ring's entries out. Holds the ring, so that its id is its own."""

    def __init__(self, cache: EnvelopeCache, keys: RingKeys) -> None:
        self._cache = cache
        self._keys = keys

    def wipe(self) -> None:
        self._cache.forget(id(self._keys))
