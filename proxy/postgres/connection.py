"""One client connection and its server connection: sockets around the sans-I/O session.

I/O module. Two thin protocol classes per connection; all decisions are in `startup.py` and
`session.py`. One write per batch of messages. Back-pressure: a side is not read while the other
side's write buffer is above its high-water mark, or while the session waits for something, so
memory per connection is bounded. A uvloop transport may deliver bytes right after
`pause_reading` (facts: performance.md C 3); bytes that come early are kept, never dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, cast

import structlog

from proxy.errors import SealgateError
from proxy.metrics import pg_client_connections
from proxy.native import WireError
from proxy.postgres import sqlstate
from proxy.postgres.messages import Malformed, error_response
from proxy.postgres.session import Session
from proxy.postgres.startup import (
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupError,
    StartupMessage,
    StartupReader,
)
from proxy.postgres.upstream import UpstreamError, open_upstream, send_cancel

if TYPE_CHECKING:
    from proxy.postgres.listener import PostgresListener

log = structlog.get_logger()

HIGH_WATER_BYTES = 256 * 1024
PAUSED_BUFFER_BYTES = 256 * 1024  # client bytes kept while the session waits


class ServerLeg(asyncio.Protocol):
    """The connection to PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._connection.from_server(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.server_lost(exc)

    def pause_writing(self) -> None:
        self._connection.server_writable = False
        self._connection.adjust_reading()

    def resume_writing(self) -> None:
        self._connection.server_writable = True
        self._connection.adjust_reading()


class Connection(asyncio.Protocol):
    """The connection from a client, and the owner of the pair."""

    def __init__(self, listener: PostgresListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._startup: StartupReader | None = StartupReader(
            listener.config.limits.max_startup_bytes
        )
        self.transport: asyncio.Transport | None = None
        self.server: ServerLeg | None = None
        self.session: Session | None = None
        self._early: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tls = False
        self._closing = False
        self._client_reading = True
        self._server_reading = True
        self.client_writable = True
        self.server_writable = True

    # ---- client transport ----------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._timer is None:  # not again after start_tls
            _no_delay(transport)
            self._listener.connections.add(self)
            pg_client_connections.inc()
            self._timer = self._loop.call_later(
                self._listener.config.limits.startup_timeout_seconds, self._startup_timeout
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self.server is not None and self.server.transport is not None:
            self.server.transport.close()
        if self.session is not None:
            self.session.close()
        self._listener.connections.discard(self)
        pg_client_connections.dec()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.client_writable = False
        self.adjust_reading()

    def resume_writing(self) -> None:
        self.client_writable = True
        self.adjust_reading()

    def data_received(self, data: bytes) -> None:
        session = self.session
        if session is None:
            self._early_bytes(data)
            return
        try:
            session.receive_client(data)
        except (WireError, Malformed, SealgateError) as error:
            self._protocol_error(error)
            return
        except Exception as error:
            self._broken(error)
            return
        self._pump()

    # ---- start-up ------------------------------------------------------------------------------
    def _early_bytes(self, data: bytes) -> None:
        if self._closing:
            return
        if self._startup is None or self._task is not None:
            self._early.append(data)
            if sum(map(len, self._early)) > PAUSED_BUFFER_BYTES:
                self._fatal(sqlstate.PROTOCOL_VIOLATION, "too many bytes before authentication")
            return
        self._startup.feed(data)
        self._continue_startup()

    def _continue_startup(self) -> None:
        assert self._startup is not None and self.transport is not None
        try:
            request = self._startup.next()
            if request is None:
                return
            if isinstance(request, StartupMessage) and not self._tls:
                tls = self._listener.config.tls
                if tls is not None and tls.require:
                    raise StartupError("28000", "this listener accepts encrypted connections only")
            if isinstance(request, SslRequest) and self._tls:
                raise StartupError(sqlstate.PROTOCOL_VIOLATION, "SSL request inside TLS")
        except StartupError as error:
            self._fatal(error.sqlstate, str(error))
            return
        if isinstance(request, GssEncRequest):
            self.transport.write(b"N")
        elif isinstance(request, SslRequest):
            if self._listener.client_tls is None:
                self.transport.write(b"N")
            else:
                self._start(self._secure(self._listener.client_tls))
        elif isinstance(request, CancelRequest):
            self._start(self._cancel(request))
        else:
            self._start(self._open(request, self._startup.rest))
            self._startup = None

    def _start(self, work: object) -> None:
        self._task = self._loop.create_task(cast("asyncio.Future[None]", work))  # type: ignore[arg-type]

    async def _secure(self, context: ssl.SSLContext) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        self.transport.write(b"S")
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._listener.config.limits.startup_timeout_seconds,
            )
        except (OSError, ssl.SSLError, ConnectionError):
            self._task = None
            self._abort()
            return
        if transport is None:
            self._abort()
            return
        self.transport = transport
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self._tls = True
        self._task = None
        early, self._early = self._early, []
        for data in early:
            self._early_bytes(data)

    async def _cancel(self, request: CancelRequest) -> None:
        with contextlib.suppress(UpstreamError, OSError):
            await send_cancel(self._listener.upstream, request.packet)
        self._abort(quietly=True)

    async def _open(self, startup: StartupMessage, rest: bytes) -> None:
        leg = ServerLeg(self)
        upstream = self._listener.upstream
        try:
            await open_upstream(upstream, lambda: leg)
        except UpstreamError as error:
            self._task = None
            self._fatal(error.sqlstate, str(error))
            return
        if self._closing:
            assert leg.transport is not None
            leg.transport.close()
            return
        self.server = leg
        self.session = Session(
            self._listener.site,
            startup,
            any_tls=self._tls or upstream.tls is not None,
            same_certificate=self._tls and self._same_certificate(leg),
        )
        self._task = None
        early, self._early = [rest, *self._early], []
        try:
            self.session.receive_client(b"".join(early))
        except (WireError, Malformed, SealgateError) as error:
            self._protocol_error(error)
            return
        except Exception as error:
            self._broken(error)
            return
        self._pump()

    def _same_certificate(self, leg: ServerLeg) -> bool:
        assert leg.transport is not None
        tls = leg.transport.get_extra_info("ssl_object")
        return tls is not None and tls.getpeercert(True) == self._listener.certificate

    def _startup_timeout(self) -> None:
        if self.session is None or self.session.authenticating:
            self._fatal("08P01", "connection start-up took too long")

    # ---- the pair at work ----------------------------------------------------------------------
    def from_server(self, data: bytes) -> None:
        session = self.session
        if session is None or self._closing:
            return
        try:
            session.receive_server(data)
        except (WireError, Malformed, SealgateError) as error:
            self._protocol_error(error)
            return
        except Exception as error:
            self._broken(error)
            return
        self._pump()

    def _pump(self) -> None:
        """Writes what the session has for both sides and starts what it waits for."""
        session = self.session
        assert session is not None and self.transport is not None
        if self._closing:
            return
        out = session.data_to_server()
        if out and self.server is not None and self.server.transport is not None:
            self.server.transport.write(out)
        out = session.data_to_client()
        if out:
            self.transport.write(out)
        if session.hang_up:
            self._abort(quietly=True)
        elif session.pending() is not None or session.waiting:
            self._wait()
        elif not self._client_reading or not self._server_reading:
            self.adjust_reading()

    def _wait(self) -> None:
        assert self.session is not None
        need = self.session.pending()
        if need is not None and self._task is None:
            self._start(self._fulfil())
        self.adjust_reading()

    async def _fulfil(self) -> None:
        session = self.session
        assert session is not None
        try:
            while (need := session.pending()) is not None:
                try:
                    result: object = await self._listener.site.fulfil(need)
                except SealgateError as error:
                    result = error
                session.resolve(need, result)
        except (WireError, Malformed, SealgateError) as error:
            self._task = None
            self._protocol_error(error)
            return
        except Exception as error:
            self._task = None
            self._broken(error)
            return
        self._task = None
        self._pump()

    def adjust_reading(self) -> None:
        """Reads a side only while what it sends can go somewhere."""
        if self._closing or self.transport is None:
            return
        session = self.session
        full = session is not None and session.client_buffered > PAUSED_BUFFER_BYTES
        want = self.server_writable and not (full and session is not None and session.waiting)
        if want != self._client_reading:
            self._client_reading = want
            (self.transport.resume_reading if want else self.transport.pause_reading)()
        leg = self.server.transport if self.server is not None else None
        want = self.client_writable and not (session is not None and session.rows_waiting)
        if leg is not None and want != self._server_reading:
            self._server_reading = want
            (leg.resume_reading if want else leg.pause_reading)()

    def server_lost(self, exc: Exception | None) -> None:
        if self._closing or self.transport is None:
            return
        if self.session is not None and not self.session.finished:
            self._fatal(
                sqlstate.CRASH_SHUTDOWN,
                "the connection to the PostgreSQL server was lost",
            )
        else:
            self._abort(quietly=True)

    # ---- endings -------------------------------------------------------------------------------
    def _protocol_error(self, error: Exception) -> None:
        side = getattr(error, "side", "client")
        log.warning("postgres.protocol_error", side=side, reason=str(error))
        if side == "server":
            self._fatal(sqlstate.CONNECTION_FAILURE, "the server broke the protocol")
        else:
            self._fatal(sqlstate.PROTOCOL_VIOLATION, str(error))

    def _broken(self, error: Exception) -> None:
        """An invariant of ours does not hold: this connection ends, and never hangs.

        Only the place is logged: a traceback's variables could hold a client's values.
        """
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else ""
        log.error("postgres.session_failed", error=type(error).__name__, where=where)
        self._fatal(sqlstate.INTERNAL_ERROR, "internal error in the proxy")

    def _fatal(self, code: str, message: str) -> None:
        if self.transport is not None and not self._closing:
            self.transport.write(error_response(code, message, severity="FATAL"))
        self._abort(quietly=True)

    def _abort(self, quietly: bool = False) -> None:
        self._closing = True
        if self.server is not None and self.server.transport is not None:
            self.server.transport.close()
        if self.transport is not None:
            self.transport.close() if quietly else self.transport.abort()

    def shut_down(self) -> None:
        """Ends an idle or busy connection as PostgreSQL's own fast shutdown does."""
        self._fatal(sqlstate.ADMIN_SHUTDOWN, "terminating connection: the proxy is shutting down")

    @property
    def idle(self) -> bool:
        return self.session is None or self.session.idle


def _no_delay(transport: asyncio.BaseTransport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
