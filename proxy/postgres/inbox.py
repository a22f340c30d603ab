"""Bytes of one leg that come before a session reads them, for a dialogue that awaits its turn.

Bounded: `full` says when to stop reading the socket. One reader at a time.
"""

from __future__ import annotations

import asyncio

from proxy.postgres.messages import Malformed

_LIMIT_BYTES = 64 * 1024  # PostgreSQL takes no longer message before authentication either


class Inbox:
    __slots__ = ("_data", "_error", "_waiter")

    def __init__(self) -> None:
        self._data = b""
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    @property
    def full(self) -> bool:
        return len(self._data) > _LIMIT_BYTES

    @property
    def failed(self) -> bool:
        """`fail` was called; what came before it can still be taken."""
        return self._error is not None

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more will come; whoever waits gets this error."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def more(self) -> None:
        """Returns when more bytes are there than at the call. Raises what `fail` was given."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    def take(self) -> bytes:
        """All that is there."""
        data, self._data = self._data, b""
        return data

    async def message(self) -> tuple[int, bytes]:
        """The next whole message: type and payload. Raises Malformed."""
        while len(self._data) < 5:
            await self.more()
        length = int.from_bytes(self._data[1:5], "big")
        if not 4 <= length <= _LIMIT_BYTES:
            raise Malformed("invalid message length before authentication")
        while len(self._data) <= length:
            await self.more()
        kind, payload = self._data[0], self._data[5 : length + 1]
        self._data = self._data[length + 1 :]
        return kind, payload

    def put_back(self, data: bytes) -> None:
        """Bytes that are to be read again, first."""
        self._data = data + self._data
