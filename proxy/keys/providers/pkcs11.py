"""A root key in one HSM token or in several: AES-256-GCM in the token, keys straight into the arena.

Theory of operation. A request goes to the member that is fastest and least busy. If that fails, or
does not answer within `failover_after_seconds`, the next one is asked as well, and the first answer
counts; what the slow one still brings is wiped. All operations may be asked twice: none changes the
token. A member that is away, hung or slow is tried again every `check_seconds`, and taken back by
itself.

A token with another key must never be used. The *canary* is a value sealed under the root: every
login opens it before the key is used; so does every operation that made something, since a key may
be exchanged under a living session. And a record that does not open is an IntegrityError only if
the canary opens in the same session: SoftHSM 2.6 and others answer "tag does not match" with
CKR_GENERAL_ERROR, which can also mean a broken device, and a member that holds another key
answers every good record that way.
"""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from proxy import metrics
from proxy.config.base import SecretRef
from proxy.config.hsm import Pkcs11Cluster, Pkcs11Token
from proxy.config.hsm import Pkcs11Provider as Pkcs11Config
from proxy.errors import IntegrityError, KeyUnavailable
from proxy.keys.providers import canary, ckr
from proxy.keys.providers.base import (
    CapabilityMissing,
    CredentialRefused,
    DeviceDown,
    Overloaded,
    Provider,
    ProviderHealth,
    WrongKey,
)
from proxy.keys.providers.member import Member
from proxy.keys.providers.token import Session
from proxy.keys.providers.token_keys import KeyNotHere, NoDataKeys
from proxy.keys.record import Record, Subject, Suite
from proxy.native import KeyHandle, Pkcs11Error, Pkcs11Module

T = TypeVar("T")
Action = Callable[[Member, Pkcs11Module, Session], T]
_NEXT = (DeviceDown, Overloaded, CapabilityMissing, CredentialRefused)  # the next one may do it
_REST_SECONDS = 10.0  # between checks of a member that is well
_MUCH_SLOWER = 4
_SLOW_SECONDS = 0.02  # what is faster is never slow
_MAX_DATA_BYTES = 4096


class Pkcs11Provider(Provider):
    name = "pkcs11"

    def __init__(
        self, config: Pkcs11Config | Pkcs11Cluster, pin: Callable[[SecretRef], bytearray]
    ) -> None:
        """`pin` gives a fresh buffer with the PIN of a member, wiped after each login."""
        self._canary: bytes | None = None
        self._root_id = b""
        if isinstance(config, Pkcs11Cluster):
            parts: list[tuple[str, Pkcs11Token]] = [(m.name, m) for m in config.members]
            self._failover_after: float = config.failover_after_seconds
            self._check_seconds = config.check_seconds
            if config.key_check is not None:
                self._canary = bytes.fromhex(config.key_check)
        else:
            parts = [("token", config)]
            self._failover_after = self._check_seconds = 2.0
        self.members = [
            Member(name, part, partial(pin, part.pin), self._check) for name, part in parts
        ]
        self._turn = itertools.count(1)
        self._late: set[asyncio.Task[Any]] = set()
        self._watchers: list[asyncio.Task[None]] = []
        self._opening = asyncio.Lock()
        self._closed = False
        self._log = structlog.get_logger("hsm")

    @property
    def root_id(self) -> bytes:
        return self._root_id

    @property
    def key_check(self) -> str | None:
        """The canary for the configuration, once a member is open."""
        return None if self._canary is None else self._canary.hex()

    async def open(self) -> None:
        async with self._opening:
            if self._closed:
                raise DeviceDown("the provider is closed")
            results = await asyncio.gather(
                *(m.open() for m in self.members), return_exceptions=True
            )
            if not any(m.opened for m in self.members):
                errors = [r for r in results if isinstance(r, BaseException)]
                raise next((e for e in errors if isinstance(e, DeviceDown)), errors[0])
            await self._agree()
            if not self._watchers and len(self.members) > 1:
                self._watchers = [asyncio.create_task(self._watch(m)) for m in self.members]

    async def create_root(self) -> bytes:
        """Makes the root key in the token; returns its id. FileExistsError if there is one."""
        if len(self.members) > 1:
            # Never made in one member only: what it wrapped would be lost with it.
            try:
                await self.open()
            except CapabilityMissing as error:
                raise CapabilityMissing(
                    f"{error}. A cluster's root is made in one token (kind: pkcs11), then brought "
                    "into the others with the HSM's own tools for cloning"
                ) from None
            raise FileExistsError("the cluster has its root already")
        member, key_id = self.members[0], secrets.token_bytes(16)
        await member.run(lambda: member.token.create_key(key_id))
        await self.open()
        return self.root_id

    async def create_wrapping_key(self) -> None:
        """Makes the key that wraps data keys, in the one token. FileExistsError if it is there."""
        if len(self.members) > 1:
            raise CapabilityMissing("make the wrapping key in one token, and clone it")
        member = self.members[0]
        await member.run(lambda: member.token.administer(member.keys.create_wrapping_key))

    async def wrap(self, key: KeyHandle, subject: Subject, context: bytes) -> Record:
        await self._opened()
        record = Record(Suite.TOKEN_AES_GCM, subject, self.root_id, 1, b"", secrets.token_bytes(12))

        def seal(member: Member, module: Pkcs11Module, session: Session) -> Record:
            # An IV for each attempt: two members may be asked, and a nonce is used once.
            own = replace(record, iv=secrets.token_bytes(12))
            with _explained():
                sealed = module.gcm_wrap(session.handle, session.key, own.iv, key, own.aad(context))
                self._verify(module, session)
            return replace(own, sealed=sealed)

        return await self._ask(seal)

    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        await self._opened()
        if record.suite is not Suite.TOKEN_AES_GCM or record.parent_id != self.root_id:
            raise IntegrityError("the key is wrapped under another root")
        aad = record.aad(context)

        def unseal(member: Member, module: Pkcs11Module, session: Session) -> KeyHandle:
            try:
                return module.gcm_unwrap(session.handle, session.key, record.iv, record.sealed, aad)
            except Pkcs11Error as error:
                self._settle(error, module, session)
                raise IntegrityError("a wrapped key does not open under this root") from None
            except ValueError as error:
                raise CapabilityMissing(str(error)) from None

        return await self._ask(unseal)

    async def random(self, n: int) -> bytes:
        await self._opened()

        def draw(member: Member, module: Pkcs11Module, session: Session) -> bytes:
            with _explained():
                return module.random(session.handle, n)

        return await self._ask(draw)

    async def health(self) -> ProviderHealth:
        try:
            await self._opened()
        except KeyUnavailable as error:
            if len(self.members) == 1:
                return ProviderHealth(False, str(error))
        await asyncio.gather(*(self._probe(m) for m in self.members if m.usable or self._sole))
        if self._sole:
            member = self.members[0]
            named = member.config.token_label or member.config.token_serial or member.config.slot
            if member.well:
                return ProviderHealth(True, f"token {named!r} opens its canary")
            return ProviderHealth(False, member.quarantine or member.trouble)
        details = "; ".join(f"{m.name}: {m.detail}" for m in self.members)
        return ProviderHealth(any(m.usable for m in self.members), details)

    def hung_since(self) -> float | None:
        """Only if a call hangs in every token: while one serves, nothing is to be cured."""
        since = [member.threads.hung_since for member in self.members]
        return None if None in since else max(s for s in since if s is not None)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in (*self._watchers, *self._late):
            task.cancel()
        await asyncio.gather(*self._watchers, *self._late, return_exceptions=True)
        await asyncio.gather(*(m.close() for m in self.members))

    # -- inside the token ----------------------------------------------------------------------

    async def generate_data_key(self) -> bytes:
        await self._opened()
        maker: list[Member] = []

        def make(member: Member, module: Pkcs11Module, session: Session) -> bytes:
            with _explained():
                wrapped = member.keys.generate(module, session)
                self._verify(module, session)
            maker.append(member)
            return wrapped

        def reopens(member: Member, module: Pkcs11Module, session: Session) -> bool:
            try:
                with self._key(member, module, session, wrapped):
                    return True
            except KeyNotHere:
                return False

        wrapped = await self._ask(make)
        # By another than the one that made it, if there is one: its wrapping key may be its own.
        others = [m for m in self._order() if m is not maker[-1]]
        if not await self._ask(reopens, [*others, maker[-1]]):
            raise DeviceDown("the members of the cluster hold different wrapping keys")
        return wrapped

    async def token_seal(self, key: bytes | None, data: bytes, aad: bytes) -> bytes:
        if len(data) > _MAX_DATA_BYTES:
            raise ValueError(f"at most {_MAX_DATA_BYTES} bytes are sealed in a token")
        await self._opened()

        def seal(member: Member, module: Pkcs11Module, session: Session) -> bytes:
            with self._key(member, module, session, key) as handle, _explained():
                iv = secrets.token_bytes(12)  # a token that makes its own writes it over this
                sealed = module.gcm_seal(session.handle, handle, iv, data, aad)
                if key is None:  # a data key was unwrapped by the right wrapping key, or not at all
                    self._verify(module, session)
                return sealed

        return await self._ask(seal)

    async def token_open(self, key: bytes | None, sealed: bytes, aad: bytes) -> bytes:
        await self._opened()
        if not 28 <= len(sealed) <= _MAX_DATA_BYTES + 28:
            raise IntegrityError("sealed bytes do not open")

        def unseal(member: Member, module: Pkcs11Module, session: Session) -> bytes:
            with self._key(member, module, session, key) as handle:
                try:
                    return module.gcm_open(session.handle, handle, sealed, aad)
                except Pkcs11Error as error:
                    self._settle(error, module, session)
                    raise IntegrityError("sealed bytes do not open") from None

        return await self._ask(unseal)

    # -- in a member's thread ------------------------------------------------------------------

    def _check(self, module: Pkcs11Module, session: Session, root_id: bytes) -> None:
        """At every login: this token's key is the root."""
        if self._canary is not None:
            canary.check(module, session, self._canary)
        if self._root_id and root_id != self._root_id:
            raise WrongKey("the token's key has another CKA_ID than the root")

    @contextlib.contextmanager
    def _key(
        self, member: Member, module: Pkcs11Module, session: Session, wrapped: bytes | None
    ) -> Iterator[int]:
        """The handle of a data key, or of the root (None)."""
        if wrapped is None:
            yield session.key
            return
        try:
            handle = member.keys.take(module, session, wrapped)
        except KeyNotHere:
            self._verify(module, session)  # a token with another root has another wrapping key too
            raise
        try:
            yield handle
        finally:
            member.keys.give_back(module, session, wrapped)

    def _settle(self, error: Pkcs11Error, module: Pkcs11Module, session: Session) -> None:
        """Returns if the data is to blame for `error`; else raises what is."""
        if ckr.kind_of(error.code) not in (ckr.Kind.DATA, ckr.Kind.AMBIGUOUS):
            raise error
        self._verify(module, session)

    def _verify(self, module: Pkcs11Module, session: Session) -> None:
        if self._canary is None:
            raise DeviceDown("the token is not open")
        canary.check(module, session, self._canary)

    # -- on the loop ---------------------------------------------------------------------------

    @property
    def _sole(self) -> bool:
        return len(self.members) == 1

    async def _opened(self) -> None:
        if self._canary is None or not self._root_id:  # nobody was there at start
            await self.open()
        if self._closed:
            raise DeviceDown("the provider is closed")

    async def _agree(self) -> None:
        """All open members hold the root. The first one's canary is everybody's, if none is pinned
        or learned; if one of them does not open it, nobody knows who is right."""
        opened = [m for m in self.members if m.opened and m.quarantine is None]
        if not opened:
            raise CapabilityMissing(self.members[0].detail)
        learned = self._canary
        if learned is None:
            with _explained():
                learned = await opened[0].call(canary.make)
        differing = []
        for member in opened:
            if member.token.root_id != (self._root_id or opened[0].token.root_id):
                differing.append(member)
                continue
            try:
                await member.call(partial(canary.check, canary=learned))
            except WrongKey:
                differing.append(member)
            except _NEXT:
                continue
        if differing and self._canary is None:
            for member in differing:
                member.quarantine = None
            names = ", ".join(m.name for m in differing)
            raise CapabilityMissing(
                f"{names} hold another root key than {opened[0].name}; write into key_check what "
                "`sealgate hsm check` says of the right one"
            )
        self._canary = learned
        self._root_id = self._root_id or opened[0].token.root_id

    def _order(self) -> list[Member]:
        """Members that may be asked, the best first."""
        if self._sole:  # the service's own breaker gives it rest
            return list(self.members)
        able = [m for m in self.members if m.usable]
        fastest = min((m.latency_seconds for m in able), default=0.0)
        slow = max(_MUCH_SLOWER * fastest, _SLOW_SECONDS)
        return sorted(
            able, key=lambda m: (m.suspect, m.latency_seconds > slow, m.in_flight, m.last_used)
        )

    async def _ask(self, action: Action[T], members: list[Member] | None = None) -> T:
        """The first answer of a member."""
        waiting = self._order() if members is None else list(members)
        running: dict[asyncio.Task[T], Member] = {}
        errors: list[tuple[Member, Exception]] = []
        try:
            while True:
                if waiting and len(running) < 2 + len(errors):
                    member = waiting.pop(0)
                    member.last_used = next(self._turn)
                    running[asyncio.create_task(self._call(member, action))] = member
                elif not running:
                    raise self._nobody(errors)
                patience = self._failover_after if waiting else None
                done, _ = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    metrics.hsm_failovers_total.labels("slow").inc()
                    for member in running.values():
                        member.suspect = True
                for task in done:
                    member = running.pop(task)
                    try:
                        return task.result()
                    except (*_NEXT, KeyNotHere) as error:
                        errors.append((member, error))
                        if waiting:
                            metrics.hsm_failovers_total.labels("failed").inc()
        finally:
            for task in running:  # they end by their own deadlines, and are judged by then
                self._late.add(task)
                task.add_done_callback(self._forget)

    async def _call(self, member: Member, action: Action[T]) -> T:
        before = member.quarantine
        try:
            return await member.call(partial(action, member))
        except Pkcs11Error as error:
            raise DeviceDown(f"{error.function}: {ckr.name_of(error.code)}") from None
        finally:
            if member.quarantine is not None and before is None:
                self._log.error("HSM quarantined", member=member.name, why=member.quarantine)

    def _nobody(self, errors: list[tuple[Member, Exception]]) -> Exception:
        if self._sole and errors:
            return errors[0][1]
        for kind in (Overloaded, KeyNotHere, NoDataKeys):
            if errors and all(isinstance(error, kind) for _, error in errors):
                return errors[0][1]
        said = {member.name: str(error) for member, error in errors}
        details = "; ".join(f"{m.name}: {said.get(m.name, m.detail)}" for m in self.members)
        return DeviceDown(f"no member of the HSM cluster can serve ({details})")

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is None:
            result = task.result()
            if isinstance(result, KeyHandle):
                result.wipe()

    async def _watch(self, member: Member) -> None:
        """Takes a member back when it is well again, and finds out that it is not."""
        while True:
            await asyncio.sleep(self._check_seconds)
            slow = member.latency_seconds > _SLOW_SECONDS
            rested = time.monotonic() - member.checked_at >= _REST_SECONDS
            if not member.usable or member.suspect or slow or rested:
                await self._probe(member)

    async def _probe(self, member: Member) -> None:
        before = member.usable
        with contextlib.suppress(Exception):
            await member.probe(self._verify)
        metrics.hsm_member_up.labels(member.name).set(member.usable)
        if member.usable is not before:
            self._log.info("HSM", member=member.name, up=member.usable, detail=member.detail)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """What fails where nothing that an attacker chose goes in is the device's fault."""
    try:
        yield
    except Pkcs11Error as error:
        if ckr.kind_of(error.code) not in (ckr.Kind.DATA, ckr.Kind.AMBIGUOUS):
            raise
        raise DeviceDown(f"{error.function}: {ckr.name_of(error.code)}") from None
    except ValueError as error:
        raise CapabilityMissing(str(error)) from None
