"""A connection of the proxy's own to one server: for the catalogue, and to ask what a host is.

I/O module. Same address, TLS and verification as the sessions' connections.
"""

from __future__ import annotations

import os

import asyncpg

from proxy.config.model import PostgresConfig
from proxy.config.secrets import resolve as resolve_secret
from proxy.errors import ConfigError, SealgateError
from proxy.postgres.upstream import Upstream


class ControlError(SealgateError):
    """The server cannot be asked now; the text is for the operator."""


async def connect_control(
    config: PostgresConfig, upstream: Upstream, purpose: str
) -> asyncpg.Connection:
    """As `config.catalog.user`. Raises ControlError."""
    access, address = config.catalog, upstream.address
    host, port = address.host, address.port
    if address.unix:
        host, _, tail = address.unix.rpartition("/.s.PGSQL.")
        port = int(tail) if host and tail.isdigit() else 5432
        host = host or os.path.dirname(address.unix)
    if upstream.tls is not None and upstream.server_name != address.host:
        raise ControlError("postgres.upstream_tls.server_name must be upstream's host name")
    try:
        return await asyncpg.connect(
            host=host,
            port=port,
            user=access.user,
            password=None if access.password is None else resolve_secret(access.password),
            database=config.database,
            ssl=upstream.tls if upstream.tls is not None else False,
            direct_tls=upstream.direct_tls and upstream.tls is not None,
            timeout=upstream.timeout_seconds,
            statement_cache_size=0,
            server_settings={
                "application_name": f"sealgate {purpose}",
                "lock_timeout": "2000",
                # locks of a host that lost its power are free in half a minute, not in hours
                "tcp_keepalives_idle": "10",
                "tcp_keepalives_interval": "5",
                "tcp_keepalives_count": "3",
            },
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise ControlError(f"{type(error).__name__}: {error}") from None
    except ConfigError as error:
        raise ControlError(str(error)) from None
