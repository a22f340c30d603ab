"""proxy.crypto.footer: what stands behind the last part of an object."""

import os

import pytest

from proxy import native
from proxy.crypto import footer, object_keys, parts, sizes
from proxy.crypto.checksum_field import Checksum
from proxy.crypto.footer import Entry
from proxy.errors import IntegrityError

MIB = 1024 * 1024
OBJECT_ID = bytes(range(16))
RING = b"r" * 16
LENGTHS = [5 * MIB + 3, 6 * MIB, 17]
HASH = object_keys.upload_hash("an upload")


@pytest.fixture(autouse=True, scope="module")
def _arena():
    native.arena_init(allow_unlocked=True)


@pytest.fixture
def key():
    return native.key_random()


def entries(lengths=LENGTHS):
    return [Entry(number, length, b"c" * 8) for number, length in enumerate(lengths, start=1)]


def built(key, lengths=LENGTHS, **changes) -> bytes:
    fields = {"ring_version_id": RING, "upload_hash": HASH, **changes}
    return footer.build(key, OBJECT_ID, entries(lengths), **fields)


def test_a_footer_comes_back_whole(key):
    checksums = (Checksum("SHA256", os.urandom(32), composite=True), Checksum("MD5", bytes(16)))
    data = built(key, checksums=checksums)
    prefix = footer.read_tail(data)
    assert (prefix.ring_version_id, prefix.upload_hash, prefix.parts) == (RING, HASH, 3)
    assert prefix.needed_bytes == 256 + 3 * 16
    assert prefix.footer_bytes == len(data)
    stored = sizes.stored_size(sum(LENGTHS))
    for enough in (data, data[-prefix.needed_bytes :], data[-prefix.needed_bytes - 1 :]):
        found = footer.parse(key, OBJECT_ID, stored, enough)
        assert found.entries == tuple(entries())
        assert found.plain_bytes == sum(LENGTHS)
        assert found.checksums == checksums
        assert found.layout.lengths == tuple(LENGTHS)


def test_streams_and_footer_are_the_stored_size_of_the_plaintext(key):
    for lengths in ([0], [1], [16384], [5 * MIB], [64 * MIB + 5], LENGTHS, [5 * MIB] * 40 + [0]):
        data = built(key, lengths)
        plain = sum(lengths)
        assert sum(map(parts.stream_size, lengths)) + len(data) == sizes.stored_size(plain)
        assert footer.footer_size(plain, lengths) == len(data)


def test_a_small_single_put_has_no_pad(key):
    for plain in (0, 5 * MIB - 1):
        assert len(built(key, [plain])) == 16 + 256


def test_every_flipped_byte_is_refused_with_one_text(key):
    data, stored = built(key), sizes.stored_size(sum(LENGTHS))
    texts = set()
    for at in range(len(data)):
        bad = data[:at] + bytes((data[at] ^ 0x80,)) + data[at + 1 :]
        with pytest.raises(IntegrityError) as caught:
            footer.parse(key, OBJECT_ID, stored, bad)
        texts.add(str(caught.value))
    assert len(texts) == 1


def test_a_footer_of_another_object_key_or_size_is_refused(key):
    data, stored = built(key), sizes.stored_size(sum(LENGTHS))
    for use, object_id, size in [
        (native.key_random(), OBJECT_ID, stored),
        (key, bytes(16), stored),
        (key, OBJECT_ID, stored + 1),
        (key, OBJECT_ID, stored - 16),
    ]:
        with pytest.raises(IntegrityError):
            footer.parse(use, object_id, size, data)


def test_entries_of_another_footer_of_the_same_object_are_refused(key):
    one, two = built(key), built(key)
    stored = sizes.stored_size(sum(LENGTHS))
    with pytest.raises(IntegrityError):
        footer.parse(key, OBJECT_ID, stored, one[:-256] + two[-256:])


def test_too_little_is_refused(key):
    data, stored = built(key), sizes.stored_size(sum(LENGTHS))
    for few in (0, 1, 255, 256, 256 + 3 * 16 - 1):
        with pytest.raises(IntegrityError):
            footer.parse(key, OBJECT_ID, stored, data[len(data) - few :])


def test_a_tail_that_is_none_is_refused():
    for bad in (b"", bytes(256), os.urandom(256), b"SGFOOTER\x02" + bytes(247)):
        with pytest.raises(IntegrityError):
            footer.read_tail(bad)


def test_footers_share_no_salt(key):
    assert built(key)[-168:-144] != built(key)[-168:-144]


def test_ten_thousand_parts_have_a_footer(key):
    lengths = [5 * MIB] * 9_999 + [1]
    data = built(key, lengths)
    found = footer.parse(key, OBJECT_ID, sizes.stored_size(sum(lengths)), data)
    assert found.prefix.parts == 10_000
    assert found.entries[-1] == Entry(10_000, 1, b"c" * 8)


def test_a_layout_that_s3_does_not_allow_is_refused(key):
    for lengths in ([], [1, 1], [5 * MIB - 1, 5 * MIB - 1, 1], [5 * MIB] * 10_001):
        with pytest.raises(ValueError):
            built(key, lengths)
    with pytest.raises(ValueError):
        footer.footer_size(1, [2])


def test_misuse_is_refused(key):
    def build(made, **changes):
        return footer.build(key, OBJECT_ID, made, **{"ring_version_id": RING, **changes})

    for made in (
        [Entry(0, 1)],
        [Entry(65536, 1)],
        [Entry(1, 1, b"short")],
        [Entry(2, 5 * MIB), Entry(1, 1)],
        [Entry(2, 5 * MIB), Entry(2, 1)],
    ):
        with pytest.raises(ValueError):
            build(made)
    with pytest.raises(ValueError):
        build([Entry(1, 1)], ring_version_id=b"")
    with pytest.raises(ValueError):
        build([Entry(1, 1)], upload_hash=b"")
    many = [Checksum("SHA512", bytes(64))] * 2
    with pytest.raises(ValueError):
        build([Entry(1, 1)], checksums=many)


def test_building_and_parsing_leave_no_key_behind(key):
    used = native.arena_report()["used"]
    data = built(key)
    footer.parse(key, OBJECT_ID, sizes.stored_size(sum(LENGTHS)), data)
    assert native.arena_report()["used"] == used


def test_an_entry_admits_only_the_attempt_that_counted(key):
    one, two = native.PartSealer(key, b"").header, native.PartSealer(key, b"").header
    assert Entry(1, 0, one[24:32]).admits(one)
    assert not Entry(1, 0, one[24:32]).admits(two)
    assert Entry(1, 0).admits(two)
