"""What the connections of one listener share: configuration, catalogue, plans, keys.

The only part of a session's surroundings that awaits anything: `fulfil` does what a session
asked for with `pending`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.model import PostgresConfig
from proxy.crypto.column import Canonical, column_codec
from proxy.errors import KeyUnavailable
from proxy.metrics import (
    pg_plan_cache_hits_total,
    pg_plan_cache_misses_total,
    pg_statements_total,
)
from proxy.native import CANON_CALL, ColumnCodec, Watch, strip_literals
from proxy.policy.model import Action, Mask, Principal, Resource, Verdict
from proxy.postgres import catalog
from proxy.postgres.fast import SECONDS
from proxy.postgres.hosts import Hosts
from proxy.postgres.masks import shown_to, without_mask
from proxy.postgres.motion import Motion
from proxy.postgres.needs import LayoutWanted, Need, SnapshotWanted, Use
from proxy.postgres.plan import Plan, Refusal, SessionContext
from proxy.postgres.searches import readers
from proxy.postgres.snapshot import ProtectedColumn, Snapshot
from proxy.postgres.templates import Templates
from proxy.postgres.types.registry import codec_of

if TYPE_CHECKING:
    from proxy.keys.service import KeyService, RingKeys
    from proxy.postgres.rewrite import Planner

_PlanKey = tuple[bytes, tuple[int, ...], SessionContext, int]
_passthrough = pg_statements_total.labels("passthrough")
_encrypted = pg_statements_total.labels("encrypted")
_PLAN_OVERHEAD_BYTES = 1024
_LEASES = 4096
_LARGEST_CACHED_TEXT_BYTES = 64 * 1024


@dataclass(slots=True)
class _Lease:
    """A codec that was handed out, until when it may be again, and how often it was."""

    codec: ColumnCodec
    until: float
    uses: int = 0


class Site:
    # Off: after a failed segment the server may have either of two unnamed statements, and the native
    # path does not follow which (it has the server drop it, which a client can notice).
    fast_unnamed = False
    catalog_query = catalog.QUERY.encode()

    def __init__(self, config: PostgresConfig, keys: KeyService, hosts: Hosts) -> None:
        self.config = config
        self._keys = keys
        self._catalog = catalog.Catalog(config, hosts)
        self._catalog.changed = self._expire_watch
        self.motion: Motion | None = None
        if any(column.migrating for column in self._catalog.protected.values()):
            self.motion = Motion(config, hosts, self._catalog.refresh)
        self._planner: Planner | None = None
        if config.columns:  # else neither the grammar nor a plan is ever needed
            from proxy.postgres.rewrite import Planner

            self._planner = Planner()
        self._plans: OrderedDict[_PlanKey, Plan | Refusal] = OrderedDict()
        self._plan_bytes = 0
        self._watch: Watch | None = None
        self._watch_for: Snapshot | None = None
        self._leases: dict[tuple[Principal, ProtectedColumn, Action], _Lease] = {}
        self._templates = Templates(config.limits.plan_cache_bytes // 2)

    async def start(self) -> None:
        await self._catalog.start()
        if self.motion is not None:
            self.motion.start()

    async def close(self) -> None:
        self._end_leases()
        if self.motion is not None:
            await self.motion.close()
        await self._catalog.close()

    def reload(self, config: PostgresConfig, hosts: Hosts) -> None:
        """Other servers and limits; the columns are the same."""
        self.config = config
        self._catalog.reload(config, hosts)
        if self.motion is not None:
            self.motion.reload(config, hosts)

    def protects(self, database: str) -> bool:
        """Whether statements in this database can touch anything protected."""
        return bool(self.config.columns) and database == self.config.database

    async def fulfil(self, need: Need) -> object:
        """Does what a session waits for. Raises SealgateError."""
        if isinstance(need, SnapshotWanted):
            await self._catalog.refresh()
            return None
        if isinstance(need, LayoutWanted):
            if self.motion is not None:
                await self.motion.opened()
            return None
        codecs: dict[Use, ColumnCodec] = {}
        for column, action in need.uses:
            ring = await self._keys.ring_keys(need.principal, _resource(column), action)
            codecs[column, action] = _codec(ring, column)
        return codecs

    # ---- keys ----------------------------------------------------------------------------------
    def codec_now(
        self, principal: Principal, column: ProtectedColumn, action: Action
    ) -> ColumnCodec | None:
        """The column's codec if its keys are in memory. Raises AccessDenied.

        What policy and limits have allowed holds for a second, its uses are counted afterwards.
        """
        lease = self._leases.get((principal, column, action))
        now = time.monotonic()
        if lease is not None:
            if now < lease.until and lease.codec.alive:
                lease.uses += 1
                return lease.codec
            del self._leases[principal, column, action]
            self._keys.note_uses(principal, _resource(column), action, lease.uses)
        ring = self._keys.ring_keys_now(principal, _resource(column), action)
        if ring is None:
            return None
        codec = _codec(ring, column)
        if self.fast:
            if len(self._leases) >= _LEASES:
                self._end_leases()
            self._leases[principal, column, action] = _Lease(codec, now + SECONDS)
        return codec

    def _end_leases(self) -> None:
        for (principal, column, action), lease in self._leases.items():
            self._keys.note_uses(principal, _resource(column), action, lease.uses)
        self._leases.clear()

    def shown(self, principal: Principal | None, plan: Plan) -> Plan:
        """The plan as far as this principal may see the values of its outputs."""
        if not self._keys.shows or principal is None:
            return plan

        def decide(column: ProtectedColumn) -> tuple[Verdict, Mask | None]:
            return self._keys.verdict(principal, _resource(column))

        return shown_to(plan, decide)

    @property
    def fast(self) -> bool:
        """Whether Binds may be done without asking for the keys each time."""
        return self.motion is None and not self._keys.counts_each_use

    def note_uses(self, principal: Principal | None, uses: Iterable[Use], count: int) -> None:
        """So many Binds were done natively since these keys were asked for."""
        if principal is None or not count:
            return
        for column, action in uses:
            self._keys.note_uses(principal, _resource(column), action, count)

    @property
    def watch(self) -> Watch | None:
        """Which words a text must have to need a plan, as the schema is now; None: any text."""
        snapshot = self._catalog.snapshot
        if self._watch_for is not snapshot and self._planner is not None:
            self._watch_for, self._watch = snapshot, self._planner.watch(snapshot)
        return self._watch

    def _expire_watch(self) -> None:
        """Sessions at rest hold the one of the old schema."""
        if self._watch is not None:
            self._watch.expire()

    # ---- plans ---------------------------------------------------------------------------------
    @property
    def snapshot(self) -> Snapshot:
        return self._catalog.snapshot

    @property
    def snapshot_read(self) -> bool:
        return self._catalog.fresh

    def schema_changed(self) -> None:
        """A session has changed the schema: the view of all sessions here is read anew at once."""
        self._catalog.refresh_soon()

    def local_snapshot(self, answer: bytes) -> Snapshot:
        """From the answer to `catalog_query` inside a client's transaction."""
        return catalog.build_snapshot(
            answer.decode(),
            self.config.database,
            self._catalog.protected,
            self.config.catalog_masking,
        )

    def plan(
        self, sql: bytes, oids: tuple[int, ...], context: SessionContext, snapshot: Snapshot
    ) -> Plan:
        """The plan of a text, cached; refusals are cached, too. Raises Refusal."""
        key = (sql, oids, context, snapshot.version)
        found = self._plans.get(key)
        if found is None:
            found = self._by_template(sql, oids, context, snapshot)
        else:
            pg_plan_cache_hits_total.inc()
            self._plans.move_to_end(key)
        if isinstance(found, Refusal):
            raise found.with_traceback(None)
        return found

    def _by_template(
        self, sql: bytes, oids: tuple[int, ...], context: SessionContext, snapshot: Snapshot
    ) -> Plan | Refusal:
        """The plan of a text that is new: by what was planned for other literals, or made now."""
        other = (oids, context, snapshot.version)
        stripped = strip_literals(sql) if context.standard_conforming_strings else None
        if stripped is not None:
            known = self._templates.look(sql, *stripped, other)
            if known is not None:
                pg_plan_cache_hits_total.inc()
                return known
        assert self._planner is not None
        pg_plan_cache_misses_total.inc()
        try:
            plan = self._planner.plan(sql, oids, context, snapshot)
        except Refusal as refusal:
            self._remember((sql, *other), refusal)
            return refusal
        (_passthrough if plan.transparent else _encrypted).inc()
        if stripped is None or not self._templates.learn(sql, *stripped, other, plan):
            self._remember((sql, *other), plan)
        return plan

    def _remember(self, key: _PlanKey, plan: Plan | Refusal) -> None:
        size = len(key[0])
        if size > _LARGEST_CACHED_TEXT_BYTES:
            return
        self._plans[key] = plan
        self._plan_bytes += 2 * size + _PLAN_OVERHEAD_BYTES
        while self._plan_bytes > self.config.limits.plan_cache_bytes // 2 and self._plans:
            old, _ = self._plans.popitem(last=False)
            self._plan_bytes -= 2 * len(old[0]) + _PLAN_OVERHEAD_BYTES


def _resource(column: ProtectedColumn) -> Resource:
    return Resource("column", column.domain, column.ring)


def _codec(ring: RingKeys, column: ProtectedColumn) -> ColumnCodec:
    """The codec of a column under a ring; it lives as long as the ring's keys."""
    column = without_mask(column)
    found = ring.derived.get(column)
    if isinstance(found, ColumnCodec):
        return found
    if not ring.alive:
        raise KeyUnavailable("the ring's keys were wiped")
    kind = codec_of(column.type)
    first = next((v.handle for v in ring.versions if v.number == 1), None)
    call = kind.canonical if kind.canonical_kind == CANON_CALL else None
    canonical = Canonical(kind.canonical_kind, call)
    codec = column_codec(
        [(v.handle, v.state == "active") for v in ring.versions],
        column.domain,
        column.type.oid,
        column.equality,
        column.transform_id,
        column.pad_to_bytes,
        canonical,
        index=first,
        search=column.search,
        readers=readers(column),
    )
    for handle in codec.handles:
        ring.adopt(handle)
    ring.derived[column] = codec
    return codec
