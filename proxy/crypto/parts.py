"""Where do plaintext bytes of a part lie in its stored stream, and what is the stream bound to?

A part (a single PUT is one part, number 1) is stored as one Cobblestone-256 stream: 56 bytes of
header, then chunks of 16384 plaintext bytes and a 16-byte tag, the last one shorter than that
and possibly empty (C2SP chunked-encryption; docs/reference/format-objects.md, section "Part").
Arithmetic only: sealing and opening are native.PartSealer and native.PartOpener.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

HEADER_BYTES = 56
CHUNK_BYTES = 16384
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
SINGLE_PART = 1
"""Part number that a single PUT is sealed under."""

_CONTEXT_VERSION = b"sealgate object v1"
OBJECT_ID_BYTES = 16


def part_context(object_id: bytes, part_number: int) -> bytes:
    """The Cobblestone context of a part: version, object id and part number, length-prefixed.

    Bucket and key name are not in it, so that a server-side copy keeps the body.
    ValueError for an id that is not 16 bytes or a number below 1.
    """
    if len(object_id) != OBJECT_ID_BYTES:
        raise ValueError("an object id has 16 bytes")
    if part_number < 1:
        raise ValueError("parts are numbered from 1")
    fields = (_CONTEXT_VERSION, object_id, struct.pack(">I", part_number))
    return b"".join(struct.pack(">H", len(field)) + field for field in fields)


def stream_size(plain: int) -> int:
    """Stored bytes of a part of `plain` plaintext bytes, header included."""
    if plain < 0:
        raise ValueError("a size is not negative")
    return HEADER_BYTES + plain + TAG_BYTES * (plain // CHUNK_BYTES + 1)


def stream_plain_size(stored: int) -> int | None:
    """Plaintext bytes of a part stored in `stored` bytes; None when no stream is that long."""
    full, last = divmod(stored - HEADER_BYTES, SEALED_CHUNK_BYTES)
    if stored < HEADER_BYTES or last < TAG_BYTES:
        return None
    return full * CHUNK_BYTES + last - TAG_BYTES


@dataclass(frozen=True, slots=True)
class StoredRange:
    """Whole chunks of one stream that hold a plaintext range. Offsets count from the stream's
    first byte, header included; `stop` is exclusive."""

    first_chunk: int
    start: int
    stop: int
    skip: int  # plaintext bytes to drop at the front of what the chunks hold
    take: int  # plaintext bytes to give out after that
    at_end: bool  # the last of these chunks is the stream's final one (PartOpener.finish)


def stored_range(plain: int, first: int, last: int) -> StoredRange:
    """Chunks to fetch for plaintext bytes first..last (inclusive) of a part of `plain` bytes.

    An empty part has no range; read it whole with whole_stream. ValueError when the range is
    not within the part.
    """
    if not 0 <= first <= last < plain:
        raise ValueError("the range is not within the part")
    first_chunk, last_chunk = first // CHUNK_BYTES, last // CHUNK_BYTES
    final_chunk = plain // CHUNK_BYTES
    stop = HEADER_BYTES + (last_chunk + 1) * SEALED_CHUNK_BYTES
    return StoredRange(
        first_chunk=first_chunk,
        start=HEADER_BYTES + first_chunk * SEALED_CHUNK_BYTES,
        stop=min(stop, stream_size(plain)),
        skip=first - first_chunk * CHUNK_BYTES,
        take=last - first + 1,
        at_end=last_chunk == final_chunk,
    )


def whole_stream(plain: int) -> StoredRange:
    """All chunks of a part of `plain` bytes, the final one included even where it is empty."""
    return StoredRange(0, HEADER_BYTES, stream_size(plain), 0, plain, True)


@dataclass(frozen=True, slots=True)
class PlacedRange:
    """A piece of an object's plaintext range: which part, where its stream begins, which chunks."""

    index: int  # position in the layout, from 0; not the part number
    stream_start: int  # offset of the part's header in the stored object
    chunks: StoredRange


class Layout:
    """Where the parts of one object lie, from their plaintext lengths in order."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self._plain_starts = tuple(accumulate(self.lengths, initial=0))
        self._stored_starts = tuple(
            accumulate((stream_size(length) for length in self.lengths), initial=0)
        )

    @property
    def plain_bytes(self) -> int:
        """Plaintext bytes of the object."""
        return self._plain_starts[-1]

    @property
    def streams_bytes(self) -> int:
        """Stored bytes of all streams: the offset at which the footer begins."""
        return self._stored_starts[-1]

    def whole(self) -> Iterator[PlacedRange]:
        """Every part in order, to the end; an empty part too, since its end is authenticated."""
        for index, length in enumerate(self.lengths):
            yield PlacedRange(index, self._stored_starts[index], whole_stream(length))

    def locate(self, first: int, last: int) -> Iterator[PlacedRange]:
        """The pieces of plaintext bytes first..last (inclusive) of the object, in order.

        ValueError when the range is not within the object.
        """
        if not 0 <= first <= last < self.plain_bytes:
            raise ValueError("the range is not within the object")
        index = bisect_right(self._plain_starts, first) - 1
        while index < len(self.lengths) and self._plain_starts[index] <= last:
            length, start = self.lengths[index], self._plain_starts[index]
            if length:
                piece = stored_range(length, max(first - start, 0), min(last - start, length - 1))
                yield PlacedRange(index, self._stored_starts[index], piece)
            index += 1
