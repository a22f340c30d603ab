"""proxy.crypto.sizes: plaintext sizes from a listing alone."""

import pytest

from proxy.crypto import parts, sizes

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("plain", "overhead"),
    [
        (0, 344),
        (16_383, 344),
        (16_384, 360),
        (5 * MIB, 5_552),
        (1024 * MIB, 1_066_872),
        (5 * 1024 * MIB, 5_333_336),
    ],
)
def test_overhead_is_what_the_document_says(plain, overhead):
    assert sizes.stored_size(plain) - plain == overhead


@pytest.mark.parametrize(
    "around", [0, 16_384, 5 * MIB, 10 * MIB, 80 * MIB, 10_000 * 5 * MIB, sizes.MAX_PLAIN_BYTES - 20]
)
def test_every_size_near_a_step_comes_back_and_the_gaps_are_refused(around):
    plains = range(max(around - 20, 0), around + 20)
    stored = {sizes.stored_size(plain): plain for plain in plains}
    assert len(stored) == len(plains)
    for size in range(min(stored), max(stored) + 1):
        assert sizes.plain_size(size) == stored.get(size)


def test_no_object_is_shorter_than_an_empty_one():
    assert sizes.plain_size(344) == 0
    for size in (-1, 0, 56, 343):
        assert sizes.plain_size(size) is None


def test_more_than_the_store_takes_is_no_object():
    assert sizes.plain_size(sizes.stored_size(sizes.MAX_PLAIN_BYTES)) == sizes.MAX_PLAIN_BYTES
    assert sizes.plain_size(sizes.stored_size(sizes.MAX_PLAIN_BYTES + 1)) is None


def test_a_negative_size_is_refused():
    for call in (sizes.stored_size, parts.stream_size):
        with pytest.raises(ValueError):
            call(-1)
