"""Order tokens in SQL: <, <=, >, >=, BETWEEN, ORDER BY, min and max on a protected column. Pure.

Every comparison is two-sided inside the token's key: `c < v` is `c__ox >= start AND c__ox < token(v)`,
so that a value under another key falls outside instead of comparing arbitrarily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.postgres.edits import Piece
from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import EQUALITY, ORDER, IndexColumn, tokens_of
from proxy.postgres.names import Scope
from proxy.postgres.plan import Use
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn

if TYPE_CHECKING:
    from proxy.postgres.expressions import Expressions

COMPARISONS = ("<", "<=", ">", ">=")
_EQUAL = ("=", "<>")  # without an equality tag; tokens are equal where values are
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}
_BOUNDS = {
    "<": (Use.ORDER_START, Use.ORDER_LT),
    "<=": (Use.ORDER_START, Use.ORDER_LE),
    ">": (Use.ORDER_GT, Use.ORDER_END),
    ">=": (Use.ORDER_GE, Use.ORDER_END),
    "=": (Use.ORDER_GE, Use.ORDER_LE),
    "<>": (Use.ORDER_GE, Use.ORDER_LE),
}
# A_Expr_Kind
_OP, _BETWEEN, _NOT_BETWEEN, _BETWEEN_SYM, _NOT_BETWEEN_SYM = 1, 11, 12, 13, 14


class Ordering:
    """Of one statement's expressions."""

    def __init__(self, expressions: Expressions) -> None:
        self._of = expressions

    def compare(
        self, form: int, operator: str, left: Node, right: Node, scope: Scope, position: int
    ) -> bool:
        """Whether this was a comparison by order of a column that has one; then the edits are made."""
        one, other = self._of.peek(left, scope), self._of.peek(right, scope)
        column = one or other
        if column is None:
            return False
        tokens = tokens_of(column, ORDER)
        if tokens is None:
            return False
        if form in (_BETWEEN, _NOT_BETWEEN):
            if one is None:
                raise refuse("<", column, "BETWEEN this column", position)
            self._between(form == _NOT_BETWEEN, left, right, scope, tokens, position)
            return True
        equal = operator in _EQUAL and not column.equality
        if form != _OP or not (operator in COMPARISONS or equal):
            return False
        if one is not None and other is not None:
            self._two_columns(left, right, one, other, scope)
        elif one is not None:
            self._one_sided(left, operator, right, (left, right), scope, tokens, position)
        else:
            turned = _TURNED[operator]
            self._one_sided(right, turned, left, (left, right), scope, tokens, position)
        return True

    def _two_columns(
        self, left: Node, right: Node, one: ProtectedColumn, other: ProtectedColumn, scope: Scope
    ) -> None:
        self._of.same_domain(one, other)
        if one.search.order_bits != other.search.order_bits:
            raise refuse("domain", one, f'comparison with "{other.table}.{other.column}"')
        for node, column in ((left, one), (right, other)):
            tokens = tokens_of(column, ORDER)
            assert tokens is not None
            self._of.edits.compared.add(column)
            self.replace(node, scope, tokens)

    def replace(self, node: Node, scope: Scope, tokens: IndexColumn) -> None:
        """A column reference becomes its order tokens."""
        start, end = self._of.span(node.column_ref)
        self._of.edits.columns.add(tokens.column)
        self._of.edits.replace(start, end, self._of.tokens_text(node, scope, tokens))

    def _pieces(self, node: Node, column: ProtectedColumn, use: Use, position: int) -> Piece:
        piece = self._of.operand_piece(node, column, use)
        if piece is None:
            raise refuse("write", column, "comparison with an expression", position)
        return piece[2]

    def _one_sided(
        self, reference: Node, operator: str, operand: Node, both: tuple[Node, Node], scope: Scope,
        tokens: IndexColumn, position: int,
    ) -> None:  # fmt: skip
        column = tokens.column
        place = self._of.tokens_text(reference, scope, tokens)
        low, high = (self._pieces(operand, column, use, position) for use in _BOUNDS[operator])
        start, end = self._span(both, column, position)
        self._of.edits.columns.add(column)
        lead = b"NOT (" if operator == "<>" else b"("
        self._of.edits.replace(
            start, end, lead + place + b" >= ", low, b" AND " + place + b" < ", high, b")"
        )

    def _between(
        self, negated: bool, reference: Node, bounds: Node, scope: Scope, tokens: IndexColumn,
        position: int,
    ) -> None:  # fmt: skip
        column = tokens.column
        place = self._of.tokens_text(reference, scope, tokens)
        first, second = bounds.list.items
        low = self._pieces(first, column, Use.ORDER_GE, position)
        high = self._pieces(second, column, Use.ORDER_LE, position)
        start, end = self._span((reference, second), column, position)
        lead = b"NOT (" if negated else b"("
        self._of.edits.columns.add(column)
        self._of.edits.replace(
            start, end, lead + place + b" >= ", low, b" AND " + place + b" < ", high, b")"
        )

    def _span(
        self, both: tuple[Node, Node], column: ProtectedColumn, position: int
    ) -> tuple[int, int]:
        """From the first operand to the last, with the brackets around either."""
        spans = []
        for node in both:
            if kind(node) == "column_ref":
                spans.append(self._of.span(node.column_ref))
                continue
            piece = self._of.operand_piece(node, column, Use.ORDER_GE)
            assert piece is not None
            spans.append(piece[:2])
        return self._of.widened(*spans[0], *spans[1], column, position)

    # -- ORDER BY --------------------------------------------------------------------------------

    def sort_key(
        self, key: Node, reference: Node | None, scope: Scope, column: ProtectedColumn
    ) -> None:
        """One key of ORDER BY, a name or a position, becomes the tokens of `reference`, which it
        means. Refusal where the column has no order, or the tokens are not there to sort by."""
        tokens = tokens_of(column, ORDER)
        if tokens is None:
            raise refuse("ORDER BY", column, "ORDER BY")
        usable = reference is not None and kind(reference) == "column_ref"
        if not usable or self._of.peek(reference, scope) != column or key.sortby_dir == 4:
            raise refuse("sorted", column, "this ORDER BY")
        text = self._of.text
        if kind(key.node) == "column_ref":
            start, end = self._of.span(key.node.column_ref)
        else:
            start = key.node.a_const.location
            end = text.ends[text.at(start)]
        self._of.edits.columns.add(column)
        self._of.edits.compared.add(column)
        self._of.edits.replace(start, end, self._of.tokens_text(reference, scope, tokens))

    # -- min, max --------------------------------------------------------------------------------

    def extreme_of(self, node: Node, scope: Scope) -> IndexColumn | None:
        """The tokens by which min(c) or max(c) is found, where the expression is one of a column that
        has them."""
        if kind(node) != "func_call":
            return None
        call = node.func_call
        names = strings(call.funcname)
        if names[-1] not in ("min", "max") or names[:-1] not in ([], ["pg_catalog"]):
            return None
        if len(call.args) != 1:
            return None
        column = self._of.peek(call.args[0], scope)
        tokens = tokens_of(column, ORDER) if column is not None else None
        if column is None or tokens is None:
            return None
        if call.over.ByteSize() or call.agg_order or call.agg_within_group:
            raise refuse("window", column, f"{names[-1]} as a window function", call.location + 1)
        return tokens

    def extreme(self, call: Node, tokens: IndexColumn, scope: Scope, tag: bool = False) -> None:
        """min(c) and max(c) become the first of the values, or of their tags, by the order tokens."""
        text = self._of.text
        index = text.at(call.location)
        while text.word(index) != "(":
            index += 1
        close = text.matching(index, 1)
        reference = call.args[0].column_ref
        start, end = self._of.span(reference)
        way = b"ASC" if strings(call.funcname)[-1] == "min" else b"DESC"
        place = self._of.tokens_text(call.args[0], scope, tokens)
        value = text.sql[start:end]
        if tag:
            value = self._of.tokens_text(call.args[0], scope, IndexColumn(tokens.column, EQUALITY))
        self._of.edits.columns.add(tokens.column)
        self._of.edits.compared.add(tokens.column)
        self._of.edits.replace(
            call.location, text.ends[close],
            b"(pg_catalog.array_agg(%s ORDER BY %s %s NULLS LAST)" % (value, place, way),
        )  # fmt: skip
        if call.agg_filter.ByteSize():
            self._of.plain(call.agg_filter, scope)
            opening = close + 1
            while text.word(opening) != "(":
                opening += 1
            close = text.matching(opening, 1)
        self._of.edits.replace(text.ends[close], text.ends[close], b")[1]")
