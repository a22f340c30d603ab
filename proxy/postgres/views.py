"""What do views of protected tables show? Their bodies, parsed from the catalogue and resolved. Pure.

The catalogue is not trusted: a body that lies can only make a column of a view refused, or name the
wrong protected column for it, as which the values then do not open. Bodies are in the server's form: a
view that was made through the proxy compares tags already.
"""

from typing import TYPE_CHECKING

from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, SyntaxProblem, Text, fields, kind, strings
from proxy.postgres.names import Broken, Entry, Names, Scope, Sealed, Value, table_entry, tables_of
from proxy.postgres.plan import Refusal, SessionContext
from proxy.postgres.predicates import refuse
from proxy.postgres.provenance import Open
from proxy.postgres.snapshot import Snapshot

if TYPE_CHECKING:
    from proxy.postgres.query import Query

Key = tuple[str, str]
_DEEPEST = 32  # views on views; PostgreSQL allows no cycle, a false catalogue may hold one


class Views:
    """Of one snapshot; what was found out is kept."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.tables = tables_of(snapshot)
        self.watched, self.dependent = _dependents(snapshot, set(self.tables))
        self._columns: dict[Key, dict[str, Value]] = {}
        self._depth = 0

    def columns(self, key: Key) -> dict[str, Value]:
        """Columns of a view that are sealed, or not to be used, by name."""
        if key not in self.dependent:
            return {}
        found = self._columns.get(key)
        if found is None:
            self._depth += 1
            try:
                found = self._resolve(key)
            finally:
                self._depth -= 1
            if not self._depth:
                self._columns[key] = found
        return found

    def _resolve(self, key: Key) -> dict[str, Value]:
        from proxy.postgres.query import Query

        relation = self._snapshot.relations[key]
        broken = Broken(refuse("view", None, f'this use of view "{relation.name}"'))
        names = [c.name for c in relation.columns]
        try:
            if self._depth > _DEEPEST:
                raise SyntaxProblem("views on views on views", 0)
            text = Text((relation.definition or "").rstrip().rstrip(";").encode())
            if len(text.statements) != 1 or kind(text.statements[0].stmt) != "select_stmt":
                raise SyntaxProblem("not a SELECT", 0)
            query = Query(text, Edits(), _BodyNames(self._snapshot, self, relation.reads))
            level = query.level(text.statements[0].stmt.select_stmt, None)
            if level.unknown or len(level.outputs) != len(names):
                raise SyntaxProblem("unknown columns", 0)
            found: dict[str, Value] = {}
            for name, output in zip(names, level.outputs, strict=True):
                if isinstance(output.origin, Sealed):
                    found[name] = output.origin
                elif not isinstance(output.origin, Open) and (
                    output.node is not None and _uses_sealed(query, output.node, level.scope)
                ):
                    found[name] = broken
        except (SyntaxProblem, Refusal, AssertionError, IndexError, RecursionError):
            return dict.fromkeys(names, broken)
        return found


class _BodyNames(Names):
    """Names in a view's body: written with a schema unless they were visible to whom the catalogue was
    read for, which is not known here; so a bare name must be the only one, or the only one of those
    that the view depends on."""

    def __init__(self, snapshot: Snapshot, views: Views, reads: tuple[Key, ...]) -> None:
        super().__init__(snapshot, SessionContext(snapshot.database, ""), views)
        self._reads = reads

    def locate(self, schema: str, name: str) -> Key:
        if schema:
            return schema, name
        found = [key for key in self.snapshot.relations if key[1] == name]
        if len(found) > 1:
            found = [key for key in found if key in self._reads]
        if len(found) > 1:
            raise refuse("view", None, f'"{name}" in a view')
        return found[0] if found else ("", name)

    def entry(self, key: Key, alias: str) -> Entry:
        """Tag columns are columns like others here."""
        entry = super().entry(key, alias)
        found = self.relation(key)
        if not entry.hidden or found is None:
            return entry
        values: dict[str, Value] = {f.name: f.value for f in entry.fields or ()}
        return table_entry(found, values, frozenset(), alias, False)


def _dependents(snapshot: Snapshot, tables: set[Key]) -> tuple[set[str], set[Key]]:
    """(names of protected tables and of all that may read them, the views among these)."""
    words = {table for _, table in tables}
    dependent: set[Key] = set()
    views = [(k, r, (r.definition or "").lower()) for k, r in snapshot.relations.items()]
    views = [v for v in views if v[1].definition]
    grew = True
    while grew:
        grew = False
        for key, relation, text in views:
            reads = any(r in tables or r in dependent for r in relation.reads)
            if key not in dependent and (reads or any(w.lower() in text for w in words)):
                words.add(relation.name)
                dependent.add(key)
                grew = True
    return words, dependent


def _uses_sealed(query: "Query", node: Node, scope: Scope) -> bool:
    """Whether a plain output of a view is computed from a sealed value (its tag and its being NULL
    or not are not)."""
    which = kind(node)
    if which == "column_ref":
        found = query.provenance.lookup(node.column_ref, scope)
        return found is not None and found[0].sealed is not None
    if which == "null_test" and kind(node.null_test.arg) == "column_ref":
        return False
    cut = which == "func_call" and strings(node.func_call.funcname)[-1] in ("substring", "count")
    if cut and all(kind(a) in ("column_ref", "a_const") for a in node.func_call.args):
        return False
    return any(_below(query, child, scope) for child in fields(getattr(node, which)))


def _below(query: "Query", message: Node, scope: Scope) -> bool:
    name = message.DESCRIPTOR.name
    if name == "Node":
        return bool(kind(message)) and _uses_sealed(query, message, scope)
    if name == "SelectStmt":
        scope = query.level(message, scope).scope
    return any(_below(query, child, scope) for child in fields(message))
