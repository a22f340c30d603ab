"""Opening a connection to one PostgreSQL server: address, time-out, TLS with verification.

I/O module. TLS is asked for with SSLRequest, or begun directly; a server that answers anything but
`S`, or does not agree on the protocol, is refused: there is no downgrade. Which of several servers
is taken is `hosts.py`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from proxy.config.model import Address, Keepalive
from proxy.errors import SealgateError
from proxy.postgres.sqlstate import CONNECTION_FAILURE, SQLCLIENT_UNABLE_TO_ESTABLISH
from proxy.postgres.startup import SSL_REQUEST
from proxy.postgres.tls import ALPN


class UpstreamError(SealgateError):
    """No usable connection to the server."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a server is and how to talk to it. `tls` is None over unix sockets."""

    address: Address
    tls: ssl.SSLContext | None
    server_name: str
    timeout_seconds: float
    direct_tls: bool = False
    keepalive: Keepalive = Keepalive()

    @property
    def private(self) -> bool:
        """Nobody in between can read, and the peer is who it should be."""
        if self.tls is None:
            return bool(self.address.unix)
        return self.tls.verify_mode == ssl.CERT_REQUIRED


def set_keepalive(sock: socket.socket, keepalive: Keepalive) -> None:
    """Small packets go at once; a peer that is gone is found out (TCP only)."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive.idle_seconds == 0:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", keepalive.idle_seconds),
        ("TCP_KEEPINTVL", keepalive.interval_seconds),
        ("TCP_KEEPCNT", keepalive.count),
        ("TCP_USER_TIMEOUT", keepalive.user_timeout_seconds * 1000),
    ):
        if value and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _socket(upstream: Upstream) -> socket.socket:
    """A connected non-blocking socket, after a positive answer to SSLRequest where that is asked."""
    loop = asyncio.get_running_loop()
    address = upstream.address
    if address.unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address.unix)
        except BaseException:
            sock.close()
            raise
        return sock
    last: OSError = OSError("no address")
    for family, kind, proto, _, where in await loop.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            set_keepalive(sock, upstream.keepalive)
            await loop.sock_connect(sock, where)
            if upstream.tls is not None and not upstream.direct_tls:
                await loop.sock_sendall(sock, SSL_REQUEST)
                # one byte and no more: what came behind it in clear would be taken for TLS
                if await loop.sock_recv(sock, 1) != b"S":
                    raise UpstreamError(
                        SQLCLIENT_UNABLE_TO_ESTABLISH, "the PostgreSQL server does not offer TLS"
                    )
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise last


async def open_upstream(
    upstream: Upstream, protocol: Callable[[], asyncio.Protocol]
) -> asyncio.Transport:
    """Connects `protocol()` to the server; raises UpstreamError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(upstream.timeout_seconds):
            sock = await _socket(upstream)
            try:
                if upstream.tls is None:
                    transport, _ = await loop.create_connection(protocol, sock=sock)
                else:
                    transport, _ = await loop.create_connection(
                        protocol,
                        sock=sock,
                        ssl=upstream.tls,
                        server_hostname=upstream.server_name,
                        ssl_handshake_timeout=upstream.timeout_seconds,
                    )
            except ConnectionError:  # in the handshake: uvloop gives no reason
                sock.close()
                raise UpstreamError(
                    SQLCLIENT_UNABLE_TO_ESTABLISH, "the PostgreSQL server broke TLS off"
                ) from None
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        raise UpstreamError(
            SQLCLIENT_UNABLE_TO_ESTABLISH, "connecting to the PostgreSQL server took too long"
        ) from None
    except ssl.SSLCertVerificationError as error:
        raise UpstreamError(
            SQLCLIENT_UNABLE_TO_ESTABLISH,
            f"the PostgreSQL server's certificate is not valid: {error.verify_message}",
        ) from None
    except ssl.SSLError:
        raise UpstreamError(
            SQLCLIENT_UNABLE_TO_ESTABLISH, "TLS with the PostgreSQL server failed"
        ) from None
    except OSError as error:
        raise UpstreamError(
            SQLCLIENT_UNABLE_TO_ESTABLISH,
            f"could not connect to the PostgreSQL server: {error.strerror or 'unreachable'}",
        ) from None
    if upstream.direct_tls and upstream.tls is not None:
        tls = transport.get_extra_info("ssl_object")
        if tls.selected_alpn_protocol() != ALPN:
            transport.abort()
            raise UpstreamError(
                SQLCLIENT_UNABLE_TO_ESTABLISH, "the server did not agree on PostgreSQL within TLS"
            )
    return transport


class _OneShot(asyncio.Protocol):
    """Sends one packet and waits for the server to hang up."""

    def __init__(self, packet: bytes, done: asyncio.Future[None]) -> None:
        self._packet = packet
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.WriteTransport, transport).write(self._packet)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def send_cancel(upstream: Upstream, packet: bytes) -> None:
    """Forwards a CancelRequest on a connection of its own; returns when the server has read it."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    transport = await open_upstream(upstream, lambda: _OneShot(packet, done))
    try:
        async with asyncio.timeout(upstream.timeout_seconds):
            await done
    except TimeoutError:
        raise UpstreamError(CONNECTION_FAILURE, "cancel request was not taken") from None
    finally:
        transport.close()
