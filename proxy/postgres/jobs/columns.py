"""Walks over every sealed value of a column: does it open, and is it as it would be written today?

I/O module. Rows are read by physical order (ctid), a batch at a time, over a connection of the job's own. A
value is replaced only while it still is, in that place, what was read: a client that wrote meanwhile wins.
Nothing is remembered between runs: what is left to do shows in the values themselves, so a killed job is
started again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
BATCH_ROWS = 500
MOST_PASSES = 5
_START = "(0,0)"
Report = Callable[["Progress"], None]


@dataclass
class Progress:
    """Of one column. `damaged`: where values that do not open stand: table, ctid, primary key."""

    column: str
    rows: int = 0
    resealed: int = 0
    contended: int = 0  # written by somebody else in the same moment
    damaged: list[dict[str, str]] = field(default_factory=list)


def head(value: bytes) -> bytes:
    """All that says under which key, and with which tags and tokens, a value was sealed."""
    end = 19
    if len(value) > 21 and value[2] & 4:
        end += 2 + int.from_bytes(value[19:21], "big")
    return value[: end + 8]


class ColumnJob:
    """Over one column. `rows_per_second`: 0 is no limit."""

    def __init__(
        self, site: Site, hosts: Hosts, column: ProtectedColumn, rows_per_second: float = 0
    ) -> None:
        self._site = site
        self._hosts = hosts
        self._column = column
        self._pause = BATCH_ROWS / rows_per_second if rows_per_second else 0.0
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

    async def _passes(self, write: bool, report: Report) -> None:
        host = (await self._hosts.candidates())[0]
        connection = await connect_control(self._site.config, host.upstream, "column job")
        try:
            for table in await self._tables(connection):
                await self._table(connection, table, write, report)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise ConfigError(f"{self.progress.column}: {type(error).__name__}: {error}") from None
        finally:
            connection.terminate()

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
            f" WHERE ctid > $1::text::tid AND {column} IS NOT NULL ORDER BY ctid LIMIT {BATCH_ROWS}"
        )
        place = _START
        while rows := await connection.fetch(read, place):
            place = rows[-1]["place"]
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
                await asyncio.sleep(self._pause)

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
            f" put AS (UPDATE ONLY {table} t SET {column} = new.v FROM new"
            f" WHERE t.ctid = new.p::tid AND t.{column} = new.o RETURNING 1)"
            " SELECT count(*) FROM put",
            *map(list, zip(*fresh, strict=True)),
        )
        self.progress.resealed += done
        self.progress.contended += len(fresh) - done
