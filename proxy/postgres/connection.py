"""One client connection and its server connection: sockets around the sans-I/O session.

I/O module. Two thin protocol classes per connection (the other is in `server_leg.py`); what comes
before the session is `entrance.py`, all decisions of the session are in `session.py`. One write
per batch of messages.
Back-pressure: a side is not read while the other side's write buffer is above its high-water mark,
or while the session waits for something, so memory per connection is bounded. A uvloop transport
may deliver bytes right after `pause_reading` (facts: performance.md C 3); bytes that come early are
kept, never dropped.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, cast

import structlog

from proxy.errors import SealgateError
from proxy.metrics import pg_client_connections, pg_connections_refused_total
from proxy.native import Relay, WireError, relay_end
from proxy.policy.model import LOCAL
from proxy.postgres import sqlstate
from proxy.postgres.entrance import enter
from proxy.postgres.inbox import Inbox
from proxy.postgres.messages import Malformed, error_response
from proxy.postgres.server_leg import HIGH_WATER_BYTES, ServerLeg
from proxy.postgres.session import Session
from proxy.postgres.startup import NoPacket
from proxy.postgres.timeouts import CANCEL, Timeouts
from proxy.postgres.upstream import UpstreamError

if TYPE_CHECKING:
    from proxy.config.model import PostgresLimits
    from proxy.postgres.hosts import Host
    from proxy.postgres.listener import PostgresListener
    from proxy.postgres.tls import ClientTls

log = structlog.get_logger()

PAUSED_BUFFER_BYTES = 256 * 1024  # client bytes kept while the session waits
LINGER_SECONDS = 10.0  # for a client to read how its connection ended
FROM_CLIENT, TO_CLIENT, FROM_SERVER = range(3)  # places in `PostgresListener.traffic`


def _socket(transport: asyncio.Transport) -> int:
    """The file descriptor below, or -1 where TLS lies between or the transport is closed."""
    below = transport.get_extra_info("socket")
    if below is None or transport.get_extra_info("ssl_object") is not None:
        return -1
    return int(below.fileno())


class Connection(asyncio.Protocol):
    """The connection from a client, and the owner of the pair."""

    def __init__(
        self, listener: PostgresListener, *, unix: bool = False, direct: ClientTls | None = None
    ) -> None:
        self.listener = listener
        self.unix = unix
        self.inbox = Inbox()
        self.tls: ssl.SSLObject | None = None
        self.transport: asyncio.Transport | None = None
        self.server: ServerLeg | None = None
        self.host: Host | None = None
        self.session: Session | None = None
        self.user: str | None = None  # as it says; `counted` once that is proved
        self.counted = False
        self._asked = False
        self.arriving = True  # not authenticated yet
        self.silent = False  # nothing is to be said to the client, not even why it ends
        self.timeouts = Timeouts(listener.config.limits)
        self.direct = direct  # TLS was there before the first packet
        self._loop = asyncio.get_running_loop()
        self._traffic = listener.traffic
        self._relay: Relay | None = None  # both legs, once there is a session
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._client_reading = True
        self._server_reading = True
        self.client_writable = True
        self.server_writable = True

    @property
    def client_address(self) -> str:
        """IP address of whoever connected, "local" on a Unix socket."""
        if self.unix:
            return LOCAL
        peer = self.transport.get_extra_info("peername") if self.transport is not None else None
        return str(peer[0]) if peer else ""

    # ---- client transport ----------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        if self._timer is not None:  # start_tls
            return
        if self.direct is not None:
            self.tls = transport.get_extra_info("ssl_object")
        self.listener.add(self)
        pg_client_connections.inc()
        self._timer = self._loop.call_later(
            self.listener.config.limits.startup_timeout_seconds, self._startup_timeout
        )
        self._task = self._loop.create_task(self._enter())

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        if self not in self.listener.connections:  # told already: see start_tls
            return
        if self._timer is not None:
            self._timer.cancel()
        self._cancel_task()
        if self.server is not None and self.server.transport is not None:
            self.server.transport.close()
        if self.session is not None:
            self.session.close()
        self.listener.remove(self)
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
        """Before there is a session: then the relay takes over."""
        self._traffic.add(FROM_CLIENT, len(data))
        self.inbox.feed(data)
        if self.inbox.full and self.transport is not None and self._client_reading:
            self._client_reading = False
            self.transport.pause_reading()

    # ---- start-up ------------------------------------------------------------------------------
    async def _enter(self) -> None:
        """Runs the entrance to its end, then puts its session to work."""
        try:
            session = await enter(self)
        except Exception as error:
            self._task = None
            self._not_entered(error)
            return
        self._task = None
        if session is None or self._closing:
            self.abort(quietly=True)
        else:
            self._begin(session)

    def _not_entered(self, error: Exception) -> None:
        code = getattr(error, "sqlstate", None)
        if isinstance(error, Malformed):
            code = sqlstate.PROTOCOL_VIOLATION
        if isinstance(error, NoPacket):
            pg_connections_refused_total.labels("startup").inc()
            self.abort(quietly=True)
        elif isinstance(error, SealgateError) and code is not None:
            pg_connections_refused_total.labels("startup").inc()
            self.fatal(code, str(error))
        elif isinstance(error, OSError):  # TLS with the client, or the client itself, is gone
            pg_connections_refused_total.labels("tls").inc()
            self.abort()
        else:
            self.broken(error)

    def _begin(self, session: Session) -> None:
        leg, client = self.server, self.transport
        assert leg is not None and leg.transport is not None and client is not None
        self.session = session
        server = leg.transport
        relay = self._relay = Relay(
            self, session.wire, self._traffic, client, _socket(client), server, _socket(server)
        )
        relay.timed = self.timeouts.enabled
        for transport, protocol, reading in (
            (client, self, self._client_reading),
            (server, leg, self._server_reading),
        ):
            transport.pause_reading()  # it goes on into the relay's buffer
            transport.set_protocol(relay_end(relay, protocol is leg, protocol))
            if reading:
                transport.resume_reading()
        try:
            session.receive_server(leg.inbox.take())
            if not leg.inbox.failed:
                session.receive_client(self.inbox.take())
        except Exception as error:
            self.broken(error)
            return
        self._pump()
        if leg.inbox.failed:  # it left while something else was waited for
            self.server_lost(leg)
        self.adjust_reading()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Answers an SSLRequest with `S`, then does the handshake. Raises OSError."""
        assert self.transport is not None
        self.transport.pause_reading()
        self.transport.write(b"S")
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self.listener.config.limits.startup_timeout_seconds,
            )
            if transport is None:
                raise ConnectionError("closed during the handshake")
        except BaseException:
            # until the handshake is done the socket's end is told to the TLS layer alone
            self.transport.abort()
            self.connection_lost(None)
            raise
        self.transport = transport
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.tls = transport.get_extra_info("ssl_object")

    def write(self, data: bytes) -> None:
        """To the client, before there is a session."""
        assert self.transport is not None
        self._traffic.add(TO_CLIENT, len(data))
        self.transport.write(data)

    def new_server_leg(self) -> ServerLeg:
        """Takes the place of one that could not be connected."""
        self.server = ServerLeg(self)
        return self.server

    def _startup_timeout(self) -> None:
        if self.arriving:
            pg_connections_refused_total.labels("slow").inc()
            self.fatal(sqlstate.PROTOCOL_VIOLATION, "connection start-up took too long")

    def early_from_server(self, leg: ServerLeg, data: bytes) -> None:
        """Before there is a session."""
        self._traffic.add(FROM_SERVER, len(data))
        leg.inbox.feed(data)

    # ---- the pair at work: called by the relay ---------------------------------------------------
    def from_client(self, event: tuple[int, Any, None] | None) -> None:
        """The client has sent something that needs a look; it is in the Wire."""
        session = self.session
        if session is None or self._closing:
            return
        try:
            session.client_fed(event)
        except Exception as error:
            self.broken(error)
            return
        self._asked = session.ready
        self._pump()
        if self.timeouts.enabled:
            self.client_timed(session.wire.expected)

    def from_server(self, event: tuple[int, Any, Any] | None) -> None:
        """The server has sent something that needs a look; it is in the Wire."""
        session = self.session
        if session is None or self._closing:
            return
        try:
            session.server_fed(event)
        except Exception as error:
            self.broken(error)
            return
        if self.arriving and session.ready and not self.listener.arrived(self):
            self.fatal(
                sqlstate.TOO_MANY_CONNECTIONS, f'too many connections for role "{self.user}"'
            )
            return
        self._pump()
        if self.timeouts.enabled:
            self.server_timed(session.wire.expected)

    def client_timed(self, expected: int) -> None:
        self.timeouts.client_sent(expected, self._loop.time())

    def server_timed(self, expected: int) -> None:
        self.timeouts.server_sent(expected)

    @property
    def asked(self) -> bool:
        """The client has sent something since there is a session."""
        return self._asked or (self._relay is not None and self._relay.asked)

    def _pump(self) -> None:
        """Writes what the session has for both sides and starts what it waits for."""
        session, relay = self.session, self._relay
        assert session is not None and relay is not None
        if self._closing:
            return
        relay.quick = False
        try:
            relay.flush()
        except Exception as error:  # a transport that is closed may refuse
            self.broken(error)
            return
        if session.hang_up:
            self.abort(quietly=True)
        elif not session.at_rest:
            self._wait()
        elif not self._client_reading or not self._server_reading:
            self.adjust_reading()
        self._settle()

    def _settle(self) -> None:
        """The relay may go on by itself where nothing is waited for and both sides are read."""
        session, relay = self.session, self._relay
        if session is None or relay is None:
            return
        relay.quick = (
            not self._closing
            and not self.arriving
            and session.ready
            and session.at_rest
            and self._client_reading
            and self._server_reading
        )
        if relay.quick:
            session.look_out()

    def reload(self, limits: PostgresLimits) -> None:
        """Other time-outs hold from here on."""
        self.timeouts.set(limits)
        if self._relay is not None:
            self._relay.timed = self.timeouts.enabled

    def _wait(self) -> None:
        assert self.session is not None
        need = self.session.pending()
        if need is not None and self._task is None:
            self._task = self._loop.create_task(self._fulfil())
        self.adjust_reading()

    async def _fulfil(self) -> None:
        session = self.session
        assert session is not None
        try:
            while (need := session.pending()) is not None:
                try:
                    result: object = await self.listener.site.fulfil(need)
                except SealgateError as error:
                    result = error
                session.resolve(need, result)
        except Exception as error:
            self._task = None
            self.broken(error)
            return
        self._task = None
        self._pump()

    def adjust_reading(self) -> None:
        """Reads a side only while what it sends can go somewhere."""
        if self._closing or self.transport is None:
            return
        session = self.session
        if session is None:
            return
        full = session.client_buffered > PAUSED_BUFFER_BYTES
        want = self.server_writable and not (full and session.waiting)
        if want != self._client_reading:
            self._client_reading = want
            (self.transport.resume_reading if want else self.transport.pause_reading)()
        leg = self.server.transport if self.server is not None else None
        want = self.client_writable and not session.rows_waiting
        if leg is not None and want != self._server_reading:
            self._server_reading = want
            (leg.resume_reading if want else leg.pause_reading)()
        self._settle()

    def server_lost(self, leg: ServerLeg) -> None:
        if leg is not self.server or self._closing or self.transport is None:
            return
        lost = "the connection to the PostgreSQL server was lost"
        if self.session is None:
            leg.inbox.fail(UpstreamError(sqlstate.CONNECTION_FAILURE, lost))
        elif self.session.finished:
            self.abort(quietly=True)
        else:
            self.fatal(sqlstate.CRASH_SHUTDOWN, lost)

    # ---- endings -------------------------------------------------------------------------------
    def _protocol_error(self, error: Exception) -> None:
        side = getattr(error, "side", "client")
        log.warning("postgres.protocol_error", side=side, reason=str(error))
        if side == "server":
            self.fatal(sqlstate.CONNECTION_FAILURE, "the server broke the protocol")
        else:
            self.fatal(sqlstate.PROTOCOL_VIOLATION, str(error))

    def broken(self, error: Exception) -> None:
        """The connection ends, and never hangs: a side broke the protocol, or an invariant of ours
        does not hold. Of that only the place is logged: a traceback's variables could hold a
        client's values."""
        if isinstance(error, WireError | Malformed | SealgateError):
            self._protocol_error(error)
            return
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        where = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at is not None else ""
        log.error("postgres.session_failed", error=type(error).__name__, where=where)
        self.fatal(sqlstate.INTERNAL_ERROR, "internal error in the proxy")

    def fatal(self, code: str, message: str) -> None:
        """Ends both sides; the client is told, unless that would fall into a half-sent message."""
        silent = self.silent or (self.session is not None and self.session.wire.mid_message)
        if self.transport is not None and not self._closing and not silent:
            self.listener.count_error(code)
            self.write(error_response(code, message, severity="FATAL"))
        self.abort(quietly=True)

    def _stop(self) -> None:
        """The transports are being closed: their sockets are not ours any more."""
        self._closing = True
        if self._relay is not None:
            self._relay.stop()

    def _cancel_task(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def abort(self, quietly: bool = False) -> None:
        self._stop()
        self._cancel_task()
        if self.server is not None and self.server.transport is not None:
            self.server.transport.close()
        if self.transport is None:
            return
        if not quietly:
            self.transport.abort()
            return
        self.transport.close()
        if self in self.listener.connections and self.transport.get_write_buffer_size():
            # closed when it is read, which a client may put off for ever
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(LINGER_SECONDS, self.transport.abort)

    def shut_down(self) -> None:
        """Ends an idle or busy connection as PostgreSQL's own fast shutdown does."""
        self.fatal(sqlstate.ADMIN_SHUTDOWN, "terminating connection: the proxy is shutting down")

    @property
    def idle(self) -> bool:
        return self.session is None or self.session.idle

    def sweep(self, now: float) -> None:
        """Called by the listener about once a second: applies the time-outs."""
        session = self.session
        if session is None or not session.ready or self._closing:
            return
        due = self.timeouts.due(session.wire.expected, session.wire.status, now)
        if due is None:
            return
        if due == CANCEL:
            if session.cancel_key and self.host is not None:
                self.listener.cancel(self.host, session.cancel_key)
            return
        self.fatal(due, self.timeouts.text(due))
