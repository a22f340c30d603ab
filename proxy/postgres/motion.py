"""While a column is migrated, when may statements be sent that stand on its form?

I/O module. The switch from one form to the other is a renaming in one transaction (`jobs/switch.py`). A
statement that was planned before it, and that the server analyses after it, would compare plaintext with
sealed bytes, and find nothing. So there is a lock that readers and writers share:

- Every worker holds a *shared advisory lock* of the database, on a connection of its own, while it sends
  such statements. When somebody asks for the exclusive lock, it holds new ones back, waits until those that
  it has sent are answered, and lets go. It asks for the lock again at once, gets it when the switch is over,
  reads the catalogue anew, and only then goes on.
- `sealgate migrate` renames while it holds the exclusive lock. No worker, proxy or file has to be told, no
  state has to be cleared up: locks end with their connections, and a killed command's transaction with them.
- A transaction block that has locked the table goes on while others wait: the renaming waits for it.
- A worker that cannot reach the server any more believes in its lock for LEASE_SECONDS at most. The command
  waits that long if it saw a holder vanish, so a worker that is merely cut off stops first.

What is held back waits inside the proxy, for as long as the last statements under way and the switch take.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import structlog

from proxy.config.model import PostgresConfig
from proxy.errors import SealgateError
from proxy.postgres.control import ControlError, connect_control
from proxy.postgres.hosts import Hosts

if TYPE_CHECKING:
    from proxy.postgres.session import Session

log = structlog.get_logger()

LOCK_CLASS, GATE, JOB = 0x5EA16A7E, 1, 2  # advisory locks of the database: (class, which)
CHANNEL = "sealgate_migrate"  # a NOTIFY makes workers look at once
LOOK_SECONDS, HURRY_SECONDS, LEASE_SECONDS = 1.0, 0.02, 3.0
LONGEST_WAIT_SECONDS = 60.0  # then a held statement is refused
_HURRIED_LOOKS = 50

ASKED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
 WHERE l.locktype = 'advisory' AND l.classid = $1::int8 AND l.objid = $2::int8 AND l.objsubid = 2
   AND l.mode = 'ExclusiveLock')
"""


class MotionError(SealgateError):
    """It cannot be known in which form a column is; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Of a session's transaction. `touched`: it has locked a moving table, as far as was sent; `locked`:
    as the server has confirmed, so that no switch can happen before it ends."""

    touched: bool = False
    locked: bool = False


class Motion:
    """Of one worker and one database. `refresh` reads the catalogue anew."""

    def __init__(
        self, config: PostgresConfig, hosts: Hosts, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._config = config
        self._hosts = hosts
        self._refresh = refresh
        self._held = False
        self._seen = 0.0  # when the lock was last known to be held
        self._under_way: set[Session] = set()
        self._answered = asyncio.Event()
        self._opened = asyncio.Event()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- for sessions --------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        """A statement on a moving table may be sent now, as planned under the site's snapshot."""
        return self._held and time.monotonic() - self._seen < LEASE_SECONDS

    def goes_on(self, session: Session) -> bool:
        """Nor has one to wait that belongs to what this session has under way: the lock is kept until that
        is answered, which without the rest of it may never happen."""
        return session in self._under_way and time.monotonic() - self._seen < LEASE_SECONDS

    def enter(self, session: Session) -> None:
        """The session sends such a statement."""
        self._under_way.add(session)

    def leave(self, session: Session) -> None:
        """All that the session has sent is answered, or a lock on the table stands for it."""
        self._under_way.discard(session)
        if not self._under_way:
            self._answered.set()

    async def opened(self) -> None:
        """Returns when `open`. Raises MotionError when that takes too long."""
        try:
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                while not self.open:
                    self._opened.clear()
                    await self._opened.wait()
        except TimeoutError:
            raise MotionError("the state of a column's migration is not known") from None

    # ---- the lock ------------------------------------------------------------------------------
    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="motion")

    def reload(self, config: PostgresConfig, hosts: Hosts) -> None:
        """Connects to these hosts from the next time on."""
        self._config, self._hosts = config, hosts

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                host = (await self._hosts.candidates())[0]
                connection = await connect_control(self._config, host.upstream, "migration")
                try:
                    await self._hold(connection)
                finally:
                    self._held = False
                    connection.terminate()
            except (
                SealgateError, ControlError, OSError, TimeoutError,
                asyncpg.PostgresError, asyncpg.InterfaceError,
            ) as error:  # fmt: skip
                log.warning("postgres.migration_unknown", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(LOOK_SECONDS)

    async def _hold(self, connection: asyncpg.Connection) -> None:
        """Takes the lock, lets go of it when asked to, takes it again. Raises when the server is lost."""
        await connection.add_listener(CHANNEL, lambda *_: self._wake.set())
        connection.add_termination_listener(self._lost)
        while True:
            await self._lock(connection)
            started = time.monotonic()
            await self._refresh()
            self._now_open(started)
            await self._until_asked(connection)
            if await self._drained(connection):
                # all: it is taken once more whenever a request was withdrawn meanwhile
                await connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")

    def _lost(self, *_: object) -> None:
        """The connection is gone, and the lock with it: nothing new goes out from this moment on."""
        self._held = False
        self._seen = 0.0
        self._wake.set()

    def _now_open(self, seen: float) -> None:
        self._seen, self._held = seen, True
        self._opened.set()

    async def _lock(self, connection: asyncpg.Connection) -> None:
        while True:
            try:
                await connection.execute(
                    "SELECT pg_catalog.pg_advisory_lock_shared($1, $2)", LOCK_CLASS, GATE
                )
                return
            except asyncpg.LockNotAvailableError:  # lock_timeout: the switch takes its time
                continue

    async def _asked(self, connection: asyncpg.Connection) -> bool:
        return bool(await connection.fetchval(ASKED, LOCK_CLASS, GATE, timeout=LEASE_SECONDS))

    async def _until_asked(self, connection: asyncpg.Connection) -> None:
        """Returns when somebody wants the exclusive lock; until then the lease is renewed."""
        hurried = 0
        while True:
            started = time.monotonic()
            if await self._asked(connection):
                return
            self._now_open(started)
            self._wake.clear()
            hurried = max(0, hurried - 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HURRY_SECONDS if hurried else LOOK_SECONDS):
                    await self._wake.wait()
                    hurried = _HURRIED_LOOKS

    async def _drained(self, connection: asyncpg.Connection) -> bool:
        """Nothing goes out any more, and all is answered; False: nobody asks any more."""
        self._held = False
        while self._under_way:
            self._answered.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10 * HURRY_SECONDS):
                    await self._answered.wait()
            if self._under_way and not await self._asked(connection):
                return False
        return True
