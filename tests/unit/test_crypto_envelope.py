"""proxy.crypto.envelope: the entry in an object's metadata."""

import base64
import gc
import os
from dataclasses import dataclass

import pytest

from proxy import native
from proxy.crypto import object_keys
from proxy.crypto.checksum_field import Checksum, decode_checksums, encode_checksums
from proxy.crypto.envelope import (
    MAX_CHARACTERS,
    Kind,
    OpenedEnvelope,
    UploadEnvelope,
    open_envelope,
    rewrap_envelope,
    seal_envelope,
    seal_upload_envelope,
)
from proxy.errors import IntegrityError

OBJECT_ID = bytes(range(16))


@dataclass
class Version:
    id: bytes
    handle: native.KeyHandle

    def find(self, ring_version_id: bytes) -> native.KeyHandle | None:
        return self.handle if ring_version_id == self.id else None


@pytest.fixture(autouse=True, scope="module")
def _arena():
    native.arena_init(allow_unlocked=True)


@pytest.fixture
def version():
    return Version(os.urandom(16), native.key_random())


@pytest.fixture
def key():
    return native.key_random()


def opened(text, bucket, name, version) -> OpenedEnvelope:
    found = open_envelope(text, bucket, name, version.find)
    assert isinstance(found, OpenedEnvelope)
    return found


def test_an_envelope_opens_in_its_place(version, key):
    checksum = Checksum("SHA256", os.urandom(32))
    text = seal_envelope(version, "bucket", "a/é", key, OBJECT_ID, checksum=checksum)
    found = opened(text, "bucket", "a/é", version)
    assert found.object_key.same(key)
    assert (found.kind, found.ring_version_id) == (Kind.SINGLE, version.id)
    assert (found.object_id, found.checksum) == (OBJECT_ID, checksum)
    found.close()
    assert not found.object_key.alive


def test_the_longest_envelope_fits_the_metadata_budget(version, key):
    checksum = Checksum("SHA512", os.urandom(64))
    text = seal_envelope(version, "b" * 63, "k" * 1024, key, OBJECT_ID, checksum=checksum)
    assert len(text) <= MAX_CHARACTERS
    assert text.isascii()
    assert set(text) <= set(base64.urlsafe_b64encode(bytes(range(256))).decode()) | set("-_")
    opened(text, "b" * 63, "k" * 1024, version)


@pytest.mark.parametrize(
    "place", [("other", "key"), ("bucket", "other"), ("bucketk", "ey"), ("key", "bucket"), ("", "")]
)
def test_a_moved_envelope_does_not_open(version, key, place):
    for text in (
        seal_envelope(version, "bucket", "key", key, OBJECT_ID),
        seal_upload_envelope(version, "bucket", "key"),
    ):
        with pytest.raises(IntegrityError):
            open_envelope(text, *place, version.find)


@pytest.mark.parametrize("kind", [Kind.SINGLE, Kind.UPLOAD])
def test_every_flipped_bit_is_refused_with_one_text(version, key, kind):
    checksum = Checksum("CRC32", b"abcd")
    text = (
        seal_envelope(version, "b", "k", key, OBJECT_ID, checksum=checksum)
        if kind is Kind.SINGLE
        else seal_upload_envelope(version, "b", "k", checksum=checksum)
    )
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    texts = set()
    for at in range(len(data) * 8):
        bad = bytearray(data)
        bad[at // 8] ^= 1 << at % 8
        with pytest.raises(IntegrityError) as caught:
            open_envelope(
                base64.urlsafe_b64encode(bad).rstrip(b"=").decode(),
                "b",
                "k",
                lambda _: version.handle,
            )
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_what_is_no_envelope_is_refused(version, key):
    good = seal_envelope(version, "b", "k", key, OBJECT_ID)
    short = seal_upload_envelope(version, "b", "k")
    for bad in [
        "",
        "A",
        "é" * 100,
        "A" * 301,
        "A" * 300,
        good[:-1],
        good[:80],
        good + "A",
        good + "=",
        good + "\n",
        " " + good,
        short[:-4],
        short + "AAAA",
        "!" + good[1:],
    ]:
        with pytest.raises(IntegrityError):
            open_envelope(bad, "b", "k", version.find)


def test_a_second_spelling_of_the_same_bytes_is_refused(version):
    text = seal_upload_envelope(version, "b", "k", checksum=Checksum("CRC64NVME", b"abcdefgh"))
    assert len(text) % 4, "the last character of this one has spare bits"
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]
    with pytest.raises(IntegrityError):
        open_envelope(other, "b", "k", version.find)


def test_an_unknown_ring_version_is_refused_and_the_finders_own_error_passes(version, key):
    text = seal_envelope(version, "b", "k", key, OBJECT_ID)
    with pytest.raises(IntegrityError):
        open_envelope(text, "b", "k", lambda _: None)
    with pytest.raises(IntegrityError):
        open_envelope(text, "b", "k", lambda _: native.key_random())

    def away(_: bytes) -> native.KeyHandle | None:
        raise LookupError

    with pytest.raises(LookupError):
        open_envelope(text, "b", "k", away)


def test_a_copy_is_rewrapped_for_its_place_and_ring_version(version, key):
    other = Version(os.urandom(16), native.key_random())
    checksum = Checksum("MD5", os.urandom(16))
    source = opened(
        seal_envelope(version, "a", "x", key, OBJECT_ID, checksum=checksum), "a", "x", version
    )
    copy = opened(rewrap_envelope(source, other, "b", "y"), "b", "y", other)
    assert copy.object_key.same(key)
    assert (copy.object_id, copy.checksum, copy.kind) == (OBJECT_ID, checksum, Kind.SINGLE)
    assert copy.ring_version_id == other.id


def test_any_instance_finds_the_key_of_an_upload(version):
    hashed = object_keys.upload_hash("2~upload id of the origin")
    writer = object_keys.upload_key(version.handle, "b", "k", hashed)
    envelope = open_envelope(seal_upload_envelope(version, "b", "k"), "b", "k", version.find)
    assert isinstance(envelope, UploadEnvelope)
    reader = envelope.resolve(version.id, hashed)
    assert reader.object_key.same(writer)
    assert reader.object_id == object_keys.upload_object_id(writer)
    copy = opened(rewrap_envelope(reader, version, "c", "z"), "c", "z", version)
    assert copy.kind is Kind.MULTIPART
    assert copy.object_key.same(writer)


def test_an_uploads_key_is_bound_to_ring_place_and_upload(version):
    hashed = object_keys.upload_hash("one")
    key = object_keys.upload_key(version.handle, "b", "k", hashed)
    for other in [
        (native.key_random(), "b", "k", hashed),
        (version.handle, "bk", "", hashed),
        (version.handle, "b", "l", hashed),
        (version.handle, "b", "k", object_keys.upload_hash("two")),
    ]:
        assert not object_keys.upload_key(*other).same(key)
    with pytest.raises(ValueError):
        object_keys.upload_key(version.handle, "b", "k", b"short")


def test_an_upload_under_a_ring_version_that_is_gone_is_refused(version):
    envelope = open_envelope(seal_upload_envelope(version, "b", "k"), "b", "k", version.find)
    assert isinstance(envelope, UploadEnvelope)
    with pytest.raises(IntegrityError):
        envelope.resolve(bytes(16), object_keys.NO_UPLOAD)


def test_misuse_is_refused(version, key):
    with pytest.raises(ValueError):
        seal_envelope(version, "b", "k", key, OBJECT_ID, kind=Kind.UPLOAD)
    with pytest.raises(ValueError):
        seal_envelope(version, "b", "k", key, b"short")
    with pytest.raises(ValueError):
        Checksum("CRC32", b"too long")
    with pytest.raises(ValueError):
        Checksum("CRC16", b"ab")


def test_opening_and_sealing_leave_no_key_behind(version, key):
    gc.collect()  # handles of earlier tests, else counted as freed here
    used = native.arena_report()["used"]
    text = seal_envelope(version, "b", "k", key, OBJECT_ID)
    opened(text, "b", "k", version).close()
    with pytest.raises(IntegrityError):
        open_envelope(text, "b", "l", version.find)
    assert native.arena_report()["used"] == used


def test_no_checksum_value_shows_in_a_repr():
    assert "value" not in repr(Checksum("CRC32", b"abcd"))


def test_checksum_fields_come_back_and_damaged_ones_are_refused():
    fields = (Checksum("SHA256", bytes(32), composite=True), Checksum("MD5", b"m" * 16))
    data = encode_checksums(fields)
    assert decode_checksums(data + bytes(7)) == fields
    for bad in (data[:-1], data + b"\0\1", b"\x7f\x01a", b"\x01", b"\x01\x05abcde", b"\x80\x00"):
        with pytest.raises(ValueError):
            decode_checksums(bad)
