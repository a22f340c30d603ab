"""Where do the keys of the audit log come from, and who signs for it? The audit ring, and the root.

A writer gets only the key of its own first line: the ring's key stays with the provider (behind the
key agent, if there is one). Auditors and commands get the master key, which verifies.
"""

import asyncio

import structlog

from proxy.audit.log import AuditLog, Sign, WriterKey
from proxy.crypto import kdf
from proxy.errors import AccessDenied, ConfigError, IntegrityError, KeyUnavailable, SealgateError
from proxy.keys.providers.base import CapabilityMissing, CredentialRefused, Provider
from proxy.keys.record import RecordError, audit_context, parse, ring_context
from proxy.keys.ring import Ring
from proxy.keys.stores.base import RingStore
from proxy.native import KeyHandle

_RETRY_SECONDS = 1.0
_tasks: set[asyncio.Task[None]] = set()


async def begin(audit: AuditLog, provider: Provider, store: RingStore | Ring) -> None:
    """The log has its key and runs; or, while the token or store is merely away, will when it is
    back. `store`: or the audit ring itself, for who cannot read there. Raises CredentialRefused,
    CapabilityMissing, or ConfigError if the ring is not there."""
    try:
        await start(audit, provider, store)
        audit.run()
    except (CredentialRefused, CapabilityMissing):
        raise
    except KeyUnavailable as error:
        structlog.get_logger("audit").error("audit log waits for its key", error=str(error))
        task = asyncio.create_task(_later(audit, provider, store), name="audit-start")
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        audit.starting = task


async def _later(audit: AuditLog, provider: Provider, store: RingStore | Ring) -> None:
    while True:
        await asyncio.sleep(_RETRY_SECONDS)
        try:
            await start(audit, provider, store)
        except KeyUnavailable:
            continue  # still away
        except SealgateError as error:  # an operator must act; until then nothing is fetched
            structlog.get_logger("audit").error("audit log cannot start", error=str(error))
            continue
        audit.run()
        return


async def start(audit: AuditLog, provider: Provider, store: RingStore | Ring) -> None:
    """The log has its key. Raises KeyUnavailable, ConfigError."""
    await provider.open()
    ring = store if isinstance(store, Ring) else await ring_of(store, audit.ring)
    active = ring.active
    if active is None or active.wrapped is None:
        raise ConfigError(f"ring {ring.name}, of the audit log, has no active version")
    try:
        writer, key = await provider.audit_key(active.wrapped, ring.name)
    except AccessDenied as error:
        raise ConfigError(f"the key agent gives no key for the audit log: {error}") from None
    audit.start(WriterKey(writer, key, active.key_id), ring.name, signer(provider))


async def ring_of(store: RingStore, name: str) -> Ring:
    """The audit ring. Raises ConfigError, KeyUnavailable."""
    ring = await store.get(name)
    if ring is None:
        raise ConfigError(
            f"there is no ring {name} for the audit log; `sealgate keys init` makes it"
        )
    return ring


def signer(provider: Provider) -> Sign:
    """Signs lines with the root."""

    async def sign(writer: str, n: int, mac: str) -> tuple[bytes, bytes]:
        record = await provider.audit_sign(bytes.fromhex(writer), n, mac)
        return record.parent_id, record.encode()

    return sign


async def signed(provider: Provider, writer: str, n: int, mac: str, signature: bytes) -> bool:
    """Whether the root signed this. Raises KeyUnavailable if it cannot be asked."""
    try:
        record = parse(signature)
        if record.subject.key_id.hex() != writer:
            return False
        (await provider.unwrap(record, audit_context(bytes.fromhex(writer), n, mac))).wipe()
    except (IntegrityError, RecordError, ValueError):
        return False
    return True


async def masters(provider: Provider, store: RingStore, name: str) -> dict[str, KeyHandle]:
    """What verifies the chains of each version of the audit ring, by version id. The caller wipes
    them. Versions that were destroyed are not among them."""
    found: dict[str, KeyHandle] = {}
    for version in (await ring_of(store, name)).versions:
        if version.wrapped is None:
            continue
        key = await provider.unwrap(version.wrapped, ring_context(name))
        try:
            found[version.key_id.hex()] = kdf.audit_master(key)
        finally:
            key.wipe()
    return found
