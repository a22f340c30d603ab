"""Where does each chunk end, and is it signed? HTTP's chunked coding and S3's aws-chunked.

One grammar: `hex-size [;extension] CRLF data CRLF ... 0 CRLF trailers CRLF` (RFC 9112 7.1; Amazon
S3, "Transferring Payload in Multiple Chunks"). `ChunkFramer` is strict: CRLF only, capped lines, no
sign or blank in a size. It hands out slices of what it was fed, so nothing is copied and a chunk
may be of any size. `AwsChunked` adds signatures and the announced length. No I/O.
"""

import hashlib
from collections.abc import Iterator

from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import ChunkVerifier

MAX_LINE_BYTES = 1024
MAX_TRAILER_BYTES = 8192
_HEX = frozenset(b"0123456789abcdefABCDEF")

_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


class BadFraming(Exception):
    """The bytes do not follow the grammar; the connection can't be used further."""


class ChunkFramer:
    """Sans-I/O splitter. `feed` yields payload slices; look at `done`, `rest`, `trailers` after."""

    def __init__(self) -> None:
        self._state = _SIZE
        self._line = bytearray()
        self._left = 0
        self._trailer_bytes = 0
        self.extension = b""
        self.trailers: list[tuple[str, str]] = []

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def chunk_begins(self, size: int, extension: bytes) -> None:
        """Hook: the head of a chunk was read (size 0: the last one)."""

    def chunk_ends(self) -> None:
        """Hook: all data of the chunk was handed out."""

    def trailer_ends(self) -> None:
        """Hook: the empty line was read."""

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Yields slices of `data`; ends early when done. `consumed` says how far it came."""
        self.consumed = 0
        end = len(data)
        while self.consumed < end and self._state != _DONE:
            if self._state == _DATA:
                take = min(self._left, end - self.consumed)
                piece = data[self.consumed : self.consumed + take]
                self.consumed += take
                self._left -= take
                yield piece
                if not self._left:
                    self.chunk_ends()
                    self._state = _DATA_END
                continue
            line = self._read_line(data)
            if line is None:
                return
            if self._state == _SIZE:
                self._size_line(line)
            elif self._state == _DATA_END:
                if line:
                    raise BadFraming("data after a chunk")
                self._state = _SIZE
            elif line:
                self._trailer_line(line)
            else:
                self.trailer_ends()
                self._state = _DONE

    def _read_line(self, data: memoryview) -> bytes | None:
        window = bytes(data[self.consumed : self.consumed + MAX_LINE_BYTES + 2 - len(self._line)])
        at = window.find(b"\n")
        if at < 0:
            self._line += window
            self.consumed += len(window)
            if len(self._line) > MAX_LINE_BYTES:
                raise BadFraming("line too long")
            return None
        self._line += window[:at]
        self.consumed += at + 1
        if not self._line.endswith(b"\r"):
            raise BadFraming("line without CR")
        line = bytes(self._line[:-1])
        self._line.clear()
        return line

    def _size_line(self, line: bytes) -> None:
        size, _, extension = line.partition(b";")
        size = size.rstrip(b" \t")
        if not size or len(size) > 16 or not _HEX.issuperset(size):
            raise BadFraming("chunk size")
        self._left = int(size, 16)
        self.chunk_begins(self._left, extension)
        if self._left:
            self._state = _DATA
        else:
            self.chunk_ends()
            self._state = _TRAILER

    def _trailer_line(self, line: bytes) -> None:
        self._trailer_bytes += len(line)
        name, colon, value = line.partition(b":")
        if not colon or not name or self._trailer_bytes > MAX_TRAILER_BYTES:
            raise BadFraming("trailer")
        self.trailers.append((name.decode("latin-1").lower(), value.decode("latin-1").strip()))


class AwsChunked(ChunkFramer):
    """Decodes an aws-chunked body of exactly `length` plaintext bytes."""

    def __init__(
        self,
        length: int,
        verifier: ChunkVerifier | None,
        signed_trailer: bool,
        trailer_names: frozenset[str],
    ) -> None:
        super().__init__()
        self._expected = length
        self._seen = 0
        self._verifier = verifier
        self._signed_trailer = signed_trailer
        self._names = trailer_names
        self._hash = hashlib.sha256()
        self._signature = ""

    def chunk_begins(self, size: int, extension: bytes) -> None:
        self._seen += size
        if self._seen > self._expected:
            raise S3Error("IncompleteBody", "The body is longer than x-amz-decoded-content-length.")
        if size == 0 and self._seen != self._expected:
            raise S3Error("IncompleteBody")
        if self._verifier is not None:
            name, _, value = extension.partition(b"=")
            if name.strip() != b"chunk-signature" or len(value) != 64:
                raise S3Error("SignatureDoesNotMatch")
            self._signature = value.decode("latin-1")
            self._hash = hashlib.sha256()

    def chunk_ends(self) -> None:
        if self._verifier is not None:
            self._verifier.check_chunk(self._hash.hexdigest(), self._signature)

    def trailer_ends(self) -> None:
        if self._signed_trailer and self._verifier is not None:
            signed = [t for t in self.trailers if t[0] != "x-amz-trailer-signature"]
            given = [v for n, v in self.trailers if n == "x-amz-trailer-signature"]
            block = "".join(f"{n}:{v}\n" for n, v in signed).encode("latin-1")
            if len(given) != 1:
                raise S3Error("SignatureDoesNotMatch")
            self._verifier.check_trailer(block, given[0])
        for name, _ in self.trailers:
            if name not in self._names and name != "x-amz-trailer-signature":
                raise S3Error(
                    "InvalidRequest", "A trailer was sent that x-amz-trailer did not announce."
                )

    def decode(self, data: memoryview) -> Iterator[memoryview]:
        """Plaintext slices of `data`; S3Error for a bad signature, length or grammar."""
        try:
            for piece in self.feed(data):
                if self._verifier is not None:
                    self._hash.update(piece)
                yield piece
        except BadFraming:
            raise S3Error("InvalidRequest", "The aws-chunked body is not well formed.") from None
        if self.done and self.consumed < len(data):
            raise S3Error("InvalidRequest", "Data follows the end of the aws-chunked body.")
