"""What does the server's schema look like? Names and types of relations, as one Snapshot.

I/O module: one control connection (asyncpg), shared by all sessions of a listener, opened when
needed, refreshed after DDL, every `REFRESH_SECONDS`, and when a look each `LOOK_SECONDS` shows that
somebody else changed something. The same query, run inside a client's own
transaction, gives the schema as that transaction sees it (`session.py`). The server is not
trusted: what is protected comes from the configuration alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Callable, Iterable

import asyncpg
import structlog

from proxy.config.model import ColumnConfig, PostgresConfig
from proxy.errors import ConfigError, SealgateError
from proxy.postgres.control import ControlError, connect_control
from proxy.postgres.hosts import Hosts
from proxy.postgres.layouts import Look
from proxy.postgres.searches import search_of
from proxy.postgres.snapshot import (
    BYTEA,
    Column,
    ProtectedColumn,
    Relation,
    SealedType,
    Snapshot,
)
from proxy.postgres.types.registry import longest
from proxy.postgres.types.registry import resolve as resolve_type
from proxy.postgres.upstream import UpstreamError

log = structlog.get_logger()

REFRESH_SECONDS = 15.0
LOOK_SECONDS = 1.0  # how often it is asked whether anything changed
LONGEST_COLUMN_BYTES = 63 - len("__sealed")
_versions = itertools.count(1)  # one sequence per process: no two snapshots share a number

QUERY = """
SELECT pg_catalog.json_build_object(
 'schemas', (SELECT pg_catalog.json_agg(n.nspname ORDER BY n.nspname)
             FROM pg_catalog.pg_namespace n),
 'system', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.relname,
    (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0)))
   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'pg_catalog' AND c.relname IN ('pg_attribute', 'pg_constraint', 'pg_index')
     OR n.nspname = 'information_schema' AND c.relname = 'columns'),
 'reads', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    vn.nspname, v.relname, rn.nspname, r.relname))
   FROM (SELECT DISTINCT w.ev_class, d.refobjid
           FROM pg_catalog.pg_rewrite w
           JOIN pg_catalog.pg_depend d ON d.objid = w.oid AND d.refobjid <> w.ev_class
            AND d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass) e
   JOIN pg_catalog.pg_class v ON v.oid = e.ev_class AND v.relkind IN ('v', 'm')
   JOIN pg_catalog.pg_namespace vn ON vn.oid = v.relnamespace
   JOIN pg_catalog.pg_class r ON r.oid = e.refobjid
   JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
  WHERE vn.nspname <> ALL (ARRAY['pg_catalog', 'information_schema'])),
 'relations', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
    n.nspname, c.relname, c.relkind,
    CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pn.nspname, pc.relname))
       FROM pg_catalog.pg_inherits i
       JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
       JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
      WHERE i.inhrelid = c.oid),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(a.attname, a.atttypid::pg_catalog.int8,
        a.atttypmod, a.attgenerated <> '', a.attnotnull, a.atthasdef, a.attnum) ORDER BY a.attnum)
       FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT pg_catalog.json_agg(a.attname ORDER BY k.n)
       FROM pg_catalog.pg_index i
       CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (num, n)
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
      WHERE i.indrelid = c.oid AND i.indisprimary AND k.n <= i.indnkeyatts),
    (SELECT pg_catalog.json_agg(ic.relname ORDER BY ic.relname)
       FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
      WHERE i.indrelid = c.oid),
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(k.conname, a.attname,
        pg_catalog.obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname)
       FROM pg_catalog.pg_constraint k
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
      WHERE k.conrelid = c.oid AND k.contype = 'c' AND pg_catalog.cardinality(k.conkey) = 1
        AND pg_catalog.right(k.conname, 8) = '__sealed'))
    ORDER BY n.nspname, c.relname)
   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'pg_toast'])))::text
"""

# Does anything look different? Every definition writes a new row version: of pg_class for relations that
# come, go or get columns, of pg_attribute for changes of the columns themselves.
CHANGED = """
SELECT pg_catalog.concat_ws(' ',
  (SELECT pg_catalog.concat_ws(' ', count(*), max(c.xmin::text::int8), min(c.xmin::text::int8))
     FROM pg_catalog.pg_class c WHERE c.relpersistence <> 't'),
  (SELECT pg_catalog.concat_ws(' ', count(*), max(a.xmin::text::int8), min(a.xmin::text::int8),
          pg_catalog.sum(a.xmin::text::int8))
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    WHERE c.relname = ANY ($1::text[])),
  (SELECT count(*) FROM pg_catalog.pg_inherits), (SELECT count(*) FROM pg_catalog.pg_namespace))
"""


class CatalogError(SealgateError):
    """The catalogue cannot be read now."""


def protected_columns(
    columns: Iterable[ColumnConfig], database: str
) -> dict[tuple[str, str, str], ProtectedColumn]:
    """The policy's columns by (schema, table, column); raises ConfigError."""
    found: dict[tuple[str, str, str], ProtectedColumn] = {}
    for c in columns:
        parts = c.column.split(".")
        if len(parts) != 3 or not all(parts):
            raise ConfigError(f"postgres.columns: {c.column!r}: write schema.table.column")
        schema, table, name = parts
        if len(name.encode()) > LONGEST_COLUMN_BYTES:
            raise ConfigError(
                f"postgres.columns: {c.column!r}: the name of a protected column has at most"
                f" {LONGEST_COLUMN_BYTES} bytes, since names are derived from it"
            )
        declared = resolve_type(c.type)
        found[schema, table, name] = ProtectedColumn(
            schema=schema,
            table=table,
            column=name,
            domain=c.domain or f"{database}.{c.column}",
            type=declared,
            ring=c.ring,
            equality=c.equality,
            pad_to_bytes=padding(c, declared),
            equal_defaults="equal-defaults" in c.acknowledge,
            null_on_error=c.on_error == "null",
            search=search_of(c),
            layout=c.layout,
            migrating=c.state == "migrating",
            max_buckets=c.range.max_buckets if c.range is not None else 0,
            ascii_case=c.match is not None and c.match.case == "ascii",
        )
    return found


def padding(column: ColumnConfig, declared: SealedType) -> int:
    """The multiple of bytes that values are padded to. ConfigError."""
    if column.pad == "none":
        return column.pad_to_bytes
    if column.pad_to_bytes:
        raise ConfigError(f"{column.column}: `pad: max` and `pad_to_bytes` exclude each other")
    most = longest(declared)
    if most is None or most >= 1 << 20:
        raise ConfigError(
            f"{column.column}: {declared.name} has no longest value to pad to; "
            "declare a length, or use pad_to_bytes"
        )
    return most + 1  # a value and the mark behind it are one block


def build_snapshot(
    answer: str,
    database: str,
    protected: dict[tuple[str, str, str], ProtectedColumn],
    masking: bool | tuple[str, ...] = False,
) -> Snapshot:
    """The snapshot that QUERY's answer describes. `masking`: who sees the catalogue masked."""
    try:
        document = json.loads(answer)
        relations = {}
        moving = set()
        current = dict(protected)
        reads: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for view_schema, view, schema, name in document["reads"] or ():
            reads.setdefault((view_schema, view), []).append((schema, name))
        by_table: dict[tuple[str, str], list[ProtectedColumn]] = {}
        for key, column in protected.items():
            by_table.setdefault(key[:2], []).append(column)
        for row in document["relations"] or ():
            schema, name, kind, definition, parents, columns, primary_key, indexes, checks = row
            ours = by_table.get((schema, name), [])
            look = Look(ours, columns or (), checks or ())
            described = tuple(Column(*column[:6]) for column in look.in_order)
            if look.migrating:
                moving.add((schema, name))
            for clear in look.clear:
                del current[schema, name, clear]
            relations[schema, name] = Relation(
                schema=schema,
                name=name,
                kind=kind,
                columns=described,
                definition=definition,
                parents=tuple((s, t) for s, t in parents or ()),
                reads=tuple(sorted(reads.get((schema, name), ()))),
                primary_key=tuple(primary_key or ()),
                indexes=tuple(indexes or ()),
                in_clear=tuple(
                    c.name
                    for c in described
                    if (schema, name, c.name) in current and c.type_oid != BYTEA
                ),
                beside=look.beside,
            )
        schemas = frozenset(document["schemas"] or ())
        system = {name: tuple(columns) for name, columns in document["system"] or ()}
    except (ValueError, TypeError, KeyError) as error:
        raise CatalogError("the catalogue's answer cannot be read") from error
    roles = ("*",) if masking is True else masking or ()
    version = next(_versions)
    return Snapshot(
        version, database, relations, current, schemas, system, frozenset(roles), frozenset(moving)
    )


class Catalog:
    def __init__(self, config: PostgresConfig, hosts: Hosts) -> None:
        self._config = config
        self._hosts = hosts
        self._connection: asyncpg.Connection | None = None
        self._one_at_a_time = asyncio.Lock()  # asyncpg takes no second query meanwhile
        self._flight: asyncio.Task[None] | None = None
        self._timer: asyncio.Task[None] | None = None
        self._soon: set[asyncio.Task[None]] = set()
        self.protected = protected_columns(config.columns, config.database)
        self.snapshot = Snapshot(next(_versions), config.database, {}, self.protected)
        self.fresh = False  # it was read at least once
        self.changed: Callable[[], None] = lambda: None  # called where `snapshot` is another

    async def start(self) -> None:
        """Reads once; a server that is away is not fatal, sessions ask again."""
        if not self.protected:
            return
        try:
            await self.refresh()
        except CatalogError as error:
            log.error("postgres.catalog_unreadable", reason=str(error))
        self._timer = asyncio.create_task(self._refresh_forever(), name="catalogue")

    def reload(self, config: PostgresConfig, hosts: Hosts) -> None:
        """Reads from these hosts from the next time on; the columns are the same."""
        self._config, self._hosts = config, hosts
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        tasks = [t for t in (self._timer, self._flight, *self._soon) if t is not None]
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SealgateError):
                await task
        if self._connection is not None:
            self._connection.terminate()

    async def refresh(self) -> None:
        """`snapshot` is not older than this call. Raises CatalogError."""
        if self._flight is not None:
            # one that is under way may have read before the caller's DDL: wait, then read anew
            with contextlib.suppress(SealgateError):
                await asyncio.shield(self._flight)
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._read())
        flight = self._flight
        try:
            await asyncio.shield(flight)
        finally:
            if self._flight is flight and flight.done():
                self._flight = None

    def refresh_soon(self) -> None:
        """Starts a refresh that nobody waits for."""
        task = asyncio.ensure_future(self._quietly())
        self._soon.add(task)
        task.add_done_callback(self._soon.discard)

    async def _quietly(self) -> None:
        with contextlib.suppress(CatalogError):
            await self.refresh()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(10), self._one_at_a_time:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                answer = await self._connection.fetchval(QUERY)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.terminate()
            raise CatalogError(f"{type(error).__name__}: {error}") from None
        fresh = build_snapshot(
            answer, self._config.database, self.protected, self._config.catalog_masking
        )
        old = self.snapshot
        if self.fresh and fresh.relations == old.relations and fresh.schemas == old.schemas:
            return  # plans made under the old version stay good
        self.snapshot = fresh
        self.fresh = True
        self.changed()

    async def _connect(self) -> asyncpg.Connection:
        """To the best host, as sessions choose it. Raises CatalogError."""
        last: Exception = CatalogError("no server")
        try:
            for host in await self._hosts.candidates():
                try:
                    return await connect_control(self._config, host.upstream, "catalogue")
                except ControlError as error:
                    last = error
        except UpstreamError as error:
            last = error
        raise CatalogError(str(last)) from None

    async def _refresh_forever(self) -> None:
        seen: str | None = None
        looks = 0
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            looks += 1
            try:
                now = await self._look()
                if now != seen or looks * LOOK_SECONDS >= REFRESH_SECONDS:
                    await self.refresh()
                    seen, looks = now, 0
            except CatalogError as error:
                log.warning("postgres.catalog_unreadable", reason=str(error))

    async def _look(self) -> str | None:
        """A text that differs when a definition may have changed; None: not known. Never raises."""
        connection = self._connection
        if connection is None or connection.is_closed() or self._flight is not None:
            return None
        tables = sorted({table for _, table, _ in self.protected})
        try:
            async with asyncio.timeout(10), self._one_at_a_time:
                return str(await connection.fetchval(CHANGED, tables))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
