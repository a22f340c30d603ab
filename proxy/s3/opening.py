"""Stored bytes of a run of chunks in, plaintext of exactly the range out. Pure.

A range may cross parts: behind the first part's chunks come the next part's 56-byte header and its
chunks, and so on, as they lie in the stored object. `StreamOpener` walks them; each part's end is
verified as its end, so nothing can be cut, moved or left out without an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy import native
from proxy.crypto.footer import UNKNOWN_COMMITMENT, Entry
from proxy.crypto.parts import (
    CHUNK_BYTES,
    HEADER_BYTES,
    PlacedRange,
    part_context,
    stream_size,
)
from proxy.errors import IntegrityError
from proxy.native import KeyHandle

_REFUSED = "a chunk does not open"


@dataclass(frozen=True, slots=True)
class Piece:
    """The chunks wanted of one part."""

    entry: Entry
    place: PlacedRange


def to_end(piece: Piece) -> Piece:
    """`piece`; where it reaches its part's last byte, with the empty final chunk of an aligned
    part, so that pieces lie next to each other and the end is verified as the end."""
    chunks, length = piece.place.chunks, piece.entry.length
    first = chunks.first_chunk * CHUNK_BYTES + chunks.skip
    if chunks.at_end or first + chunks.take < length:
        return piece
    whole = replace(chunks, stop=stream_size(length), at_end=True)
    return replace(piece, place=replace(piece.place, chunks=whole))


class StreamOpener:
    """`feed` takes the stored bytes from `start` to `stop` in order; `finish` after the last."""

    def __init__(
        self,
        object_key: KeyHandle,
        object_id: bytes,
        pieces: Sequence[Piece],
        first_header: bytes | None,
    ) -> None:
        """`first_header`: the first part's, where its chunks don't begin right behind it."""
        self._key = object_key
        self._id = object_id
        self._pieces = list(pieces)
        self._index = -1
        self._header = bytearray()
        self._opener: native.PartOpener | None = None
        self._left = 0
        self._skip = 0
        self._take = 0
        self._first_header = first_header
        first, last = pieces[0].place, pieces[-1].place
        self.start = first.stream_start + (first.chunks.start if first_header is not None else 0)
        self.stop = last.stream_start + last.chunks.stop
        self._next_piece()

    @property
    def done(self) -> bool:
        return self._index >= len(self._pieces)

    def feed(self, data: memoryview) -> bytes:
        """Plaintext that is ready; IntegrityError at the first byte that is not what was sealed.

        Bytes beyond `stop` are ignored.
        """
        if self._opener is not None and len(data) < self._left and not self._skip:
            # Neither the part's front nor its end: all of it is wanted, but for a range's last chunk.
            self._left -= len(data)
            try:
                plain = self._opener.update(data)
            except native.OpenFailed:
                raise IntegrityError(_REFUSED) from None
            plain = plain if len(plain) <= self._take else plain[: self._take]
            self._take -= len(plain)
            return plain
        out: list[bytes] = []
        while len(data) and not self.done:
            if self._opener is None:
                take = min(HEADER_BYTES - len(self._header), len(data))
                self._header += data[:take]
                data = data[take:]
                if len(self._header) == HEADER_BYTES:
                    self._begin(bytes(self._header))
                continue
            take = min(self._left, len(data))
            self._left -= take
            try:
                self._trim(self._opener.update(data[:take]), out)
                if not self._left:
                    at_end = self._pieces[self._index].place.chunks.at_end
                    self._trim(self._opener.finish(at_end), out)
            except native.OpenFailed:
                raise IntegrityError(_REFUSED) from None
            data = data[take:]
            if not self._left:
                self._next_piece()
        return out[0] if len(out) == 1 else b"".join(out)

    def finish(self) -> None:
        """IntegrityError unless everything up to `stop` came and was verified."""
        if not self.done:
            raise IntegrityError(_REFUSED)

    def _next_piece(self) -> None:
        self._opener = None
        self._header.clear()
        self._index += 1
        if self._index == 0 and self._first_header is not None:
            self._begin(self._first_header)

    def _begin(self, header: bytes) -> None:
        piece = self._pieces[self._index]
        entry, chunks = piece.entry, piece.place.chunks
        if entry.commitment not in (UNKNOWN_COMMITMENT, header[24:32]):
            raise IntegrityError(_REFUSED)
        context = part_context(self._id, entry.part_number)
        try:
            self._opener = native.PartOpener(self._key, context, header, chunks.first_chunk)
        except native.OpenFailed:
            raise IntegrityError(_REFUSED) from None
        self._left = chunks.stop - chunks.start
        self._skip, self._take = chunks.skip, chunks.take

    def _trim(self, plain: bytes, out: list[bytes]) -> None:
        if not plain:
            return
        if self._skip or len(plain) > self._take:
            drop = min(self._skip, len(plain))
            self._skip -= drop
            plain = plain[drop : drop + self._take]
        self._take -= len(plain)
        if plain:
            out.append(plain)
