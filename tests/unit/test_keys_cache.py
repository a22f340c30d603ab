"""proxy/keys/cache.py and breaker.py: every limit wipes, on a clock that the test owns."""

import pytest

from proxy.config.model import CacheLimits
from proxy.keys.breaker import Breaker
from proxy.keys.cache import KeyCache


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Value:
    def __init__(self) -> None:
        self.wiped = False

    def wipe(self) -> None:
        self.wiped = True


def made(
    **limits: float,
) -> tuple[KeyCache[Value], Clock, list[tuple[str, str]]]:
    clock, log = Clock(), list[tuple[str, str]]()
    cache: KeyCache[Value] = KeyCache(
        CacheLimits.model_validate({"max_age_seconds": 100, "max_idle_seconds": 50, **limits}),
        clock,
        on_wipe=lambda name, why: log.append((name, why)),
        jitter=lambda: 0.0,
    )
    return cache, clock, log


def test_age_ends_even_what_is_used_all_the_time() -> None:
    cache, clock, log = made()
    value = Value()
    cache.put("a", value)
    for _ in range(10):
        assert cache.get("a") is value
        clock.now += 10
    assert cache.get("a") is None
    assert value.wiped
    assert log == [("a", "age")]


def test_idle_time_ends_what_nobody_uses() -> None:
    cache, clock, log = made()
    value = Value()
    cache.put("a", value)
    clock.now += 50
    cache.expire()
    assert value.wiped
    assert log == [("a", "idle")]
    assert cache.next_deadline() is None


def test_uses_are_counted() -> None:
    cache, _, log = made(max_uses=2)
    value = Value()
    cache.put("a", value)
    assert cache.get("a") is value
    assert cache.get("a") is value
    assert cache.get("a") is None
    assert value.wiped
    assert log == [("a", "uses")]


def test_bytes_are_counted_but_never_wipe_under_the_one_who_reports() -> None:
    cache, _, log = made(max_bytes=100)
    value = Value()
    cache.put("a", value)
    cache.note_bytes("a", 60)
    assert cache.get("a") is value
    cache.note_bytes("a", 60)
    assert not value.wiped
    cache.expire()
    assert value.wiped
    assert log == [("a", "bytes")]


def test_the_least_recently_used_goes_when_full() -> None:
    cache, _, log = made(entries=2)
    values = {name: Value() for name in "abc"}
    cache.put("a", values["a"])
    cache.put("b", values["b"])
    cache.get("a")
    cache.put("c", values["c"])
    assert log == [("b", "capacity")]
    assert [v.wiped for v in values.values()] == [False, True, False]


def test_what_is_replaced_is_wiped_and_what_is_renewed_is_not() -> None:
    cache, clock, log = made()
    old, new = Value(), Value()
    cache.put("a", old)
    clock.now += 40
    cache.put("a", old)
    clock.now += 45
    assert cache.get("a") is old
    cache.put("a", new)
    assert old.wiped
    assert log == [("a", "replaced")]
    assert cache.get("a") is new


def test_the_last_tenth_of_the_age_asks_for_a_refresh() -> None:
    cache, clock, _ = made(max_idle_seconds=1000)
    cache.put("a", Value())
    clock.now += 89
    assert not cache.wants_refresh("a")
    clock.now += 1
    assert cache.wants_refresh("a")
    assert cache.get("a") is not None


def test_jitter_only_shortens_the_age() -> None:
    clock = Clock()
    cache: KeyCache[Value] = KeyCache(
        CacheLimits(max_age_seconds=100, max_idle_seconds=1000), clock, jitter=lambda: 1.0
    )
    cache.put("a", Value())
    clock.now += 90
    assert cache.get("a") is None


def test_a_jump_of_the_clock_expires_everything() -> None:
    cache, clock, _ = made()
    values = [Value() for _ in range(5)]
    for i, value in enumerate(values):
        cache.put(str(i), value)
    clock.now += 3600
    cache.expire()
    assert all(v.wiped for v in values)
    assert len(cache) == 0


def test_peek_counts_no_use() -> None:
    cache, _, _ = made(max_uses=1)
    value = Value()
    cache.put("a", value)
    assert cache.peek("a") is value
    assert cache.get("a") is value
    assert cache.peek("a") is None


def test_closing_wipes_all() -> None:
    cache, _, log = made()
    value = Value()
    cache.put("a", value)
    cache.clear()
    assert value.wiped
    assert log == [("a", "closed")]


def breaker(clock: Clock) -> Breaker:
    return Breaker(clock, threshold=3, window_seconds=10, cooldown_seconds=5, jitter=lambda: 0.5)


def state(b: Breaker) -> str:
    return b.state.value


def fail(b: Breaker) -> None:
    assert b.admit()
    b.failure()


def test_the_breaker_opens_after_failures_within_the_window_only() -> None:
    clock = Clock()
    b = breaker(clock)
    for _ in range(5):
        fail(b)
        clock.now += 6
    assert b.admit()
    b.failure()
    fail(b)
    assert state(b) == "open"
    assert not b.admit()


def test_half_open_lets_one_probe_through() -> None:
    clock = Clock()
    b = breaker(clock)
    for _ in range(3):
        fail(b)
    clock.now += 5
    assert state(b) == "half-open"
    assert b.admit()
    assert not b.admit()
    b.failure()
    assert state(b) == "open"
    clock.now += 5
    assert b.admit()
    b.success()
    assert state(b) == "closed"
    assert b.admit()


def test_a_probe_that_says_nothing_leaves_room_for_the_next() -> None:
    clock = Clock()
    b = breaker(clock)
    for _ in range(3):
        fail(b)
    clock.now += 5
    assert b.admit()
    b.neutral()
    assert b.admit()


@pytest.mark.parametrize("good_after", [1, 2])
def test_success_forgets_failures(good_after: int) -> None:
    b = breaker(Clock())
    for _ in range(good_after):
        fail(b)
    assert b.admit()
    b.success()
    fail(b)
    fail(b)
    assert state(b) == "closed"
