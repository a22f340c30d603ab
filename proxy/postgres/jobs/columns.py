"""Walks over every sealed value of a column: does it open, and is it as it would be written today?

I/O module. Rows are read by physical order (ctid), piece by piece, over a connection of the job's own. A
value is replaced only while it still is, in that place, what was read: a client that wrote meanwhile wins.
Rows that a client has locked are left for the next pass: with locked rows in hand the job waits for nobody,
so that it is in no deadlock.
Nothing is remembered between runs: what is left to do shows in the values themselves, so a killed job is
started again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from proxy.errors import ConfigError
from proxy.native import ColumnCodec, OpenFailed
from proxy.policy.model import Action, Principal
from proxy.postgres.control import connect_control
from proxy.postgres.hosts import Hosts
from proxy.postgres.indexing import quoted
from proxy.postgres.needs import KeysWanted
from proxy.postgres.site import Site
from proxy.postgres.snapshot import ProtectedColumn

OPERATOR = Principal("postgres", "operator")
PIECE_PAGES = 8  # of the table, read and written at a time
MOST_PASSES = 5
SAMPLE_ROWS = 2000
Report = Callable[["Progress"], None]


@dataclass
class Progress:
    """Of one column. `damaged`: where values that do not open stand: table, ctid, primary key."""

    column: str
    rows: int = 0
    resealed: int = 0
    contended: int = 0  # written by somebody else in the same moment
    damaged: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """`stale`: the part of the rows, 0 to 1, that would be sealed anew; `seconds`: for all of them."""

    column: str
    rows: int
    bytes: int
    stale: float
    seconds: float


def head(value: bytes) -> bytes:
    """All that says under which key, and with which tags and tokens, a value was sealed."""
    end = 19
    if len(value) > 21 and value[2] & 4:
        end += 2 + int.from_bytes(value[19:21], "big")
    return value[: end + 8]


class ColumnJob:
    """Over one column. `rows_per_second`: 0 is no limit; then rows wait for nothing but the server."""

    def __init__(
        self, site: Site, hosts: Hosts, column: ProtectedColumn, rows_per_second: float = 0
    ) -> None:
        self._site = site
        self._hosts = hosts
        self._column = column
        self._pause = 1 / rows_per_second if rows_per_second else 0.0
        name = f"{column.schema}.{column.table}.{column.column}"
        self.progress = Progress(name)

    async def verify(self, report: Report) -> Progress:
        """Opens every value. Raises ControlError, KeyUnavailable, AccessDenied, ConfigError."""
        await self._passes(False, report)
        return self.progress

    async def reseal(self, report: Report) -> Progress:
        """Every value that opens is sealed under the active key with the tags and tokens of today's
        configuration. Raises as `verify`."""
        for _ in range(MOST_PASSES):
            before = self.progress.resealed
            self.progress.damaged.clear()
            self.progress.rows = 0
            await self._passes(True, report)
            if self.progress.resealed == before:
                break
        return self.progress

    async def estimate(self) -> Estimate:
        """Of a reseal, by a sample of each table; nothing is written. Raises as `verify`."""
        rows = size = stale = seen = 0
        taken = 0.0
        column = quoted(self._column.column).decode()
        async with self._connected() as connection:
            for table in await self._tables(connection):
                known = await connection.fetchrow(
                    "SELECT greatest(reltuples, 0)::int8 AS rows, pg_table_size(oid) AS bytes"
                    " FROM pg_class WHERE oid = $1::text::regclass",
                    table,
                )
                rows, size = rows + known["rows"], size + known["bytes"]
                share = min(100.0, 400.0 * SAMPLE_ROWS / max(1, known["rows"]))
                started = time.monotonic()
                found = await connection.fetch(
                    f"SELECT ctid::text AS place, {column} AS value, '' AS key FROM {table}"  # noqa: S608
                    f" TABLESAMPLE SYSTEM ({share}) WHERE {column} IS NOT NULL LIMIT {SAMPLE_ROWS}"
                )
                use = (self._column, Action.SEAL)
                need = KeysWanted(OPERATOR, (use, (self._column, Action.OPEN)))
                codecs = await self._site.fulfil(need)
                assert isinstance(codecs, dict)
                stale += len(self._look(codecs[use], table, found, True))
                seen += len(found)
                taken += time.monotonic() - started
        each = 3 * taken / max(1, seen)  # read, and written as a new row version
        part = stale / max(1, seen)
        return Estimate(self.progress.column, rows, size, part, rows * max(each, self._pause))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        host = (await self._hosts.candidates())[0]
        connection = await connect_control(self._site.config, host.upstream, "column job")
        try:
            yield connection
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise ConfigError(f"{self.progress.column}: {type(error).__name__}: {error}") from None
        finally:
            connection.terminate()

    async def _passes(self, write: bool, report: Report) -> None:
        async with self._connected() as connection:
            for table in await self._tables(connection):
                await self._table(connection, table, write, report)

    async def _tables(self, connection: asyncpg.Connection) -> list[str]:
        """The table, or its partitions that hold rows, as SQL names."""
        name = (quoted(self._column.schema) + b"." + quoted(self._column.table)).decode()
        rows = await connection.fetch(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name"
            " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND (c.oid = $1::text::regclass"
            " OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::text::regclass)))"
            " ORDER BY 1",
            name,
        )
        return [str(row["name"]) for row in rows]

    async def _table(
        self, connection: asyncpg.Connection, table: str, write: bool, report: Report
    ) -> None:
        column = quoted(self._column.column).decode()
        key = await self._key(connection, table)
        shown = f"pg_catalog.concat_ws(', ', {key})" if key else "''"
        read = (
            f"SELECT ctid::text AS place, {column} AS value, {shown} AS key FROM ONLY {table}"  # noqa: S608
            f" WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND {column} IS NOT NULL"
        )
        pages = await connection.fetchval(
            "SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::int8",
            table,
        )
        for first in range(0, pages, PIECE_PAGES):
            rows = await connection.fetch(read, f"({first},0)", f"({first + PIECE_PAGES},0)")
            use = (self._column, Action.SEAL if write else Action.OPEN)
            found = await self._site.fulfil(
                KeysWanted(OPERATOR, (use, (self._column, Action.OPEN)))
            )
            assert isinstance(found, dict)
            fresh = self._look(found[use], table, rows, write)
            if fresh:
                await self._put(connection, table, column, fresh)
            self.progress.rows += len(rows)
            report(self.progress)
            if self._pause:
                await asyncio.sleep(self._pause * len(rows))

    async def _key(self, connection: asyncpg.Connection, table: str) -> str:
        """The primary key's columns, as a list in SQL; empty without one, or on a protected column,
        whose tags say nothing to an operator."""
        rows = await connection.fetch(
            "SELECT pg_catalog.quote_ident(a.attname) AS name FROM pg_catalog.pg_index i"
            " JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
            " WHERE i.indisprimary AND i.indrelid = $1::text::regclass AND a.attgenerated = ''",
            table,
        )
        return ", ".join(row["name"] for row in rows)

    def _look(
        self, codec: ColumnCodec, table: str, rows: list[asyncpg.Record], write: bool
    ) -> list[tuple[bytes, str, bytes]]:
        """(new value, place, old value) of what is to be replaced; damage is noted."""
        fresh = []
        for row in rows:
            value = bytes(row["value"])
            try:
                plain = codec.open(value)
            except OpenFailed:
                self.progress.damaged.append(
                    {"table": table, "ctid": row["place"], "key": row["key"]}
                )
                continue
            if write and head(sealed := codec.seal(plain)) != head(value):
                fresh.append((sealed, row["place"], value))
        return fresh

    async def _put(
        self,
        connection: asyncpg.Connection,
        table: str,
        column: str,
        fresh: list[tuple[bytes, str, bytes]],
    ) -> None:
        done = await connection.fetchval(
            f"WITH new (v, p, o) AS (SELECT * FROM unnest($1::bytea[], $2::text[], $3::bytea[])),"  # noqa: S608
            f" mine AS MATERIALIZED (SELECT t.ctid AS place, new.v FROM ONLY {table} t JOIN new"
            f"  ON t.ctid = new.p::tid AND t.{column} = new.o FOR NO KEY UPDATE OF t SKIP LOCKED),"
            f" put AS (UPDATE ONLY {table} t SET {column} = mine.v FROM mine"
            " WHERE t.ctid = mine.place RETURNING 1)"
            " SELECT count(*) FROM put",
            *map(list, zip(*fresh, strict=True)),
        )
        self.progress.resealed += done
        self.progress.contended += len(fresh) - done
