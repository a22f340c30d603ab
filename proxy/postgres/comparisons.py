"""Comparisons of sealed values: what each operator becomes. Pure.

`apply()` is the one place where it is decided what an operator on a sealed value means. Equality goes by
tags. A column has one tag for a value while its ring has one index key; after a rotation it has several,
and a search asks for all of them: `= tag` becomes `= ANY(tags)`, with `Either` in the plan, so that the
usual case keeps its plain operator (and the server its generic plans). Where stored tags are compared
with each other, one index key is a condition: such columns are noted in `edits.compared`.
"""

from typing import TYPE_CHECKING

from proxy.postgres.edits import Piece
from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import MATCH, RANGE, tokens_of
from proxy.postgres.names import Scope, Sealed
from proxy.postgres.operands import Leaf
from proxy.postgres.plan import Either, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.provenance import Open
from proxy.postgres.snapshot import ProtectedColumn

if TYPE_CHECKING:
    from proxy.postgres.expressions import Expressions

# A_Expr_Kind of the grammar
_OP, _ANY, _ALL, _DISTINCT, _NOT_DISTINCT, _NULLIF, _IN = 1, 2, 3, 4, 5, 6, 7
_NAMES = {
    8: "LIKE", 9: "ILIKE", 10: "SIMILAR TO", 11: "BETWEEN", 12: "NOT BETWEEN",
    13: "BETWEEN SYMMETRIC", 14: "NOT BETWEEN SYMMETRIC",
}  # fmt: skip
# SubLinkType
_EXISTS, _ALL_LINK, _ANY_LINK, _EXPR_LINK, _ARRAY_LINK = 1, 2, 3, 5, 7


def operator_of(expr: Node) -> str:
    """The operator of an A_Expr as the rule table names it."""
    name = strings(expr.name)[-1] if expr.name else ""
    if expr.kind == _IN:
        return "IN" if name == "=" else "NOT IN"
    if expr.kind in (_ANY, _ALL):
        return f"{name} {'ANY' if expr.kind == _ANY else 'ALL'}"
    if expr.kind == _DISTINCT:
        return "IS DISTINCT FROM"
    if expr.kind == _NOT_DISTINCT:
        return "IS NOT DISTINCT FROM"
    if expr.kind in (8, 9):
        return ("NOT " if name.startswith("!") else "") + _NAMES[expr.kind]
    return _NAMES.get(expr.kind, name)


class Comparisons:
    """Of one statement."""

    def __init__(self, expressions: "Expressions") -> None:
        self.expressions = expressions
        self.query = expressions.query
        self.text = expressions.text
        self.edits = expressions.edits
        self.operands = expressions.operands
        self.provenance = expressions.provenance

    # -- which comparison is it ------------------------------------------------------------------

    def expression(self, expr: Node, scope: Scope) -> None:
        """An operator whose result is plain."""
        left, right = expr.lexpr, expr.rexpr
        if expr.kind == _NULLIF:
            self._nullif_plain(expr, scope)
            return
        if kind(left) == "row_expr" and self._rows(expr, scope):
            return
        position = max(expr.location, 0) + 1
        for search in (self.expressions.patterns, self.expressions.ordering):
            operator = strings(expr.name)[-1] if expr.name else ""
            if search.compare(expr.kind, operator, left, right, scope, position):
                return
        items = [right]
        if kind(right) == "list":
            items = list(right.list.items)
        one = self.provenance.of(left, scope) if left.ByteSize() else None
        others = [self.provenance.of(i, scope) for i in items]
        sealed = [o for o in (one, *others) if isinstance(o, Sealed)]
        if not sealed:
            for node in (left, *items):
                if node.ByteSize():
                    self.expressions.plain(node, scope)
            return
        column = sealed[0].column
        self.edits.columns.add(column)
        self.apply(column, operator_of(expr), expr, scope, not isinstance(one, Sealed))

    def apply(
        self, column: ProtectedColumn, operator: str, expr: Node, scope: Scope, swapped: bool
    ) -> None:
        """The comparison `expr` of a sealed value of `column`, which stands on the right of the
        operator if `swapped`. Records the edits; Refusal where it is not possible. What transformed
        columns and order tokens can do has been tried before."""
        position = max(expr.location, 0) + 1
        if operator in ("=", "<>"):
            self._equal(column, operator, expr, scope, swapped)
        elif operator in ("IN", "NOT IN"):
            self._in(column, expr, scope, swapped)
        elif operator in ("= ANY", "<> ALL", "<> ANY", "= ALL") and not swapped:
            self._array(column, operator, expr, scope)
        elif operator in ("IS DISTINCT FROM", "IS NOT DISTINCT FROM"):
            self._distinct(column, operator, expr, scope, swapped)
        elif "LIKE" in operator or "SIMILAR" in operator or "~" in operator:
            rule = "recheck" if tokens_of(column, MATCH) else "LIKE"
            raise refuse(rule, column, "this pattern search", position)
        elif operator[0] in "<>" or "BETWEEN" in operator:
            rule = "recheck" if tokens_of(column, RANGE) else "<"
            raise refuse(rule, column, f"operator {operator}", position)
        else:
            raise refuse("expression", column, f"operator {operator}", position)

    # -- equality --------------------------------------------------------------------------------

    def _found(self, leaf: Leaf, column: ProtectedColumn, several: bytes) -> tuple[Piece, ...]:
        """What stands on the right of `=` or `<>` for the values that the leaf finds."""
        piece = self.operands.piece(leaf, column, Use.SEARCH)
        return Either(column, b"", several + b"("), piece, Either(column, b"", b")")

    def _tag(self, node: Node, column: ProtectedColumn, scope: Scope) -> None:
        """One tag. Refusal for what is neither sealed nor open."""
        origin = self.provenance.of(node, scope)
        if not isinstance(origin, Sealed | Open):
            raise refuse("write", column, "comparison with an expression")
        self.expressions.emit(node, scope, (Use.TAG, column))

    def _pair(self, column: ProtectedColumn, one: Node, other: Node, scope: Scope) -> None:
        self.edits.compared.add(column)
        self._tag(one, column, scope)
        self._tag(other, column, scope)

    def _equal(
        self, column: ProtectedColumn, operator: str, expr: Node, scope: Scope, swapped: bool
    ) -> None:
        reference, operand = (expr.rexpr, expr.lexpr) if swapped else (expr.lexpr, expr.rexpr)
        leaf = self.operands.leaf(operand)
        several = b"ANY" if operator == "=" else b"ALL"
        if leaf is None:
            self._pair(column, expr.lexpr, expr.rexpr, scope)
        elif not swapped:
            self._tag(reference, column, scope)
            self.edits.replace(leaf.start, leaf.end, *self._found(leaf, column, several))
        elif kind(reference) == "column_ref":  # ANY stands on the right only
            text = self._column_tag(reference, column, scope)
            start, end = self.expressions.span(reference.column_ref)
            self.edits.replace(leaf.start, leaf.end, text)
            self.edits.replace(start, end, *self._found(leaf, column, several))
        else:
            self._pair(column, expr.lexpr, expr.rexpr, scope)

    def _column_tag(self, node: Node, column: ProtectedColumn, scope: Scope) -> bytes:
        """The text of a sealed column's tag, without an edit."""
        if not column.equality:
            raise refuse("no equality", column, "comparison", node.column_ref.location + 1)
        found = self.provenance.lookup(node.column_ref, scope)
        assert found is not None
        return self.expressions.tag_text(node.column_ref, found[0])

    def _in(self, column: ProtectedColumn, expr: Node, scope: Scope, swapped: bool) -> None:
        items = list(expr.rexpr.list.items)
        leaves = [self.operands.leaf(item) for item in items]
        if swapped or any(leaf is None for leaf in leaves):
            self.edits.compared.add(column)
            for node in (expr.lexpr, *items):
                self._tag(node, column, scope)
            return
        self._tag(expr.lexpr, column, scope)
        at = self.text.at(expr.location)
        negated = self.text.word(at) == "not"
        start, end = self.text.starts[at], self.text.ends[at + negated]
        several = b"<> ALL" if negated else b"= ANY"
        self.edits.replace(start, end, Either(column, self.text.sql[start:end], several))
        texts = any(leaf.says_text for leaf in leaves if leaf is not None)
        listed = len(leaves) > 1 and not texts
        for i, leaf in enumerate(leaves):
            assert leaf is not None
            piece = self.operands.piece(leaf, column, Use.SEARCH, listed)
            self.edits.replace(leaf.start, leaf.end, piece)
            if i + 1 < len(leaves):
                comma = self.text.at(leaf.end)
                while self.text.word(comma) == ")":
                    comma += 1
                assert self.text.word(comma) == ","
                span = self.text.starts[comma], self.text.ends[comma]
                self.edits.replace(*span, Either(column, b",", b"||"))

    def _array(self, column: ProtectedColumn, operator: str, expr: Node, scope: Scope) -> None:
        exact = operator in ("= ANY", "<> ALL")
        self._tag(expr.lexpr, column, scope)
        if not exact:
            self.edits.compared.add(column)
        if self.operands.array(expr.rexpr, column, Use.SEARCH if exact else Use.TAG):
            return
        if kind(expr.rexpr) == "sub_link" and expr.rexpr.sub_link.sub_link_type == _ARRAY_LINK:
            self.edits.compared.add(column)
            self._sub_select(expr.rexpr.sub_link, [column], scope)
            return
        raise refuse("write", column, "comparison with this array", max(expr.location, 0) + 1)

    def _distinct(
        self, column: ProtectedColumn, operator: str, expr: Node, scope: Scope, swapped: bool
    ) -> None:
        leaf = self.operands.leaf(expr.rexpr)
        if swapped or leaf is None or kind(expr.lexpr) != "column_ref":
            self._pair(column, expr.lexpr, expr.rexpr, scope)
            return
        # several: (array_position(tags, tag) IS [NOT] NULL); it finds NULL among the tags, too
        start, end = self.expressions.span(expr.lexpr.column_ref)
        tag = self._column_tag(expr.lexpr, column, scope)
        self.edits.replace(start, end, Either(column, tag, b""))
        at = self.text.at(expr.location)
        words = self.text.at(leaf.start)
        while self.text.word(words - 1) == "(":
            words -= 1
        first, last = self.text.starts[at], self.text.ends[words - 1]
        self.edits.replace(first, last, Either(column, self.text.sql[first:last], b""))
        found = b"NOT NULL" if "NOT" in operator else b"NULL"
        self.edits.replace(
            leaf.start, leaf.end,
            Either(column, b"", b"(pg_catalog.array_position("),
            self.operands.piece(leaf, column, Use.SEARCH),
            Either(column, b"", b", " + tag + b") IS " + found + b")"),
        )  # fmt: skip

    # -- rows ------------------------------------------------------------------------------------

    def _rows(self, expr: Node, scope: Scope) -> bool:
        """(a, b) = (c, d), (a, b) IN (…), (a, b) = (SELECT …). False: it is none of these."""
        left = list(expr.lexpr.row_expr.args)
        right = expr.rexpr
        if kind(right) == "sub_link" and right.sub_link.sub_link_type == _EXPR_LINK:
            self._link_pairs(left, right.sub_link, operator_of(expr), scope, expr)
            return True
        rows = [right] if kind(right) == "row_expr" else []
        if kind(right) == "list" and expr.kind == _IN:
            rows = list(right.list.items)
        if not rows or any(kind(r) != "row_expr" for r in rows):
            return False
        for i, node in enumerate(left):
            others = [r.row_expr.args[i] for r in rows if i < len(r.row_expr.args)]
            self._row_position(node, others, expr, scope)
        return all(len(r.row_expr.args) == len(left) for r in rows)

    def _row_position(self, node: Node, others: "list[Node]", expr: Node, scope: Scope) -> None:
        nodes = [node, *others]
        origins = [self.provenance.of(n, scope) for n in nodes]
        column = next((o.column for o in origins if isinstance(o, Sealed)), None)
        if column is None:
            for item in nodes:
                self.expressions.plain(item, scope)
            return
        operator = operator_of(expr)
        if operator not in ("=", "<>", "IN", "NOT IN", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"):
            raise refuse("<", column, f"operator {operator} on rows", max(expr.location, 0) + 1)
        self.edits.compared.add(column)
        for item in nodes:
            self._tag(item, column, scope)

    # -- sub-selects -----------------------------------------------------------------------------

    def sub_link(self, link: Node, scope: Scope) -> None:
        """A sub-select whose value is plain."""
        if link.testexpr.ByteSize():
            name = strings(link.oper_name)[-1] if link.oper_name else "="
            left = [link.testexpr]
            if kind(link.testexpr) == "row_expr":
                left = list(link.testexpr.row_expr.args)
            self._link_pairs(left, link, name, scope, link)
            return
        level = self.query.level(link.subselect.select_stmt, scope)
        if link.sub_link_type != _EXISTS:  # it lets go of the outputs
            for output in level.outputs:
                if isinstance(output.origin, Sealed):
                    position = max(link.location, 0) + 1
                    what = "a sub-select that yields it here"
                    raise refuse("expression", output.origin.column, what, position)
        self.query.emit(level, None)

    def _link_pairs(
        self, left: "list[Node]", link: Node, operator: str, scope: Scope, expr: Node
    ) -> None:
        level = self.query.level(link.subselect.select_stmt, scope)
        columns: list[ProtectedColumn | None] = []
        if len(left) != len(level.outputs) and not level.unknown:
            left = left[: len(level.outputs)]  # an error of the server's
        for i, node in enumerate(left):
            inside = level.outputs[i].origin if i < len(level.outputs) else None
            origin = self.provenance.of(node, scope)
            sealed = next((o.column for o in (origin, inside) if isinstance(o, Sealed)), None)
            columns.append(sealed)
            if sealed is None:
                self.expressions.plain(node, scope)
                continue
            if operator not in ("=", "<>"):
                raise refuse("<", sealed, f"operator {operator}", max(expr.location, 0) + 1)
            if not isinstance(inside, Sealed | Open):
                position = max(expr.location, 0) + 1
                raise refuse("domain", sealed, "comparison with this sub-select", position)
            self.edits.compared.add(sealed)
            self._tag(node, sealed, scope)
        self._sub_select(link, columns, scope)

    def _sub_select(
        self, link: Node, columns: "list[ProtectedColumn | None]", scope: Scope
    ) -> None:
        level = self.query.level(link.subselect.select_stmt, scope)
        self.query.emit(level, [None if c is None else (Use.TAG, c) for c in columns])

    # -- NULLIF and CASE … WHEN ------------------------------------------------------------------

    def _nullif_plain(self, expr: Node, scope: Scope) -> None:
        for node in (expr.lexpr, expr.rexpr):
            origin = self.provenance.of(node, scope)
            if isinstance(origin, Sealed):
                raise refuse("expression", origin.column, "NULLIF", max(expr.location, 0) + 1)
            self.expressions.plain(node, scope)

    def nullif(self, expr: Node, scope: Scope, want: tuple[Use, ProtectedColumn]) -> None:
        """NULLIF(a, b) as a tag: of tags. As a value: CASE WHEN tag(a) = tag(b) THEN NULL ELSE a END."""
        use, column = want
        left, right = expr.lexpr, expr.rexpr
        if use is Use.TAG:
            self._pair(column, left, right, scope)
            return
        test, value = self._both_forms(left, want, scope)
        leaf = self.operands.leaf(right)
        name = self.text.at(expr.location)
        close = self.text.matching(name + 1, 1)
        start, end = self._simple_span(left)
        comma = self.text.at(end)
        if self.text.word(name) != "nullif" or self.text.word(comma) != ",":
            raise refuse("expression", column, "this NULLIF", max(expr.location, 0) + 1)
        self.edits.replace(expr.location, self.text.ends[name + 1], b"(CASE WHEN ")
        self.edits.replace(start, end, test)
        self.edits.replace(self.text.starts[comma], self.text.ends[comma], b" = ")
        if leaf is not None and kind(left) == "column_ref":
            self.edits.replace(leaf.start, leaf.end, *self._found(leaf, column, b"ANY"))
        else:
            self.edits.compared.add(column)
            self._tag(right, column, scope)
        last = self.text.starts[close]
        self.edits.replace(last, last, b" THEN NULL ELSE ", value, b" END")

    def _simple_span(self, node: Node) -> tuple[int, int]:
        leaf = self.operands.leaf(node)
        return (leaf.start, leaf.end) if leaf else self.expressions.span(node.column_ref)

    def _both_forms(
        self, node: Node, want: tuple[Use, ProtectedColumn], scope: Scope
    ) -> tuple[Piece, Piece]:
        """A parameter, literal or column as a tag and as a value."""
        use, column = want
        leaf = self.operands.leaf(node)
        if leaf is not None:
            forms = (Use.TAG, use)
            tag, value = (self.operands.piece(leaf, column, form) for form in forms)
            return tag, value
        if kind(node) != "column_ref":
            raise refuse("expression", column, "NULLIF of an expression")
        found = self.provenance.lookup(node.column_ref, scope)
        if found is None or not isinstance(found[0].value, Sealed):
            raise refuse("expression", column, "NULLIF of this value")
        start, end = self.expressions.span(node.column_ref)
        self.expressions.copied(want, found[0].value, node.column_ref.location + 1)
        written = self.text.sql[start:end]
        tag = self._column_tag(node, column, scope)
        return tag, self.expressions.value_text(written, found[0], found[1])

    def case(self, case: Node, scope: Scope) -> None:
        """The operand and the WHENs of CASE operand WHEN …; not the results."""
        whens = [w.case_when.expr for w in case.args]
        nodes = [case.arg, *whens]
        origins = [self.provenance.of(n, scope) for n in nodes]
        column = next((o.column for o in origins if isinstance(o, Sealed)), None)
        if column is None:
            for node in nodes:
                self.expressions.plain(node, scope)
            return
        self.edits.columns.add(column)
        leaves = [self.operands.leaf(w) for w in whens]
        if kind(case.arg) != "column_ref" or any(leaf is None for leaf in leaves):
            self.edits.compared.add(column)
            for node in nodes:
                self._tag(node, column, scope)
            return
        if not isinstance(origins[0], Sealed):
            raise refuse("expression", column, "this CASE", max(case.location, 0) + 1)
        # several: CASE WHEN tag = ANY(tags) …
        start, end = self.expressions.span(case.arg.column_ref)
        tag = self._column_tag(case.arg, column, scope)
        self.edits.replace(start, end, Either(column, tag, b""))
        for leaf in leaves:
            assert leaf is not None
            self.edits.replace(
                leaf.start, leaf.end,
                Either(column, b"", tag + b" = ANY("),
                self.operands.piece(leaf, column, Use.SEARCH),
                Either(column, b"", b")"),
            )  # fmt: skip
