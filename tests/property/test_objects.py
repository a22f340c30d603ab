"""Properties of the object format: sizes, ranges, streams in any cut, whole objects."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.crypto import footer, parts, sizes

MIB = 1024 * 1024
GIB = 1024 * MIB

part_lengths = st.one_of(
    st.integers(0, sizes.MAX_PLAIN_BYTES).map(lambda plain: [plain]),
    st.tuples(st.lists(st.integers(5 * MIB, 5 * GIB), max_size=40), st.integers(0, 5 * GIB)).map(
        lambda drawn: [*drawn[0], drawn[1]]
    ),
    st.tuples(st.integers(5 * MIB, 5 * MIB + 20_000), st.integers(1, 9_999)).map(
        lambda drawn: [drawn[0]] * drawn[1] + [0]
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _arena():
    native.arena_init(allow_unlocked=True)


@given(st.integers(0, sizes.MAX_PLAIN_BYTES))
def test_the_stored_size_says_the_plaintext_size(plain):
    assert sizes.plain_size(sizes.stored_size(plain)) == plain


@given(st.integers(0, sizes.MAX_PLAIN_BYTES), st.integers(0, sizes.MAX_PLAIN_BYTES))
def test_the_stored_size_rises_strictly(one, two):
    assert (one < two) == (sizes.stored_size(one) < sizes.stored_size(two))


@given(part_lengths)
def test_every_legal_layout_fits_below_the_stored_size(lengths):
    size = footer.footer_size(sum(lengths), lengths)
    pad = size - 256 - 16 * len(lengths)
    assert 0 <= pad <= 88 * 10_000


@given(part_lengths, st.data())
def test_located_pieces_cover_exactly_the_range(lengths, data):
    layout = parts.Layout(lengths)
    if layout.plain_bytes == 0:
        return
    first = data.draw(st.integers(0, layout.plain_bytes - 1))
    last = data.draw(st.integers(first, layout.plain_bytes - 1))
    if len(lengths) > 100:
        last = min(last, first + 30 * MIB)
    at = first
    for piece in layout.locate(first, last):
        chunks = piece.chunks
        begin = sum(lengths[: piece.index]) + chunks.first_chunk * 16384 + chunks.skip
        assert begin == at
        assert chunks.take > 0
        assert chunks.stop <= parts.stream_size(lengths[piece.index])
        assert chunks.stop - chunks.start < chunks.take + 2 * 16384 + 16 * (
            chunks.take // 16384 + 3
        )
        at += chunks.take
    assert at == last + 1


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000),
    st.binary(max_size=64),
    st.lists(st.integers(1, 40_000), max_size=12),
    st.lists(st.integers(1, 40_000), max_size=12),
)
def test_a_stream_is_the_same_however_it_is_cut(size, context, seal_cuts, open_cuts):
    key, plain = native.key_random(), bytes(size)
    sealer = native.PartSealer(key, context)
    stream = sealer.header
    stream += b"".join(map(sealer.update, cut(plain, seal_cuts))) + sealer.finish()
    assert len(stream) == parts.stream_size(size)
    opener = native.PartOpener(key, context, stream[:56])
    body = b"".join(map(opener.update, cut(stream[56:], open_cuts)))
    assert body + opener.finish() == plain


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70_000), st.data())
def test_one_changed_byte_anywhere_is_an_error(size, data):
    key = native.key_random()
    sealer = native.PartSealer(key, b"")
    stream = bytearray(sealer.header + sealer.update(bytes(size)) + sealer.finish())
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(native.OpenFailed):
        opener = native.PartOpener(key, b"", bytes(stream[:56]))
        opener.update(stream[56:])
        opener.finish()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 70_000), st.data())
def test_every_truncation_is_an_error(size, data):
    key = native.key_random()
    sealer = native.PartSealer(key, b"")
    stream = sealer.header + sealer.update(bytes(size)) + sealer.finish()
    stream = stream[: data.draw(st.integers(0, len(stream) - 1))]
    with pytest.raises(native.OpenFailed):
        opener = native.PartOpener(key, b"", stream[:56])
        opener.update(stream[56:])
        opener.finish()


@settings(max_examples=40, deadline=None)
@given(part_lengths)
def test_a_footer_comes_back_for_every_legal_layout(lengths):
    key, object_id = native.key_random(), native.random_bytes(16)
    entries = [footer.Entry(number, length) for number, length in enumerate(lengths, start=1)]
    data = footer.build(key, object_id, entries, ring_version_id=bytes(16))
    stored = parts.Layout(lengths).streams_bytes + len(data)
    found = footer.parse(key, object_id, stored, data[-footer.read_tail(data).needed_bytes :])
    assert found.entries == tuple(entries)
    assert sizes.plain_size(stored) == found.plain_bytes


def cut(data, lengths):
    at = 0
    for length in lengths:
        yield data[at : at + length]
        at += length
    yield data[at:]
