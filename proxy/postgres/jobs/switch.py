"""Swaps the two forms of a column for all clients at once. I/O module; see `motion.py` for the lock.

In this order, each bounded in time, and given up and tried again later where somebody stands in the way:
1. The exclusive lock: no proxy sends a statement on the table, but in transactions that have locked it.
2. Under a lock that keeps writers out, the last rows are filled, and that is committed.
3. All transactions that could see the table as it was before step 2 end. (One that reads by an older
   snapshot would find the form that it then uses empty in these rows.)
4. Under ACCESS EXCLUSIVE, if no row lacks its other form: names are exchanged. Nothing is written, so this
   takes milliseconds. Proxies go on, under the new names.

A statement thus never meets a form that it was not planned for, and a value is never in neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg

from proxy.errors import SealgateError
from proxy.postgres.jobs.filling import Filling, Report
from proxy.postgres.jobs.standing import OURS, PRESENT, Standing, name
from proxy.postgres.jobs.trigger import trigger
from proxy.postgres.layouts import CLEAR, SEALING
from proxy.postgres.motion import CHANNEL, GATE, HURRY_SECONDS, LEASE_SECONDS, LOCK_CLASS

GATE_WAIT, TABLE_WAIT, SNAPSHOT_WAIT = 4.0, 2.0, 3.0  # seconds
LAST_ROWS = 500  # more than so many are not filled while others wait

HOLDERS = """
SELECT l.pid FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
 WHERE l.locktype = 'advisory' AND l.classid = $1::int8 AND l.objid = $2::int8 AND l.objsubid = 2
   AND l.mode = 'ShareLock'
"""
OLDER = """
SELECT a.pid, coalesce(a.application_name, '') AS who FROM pg_catalog.pg_stat_activity a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND a.backend_type = 'client backend' AND a.backend_xmin IS NOT NULL
   AND pg_catalog.age(a.backend_xmin) >= pg_catalog.age($1::text::xid)
"""


class InTheWay(SealgateError):
    """The switch has to wait for somebody; nothing was changed. Try again."""


class Watcher:
    """Sees, on a connection of its own, which workers hold the shared lock, and wakes them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._seen: dict[int, float] = {}
        self._busy = asyncio.Lock()
        self._task = asyncio.create_task(self._watch())
        self.since = time.monotonic()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(
            asyncio.CancelledError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError
        ):
            await self._task
        self._connection.terminate()

    async def _watch(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(0.2)

    async def look(self) -> set[int]:
        """The workers that hold the lock, or wait for it, now."""
        async with self._busy:
            rows = await self._connection.fetch(HOLDERS, LOCK_CLASS, GATE)
        now = time.monotonic()
        found = {r["pid"] for r in rows}
        self._seen.update(dict.fromkeys(found, now))
        return found

    async def wake(self) -> None:
        async with self._busy:
            await self._connection.execute(f"NOTIFY {CHANNEL}")

    async def nobody_cut_off(self) -> None:
        """Whoever held the lock and vanished believes no longer that it holds it."""
        here = await self.look()
        gone = [seen for pid, seen in self._seen.items() if pid not in here]
        until = max([self.since, *gone]) + LEASE_SECONDS + 1
        await asyncio.sleep(max(0.0, until - time.monotonic()))


@asynccontextmanager
async def closed(connection: asyncpg.Connection, watcher: Watcher) -> AsyncIterator[None]:
    """While nothing is sent on moving tables. Raises InTheWay."""
    await connection.execute(f"SET lock_timeout = {int(GATE_WAIT * 1000)}")

    async def wake() -> None:
        await asyncio.sleep(HURRY_SECONDS)
        await watcher.wake()

    waking = asyncio.create_task(wake())
    try:
        await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, GATE)
    except asyncpg.LockNotAvailableError:
        raise InTheWay("a statement on the table is still running") from None
    finally:
        await waking
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", LOCK_CLASS, GATE)


async def switch(
    connection: asyncpg.Connection, watcher: Watcher, filling: Filling, at: Standing, report: Report
) -> None:
    """The other form becomes the one that clients use. Raises InTheWay: nothing was changed."""
    if await filling.left(connection, at, LAST_ROWS + 1) > LAST_ROWS:
        raise InTheWay("rows are changed faster than they are filled")
    await watcher.look()
    if (waits := watcher.since + LEASE_SECONDS + 1 - time.monotonic()) > 0:
        await asyncio.sleep(waits)  # whoever was cut off before we looked
    async with closed(connection, watcher):
        await watcher.nobody_cut_off()
        await connection.execute(f"SET lock_timeout = {int(TABLE_WAIT * 1000)}")
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {at.table} IN SHARE ROW EXCLUSIVE MODE")
                await filling.rest(connection, at, report, 4 * LAST_ROWS)
                written = await connection.fetchval("SELECT pg_current_xact_id()::xid::text")
            await _no_older(connection, written)
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {at.table} IN ACCESS EXCLUSIVE MODE")
                if await filling.left(connection, at, 1):
                    raise InTheWay("somebody writes the table without the proxy")
                for statement in _exchange(at):
                    await connection.execute(statement)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            raise InTheWay("a transaction holds the table") from None


async def _no_older(connection: asyncpg.Connection, written: str) -> None:
    until = time.monotonic() + SNAPSHOT_WAIT
    while older := await connection.fetch(OLDER, written):
        if time.monotonic() > until:
            who = ", ".join(f"{r['pid']} {r['who']}".strip() for r in older[:5])
            raise InTheWay(f"transactions are open that began before: {who}")
        await asyncio.sleep(HURRY_SECONDS)


def _exchange(at: Standing) -> list[str]:
    """What is done under the table's lock, in order; nothing of it reads or writes rows."""
    table, c, other = f"ALTER TABLE {at.table}", name(at.current), name(at.other)
    left = name(at.current + (SEALING if at.sealed else CLEAR))
    done = []
    for index in at.indexes:
        schema = name(at.column.schema)
        new_name = name(f"{OURS}twin_{index.twin_oid}")  # it is the twin's twin from now on
        if index.constraint:
            done.append(f"{table} RENAME CONSTRAINT {name(index.name)} TO {new_name}")
        else:
            done.append(f"ALTER INDEX {schema}.{name(index.name)} RENAME TO {new_name}")
        if index.twin_constraint:
            done.append(f"{table} RENAME CONSTRAINT {name(index.twin)} TO {name(index.name)}")
        else:
            done.append(f"ALTER INDEX {schema}.{name(index.twin)} RENAME TO {name(index.name)}")
            if index.constraint:
                done.append(
                    f"{table} ADD CONSTRAINT {name(index.name)} UNIQUE USING INDEX {name(index.name)}"
                )
    if at.not_null:
        done.append(f"{table} ALTER COLUMN {c} DROP NOT NULL")
    done.append(f"{table} RENAME COLUMN {c} TO {left}")
    done.append(f"{table} RENAME COLUMN {other} TO {c}")
    if at.unproven:
        done.append(f"{table} DROP CONSTRAINT {name(at.current + PRESENT)}")
    if at.not_null or at.unproven:
        present = name(at.current + PRESENT)
        done.append(f"{table} ADD CONSTRAINT {present} CHECK ({c} IS NOT NULL) NOT VALID")
    done += trigger(at, sealed=not at.sealed, other=at.current + (SEALING if at.sealed else CLEAR))
    return done
