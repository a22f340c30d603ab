"""SELECT over protected tables: FROM, targets, grouping, set operations, CTEs. Pure.

`select()` analyses a (sub-)select in its scope, records the edits, and returns its outputs with their
provenance. What it cannot prove it refuses.
"""

from dataclasses import dataclass

from proxy.postgres.edits import Edits
from proxy.postgres.expressions import Expressions
from proxy.postgres.grammar import Node, Text, fields, inner, kind, strings
from proxy.postgres.names import Entry, Field, Names, Scope, quoted
from proxy.postgres.plan import Refusal
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn


@dataclass(frozen=True)
class Output:
    """One output column. `node`: the column reference behind it, in `scope`."""

    name: str
    sealed: ProtectedColumn | None = None
    node: Node | None = None
    scope: Scope | None = None


class Query:
    """Of one statement."""

    def __init__(self, text: Text, edits: Edits, names: Names) -> None:
        self.text = text
        self.edits = edits
        self.names = names
        self.expressions = Expressions(text, edits, names)
        self.expressions.query = self

    def select(self, statement: Node, parent: Scope | None) -> list[Output]:
        """Outputs of a SELECT, VALUES or set operation."""
        scope = Scope(parent)
        if statement.HasField("with_clause"):
            self.ctes(statement.with_clause, scope)
        if statement.op > 1:
            return self._set_operation(statement, scope)
        if statement.values_lists:
            return self._values(statement, scope)
        return self._plain_select(statement, scope)

    def ctes(self, clause: Node, scope: Scope) -> None:
        """Adds the CTEs of a WITH to the scope; data-modifying ones over protected tables are refused."""
        for node in clause.ctes:
            cte = node.common_table_expr
            if clause.recursive:
                scope.ctes[cte.ctename] = None
            which = kind(cte.ctequery)
            if which != "select_stmt":
                self._unprotected_only(cte.ctequery, "a data-modifying WITH on a protected table")
                self.expressions._walk(inner(cte.ctequery), scope)
                scope.ctes[cte.ctename] = None
                continue
            outputs = self.select(cte.ctequery.select_stmt, scope)
            if clause.recursive and any(o.sealed for o in outputs):
                raise refuse("recursive", None, "WITH RECURSIVE over protected columns")
            names = strings(cte.aliascolnames) or [o.name for o in outputs]
            scope.ctes[cte.ctename] = self._renamed(outputs, names)

    def _renamed(self, outputs: list[Output], names: list[str]) -> tuple[Field, ...] | None:
        if any(o.name == "*" for o in outputs):
            return None
        renamed = names + [o.name for o in outputs[len(names) :]]
        return tuple(Field(n, o.sealed) for n, o in zip(renamed, outputs, strict=True))

    def _unprotected_only(self, node: Node, what: str) -> None:
        for relation in relations_in(node):
            key = self.names.locate(relation.schemaname, relation.relname)
            if self.names.protected(key):
                raise refuse("statement", None, what, relation.location + 1)

    def _set_operation(self, statement: Node, scope: Scope) -> list[Output]:
        left, right = self.select(statement.larg, scope), self.select(statement.rarg, scope)
        sealed = [o.sealed for o in (*left, *right) if o.sealed is not None]
        for clause in (statement.sort_clause, statement.limit_count, statement.limit_offset):
            self._trailing(clause, scope, left)
        if not sealed:
            return left
        if statement.op != 2 or not statement.all:  # SETOP_UNION
            raise refuse("set operation", sealed[0], "a set operation that removes duplicates")
        if len(left) != len(right):
            raise Refusal("42601", "each UNION query must have the same number of columns")
        for one, other in zip(left, right, strict=True):
            if (one.sealed is None) != (other.sealed is None):
                raise refuse("domain", one.sealed or other.sealed, "UNION with other values")
            if one.sealed and other.sealed and one.sealed.domain != other.sealed.domain:
                raise refuse("domain", one.sealed, "UNION with another domain")
        return [Output(o.name, o.sealed) for o in left]

    def _trailing(
        self, clause: object, scope: Scope, outputs: list[Output], aggregated: bool = False
    ) -> None:
        """ORDER BY, LIMIT, OFFSET. `aggregated`: rows are put together before they are sorted."""
        nodes = clause if not hasattr(clause, "DESCRIPTOR") else [clause]
        for node in nodes:  # type: ignore[attr-defined]
            if kind(node) == "sort_by":
                self._sort_key(node.sort_by, scope, outputs, aggregated)
            elif node.ByteSize():
                self.expressions.plain(node, scope)

    def _sort_key(self, key: Node, scope: Scope, outputs: list[Output], aggregated: bool) -> None:
        node = key.node
        sealed, reference = None, node
        if kind(node) == "a_const" and node.a_const.WhichOneof("val") == "ival":
            index = node.a_const.ival.ival - 1
            if 0 <= index < len(outputs):
                sealed, reference = outputs[index].sealed, outputs[index].node
        elif kind(node) == "column_ref":
            parts = strings(node.column_ref.fields)
            named = [o for o in outputs if len(parts) == 1 and o.name == parts[0]]
            sealed = named[0].sealed if named else self.expressions.peek(node, scope)
            if named and sealed is None:
                return
            if len(named) > 1:
                raise refuse("ORDER BY", sealed, "ORDER BY a name of two outputs")
            if named and named[0].node is not None:
                reference = named[0].node
        if sealed is not None:
            self.expressions.ordering.sort_key(key, reference, scope, sealed, aggregated)
            return
        self.expressions.plain(node, scope)

    def _values(self, statement: Node, scope: Scope) -> list[Output]:
        width = 0
        for row in statement.values_lists:
            width = max(width, len(row.list.items))
            for item in row.list.items:
                self.expressions.plain(item, scope)
        for clause in (statement.sort_clause, statement.limit_count, statement.limit_offset):
            self._trailing(clause, scope, [])
        return [Output(f"column{i + 1}") for i in range(width)]

    def _plain_select(self, statement: Node, scope: Scope) -> list[Output]:
        for node in statement.from_clause:
            self.source(node, scope)
        if statement.HasField("into_clause") and any(e.protected for e in scope.entries):
            raise refuse("statement", None, "SELECT INTO from a protected table")
        grouped = self._group(statement, scope)
        distinct = bool(statement.distinct_clause)
        outputs = self.targets(statement.target_list, scope, grouped)
        if distinct:
            self._distinct(statement, scope, outputs)
        hidden: list[ProtectedColumn] = []
        if statement.where_clause.ByteSize():
            hidden = self.expressions.rechecks.where(statement, scope)
        if statement.having_clause.ByteSize():
            self.expressions.plain(statement.having_clause, scope)
        for window in statement.window_clause:
            self.expressions.plain(window, scope)
        aggregated = distinct or grouped is not None
        self._trailing(statement.sort_clause, scope, outputs, aggregated)
        self._trailing(statement.limit_count, scope, outputs)
        self._trailing(statement.limit_offset, scope, outputs)
        return outputs + [Output("", column) for column in hidden]

    # -- FROM ------------------------------------------------------------------------------------

    def source(self, node: Node, scope: Scope) -> None:
        """Adds what one item of FROM brings to the scope."""
        which = kind(node)
        if which == "range_var":
            self.table(node.range_var, scope)
        elif which == "join_expr":
            self._join(node.join_expr, scope)
        elif which == "range_subselect":
            item = node.range_subselect
            outputs = self.select(item.subquery.select_stmt, scope)
            names = strings(item.alias.colnames) if item.HasField("alias") else []
            known = self._renamed(outputs, names)
            scope.entries.append(Entry(item.alias.aliasname, known))
        else:
            self.expressions._walk(inner(node), scope)
            alias = getattr(inner(node), "alias", None)
            name = alias.aliasname if alias is not None else ""
            scope.entries.append(Entry(name, None))

    def table(self, item: Node, scope: Scope) -> Entry:
        """Adds a table or CTE by name."""
        self.names.visited.add(item.location)
        alias = item.alias.aliasname if item.HasField("alias") else item.relname
        if not item.schemaname:
            known, fields_ = scope.cte(item.relname)
            if known:
                entry = Entry(alias, fields_)
                scope.entries.append(entry)
                return entry
        entry = self.names.entry(self.names.locate(item.schemaname, item.relname), alias)
        if entry.protected and item.HasField("alias") and item.alias.colnames:
            raise refuse(
                "whole row", None, "column aliases on a protected table", item.location + 1
            )
        scope.entries.append(entry)
        return entry

    def _join(self, join: Node, scope: Scope) -> None:
        before = len(scope.entries)
        self.source(join.larg, scope)
        self.source(join.rarg, scope)
        both = scope.entries[before:]
        sealed = [f.sealed for e in both for f in e.fields or () if f.sealed]
        if sealed and join.is_natural:
            raise refuse("USING", None, "NATURAL JOIN with a protected table")
        if sealed and join.HasField("alias"):
            raise refuse("whole row", None, "an alias on a join with a protected table")
        for name in strings(join.using_clause):
            for entry in both:
                for field in entry.fields or ():
                    if field.name == name and field.sealed:
                        raise refuse("USING", field.sealed, "JOIN … USING")
        if join.using_clause and sealed:
            # the merged columns would make `*` and unqualified names mean something else
            raise refuse("USING", None, "JOIN … USING with a protected table")
        if join.quals.ByteSize():
            self.expressions.plain(join.quals, scope)

    # -- targets ---------------------------------------------------------------------------------

    def targets(
        self, nodes: "list[Node]", scope: Scope, grouped: "set[str] | None" = None
    ) -> list[Output]:
        """Outputs of a target list or RETURNING; stars over protected tables are written out."""
        outputs: list[Output] = []
        for node in nodes:
            target = node.res_target
            if kind(target.val) == "column_ref":
                parts = strings(target.val.column_ref.fields)
                if parts[-1] == "*":
                    outputs += self._star(target.val.column_ref, parts, scope)
                    continue
            sealed = self.expressions.value(target.val, scope)
            name = target.name or self._implied_name(target.val)
            if sealed is not None and grouped is not None and kind(target.val) == "column_ref":
                self._grouped_target(target, sealed, grouped)
            if sealed is not None and kind(target.val) == "func_call" and not target.name:
                self.expressions.ordering.name_extreme(target.val.func_call)
            outputs.append(Output(name, sealed, target.val if sealed else None, scope))
        return outputs

    def _implied_name(self, node: Node) -> str:
        if kind(node) == "column_ref":
            return strings(node.column_ref.fields)[-1]
        if kind(node) == "func_call":
            return strings(node.func_call.funcname)[-1]
        if kind(node) == "type_cast":
            return self._implied_name(node.type_cast.arg)
        if kind(node) == "sub_link" and node.sub_link.subselect.select_stmt.target_list:
            first = node.sub_link.subselect.select_stmt.target_list[0].res_target
            return first.name or self._implied_name(first.val)
        return "?column?"

    def _grouped_target(self, target: Node, sealed: ProtectedColumn, grouped: set[str]) -> None:
        start, end = self.expressions.span(target.val.column_ref)
        if strings(target.val.column_ref.fields)[-1] not in grouped:
            return
        name = b"" if target.name else b" AS " + quoted(sealed.column)
        text = self.text.sql[start:end]
        self.edits.replace(start, end, b"(array_agg(" + text + b"))[1]" + name)

    def _star(self, ref: Node, parts: list[str], scope: Scope) -> list[Output]:
        if len(parts) > 1:
            entry = scope.entry(parts[-2])
            entries = [entry] if entry is not None else []
        else:
            entries = list(scope.entries)
        if not any(e.protected or e.hidden for e in entries):
            known = [f for e in entries for f in e.fields or ()]
            unknown = not entries or any(e.fields is None for e in entries)
            return [Output("*")] if unknown else [Output(f.name) for f in known]
        names: list[bytes] = []
        outputs: list[Output] = []
        for entry in entries:
            if entry.fields is None:
                raise Refusal(
                    "0A000",
                    "* over a protected table beside a source whose columns are not known",
                    "Name the columns.",
                )
            for field in entry.fields:
                names.append(quoted(entry.alias) + b"." + quoted(field.name))
                outputs.append(Output(field.name, field.sealed))
                if field.sealed:
                    self.edits.columns.add(field.sealed)
        start, end = self.expressions.span(ref)
        self.edits.replace(start, end, b", ".join(names))
        return outputs

    # -- GROUP BY, DISTINCT ----------------------------------------------------------------------

    def _group(self, statement: Node, scope: Scope) -> "set[str] | None":
        """Names of the sealed columns that are grouped by; None without GROUP BY."""
        if not statement.group_clause:
            return None
        grouped: set[str] = set()
        for node in statement.group_clause:
            sealed = self.expressions.peek(node, scope)
            if kind(node) == "a_const":
                index = node.a_const.ival.ival - 1
                if 0 <= index < len(statement.target_list):
                    behind = statement.target_list[index].res_target.val
                    if self.expressions.peek(behind, scope) is not None:
                        raise Refusal(
                            "0A000",
                            "GROUP BY the position of a protected column is not supported",
                            "Name the column.",
                        )
            if sealed is None:
                self.expressions.plain(node, scope)
                continue
            self.expressions.tag_of(node, scope, sealed)
            grouped.add(strings(node.column_ref.fields)[-1])
        return grouped

    def _distinct(self, statement: Node, scope: Scope, outputs: list[Output]) -> None:
        plain = len(statement.distinct_clause) == 1 and not kind(statement.distinct_clause[0])
        sealed = [o.sealed for o in outputs if o.sealed is not None]
        if not plain:
            for node in statement.distinct_clause:
                column = self.expressions.peek(node, scope)
                if column is not None:
                    self.expressions.tag_of(node, scope, column)
                else:
                    self.expressions.plain(node, scope)
            return
        if not sealed:
            return
        simple = all(
            kind(t.res_target.val) == "column_ref"
            and strings(t.res_target.val.column_ref.fields)[-1] != "*"
            for t in statement.target_list
        )
        if not simple or statement.sort_clause:
            raise refuse("DISTINCT", sealed[0], "this DISTINCT")
        keys = []
        for target, output in zip(statement.target_list, outputs, strict=True):
            node = target.res_target.val
            start, end = self.expressions.span(node.column_ref)
            if output.sealed:
                keys.append(self.expressions.tag_text(node, scope, output.sealed))
            else:
                keys.append(self.text.sql[start:end])
        first = self.text.at(statement.target_list[0].res_target.location)
        where = self.text.ends[first - 1]  # behind DISTINCT
        if self.text.word(first - 1) != "distinct":
            raise refuse("DISTINCT", sealed[0], "this DISTINCT")
        self.edits.replace(where, where, b" ON (" + b", ".join(keys) + b")")


def relations_in(node: Node) -> "list[Node]":
    """Every RangeVar below a message."""
    found: list[Node] = []
    stack = [node]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "RangeVar":
            found.append(message)
        stack += fields(message)
    return found
