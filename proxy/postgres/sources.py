"""FROM and WITH: tables, joins, sub-selects, functions, CTEs, and the columns that they bring. Pure."""

from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.postgres.expressions import comparable
from proxy.postgres.grammar import Node, fields, inner, kind, strings, type_text
from proxy.postgres.names import Cell, Derived, Entry, Field, Scope, Sealed, Value, quoted
from proxy.postgres.plan import Use
from proxy.postgres.predicates import refuse
from proxy.postgres.spans import item_end, join_word
from proxy.postgres.types.registry import resolve

if TYPE_CHECKING:
    from proxy.postgres.query import Level, Query

_LEFT, _FULL, _RIGHT = 2, 3, 4  # JoinType; 1 is inner
# functions in FROM that give one column, named by the alias or else like them
_SCALAR = frozenset({"generate_series", "generate_subscripts", "string_to_table"})


class Sources:
    """Of one statement."""

    def __init__(self, query: "Query") -> None:
        self.query = query
        self.text = query.text
        self.edits = query.edits
        # joins whose USING or NATURAL becomes ON, with the pairs that it compares
        self._joins: dict[int, tuple[Node, list[tuple[Field, Field]]]] = {}

    def add(self, node: Node, scope: Scope) -> None:
        """Adds what one item of FROM brings to the scope; edits nothing."""
        which = kind(node)
        if which == "range_var":
            self.table(node.range_var, scope)
        elif which == "join_expr":
            self._join(node.join_expr, scope)
        elif which == "range_subselect":
            item = node.range_subselect
            level = self.query.level(
                item.subquery.select_stmt, scope if item.lateral else scope.beside()
            )
            self.query.defer(lambda: self.query.emit(level, level.wants()))
            scope.add(level.derived().entry(item.alias.aliasname, strings(item.alias.colnames)))
        elif which == "range_function":
            self._function(node.range_function, scope)
        else:
            alias = getattr(inner(node), "alias", None)
            scope.add(Entry(alias.aliasname if alias is not None else "", None))

    def emit(self, node: Node, scope: Scope) -> None:
        """Records the edits of what stands in an item of FROM itself: conditions and arguments."""
        which = kind(node)
        if which == "join_expr":
            join = node.join_expr
            self.emit(join.larg, scope)
            self.emit(join.rarg, scope)
            if join.quals.ByteSize():
                self.query.expressions.plain(join.quals, scope)
            if id(join) in self._joins:
                pairs = self._joins[id(join)][1]
                self.query.later(lambda: self._written_out(join, pairs))
        elif which == "range_function":
            self._arguments(node.range_function, scope)
        elif which not in ("range_var", "range_subselect"):
            self.query.expressions.walk(inner(node), scope)

    # -- tables ----------------------------------------------------------------------------------

    def table(self, item: Node, scope: Scope) -> Entry:
        """Adds a table or CTE by name."""
        names = self.query.names
        names.visited.add(item.location)
        alias = item.alias.aliasname if item.HasField("alias") else item.relname
        renamed = strings(item.alias.colnames)
        if not item.schemaname:
            cte = scope.cte(item.relname)
            if cte is not None:
                entry = cte.entry(alias, renamed)
                scope.add(entry)
                return entry
        if item.catalogname and item.catalogname != names.snapshot.database:
            raise refuse("statement", None, "a table of another database", item.location + 1)
        entry = names.entry(names.locate(item.schemaname, item.relname), alias)
        if renamed and entry.fields is not None:
            entry = self._renamed(item, entry, renamed)
        scope.add(entry)
        return entry

    def _renamed(self, item: Node, entry: Entry, renamed: "list[str]") -> Entry:
        """Column aliases count the hidden columns, too: these keep their names."""
        given = iter(renamed)
        lead = quoted(entry.alias) + b"."
        named = {
            f.name: Field(
                (new := next(given, f.name)), f.value, lead + quoted(new), f.lead, False, f.type_oid
            )
            for f in entry.fields or ()
        }
        if entry.hidden:
            names = self.query.names
            found = names.relation(names.locate(item.schemaname, item.relname))
            assert found is not None
            after = [named[c.name].name if c.name in named else c.name for c in found.columns]
            index = self.text.at(item.location)
            while self.text.word(index) != "(":
                index += 1
            start, end = self.text.ends[index], self.text.starts[self.text.matching(index, 1)]
            self.edits.replace(start, end, b", ".join(quoted(n) for n in after))
        return Entry(entry.alias, tuple(named.values()), entry.hidden, entry.writable)

    # -- joins -----------------------------------------------------------------------------------

    def _join(self, join: Node, scope: Scope) -> None:
        first, start = len(scope.entries), len(scope.visible)
        self.add(join.larg, scope)
        middle = len(scope.visible)
        self.add(join.rarg, scope)
        entries = scope.entries[first:]
        protected = any(e.protected for e in entries)
        if protected and (join.HasField("alias") or join.HasField("join_using_alias")):
            raise refuse("whole row", None, "an alias on a join with a protected table")
        left, right = scope.visible[start:middle], scope.visible[middle:]
        names = strings(join.using_clause)
        if join.is_natural:
            if any(e.fields is None for e in entries):
                if protected:
                    raise refuse("USING", None, "NATURAL JOIN with columns that are not known")
                return
            theirs = {f.name for f in right}
            names = [f.name for f in left if f.name in theirs]
            for entry in entries:
                if any(f.name in entry.hidden for e in entries for f in e.fields or ()):
                    raise refuse("USING", None, "NATURAL JOIN with the name of a hidden column")
        pairs = [self._pair(n, left, right, protected) for n in names]
        known = [p for p in pairs if p is not None]
        if len(known) < len(pairs):
            return  # nothing protected: the server knows
        rewritten = any(isinstance(f.value, Sealed) for pair in known for f in pair)
        if rewritten:
            self._joins[id(join)] = (join, known)
        self._merge(join, known, rewritten, scope, start, left, right)

    def _pair(
        self, name: str, left: "list[Field]", right: "list[Field]", protected: bool
    ) -> tuple[Field, Field] | None:
        ours = [f for f in left if f.name == name]
        theirs = [f for f in right if f.name == name]
        if len(ours) == 1 and len(theirs) == 1:
            return ours[0], theirs[0]
        if protected:
            raise refuse("USING", None, f'the column "{name}" of JOIN … USING')
        return None

    def _merge(
        self, join: Node, pairs: "list[tuple[Field, Field]]", rewritten: bool, scope: Scope,
        start: int, left: "list[Field]", right: "list[Field]",
    ) -> None:  # fmt: skip
        """The columns of the join: the merged ones first, then the others of both sides."""
        merged = []
        for one, other in pairs:
            if not rewritten:
                for side in (one, other):
                    if isinstance(side.value, Cell):
                        side.value.want_plain(0)
                # the server merges it, and its bare name means that
                merged.append(Field(one.name, None, quoted(one.name), b"", False, one.type_oid))
                continue
            self._check_pair(one, other)
            chosen = other if join.jointype == _RIGHT else one
            text, lead = chosen.text, chosen.lead
            if join.jointype == _FULL:
                text = b"COALESCE(" + one.text + b", " + other.text + b")"
                lead = b""
            merged.append(Field(one.name, chosen.value, text, lead, True, one.type_oid))
        gone = {id(f) for pair in pairs for f in pair}
        scope.visible[start:] = merged + [f for f in (*left, *right) if id(f) not in gone]

    def _check_pair(self, one: Field, other: Field) -> None:
        a, b = one.value, other.value
        if isinstance(a, Sealed) and isinstance(b, Sealed):
            comparable(a.column, b.column)
            if a.column.type.oid != b.column.type.oid or a.column.ring != b.column.ring:
                raise refuse("domain", a.column, "JOIN … USING with another type")
            return
        if isinstance(a, Sealed) or isinstance(b, Sealed):
            column = (a if isinstance(a, Sealed) else b).column  # type: ignore[union-attr]
            raise refuse("domain", column, "JOIN … USING with a column that is not sealed")
        if not one.type_oid or one.type_oid != other.type_oid:
            raise refuse("USING", None, f'JOIN … USING ("{one.name}") with columns of two types')

    def _tag(self, field: Field) -> bytes:
        return self.query.expressions.field_tag(field)

    def _written_out(self, join: Node, pairs: "list[tuple[Field, Field]]") -> None:
        """USING or NATURAL becomes ON."""
        tests = []
        for one, other in pairs:
            if one.sealed is not None:
                self.edits.columns.add(one.sealed)
                self.edits.compared.add(one.sealed)
                tests.append(self._tag(one) + b" = " + self._tag(other))
            else:
                tests.append(one.text + b" = " + other.text)
        condition = b"ON (" + b" AND ".join(tests) + b")"
        after = item_end(self.text, join.rarg)
        if join.is_natural:
            word = join_word(self.text, join.rarg)
            self.edits.replace(self.text.starts[word], self.text.ends[word])
            where = self.text.ends[after - 1]
            self.edits.replace(where, where, b" " + condition)
            return
        if self.text.word(after) != "using":
            raise refuse("USING", None, "this JOIN … USING")
        close = self.text.matching(after + 1, 1)
        self.edits.replace(self.text.starts[after], self.text.ends[close], condition)

    # -- functions -------------------------------------------------------------------------------

    def _function(self, item: Node, scope: Scope) -> None:
        alias, names = item.alias.aliasname, strings(item.alias.colnames)
        calls = [f.list.items[0] for f in item.functions]
        if item.coldeflist:
            columns = [(d.column_def.colname, None, 0) for d in item.coldeflist]
            scope.add(Derived(tuple(columns)).entry(alias, names))
            return
        if len(calls) != 1 or kind(calls[0]) != "func_call":
            scope.add(Entry(alias, None))
            return
        call = calls[0].func_call
        name = strings(call.funcname)[-1]
        label = alias if alias and len(call.args) == 1 else name
        found: list[tuple[str, Value, int]]
        if name == "unnest" and all(self._open_array(a, scope) for a in call.args):
            cells = [Cell() for _ in call.args]
            found = [(label, cell, 0) for cell in cells]
            self.query.defer(lambda: self._unnested(call, cells, scope))
        elif name in _SCALAR:
            found = [(alias or name, None, 0)]
        else:
            scope.add(Entry(alias or name, None))
            return
        if item.ordinality:
            found.append(("ordinality", None, 0))
        scope.add(Derived(tuple(found)).entry(alias or name, names))

    def _open_array(self, node: Node, scope: Scope) -> bool:
        """An array of a known type that only parameters and literals feed."""
        if kind(node) == "type_cast":
            name, array = type_text(node.type_cast.type_name)
            try:
                resolve(name)
            except ConfigError:
                return False
            return array and self._open_array(node.type_cast.arg, scope)
        if kind(node) == "a_array_expr":
            return all(self.query.operands.leaf(e) for e in node.a_array_expr.elements)
        return kind(node) in ("param_ref", "a_const")

    def _unnested(self, call: Node, cells: "list[Cell]", scope: Scope) -> None:
        for node, cell in zip(call.args, cells, strict=True):
            if cell.form in ("tag", "sealed"):
                assert cell.column is not None
                use = Use.TAG if cell.form == "tag" else Use.STORE
                if not self.query.operands.array(node, cell.column, use):
                    raise refuse("write", cell.column, "writing this array")
            else:
                self.query.expressions.plain(node, scope)

    def _arguments(self, item: Node, scope: Scope) -> None:
        for function in item.functions:
            call = function.list.items[0]
            name = strings(call.func_call.funcname)[-1:] if kind(call) == "func_call" else []
            single = len(item.functions) == 1 and not item.coldeflist and name == ["unnest"]
            if single and all(self._open_array(a, scope) for a in call.func_call.args):
                continue  # `_unnested` does it
            self.query.expressions.plain(call, scope)

    # -- WITH ------------------------------------------------------------------------------------

    def ctes(self, clause: Node, scope: Scope) -> None:
        """Adds the CTEs of a WITH to the scope."""
        later = {n.common_table_expr.ctename for n in clause.ctes} if clause.recursive else set()
        for node in clause.ctes:
            cte = node.common_table_expr
            names = strings(cte.aliascolnames)
            later.discard(cte.ctename)
            if later & {r for r in _names_in(cte.ctequery)}:
                raise refuse("recursive", None, "WITH RECURSIVE that names a later query")
            if kind(cte.ctequery) != "select_stmt":
                scope.ctes[cte.ctename] = self._modifying(cte.ctequery, scope).derived(names)
                continue
            statement = cte.ctequery.select_stmt
            itself = clause.recursive and cte.ctename in _names_in(cte.ctequery)
            if itself:
                level = self._recursive(cte, statement, names, scope)
            else:
                level = self.query.level(statement, scope)
            self._emit_later(level)
            scope.ctes[cte.ctename] = level.derived(names)

    def _emit_later(self, level: "Level") -> None:
        def emit() -> None:
            wants = level.wants()
            self.query.emit(level, wants)
            if level.wants() != wants:
                raise refuse("recursive", None, "WITH RECURSIVE that uses a value in another form")

        self.query.defer(emit)

    def _modifying(self, node: Node, scope: Scope) -> "Level":
        from proxy.postgres import dml

        level = dml.modify(self.query, node, scope)
        # values that RETURNING makes of constants stay what they are
        level.outputs = [
            o if isinstance(o.origin, Sealed) else type(o)(o.name) for o in level.outputs
        ]
        return level

    def _recursive(self, cte: Node, statement: Node, names: "list[str]", scope: Scope) -> "Level":
        if statement.op <= 1 or statement.HasField("with_clause"):
            raise refuse("recursive", None, "this WITH RECURSIVE")
        if cte.HasField("search_clause") or cte.HasField("cycle_clause"):
            raise refuse("recursive", None, "SEARCH or CYCLE beside a protected table")
        inside = Scope(scope)
        first = self.query.level(statement.larg, inside)
        derived = first.derived(names)
        scope.ctes[cte.ctename] = derived
        level = self.query.level(statement, scope)
        level.recursive = True
        for i, output in enumerate(level.outputs):
            if isinstance(output.origin, Sealed) and not isinstance(
                first.outputs[i].origin, Sealed
            ):
                raise refuse("recursive", output.origin.column, "a recursive term that adds values")
        # the uses of its columns are the uses of its first part's
        level.cells = first.cells
        return level


def _names_in(node: Node) -> "list[str]":
    found = []
    stack = [node]
    while stack:
        message = stack.pop()
        if message.DESCRIPTOR.name == "RangeVar" and not message.schemaname:
            found.append(message.relname)
        stack += fields(message)
    return found
