"""Comparisons of a transformed column: lower(c) = lower($1), and what else its second tag serves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.crypto.folding import TRANSFORMS
from proxy.postgres import like
from proxy.postgres.edits import ParamRole
from proxy.postgres.grammar import Node, kind, strings, type_text
from proxy.postgres.indexing import EQUALITY, TRANSFORM, tokens_of
from proxy.postgres.names import Scope
from proxy.postgres.plan import Literal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import TEXT, VARCHAR, ProtectedColumn

if TYPE_CHECKING:
    from proxy.postgres.expressions import Expressions

_LIKES = {
    "~~": (EQUALITY, Use.LIKE_TAG, b" = "),
    "!~~": (EQUALITY, Use.LIKE_TAG, b" <> "),
    "~~*": (TRANSFORM, Use.ILIKE_TAG, b" = "),
    "!~~*": (TRANSFORM, Use.ILIKE_TAG, b" <> "),
}
_NO_OP_CASTS = frozenset({"text", "varchar"})


def _argument(call: Node) -> Node | None:
    """The argument of a call of one of the transforms' functions, a cast to text taken off."""
    names = strings(call.funcname)
    if len(names) > 1 and names[0] != "pg_catalog":
        return None
    if names[-1] not in {t.function for t in TRANSFORMS.values()} or not call.args:
        return None
    extras = (call.agg_distinct, call.agg_star, call.func_variadic, call.over.ByteSize())
    if any(extras) or call.agg_order or call.agg_filter.ByteSize():
        return None
    if len(call.args) == 2 and names[-1] == "normalize":
        form = call.args[1]
        if kind(form) != "a_const" or form.a_const.sval.sval.upper() != "NFC":
            return None
    elif len(call.args) != 1:
        return None
    found = call.args[0]
    while kind(found) == "type_cast":
        name, array = type_text(found.type_cast.type_name)
        if array or name not in _NO_OP_CASTS:
            return None
        found = found.type_cast.arg
    return found


def _fits(call: Node, column: ProtectedColumn) -> bool:
    transform = TRANSFORMS.get(column.search.transform)
    return transform is not None and transform.function == strings(call.funcname)[-1]


def transform_operand(call: Node, sealed: dict[str, ProtectedColumn]) -> ProtectedColumn | None:
    """The column of `lower(column)` in an index, where its transform is that function."""
    argument = _argument(call)
    if argument is None or kind(argument) != "column_ref":
        return None
    found = sealed.get(strings(argument.column_ref.fields)[-1])
    return found if found is not None and _fits(call, found) else None


class Patterns:
    """Of one statement's expressions."""

    def __init__(self, expressions: Expressions) -> None:
        self._of = expressions

    def transformed(self, node: Node, scope: Scope) -> tuple[ProtectedColumn, Node] | None:
        """(column, reference) of lower(column) where the column carries that tag."""
        if kind(node) != "func_call":
            return None
        argument = _argument(node.func_call)
        if argument is None:
            return None
        column = self._of.peek(argument, scope)
        if column is None or not _fits(node.func_call, column):
            return None
        return column, argument

    def compare(
        self, form: int, operator: str, left: Node, right: Node, scope: Scope, position: int
    ) -> bool:
        """Whether this was a comparison of a transformed column; then the edits are made."""
        if operator in _LIKES and form in (1, 8, 9):
            return self._like(operator, left, right, scope, position)
        one, other = self.transformed(left, scope), self.transformed(right, scope)
        found = one or other
        if found is None:
            return False
        column = found[0]
        # A_Expr_Kind: 1 OP, 4 DISTINCT, 5 NOT_DISTINCT, 7 IN
        if form not in (1, 4, 5, 7) or operator not in ("=", "<>") or (form == 7 and one is None):
            raise refuse("transform", column, f"operator {operator} on a function", position)
        if one is not None and other is not None:
            self._of.same_domain(one[0], other[0])
            if one[0].search.transform != other[0].search.transform:
                raise refuse("transform", column, "comparison of two transforms", position)
            self._tags(left, one, scope)
            self._tags(right, other, scope)
            return True
        self._tags(left if one is not None else right, found, scope)
        operand = right if one is not None else left
        for item in operand.list.items if form == 7 else [operand]:
            self._operand(item, column, position)
        return True

    def _like(self, operator: str, left: Node, right: Node, scope: Scope, position: int) -> bool:
        """A pattern without wildcards is a comparison of whole values: LIKE by the equality tag, ILIKE
        by that of `lower`. Whether a parameter is one is known when it is bound."""
        purpose, use, sign = _LIKES[operator]
        column = self._of.peek(left, scope)
        tokens = tokens_of(column, purpose) if column is not None else None
        if column is None or tokens is None or column.type.oid not in (TEXT, VARCHAR):
            return False
        if purpose == TRANSFORM and TRANSFORMS[column.search.transform].function != "lower":
            return False
        found = self._of.operand_piece(right, column, use)
        if found is None:
            return False
        start, end, piece = found
        if isinstance(piece, Literal):
            wild = any(c in piece.text for c in (b"%", b"_"))
            if wild and len(like.pieces(like.parse(piece.text.decode(), "\\"))) > 1:
                return False
        place = self._of.tokens_text(left, scope, tokens)
        span = self._of.widened(*self._of.span(left.column_ref), start, end, column, position)
        self._of.edits.columns.add(column)
        self._of.edits.replace(*span, place + sign, piece)
        return True

    def _tags(self, node: Node, found: tuple[ProtectedColumn, Node], scope: Scope) -> None:
        column, reference = found
        tokens = tokens_of(column, TRANSFORM)
        assert tokens is not None
        start, end = self._call_span(node.func_call)
        self._of.edits.columns.add(column)
        self._of.edits.replace(start, end, self._of.tokens_text(reference, scope, tokens))

    def _call_span(self, call: Node) -> tuple[int, int]:
        text = self._of.text
        index = text.at(call.location)
        while text.word(index) != "(":
            index += 1
        return call.location, text.ends[text.matching(index, 1)]

    def _operand(self, node: Node, column: ProtectedColumn, position: int) -> None:
        """lower($1) is transformed here; $1 alone is compared as it is."""
        if kind(node) != "func_call":
            if not self._of.operand(node, column, Use.TRANSFORMED):
                raise refuse("write", column, "comparison with an expression", position)
            return
        argument = _argument(node.func_call)
        if argument is None or not _fits(node.func_call, column):
            raise refuse("transform", column, "comparison with this function", position)
        start, end = self._call_span(node.func_call)
        edits = self._of.edits
        edits.columns.add(column)
        if kind(argument) == "param_ref":
            role = ParamRole(argument.param_ref.number, (Use.TRANSFORM, column))
            edits.replace(start, end, role)
        elif kind(argument) == "a_const" and argument.a_const.isnull:
            edits.replace(start, end, b"NULL::bytea")
        elif kind(argument) == "a_const" and argument.a_const.WhichOneof("val") == "sval":
            text = argument.a_const.sval.sval.encode()
            edits.replace(start, end, Literal(column, Use.TRANSFORM, text))
        else:
            raise refuse("write", column, "comparison with an expression", position)
