"""The wrapped-key record: the only form in which a ring key leaves memory.

Binary and canonical (docs/reference/keys.md, "Wrapped-key record"): one byte string per record,
and `parse` refuses everything that `encode` would not write. Everything before the ciphertext,
and the SHA-256 of the context (which ring, in which role), is authenticated as AAD, so that a
record cannot be moved to another ring, version or parent. Knows no provider and does no I/O.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"SGK\x01"
KEY_BYTES = 32
TAG_BYTES = 16
SEALED_BYTES = KEY_BYTES + TAG_BYTES
_HEAD = struct.Struct(">4sBB16sI16sIQQ")
_MAX_VENDOR_BYTES = 32


class RecordError(ValueError):
    """The bytes are not a record of this version."""


class Suite(IntEnum):
    TOKEN_AES_GCM = 1  # AES-256-GCM inside the token, 96-bit IV of ours, 128-bit tag
    SOFTWARE_AES_GCM = 5  # AES-256-GCM under HKDF(root, salt), 96-bit IV, 128-bit tag


class Purpose(IntEnum):
    ROOT_WRAPS_RING = 1


# (salt bytes, IV bytes) that a suite has; nothing else is canonical.
_SIZES = {Suite.TOKEN_AES_GCM: (0, 12), Suite.SOFTWARE_AES_GCM: (16, 12)}


@dataclass(frozen=True, slots=True)
class Subject:
    """The key that is wrapped. `key_id` is derived from the key and so commits to it."""

    key_id: bytes  # 16
    version: int  # 1..2**32-1
    purpose: Purpose = Purpose.ROOT_WRAPS_RING
    not_before: int = 0  # Unix seconds; 0: no bound
    not_after: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    suite: Suite
    subject: Subject
    parent_id: bytes  # 16
    parent_version: int
    salt: bytes
    iv: bytes
    vendor: bytes = b""
    sealed: bytes = b""  # 48: ciphertext ‖ tag

    def head(self) -> bytes:
        """Every byte before the ciphertext. ValueError for a record that cannot be written."""
        subject = self.subject
        salt_bytes, iv_bytes = _SIZES[self.suite]
        if len(self.parent_id) != 16 or len(subject.key_id) != 16:
            raise RecordError("key ids have 16 bytes")
        if len(self.salt) != salt_bytes or len(self.iv) != iv_bytes:
            raise RecordError(f"suite {self.suite} has {salt_bytes} salt and {iv_bytes} IV bytes")
        if len(self.vendor) > _MAX_VENDOR_BYTES:
            raise RecordError(f"vendor metadata has at most {_MAX_VENDOR_BYTES} bytes")
        if not 1 <= subject.version < 2**32:
            raise RecordError("a version is 1 to 2**32-1")
        fixed = _HEAD.pack(
            MAGIC,
            self.suite,
            subject.purpose,
            self.parent_id,
            self.parent_version,
            subject.key_id,
            subject.version,
            subject.not_before,
            subject.not_after,
        )
        return fixed + _prefixed(self.salt) + _prefixed(self.iv) + _prefixed(self.vendor)

    def aad(self, context: bytes) -> bytes:
        """`context`: 32 bytes from `context_hash`."""
        return self.head() + context

    def encode(self) -> bytes:
        if len(self.sealed) != SEALED_BYTES:
            raise RecordError(f"a wrapped key has {SEALED_BYTES} bytes")
        return self.head() + self.sealed


def parse(data: bytes) -> Record:
    """The record in `data`, all of it; RecordError for anything that `encode` would not write."""
    if len(data) < _HEAD.size:
        raise RecordError("too short for a record")
    magic, suite, purpose, parent_id, parent_version, key_id, version, nbf, naf = _HEAD.unpack_from(
        data
    )
    if magic != MAGIC:
        raise RecordError("not a wrapped-key record of version 1")
    try:
        subject = Subject(key_id, version, Purpose(purpose), nbf, naf)
        known = Suite(suite)
    except ValueError:
        raise RecordError(f"unknown suite {suite} or purpose {purpose}") from None
    offset = _HEAD.size
    fields: list[bytes] = []
    for _ in range(3):
        if offset >= len(data):
            raise RecordError("cut off")
        end = offset + 1 + data[offset]
        fields.append(data[offset + 1 : end])
        offset = end
    salt, iv, vendor = fields
    record = Record(known, subject, parent_id, parent_version, salt, iv, vendor, data[offset:])
    if record.encode() != data:  # also checks every size
        raise RecordError("not canonical")
    return record


def context_hash(*parts: str) -> bytes:
    """SHA-256 over the parts, each with a 16-bit length before it, so that none can be shifted."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(struct.pack(">H", len(raw)) + raw)
    return digest.digest()


def ring_context(ring: str) -> bytes:
    """The context of a ring key wrapped by a root."""
    return context_hash("sealgate/v1", "ring", ring)


def audit_context(writer: bytes, n: int, mac: str) -> bytes:
    """The context of the root's signature over a line of the audit log."""
    return context_hash("sealgate/v1", "audit-signed", writer.hex(), str(n), mac)


def _prefixed(field: bytes) -> bytes:
    return bytes([len(field)]) + field
