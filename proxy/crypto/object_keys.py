"""Which keys belong to an object, beside the one that wraps its object key?

The object key is random for a single PUT. For a multipart upload it is derived from the ring
version, the place and the origin's UploadId, so that any instance has it and no state is kept
(docs/reference/format-objects.md, section "Keys"). Every field of an HKDF info is
length-prefixed; the first one is a label that no other derivation uses.
"""

import hashlib
import struct

from proxy import native
from proxy.native import KeyHandle

_SALT = b"sealgate/v1"
UPLOAD_HASH_BYTES = 32
NO_UPLOAD = bytes(UPLOAD_HASH_BYTES)
"""Stands for the upload hash of a single PUT."""


def prefixed(*fields: bytes) -> bytes:
    """Each field behind its length as two bytes, big-endian. ValueError above 65535 bytes."""
    if any(len(field) > 0xFFFF for field in fields):
        raise ValueError("a field has at most 65535 bytes")
    return b"".join(struct.pack(">H", len(field)) + field for field in fields)


def place(bucket: str, key: str) -> bytes:
    """Bucket and key name as they are bound: UTF-8, length-prefixed."""
    return prefixed(bucket.encode(), key.encode())


def upload_hash(upload_id: str) -> bytes:
    """SHA-256 of the origin's UploadId: what the footer tells a reader of it. 32 bytes."""
    return hashlib.sha256(upload_id.encode()).digest()


def upload_key(ring: KeyHandle, bucket: str, key: str, hashed: bytes) -> KeyHandle:
    """The object key of a multipart upload; `hashed` is upload_hash(UploadId)."""
    if len(hashed) != UPLOAD_HASH_BYTES:
        raise ValueError("an upload hash has 32 bytes")
    info = prefixed(b"upload") + place(bucket, key) + prefixed(hashed)
    return native.hkdf_sha256(ring, _SALT, info)


def upload_object_id(object_key: KeyHandle) -> bytes:
    """The object id of a multipart upload, from its object key. 16 public bytes."""
    return native.hkdf_sha256_public(object_key, _SALT, prefixed(b"upload-object-id"), 16)


def envelope_fields_key(wrap_key: KeyHandle) -> KeyHandle:
    """Seals the fields of one envelope; its wrap key is that envelope's alone."""
    return native.hkdf_sha256(wrap_key, _SALT, prefixed(b"envelope-fields"))


def footer_key(object_key: KeyHandle, salt: bytes) -> KeyHandle:
    """Seals one footer; `salt` is random per footer."""
    return native.hkdf_sha256(object_key, _SALT, prefixed(b"footer", salt))
