"""Which of several servers does a new connection go to? libpq's target_session_attrs, in order.

I/O module. A host that refuses, times out or fails TLS is passed over for the next one, and tried
last for a while. What a host is (primary, standby, read-only) is asked over a control connection
of our own, since a client that authenticates with the server itself can be sent to one host only;
what is known may be `host_check_seconds` old. With `any` nothing is ever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import asyncpg
import structlog

from proxy.config.model import PostgresConfig
from proxy.metrics import pg_upstream_up
from proxy.postgres.control import ControlError, connect_control
from proxy.postgres.sqlstate import SQLCLIENT_UNABLE_TO_ESTABLISH
from proxy.postgres.tls import server_context
from proxy.postgres.upstream import Upstream, UpstreamError, open_upstream, send_cancel

log = structlog.get_logger()

_ROLE = (
    "SELECT pg_catalog.pg_is_in_recovery(),"
    " pg_catalog.current_setting('transaction_read_only') = 'on'"
)
# what each attribute wants of (in recovery, read-only); the last resort of prefer-standby is any
_WANTED: dict[str, tuple[Callable[[bool, bool], bool], ...]] = {
    "read-write": (lambda standby, read_only: not standby and not read_only,),
    "read-only": (lambda standby, read_only: standby or read_only,),
    "primary": (lambda standby, read_only: not standby,),
    "standby": (lambda standby, read_only: standby,),
    "prefer-standby": (
        lambda standby, read_only: standby,
        lambda standby, read_only: True,
    ),
}


@dataclass(frozen=True, slots=True)
class Role:
    standby: bool
    read_only: bool
    at: float


class Host:
    """One server, and what is known of it."""

    def __init__(self, config: PostgresConfig, upstream: Upstream) -> None:
        self._config = config
        self.upstream = upstream
        self.failed_at: float | None = None  # None: the last attempt went well, or there was none
        self.reason = ""
        self.used = False
        self._role: Role | None = None
        self._control: asyncpg.Connection | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return str(self.upstream.address)

    def failed(self, reason: str) -> None:
        if self.failed_at is None:
            log.warning("postgres.host_failed", host=self.name, reason=reason)
        self.failed_at, self.reason, self._role = time.monotonic(), reason, None
        pg_upstream_up.labels(self.name).set(0)

    def worked(self) -> None:
        if self.failed_at is not None:
            log.info("postgres.host_back", host=self.name)
        if self.failed_at is not None or not self.used:
            pg_upstream_up.labels(self.name).set(1)
        self.failed_at, self.reason, self.used = None, "", True

    def resting(self) -> bool:
        """It failed a short while ago."""
        if self.failed_at is None:
            return False
        return time.monotonic() - self.failed_at < self._config.host_retry_seconds

    async def role(self) -> Role | None:
        """What it is, not older than the configuration says; None: it does not answer."""
        known = self._role
        if known is not None and time.monotonic() - known.at <= self._config.host_check_seconds:
            return known
        if self.resting():
            return None
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)
        return self._role

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(self.upstream.timeout_seconds):
                if self._control is None or self._control.is_closed():
                    self._control = await connect_control(self._config, self.upstream, "host check")
                standby, read_only = await self._control.fetchrow(_ROLE)
        except ControlError as error:
            self.failed(str(error))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if self._control is not None:
                self._control.terminate()
                self._control = None
            self.failed(type(error).__name__)
        else:
            self._role = Role(standby, read_only, time.monotonic())
            self.worked()

    def health(self) -> dict[str, object]:
        state = "unknown" if not self.used else "up"
        if self.failed_at is not None:
            state = "down"
        said: dict[str, object] = {"host": self.name, "state": state}
        if self.reason:
            said["reason"] = self.reason
        if self._role is not None:
            said["role"] = "standby" if self._role.standby else "primary"
            said["read_only"] = self._role.read_only
        return said

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking
        if self._control is not None:
            self._control.terminate()


class Hosts:
    """The servers of one configuration."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        tls = server_context(config.upstream_tls)
        self.hosts = tuple(
            Host(
                config,
                Upstream(
                    address=address,
                    tls=None if address.unix else tls,
                    server_name=config.upstream_tls.server_name or address.host,
                    timeout_seconds=config.limits.connect_timeout_seconds,
                    direct_tls=config.upstream_tls.negotiation == "direct",
                    keepalive=config.keepalive,
                ),
            )
            for address in config.upstream
        )

    async def candidates(self) -> list[Host]:
        """The hosts that may be connected to now, best first. Raises UpstreamError: there is none."""
        order = list(self.hosts)
        if self._config.load_balance_hosts == "random":
            random.shuffle(order)
        order.sort(key=Host.resting)  # stable: those that failed last
        wanted = _WANTED.get(self._config.target_session_attrs)
        if wanted is None:
            return order
        roles = await asyncio.gather(*(host.role() for host in order))
        known = [(h, r) for h, r in zip(order, roles, strict=True) if r is not None]
        found: list[Host] = []
        for wants in wanted:
            found += [h for h, r in known if wants(r.standby, r.read_only) and h not in found]
        if not found:
            raise UpstreamError(
                SQLCLIENT_UNABLE_TO_ESTABLISH,
                f"no PostgreSQL server answers as {self._config.target_session_attrs}"
                if known
                else "no PostgreSQL server answers",
            )
        return found

    async def open(
        self, protocol: Callable[[], asyncio.Protocol]
    ) -> tuple[Host, asyncio.Transport]:
        """A connection to the best host that takes one. Raises UpstreamError, the last host's."""
        last = UpstreamError(SQLCLIENT_UNABLE_TO_ESTABLISH, "no PostgreSQL server is configured")
        for host in await self.candidates():
            try:
                transport = await open_upstream(host.upstream, protocol)
            except UpstreamError as error:
                host.failed(str(error))
                last = error
            else:
                host.worked()
                return host, transport
        raise last

    async def cancel(self, packet: bytes) -> None:
        """Hands a CancelRequest to every host: the key says whose it is, and any process of ours
        may have got it. A host takes a key that is not its own for nothing."""

        async def one(host: Host) -> None:
            with contextlib.suppress(UpstreamError):
                await send_cancel(host.upstream, packet)

        await asyncio.gather(*(one(host) for host in self._awake()))

    def _awake(self) -> Iterable[Host]:
        return [h for h in self.hosts if not h.resting()] or self.hosts

    def health(self) -> list[dict[str, object]]:
        return [host.health() for host in self.hosts]

    async def close(self) -> None:
        for host in self.hosts:
            await host.close()
