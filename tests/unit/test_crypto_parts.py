"""proxy.crypto.parts and the native streams under it: one part, sealed and opened."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor

from proxy import native
from proxy.crypto import parts

VECTORS = Path(__file__).parent.parent / "vectors" / "cobblestone256.json"
SIZES = [0, 1, 16383, 16384, 16385, 32767, 32768, 65536, 98304, 100_000]
CONTEXT = parts.part_context(bytes(range(16)), 1)


@pytest.fixture(autouse=True, scope="module")
def _arena():
    native.arena_init(allow_unlocked=True)


def imported(secret: bytes) -> native.KeyHandle:
    return native.key_import(bytearray(secret))


def sealed(key: native.KeyHandle, plain: bytes, context: bytes = CONTEXT) -> bytes:
    sealer = native.PartSealer(key, context)
    return sealer.header + sealer.update(plain) + sealer.finish()


def opened(key: native.KeyHandle, stream: bytes, context: bytes = CONTEXT) -> bytes:
    opener = native.PartOpener(key, context, stream[:56])
    return opener.update(stream[56:]) + opener.finish()


def in_pieces(data: bytes, rng: random.Random):
    at = 0
    while at < len(data):
        size = rng.choice([1, 15, 16383, 16384, 16400, rng.randrange(1, 70_000)])
        yield rng.choice([bytes, bytearray, memoryview])(data[at : at + size])
        at += size


def published():
    return json.loads(VECTORS.read_text())["vectors"]


@pytest.mark.parametrize("vector", published(), ids=lambda v: v["comment"])
def test_published_vector_opens_or_is_refused_as_published(vector):
    key, stream = imported(bytes.fromhex(vector["key"])), bytes.fromhex(vector["stream"])
    context = bytes.fromhex(vector["context"])
    if not vector["opens"]:
        with pytest.raises(native.OpenFailed):
            opened(key, stream, context)
        return
    plain = opened(key, stream, context)
    assert len(plain) == vector["plain_bytes"]
    assert hashlib.sha512(plain).hexdigest() == vector["plain_sha512"]


@pytest.mark.parametrize("size", SIZES)
def test_the_other_implementation_opens_what_we_seal(size):
    rng, secret, context = random.Random(size), os.urandom(32), os.urandom(size % 41)
    plain = rng.randbytes(size)
    sealer = native.PartSealer(imported(secret), context)
    stream = sealer.header + b"".join(map(sealer.update, in_pieces(plain, rng))) + sealer.finish()
    oracle = Cobblestone256Decryptor(secret, context)
    assert oracle.update(stream) + oracle.finalize() == plain
    assert len(stream) == parts.stream_size(size)


@pytest.mark.parametrize("size", SIZES)
def test_we_open_what_the_other_implementation_seals(size):
    rng, secret, context = random.Random(size), os.urandom(32), os.urandom(size % 41)
    plain = rng.randbytes(size)
    oracle = Cobblestone256Encryptor(secret, context)
    stream = oracle.update(plain) + oracle.finalize()
    opener = native.PartOpener(imported(secret), context, stream[:56])
    got = b"".join(map(opener.update, in_pieces(stream[56:], rng))) + opener.finish()
    assert got == plain


def test_random_access_opens_from_any_chunk_to_any_border():
    key, plain = native.key_random(), os.urandom(5 * 16384 + 100)
    stream = sealed(key, plain)
    for first in range(6):
        for stop in range(first + 1, 7):
            opener = native.PartOpener(key, CONTEXT, stream[:56], first)
            piece = stream[56 + first * 16400 : 56 + stop * 16400]
            got = opener.update(piece) + opener.finish(at_end=stop == 6)
            assert got == plain[first * 16384 : stop * 16384]


def test_a_range_opens_through_its_stored_range():
    key, plain = native.key_random(), os.urandom(3 * 16384 + 7)
    stream = sealed(key, plain)
    for first, last in [
        (0, 0),
        (16383, 16384),
        (0, len(plain) - 1),
        (40_000, 49_158),
        (49_152,) * 2,
    ]:
        piece = parts.stored_range(len(plain), first, last)
        opener = native.PartOpener(key, CONTEXT, stream[:56], piece.first_chunk)
        got = opener.update(stream[piece.start : piece.stop]) + opener.finish(piece.at_end)
        assert got[piece.skip : piece.skip + piece.take] == plain[first : last + 1]


def chunk(stream: bytes, number: int) -> slice:
    return slice(56 + number * 16400, 56 + (number + 1) * 16400)


def damaged(stream: bytes):
    """Every way to damage a stream of three full chunks and a short one."""
    a, b, c = (stream[chunk(stream, number)] for number in range(3))
    last, header = stream[56 + 3 * 16400 :], stream[:56]
    yield "chunks swapped", header + b + a + c + last
    yield "chunk dropped", header + a + c + last
    yield "first chunk dropped", header + b + c + last
    yield "chunk repeated", header + a + a + b + c + last
    yield "chunk in place of another", header + a + a + c + last
    yield "last chunk repeated", stream + last
    yield "cut at a chunk border", header + a + b + c
    yield "cut to the header", header
    yield "cut within a tag", stream[:-1]
    yield "cut to less than a tag", header + a + b + c + last[:15]
    yield "short chunk in the middle", header + a + last + b + c
    yield "trailing byte", stream + b"\0"
    yield "empty chunk behind the last", stream + bytes(16)
    yield "header cut", stream[1:]
    for at in (0, 23, 24, 55, 56, 56 + 16383, 56 + 16384, 56 + 16399, 56 + 16400, len(stream) - 1):
        yield f"bit {at} flipped", stream[:at] + bytes((stream[at] ^ 1,)) + stream[at + 1 :]


def test_every_damage_is_an_error():
    key = native.key_random()
    stream = sealed(key, os.urandom(3 * 16384 + 1000))
    for what, bad in damaged(stream):
        with pytest.raises(native.OpenFailed):
            opened(key, bad)
            pytest.fail(f"opened in spite of: {what}")


def test_another_salt_key_or_context_is_refused_before_any_chunk():
    key, other = native.key_random(), native.key_random()
    stream, second = sealed(key, b"x" * 20_000), sealed(key, b"x" * 20_000)
    wrong_part = parts.part_context(bytes(range(16)), 2)
    wrong_object = parts.part_context(bytes(16), 1)
    for use, context, header in [
        (other, CONTEXT, stream[:56]),
        (key, wrong_part, stream[:56]),
        (key, wrong_object, stream[:56]),
        (key, CONTEXT, second[:24] + stream[24:56]),
        (key, CONTEXT, stream[:55]),
        (key, CONTEXT, b""),
    ]:
        with pytest.raises(native.OpenFailed):
            native.PartOpener(use, context, header)
    with pytest.raises(native.OpenFailed):
        opened(key, second[:56] + stream[56:])


def test_a_part_sealed_twice_shares_no_salt_commitment_or_chunk():
    key, plain = native.key_random(), os.urandom(20_000)
    one, two = sealed(key, plain), sealed(key, plain)
    assert one[:24] != two[:24]
    assert one[24:56] != two[24:56]
    assert one[56:72] != two[56:72]


def test_a_damaged_stream_keeps_failing():
    key = native.key_random()
    stream = sealed(key, bytes(40_000))
    opener = native.PartOpener(key, CONTEXT, stream[:56])
    with pytest.raises(native.OpenFailed):
        opener.update(bytes(16400))
    with pytest.raises(native.OpenFailed):
        opener.update(stream[56:])
    with pytest.raises(native.OpenFailed):
        opener.finish()


def test_a_finished_stream_takes_nothing_more():
    sealer = native.PartSealer(native.key_random(), b"")
    sealer.finish()
    with pytest.raises(ValueError):
        sealer.update(b"x")
    with pytest.raises(ValueError):
        sealer.finish()


def test_a_range_that_stops_at_a_border_refuses_what_is_left_over():
    key = native.key_random()
    stream = sealed(key, bytes(40_000))
    opener = native.PartOpener(key, CONTEXT, stream[:56])
    opener.update(stream[56 : 56 + 16400 + 1])
    with pytest.raises(native.OpenFailed):
        opener.finish(at_end=False)


def test_a_wiped_key_begins_no_stream():
    key = native.key_random()
    key.wipe()
    with pytest.raises(native.KeyGone):
        native.PartSealer(key, b"")
    with pytest.raises(native.KeyGone):
        native.PartOpener(key, b"", bytes(56))


def test_the_message_key_leaves_the_arena_with_its_stream():
    used = native.arena_report()["used"]
    key = native.key_random()
    stream = sealed(key, bytes(40_000))
    opened(key, stream)
    unfinished = native.PartSealer(key, b"")
    unfinished.update(b"x")
    del unfinished
    with pytest.raises(native.OpenFailed):
        opened(key, stream[:-1])
    key.wipe()
    assert native.arena_report()["used"] == used


def test_chunks_beyond_the_bound_are_refused():
    with pytest.raises(ValueError):
        native.PartOpener(native.key_random(), b"", bytes(56), 1 << 38)
    with pytest.raises(OverflowError):
        native.PartOpener(native.key_random(), b"", bytes(56), -1)


def test_context_fields_are_length_prefixed():
    context = parts.part_context(b"i" * 16, 258)
    assert context == b"\x00\x12sealgate object v1" + b"\x00\x10" + b"i" * 16 + b"\x00\x04\0\0\1\2"
    for bad in [(b"i" * 15, 1), (b"i" * 16, 0)]:
        with pytest.raises(ValueError):
            parts.part_context(*bad)


def test_stream_size_has_an_inverse_and_says_what_is_no_stream():
    for plain in SIZES:
        assert parts.stream_plain_size(parts.stream_size(plain)) == plain
    assert parts.stream_size(0) == 72
    sizes = {parts.stream_size(plain) for plain in range(40_000)}
    for stored in range(40_000):
        assert (parts.stream_plain_size(stored) is not None) == (stored in sizes)


def test_stored_range_is_whole_chunks():
    piece = parts.stored_range(16384, 0, 16383)
    assert piece == parts.StoredRange(0, 56, 56 + 16400, 0, 16384, False)
    piece = parts.stored_range(40_000, 39_999, 39_999)
    assert piece == parts.StoredRange(2, 56 + 32800, parts.stream_size(40_000), 7231, 1, True)
    for bad in [(10, 10, 10), (10, 5, 4), (10, -1, 3), (0, 0, 0)]:
        with pytest.raises(ValueError):
            parts.stored_range(*bad)


def test_layout_spreads_a_range_over_parts_and_skips_empty_ones():
    layout = parts.Layout([20_000, 0, 30_000])
    pieces = list(layout.locate(19_999, 20_000))
    assert [(piece.index, piece.chunks.take) for piece in pieces] == [(0, 1), (2, 1)]
    assert pieces[1].stream_start == parts.stream_size(20_000) + parts.stream_size(0)
    assert [piece.chunks.at_end for piece in layout.whole()] == [True] * 3
    assert layout.streams_bytes == sum(map(parts.stream_size, [20_000, 0, 30_000]))
    with pytest.raises(ValueError):
        list(layout.locate(0, 50_000))
