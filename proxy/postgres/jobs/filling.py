"""Fills the other form of a migrating column, and compares the two. I/O module.

Rows are locked as they are read, and those that somebody else has locked are left for the next round, so
that a client's transaction never waits in a circle with a batch, and what is written is what was read.
Nothing is remembered: a row is done when its other form is there, and a trigger takes that away whenever a
client changes the value.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import asyncpg

from proxy.native import ColumnCodec, OpenFailed
from proxy.policy.model import Action, Principal
from proxy.postgres.jobs.standing import Standing, name
from proxy.postgres.needs import KeysWanted
from proxy.postgres.site import Site

OPERATOR = Principal("postgres", "operator")
BATCH_ROWS = 500
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_STAGE = "sealgate_batch"


@dataclass
class Filled:
    """Of one run. `wrong`: places (ctid) whose forms differ, or whose sealed form does not open."""

    rows: int = 0
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    phase: str = ""


Report = Callable[[Filled], None]


class Filling:
    """Of one column, over a connection that is no longer in a transaction. `rate`: rows a second, 0: no
    limit."""

    def __init__(self, site: Site, rate: float = 0) -> None:
        self._site = site
        self._rate = rate
        self._free_at = 0.0
        self.filled = Filled()

    async def codec(self, at: Standing) -> ColumnCodec:
        """Raises KeyUnavailable, AccessDenied."""
        seal = (at.column, Action.SEAL)
        found = await self._site.fulfil(KeysWanted(OPERATOR, (seal, (at.column, Action.OPEN))))
        assert isinstance(found, dict)
        codec = found[seal]
        assert isinstance(codec, ColumnCodec)
        return codec

    async def all(self, connection: asyncpg.Connection, at: Standing, report: Report) -> None:
        """One walk over the whole table, piece by piece; locked rows and later changes are left."""
        first, pieces = 0, 16
        while first < await self._pages(connection, at):
            place = f"ctid >= '({first},0)'::tid AND ctid < '({first + pieces},0)'::tid"
            count = BATCH_ROWS
            while count == BATCH_ROWS:
                started = time.monotonic()
                count = await self._batch(connection, at, place, report)
                await self._pace(count, started)
            first += pieces
            pieces = max(1, min(1024, pieces * 2 if count < BATCH_ROWS // 4 else pieces))

    async def rest(
        self, connection: asyncpg.Connection, at: Standing, report: Report, most: int = 1 << 62
    ) -> int:
        """Rows that are found without their other form, by the index of these; how many were done."""
        done = 0
        while done < most:
            count = await self._batch(connection, at, "true", report)
            done += count
            if count == 0:
                break
        return done

    async def left(self, connection: asyncpg.Connection, at: Standing, most: int = 100_000) -> int:
        """How many rows lack the other form, `most` at most."""
        return int(
            await connection.fetchval(
                f"SELECT count(*) FROM (SELECT FROM ONLY {at.table} WHERE {at.missing} LIMIT {most}) x"  # noqa: S608
            )
        )

    async def _batch(
        self, connection: asyncpg.Connection, at: Standing, place: str, report: Report
    ) -> int:
        """At most BATCH_ROWS rows, in one transaction, or in the caller's. A value that does not open
        is noted and left."""
        codec = await self.codec(at)
        skip = (
            "AND ctid <> ALL ($1::text[]::tid[])" if self.filled.wrong else "AND $1::text[] IS NULL"
        )
        wrong = self.filled.wrong or None
        shown = name(at.current) if at.sealed else f"{at.send}({name(at.current)})"
        async with connection.transaction():
            rows = await connection.fetch(
                f"SELECT ctid::text AS place, {shown} AS value FROM ONLY {at.table}"  # noqa: S608
                f" WHERE {place} AND {at.missing} {skip} LIMIT {BATCH_ROWS}"
                " FOR NO KEY UPDATE SKIP LOCKED",
                wrong,
            )
            fresh = [
                (r["place"].encode(), v)
                for r in rows
                if (v := self._made(codec, at, r)) is not None
            ]
            if fresh:
                await self._put(connection, at, fresh)
        self.filled.rows += len(fresh)
        report(self.filled)
        return len(fresh)

    def _made(self, codec: ColumnCodec, at: Standing, row: asyncpg.Record) -> bytes | None:
        value = bytes(row["value"])
        if not at.sealed:
            return codec.seal(value)
        try:
            return codec.open(value)
        except OpenFailed:
            self.filled.wrong.append(row["place"])
            return None

    async def _put(
        self, connection: asyncpg.Connection, at: Standing, fresh: list[tuple[bytes, bytes]]
    ) -> None:
        """The binary form goes in by COPY, which takes it for every type."""
        declared = at.type if at.sealed else "bytea"
        await connection.execute(
            f"CREATE TEMP TABLE IF NOT EXISTS {_STAGE} (p text, v {declared}) ON COMMIT DELETE ROWS"
        )
        await connection.copy_to_table(_STAGE, source=_Once(_copy_binary(fresh)), format="binary")
        await connection.execute(
            f"UPDATE ONLY {at.table} t SET {name(at.other)} = b.v FROM {_STAGE} b"  # noqa: S608
            " WHERE t.ctid = b.p::tid"
        )
        await connection.execute(f"DELETE FROM {_STAGE}")  # noqa: S608

    async def _pages(self, connection: asyncpg.Connection, at: Standing) -> int:
        return int(
            await connection.fetchval(
                "SELECT pg_relation_size($1::oid) / current_setting('block_size')::int8", at.oid
            )
        )

    async def _pace(self, count: int, started: float) -> None:
        if self._rate:
            await asyncio.sleep(max(0.0, count / self._rate - (time.monotonic() - started)))

    async def compare(self, connection: asyncpg.Connection, at: Standing, report: Report) -> None:
        """Every sealed form is opened, and is the other's binary form, byte for byte; places where
        it is not are in `filled.wrong`."""
        clear, sealed = (at.other, at.current) if at.sealed else (at.current, at.other)
        first, pieces = 0, 64
        while first < await self._pages(connection, at):
            rows = await connection.fetch(
                f"SELECT ctid::text AS place, {at.send}({name(clear)}) AS value, {name(sealed)} AS sealed"  # noqa: S608
                f" FROM ONLY {at.table} WHERE ctid >= '({first},0)'::tid"
                f" AND ctid < '({first + pieces},0)'::tid AND {name(at.other)} IS NOT NULL"
            )
            codec = await self.codec(at)
            started = time.monotonic()
            for row in rows:
                try:
                    same = codec.open(bytes(row["sealed"])) == row["value"]
                except OpenFailed:
                    same = False
                if not same:
                    self.filled.wrong.append(row["place"])
            self.filled.compared += len(rows)
            report(self.filled)
            first += pieces
            await self._pace(len(rows), started)


def _copy_binary(rows: list[tuple[bytes, bytes]]) -> bytes:
    """A stream of COPY … (FORMAT binary) of two columns (PostgreSQL documentation, COPY)."""
    parts = [_HEADER]
    for place, value in rows:
        parts += [struct.pack("!hi", 2, len(place)), place, struct.pack("!i", len(value)), value]
    return b"".join(parts) + struct.pack("!h", -1)


class _Once:
    """One block of bytes as asyncpg wants a source."""

    def __init__(self, data: bytes) -> None:
        self._data = [data]

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        if not self._data:
            raise StopAsyncIteration
        return self._data.pop()
