"""Who may have which key, and where does it come from? policy → cache → store → provider → arena.

Theory of operation. `ring_keys_now` answers from the cache, on the hot path, without a wait.
`ring_keys` fetches what is not there: one flight per ring, however many ask; each waits at most
`wait_seconds`. In the last tenth of an entry's age one background flight renews it while the old
keys serve; a renewal that brings the same versions leaves them in place (`RingKeys.merge`), so that
codecs in use go on. A renewal that fails changes nothing: the keys work until their limit, then
they are wiped and new requests fail closed. A reaper wipes on time even when nobody asks.

A hit never skips policy. Failures of the device go to the breaker, bad data does not.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar

import structlog

from proxy import metrics
from proxy.audit.record import KeyDecision, Line, Result
from proxy.audit.sink import LogSink, Sink
from proxy.config.model import CacheLimits
from proxy.config.policy import PolicyConfig, PolicyRule
from proxy.crypto import kdf
from proxy.errors import (
    AccessDenied,
    AuditUnavailable,
    IntegrityError,
    KeyDestroyed,
    KeyUnavailable,
)
from proxy.keys.breaker import Breaker
from proxy.keys.cache import KeyCache, boottime
from proxy.keys.handles import RingKeys, RingVersionKey
from proxy.keys.providers.base import Asking, DeviceDown, Provider
from proxy.keys.ring import Ring, RingError, State, Version
from proxy.keys.stores.base import RingStore
from proxy.native import KeyHandle
from proxy.policy.decide import Decision, Policy
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict

__all__ = ["KeyService", "RingKeys", "RingVersionKey"]

T = TypeVar("T")
_IN_FLIGHT = 20
_ABSENT_SECONDS = 5.0
_RECHECK_SECONDS = 1.0
_TICK_SECONDS = 1.0
_PROBE_SECONDS = 10.0
_SUMMARY_SECONDS = 60.0
_MANY_USES = 1 << 20
_MOST_COUNTED = 16_384  # principals are told apart by circumstances, which clients choose


class KeyService:
    """The one place where keys are handed out. Single thread: the loop's."""

    def __init__(
        self,
        provider: Provider,
        store: RingStore,
        policy: Policy,
        limits: CacheLimits,
        *,
        audit: Sink | None = None,
        clock: Callable[[], float] = boottime,
        prewarm: Sequence[str] = (),
        wait_seconds: float = 2.0,
    ) -> None:
        self._provider = provider
        self._store = store
        self._policy = policy
        self._clock = clock
        self._audit = audit if audit is not None else LogSink()
        self._prewarm = tuple(prewarm)
        self._wait_seconds = wait_seconds
        self._breaker = Breaker(clock)
        self._cache: KeyCache[RingKeys] = KeyCache(limits, clock, on_wipe=self._wiped)
        self._flights: dict[str, asyncio.Task[RingKeys]] = {}
        self._asked: dict[str, Asking] = {}  # by ring, who was last allowed to use it
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._absent: dict[str, float] = {}
        self._checked: dict[str, float] = {}
        self._retry_from: dict[str, float] = {}
        self._used: Counter[tuple[Principal, Resource, Action]] = Counter()
        self._background: list[asyncio.Task[None]] = []
        self._up: bool | None = None
        self._detail = "not started"
        self._closed = False
        self._log = structlog.get_logger("keys")

    # -- for the protocols ---------------------------------------------------------------------

    def ring_keys_now(
        self, principal: Principal, resource: Resource, action: Action
    ) -> RingKeys | None:
        """The ring's keys if they are in memory, else None. Counts one use.

        Raises AccessDenied if policy says no, whether or not the keys are there.
        """
        self.authorise(principal, resource, action)
        keys = self._cache.get(resource.ring)
        if keys is None:
            return None
        self._count_uses(principal, resource, action, 1)
        metrics.key_cache_hits_total.inc()
        if self._cache.wants_refresh(resource.ring) and self._may_retry(resource.ring):
            self._flight(resource.ring, Asking(principal, resource, action))
        return keys

    @property
    def counts_each_use(self) -> bool:
        """The limit of uses is so low that a use must be counted before it happens."""
        return self._cache.max_uses < _MANY_USES

    def note_uses(
        self, principal: Principal, resource: Resource, action: Action, count: int
    ) -> None:
        """Counts uses that were made of keys handed out before."""
        self._count_uses(principal, resource, action, count)
        self._cache.note_uses(resource.ring, count)

    async def ring_keys(self, principal: Principal, resource: Resource, action: Action) -> RingKeys:
        """The ring's keys, fetched if need be.

        Raises AccessDenied, KeyDestroyed, KeyUnavailable. May wait up to `wait_seconds`.
        """
        keys = self.ring_keys_now(principal, resource, action)
        if keys is not None:
            return keys
        decision = self._policy.decide(principal, resource, action)
        asking = Asking(principal, resource, action)
        self._asked[resource.ring] = asking
        try:
            await self._await_flight(resource.ring, asking)
        except KeyUnavailable as error:
            self._note(
                "key.fetch", principal, resource, action, "unavailable", decision, str(error)
            )
            raise
        keys = self._cache.get(resource.ring)
        if keys is None:  # a limit of one use, or an eviction, in between
            raise KeyUnavailable(f"the keys of ring {resource.ring} left the cache at once")
        self._note("key.fetch", principal, resource, action, "allowed", decision)
        return keys

    async def refresh(self, ring: str) -> RingKeys:
        """The ring's keys as the store has them now; for a ciphertext of an unknown version.

        Ids come from untrusted ciphertext, so the store is asked at most once a second per ring,
        and the token only if the ring really changed. Raises KeyUnavailable, KeyDestroyed.
        """
        current = self._cache.peek(ring)
        if current is not None:
            if self._clock() - self._checked.get(ring, float("-inf")) < _RECHECK_SECONDS:
                return current
            self._checked[ring] = self._clock()
            stored = await self._read(ring)
            if stored.generation == current.generation and current.alive:
                return current
        return await self._await_flight(ring, self._asked.get(ring))

    def note_bytes(self, keys: RingKeys, n: int) -> None:
        """Counts `n` bytes sealed or opened under the ring towards its byte limit."""
        if self._cache.peek(keys.ring) is keys:
            self._cache.note_bytes(keys.ring, n)

    # -- for the runtime -----------------------------------------------------------------------

    async def start(self) -> None:
        """The provider is open, the configured rings are warm, the reaper runs. Idempotent.

        Raises what an operator must mend (wrong PIN, no such key). A device that is merely away is
        not fatal: the rest of the proxy works, and keys come when it is back.
        """
        if self._background or self._closed:
            return
        try:
            await self._guarded(self._provider.open())
        except DeviceDown as error:
            self._log.error("key provider is down", provider=self._provider.name, error=str(error))
        self._background = [
            asyncio.create_task(self._reap(), name="key-reaper"),
            asyncio.create_task(self._probe_forever(), name="key-probe"),
        ]
        for ring in self._prewarm:
            try:
                await self._await_flight(ring, None)
            except KeyUnavailable as error:
                self._log.error("ring cannot be opened at start", ring=ring, error=str(error))

    async def close(self) -> None:
        """All keys wiped, all flights ended, provider and store closed. Idempotent."""
        self._closed = True
        tasks = [*self._background, *self._flights.values()]
        self._background = []
        for task in tasks:
            task.cancel()
        self._cache.clear()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        self._cache.clear()
        self._summarise()
        await self._audit.stop("closed")
        await self._provider.close()
        await self._store.close()

    def forget(self) -> None:
        """No key is in memory: the next use of any asks for it anew."""
        self._cache.clear()

    def report(self, line: Line) -> None:
        """One line for the audit log. Raises AuditUnavailable."""
        self._audit.write(line)

    def health(self) -> dict[str, object]:
        """For the health address; no secret, no call."""
        return {
            "provider": self._provider.name,
            "up": bool(self._up),
            "detail": self._detail,
            "breaker": self._breaker.state.value,
            "rings_in_memory": len(self._cache),
        }

    # -- policy and audit ----------------------------------------------------------------------

    @property
    def shows(self) -> bool:
        """Whether the policy shows some readers something else than the value or an error."""
        return self._policy.shows

    def verdict(self, principal: Principal, resource: Resource) -> tuple[Verdict, Mask | None]:
        """What a reader is shown of a column; no key is touched."""
        decision = self._policy.decide(principal, resource, Action.OPEN)
        return decision.verdict, decision.mask

    def set_policy(self, rules: PolicyConfig | Sequence[PolicyRule]) -> None:
        """Other rules from the next request on, also for keys that are in memory."""
        self._policy = Policy(rules)

    def authorise(self, principal: Principal, resource: Resource, action: Action) -> None:
        """AccessDenied, and a line in the audit log, unless policy allows it; no key is touched."""
        if self._closed:
            raise KeyUnavailable("the key service is closed")
        decision = self._policy.decide(principal, resource, action)
        if not decision.allowed:
            metrics.key_denials_total.inc()
            self._note("key.deny", principal, resource, action, "denied", decision)
            raise AccessDenied(
                f"{principal.kind}:{principal.name} may not {action.value} "
                f"{resource.kind}:{resource.name}"
            )

    def _note(
        self,
        event: str,
        principal: Principal,
        resource: Resource,
        action: Action,
        result: Result,
        decision: Decision,
        detail: str = "",
        count: int = 1,
    ) -> None:
        self._audit.write(
            KeyDecision(
                event,
                f"{principal.kind}:{principal.name}",
                f"{resource.kind}:{resource.name}",
                action.value,
                resource.ring,
                result,
                decision.rule,
                detail,
                count,
            )
        )

    def _count_uses(
        self, principal: Principal, resource: Resource, action: Action, count: int
    ) -> None:
        self._used[(principal, resource, action)] += count
        if len(self._used) >= _MOST_COUNTED:
            self._summarise()

    def _summarise(self) -> None:
        """One line for each name, resource, action and rule: a line tells no circumstances."""
        used, self._used = self._used, Counter()
        lines: dict[tuple[str, str, Resource, Action, int | None], tuple[Principal, Decision]] = {}
        counts: Counter[tuple[str, str, Resource, Action, int | None]] = Counter()
        for (principal, resource, action), count in used.items():
            decision = self._policy.decide(principal, resource, action)
            line = (principal.kind, principal.name, resource, action, decision.rule)
            lines.setdefault(line, (principal, decision))
            counts[line] += count
        for line, (principal, decision) in lines.items():
            _, _, resource, action, _ = line
            with contextlib.suppress(AuditUnavailable):  # the log counts what it loses
                self._note(
                    "key.uses", principal, resource, action, "allowed", decision, "", counts[line]
                )

    # -- fetching ------------------------------------------------------------------------------

    def _flight(self, ring: str, asking: Asking | None) -> asyncio.Task[RingKeys]:
        """The flight that fetches this ring; a new one, on behalf of `asking`, if none is under
        way."""
        task = self._flights.get(ring)
        if task is None:
            task = asyncio.create_task(self._fetch(ring, asking), name=f"ring {ring}")
            self._flights[ring] = task
            task.add_done_callback(lambda done: self._landed(ring, done))
        return task

    def _landed(self, ring: str, task: asyncio.Task[RingKeys]) -> None:
        self._flights.pop(ring, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._retry_from[ring] = self._clock() + _RECHECK_SECONDS
            self._log.warning("ring was not fetched", ring=ring, error=str(error))

    def _may_retry(self, ring: str) -> bool:
        """Not at once after a failed renewal: while a token is away, every hit would try again."""
        return self._clock() >= self._retry_from.get(ring, float("-inf"))

    async def _await_flight(self, ring: str, asking: Asking | None) -> RingKeys:
        if self._clock() < self._absent.get(ring, float("-inf")):
            raise KeyUnavailable(f"there is no ring {ring}")
        joined = ring in self._flights
        flight = self._flight(ring, asking)
        try:
            # Shielded: one waiter's cancellation or time-out must not take the key from others.
            return await asyncio.wait_for(asyncio.shield(flight), self._wait_seconds)
        except TimeoutError:
            raise KeyUnavailable(
                f"the keys of ring {ring} did not come within {self._wait_seconds:g} s"
            ) from None
        except AccessDenied:
            if not joined:
                raise
            # The agent refused somebody else, on whose behalf the flight went.
            return await self._await_flight(ring, asking)
        except asyncio.CancelledError:
            if not flight.cancelled():  # it is the waiter who was cancelled
                raise
            raise KeyUnavailable("the key service is closed") from None

    async def _fetch(self, ring: str, asking: Asking | None) -> RingKeys:
        self._audit.require()  # nothing is fetched that could not be written down
        async with self._slots:
            fresh = await self._unwrapped(await self._read(ring), asking)
        try:
            if self._closed:
                raise KeyUnavailable("the key service is closed")
            self._audit.require()  # it may have gone down meanwhile, and `forget` been called
        except KeyUnavailable:
            fresh.wipe()
            raise
        current = self._cache.peek(ring)
        keys = current if current is not None and current.merge(fresh) else fresh
        self._cache.put(ring, keys)
        metrics.key_cache_entries.set(len(self._cache))
        self._checked[ring] = self._clock()
        return keys

    async def _read(self, ring: str) -> Ring:
        try:
            stored = await self._store.get(ring)
        except RingError as error:
            raise KeyUnavailable(str(error)) from None
        if stored is None:
            self._absent[ring] = self._clock() + _ABSENT_SECONDS
            raise KeyUnavailable(f"there is no ring {ring}")
        self._absent.pop(ring, None)
        return stored

    async def _unwrapped(self, ring: Ring, asking: Asking | None) -> RingKeys:
        """Every version that may be used, in the arena. A version that does not open is left out,
        so that one damaged record takes away only its own data; none at all is an error."""
        openable = ring.openable
        if not openable:
            if ring.versions and all(v.state is State.DESTROYED for v in ring.versions):
                raise KeyDestroyed(f"every version of ring {ring.name} was destroyed")
            raise KeyUnavailable(f"no version of ring {ring.name} may be used")
        # The first one alone: if the breaker is half open it is the probe, and the rest follow it.
        results: list[RingVersionKey | BaseException] = []
        try:
            results += await asyncio.gather(
                self._open_version(ring.name, openable[0], asking), return_exceptions=True
            )
            results += await asyncio.gather(
                *(self._open_version(ring.name, v, asking) for v in openable[1:]),
                return_exceptions=True,
            )
            errors = [r for r in results if isinstance(r, BaseException)]
            fatal = next((e for e in errors if not isinstance(e, IntegrityError)), None)
            if fatal is not None:
                raise fatal
            opened = tuple(r for r in results if isinstance(r, RingVersionKey))
            if not opened:
                raise KeyUnavailable(f"no version of ring {ring.name} opens under this root")
        except BaseException:
            for result in results:
                if isinstance(result, RingVersionKey):
                    result.handle.wipe()
            raise
        return RingKeys(ring.name, ring.generation, opened)

    async def _open_version(
        self, ring: str, version: Version, asking: Asking | None
    ) -> RingVersionKey:
        assert version.wrapped is not None
        state: Literal["active", "retired"] = (
            "active" if version.state is State.ACTIVE else "retired"
        )
        try:
            handle = await self._unwrap(ring, version, asking)
        except IntegrityError as error:
            self._log.error(
                "wrapped key does not open", ring=ring, version=version.number, error=str(error)
            )
            raise
        if kdf.ring_version_id(handle) != version.key_id:
            handle.wipe()
            raise IntegrityError(f"ring {ring} version {version.number} is another key")
        return RingVersionKey(version.key_id, version.number, handle, state)

    async def _unwrap(self, ring: str, version: Version, asking: Asking | None) -> KeyHandle:
        assert version.wrapped is not None
        if not self._breaker.admit():
            raise KeyUnavailable(
                f"the key provider {self._provider.name} is down; it is given rest"
            )
        outcome = "ok"
        began = time.perf_counter()
        try:
            return await self._guarded(self._provider.unwrap_ring(version.wrapped, ring, asking))
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            metrics.key_unwrap_duration_seconds.observe(time.perf_counter() - began)
            metrics.key_unwraps_total.labels(self._provider.name, outcome).inc()

    async def _guarded(self, call: Awaitable[T]) -> T:
        """The call's result; the breaker hears what it says about the device."""
        try:
            result = await call
        except DeviceDown as error:
            self._breaker.failure()
            self._set_up(False, str(error))
            raise
        except IntegrityError:
            self._breaker.success()
            raise
        except BaseException:
            self._breaker.neutral()
            raise
        self._breaker.success()
        self._set_up(True, "")
        return result

    def _set_up(self, up: bool, detail: str) -> None:
        if up is not self._up:
            self._log.info("key provider", provider=self._provider.name, up=up, detail=detail)
        self._up, self._detail = up, detail
        metrics.hsm_up.set(up)

    # -- time ----------------------------------------------------------------------------------

    async def _reap(self) -> None:
        """Wipes on time, used or not; ticks, since a suspend does not move the loop's timers."""
        summary_at = time.monotonic() + _SUMMARY_SECONDS
        while True:
            deadline = self._cache.next_deadline()
            delay = _TICK_SECONDS
            if deadline is not None:
                delay = min(max(deadline - self._clock(), 0.01), _TICK_SECONDS)
            await asyncio.sleep(delay)
            self._cache.expire()
            if self._policy.stale(now := datetime.now(UTC)):
                self._policy = self._policy.renewed(now)
            if time.monotonic() >= summary_at:
                summary_at += _SUMMARY_SECONDS
                self._summarise()

    async def _probe_forever(self) -> None:
        """Keeps `health` true when nothing is fetched; finds out that the token is back."""
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            if not self._breaker.admit():
                continue
            health = await self._provider.health()
            if health.up:
                self._breaker.success()
            else:
                self._breaker.failure()
            self._set_up(health.up, health.detail)

    def _wiped(self, ring: str, reason: str) -> None:
        metrics.keys_wiped_total.inc()
        metrics.key_cache_entries.set(len(self._cache))
        self._log.debug("ring wiped", ring=ring, reason=reason)


def _outcome(error: BaseException) -> str:
    """A label with few values for `sealgate_key_unwraps_total`."""
    if isinstance(error, IntegrityError):
        return "integrity"
    if isinstance(error, DeviceDown):
        return "device"
    return "refused" if isinstance(error, KeyUnavailable) else "error"
