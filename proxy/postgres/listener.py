"""Accepts PostgreSQL clients: the listening socket, its connections, and how they end.

I/O module. What the connections share is in `site.py`; one connection is `connection.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

from proxy.config.model import PostgresConfig, TlsServer
from proxy.errors import ConfigError
from proxy.postgres.connection import Connection
from proxy.postgres.site import Site
from proxy.postgres.upstream import upstream_of

if TYPE_CHECKING:
    from proxy.keys.service import KeyService

BACKLOG = 1024
_PEM_BEGIN, _PEM_END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class PostgresListener:
    """One listening address (`config.listen`, or the socket handed in) of one worker."""

    def __init__(
        self, config: PostgresConfig, keys: KeyService, *, sock: socket.socket | None = None
    ) -> None:
        self.config = config
        self.upstream = upstream_of(config)
        self.client_tls = None if config.tls is None else server_context(config.tls)
        self.certificate = None if config.tls is None else leaf_certificate(config.tls)
        self.site = Site(config, keys, self.upstream)
        self.connections: set[Connection] = set()
        self._sock = sock
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Reads the catalogue once, then accepts."""
        await self.site.start()
        loop = asyncio.get_running_loop()

        def accept() -> Connection:
            return Connection(self)

        address = self.config.listen
        if self._sock is not None and self._sock.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(accept, sock=self._sock, backlog=BACKLOG)
        elif self._sock is not None:
            self._server = await loop.create_server(accept, sock=self._sock, backlog=BACKLOG)
        elif address.unix:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address.unix)
            self._server = await loop.create_unix_server(accept, address.unix, backlog=BACKLOG)
        else:
            self._server = await loop.create_server(
                accept, address.host, address.port, backlog=BACKLOG, reuse_port=True
            )

    @property
    def address(self) -> tuple[str, int] | str:
        """Where clients reach it: (host, port), or the path of a unix socket."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return name if isinstance(name, str) else (name[0], name[1])

    def stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()

    async def drain(self, seconds: float) -> None:
        """Stops accepting, ends connections as they fall idle, the rest after `seconds`."""
        self.stop_accepting()
        deadline = asyncio.get_running_loop().time() + seconds
        while self.connections:
            late = asyncio.get_running_loop().time() >= deadline
            for connection in list(self.connections):
                if late or connection.idle:
                    connection.shut_down()
            if late:
                break
            await asyncio.sleep(0.02)
        await asyncio.sleep(0)
        await self.site.close()


def server_context(tls: TlsServer) -> ssl.SSLContext:
    """TLS towards clients; raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"postgres.tls: {error}") from None
    return context


def leaf_certificate(tls: TlsServer) -> bytes:
    """DER of the certificate that clients see; raises ConfigError."""
    try:
        with open(tls.cert_file, encoding="ascii") as file:
            text = file.read()
        end = text.index(_PEM_END) + len(_PEM_END)
        return ssl.PEM_cert_to_DER_cert(text[text.index(_PEM_BEGIN) : end])
    except (OSError, ValueError) as error:
        raise ConfigError(f"postgres.tls.cert_file: {error}") from None
