"""proxy/keys/service.py: policy → cache → store → provider → arena, with faults put in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy import native
from proxy.audit.record import KeyDecision
from proxy.audit.sink import MemorySink
from proxy.config.model import CacheLimits, PolicyRule
from proxy.errors import (
    AccessDenied,
    AuditUnavailable,
    IntegrityError,
    KeyDestroyed,
    KeyUnavailable,
)
from proxy.keys import ring as rings
from proxy.keys import rootfile
from proxy.keys.build import _new_version
from proxy.keys.handles import RingKeys
from proxy.keys.providers.base import DeviceDown, Provider, ProviderHealth
from proxy.keys.providers.software import SoftwareProvider
from proxy.keys.record import Record
from proxy.keys.ring import Ring, State
from proxy.keys.service import KeyService
from proxy.keys.stores.file import FileRingStore
from proxy.native import KeyHandle
from proxy.policy.decide import Policy
from proxy.policy.model import Action, Circumstances, Principal, Resource

APP = Principal("postgres", "app")
EMAIL = Resource("column", "shop.public.users.email", "shop")


class FaultyProvider(SoftwareProvider):
    """A software root whose calls can be held, failed and counted."""

    def __init__(self) -> None:
        native.arena_init(1024, True)
        super().__init__("/nonexistent", lambda: bytearray(b"x"))
        self._root = rootfile.Root(b"R" * 16, native.key_random())
        self.unwraps = 0
        self.fault: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.given: list[KeyHandle] = []

    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        self.unwraps += 1
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        handle = await super().unwrap(record, context)
        self.given.append(handle)
        return handle

    async def health(self) -> ProviderHealth:
        return ProviderHealth(self.fault is None, str(self.fault))


class House:
    """A service on a clock of the test's, over a real file store."""

    def __init__(self, path: Path) -> None:
        self.provider = FaultyProvider()
        self.store = FileRingStore(path)
        self.audit = MemorySink()
        self.now = 1000.0
        self.services: list[KeyService] = []

    def service(self, *, rules: tuple[PolicyRule, ...] = (), **options: Any) -> KeyService:
        limits = options.pop("limits", {})
        service = KeyService(
            self.provider,
            self.store,
            Policy(rules),
            CacheLimits.model_validate({"max_age_seconds": 100, "max_idle_seconds": 50, **limits}),
            audit=self.audit,
            clock=lambda: self.now,
            **options,
        )
        self.services.append(service)
        return service

    async def ring(self, name: str = "shop", versions: int = 1) -> Ring:
        ring = rings.create(name, await _new_version(self.provider, name, 1), 1)
        await self.store.put(ring, 0)
        for _ in range(versions - 1):
            ring = await self.rotate(name)
        self.forget()
        return ring

    async def rotate(self, name: str = "shop") -> Ring:
        ring = await self.stored(name)
        record = await _new_version(self.provider, name, ring.next_number())
        changed = rings.rotate(ring, record, 2)
        await self.store.put(changed, ring.generation)
        return changed

    async def move(self, number: int, state: State) -> None:
        ring = await self.stored("shop")
        await self.store.put(rings.change_state(ring, number, state, 3), ring.generation)

    async def stored(self, name: str) -> Ring:
        ring = await self.store.get(name)
        assert ring is not None
        return ring

    def forget(self) -> None:
        self.provider.unwraps = 0
        self.provider.given.clear()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    house.provider.gate.set()
    for service in house.services:
        await service.close()


async def settled(condition: Callable[[], bool]) -> None:
    """Lets the loop run until the condition holds; it must, within five seconds."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition never came true")


async def test_a_cold_ring_is_fetched_and_then_served_from_memory(house: House) -> None:
    await house.ring(versions=2)
    service = house.service()
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is None
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    assert service.ring_keys_now(APP, EMAIL, Action.SEAL) is keys
    assert await service.ring_keys(APP, EMAIL, Action.OPEN) is keys
    assert house.provider.unwraps == 2
    assert [(v.number, v.state) for v in keys.versions] == [(2, "active"), (1, "retired")]
    assert keys.active.number == 2
    assert keys.by_id(keys.versions[1].id) is keys.versions[1]
    assert keys.by_id(b"?" * 16) is None


async def test_many_who_ask_at_once_cause_one_flight(house: House) -> None:
    await house.ring()
    service = house.service()
    house.provider.gate.clear()
    waiting = [asyncio.create_task(service.ring_keys(APP, EMAIL, Action.OPEN)) for _ in range(50)]
    await settled(lambda: house.provider.unwraps == 1)
    waiting[0].cancel()
    await asyncio.sleep(0)
    house.provider.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len({id(r) for r in results[1:]}) == 1
    assert house.provider.unwraps == 1


async def test_a_denied_principal_causes_no_call_even_on_a_warm_ring(house: House) -> None:
    await house.ring()
    rule = PolicyRule(principals=("postgres:app",), resources=("*",), actions=("seal",))
    service = house.service(rules=(rule,))
    with pytest.raises(AccessDenied):
        await service.ring_keys(APP, EMAIL, Action.OPEN)
    assert house.provider.unwraps == 0
    await service.ring_keys(APP, EMAIL, Action.SEAL)
    with pytest.raises(AccessDenied):
        service.ring_keys_now(APP, EMAIL, Action.OPEN)
    results = [(line.event, line.result) for line in house.audit.lines
               if isinstance(line, KeyDecision)]  # fmt: skip
    assert results == [("key.deny", "denied"), ("key.fetch", "allowed"), ("key.deny", "denied")]


async def test_expiry_wipes_ring_keys_and_everything_derived(house: House) -> None:
    await house.ring(versions=2)
    service = house.service()
    await service.start()
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    derived = keys.adopt(native.key_random())
    keys.derived["codec"] = object()
    handles = [v.handle for v in keys.versions]
    house.now += 51  # idle
    await settled(lambda: not keys.alive)
    assert not derived.alive
    assert not any(h.alive for h in handles)
    assert keys.derived == {}
    late = native.key_random()
    with pytest.raises(KeyUnavailable):
        keys.adopt(late)
    assert not late.alive
    with pytest.raises(KeyUnavailable):
        _ = keys.active


async def test_an_early_refresh_leaves_keys_in_use_where_they_are(house: House) -> None:
    await house.ring()
    service = house.service(limits={"max_idle_seconds": 1000})
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    keys.derived["codec"] = "kept"
    handle = keys.active.handle
    # Age is drawn above 90 and up to 100 s: at 90 s, whatever was drawn, the entry wants its
    # refresh and has not expired.
    house.now = 1090.0
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is keys
    await settled(lambda: house.provider.unwraps == 2 and not service._flights)
    house.now += 60
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is keys
    assert keys.active.handle is handle
    assert handle.alive
    assert keys.derived == {"codec": "kept"}
    assert not house.provider.given[1].alive, "the second copy of the key is wiped"


async def test_a_refresh_that_fails_lets_keys_work_until_their_limit(house: House) -> None:
    await house.ring()
    service = house.service(limits={"max_idle_seconds": 1000})
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.provider.fault = DeviceDown("away")
    house.now = 1090.0
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is keys
    await settled(lambda: house.provider.unwraps == 2 and not service._flights)
    for _ in range(100):
        assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is keys
        await asyncio.sleep(0)
    assert house.provider.unwraps == 2, "not every hit tries again"
    house.now = 1101
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is None
    assert not keys.alive
    with pytest.raises(KeyUnavailable):
        await service.ring_keys(APP, EMAIL, Action.OPEN)


async def test_an_unknown_version_is_looked_for_in_the_store(house: House) -> None:
    await house.ring()
    service = house.service()
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    first = keys.active.handle
    keys.derived["codec"] = "old"
    rotated = await house.rotate()
    fresh = rotated.versions[1].key_id
    house.forget()
    assert keys.by_id(fresh) is None
    house.now += 2
    again = await service.refresh("shop")
    found = again.by_id(fresh)
    assert found is not None
    assert again is keys, "keys in use stay"
    assert first.alive
    assert keys.active.id == fresh
    assert keys.derived == {}, "codecs are built anew for the new set of versions"


async def test_made_up_versions_cause_no_calls(house: House) -> None:
    await house.ring()
    service = house.service()
    await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.forget()
    for _ in range(100):
        await service.refresh("shop")
        house.now += 0.5
        service.ring_keys_now(APP, EMAIL, Action.OPEN)
    assert house.provider.unwraps <= 1  # the regular refresh by age


async def test_a_disabled_version_is_wiped_at_the_next_refresh(house: House) -> None:
    await house.ring(versions=2)
    service = house.service()
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    await house.move(1, State.DISABLED)
    house.now += 2
    again = await service.refresh("shop")
    assert not keys.alive
    assert [v.number for v in again.versions] == [2]


async def test_a_ring_without_active_version_opens_but_does_not_seal(house: House) -> None:
    await house.ring(versions=2)
    await house.move(2, State.DISABLED)
    keys = await house.service().ring_keys(APP, EMAIL, Action.OPEN)
    assert [v.number for v in keys.versions] == [1]
    with pytest.raises(KeyUnavailable):
        _ = keys.active


async def test_disabled_is_unavailable_and_destroyed_is_for_ever(house: House) -> None:
    await house.ring()
    await house.move(1, State.DISABLED)
    with pytest.raises(KeyUnavailable) as caught:
        await house.service().ring_keys(APP, EMAIL, Action.OPEN)
    assert not isinstance(caught.value, KeyDestroyed)
    await house.move(1, State.DESTROYED)
    with pytest.raises(KeyDestroyed):
        await house.service().ring_keys(APP, EMAIL, Action.OPEN)


async def test_an_absent_ring_is_remembered_for_five_seconds(house: House) -> None:
    service = house.service()
    with pytest.raises(KeyUnavailable):
        await service.ring_keys(APP, EMAIL, Action.OPEN)
    await house.ring()
    with pytest.raises(KeyUnavailable):
        await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.now += 5
    assert (await service.ring_keys(APP, EMAIL, Action.OPEN)).alive


@pytest.mark.parametrize("name", ["../shop", "a/b", ""])
async def test_a_ring_name_that_cannot_be_is_unavailable(house: House, name: str) -> None:
    with pytest.raises(KeyUnavailable):
        await house.service().ring_keys(APP, Resource("bucket", "b", name), Action.OPEN)


async def test_a_token_that_is_down_is_given_rest_and_then_probed(house: House) -> None:
    await house.ring()
    service = house.service()
    house.provider.fault = DeviceDown("away")
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            await service.ring_keys(APP, EMAIL, Action.OPEN)
    assert service.health()["breaker"] == "open"
    assert service.health()["up"] is False
    calls = house.provider.unwraps
    for _ in range(10):
        with pytest.raises(KeyUnavailable):
            await service.ring_keys(APP, EMAIL, Action.OPEN)
    assert house.provider.unwraps == calls
    house.provider.fault = None
    house.now += 6.1
    assert (await service.ring_keys(APP, EMAIL, Action.OPEN)).alive
    assert service.health()["breaker"] == "closed"


async def test_bad_data_never_opens_the_breaker(house: House) -> None:
    await house.ring()
    service = house.service()
    house.provider.fault = IntegrityError("forged")
    for _ in range(10):
        with pytest.raises(KeyUnavailable):
            await service.ring_keys(APP, EMAIL, Action.OPEN)
    assert service.health()["breaker"] == "closed"
    assert house.provider.unwraps == 10


async def test_a_damaged_old_version_takes_away_only_its_own_data(house: House) -> None:
    ring = await house.ring(versions=2)
    old = ring.versions[0]
    assert old.wrapped is not None
    damaged = replace(old, wrapped=replace(old.wrapped, sealed=b"\0" * 48))
    changed = rings._changed(ring, (damaged, ring.versions[1]), 1, "damage", 1)
    await house.store.put(changed, ring.generation)
    keys = await house.service().ring_keys(APP, EMAIL, Action.OPEN)
    assert [v.number for v in keys.versions] == [2]


async def test_a_record_moved_to_another_ring_does_not_open(house: House) -> None:
    ring = await house.ring()
    other = rings.from_document({**rings.to_document(ring), "ring": "other"})
    await house.store.put(other, 0)
    with pytest.raises(KeyUnavailable):
        await house.service().ring_keys(APP, replace(EMAIL, ring="other"), Action.OPEN)


async def test_who_waits_too_long_gets_an_error_and_the_flight_goes_on(house: House) -> None:
    await house.ring()
    service = house.service(wait_seconds=0.05)
    house.provider.gate.clear()
    with pytest.raises(KeyUnavailable):
        await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.provider.gate.set()
    await settled(lambda: not service._flights)
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is not None


async def test_a_failed_version_leaves_no_key_of_the_others_behind(house: House) -> None:
    await house.ring(versions=3)
    real = house.provider.unwrap

    async def second_fails(record: Record, context: bytes) -> KeyHandle:
        if record.subject.version == 1:
            raise DeviceDown("away")
        return await real(record, context)

    house.provider.unwrap = second_fails  # type: ignore[method-assign]
    with pytest.raises(KeyUnavailable):
        await house.service().ring_keys(APP, EMAIL, Action.OPEN)
    assert len(house.provider.given) == 2
    assert not any(h.alive for h in house.provider.given)


async def test_closing_wipes_what_is_cached_and_what_is_on_its_way(house: House) -> None:
    await house.ring("shop")
    await house.ring("docs")
    service = house.service()
    keys = await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.provider.gate.clear()
    flight = asyncio.create_task(
        service.ring_keys(APP, Resource("bucket", "docs", "docs"), Action.OPEN)
    )
    await settled(lambda: house.provider.unwraps == 2)
    await service.close()
    house.provider.gate.set()
    with pytest.raises(KeyUnavailable):
        await flight
    assert not keys.alive
    assert not any(h.alive for h in house.provider.given)
    with pytest.raises(KeyUnavailable):
        service.ring_keys_now(APP, EMAIL, Action.OPEN)


async def test_keys_that_arrive_after_the_audit_log_went_down_are_not_kept(house: House) -> None:
    """`refuse`: what was forgotten when it went down must not come back with a flight."""

    class Sink(MemorySink):
        down = False

        def require(self) -> None:
            if self.down:
                raise AuditUnavailable("down")

    house.audit = sink = Sink()
    await house.ring()
    service = house.service(limits={"max_idle_seconds": 1000})
    await service.ring_keys(APP, EMAIL, Action.OPEN)
    house.now += 90  # in the last tenth: the next use renews, in the background
    house.provider.gate.clear()
    service.ring_keys_now(APP, EMAIL, Action.OPEN)
    await settled(lambda: house.provider.unwraps == 2)
    sink.down = True
    service.forget()
    house.provider.gate.set()
    await settled(lambda: not service._flights)
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is None
    assert not any(h.alive for h in house.provider.given)


async def test_uses_and_bytes_bring_a_new_fetch(house: House) -> None:
    await house.ring()
    service = house.service(limits={"max_uses": 3, "max_bytes": 1000})
    keys = await service.ring_keys(APP, EMAIL, Action.SEAL)
    service.note_bytes(keys, 999)
    assert service.ring_keys_now(APP, EMAIL, Action.SEAL) is keys
    service.note_bytes(keys, 1)
    assert keys.alive
    assert service.ring_keys_now(APP, EMAIL, Action.SEAL) is None
    keys = await service.ring_keys(APP, EMAIL, Action.SEAL)
    service.ring_keys_now(APP, EMAIL, Action.SEAL)
    service.ring_keys_now(APP, EMAIL, Action.SEAL)
    assert service.ring_keys_now(APP, EMAIL, Action.SEAL) is None
    assert not keys.alive


async def test_prewarmed_rings_are_there_at_once_and_a_missing_one_is_not_fatal(
    house: House,
) -> None:
    await house.ring()
    service = house.service(prewarm=("shop", "missing"))
    await service.start()
    assert service.ring_keys_now(APP, EMAIL, Action.OPEN) is not None


async def test_a_device_that_is_away_does_not_stop_the_start(house: House) -> None:
    await house.ring()

    async def away() -> None:
        raise DeviceDown("away")

    house.provider.open = away  # type: ignore[method-assign]
    service = house.service()
    await service.start()
    assert service.health()["up"] is False


async def test_uses_from_memory_are_summed_up_in_the_audit(house: House) -> None:
    await house.ring()
    service = house.service()
    await service.ring_keys(APP, EMAIL, Action.OPEN)
    for _ in range(7):
        service.ring_keys_now(APP, EMAIL, Action.OPEN)
    await service.close()
    last = house.audit.lines[-1]
    assert isinstance(last, KeyDecision)
    assert (last.event, last.count, last.principal) == ("key.uses", 7, "postgres:app")


async def test_a_client_that_changes_its_purpose_fills_neither_memory_nor_the_audit_log(
    house: House,
) -> None:
    await house.ring()
    service = house.service()
    await service.ring_keys(APP, EMAIL, Action.OPEN)
    for n in range(40_000):
        who = Principal("postgres", "app", Circumstances(purpose=f"case-{n}"))
        service.note_uses(who, EMAIL, Action.OPEN, 1)
    assert len(service._used) < 20_000
    await service.close()
    uses = [e for e in house.audit.lines if isinstance(e, KeyDecision) and e.event == "key.uses"]
    assert sum(e.count for e in uses) == 40_000 and len(uses) <= 4


def test_a_provider_is_what_the_service_expects() -> None:
    assert issubclass(SoftwareProvider, Provider)
    assert RingKeys("x", 1, ()).alive
