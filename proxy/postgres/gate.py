"""Accepts sockets on one address: limits, keepalive, and does the client begin with TLS at once?

I/O module. PostgreSQL documentation, "SSL Session Encryption": a connection that begins with a TLS
ClientHello (first byte 0x16, which no start-up packet can have) is direct TLS. The byte is peeked
at, so that the loop's own TLS reads the whole of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import structlog

from proxy.metrics import pg_connections_refused_total, pg_connections_total
from proxy.postgres import sqlstate
from proxy.postgres.connection import Connection
from proxy.postgres.messages import error_response
from proxy.postgres.tls import ClientTls
from proxy.postgres.upstream import set_keepalive

if TYPE_CHECKING:
    from proxy.postgres.listener import PostgresListener

log = structlog.get_logger()

_HANDSHAKE = b"\x16"  # TLS ContentType handshake (RFC 8446, section 5.1)
_ACCEPTS_AT_ONCE = 64
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_NO_ROOM_PAUSE_SECONDS = 0.5
_FULL = error_response(
    sqlstate.TOO_MANY_CONNECTIONS, "sorry, too many clients already", severity="FATAL"
)


class Gate:
    """One listening socket, already bound; owns it."""

    def __init__(self, listener: PostgresListener, sock: socket.socket) -> None:
        self._listener = listener
        self.sock = sock
        self._unix = sock.family == socket.AF_UNIX
        self._loop = asyncio.get_running_loop()
        self._peeking: dict[socket.socket, asyncio.TimerHandle] = {}
        self._entering: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._open = False

    @property
    def arriving(self) -> int:
        """Sockets that are not a `Connection` yet."""
        return len(self._peeking) + len(self._entering)

    def start(self, backlog: int) -> None:
        self.sock.setblocking(False)
        self.sock.listen(backlog)
        self._open = True
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def close(self) -> None:
        """Takes what the kernel has accepted for us, and nothing more: it would be reset."""
        if not self._open:
            return
        if self._paused is None:
            self._accept()
        self._open = False
        if self._paused is None:
            self._loop.remove_reader(self.sock.fileno())
        else:
            self._paused.cancel()
        self.sock.close()

    def send_away(self) -> None:
        """Whoever is still at the gate."""
        for sock in list(self._peeking):
            self._forget(sock)
            sock.close()
        for task in self._entering:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                sock, _ = self.sock.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                log.error("postgres.accept_failed", reason=error.strerror)
                self._loop.remove_reader(self.sock.fileno())
                self._paused = self._loop.call_later(_NO_ROOM_PAUSE_SECONDS, self._resume)
                return
            self._admit(sock)

    def _resume(self) -> None:
        self._paused = None
        self._loop.add_reader(self.sock.fileno(), self._accept)

    def _admit(self, sock: socket.socket) -> None:
        listener = self._listener
        pg_connections_total.inc()
        sock.setblocking(False)
        if listener.full:
            pg_connections_refused_total.labels("limit").inc()
            with contextlib.suppress(OSError):
                sock.send(_FULL)
            sock.close()
            return
        set_keepalive(sock, listener.config.keepalive)
        tls = listener.client_tls
        if tls is None or self._unix or not tls.config.direct:
            self._enter(sock, None)
            return
        timer = self._loop.call_later(
            listener.config.limits.startup_timeout_seconds, self._too_slow, sock
        )
        self._peeking[sock] = timer
        self._loop.add_reader(sock.fileno(), self._peek, sock)

    def _peek(self, sock: socket.socket) -> None:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        self._forget(sock)
        tls = self._listener.client_tls
        if not first:
            sock.close()
        elif first == _HANDSHAKE and tls is not None:
            self._enter(sock, tls)
        else:
            self._enter(sock, None)

    def _too_slow(self, sock: socket.socket) -> None:
        self._forget(sock)
        with contextlib.suppress(OSError):
            sock.send(
                error_response(
                    sqlstate.PROTOCOL_VIOLATION,
                    "connection start-up took too long",
                    severity="FATAL",
                )
            )
        pg_connections_refused_total.labels("slow").inc()
        sock.close()

    def _forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._peeking.pop(sock).cancel()

    def _enter(self, sock: socket.socket, tls: ClientTls | None) -> None:
        task = self._loop.create_task(self._connect(sock, tls))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    async def _connect(self, sock: socket.socket, tls: ClientTls | None) -> None:
        listener = self._listener
        seconds = listener.config.limits.startup_timeout_seconds
        try:
            await self._loop.connect_accepted_socket(
                lambda: Connection(listener, unix=self._unix, direct=tls),
                sock,
                ssl=None if tls is None else tls.context,
                ssl_handshake_timeout=seconds if tls is not None else None,
            )
        except (OSError, ConnectionError) as error:  # ssl.SSLError is an OSError
            pg_connections_refused_total.labels("tls").inc()
            log.info("postgres.tls_failed", reason=getattr(error, "reason", None) or str(error))
            sock.close()
        except asyncio.CancelledError:
            sock.close()
            raise
