"""Are opened envelopes kept within bounds, and gone with their ring?"""

import pytest

from proxy import native
from proxy.crypto.envelope import OpenedEnvelope, open_envelope, seal_envelope
from proxy.keys.handles import RingKeys, RingVersionKey
from proxy.s3.envelopes import EnvelopeCache


@pytest.fixture(autouse=True)
def _arena() -> None:
    native.arena_init(4096, True)


def ring() -> RingKeys:
    version = RingVersionKey(native.random_bytes(16), 1, native.key_random(), "active")
    return RingKeys("main", 1, (version,))


def opened_at(keys: RingKeys, key: str) -> tuple[str, OpenedEnvelope]:
    text = seal_envelope(keys.active, "b", key, native.key_random(), native.random_bytes(16))
    opened = open_envelope(text, "b", key, lambda _: keys.active.handle)
    assert isinstance(opened, OpenedEnvelope)
    return text, opened


def test_a_kept_envelope_comes_back_and_its_key_lives_until_the_last_holder_closed_it() -> None:
    keys, cache = ring(), EnvelopeCache(4)
    text, opened = opened_at(keys, "k")
    cache.put(keys, text, "b", "k", opened)
    opened.close()
    again = cache.get(keys, text, "b", "k")
    assert again is not None and again.object_key.alive
    keys.wipe()
    assert len(cache) == 0 and again.object_key.alive  # a read under way goes on
    again.close()
    assert not again.object_key.alive


def test_another_place_text_or_ring_does_not_find_it() -> None:
    keys, cache = ring(), EnvelopeCache(4)
    text, opened = opened_at(keys, "k")
    cache.put(keys, text, "b", "k", opened)
    assert cache.get(keys, text, "b", "other") is None
    assert cache.get(keys, text, "c", "k") is None
    assert cache.get(keys, text + "A", "b", "k") is None
    assert cache.get(ring(), text, "b", "k") is None


def test_the_oldest_is_wiped_when_the_cache_is_full() -> None:
    keys, cache = ring(), EnvelopeCache(2)
    handles = []
    for name in "abc":
        text, opened = opened_at(keys, name)
        handles.append(opened.object_key)
        cache.put(keys, text, "b", name, opened)
        opened.close()
    assert [h.alive for h in handles] == [False, True, True]


def test_the_end_of_the_ring_wipes_what_was_opened_under_it() -> None:
    keys, other, cache = ring(), ring(), EnvelopeCache(8)
    text, mine = opened_at(keys, "k")
    cache.put(keys, text, "b", "k", mine)
    text, theirs = opened_at(other, "k")
    cache.put(other, text, "b", "k", theirs)
    for opened in (mine, theirs):
        opened.close()
    keys.wipe()
    assert not mine.object_key.alive and theirs.object_key.alive
    text, late = opened_at(other, "late")
    cache.put(keys, text, "b", "late", late)
    assert len(cache) == 1
