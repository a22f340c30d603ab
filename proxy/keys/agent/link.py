"""Messages over one connected socket of the key agent's channel, on the event loop. IO.

What cannot be sent now waits in a queue that the user of the link bounds by what it has in flight.
Handles that were handed over to be sent are wiped when they are out, or when the link ends.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from proxy import native
from proxy.native import KeyHandle

_READS_AT_ONCE = 16  # then others have their turn
_ARENA_FULL_SECONDS = 0.05

OnMessage = Callable[[int, int, tuple[KeyHandle, ...], bytes], None]


class Link:
    """`on_message(kind, request, handles, payload)` owns the handles; `on_end(why, bad)` comes once;
    `bad`: the other side sent what is not a message."""

    def __init__(
        self, sock: socket.socket, on_message: OnMessage, on_end: Callable[[str, bool], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[int, int, tuple[KeyHandle, ...], bytes, bool]] = deque()
        self._reading = False
        self.closed = False
        self.sent = 0  # messages the other side's socket has taken
        self.resume()

    @property
    def waiting(self) -> int:
        """Messages that the other side has not taken yet."""
        return len(self._queue)

    def send(
        self,
        kind: int,
        request: int,
        keys: tuple[KeyHandle, ...] = (),
        payload: bytes = b"",
        *,
        wipe: bool = False,
    ) -> None:
        """Sends now or as soon as there is room. `wipe`: the keys are the link's from here on."""
        if self.closed:
            if wipe:
                _wipe(keys)
            return
        self._queue.append((kind, request, keys, payload, wipe))
        if len(self._queue) == 1:
            self._flush()

    def pause(self) -> None:
        """Reads nothing more until `resume`: the other side's sends will block."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def close(self, why: str = "closed", *, bad: bool = False) -> None:
        """Idempotent; what waits is dropped and its keys are wiped."""
        if self.closed:
            return
        self.pause()
        self.closed = True
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, _, keys, _, wipe in self._queue:
            if wipe:
                _wipe(keys)
        self._queue.clear()
        self._on_end(why, bad)

    def _readable(self) -> None:
        for _ in range(_READS_AT_ONCE):
            if not self._reading:
                return
            try:
                message = native.channel_receive(self._sock.fileno())
            except native.ArenaFull:
                self.pause()  # the message stays where it is until a slot is free
                self._loop.call_later(_ARENA_FULL_SECONDS, self.resume)
                return
            except (EOFError, OSError, native.NativeError) as error:
                self.close(str(error), bad=isinstance(error, native.ChannelError))
                return
            if message is None:
                return
            self._on_message(*message)

    def _flush(self) -> None:
        while self._queue:
            kind, request, keys, payload, wipe = self._queue[0]
            try:
                if not native.channel_send(self._sock.fileno(), kind, request, keys, payload):
                    self._loop.add_writer(self._sock.fileno(), self._flush)
                    return
            except native.KeyGone:
                pass  # its owner wiped it meanwhile; nobody waits for it
            except OSError as error:
                self.close(str(error))
                return
            self._queue.popleft()
            self.sent += 1
            if wipe:
                _wipe(keys)
        self._loop.remove_writer(self._sock.fileno())


def _wipe(keys: tuple[KeyHandle, ...]) -> None:
    for key in keys:
        key.wipe()
