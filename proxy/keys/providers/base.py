"""What does the service ask of whatever holds the root key?

Four things: wrap, unwrap, random, health. All are coroutines and none blocks the loop. Errors say
what the caller can do about them (facts: return codes → action):

* `IntegrityError` (proxy.errors): these bytes do not open under this root; not the device's fault.
* `DeviceDown`: the token is away, hung or broken; the breaker counts it.
* `CredentialRefused`: PIN or passphrase is wrong; latched, never tried again by itself, since a
  retry loop would lock the partition.
* `CapabilityMissing`: the token cannot do this, or may not with this key: a configuration error.
* `Overloaded`: too many sessions or calls; try later.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from proxy import native
from proxy.crypto import kdf
from proxy.errors import IntegrityError, KeyUnavailable
from proxy.keys.record import Record, Subject, audit_context, ring_context
from proxy.native import KeyHandle
from proxy.policy.model import Action, Principal, Resource


class DeviceDown(KeyUnavailable):
    """The token or its module failed or did not answer in time."""


class CredentialRefused(KeyUnavailable):
    """The token or root file refused the PIN or passphrase; an operator must act."""


class CapabilityMissing(KeyUnavailable):
    """The token does not offer what is needed, or the key does not permit it."""


class WrongKey(CapabilityMissing):
    """The token works, but holds another key than the root; it is not used."""


class Overloaded(KeyUnavailable):
    """No session or slot in time."""


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    up: bool
    detail: str  # for the operator; holds no secret


@dataclass(frozen=True, slots=True)
class Asking:
    """On whose behalf a key is opened, and for what."""

    principal: Principal
    resource: Resource
    action: Action


class Provider(ABC):
    """The holder of one root key."""

    name: str  # "pkcs11" | "software": a label of metrics and logs

    @property
    @abstractmethod
    def root_id(self) -> bytes:
        """16 bytes that name the root key; known after `open`."""

    @abstractmethod
    async def open(self) -> None:
        """Ready to serve; raises one of the errors above."""

    @abstractmethod
    async def wrap(self, key: KeyHandle, subject: Subject, context: bytes) -> Record:
        """`key` under the root. `context`: 32 bytes, see `record.context_hash`."""

    @abstractmethod
    async def unwrap(self, record: Record, context: bytes) -> KeyHandle:
        """The key in the arena; the caller owns the handle and wipes it."""

    async def unwrap_ring(self, record: Record, ring: str, asking: Asking | None) -> KeyHandle:
        """A version of a ring, as `unwrap`. A provider beyond a border (the key agent) asks its own
        policy about `asking` (None: the proxy itself, to have keys ready) and may raise
        AccessDenied."""
        return await self.unwrap(record, ring_context(ring))

    async def audit_key(self, record: Record, ring: str) -> tuple[bytes, KeyHandle]:
        """A new writer (16 random bytes) of the audit log, and the key of its first line; the
        ring's own key and what is between are gone."""
        ring_key = await self.unwrap(record, ring_context(ring))
        try:
            if kdf.ring_version_id(ring_key) != record.subject.key_id:
                raise IntegrityError(f"a version of ring {ring} is another key")
            master = kdf.audit_master(ring_key)
        finally:
            ring_key.wipe()
        writer = native.random_bytes(16)
        try:
            return writer, kdf.audit_writer_key(master, writer)
        finally:
            master.wipe()

    async def audit_sign(self, writer: bytes, n: int, mac: str) -> Record:
        """The root's word on line `n` of a writer: AES-GCM over it as additional data (SP 800-38D;
        what is wrapped beside it is a random key that nobody has). `unwrap` of it with
        `record.audit_context` checks it."""
        spare = native.key_random()
        try:
            return await self.wrap(spare, Subject(writer, 1), audit_context(writer, n, mac))
        finally:
            spare.wipe()

    def hung_since(self) -> float | None:
        """On the monotonic clock, since when calls that were given up and have not come back keep
        the provider from serving; None: they do not. Only the end of the process cures it."""
        return None

    @abstractmethod
    async def random(self, n: int) -> bytes:
        """`n` random bytes (1..1024) from the holder's own source; public use only."""

    @abstractmethod
    async def health(self) -> ProviderHealth:
        """Uses the real key, so that an erased token is not reported as well."""

    @abstractmethod
    async def close(self) -> None:
        """Sessions closed, secrets wiped. Idempotent."""

    # -- inside the token; only where there is one -----------------------------------------------

    async def generate_data_key(self) -> bytes:
        """A new AES-256 key, made in the token and wrapped there (RFC 3394, 40 bytes). It was
        opened again before it is given out, by another member where there is one."""
        raise CapabilityMissing(f"a root of kind {self.name} makes no keys in a token")

    async def token_seal(self, key: bytes | None, data: bytes, aad: bytes) -> bytes:
        """IV ‖ ciphertext ‖ tag (AES-256-GCM, SP 800-38D), made in the token under the data key
        whose wrapped form is `key`, or under the root (None). At most 4096 bytes."""
        raise CapabilityMissing(f"a root of kind {self.name} seals nothing in a token")

    async def token_open(self, key: bytes | None, sealed: bytes, aad: bytes) -> bytes:
        """What `token_seal` sealed; IntegrityError if it does not open."""
        raise CapabilityMissing(f"a root of kind {self.name} opens nothing in a token")
