"""GROUP BY, DISTINCT, PARTITION BY and ORDER BY over sealed columns: by their tags, or refused. Pure.

Names and ordinals mean what they do in PostgreSQL (parse_clause.c, findTargetlistEntrySQL92): in
GROUP BY a bare name is a column of FROM before it is an output, in ORDER BY and DISTINCT ON the other
way round.
"""

from typing import TYPE_CHECKING

from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import ORDER, IndexColumn, tokens_of
from proxy.postgres.names import Cell, Field, Scope, Sealed
from proxy.postgres.plan import Use
from proxy.postgres.predicates import refuse
from proxy.postgres.provenance import Open
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.spans import leaf_span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.postgres.expressions import Want
    from proxy.postgres.query import Level, Output, Query

    Wants = Sequence[Want | None]

_USING = 4  # SortByDir


class Grouping:
    """Of one statement."""

    def __init__(self, query: "Query") -> None:
        self.query = query
        self.text = query.text
        self.edits = query.edits

    def key(self, node: Node, scope: Scope) -> None:
        """An expression of which only equality matters: sealed values become tags."""
        if kind(node) == "row_expr":
            for item in node.row_expr.args:
                self.key(item, scope)
            return
        found = self.query.provenance.of(node, scope)
        if isinstance(found, Sealed):
            self.edits.compared.add(found.column)
            self.query.expressions.emit(node, scope, (Use.TAG, found.column))
        else:
            self.query.expressions.plain(node, scope)

    def window(self, window: Node, scope: Scope) -> None:
        """A window definition."""
        for node in window.partition_clause:
            self.key(node, scope)
        for node in window.order_clause:
            self.sort(node.sort_by, scope)
        for bound in (window.start_offset, window.end_offset):
            if bound.ByteSize():
                self.query.expressions.plain(bound, scope)

    # -- ORDER BY --------------------------------------------------------------------------------

    def sort(
        self, item: Node, scope: Scope, level: "Level | None" = None, wants: "Wants" = ()
    ) -> None:
        """One item of ORDER BY. `level`: whose outputs names and ordinals may mean, and how they are
        wanted."""
        node = item.node
        if not node.ByteSize():
            return
        behind = self._output(node, level.outputs if level is not None else [])
        origin = behind.origin if behind else self.query.provenance.of(node, scope)
        if isinstance(origin, Sealed):
            self._order(origin.column, item, scope, behind, level)
        elif behind is None:
            self.query.expressions.plain(node, scope)
        elif level is not None and wants:
            want = wants[next(i for i, o in enumerate(level.outputs) if o is behind)]
            if want is not None:
                position = max(item.location, 0) + 1
                raise refuse("ORDER BY", want[1], "ORDER BY a value that is sealed", position)

    def _order(
        self, column: ProtectedColumn, item: Node, scope: Scope, output: "Output | None",
        level: "Level | None",
    ) -> None:  # fmt: skip
        """ORDER BY a sealed value of `column`: the expression of the item, or an output."""
        tokens = tokens_of(column, ORDER)
        reference = item.node if output is None else output.node
        statement = level.statement if level is not None else None
        together = statement is not None and (statement.group_clause or statement.distinct_clause)
        starred = output is not None and output.field is not None
        if tokens is None or not (together or starred) or item.sortby_dir == _USING:
            self.query.expressions.ordering.sort_key(item, reference, scope, column)
            return
        assert level is not None
        assert statement is not None
        field, text = self._sorted(reference, output, tokens, scope)
        if field in scope.grouped:
            text = b"(pg_catalog.array_agg(" + text + b"))[1]"
        if statement.distinct_clause:
            keyed = kind(statement.distinct_clause[0])  # DISTINCT ON: its keys come first
            if self._sealed_key(level, scope) if keyed else output is None:
                raise refuse("sorted", column, "ORDER BY beside this DISTINCT")
            if not keyed:
                level.sorted_by.append(text)
        self.edits.columns.add(column)
        self.edits.replace(*self._span(item.node), text)

    def _sealed_key(self, level: "Level", scope: Scope) -> bool:
        """Whether DISTINCT ON names a sealed value: by its tag, which does not sort."""
        for node in level.statement.distinct_clause:
            output = self._output(node, level.outputs)
            origin = output.origin if output else self.query.provenance.of(node, scope)
            if isinstance(origin, Sealed):
                return True
        return False

    def _sorted(
        self, reference: "Node | None", output: "Output | None", tokens: IndexColumn, scope: Scope
    ) -> tuple[Field, bytes]:
        """The field that is sorted by, and how its tokens are written."""
        expressions = self.query.expressions
        if output is not None and output.field is not None:
            return output.field, expressions.field_tokens(output.field, tokens)
        if reference is None or kind(reference) != "column_ref":
            raise refuse("sorted", tokens.column, "this ORDER BY")
        found = self.query.provenance.lookup(reference.column_ref, scope)
        assert found is not None
        return found[0], expressions.tokens_text(reference, scope, tokens)

    def _output(self, node: Node, outputs: "list[Output]") -> "Output | None":
        """The output that an ordinal or bare name means, if it means one."""
        if kind(node) == "a_const" and node.a_const.WhichOneof("val") == "ival":
            index = node.a_const.ival.ival - 1
            return outputs[index] if 0 <= index < len(outputs) else None
        if kind(node) == "column_ref":
            parts = strings(node.column_ref.fields)
            if len(parts) == 1:
                named = [o for o in outputs if o.name == parts[0]]
                for output in named if len(named) > 1 else []:
                    if isinstance(output.origin, Sealed):
                        what = "ORDER BY a name of two outputs"
                        raise refuse("ORDER BY", output.origin.column, what)
                return named[0] if named else None
        return None

    # -- GROUP BY --------------------------------------------------------------------------------

    def group(self, level: "Level") -> None:
        """The items of GROUP BY; notes in the scope what is grouped by."""
        for node in level.statement.group_clause:
            self._group_item(node, level)

    def _group_item(self, node: Node, level: "Level") -> None:
        scope = level.scope
        if kind(node) == "grouping_set":
            self._grouping_set(node.grouping_set, level)
            return
        if kind(node) == "row_expr":
            for item in node.row_expr.args:
                self._group_item(item, level)
            return
        output = None
        bare = kind(node) == "column_ref" and len(node.column_ref.fields) == 1
        if not bare or scope.column(strings(node.column_ref.fields)[0]) is None:
            output = self._output(node, level.outputs)
        if output is None:
            found = self.query.provenance.of(node, scope)
            if not isinstance(found, Sealed):
                self.query.expressions.plain(node, scope)
                return
            self._group_by(node, node, None, found.column, scope)
        elif isinstance(output.origin, Sealed):
            self._group_by(node, output.node, output.field, output.origin.column, scope)
        elif isinstance(output.field, Field) and isinstance(output.field.value, Cell):
            output.field.value.want_plain(0)

    def _group_by(
        self, item: Node, behind: "Node | None", field: Field | None,
        column: ProtectedColumn, scope: Scope,
    ) -> None:  # fmt: skip
        """`item` of GROUP BY means the expression `behind`, or the field that a star brought."""
        position = max(item.column_ref.location, item.a_const.location, 0) + 1
        if not column.equality:
            raise refuse("no equality", column, "GROUP BY", position)
        if behind is not None:
            if kind(behind) != "column_ref":
                raise refuse("grouped expression", column, "GROUP BY an expression", position)
            found = self.query.provenance.lookup(behind.column_ref, scope)
            assert found is not None
            field, where = found
            tag = self.query.expressions.tag_text(behind.column_ref, field)
        else:
            assert field is not None
            where, tag = scope, self.query.expressions.field_tag(field)
        self.edits.columns.add(column)
        self.edits.compared.add(column)
        start, end = self._span(item)
        self.edits.replace(start, end, tag)
        if where is scope:
            scope.grouped.add(field)

    def _span(self, item: Node) -> tuple[int, int]:
        """Bytes of an ordinal or column."""
        if kind(item) == "a_const":
            start = item.a_const.location
            return start, self.text.ends[self.text.at(start)]
        return self.query.expressions.span(item.column_ref)

    def _grouping_set(self, sets: Node, level: "Level") -> None:
        for node in sets.content:
            if kind(node) == "grouping_set":
                self._grouping_set(node.grouping_set, level)
                continue
            items = list(node.row_expr.args) if kind(node) == "row_expr" else [node]
            for item in items:
                output = self._output(item, level.outputs)
                found = self.query.provenance.of(item, level.scope)
                for origin in (found, output.origin if output else None):
                    if isinstance(origin, Sealed):
                        raise refuse(
                            "grouping sets", origin.column, "ROLLUP, CUBE or GROUPING SETS"
                        )
                if output is None:
                    self.query.expressions.plain(item, level.scope)

    # -- DISTINCT --------------------------------------------------------------------------------

    def distinct(self, level: "Level", wants: "list[Want | None]") -> None:
        """DISTINCT becomes DISTINCT ON the tags of sealed outputs and the positions of the others;
        DISTINCT ON names tags where it named sealed columns."""
        clause = level.statement.distinct_clause
        if len(clause) != 1 or kind(clause[0]):
            for node in clause:
                self._distinct_on(node, level)
            return
        sealed = [w for w in wants if w is not None and w[0] is not Use.TAG]
        if not sealed:
            return
        keys: list[tuple[int, Field | None, bytes]] = []
        for i, (output, want) in enumerate(zip(level.outputs, wants, strict=True)):
            if want is None or want[0] is Use.TAG:
                keys.append((i, None, b""))
                continue
            self.edits.compared.add(want[1])
            if not want[1].equality:
                raise refuse("no equality", want[1], "DISTINCT")
            field, text = self._behind(output, want[1], level.scope)
            keys.append((i, field, text))
        word = self._word(level, sealed[0][1])
        where = self.text.ends[word]
        starred = any(o.field is not None for o in level.outputs)
        if starred and not all(o.field is None or o.field.merged is False for o in level.outputs):
            raise refuse("DISTINCT", sealed[0][1], "DISTINCT * over a merged join")
        self.query.later(lambda: self.edits.replace(where, where, self._on(keys, level)))

    def _behind(
        self, output: "Output", column: ProtectedColumn, scope: Scope
    ) -> tuple[Field | None, bytes]:
        """The field of an output that is a column, and how it is written."""
        if output.field is not None:
            return output.field, output.field.text
        node = output.node
        while kind(node) == "type_cast":
            node = node.type_cast.arg  # type: ignore[union-attr]
        if kind(node) != "column_ref":
            if isinstance(output.origin, Open) and self.query.operands.leaf(node):
                return None, b""  # one and the same value in every row
            raise refuse("grouped expression", column, "DISTINCT over an expression")
        assert node is not None
        found = self.query.provenance.lookup(node.column_ref, scope)
        assert found is not None
        start, end = self.query.expressions.span(node.column_ref)
        field = found[0]
        if isinstance(field.value, Cell):
            return field, self.text.sql[start:end]
        return field, self.query.expressions.tag_text(node.column_ref, field)

    def _on(self, keys: "list[tuple[int, Field | None, bytes]]", level: "Level") -> bytes:
        parts = list(level.sorted_by)  # what ORDER BY names must be among them
        for i, field, text in keys:
            if field is None:
                parts.append(b"%d" % (i + 1))
            elif isinstance(field.value, Cell) or text == field.text:
                parts.append(self.query.expressions.field_tag(field, text))
            else:
                parts.append(text)
        return b" ON (" + b", ".join(parts) + b")"

    def _word(self, level: "Level", column: ProtectedColumn) -> int:
        """Index of the word DISTINCT of a level."""
        start, _ = leaf_span(self.text, level.statement)
        if self.text.word(start + 1) != "distinct":
            raise refuse("DISTINCT", column, "this DISTINCT")
        return start + 1

    def _distinct_on(self, node: Node, level: "Level") -> None:
        output = self._output(node, level.outputs)
        scope = level.scope
        if output is None:
            self.key(node, scope)
            return
        if not isinstance(output.origin, Sealed):
            return
        column = output.origin.column
        if not column.equality:
            raise refuse("no equality", column, "DISTINCT ON")
        _, text = self._behind(output, column, scope)
        if output.field is not None:
            text = self.query.expressions.field_tag(output.field)
        self.edits.compared.add(column)
        start, end = self._span(node)
        self.edits.replace(start, end, text)
