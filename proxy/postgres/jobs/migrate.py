"""`sealgate migrate`: a populated column in clear becomes a sealed one, or the other way, under load. I/O.

1. **Prepare**: the other form is added beside the column, empty, with a trigger that empties it in every row
   whose value changes; the indexes are built on it.
2. **Fill** what is empty, and **compare** all that is filled (`filling.py`).
3. **Switch**: the two exchange names (`switch.py`). Until then clients use the old form alone, from then on
   the new one alone; so searches, constraints and writes are exact at every moment.
4. **Finish**, when told to: the old form is dropped. Before that the same steps lead back, and are quick,
   since only what was written since the switch is to be filled.

Each step looks at what is there and does what is missing, so a run that was killed is started again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from proxy.errors import ConfigError, IntegrityError
from proxy.postgres.control import connect_control
from proxy.postgres.ddl.columns import check_text
from proxy.postgres.hosts import Hosts
from proxy.postgres.indexing import index_columns, quoted
from proxy.postgres.jobs.filling import Filling, Report
from proxy.postgres.jobs.standing import (
    PRESENT,
    Standing,
    name,
    obstacles,
    standing,
    twin_definition,
    warnings,
)
from proxy.postgres.jobs.switch import InTheWay, Watcher, closed, switch
from proxy.postgres.jobs.trigger import trigger
from proxy.postgres.layouts import place_comment
from proxy.postgres.motion import JOB, LOCK_CLASS
from proxy.postgres.site import Site
from proxy.postgres.snapshot import ProtectedColumn

SAMPLE_ROWS = 2000
TRIES, PAUSE_SECONDS = 40, 1.5  # of what somebody stands in the way of
FEW_ROWS = 200  # missing ones that the switch itself fills


@dataclass(frozen=True)
class Estimate:
    """Of a dry run. `seconds`: from a sample that was read, sealed or opened, and written."""

    column: str
    now: str  # "plain" or "sealed"
    rows: int
    bytes: int
    seconds: float
    obstacles: list[str]
    warnings: list[str]


class Migration:
    """Of one column, whose `state` is `migrating` in the configuration of all proxies."""

    def __init__(
        self, site: Site, hosts: Hosts, column: ProtectedColumn, rate: float, report: Report
    ) -> None:
        self._site = site
        self._hosts = hosts
        self._column = column
        self._report = report
        self._rate = rate
        self.filling = Filling(site, rate)

    async def estimate(self) -> Estimate:
        """Changes nothing. Raises ConfigError."""
        async with self._connected() as (connection, _):
            at = await standing(connection, self._column)
            found = await obstacles(connection, at)
            seconds = 0.0 if found else await self._seconds(connection, at)
            form = "sealed" if at.sealed else "plain"
            told = await warnings(connection, at)
            return Estimate(_dotted(self._column), form, at.rows, at.bytes, seconds, found, told)

    async def run(self, sealed: bool, finish: bool) -> Standing:
        """Clients use the wanted form; with `finish` the other one is gone. Raises ConfigError,
        IntegrityError, KeyUnavailable, AccessDenied, InTheWay."""
        async with self._connected() as (connection, watcher):
            at = await standing(connection, self._column)
            if at.sealed != sealed:
                if found := await obstacles(connection, at):
                    raise ConfigError("; ".join(found))
                at = await self._prepared(connection, watcher, at)
                await self._filled(connection, at)
                await self._compared(connection, at)
                self._phase("switch")
                await self._again(lambda: self._switch(connection, watcher, at))
                at = await standing(connection, self._column)
            await self._proven(connection, at)
            if finish and at.there:
                await self._dropped(connection, at)
            return await standing(connection, self._column)

    async def abort(self) -> Standing:
        """The form that clients do not use is dropped."""
        async with self._connected() as (connection, _):
            at = await standing(connection, self._column)
            await self._proven(connection, at)
            if at.there:
                await self._dropped(connection, at)
            return await standing(connection, self._column)

    # ---- steps ---------------------------------------------------------------------------------
    async def _prepared(
        self, connection: asyncpg.Connection, watcher: Watcher, at: Standing
    ) -> Standing:
        self._phase("prepare")
        if not at.there:

            async def add() -> None:
                async with (
                    closed(connection, watcher),
                    _quick(connection),
                    connection.transaction(),
                ):
                    for statement in _beside(at):
                        await connection.execute(statement)

            await self._again(add)
            at = await standing(connection, self._column)
        if not at.sealed:
            check = name(self._column.check_name)
            await self._ddl(connection, f"ALTER TABLE {at.table} VALIDATE CONSTRAINT {check}")
        await connection.execute("SET lock_timeout = 0")
        for index in at.indexes:
            if not index.made:
                self._phase(f"index {index.name}")
                await connection.execute(
                    f"DROP INDEX CONCURRENTLY IF EXISTS {name(at.column.schema)}.{name(index.twin)}"
                )
                await connection.execute(twin_definition(at, index))
        return await standing(connection, self._column)

    async def _filled(self, connection: asyncpg.Connection, at: Standing) -> None:
        self._phase("fill")
        if await self.filling.left(connection, at, FEW_ROWS + 1) > FEW_ROWS:
            await self.filling.all(connection, at, self._report)
        self._no_damage("do not open")
        await connection.execute("SET lock_timeout = 0")
        todo = f"{name(at.column.schema)}.{name(at.todo_index)}"
        valid = await connection.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", todo
        )
        if not valid:
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {todo}")
            await connection.execute(
                f"CREATE INDEX CONCURRENTLY {name(at.todo_index)} ON {at.table}"
                f" (({name(at.other)} IS NULL)) WHERE {at.missing}"
            )
        await self._rest(connection, at)

    async def _rest(self, connection: asyncpg.Connection, at: Standing) -> None:
        for _ in range(TRIES):
            await self.filling.rest(connection, at, self._report)
            self._no_damage("do not open")
            if await self.filling.left(connection, at, FEW_ROWS + 1) <= FEW_ROWS:
                return
            await asyncio.sleep(PAUSE_SECONDS)  # what others have locked

    async def _compared(self, connection: asyncpg.Connection, at: Standing) -> None:
        self._phase("compare")
        await self.filling.compare(connection, at, self._report)
        self._no_damage("differ in their two forms")

    async def _switch(self, connection: asyncpg.Connection, watcher: Watcher, at: Standing) -> None:
        await self._rest(connection, at)
        now = await standing(connection, self._column)  # indexes may have come or gone meanwhile
        if any(not index.made for index in now.indexes):
            raise ConfigError(f"{at.table}: an index was made meanwhile; start the command again")
        await switch(connection, watcher, self.filling, now, self._report)

    async def _proven(self, connection: asyncpg.Connection, at: Standing) -> None:
        """NOT NULL holds by a CHECK since the switch; the server has to be shown that it does."""
        if not at.unproven:
            return
        present = name(self._column.column + PRESENT)
        table = f"ALTER TABLE {at.table}"
        await self._ddl(connection, f"{table} VALIDATE CONSTRAINT {present}")
        # one by one: a single ALTER TABLE would drop the proof first, and read all rows under its lock
        await self._ddl(connection, f"{table} ALTER COLUMN {name(at.current)} SET NOT NULL")
        await self._ddl(connection, f"{table} DROP CONSTRAINT {present}")

    async def _dropped(self, connection: asyncpg.Connection, at: Standing) -> None:
        self._phase("finish")
        gone = [at.other] if at.sealed else [*at.tokens, at.other]
        drops = ", ".join(f"DROP COLUMN IF EXISTS {name(c)}" for c in gone)

        async def drop() -> None:
            async with _quick(connection), connection.transaction():
                for statement in trigger(at, sealed=at.sealed, other=None):
                    await connection.execute(statement)
                await connection.execute(f"ALTER TABLE {at.table} {drops}")

        await self._again(drop)

    # ---- around them ---------------------------------------------------------------------------
    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncpg.Connection, Watcher]]:
        host = (await self._hosts.candidates())[0]
        config = self._site.config
        connection = await connect_control(config, host.upstream, "migrate")
        watcher = Watcher(await connect_control(config, host.upstream, "migrate watch"))
        try:
            if not await connection.fetchval(
                "SELECT pg_try_advisory_lock($1, $2)", LOCK_CLASS, JOB
            ):
                raise ConfigError("another sealgate migrate works on this database")
            yield connection, watcher
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise ConfigError(f"{_dotted(self._column)}: {type(error).__name__}: {error}") from None
        finally:
            await watcher.close()
            connection.terminate()

    async def _ddl(self, connection: asyncpg.Connection, statement: str) -> None:
        async def go() -> None:
            async with _quick(connection):
                await connection.execute(statement)

        await self._again(go)

    async def _again(self, step: Callable[[], Awaitable[None]]) -> None:
        for left in reversed(range(TRIES)):
            try:
                await step()
                return
            except InTheWay as error:
                if not left:
                    raise
                self._phase(f"waits: {error}")
                await asyncio.sleep(PAUSE_SECONDS)

    def _phase(self, phase: str) -> None:
        self.filling.filled.phase = phase
        self._report(self.filling.filled)

    def _no_damage(self, what: str) -> None:
        if wrong := self.filling.filled.wrong:
            places = ", ".join(wrong[:10])
            raise IntegrityError(
                f"{_dotted(self._column)}: {len(wrong)} values {what}; ctid {places}. Nothing was switched"
            )

    async def _seconds(self, connection: asyncpg.Connection, at: Standing) -> float:
        codec = await self.filling.codec(at)
        shown = name(at.current) if at.sealed else f"{at.send}({name(at.current)})"
        started = time.monotonic()
        rows = await connection.fetch(
            f"SELECT {shown} AS value FROM ONLY {at.table} WHERE {name(at.current)} IS NOT NULL"  # noqa: S608
            f" LIMIT {SAMPLE_ROWS}"
        )
        make = codec.open if at.sealed else codec.seal
        made = [make(bytes(r["value"])) for r in rows]
        await connection.execute("CREATE TEMP TABLE sealgate_sample (v bytea)")
        await connection.copy_records_to_table("sealgate_sample", records=[(v,) for v in made])
        taken = 3 * (time.monotonic() - started)  # read twice, and written as a new row version
        seconds = at.rows * taken / max(1, len(rows))
        return max(seconds, at.rows / self._rate if self._rate else 0.0)


@asynccontextmanager
async def _quick(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Locks that are not to be had at once are not waited for: clients would queue behind. InTheWay."""
    await connection.execute("SET lock_timeout = 1000")
    try:
        yield
    except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
        raise InTheWay("a transaction holds the table") from None


def _beside(at: Standing) -> list[str]:
    """Adds the other form, empty; no row is read or written."""
    table, c = f"ALTER TABLE {at.table}", quoted(at.current)
    check = check_text(at.column)
    done = [f"{table} ADD COLUMN {name(at.other)} {at.type if at.sealed else 'bytea'}"]
    if not at.sealed:
        condition = check.replace(c, quoted(at.other)).decode()
        done.append(f"{table} ADD {condition} NOT VALID")
        done += [
            f"{table} ADD COLUMN {name(t.name)} {t.type.decode()}"
            for t in index_columns(at.column)
            if t.name in at.loose
        ]
    comment = place_comment(at.attnum)
    done.append(
        "DO $$ BEGIN IF (SELECT obj_description(oid, 'pg_constraint') IS NULL FROM pg_constraint"  # noqa: S608
        f" WHERE conrelid = {at.oid} AND conname = '{_literal(at.column.check_name)}') THEN"
        f" COMMENT ON CONSTRAINT {name(at.column.check_name)} ON {at.table} IS '{comment}'; END IF; END $$"
    )
    return done + trigger(at, sealed=at.sealed, other=at.other)


def _literal(text: str) -> str:
    return text.replace("'", "''")


def _dotted(column: ProtectedColumn) -> str:
    return f"{column.schema}.{column.table}.{column.column}"
