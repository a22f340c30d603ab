"""What stands in an object's metadata so that its key is found again, and only in its place?

One `x-amz-meta-sealgate` entry of at most 300 base64url characters
(docs/reference/format-objects.md, section "Envelope"). Bucket and key name are in the AAD of
the wrapped object key: a moved or swapped object does not open, and a copy is re-wrapped.
"""

import base64
import binascii
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from proxy import native
from proxy.crypto import kdf, object_keys
from proxy.crypto.checksum_field import Checksum, decode_checksums, encode_checksums
from proxy.errors import IntegrityError
from proxy.native import KeyHandle

METADATA_NAME = "x-amz-meta-sealgate"
MAX_CHARACTERS = 300

_VERSION = 1
_PREFIX = struct.Struct(">BB16s16s16s12s")  # version, kind, ring version, object id, salt, nonce
_WRAPPED_BYTES = 48
_TAG_BYTES = 16
_NO_OBJECT_ID = bytes(16)
_REFUSED = "the envelope does not open"

Find = Callable[[bytes], KeyHandle | None]
"""From a ring version id to that version's key, None when the ring has no such version."""


class Kind(IntEnum):
    """What the envelope holds."""

    SINGLE = 1  # the wrapped key of an object stored by one PUT
    UPLOAD = 2  # no key: it is derived from the UploadId, whose hash is in the footer
    MULTIPART = 3  # the wrapped key of a multipart object, written by a copy


class RingVersion(Protocol):
    """What is needed of a ring version: its id and its key (proxy.keys.service)."""

    @property
    def id(self) -> bytes: ...
    @property
    def handle(self) -> KeyHandle: ...


@dataclass(slots=True)
class OpenedEnvelope:
    """The object's key and identity. The key is wiped when the last holder has closed it."""

    kind: Kind
    ring_version_id: bytes
    object_id: bytes
    object_key: KeyHandle
    checksum: Checksum | None = None
    holders: int = field(default=1, compare=False)

    @property
    def has_parts(self) -> bool:
        """Its layout is in its footer."""
        return self.kind is not Kind.SINGLE

    def share(self) -> "OpenedEnvelope":
        """One more holder."""
        self.holders += 1
        return self

    def close(self) -> None:
        """One holder less; the last one wipes the object key."""
        self.holders -= 1
        if self.holders <= 0:
            self.object_key.wipe()


@dataclass(frozen=True, slots=True)
class UploadEnvelope:
    """The envelope of a multipart upload as Create wrote it: genuine and in its place, no key."""

    ring_version_id: bytes
    bucket: str
    key: str
    find: Find
    checksum: Checksum | None = None

    @property
    def has_parts(self) -> bool:
        """Its layout is in its footer."""
        return True

    def resolve(self, ring_version_id: bytes, upload_hash: bytes) -> OpenedEnvelope:
        """The object's key, from what the clear part of its footer says (footer.read_tail).

        The footer's ring version may be newer than the envelope's, when the ring was rotated
        during the upload. Whether the hash is genuine shows when the footer opens.
        IntegrityError when the ring has no such version.
        """
        ring = self.find(ring_version_id)
        if ring is None:
            raise IntegrityError(_REFUSED)
        object_key = object_keys.upload_key(ring, self.bucket, self.key, upload_hash)
        object_id = object_keys.upload_object_id(object_key)
        return OpenedEnvelope(Kind.MULTIPART, ring_version_id, object_id, object_key, self.checksum)


def seal_envelope(
    version: RingVersion,
    bucket: str,
    key: str,
    object_key: KeyHandle,
    object_id: bytes,
    *,
    kind: Kind = Kind.SINGLE,
    checksum: Checksum | None = None,
) -> str:
    """The envelope of an object at bucket/key whose key is `object_key`; at most 300 characters.

    `checksum` is what the client sent before the body, sealed. ValueError for Kind.UPLOAD.
    """
    if kind is Kind.UPLOAD:
        raise ValueError("an upload's envelope holds no key: seal_upload_envelope")
    return _seal(version, bucket, key, kind, object_id, object_key, checksum)


def seal_upload_envelope(
    version: RingVersion, bucket: str, key: str, *, checksum: Checksum | None = None
) -> str:
    """The envelope that CreateMultipartUpload writes, before there is an UploadId."""
    return _seal(version, bucket, key, Kind.UPLOAD, _NO_OBJECT_ID, None, checksum)


def rewrap_envelope(opened: OpenedEnvelope, version: RingVersion, bucket: str, key: str) -> str:
    """The envelope of a copy of the object at another place or under another ring version."""
    return seal_envelope(
        version,
        bucket,
        key,
        opened.object_key,
        opened.object_id,
        kind=opened.kind,
        checksum=opened.checksum,
    )


def open_envelope(text: str, bucket: str, key: str, find: Find) -> OpenedEnvelope | UploadEnvelope:
    """Open the envelope found on the object bucket/key.

    IntegrityError, with one text, for everything that is wrong with it: not an envelope,
    unknown version, unknown ring version, another object's, altered. What `find` raises passes.
    """
    data = _decode(text)
    if len(data) < _PREFIX.size + _TAG_BYTES:
        raise IntegrityError(_REFUSED)
    number, code, ring_version_id, object_id, salt, nonce = _PREFIX.unpack_from(data)
    if number != _VERSION or code not in (Kind.SINGLE, Kind.UPLOAD, Kind.MULTIPART):
        raise IntegrityError(_REFUSED)
    kind = Kind(code)
    fields_at = _PREFIX.size + (0 if kind is Kind.UPLOAD else _WRAPPED_BYTES)
    if kind is Kind.UPLOAD and object_id != _NO_OBJECT_ID:
        raise IntegrityError(_REFUSED)
    ring = find(ring_version_id)
    if ring is None:
        raise IntegrityError(_REFUSED)
    where = object_keys.place(bucket, key)
    object_key: KeyHandle | None = None
    wrap_key = kdf.object_wrap_key(ring, salt)
    fields_key = object_keys.envelope_fields_key(wrap_key)
    try:
        fields = native.gcm_open(fields_key, nonce, data[fields_at:], data[:fields_at] + where)
        checksums = decode_checksums(fields)
        if len(checksums) > 1:
            raise ValueError
        checksum = checksums[0] if checksums else None
        if kind is Kind.UPLOAD:
            return UploadEnvelope(ring_version_id, bucket, key, find, checksum)
        wrapped = data[_PREFIX.size : fields_at]
        object_key = native.unwrap_key(wrap_key, nonce, wrapped, data[: _PREFIX.size] + where)
    except (native.OpenFailed, ValueError):
        raise IntegrityError(_REFUSED) from None
    finally:
        fields_key.wipe()
        wrap_key.wipe()
    return OpenedEnvelope(kind, ring_version_id, object_id, object_key, checksum)


def envelope_ring_version(text: str) -> bytes:
    """Which ring version it names, unopened. Of an upload's that is the version at Create; its keys
    may be of a later one. IntegrityError where it is no envelope."""
    data = _decode(text)
    if len(data) < _PREFIX.size:
        raise IntegrityError(_REFUSED)
    version_id: bytes = _PREFIX.unpack_from(data)[2]
    return version_id


def _seal(
    version: RingVersion,
    bucket: str,
    key: str,
    kind: Kind,
    object_id: bytes,
    object_key: KeyHandle | None,
    checksum: Checksum | None,
) -> str:
    if len(object_id) != len(_NO_OBJECT_ID):
        raise ValueError("an object id has 16 bytes")
    salt, nonce = native.random_bytes(16), native.random_bytes(12)
    data = _PREFIX.pack(_VERSION, kind, version.id, object_id, salt, nonce)
    where = object_keys.place(bucket, key)
    wrap_key = kdf.object_wrap_key(version.handle, salt)
    fields_key = object_keys.envelope_fields_key(wrap_key)
    try:
        if object_key is not None:
            data += native.wrap_key(wrap_key, object_key, nonce, data + where)
        fields = encode_checksums(() if checksum is None else (checksum,))
        data += native.gcm_seal(fields_key, nonce, fields, data + where)
    finally:
        fields_key.wipe()
        wrap_key.wipe()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    """Strict base64url without padding: one text for one envelope."""
    if len(text) > MAX_CHARACTERS:
        raise IntegrityError(_REFUSED)
    try:
        raw = text.encode("ascii")
        data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise IntegrityError(_REFUSED) from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise IntegrityError(_REFUSED)
    return data
