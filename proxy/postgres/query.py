"""SELECT over protected tables: levels, their outputs, and what becomes of them. Pure.

Theory of operation. A level (a SELECT, VALUES or set operation) is first resolved: what is in its FROM,
which columns it yields, and where each comes from; nothing is edited by that. Then it is emitted from
the top down: whoever uses a level says in which form it wants each output (a sealed value or tag of a
column, or as it is), and the edits are recorded. What is in FROM or WITH is emitted last, when all uses
of its columns are known. What cannot be proven is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.postgres.edits import Edits
from proxy.postgres.expressions import Expressions, Want
from proxy.postgres.grammar import Node, Text, fields, inner, kind, strings
from proxy.postgres.grouping import Grouping
from proxy.postgres.names import Cell, Derived, Entry, Field, Names, Scope, Sealed, Value, quoted
from proxy.postgres.operands import Operands
from proxy.postgres.output_names import implied_name, keep_name
from proxy.postgres.plan import Refusal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.provenance import Open, Origin, Provenance, joined, origin
from proxy.postgres.set_operations import SetOperations
from proxy.postgres.sources import Sources

Wants = list[Want | None]


@dataclass(frozen=True)
class Output:
    """One output column: the expression behind it, or the field that a star brought. `type_oid`: of a
    plain column, 0 where not known."""

    name: str
    origin: Origin = None
    node: Node | None = None
    field: Field | None = None
    type_oid: int = 0


@dataclass(eq=False)
class Level:
    """`unknown`: it has columns, from a star, of which nothing is known but that none is protected.
    `targets`: a target list's nodes with the index and the number of their outputs."""

    statement: Node
    scope: Scope
    outputs: list[Output]
    unknown: bool = False
    targets: list[tuple[Node, int, int]] = field(default_factory=list)
    sides: "tuple[Level, Level] | None" = None
    cells: dict[int, Cell] = field(default_factory=dict)
    recursive: bool = False
    sorted_by: list[bytes] = field(default_factory=list)  # tokens that its ORDER BY names
    emitted: bool = False

    def derived(self, names: "list[str] | None" = None) -> Derived:
        """Its columns for whoever has it in FROM; what is open becomes cells."""
        if self.unknown:
            return Derived(None)
        columns: list[tuple[str, Value, int]] = []
        for i, output in enumerate(self.outputs):
            value: Value = None
            if isinstance(output.origin, Sealed):
                value = output.origin
            elif isinstance(output.origin, Open):
                value = self.cells.setdefault(i, Cell())
            name = names[i] if names and i < len(names) else output.name
            columns.append((name, value, output.type_oid))
        return Derived(tuple(columns))

    def wants(self) -> Wants:
        """What the uses of its cells ask for."""
        found: Wants = [None] * len(self.outputs)
        for i, cell in self.cells.items():
            if cell.column is not None and cell.form in ("tag", "sealed"):
                found[i] = (Use.TAG if cell.form == "tag" else Use.STORE, cell.column)
        return found


class Query:
    """Of one statement."""

    def __init__(self, text: Text, edits: Edits, names: Names) -> None:
        self.text = text
        self.edits = edits
        self.names = names
        self.operands = Operands(text, edits)
        self.provenance = Provenance(self)
        self.expressions = Expressions(self)
        self.grouping = Grouping(self)
        self.sources = Sources(self)
        self.set_operations = SetOperations(self)
        self.hidden: list[Output] = []  # behind the client's own, for the test of opened rows
        self._levels: dict[int, Level] = {}  # by identity of the statement, which the level keeps
        self._deferred: list[Callable[[], None]] = []
        self._later: list[Callable[[], None]] = []

    # -- order of work ---------------------------------------------------------------------------

    def defer(self, emission: Callable[[], None]) -> None:
        """Something in FROM or WITH is emitted when all that could use it has been."""
        self._deferred.append(emission)

    def later(self, edit: Callable[[], None]) -> None:
        """An edit whose text depends on the final form of a cell."""
        self._later.append(edit)

    def finish(self) -> None:
        """All that was put off is done."""
        while self._deferred:
            self._deferred.pop()()
        for edit in self._later:
            edit()

    # -- resolving -------------------------------------------------------------------------------

    def level(self, statement: Node, parent: Scope | None) -> Level:
        """The level of a (sub-)select, resolved once."""
        found = self._levels.get(id(statement))
        if found is None:
            found = self._resolve(statement, parent)
            self._levels[id(statement)] = found
        return found

    def _resolve(self, statement: Node, parent: Scope | None) -> Level:
        scope = Scope(parent)
        if statement.HasField("with_clause"):
            self.sources.ctes(statement.with_clause, scope)
        if statement.op > 1:
            left, right = self.level(statement.larg, scope), self.level(statement.rarg, scope)
            outputs = [
                Output(one.name, joined([one.origin, other.origin]))
                for one, other in zip(left.outputs, right.outputs, strict=False)
            ]
            unknown = left.unknown or right.unknown
            if not unknown and len(left.outputs) != len(right.outputs):
                raise Refusal("42601", "each UNION query must have the same number of columns")
            return Level(statement, scope, outputs, unknown, sides=(left, right))
        if statement.values_lists:
            rows = [list(row.list.items) for row in statement.values_lists]
            width = min(len(row) for row in rows)
            outputs = [
                Output(f"column{i + 1}", joined([self.provenance.of(r[i], scope) for r in rows]))
                for i in range(width)
            ]
            return Level(statement, scope, outputs)
        for node in statement.from_clause:
            self.sources.add(node, scope)
        level = Level(statement, scope, [])
        self.resolve_targets(level, statement.target_list)
        return level

    def resolve_targets(self, level: Level, nodes: "list[Node]") -> None:
        """The outputs of a target list or RETURNING."""
        for node in nodes:
            value = node.res_target.val
            first = len(level.outputs)
            if kind(value) == "column_ref" and strings(value.column_ref.fields)[-1] == "*":
                self._resolve_star(level, strings(value.column_ref.fields))
            else:
                name = node.res_target.name or implied_name(value)
                found = self.provenance.of(value, level.scope)
                oid = self.provenance.type_oid(value, level.scope) if found is None else 0
                level.outputs.append(Output(name, found, value, None, oid))
            level.targets.append((node, first, len(level.outputs) - first))

    def _starred(self, parts: "list[str]", scope: Scope) -> tuple[list[Entry], list[Field]]:
        if len(parts) == 1:
            return list(scope.entries), list(scope.visible)
        at = scope.entry(parts[-2])
        return ([at[0]], list(at[0].fields or ())) if at else ([Entry("", None)], [])

    def _resolve_star(self, level: Level, parts: "list[str]") -> None:
        entries, starred = self._starred(parts, level.scope)
        if any(e.fields is None for e in entries):
            if any(e.protected for e in entries):
                raise Refusal(
                    "0A000",
                    "* over a protected table beside a source whose columns are not known",
                    "Name the columns.",
                )
            level.unknown = True
            return
        for one in starred:
            level.outputs.append(Output(one.name, origin(one.value), None, one, one.type_oid))

    # -- emitting --------------------------------------------------------------------------------

    def emit(self, level: Level, wants: Wants | None) -> None:
        """Records the edits of a level whose outputs are wanted so (None: each as it is)."""
        assert not level.emitted, "a level is emitted once"
        level.emitted = True
        wants = list(wants or [])[: len(level.outputs)]
        wants += [None] * (len(level.outputs) - len(wants))
        for i, output in enumerate(level.outputs):
            if wants[i] is None and isinstance(output.origin, Sealed):
                wants[i] = (Use.SHOW, output.origin.column)
        if level.unknown and any(wants):
            raise Refusal("0A000", "* of unknown columns where protected ones are", "Name them.")
        statement, scope = level.statement, level.scope
        if statement.op > 1:
            self.set_operations.emit(level, wants)
        elif statement.values_lists:
            for row in statement.values_lists:
                for i, item in enumerate(row.list.items):
                    want = wants[i] if i < len(wants) else None
                    self.expressions.emit(item, scope, want)
        else:
            self._emit_select(level, wants)
        for clause in statement.sort_clause:
            self.grouping.sort(clause.sort_by, scope, level, wants)
        for clause in (statement.limit_count, statement.limit_offset):
            if clause.ByteSize():
                self.expressions.plain(clause, scope)
        for clause in statement.locking_clause:
            for locked in clause.locking_clause.locked_rels:  # aliases, not tables
                self.names.visited.add(locked.range_var.location)

    def _emit_select(self, level: Level, wants: Wants) -> None:
        statement, scope = level.statement, level.scope
        if statement.HasField("into_clause") and any(w for w in wants):
            column = next(w[1] for w in wants if w)
            raise refuse("copy", column, "SELECT INTO")
        for node in statement.from_clause:  # in the order of the server's analysis
            self.sources.emit(node, scope)
        self.grouping.group(level)
        self.emit_targets(level, wants)
        if statement.distinct_clause:
            self.grouping.distinct(level, wants)
        if statement.where_clause.ByteSize():
            asked = self.expressions.rechecks.where(statement, scope)
            self.hidden += [Output("", Sealed(c, c.type)) for c in asked]
        if statement.having_clause.ByteSize():
            self.expressions.plain(statement.having_clause, scope)
        for window in statement.window_clause:
            self.grouping.window(window.window_def, scope)

    def emit_targets(self, level: Level, wants: Wants) -> None:
        """Records the edits of a target list or RETURNING."""
        for node, first, count in level.targets:
            value = node.res_target.val
            if kind(value) == "column_ref" and strings(value.column_ref.fields)[-1] == "*":
                self._emit_star(level, value.column_ref, wants[first : first + count], first)
                continue
            before = self.edits.count
            self.expressions.emit(value, level.scope, wants[first])
            want = wants[first]
            nameless = want is not None and want[0] is Use.TAG and kind(value) == "column_ref"
            if self.edits.count > before and not node.res_target.name and not nameless:
                keep_name(self, value)

    def _emit_star(self, level: Level, ref: Node, wants: Wants, first: int) -> None:
        entries, starred = self._starred(strings(ref.fields), level.scope)
        position = max(ref.location, 0) + 1
        needed = any(e.hidden for e in entries)
        for one, want in zip(starred, wants, strict=True):
            needed = needed or one.merged or one in level.scope.grouped
            if want is None:
                if isinstance(one.value, Cell):
                    one.value.want_plain(position)
                continue
            use, column = want
            self.edits.columns.add(column)
            needed = needed or use is Use.TAG
            if isinstance(one.value, Cell):
                one.value.want("tag" if use is Use.TAG else "sealed", column, position)
            elif isinstance(one.value, Sealed):
                self.expressions.fits(want, one.value, position)
            else:
                raise refuse("write", column, "writing a value that is not sealed", position)
        if not needed or level.unknown:
            return
        start, end = self.expressions.span(ref)
        self.later(
            lambda: self.edits.replace(
                start, end,
                b", ".join(
                    self._star_item(one, want, level.scope)
                    for one, want in zip(starred, wants, strict=True)
                ),
            )
        )  # fmt: skip

    def _star_item(self, one: Field, want: Want | None, scope: Scope) -> bytes:
        text = one.text
        if want is not None and want[0] is Use.TAG:
            cut = not isinstance(one.value, Cell) or one.value.form == "sealed"
            text = self.expressions.field_tag(one) if cut else text
        elif one in scope.grouped:
            text = self.expressions.value_text(text, one, scope)
        plain_name = text.endswith(quoted(one.name)) and not text.startswith(b"COALESCE")
        return text if plain_name else text + b" AS " + quoted(one.name)


def relations_in(node: Node) -> "list[Node]":
    """Every RangeVar below a message."""
    return _below(node, "RangeVar")


def cte_names(node: Node) -> "list[str]":
    """Names that a WITH below a message gives."""
    return [cte.ctename for cte in _below(node, "CommonTableExpr")]


def _below(node: Node, what: str) -> "list[Node]":
    found: list[Node] = []
    stack = [node]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == what:
            found.append(message)
        stack += fields(message)
    return found


__all__ = ["Level", "Output", "Query", "Wants", "cte_names", "inner", "relations_in"]
