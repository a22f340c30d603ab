"""Opening a connection to the PostgreSQL server: address, time-out, TLS with verification.

I/O module. TLS is asked for with SSLRequest; a server that answers anything but `S` is refused,
there is no downgrade. The `mode`s are libpq's sslmode without its opportunistic ones.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from proxy.config.model import Address, PostgresConfig, TlsClient
from proxy.errors import ConfigError, SealgateError
from proxy.postgres.sqlstate import CONNECTION_FAILURE, SQLCLIENT_UNABLE_TO_ESTABLISH
from proxy.postgres.startup import SSL_REQUEST


class UpstreamError(SealgateError):
    """No usable connection to the server."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the server is and how to talk to it. `tls` is None over unix sockets."""

    address: Address
    tls: ssl.SSLContext | None
    server_name: str
    timeout_seconds: float


def upstream_of(config: PostgresConfig) -> Upstream:
    address = config.upstream
    context = None if address.unix else client_context(config.upstream_tls)
    return Upstream(
        address=address,
        tls=context,
        server_name=config.upstream_tls.server_name or address.host,
        timeout_seconds=config.limits.connect_timeout_seconds,
    )


def client_context(tls: TlsClient) -> ssl.SSLContext | None:
    """TLS context of the server leg; None: TLS is disabled by configuration."""
    if tls.mode == "disable":
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"postgres.upstream_tls.ca_file: {error}") from None
    context.check_hostname = tls.mode == "verify-full"
    if tls.mode == "require":
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    return context


async def _socket(upstream: Upstream) -> socket.socket:
    """A connected non-blocking socket, after a positive answer to SSLRequest where TLS is on."""
    loop = asyncio.get_running_loop()
    address = upstream.address
    if address.unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
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
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await loop.sock_connect(sock, where)
            if upstream.tls is not None:
                await loop.sock_sendall(sock, SSL_REQUEST)
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


async def open_upstream(upstream: Upstream, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Connects `protocol()` to the server; raises UpstreamError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(upstream.timeout_seconds):
            sock = await _socket(upstream)
            try:
                if upstream.tls is None:
                    await loop.create_connection(protocol, sock=sock)
                else:
                    await loop.create_connection(
                        protocol,
                        sock=sock,
                        ssl=upstream.tls,
                        server_hostname=upstream.server_name,
                        ssl_handshake_timeout=upstream.timeout_seconds,
                    )
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


class _OneShot(asyncio.Protocol):
    """Sends one packet and waits for the server to hang up."""

    def __init__(self, packet: bytes, done: asyncio.Future[None]) -> None:
        self._packet = packet
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        transport.write(self._packet)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_result(None)


async def send_cancel(upstream: Upstream, packet: bytes) -> None:
    """Forwards a CancelRequest on a connection of its own; returns when the server has read it."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await open_upstream(upstream, lambda: _OneShot(packet, done))
    try:
        async with asyncio.timeout(upstream.timeout_seconds):
            await done
    except TimeoutError:
        raise UpstreamError(CONNECTION_FAILURE, "cancel request was not taken") from None
