"""From the configuration to a working key service; and the operator's acts on roots and rings.

Every act reads the ring, makes the change and writes it back under its generation; a conflict means
another operator was faster and is raised. A new key is unwrapped again through the provider and
compared before it is stored: a wrapped key that nobody has opened is never used.
"""

import asyncio
import contextlib
import os
import pwd
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proxy import native
from proxy.audit.log import AuditLog
from proxy.audit.record import OperatorAct
from proxy.audit.sink import LogSink, Sink
from proxy.config import secrets
from proxy.config.model import KeysConfig, SoftwareProvider
from proxy.config.policy import PolicyConfig, PolicyRule
from proxy.crypto import kdf
from proxy.errors import ConfigError, IntegrityError
from proxy.keys import auditing, rootfile
from proxy.keys import ring as rings
from proxy.keys.agent.client import AgentProvider, listens
from proxy.keys.providers.base import Provider
from proxy.keys.providers.pkcs11 import Pkcs11Provider
from proxy.keys.providers.software import SoftwareProvider as SoftwareRoot
from proxy.keys.record import Record, Subject, ring_context
from proxy.keys.ring import Ring, State
from proxy.keys.service import KeyService
from proxy.keys.stores.base import RingStore
from proxy.keys.stores.file import FileRingStore
from proxy.policy.decide import Policy


@dataclass(frozen=True, slots=True)
class RootInfo:
    provider: str
    root_id: bytes
    created: bool  # False: it was there already


async def open_keys(
    config: KeysConfig,
    policy: PolicyConfig | Sequence[PolicyRule],
    *,
    prewarm: Sequence[str] = (),
    agent: str | None = None,
    audit: AuditLog | None = None,
) -> KeyService:
    """A started service. Raises CredentialRefused, CapabilityMissing or ConfigError for what an
    operator must mend. `prewarm`: rings to open before readiness. `agent`: the socket of the key
    agent that has the root; None: as `reach_root`. `audit` is started with it and ends with it."""
    prepare_memory(config)
    provider = agent_of(config, agent) if agent else reach_root(config)
    service = KeyService(
        provider,
        store_of(config),
        Policy(policy),
        config.cache,
        prewarm=prewarm,
        wait_seconds=config.agent.wait_seconds,
        audit=audit,
    )
    try:
        if audit is not None:
            audit.on_down = service.forget
            await auditing.begin(audit, provider, store_of(config))
        await service.start()
    except BaseException:
        await service.close()
        raise
    return service


def prepare_memory(config: KeysConfig) -> None:
    """The arena exists and is locked, or the configuration allows that it is not."""
    try:
        native.arena_init(config.arena_slots, config.allow_unlocked_memory)
    except native.NativeError as error:
        raise ConfigError(
            f"keys.arena_slots: {error}; raise RLIMIT_MEMLOCK, or set "
            "keys.allow_unlocked_memory to run with keys in memory that may be swapped"
        ) from None


def provider_of(config: KeysConfig) -> Provider:
    """The configured provider, not yet open."""
    provider = config.provider
    if isinstance(provider, SoftwareProvider):
        return SoftwareRoot(provider.file, partial(secrets.resolve_bytes, provider.passphrase))
    return Pkcs11Provider(provider, secrets.resolve_bytes)


def agent_of(config: KeysConfig, path: str) -> Provider:
    """The key agent at this socket, in place of the provider that it holds."""
    return AgentProvider(path, config.provider.kind, config.agent.wait_seconds, agent_uids(config))


def agent_uids(config: KeysConfig) -> frozenset[int]:
    """Who may listen on the agent's socket: its own user, root, or who we are."""
    uids = {0, os.geteuid()}
    if config.agent.user is not None:
        uids.add(user_of(config)[0])
    return frozenset(uids)


def user_of(config: KeysConfig) -> tuple[int, int, str]:
    """(uid, gid, name) of `keys.agent.user`. ConfigError if there is no such user."""
    name = config.agent.user
    assert name is not None
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"keys.agent.user: there is no user {name}") from None
    return found.pw_uid, found.pw_gid, found.pw_name


def reach_root(config: KeysConfig) -> Provider:
    """For commands: the running agent where `keys.agent.socket` answers, else the root itself."""
    path = config.agent.socket
    return agent_of(config, path) if path and listens(path) else provider_of(config)


def store_of(config: KeysConfig) -> RingStore:
    return FileRingStore(config.store.path)


async def init_root(config: KeysConfig, *, audit: Sink | None = None) -> RootInfo:
    """The root key exists: made now, in the token or in a new file, or found."""
    prepare_memory(config)
    created = True
    if isinstance(config.provider, SoftwareProvider):
        try:
            root_id = await asyncio.to_thread(_create_root_file, config.provider)
        except FileExistsError:
            created = False
    else:
        token = Pkcs11Provider(config.provider, secrets.resolve_bytes)
        try:
            root_id = await token.create_root()
        except FileExistsError:
            created = False
        finally:
            await token.close()
    if not created:
        async with _opened(config) as provider:
            root_id = provider.root_id
    else:
        _note(audit, OperatorAct("root.create", "", 1, root_id.hex()))
    return RootInfo(config.provider.kind, root_id, created)


async def create_ring(config: KeysConfig, name: str, *, audit: Sink | None = None) -> Ring:
    """A new ring with one active version. StoreConflict if the ring exists."""
    rings.check_name(name)
    async with _opened(config) as provider:
        ring = rings.create(name, await _new_version(provider, name, 1), _now())
    await store_of(config).put(ring, 0)
    _note(audit, OperatorAct("ring.create", name, 1))
    return ring


async def rotate_ring(config: KeysConfig, name: str, *, audit: Sink | None = None) -> Ring:
    """The ring with a new active version; what was active opens only. RingError: no such ring."""
    store = store_of(config)
    ring = await _existing(store, name)
    number = ring.next_number()
    async with _opened(config) as provider:
        changed = rings.rotate(ring, await _new_version(provider, name, number), _now())
    await store.put(changed, ring.generation)
    _note(audit, OperatorAct("ring.rotate", name, number))
    return changed


async def change_state(
    config: KeysConfig, name: str, number: int, state: State, *, audit: Sink | None = None
) -> Ring:
    """Moves one version along `ring.TRANSITIONS`. Needs no root; running proxies see it when they
    next renew the ring (cache age at most)."""
    store = store_of(config)
    ring = await _existing(store, name)
    changed = rings.change_state(ring, number, state, _now())
    await store.put(changed, ring.generation)
    _note(audit, OperatorAct("ring.state", name, number, state.value))
    return changed


async def list_rings(config: KeysConfig) -> list[Ring]:
    """All rings by name."""
    store = store_of(config)
    found = [await store.get(name) for name in await store.names()]
    return [ring for ring in found if ring is not None]


async def show_ring(config: KeysConfig, name: str) -> Ring:
    """One ring; RingError if there is none."""
    return await _existing(store_of(config), name)


async def _existing(store: RingStore, name: str) -> Ring:
    ring = await store.get(name)
    if ring is None:
        raise rings.RingError(f"there is no ring {name}")
    return ring


async def _new_version(provider: Provider, ring: str, number: int) -> Record:
    """A fresh ring key, wrapped, opened again and found the same."""
    local = native.key_random()
    try:
        # Two sources, so that a weak one alone does not weaken the key.
        key = kdf.new_ring_key(local, await provider.random(32))
    finally:
        local.wipe()
    try:
        subject = Subject(kdf.ring_version_id(key), number)
        context = ring_context(ring)
        record = await provider.wrap(key, subject, context)
        again = await provider.unwrap(record, context)
        try:
            if not again.same(key):
                raise IntegrityError("a key that was just wrapped opens to another key")
        finally:
            again.wipe()
    finally:
        key.wipe()
    return record


@contextlib.asynccontextmanager
async def _opened(config: KeysConfig) -> AsyncIterator[Provider]:
    prepare_memory(config)
    provider = reach_root(config)
    try:
        await provider.open()
        yield provider
    finally:
        await provider.close()


def _create_root_file(provider: SoftwareProvider) -> bytes:
    passphrase = secrets.resolve_bytes(provider.passphrase)
    try:
        return rootfile.create(Path(provider.file), passphrase)
    finally:
        native.wipe(passphrase)


def _note(audit: Sink | None, act: OperatorAct) -> None:
    (audit if audit is not None else LogSink()).write(act)


def _now() -> int:
    return int(time.time())
