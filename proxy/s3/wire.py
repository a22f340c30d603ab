"""One TCP connection that speaks HTTP/1.1, at either end: heads, bodies, back-pressure. IO.

Theory of operation. Bytes arrive in a buffer shared by all connections of the loop and are consumed
before the callback returns, so nothing is copied on the way to the cipher. A message is a head
(parsed by httptools, lenient modes off, in one call) and a `Body`. A body has one consumer,
`pump(sink)`, which is called with slices that are valid only during the call; until there is one,
reading is held. Reading is held for reasons kept as bits: nobody consumes, the peer that the bytes
go to can't take more, much of the next message came ahead of its turn. Time limits are on progress,
never on a whole transfer: `Wire.stalled` compares two looks at the counters.
"""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import cast

from proxy.policy.model import LOCAL
from proxy.s3.chunked import BadFraming, ChunkFramer
from proxy.s3.message import Headers, header

READ_BYTES = 256 * 1024
WRITE_HIGH_BYTES = 1024 * 1024
WRITE_LOW_BYTES = 256 * 1024

HELD_NO_CONSUMER = 1
HELD_PEER_FULL = 2
HELD_NEXT_MESSAGE = 4
HELD_AHEAD = 8
HELD_DECISION = 16  # a form's fields are here, and nobody has said yet what becomes of its file

Sink = Callable[[memoryview], None]


class BadMessage(Exception):
    """The peer's head or framing is not HTTP/1.1 as we accept it."""


class Body:
    """One message body. Framing is by length, chunked, or by the end of the connection."""

    def __init__(self, wire: "Wire", length: int | None, chunked: bool) -> None:
        self._wire = wire
        self._left = length
        self._framer = ChunkFramer() if chunked else None
        self._sink: Sink | None = None
        self._early = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self.length = length
        self.complete = length == 0 and not chunked
        self.received_bytes = 0

    async def pump(self, sink: Sink) -> None:
        """Calls `sink` with every slice; returns at the end of the body.

        Raises what broke the connection, or what the sink raised (the body is then dead).
        """
        assert self._sink is None, "a body has one consumer"
        self._sink = sink
        if self._early:
            early, self._early = self._early, bytearray()
            self._hand_out(memoryview(early))
        if self._error is not None:
            raise self._error
        if self.complete:
            return
        self._wire.release(HELD_NO_CONSUMER)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            if not self.complete:
                self._sink = None
                self._error = self._error or ConnectionError("the body was abandoned")
                self._wire.hold(HELD_NO_CONSUMER)

    async def read(self, limit: int) -> bytes:
        """The whole body; BadMessage when it has more than `limit` bytes."""
        out = bytearray()

        def collect(piece: memoryview) -> None:
            if len(out) + len(piece) > limit:
                raise BadMessage("the body is larger than this operation's limit")
            out.extend(piece)

        await self.pump(collect)
        return bytes(out)

    async def discard(self, limit: int) -> None:
        """Reads on after a consumer gave up, at most `limit` bytes."""
        left = limit

        def drop(piece: memoryview) -> None:
            nonlocal left
            left -= len(piece)
            if left < 0:
                raise BadMessage("too much body after an error")

        self._error = self._sink = None
        await self.pump(drop)

    def fed(self, data: memoryview) -> int:
        """Takes its share of `data`; returns how much that was."""
        if self._framer is not None:
            for piece in self._framer.feed(data):
                self._take(piece)
            if self._framer.done:
                self._finish()
            return self._framer.consumed
        take = len(data) if self._left is None else min(self._left, len(data))
        if self._left is not None:
            self._left -= take
        self._take(data[:take])
        if self._left == 0:
            self._finish()
        return take

    def bulk(self, data: memoryview) -> bool:
        """The short way of `fed`: `data` is all payload and does not end the body."""
        left = self._left
        if left is None or left <= len(data) or self._sink is None or self._error is not None:
            return False
        self._left = left - len(data)
        self.received_bytes += len(data)
        try:
            self._sink(data)
        except Exception as error:
            self.fail(error)
        return True

    def ended(self, error: BaseException) -> None:
        """The connection is over: the end of the body, if that is how it is framed."""
        if self.complete:
            return
        if self._left is None and self._framer is None:
            self._finish()
        else:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        if not self.complete and self._error is None:
            self._error = error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    def _take(self, piece: memoryview) -> None:
        self.received_bytes += len(piece)
        if self._sink is None:
            if self._error is None:
                self._early += piece  # at most one read: reading is held
        else:
            self._hand_out(piece)

    def _hand_out(self, piece: memoryview) -> None:
        if self._error is not None or self._sink is None:
            return
        try:
            self._sink(piece)
        except Exception as error:
            self.fail(error)

    def _finish(self) -> None:
        self.complete = True
        self._wire.body_finished(self)
        if self._waiter is not None and not self._waiter.done() and self._error is None:
            self._waiter.set_result(None)


def body_of(wire: "Wire", headers: Headers, default: int | None) -> Body:
    """RFC 9112 6.3; `default` is the length where no header gives one (None: until the end)."""
    coding = header(headers, "transfer-encoding")
    length = header(headers, "content-length")
    if coding is not None:
        if coding.strip().lower() != "chunked" or length is not None:
            raise BadMessage("transfer coding")
        return Body(wire, None, True)
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise BadMessage("content length")
        return Body(wire, int(length), False)
    return Body(wire, default, False)


def _address_of(transport: asyncio.BaseTransport) -> str:
    """Empty where a peer on TCP is gone already: getpeername(2) fails, what it sent can still be read.
    Such a peer is on no network, least of all on this machine's own."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0])
    link = transport.get_extra_info("socket")
    return LOCAL if link is not None and link.family == socket.AF_UNIX else ""


class Wire(asyncio.BufferedProtocol, ABC):
    """Base of the client's and the origin's connection."""

    transport: asyncio.Transport

    def __init__(self, buffer: bytearray, max_head_bytes: int) -> None:
        self._shared = memoryview(buffer)
        self._max_head = max_head_bytes
        self._head = bytearray()
        self._body: Body | None = None
        self._held = 0
        self._paused = False
        self._full = False
        self._source: Wire | None = None
        self._feeds: Wire | None = None
        self._drained: asyncio.Future[None] | None = None
        self.closed = False
        self.client_address = (
            ""  # IP address of the other end, "local" (a Unix socket), "": not known
        )
        self.received_bytes = 0
        self.written_bytes = 0
        self._look: tuple[int, int, int] = (-1, -1, -1)

    # -- for the subclasses ----------------------------------------------------------------------

    @abstractmethod
    def head_received(self, head: bytes) -> None:
        """A whole head, empty line included; raises BadMessage."""

    @abstractmethod
    def broken(self, error: BaseException) -> None:
        """The peer broke the rules; nothing more will be read."""

    @abstractmethod
    def lost(self, error: BaseException | None) -> None:
        """The connection is gone."""

    def body_finished(self, body: Body) -> None:
        """The last byte of the message is here; whoever was fed by it is let go."""
        if self._body is body:
            self._body = None
        if self._feeds is not None:
            self._feeds.fed_by(None)
        self.release(HELD_NO_CONSUMER | HELD_PEER_FULL)

    def expect_body(self, body: Body) -> None:
        """What follows the head just received."""
        if not body.complete:
            self._body = body
            self.hold(HELD_NO_CONSUMER)

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self.client_address = _address_of(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._shared

    def buffer_updated(self, nbytes: int) -> None:
        self.received_bytes += nbytes
        body = self._body
        if body is not None and body.bulk(self._shared[:nbytes]):
            return
        try:
            self._received(self._shared[:nbytes])
        except (BadMessage, BadFraming) as error:
            self._head.clear()
            self.hold(HELD_NEXT_MESSAGE)
            if self._body is not None:
                self._body.fail(BadMessage(str(error)))
            self.broken(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self.fed_by(None)
        self.lost(exc)

    def pause_writing(self) -> None:
        self._full = True
        if self._source is not None:
            self._source.hold(HELD_PEER_FULL)

    def resume_writing(self) -> None:
        self._full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._source is not None:
            self._source.release(HELD_PEER_FULL)

    # -- reading ---------------------------------------------------------------------------------

    def _received(self, data: memoryview) -> None:
        while len(data):
            if self._body is not None:
                data = data[self._body.fed(data) :]
                continue
            if self._held & HELD_NEXT_MESSAGE:
                # A pipelined message waits here; when much of it has come, in the kernel.
                self._head += data
                if len(self._head) >= READ_BYTES:
                    self.hold(HELD_AHEAD)
                return
            data = self._gather_head(data)

    def _gather_head(self, data: memoryview) -> memoryview:
        searched = max(0, len(self._head) - 3)
        before = len(self._head)
        self._head += data[: self._max_head + 4]
        at = self._head.find(b"\r\n\r\n", searched)
        if at < 0:
            if len(self._head) > self._max_head:
                raise BadMessage("head too large")
            return data[self._max_head + 4 :]
        head = bytes(self._head[: at + 4])
        self._head.clear()
        self.head_received(head)
        return data[at + 4 - before :]

    def next_message(self) -> None:
        """Lets the next head be read: one that is already here at once."""
        self._held &= ~(HELD_NEXT_MESSAGE | HELD_AHEAD)
        if self._head:
            waiting = bytes(self._head)
            self._head.clear()
            try:
                self._received(memoryview(waiting))
            except (BadMessage, BadFraming) as error:
                self.hold(HELD_NEXT_MESSAGE)
                self.broken(error)
        self._apply()

    def hold(self, reason: int) -> None:
        self._held |= reason
        self._apply()

    def release(self, reason: int) -> None:
        self._held &= ~reason
        self._apply()

    def _apply(self) -> None:
        # A held next message still has to notice that the peer leaves, so reading goes on; what
        # comes is kept (bounded) in `_head`.
        wanted = bool(self._held & ~HELD_NEXT_MESSAGE)
        if wanted == self._paused or self.closed or self.transport.is_closing():
            return
        self._paused = wanted
        if wanted:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    # -- writing ---------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if isinstance(data, memoryview):
            data = bytes(data)  # the transport keeps it; a view may be of the shared buffer
        self.written_bytes += len(data)
        self.transport.write(data)

    def fed_by(self, source: "Wire | None") -> None:
        """`source` is held while this connection's write buffer is full."""
        before, self._source = self._source, source
        if before is not None and before is not source:
            before._feeds = None
            before.release(HELD_PEER_FULL)
        if source is not None:
            source._feeds = self
            if self._full:
                source.hold(HELD_PEER_FULL)

    async def drained(self) -> None:
        """Returns when the write buffer has room, or the connection is gone."""
        if self._full and not self.closed:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def abort(self) -> None:
        if not self.closed:
            self.transport.abort()

    # -- time ------------------------------------------------------------------------------------

    def stalled(self, waiting_for_peer: bool) -> bool:
        """No byte in or out since the last call, though something was due."""
        pending = 0 if self.closed else self.transport.get_write_buffer_size()
        look = (self.received_bytes, self.written_bytes, pending)
        same, self._look = look == self._look, look
        due = pending > 0 or (waiting_for_peer and not self._paused)
        return same and due

    @property
    def reading_body(self) -> bool:
        return self._body is not None
