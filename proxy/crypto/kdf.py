"""Every derivation of the product as one named function; every label in one table.

HKDF-SHA-256 (RFC 5869) with a fixed salt; the info is a list of length-prefixed fields, the first
of which is a label that no other derivation uses (docs/reference/format.md, section "Keys").
"""

import struct

from proxy import native
from proxy.native import KeyHandle

SALT = b"sealgate/v1"
"""HKDF's salt: the same for all; RFC 5869 3.1 allows a constant one for strong input keys."""

LABELS = {
    "column": b"column",  # ring key -> key of a column, by purpose and domain
    "key-id": b"key-id",  # column's seal key -> the 8 public bytes that name it
    "ring-id": b"ring-id",  # ring key -> the 16 public bytes that name its version
    "ring-key": b"ring-key",  # random of this machine + random of the token -> new ring key
    "object-wrap": b"object-wrap",  # ring key -> key that wraps one object's key
    "audit-master": b"audit-master",  # ring key -> what an auditor verifies with
    "audit-writer": b"audit-writer",  # audit master -> the key of a writer's first line
    "audit-next": b"audit-next",  # key of a line -> key of the next line
}

PURPOSES = frozenset({"seal", "equality", "transform", "range", "order", "match"})


def prefixed(*fields: bytes) -> bytes:
    """Each field behind its length as two bytes, big-endian. ValueError above 65535 bytes."""
    if any(len(field) > 0xFFFF for field in fields):
        raise ValueError("a field has at most 65535 bytes")
    return b"".join(struct.pack(">H", len(field)) + field for field in fields)


def column_key(ring: KeyHandle, domain: str, purpose: str) -> KeyHandle:
    """The key of all columns of one domain under one ring version; `purpose` is in PURPOSES."""
    if purpose not in PURPOSES:
        raise ValueError(f"no purpose {purpose}")
    info = prefixed(LABELS["column"], purpose.encode(), domain.encode())
    return native.hkdf_sha256(ring, SALT, info)


def column_key_id(seal: KeyHandle) -> bytes:
    """8 public bytes that name a column's key, and, being derived from it, commit to it."""
    return native.hkdf_sha256_public(seal, SALT, prefixed(LABELS["key-id"]), 8)


def ring_version_id(ring: KeyHandle) -> bytes:
    """16 public bytes that name a ring version, and commit to its key."""
    return native.hkdf_sha256_public(ring, SALT, prefixed(LABELS["ring-id"]), 16)


def new_ring_key(local: KeyHandle, token_random: bytes) -> KeyHandle:
    """A new ring key from two sources: a weak one alone does not weaken it."""
    return native.hkdf_sha256(local, token_random, prefixed(LABELS["ring-key"]))


def object_wrap_key(ring: KeyHandle, salt: bytes) -> KeyHandle:
    """The key that wraps one object's key; a fresh 16-byte salt for each wrap, so that no count of
    wraps under one AES-GCM key ever matters."""
    if len(salt) != 16:
        raise ValueError("the salt has 16 bytes")
    return native.hkdf_sha256(ring, SALT, prefixed(LABELS["object-wrap"], salt))


def audit_master(ring: KeyHandle) -> KeyHandle:
    """What verifies every chain that starts from this ring version, and nothing else of it."""
    return native.hkdf_sha256(ring, SALT, prefixed(LABELS["audit-master"]))


def audit_writer_key(master: KeyHandle, writer: bytes) -> KeyHandle:
    """The key of the first line of a writer (16 random bytes)."""
    return native.hkdf_sha256(master, SALT, prefixed(LABELS["audit-writer"], writer))


def audit_next_key(key: KeyHandle) -> KeyHandle:
    """The key of the line after; from it, the one before is not to be had."""
    return native.hkdf_sha256(key, SALT, prefixed(LABELS["audit-next"]))
