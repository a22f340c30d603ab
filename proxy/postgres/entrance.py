"""From the first byte of a client to its session: TLS, who it is, limits, and the way to a server.

I/O module: a dialogue that awaits each of its steps. A client that the proxy authenticates itself
is known before any server is spoken to; one that authenticates with the server is passed on with
its start-up packet. Every refusal is a FATAL with its SQLSTATE.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import structlog

from proxy.audit.process import note
from proxy.errors import SealgateError
from proxy.metrics import pg_authentications_total
from proxy.policy.model import Circumstances, Principal
from proxy.postgres import sqlstate
from proxy.postgres.client_login import ClientLogin, LoginFailed
from proxy.postgres.hosts import Host
from proxy.postgres.messages import AUTHENTICATION, PASSWORD, Malformed, frame
from proxy.postgres.replication import ReplicationSession
from proxy.postgres.server_login import ServerLogin
from proxy.postgres.session import Session
from proxy.postgres.startup import (
    CancelRequest,
    GssEncRequest,
    Negotiation,
    Request,
    SslRequest,
    StartupError,
    StartupMessage,
    StartupReader,
    for_server,
)
from proxy.postgres.tls import (
    ALPN,
    ClientTls,
    NoIdentity,
    channel_binding,
    identity_of,
    may_be,
)

if TYPE_CHECKING:
    from proxy.postgres.connection import Connection

log = structlog.get_logger()


class Refused(SealgateError):
    """The connection ends with this FATAL."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = code


async def enter(connection: Connection) -> Session | None:
    """A session with a server behind it, or None: the connection was for something else.

    Raises Refused, StartupError, LoginFailed, ServerRefused, UpstreamError (each with `sqlstate`),
    and Malformed.
    """
    return await _Entrance(connection).run()


class _Entrance:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._listener = connection.listener
        self._config = self._listener.config
        self._client_tls: ClientTls | None = None

    async def run(self) -> Session | None:
        connection, config = self._connection, self._config
        if connection.tls is not None:
            self._client_tls = connection.direct
            if connection.tls.selected_alpn_protocol() != ALPN:
                raise Refused(
                    sqlstate.PROTOCOL_VIOLATION,
                    "direct TLS without ALPN protocol negotiation of postgresql",
                )
        request = await self._first_request()
        if isinstance(request, CancelRequest):
            connection.silent = True  # a cancel request is never answered
            await self._listener.hosts.cancel(request.packet)
            return None
        assert isinstance(request, StartupMessage)
        in_clear = connection.tls is None and not connection.unix
        if in_clear and config.tls is not None and config.tls.require:
            raise Refused(
                sqlstate.INVALID_AUTHORIZATION, "this listener accepts encrypted connections only"
            )
        identity = self._identity(request)
        self._listener.check_user(request.user)
        connection.user = request.user
        startup, told = for_server(request)
        if config.auth.mode == "passthrough":
            host = await self._open()
            return self._session(startup, told, self._principal(request, identity), host)
        return await self._log_in(request, told, identity)

    # ---- the first packets ---------------------------------------------------------------------
    async def _first_request(self) -> Request:
        """The first packet that is no negotiation; TLS is up if the client asked for it."""
        connection = self._connection
        reader = StartupReader(
            self._config.limits.max_startup_bytes, self._config.replication == "allow"
        )
        while True:
            request = reader.next()
            if request is None:
                while not len(connection.inbox):
                    await connection.inbox.more()
                reader.feed(connection.inbox.take())
            elif isinstance(request, GssEncRequest):
                connection.write(b"N")
            elif isinstance(request, SslRequest):
                if connection.tls is not None:
                    raise StartupError(sqlstate.PROTOCOL_VIOLATION, "SSL request inside TLS")
                await self._secure()
            else:
                connection.inbox.put_back(reader.rest)
                return request

    async def _secure(self) -> None:
        connection, tls = self._connection, self._listener.client_tls
        if tls is None or connection.unix:
            connection.write(b"N")
            return
        if len(connection.inbox):  # would cross from clear into TLS (CVE-2021-23214)
            raise StartupError(
                sqlstate.PROTOCOL_VIOLATION, "received unencrypted data after SSL request"
            )
        self._client_tls = tls
        await connection.start_tls(tls.context)

    # ---- who it is -----------------------------------------------------------------------------
    def _identity(self, request: StartupMessage) -> str | None:
        """The name in the client's certificate, if there is one. Raises Refused."""
        clients = self._config.tls.clients if self._config.tls is not None else None
        tls = self._connection.tls
        if clients is None or self._connection.unix:
            return None
        certificate = tls.getpeercert(True) if tls is not None else None
        if certificate is None:
            if clients.required:
                raise Refused(
                    sqlstate.INVALID_AUTHORIZATION, "connection requires a valid client certificate"
                )
            return None
        try:
            identity = identity_of(certificate, clients.identity)
        except NoIdentity as error:
            raise Refused(sqlstate.INVALID_AUTHORIZATION, str(error)) from None
        if not may_be(clients, identity, request.user):
            log.warning("postgres.certificate_mismatch", identity=identity, user=request.user)
            who = f"postgres:{request.user}"
            note("auth.fail", plane="postgres", principal=who, detail=f"certificate of {identity}")
            raise Refused(
                sqlstate.INVALID_AUTHORIZATION,
                f'certificate authentication failed for user "{request.user}"',
            )
        return identity

    def _principal(self, request: StartupMessage, identity: str | None) -> Principal:
        clients = self._config.tls.clients if self._config.tls is not None else None
        known = Circumstances(self._connection.client_address, identity or "", request.purpose)
        if identity is not None and clients is not None and clients.principal == "certificate":
            return Principal("mtls", identity, known)
        return Principal("postgres", request.user, known)

    # ---- authentication by the proxy -----------------------------------------------------------
    async def _log_in(
        self, request: StartupMessage, told: Negotiation | None, identity: str | None
    ) -> Session:
        connection, users = self._connection, self._listener.users
        if told is not None:
            connection.write(told.message())
        try:
            await self._prove(request.user, identity)
        except (LoginFailed, Malformed):
            pg_authentications_total.labels("failed").inc()
            log.warning("postgres.authentication_failed", user=request.user)
            note("auth.fail", plane="postgres", principal=f"postgres:{request.user}")
            raise
        pg_authentications_total.labels("ok").inc()
        credentials = users.credentials(request.user)
        startup, _ = for_server(request, credentials.user or request.user)
        host = await self._open()
        leg = connection.server
        assert leg is not None and leg.transport is not None
        tls = leg.transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(True) if tls is not None else None
        login = ServerLogin(
            startup.user,
            credentials.password,
            self._config.auth.server_methods,
            private=host.upstream.private,
            binding=None if certificate is None else channel_binding(certificate),
        )
        leg.transport.write(startup.packet)
        loop = asyncio.get_running_loop()
        while not login.done:
            kind, payload = await leg.inbox.message()
            answer = await loop.run_in_executor(None, login.answer, kind, payload)
            if answer:
                leg.transport.write(answer)
        # the client gets the server's AuthenticationOk, and all that follows, from the session
        leg.inbox.put_back(frame(AUTHENTICATION, b"\0\0\0\0"))
        principal = self._principal(request, identity)
        return self._session(startup, None, principal, host, logged_in=True)

    async def _prove(self, user: str, identity: str | None) -> None:
        """Returns when the client is who it says. Raises LoginFailed, Malformed."""
        connection, auth = self._connection, self._config.auth
        users = self._listener.users
        if auth.mode != "scram":
            if identity is not None and users.admits(user):
                return
            if auth.mode == "certificate":
                raise LoginFailed(
                    sqlstate.INVALID_AUTHORIZATION,
                    f'certificate authentication failed for user "{user}"',
                )
        binding = None
        if connection.tls is not None and auth.channel_binding != "disable":
            assert self._client_tls is not None
            binding = self._client_tls.chosen(connection.tls).binding
        login = ClientLogin(user, users.verifiers, binding, auth.channel_binding == "require")
        connection.write(login.offer())
        while not login.done:
            kind, payload = await connection.inbox.message()
            if kind != PASSWORD:
                raise Malformed(f"expected SASL response, got message type {kind}")
            connection.write(login.receive(payload))

    # ---- the server ----------------------------------------------------------------------------
    async def _open(self) -> Host:
        connection = self._connection
        host, _ = await self._listener.hosts.open(connection.new_server_leg)
        connection.host = host
        return host

    def _session(
        self,
        startup: StartupMessage,
        told: Negotiation | None,
        principal: Principal,
        host: Host,
        *,
        logged_in: bool = False,
    ) -> Session:
        client = self._connection.tls
        kind = ReplicationSession if startup.replication else Session
        return kind(
            self._listener.site,
            startup,
            any_tls=client is not None or host.upstream.tls is not None,
            same_certificate=client is not None and self._same_certificate(client),
            principal=principal,
            logged_in=logged_in,
            negotiation=told,
        )

    def _same_certificate(self, client: ssl.SSLObject) -> bool:
        leg = self._connection.server
        assert leg is not None and leg.transport is not None and self._client_tls is not None
        tls = leg.transport.get_extra_info("ssl_object")
        if tls is None:
            return False
        return bool(tls.getpeercert(True) == self._client_tls.chosen(client).certificate)
