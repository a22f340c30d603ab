"""The leg of a connection that leads to PostgreSQL. I/O module; `connection.py` owns it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from proxy.postgres.inbox import Inbox

if TYPE_CHECKING:
    from proxy.postgres.connection import Connection

HIGH_WATER_BYTES = 256 * 1024


class ServerLeg(asyncio.Protocol):
    """The connection to PostgreSQL. `inbox` holds what comes before there is a session."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.inbox = Inbox()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._connection.early_from_server(self, data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.server_lost(self)

    def pause_writing(self) -> None:
        self._connection.server_writable = False
        self._connection.adjust_reading()

    def resume_writing(self) -> None:
        self._connection.server_writable = True
        self._connection.adjust_reading()
