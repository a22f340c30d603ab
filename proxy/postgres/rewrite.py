"""From a client's text to a plan: the one way in. Pure; fails closed.

A statement that mentions no watched name is forwarded byte for byte without being parsed. The grammar
sees the rest: what touches no protected relation is forwarded all the same, what does is rewritten where
every use of a sealed column is proven, and refused otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace

from proxy.native import Watch
from proxy.postgres import catalog_masking, copy, dml, sql_texts, temporary
from proxy.postgres.cursor_plan import cursor_of
from proxy.postgres.ddl.dispatch import ON_POLICY_ALONE, define
from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, SyntaxProblem, Text, fields, inner, kind
from proxy.postgres.named_plan import named_of
from proxy.postgres.names import Names, Sealed
from proxy.postgres.plan import (
    CopyPlan,
    Effect,
    Plan,
    Refusal,
    SessionContext,
    StatementPlan,
    UnknownColumns,
)
from proxy.postgres.predicates import refuse
from proxy.postgres.query import Output, Query, cte_names, relations_in
from proxy.postgres.snapshot import Snapshot
from proxy.postgres.templates import free_literals
from proxy.postgres.views import Views

_MATVIEW = 24  # ObjectType
_EFFECT_WORDS = (
    "set", "reset", "begin", "start", "commit", "end", "rollback", "abort", "discard", "create",
    "alter", "drop", "do", "call", "import", "copy", "set_config", "declare", "fetch", "move", "close",
    "prepare", "execute", "deallocate",
)  # fmt: skip
# statements about names that the session keeps: the plan of an inner statement, or its end
_SESSION_WORDS = ("prepare", "execute", "deallocate", "declare", "fetch", "move", "close")
_SCHEMA = ("create_", "alter_", "drop_", "rename_", "index_stmt", "view_stmt", "define_", "import_")
_RUN_CODE = ("do_stmt", "call_stmt")  # which may SET anything
_SETTINGS = ("variable_set_stmt", "discard_stmt", "alter_role_set_stmt")
QUERIES = ("select_stmt", *dml.STATEMENTS)
_TEMPLATES = ("select_stmt", "insert_stmt", "update_stmt", "delete_stmt")
_ANALYSED = (*QUERIES, "explain_stmt", "view_stmt", "create_table_as_stmt")
# statements that may name a protected table as they are: they move or show no value
_HARMLESS = frozenset(
    {
        "drop_stmt", "truncate_stmt", "vacuum_stmt", "lock_stmt", "comment_stmt",
        "reindex_stmt", "alter_owner_stmt", "cluster_stmt", "alter_default_privileges_stmt",
        "create_schema_stmt", "check_point_stmt",
    }
)  # fmt: skip


class Planner:
    """Makes plans; keeps what it derived from the last snapshot."""

    def __init__(self) -> None:
        self._for: Snapshot | None = None
        self._sensitive = Watch([])  # protected names, and what depends on them
        self._views: Views | None = None
        self._watch = Watch([])  # these, and words whose statements have effects on the session

    def _look_at(self, snapshot: Snapshot) -> None:
        self._views = Views(snapshot)
        named = self._views.watched | {table for _, table in snapshot.moving}
        words = [w.lower().encode() for w in sorted(named)]
        self._sensitive = Watch(words)
        words += [w.encode() for w in (*_EFFECT_WORDS, *temporary.WORDS, *sql_texts.WORDS)]
        if snapshot.masked_for:
            words += [w.encode() for w in catalog_masking.WORDS]
        self._watch = Watch(words)
        self._passing = Watch([*words, *(w.encode() for w in _SESSION_WORDS)])
        self._for = snapshot

    def watch(self, snapshot: Snapshot) -> Watch:
        """Words without which a text neither touches anything protected nor changes the session."""
        if self._for is not snapshot:
            self._look_at(snapshot)
        return self._passing

    def plan(
        self, sql: bytes, param_oids: Sequence[int], ctx: SessionContext, snapshot: Snapshot
    ) -> Plan:
        """The plan of a text of one or several statements. Refusal."""
        if self._for is not snapshot:
            self._look_at(snapshot)
        if not self._watch.hit(sql):
            return Plan((_forwarded(sql, 0, len(sql)),), snapshot.version)
        sensitive = self._sensitive.hit(sql)
        names = Names(snapshot, ctx, self._views)
        try:
            text = Text(sql)
        except (SyntaxProblem, UnicodeDecodeError) as error:
            if not sensitive and not sql_texts.WATCH.hit(sql):
                return Plan((_forwarded(sql, 0, len(sql)),), snapshot.version)
            message = getattr(error, "message", "invalid UTF-8")
            position = getattr(error, "position", 0)
            raise Refusal("42601", message, "", position) from None
        if not text.statements:
            return Plan((_forwarded(sql, 0, len(sql)),), snapshot.version)
        if sensitive and not ctx.standard_conforming_strings:
            raise Refusal(
                "0A000",
                "statements on protected tables need standard_conforming_strings = on",
                "SET standard_conforming_strings = on.",
            )
        try:
            plans = _statements(text, names, param_oids)
        except Refusal as refusal:
            if refusal.position > 0:  # positions of the tree are bytes, those of errors characters
                before = sql[: refusal.position - 1]
                refusal.position = len(before.decode("utf-8", "ignore")) + 1
            raise
        if sensitive and len(plans) > 1:
            _in_order(text, plans, self._sensitive)
        return Plan(plans, snapshot.version, sensitive)


def _forwarded(
    sql: bytes, start: int, end: int, command: str = "", effects: frozenset[Effect] = frozenset()
) -> StatementPlan:
    return StatementPlan((sql[start:end],), False, effects=effects, command=command)


def _statements(text: Text, names: Names, oids: Sequence[int]) -> tuple[StatementPlan, ...]:
    plans = []
    start = 0
    for i, raw in enumerate(text.statements):
        last = i + 1 == len(text.statements)
        end = len(text.sql) if last else _separator_end(text, raw)
        plan = _statement(text, raw.stmt, start, end, names, oids)
        if names.snapshot.moving and names.moves(written := _written(raw.stmt)):
            shadowed = {name for _, name in written} & set(cte_names(raw.stmt))
            plan = replace(plan, moving=True, locks=not shadowed)
        plans.append(plan)
        start = end
    return tuple(plans)


def _in_order(text: Text, plans: Sequence[StatementPlan], watch: Watch) -> None:
    """A statement was planned with the settings and the schema of before the text: one that names a
    protected table cannot follow, in the same text, another that changes them. Definitions stand on
    the policy, not on the schema, so they may follow each other."""
    changed = defined = False
    start = 0
    for i, plan in enumerate(plans):
        last = i + 1 == len(plans)
        raw = text.statements[i]
        end = len(text.sql) if last else _separator_end(text, raw)
        stale = changed or (defined and kind(raw.stmt) not in ON_POLICY_ALONE)
        if stale and watch.hit(text.sql[start:end]):
            raise Refusal(
                "0A000",
                "a protected table is named after a change of settings or schema in the same text",
                "Send the statements one by one.",
            )
        changed = changed or Effect.SETTINGS_CHANGED in plan.effects
        defined = defined or Effect.SCHEMA_CHANGED in plan.effects
        start = end


def _separator_end(text: Text, raw: Node) -> int:
    """Behind the semicolon that follows a statement."""
    index = text.at(raw.stmt_location + raw.stmt_len)
    return text.ends[index] if text.word(index) == ";" else text.starts[index]


def _statement(
    text: Text, node: Node, start: int, end: int, names: Names, oids: Sequence[int]
) -> StatementPlan:
    which = kind(node)
    command = which.removesuffix("_stmt").upper().replace("_", " ")
    effects = _effects(which, node)
    if temporary.changes(node, names) or _may_set_config(text.sql[start:end]):
        effects |= {Effect.SETTINGS_CHANGED}
    runs = sql_texts.WATCH.hit(text.sql[start:end])  # then another constant is another statement
    if runs:
        sql_texts.looked_through(node, names, _EFFECT_WORDS)
    free = free_literals(node) if which in _TEMPLATES and not runs else None
    named = named_of(text, which, node, start, end)
    if named is not None and named.verb != "inside":
        return replace(_forwarded(text.sql, start, end, command, effects), named=named)
    if which in (*QUERIES, "copy_stmt", "explain_stmt", "declare_cursor_stmt"):
        _no_other_case(node, names)
    if which in _ANALYSED and not _concerned(node, names):
        if which == "select_stmt" and names.snapshot.masked_for & {"*", names.ctx.user}:
            masked = Edits()
            catalog_masking.mask(text, node, names, masked)
            if masked.any:
                segments, params, clients = masked.result(text.sql, start, end, oids)
                return StatementPlan(segments, True, params, clients, None, effects, command)
        plain = _forwarded(text.sql, start, end, command, effects)
        plain = replace(plain, free=free, named=named)
        if not names.snapshot.moving or not names.moves(_written(node)):
            return plain
        try:  # nothing in it is sealed now: only what stands beside a migrating column is to be hidden
            return _analysed(text, node, start, end, names, oids, plain)
        except Refusal:
            return plain
    plain = replace(_forwarded(text.sql, start, end, command, effects), free=free, named=named)
    return _analysed(text, node, start, end, names, oids, plain)


def _analysed(
    text: Text, node: Node, start: int, end: int, names: Names, oids: Sequence[int],
    forwarded: StatementPlan,
) -> StatementPlan:  # fmt: skip
    """The plan of a statement that touches a protected table. `forwarded`: as if it did not. Refusal."""
    which, command, effects = kind(node), forwarded.command, forwarded.effects
    edits = Edits()
    copied: CopyPlan | None = None
    try:
        if which == "copy_stmt":
            outputs, copied = None, _copy(text, node.copy_stmt, names, edits)
        elif which == "declare_cursor_stmt":
            outputs = analyse(text, node.declare_cursor_stmt.query, names, edits)
        else:
            outputs = analyse(text, node, names, edits)
        segments, params, clients = edits.result(text.sql, start, end, oids)
    except (AssertionError, IndexError, RecursionError, SyntaxProblem):
        # an invariant of ours does not hold for this form: then nothing is proven
        raise refuse("statement", None, "this form of statement") from None
    if which in (*_ANALYSED, "copy_stmt", "declare_cursor_stmt"):
        _all_seen(node, names)
    origins = [o.origin if isinstance(o.origin, Sealed) else None for o in outputs or []]
    sealed = tuple(None if o is None else o.column for o in origins)
    cursor = cursor_of(which, node)
    if not edits.any and not any(sealed) and not edits.columns:
        return replace(forwarded, cursor=cursor)
    check = edits.check()
    if check is not None and which not in ("select_stmt", "explain_stmt"):
        raise refuse("recheck", check.columns[0], f"this search in {_shown(which)}")
    shown = tuple(None if o is None or o.shown == o.column.type else o.shown for o in origins)
    if which == "declare_cursor_stmt" and cursor is not None and any(sealed):
        cursor = replace(cursor, outputs=sealed, shown=shown if any(shown) else None)
        sealed = shown = ()
    if not edits.any:  # read as it stands: only the answers change
        segments = (text.sql[start:end],)
    return StatementPlan(
        segments,
        edits.any,
        params,
        clients,
        sealed if any(sealed) else None,
        effects,
        command,
        frozenset(edits.columns),
        edits.final,
        forwarded.free,
        check if which == "select_stmt" else None,
        shown if any(shown) else None,
        frozenset(edits.compared),
        copied,
        cursor,
    )


def _written(node: Node) -> list[tuple[str, str]]:
    return [(r.schemaname, r.relname) for r in relations_in(node)]


def _concerned(node: Node, names: Names) -> bool:
    """Whether a protected relation, or a view of one, is named anywhere."""
    return any(names.concerns(names.locate(*written)) for written in _written(node))


def _no_other_case(node: Node, names: Names) -> None:
    """UnknownColumns for a relation that does not exist and whose name is a watched one but for its case
    or schema: its values were meant for a protected table."""
    words = {word.lower() for word in names.watched()}
    ctes = None
    for relation in relations_in(node):
        key = names.locate(relation.schemaname, relation.relname)
        if relation.relname.lower() not in words or names.concerns(key):
            continue
        if names.relation(key) is not None or relation.schemaname.startswith("pg_"):
            continue
        ctes = _ctes_in(node) if ctes is None else ctes
        if relation.schemaname or relation.relname not in ctes:
            shown = ".".join(p for p in (relation.schemaname, relation.relname) if p)
            message = f'relation "{shown}" does not exist'
            raise UnknownColumns("42P01", message, "", max(relation.location, 0) + 1)


def _ctes_in(node: Node) -> set[str]:
    """Names of the queries of every WITH below a message."""
    found: set[str] = set()
    stack = [node]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "CommonTableExpr":
            found.add(message.ctename)
        stack += fields(message)
    return found


def _may_set_config(sql: bytes) -> bool:
    """Whether the text may call set_config(): SET in a SELECT, as pg_dump does it."""
    low = sql.lower()
    return b"set_config" in low or b'u&"' in low


def _copy(text: Text, statement: Node, names: Names, edits: Edits) -> CopyPlan | None:
    query = Query(text, edits, names)
    outputs: list[Output] | None = None
    if statement.query.ByteSize():
        outputs = analyse(text, statement.query, names, edits) or []
    return copy.plan(query, statement, outputs)


def _all_seen(node: Node, names: Names) -> None:
    """The net below the analysis: a protected table that it did not come across is a refusal."""
    for relation in relations_in(node):
        key = names.locate(relation.schemaname, relation.relname)
        if names.protected(key) and relation.location not in names.visited:
            raise refuse("statement", None, "this use of a protected table", relation.location + 1)


def _effects(which: str, node: Node) -> frozenset[Effect]:
    if which == "transaction_stmt":
        step = node.transaction_stmt.kind
        if step in (1, 2):
            return frozenset({Effect.BEGIN})
        if step in (3, 4, 8, 9, 10):
            return frozenset({Effect.END, Effect.SETTINGS_CHANGED})
        return frozenset({Effect.SETTINGS_CHANGED}) if step == 7 else frozenset()
    if which in _SETTINGS or which in _RUN_CODE:
        return frozenset({Effect.SETTINGS_CHANGED})
    if which.startswith(_SCHEMA):
        return frozenset({Effect.SCHEMA_CHANGED})
    return frozenset()


def analyse(text: Text, node: Node, names: Names, edits: Edits) -> list[Output] | None:
    """Records in `edits` what becomes of one statement: a whole one, or one that stands inside another
    (EXPLAIN, DECLARE … CURSOR, PREPARE, COPY (…)). Its outputs in order, each with the column behind
    it where it is sealed; None where it yields no rows of ours. Refusal.

    The caller sees to it that `edits` are spliced into the text that the node is of.
    """
    which = kind(node)
    statement = inner(node)
    if which in QUERIES:
        query = Query(text, edits, names)
        if which == "select_stmt":
            level = query.level(statement, None)
            query.emit(level, None)
        else:
            level = dml.modify(query, node, None)
        query.finish()
        # where nothing is known of a star's columns, none of them is protected
        return None if level.unknown else [*level.outputs, *query.hidden]
    if which == "explain_stmt":
        inside = statement.query
        if kind(inside) in (*QUERIES, "create_table_as_stmt"):
            analyse(text, inside, names, edits)
            return None
    if which in ("view_stmt", "create_table_as_stmt"):
        _created_from(text, node, names, edits)
        return None
    if not define(text, node, which, names, edits):
        _untouched(text, node, which, names)
    return None


def _created_from(text: Text, node: Node, names: Names, edits: Edits) -> None:
    """CREATE VIEW, CREATE MATERIALIZED VIEW, CREATE TABLE AS. The catalogue shows what a view's columns
    are; of a table's nobody would know."""
    statement = inner(node)
    view = kind(node) == "view_stmt"
    target = statement.view if view else statement.into.rel
    names.visited.add(target.location)
    if names.protected(names.locate(target.schemaname, target.relname)):
        raise refuse("statement", None, "creating a relation with a protected table's name")
    outputs = None
    if kind(statement.query) in QUERIES:
        outputs = analyse(text, statement.query, names, edits)
    else:
        _untouched(text, statement.query, kind(statement.query), names)
    if edits.constants:
        raise refuse("constant", None, "a view or table made with constants of protected columns")
    if view or statement.objtype == _MATVIEW:
        return
    for output in outputs or []:
        if isinstance(output.origin, Sealed):
            raise refuse("copy", output.origin.column, "CREATE TABLE AS", target.location + 1)


def _untouched(text: Text, node: Node, which: str, names: Names) -> None:
    """Any other statement: forwarded unless it names a protected relation and is not harmless."""
    if which in _HARMLESS or which in ("transaction_stmt", *_SETTINGS):
        return
    for relation in relations_in(node):
        key = names.locate(relation.schemaname, relation.relname)
        if names.protected(key):
            raise refuse("statement", None, f"{_shown(which)} on a protected table")
        if names.concerns(key):
            raise refuse("view", None, f"{_shown(which)} on a view of a protected table")
    if which in ("do_stmt", "create_function_stmt", "create_trig_stmt", "rule_stmt"):
        words = names.watched()
        low = text.sql.decode("utf-8").lower()
        if any(word.lower() in low for word in words):
            raise refuse("statement", None, f"{_shown(which)} that names a protected table")


def _shown(which: str) -> str:
    return which.removesuffix("_stmt").replace("_", " ").upper()
