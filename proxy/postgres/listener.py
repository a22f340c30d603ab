"""Accepts PostgreSQL clients: the listening sockets, their connections, and how they end.

I/O module. What the connections share is in `site.py`; one connection is `connection.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING

from proxy import native
from proxy.config.model import PostgresConfig
from proxy.metrics import pg_bytes_total, pg_errors_total
from proxy.postgres import sqlstate
from proxy.postgres.addresses import bound
from proxy.postgres.connection import Connection
from proxy.postgres.entrance import Refused
from proxy.postgres.gate import Gate
from proxy.postgres.hosts import Host, Hosts
from proxy.postgres.site import Site
from proxy.postgres.startup import cancel_packet
from proxy.postgres.tls import ClientTls
from proxy.postgres.upstream import UpstreamError, send_cancel
from proxy.postgres.users import Users

if TYPE_CHECKING:
    from proxy.keys.service import KeyService

BACKLOG = 1024
_TICK_SECONDS = 1.0
_FIRST_ASK_SECONDS = 0.4  # while draining, for who has just come
_BYTES = (
    pg_bytes_total.labels("client", "in"),
    pg_bytes_total.labels("client", "out"),
    pg_bytes_total.labels("server", "in"),
    pg_bytes_total.labels("server", "out"),
)


class PostgresListener:
    """The listening addresses (`config.listen`, or the sockets handed in) of one worker."""

    def __init__(
        self, config: PostgresConfig, keys: KeyService, *, socks: Sequence[socket.socket] = ()
    ) -> None:
        self.config = config
        self.hosts = Hosts(config)
        self.client_tls = None if config.tls is None else ClientTls(config.tls)
        self.users = Users(config.auth)
        self.site = Site(config, keys, self.hosts)
        self.connections: set[Connection] = set()
        self.traffic = native.Traffic()  # since the last tick
        self._errors: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()
        self._arriving = 0
        self._socks = socks
        self._gates: list[Gate] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Reads the catalogue once, then accepts. Raises ConfigError."""
        await self.site.start()
        for sock in self._socks or [bound(address) for address in self.config.listen]:
            gate = Gate(self, sock)
            self._gates.append(gate)
            gate.start(BACKLOG)
        self._tick()

    async def reload(self, config: PostgresConfig) -> None:
        """Takes over what may change under open connections. ConfigError: then nothing has changed.

        Connections keep their TLS and their server; limits and time-outs hold for them, too.
        """
        hosts = Hosts(config)
        client_tls = None if config.tls is None else ClientTls(config.tls)
        users = await asyncio.to_thread(Users, config.auth)
        old = self.hosts
        self.config, self.hosts, self.client_tls, self.users = config, hosts, client_tls, users
        self.site.reload(config, hosts)
        for connection in self.connections:
            connection.reload(config.limits)
        if self._ticker is not None:
            self._ticker.cancel()
        self._tick()
        # whoever is on the way to a server through the old ones gets there first
        loop = asyncio.get_running_loop()
        loop.call_later(
            2 * config.limits.connect_timeout_seconds,
            lambda: self._background(old.close()),
        )

    @property
    def addresses(self) -> list[tuple[str, int] | str]:
        """Where clients reach it: (host, port), or the path of a unix socket."""
        names = [gate.sock.getsockname() for gate in self._gates]
        return [name if isinstance(name, str) else (name[0], name[1]) for name in names]

    @property
    def address(self) -> tuple[str, int] | str:
        """The first of them."""
        return self.addresses[0]

    def health(self) -> dict[str, object]:
        return {"connections": len(self.connections), "hosts": self.hosts.health()}

    # ---- connections come and go ---------------------------------------------------------------
    @property
    def full(self) -> bool:
        """No further connection is taken now."""
        limits = self.config.limits
        arriving = sum(gate.arriving for gate in self._gates)
        if limits.max_connections and len(self.connections) + arriving >= limits.max_connections:
            return True
        return self._arriving + arriving >= limits.max_unauthenticated

    def add(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._arriving += 1

    def arrived(self, connection: Connection) -> bool:
        """It is authenticated. False: its user has as many connections as it may have.

        Only now does it count for its user: who merely claims a name takes nobody's place.
        """
        connection.arriving = False
        self._arriving -= 1
        if connection.user is None or self._full_for(connection.user):
            return connection.user is None
        connection.counted = True
        self._by_user[connection.user] += 1
        return True

    def remove(self, connection: Connection) -> None:
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        if connection.arriving:
            self._arriving -= 1
        if connection.counted and connection.user is not None:
            self._by_user[connection.user] -= 1
            if not self._by_user[connection.user]:
                del self._by_user[connection.user]

    def _full_for(self, user: str) -> bool:
        limit = self.config.limits.max_connections_per_user
        return bool(limit) and self._by_user[user] >= limit

    def check_user(self, user: str) -> None:
        """Raises Refused when this user has as many connections as it may have."""
        if self._full_for(user):
            raise Refused(sqlstate.TOO_MANY_CONNECTIONS, f'too many connections for role "{user}"')

    def cancel(self, host: Host, key: bytes) -> None:
        """Asks the server to cancel what the backend with this key does, in the background."""

        async def send() -> None:
            with contextlib.suppress(UpstreamError):
                await send_cancel(host.upstream, cancel_packet(key))

        self._background(send())

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- once a second -------------------------------------------------------------------------
    def count_error(self, code: str) -> None:
        self._errors[code[:2]] += 1

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(self._tick_seconds(), self._tick)
        now = loop.time()
        for connection in list(self.connections):
            connection.sweep(now)
        self.publish()

    def _tick_seconds(self) -> float:
        """A second, or a quarter of the shortest time-out."""
        limits = self.config.limits
        shortest = min(
            t
            for t in (
                limits.statement_timeout_seconds,
                limits.idle_session_timeout_seconds,
                limits.idle_in_transaction_timeout_seconds,
                4 * _TICK_SECONDS,
            )
            if t > 0
        )
        return max(0.02, shortest / 4)

    def publish(self) -> None:
        """Hands what was counted to the metrics."""
        for counter, count in zip(_BYTES, self.traffic.take(), strict=True):
            if count:
                counter.inc(count)
        self._errors.update(native.take_error_counts())
        for sqlstate_class, count in self._errors.items():
            pg_errors_total.labels(sqlstate_class).inc(count)
        self._errors.clear()

    # ---- endings -------------------------------------------------------------------------------
    def stop_accepting(self) -> None:
        for gate in self._gates:
            gate.close()

    async def drain(self, seconds: float) -> None:
        """Stops accepting, ends connections as they fall idle, the rest after `seconds`."""
        self.stop_accepting()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        seen: dict[Connection, float] = {}
        while self.connections or any(gate.arriving for gate in self._gates):
            now = loop.time()
            late = now >= deadline
            for connection in list(self.connections):
                since = seen.setdefault(connection, now)
                idle = connection.idle and (connection.asked or now - since >= _FIRST_ASK_SECONDS)
                if late or idle:
                    connection.shut_down()
            if late:
                break
            await asyncio.sleep(0.02)
        for gate in self._gates:
            gate.send_away()
        await asyncio.sleep(0)
        if self._ticker is not None:
            self._ticker.cancel()
        self.publish()
        await self.site.close()
        await self.hosts.close()
