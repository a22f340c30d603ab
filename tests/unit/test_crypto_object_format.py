"""docs/reference/format-objects.md, read by a second reader written from that page alone.

The reader below uses no code of ours: `cryptography` for AES-256-GCM, HKDF and Cobblestone-256.
It opens a frozen object (so the format cannot drift unseen) and objects that are sealed afresh.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy import native
from proxy.crypto import footer, object_keys, parts, sizes
from proxy.crypto.checksum_field import Checksum
from proxy.crypto.envelope import (
    OpenedEnvelope,
    UploadEnvelope,
    open_envelope,
    rewrap_envelope,
    seal_envelope,
    seal_upload_envelope,
)

VECTORS = Path(__file__).parent.parent / "vectors" / "cobblestone_objects_v1.json"
RING, RING_ID = bytes(range(32)), b"ring version 1.."
MIB = 1024 * 1024


@dataclass
class Version:
    id: bytes
    handle: native.KeyHandle


@pytest.fixture
def version():
    native.arena_init(allow_unlocked=True)
    return Version(RING_ID, native.key_import(bytearray(RING)))


# ---- the reader, from the document ----------------------------------------------------------


def prefixed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


def hkdf(key: bytes, info: bytes, size: int = 32) -> bytes:
    return HKDF(SHA256(), size, b"sealgate/v1", info).derive(key)


def read_object(ring: bytes, bucket: str, name: str, envelope: str, body: bytes) -> bytes:
    """Plaintext of a stored object, every check of the page made."""
    data = base64.urlsafe_b64decode(envelope + "=" * (-len(envelope) % 4))
    kind, salt, nonce = data[1], data[34:50], data[50:62]
    place = prefixed(bucket.encode(), name.encode())
    wrap_key = hkdf(ring, prefixed(b"object-wrap", salt))
    fields_at = 62 if kind == 2 else 110
    fields_key = AESGCM(hkdf(wrap_key, prefixed(b"envelope-fields")))
    fields_key.decrypt(nonce, data[fields_at:], data[:fields_at] + place)
    assert data[0] == 1

    tail, end = body[-256:], len(body)
    prefix, count = tail[:88], int.from_bytes(tail[10:12], "big")
    pad_bytes = int.from_bytes(tail[12:16], "big")
    assert prefix[:10] == b"SGFOOTER\x01\x00"
    if kind == 2:
        info = prefixed(b"upload") + place + prefixed(prefix[32:64])
        key = hkdf(ring, info)
        object_id = hkdf(key, prefixed(b"upload-object-id"), 16)
    else:
        key = AESGCM(wrap_key).decrypt(nonce, data[62:110], data[:62] + place)
        object_id = data[18:34]
    footer_key = AESGCM(hkdf(key, prefixed(b"footer", prefix[64:88])))
    totals = footer_key.decrypt((1).to_bytes(12, "big"), tail[104:], tail[:104])
    table = body[end - 256 - 16 * count : end - 256] + tail[88:104]
    table = footer_key.decrypt(bytes(12), table, prefix)
    pad_at = end - 256 - 16 * count - pad_bytes
    assert body[pad_at : pad_at + pad_bytes] == bytes(pad_bytes)
    assert totals[:16] == object_id

    plain, at = b"", 0
    for entry in (table[start : start + 16] for start in range(0, len(table), 16)):
        number, length = int.from_bytes(entry[:2], "big"), int.from_bytes(entry[2:8], "big")
        stored = 56 + length + 16 * (length // 16384 + 1)
        stream = body[at : at + stored]
        context = prefixed(b"sealgate object v1", object_id, number.to_bytes(4, "big"))
        opener = Cobblestone256Decryptor(key, context)
        plain += opener.update(stream) + opener.finalize()
        assert entry[8:] in (stream[24:32], bytes(8))
        at += stored
    total = len(plain)
    assert at == pad_at
    assert int.from_bytes(totals[16:24], "big") == total
    steps = 16 * (total // 16384 + 1) + 88 * min(total // (5 * MIB), 10_000)
    assert end == total + 328 + steps
    return plain


# ---- objects --------------------------------------------------------------------------------


def written(key: native.KeyHandle, object_id: bytes, pieces: list[bytes], **footer_fields) -> bytes:
    """The body of an object in these parts."""
    body, entries = b"", []
    for number, piece in enumerate(pieces, start=1):
        sealer = native.PartSealer(key, parts.part_context(object_id, number))
        body += sealer.header + sealer.update(piece) + sealer.finish()
        entries.append(footer.Entry(number, len(piece), sealer.header[24:32]))
    return body + footer.build(key, object_id, entries, ring_version_id=RING_ID, **footer_fields)


def read_by_us(version: Version, bucket: str, name: str, envelope: str, body: bytes) -> bytes:
    find = {version.id: version.handle}.get
    prefix = footer.read_tail(body)
    opened = open_envelope(envelope, bucket, name, find)
    if isinstance(opened, UploadEnvelope):
        opened = opened.resolve(prefix.ring_version_id, prefix.upload_hash)
    found = footer.parse(opened.object_key, opened.object_id, len(body), body)
    plain = b""
    for entry, piece in zip(found.entries, found.layout.whole(), strict=True):
        context = parts.part_context(opened.object_id, entry.part_number)
        stream = body[piece.stream_start : piece.stream_start + piece.chunks.stop]
        opener = native.PartOpener(opened.object_key, context, stream[:56])
        plain += opener.update(stream[56:]) + opener.finish()
    return plain


@pytest.mark.parametrize("size", [0, 5, 16384, 40_000, 5 * MIB])
def test_the_documents_reader_opens_a_single_put(version, size):
    key, object_id, plain = native.key_random(), native.random_bytes(16), bytes(size)
    checksum = Checksum("SHA256", hashlib.sha256(plain).digest())
    envelope = seal_envelope(version, "b", "a/é", key, object_id, checksum=checksum)
    body = written(key, object_id, [plain])
    assert len(body) == sizes.stored_size(size)
    assert read_object(RING, "b", "a/é", envelope, body) == plain
    assert read_by_us(version, "b", "a/é", envelope, body) == plain


def test_the_documents_reader_opens_an_upload_and_its_copy(version):
    hashed = object_keys.upload_hash("upload id")
    key = object_keys.upload_key(version.handle, "b", "k", hashed)
    object_id = object_keys.upload_object_id(key)
    pieces = [b"1" * (5 * MIB + 7), b"2" * (5 * MIB), b"3" * 9]
    late = [Checksum("CRC32", b"abcd"), Checksum("MD5", bytes(16))]
    body = written(key, object_id, pieces, upload_hash=hashed, checksums=late)
    envelope = seal_upload_envelope(version, "b", "k")
    assert read_object(RING, "b", "k", envelope, body) == b"".join(pieces)
    assert read_by_us(version, "b", "k", envelope, body) == b"".join(pieces)

    upload = open_envelope(envelope, "b", "k", {version.id: version.handle}.get)
    assert isinstance(upload, UploadEnvelope)
    opened = upload.resolve(version.id, hashed)
    assert isinstance(opened, OpenedEnvelope)
    copy = rewrap_envelope(opened, version, "c", "elsewhere")
    assert read_object(RING, "c", "elsewhere", copy, body) == b"".join(pieces)


def frozen():
    return json.loads(VECTORS.read_text())["objects"]


@pytest.mark.parametrize("case", frozen(), ids=lambda case: case["comment"])
def test_an_object_of_an_earlier_build_still_opens(version, case):
    bucket, name, envelope = case["bucket"], case["key"], case["envelope"]
    body, plain = bytes.fromhex(case["body"]), bytes.fromhex(case["plaintext"])
    ring = bytes.fromhex(case["ring_version_key"])
    assert read_object(ring, bucket, name, envelope, body) == plain
    kept = Version(bytes.fromhex(case["ring_version_id"]), native.key_import(bytearray(ring)))
    assert read_by_us(kept, bucket, name, envelope, body) == plain
