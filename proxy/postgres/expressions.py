"""Expressions over sealed columns: where they may stand, and what a comparison becomes. Pure.

Fail closed: the generic walk refuses every sealed column that it meets; only the forms that are handled
by name let one through. `value()` says whether an expression is a sealed value (its provenance),
`plain()` requires that it is none and contains none in a place that is not handled.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxy.errors import ConfigError
from proxy.postgres.edits import Edits, ParamRole, Piece
from proxy.postgres.grammar import Node, Text, fields, inner, kind, strings, type_text
from proxy.postgres.indexing import EQUALITY, MATCH, RANGE, IndexColumn, tokens_of
from proxy.postgres.names import Names, Scope, hidden, quoted
from proxy.postgres.ordering import Ordering
from proxy.postgres.patterns import Patterns
from proxy.postgres.plan import Literal, Refusal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.rechecks import Rechecks
from proxy.postgres.snapshot import BOOL, ProtectedColumn
from proxy.postgres.types.operands import NUMBER
from proxy.postgres.types.registry import is_array, resolve, same_type

if TYPE_CHECKING:
    from proxy.postgres.query import Query

SYSTEM_COLUMNS = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})
_COUNT = (["count"], ["pg_catalog", "count"])
_FAMILIES = (
    frozenset({25, 1043, 1042}),
    frozenset({20, 21, 23}),
    frozenset({700, 701}),
    frozenset({1114}),
    frozenset({1184}),
)
_FRACTIONS = frozenset({700, 701, 1700, 25, 1043, 1042})
_ARRAYS = (Use.TAG_ARRAY, Use.STORE_ARRAY)


class Expressions:
    """Of one statement. `query` analyses the sub-selects that are met."""

    def __init__(self, text: Text, edits: Edits, names: Names) -> None:
        self.text = text
        self.edits = edits
        self.names = names
        self.query: Query
        self.patterns = Patterns(self)
        self.ordering = Ordering(self)
        self.rechecks = Rechecks(self)

    # -- columns ---------------------------------------------------------------------------------

    def value(self, node: Node, scope: Scope) -> ProtectedColumn | None:
        """The provenance of a sealed value, or None after `plain`."""
        if kind(node) == "column_ref":
            found = self.lookup(node.column_ref, scope)
            if found is not None:
                self.edits.columns.add(found[0])
                return found[0]
            return None
        if kind(node) == "sub_link" and node.sub_link.sub_link_type == 5:  # EXPR_SUBLINK
            outputs = self.query.select(node.sub_link.subselect.select_stmt, scope)
            if len(outputs) == 1:
                return outputs[0].sealed
            return None
        extreme = self.ordering.extreme(node, scope)
        if extreme is None:
            self.plain(node, scope)
        return extreme

    def peek(self, node: Node, scope: Scope) -> ProtectedColumn | None:
        """The provenance of a column reference, without any effect."""
        if kind(node) != "column_ref":
            return None
        found = self.lookup(node.column_ref, scope)
        return found[0] if found else None

    def lookup(self, ref: Node, scope: Scope) -> tuple[ProtectedColumn, bool] | None:
        """(provenance, whether it is a table's own column) of a sealed column, else None."""
        parts = strings(ref.fields)
        if parts[-1] == "*":
            entry = scope.entry(parts[-2]) if len(parts) > 1 else None
            if entry is not None and entry.protected:
                raise refuse("whole row", None, f'whole row "{parts[-2]}" of a protected table')
            return None
        if len(parts) == 1:
            pair = scope.column(parts[0])
            if pair is None:
                entry = scope.entry(parts[0])
                if entry is not None and entry.protected:
                    raise refuse("whole row", None, f'whole row "{parts[0]}" of a protected table')
                return None
            found = pair[1]
        else:
            entry = scope.entry(parts[-2])
            if entry is None and parts[-2] in ("old", "new") and scope.any_protected():
                raise refuse("expression", None, "OLD and NEW of a protected table")
            if entry is None or entry.fields is None:
                return None
            if parts[-1] in entry.hidden:
                raise hidden(parts[-1])
            named = [f for f in entry.fields if f.name == parts[-1]]
            if not named:
                if entry.protected and parts[-1] not in SYSTEM_COLUMNS:
                    # `t.f` may also mean f(t): a whole row in disguise
                    message = f'column "{parts[-2]}.{parts[-1]}" does not exist'
                    raise Refusal("42703", message, "", max(ref.location, 0) + 1)
                return None
            found = named[0]
        return (found.sealed, found.base) if found.sealed else None

    def span(self, ref: Node) -> tuple[int, int]:
        """Bytes of a column reference."""
        if ref.location < 0:
            raise refuse("statement", None, "this form on a protected table")
        return ref.location, self.text.name_end(ref.location, len(ref.fields))

    def tag_of(self, node: Node, scope: Scope, column: ProtectedColumn) -> None:
        """The column reference becomes its equality tag."""
        if not column.equality:
            raise refuse("no equality", column, "comparison", node.column_ref.location + 1)
        start, end = self.span(node.column_ref)
        self.edits.columns.add(column)
        self.edits.replace(start, end, self.tag_text(node, scope, column))

    def tag_text(self, node: Node, scope: Scope, column: ProtectedColumn) -> bytes:
        if not column.equality:
            raise refuse("no equality", column, "comparison", node.column_ref.location + 1)
        tokens = tokens_of(column, EQUALITY)
        assert tokens is not None
        return self.tokens_text(node, scope, tokens)

    def tokens_text(self, node: Node, scope: Scope, tokens: IndexColumn) -> bytes:
        """Where a column reference's tokens are: the generated column, or an expression."""
        start, end = self.span(node.column_ref)
        found = self.lookup(node.column_ref, scope)
        if found is None or not found[1] or tokens.column.layout != "generated":
            return tokens.expression(self.text.sql[start:end])
        last = self.text.at(start) + 2 * (len(node.column_ref.fields) - 1)
        return self.text.sql[start : self.text.starts[last]] + quoted(tokens.name)

    # -- operands --------------------------------------------------------------------------------

    def operand(self, node: Node, column: ProtectedColumn, use: Use) -> bool:
        """A parameter or literal (with a cast that says nothing new) becomes a sealed value or a tag.
        False if it is neither."""
        found = self.operand_piece(node, column, use)
        if found is None:
            return False
        self.edits.columns.add(column)
        if found[2] != b"NULL" or kind(node) != "a_const":  # a cast of NULL names the declared type
            self.edits.replace(*found)
        return True

    def operand_piece(
        self, node: Node, column: ProtectedColumn, use: Use
    ) -> tuple[int, int, Piece] | None:
        """Where an operand stands, and what is to stand there."""
        start, end, bare = self._unwrapped(node, column, use)
        if bare is None:
            return None
        if use in _ARRAYS and is_array(column.type):
            raise refuse("cast", column, "a comparison with a list of arrays", start + 1)
        if kind(bare) == "param_ref":
            return start, end, ParamRole(bare.param_ref.number, (use, column))
        constant = bare.a_const
        if constant.isnull:
            return start, end, b"NULL"
        which = constant.WhichOneof("val")
        if which == "bsval":
            raise refuse("cast", column, "bit string", constant.location + 1)
        type_oid = 0
        if which == "sval":
            text = constant.sval.sval.encode()
        elif which == "fval":
            text, type_oid = constant.fval.fval.encode(), NUMBER
        elif which == "boolval":
            text, type_oid = b"t" if constant.boolval.boolval else b"f", BOOL
        else:
            text, type_oid = str(constant.ival.ival).encode(), NUMBER
        if use in _ARRAYS and which != "sval":
            raise refuse("write", column, "comparison with this operand", constant.location + 1)
        return start, end, Literal(column, use, text, self._cast_type(node, column, type_oid))

    def _cast_type(self, node: Node, column: ProtectedColumn, type_oid: int) -> int:
        """The type that the casts around a constant of this type give it."""
        wanted = set()
        while kind(node) == "type_cast" and not column.type.labels and not is_array(column.type):
            wanted.add(resolve(type_text(node.type_cast.type_name)[0]).oid)
            node = node.type_cast.arg
        if len(wanted) > 1 or wanted and type_oid == NUMBER and kind(node) == "a_const" and (
            node.a_const.WhichOneof("val") == "fval" and not wanted & _FRACTIONS
            and not node.a_const.fval.fval.lstrip("+-").isdigit()
        ):  # fmt: skip
            raise refuse("cast", column, "these casts", max(node.a_const.location, 0) + 1)
        return wanted.pop() if wanted else type_oid

    def _unwrapped(
        self, node: Node, column: ProtectedColumn, use: Use
    ) -> tuple[int, int, Node | None]:
        """Span of an operand with its casts, and the parameter or constant inside."""
        which = kind(node)
        if which == "param_ref":
            start = node.param_ref.location
            return start, self.text.ends[self.text.at(start)], node
        if which == "a_const":
            start = node.a_const.location
            index = self.text.at(start)
            if self.text.word(index) in ("-", "+"):
                index += 1
            return start, self.text.ends[index], node
        if which == "a_expr" and not node.a_expr.lexpr.ByteSize():
            return self._negative(node.a_expr, column, use)
        if which != "type_cast":
            return 0, 0, None
        cast = node.type_cast
        start, end, bare = self._unwrapped(cast.arg, column, use)
        if bare is None:
            return 0, 0, None
        self._check_cast(cast, column, use)
        return (*self._cast_span(cast, start, end), bare)

    def _negative(
        self, expr: Node, column: ProtectedColumn, use: Use
    ) -> tuple[int, int, Node | None]:
        """-2::int2 is minus (2::int2), as drivers write a number that is below zero."""
        _, end, bare = self._unwrapped(expr.rexpr, column, use)
        if strings(expr.name) != ["-"] or bare is None or kind(bare) != "a_const":
            return 0, 0, None
        turned = type(bare)()
        turned.CopyFrom(bare)
        which = turned.a_const.WhichOneof("val")
        if which == "ival":
            turned.a_const.ival.ival = -turned.a_const.ival.ival
        elif which == "fval":
            text = turned.a_const.fval.fval
            turned.a_const.fval.fval = text[1:] if text.startswith("-") else "-" + text
        else:
            return 0, 0, None
        return expr.location, end, turned

    def _cast_span(self, cast: Node, start: int, end: int) -> tuple[int, int]:
        text = self.text
        if cast.location >= 0 and text.word(text.at(cast.location)) == "::":
            at = text.at(cast.location)
            before = at - 1
            if text.word(before) == ")":
                start = text.starts[text.matching(before, -1)]
            return start, text.ends[text.type_end(at + 1)]
        if cast.location >= 0 and text.word(text.at(cast.location)) == "cast":
            at = text.at(cast.location)
            return cast.location, text.ends[text.matching(at + 1, 1)]
        if cast.type_name.location >= 0 and cast.type_name.location < start:
            return cast.type_name.location, end  # date '2001-01-01'
        return start, end  # true and false are casts in the tree

    def _check_cast(self, cast: Node, column: ProtectedColumn, use: Use) -> None:
        name, array = type_text(cast.type_name)
        position = max(cast.location, 0) + 1
        if column.type.labels or is_array(column.type):
            declared = column.type
            if use in _ARRAYS and array:
                array = False  # of the column's type
            if not same_type(declared, name, array):
                raise refuse("cast", column, f"a cast to {name}", position)
            return
        if array != (use in _ARRAYS):
            raise refuse("cast", column, "this cast", position)
        try:
            wanted = resolve(name)
        except ConfigError:
            raise refuse("cast", column, f"a cast to {name}", position) from None
        declared = column.type
        same = wanted.oid == declared.oid or any(
            wanted.oid in f and declared.oid in f for f in _FAMILIES
        )
        if not same:
            raise refuse("cast", column, f"a cast to {name}", position)
        if wanted.typmod != -1 and (wanted.oid, wanted.typmod) != (declared.oid, declared.typmod):
            raise refuse("truncating cast", column, f"a cast to {name}", position)

    def widened(
        self, start: int, first_end: int, last_start: int, end: int, column: ProtectedColumn,
        position: int,
    ) -> tuple[int, int]:  # fmt: skip
        """From the first operand of a predicate to its last, with the brackets around either."""
        text = self.text
        opened = closed = 0
        for index in range(text.at(first_end), text.at(last_start)):
            if text.word(index) == "(":
                opened += 1
            elif text.word(index) == ")":
                opened, closed = (opened - 1, closed) if opened else (0, closed + 1)
        for _ in range(closed):
            start = text.starts[text.at(start) - 1]
            if text.word(text.at(start)) != "(":
                raise refuse("<", column, "this form of comparison", position)
        for _ in range(opened):
            index = text.at(end)
            if text.word(index) != ")":
                raise refuse("<", column, "this form of comparison", position)
            end = text.ends[index]
        return start, end

    # -- expressions -----------------------------------------------------------------------------

    def plain(self, node: Node, scope: Scope) -> None:
        """Nothing sealed in it but in forms that are handled. Refusal otherwise."""
        which = kind(node)
        handler = getattr(self, f"_{which}", None)
        if handler is not None:
            handler(inner(node), scope, node)
        elif which:
            self._walk(inner(node), scope)

    def _walk(self, message: Node, scope: Scope) -> None:
        for child in fields(message):
            if child.DESCRIPTOR.name == "Node":
                self.plain(child, scope)
            elif child.DESCRIPTOR.name == "SelectStmt":
                self._no_sealed(self.query.select(child, scope))
            else:
                self._walk(child, scope)

    def _column_ref(self, ref: Node, scope: Scope, node: Node) -> None:
        found = self.lookup(ref, scope)
        if found is not None:
            raise refuse("expression", found[0], "this expression", ref.location + 1)

    def _param_ref(self, ref: Node, scope: Scope, node: Node) -> None:
        end = self.text.ends[self.text.at(ref.location)]
        self.edits.param(ref.location, end, ref.number)

    def _select_stmt(self, statement: Node, scope: Scope, node: Node) -> None:
        self._no_sealed(self.query.select(statement, scope))

    def _no_sealed(self, outputs: "Sequence[object]") -> None:
        for output in outputs:
            sealed = getattr(output, "sealed", None)
            if sealed is not None:
                raise refuse("expression", sealed, "a sub-select that yields it here")

    def _sort_by(self, key: Node, scope: Scope, node: Node) -> None:
        """ORDER BY in a window or an aggregate."""
        sealed = self.peek(key.node, scope)
        if sealed is None:
            self.plain(key.node, scope)
        else:
            self.ordering.sort_key(key, key.node, scope, sealed)

    def _null_test(self, test: Node, scope: Scope, node: Node) -> None:
        self.value(test.arg, scope)

    def _type_cast(self, cast: Node, scope: Scope, node: Node) -> None:
        sealed = self.peek(cast.arg, scope)
        if sealed is not None:
            raise refuse("cast", sealed, "a cast", max(cast.location, 0) + 1)
        self.plain(cast.arg, scope)

    def _func_call(self, call: Node, scope: Scope, node: Node) -> None:
        if strings(call.funcname) in _COUNT and len(call.args) == 1 and not call.agg_order:
            sealed = self.peek(call.args[0], scope)
            if sealed is not None:
                self.edits.columns.add(sealed)
                if call.agg_distinct:
                    self.tag_of(call.args[0], scope, sealed)
                for part in (call.agg_filter, call.over):
                    if part.ByteSize():
                        self._walk(part, scope)
                return
        self._walk(call, scope)

    def _sub_link(self, link: Node, scope: Scope, node: Node) -> None:
        subselect = link.subselect.select_stmt
        outputs = self.query.select(subselect, scope)
        if not link.testexpr.ByteSize():
            if link.sub_link_type != 1:  # EXISTS_SUBLINK lets go of the outputs
                self._no_sealed(list(outputs))
            return
        column = self.peek(link.testexpr, scope)
        operator = [n for n in strings(link.oper_name)] if link.oper_name else ["="]
        if column is None:
            self.plain(link.testexpr, scope)
            self._no_sealed(list(outputs))
            return
        if operator[-1] not in ("=", "<>"):
            raise refuse("<", column, f"operator {operator[-1]}")
        if len(outputs) != 1 or outputs[0].sealed is None or outputs[0].node is None:
            raise refuse("domain", column, "comparison with this sub-select")
        self._same_domain(column, outputs[0].sealed)
        self.tag_of(link.testexpr, scope, column)
        inside = outputs[0]
        assert inside.scope is not None
        assert inside.sealed is not None
        self.tag_of(inside.node, inside.scope, inside.sealed)

    def _same_domain(self, one: ProtectedColumn, other: ProtectedColumn) -> None:
        same_type = one.type.oid == other.type.oid
        if one.domain != other.domain or not same_type or one.transform_id != other.transform_id:
            raise refuse("domain", one, f'comparison with "{other.table}.{other.column}"')

    # -- comparisons -----------------------------------------------------------------------------

    def _a_expr(self, expr: Node, scope: Scope, node: Node) -> None:
        left, right = expr.lexpr, expr.rexpr
        if kind(left) == "row_expr" and kind(right) == "row_expr" and strings(expr.name) == ["="]:
            pairs = list(zip(left.row_expr.args, right.row_expr.args, strict=False))
            if len(left.row_expr.args) == len(right.row_expr.args):
                for one, other in pairs:
                    self._compare(1, "=", one, other, scope, expr)
                return
        self._compare(expr.kind, strings(expr.name)[-1], left, right, scope, expr)

    def _compare(
        self, form: int, operator: str, left: Node, right: Node, scope: Scope, expr: Node
    ) -> None:
        position = max(expr.location, 0) + 1
        for search in (self.patterns, self.ordering):
            if search.compare(form, operator, left, right, scope, position):
                return
        one, other = self.peek(left, scope), self.peek(right, scope)
        if one is None and other is None:
            for side in (left, right):
                self.plain(side, scope)
            return
        column = one or other
        assert column is not None
        # A_Expr_Kind: 1 OP, 2 OP_ANY, 3 OP_ALL, 4 DISTINCT, 5 NOT_DISTINCT, 6 NULLIF, 7 IN, 8.. LIKE
        if form in (8, 9, 10) or operator in ("~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*"):
            rule = "recheck" if tokens_of(column, MATCH) else "LIKE"
            raise refuse(rule, column, "this pattern search", position)
        if form not in (1, 2, 3, 4, 5, 7) or operator not in ("=", "<>"):
            searched = tokens_of(column, RANGE) is not None
            rule = (
                "recheck"
                if searched
                else (
                    "<"
                    if operator in ("<", ">", "<=", ">=", "BETWEEN") or form > 10
                    else "expression"
                )
            )
            raise refuse(rule, column, f"operator {operator}", position)
        if one is not None and other is not None:
            self._same_domain(one, other)
            self.tag_of(left, scope, one)
            self.tag_of(right, scope, other)
            return
        reference, operand = (left, right) if one is not None else (right, left)
        if form in (2, 3, 7) and one is None:
            raise refuse("expression", column, "this comparison", position)
        self.tag_of(reference, scope, column)
        if form == 7:
            for item in operand.list.items:
                if not self.operand(item, column, Use.TAG):
                    raise refuse("write", column, "comparison with an expression", position)
        elif form in (2, 3):
            self._array_operand(operand, column, position)
        elif not self.operand(operand, column, Use.TAG):
            self._compared_subselect(operand, column, scope, position)

    def _compared_subselect(
        self, operand: Node, column: ProtectedColumn, scope: Scope, position: int
    ) -> None:
        if kind(operand) != "sub_link" or operand.sub_link.sub_link_type != 5:
            raise refuse("write", column, "comparison with an expression", position)
        outputs = self.query.select(operand.sub_link.subselect.select_stmt, scope)
        if len(outputs) != 1 or outputs[0].sealed is None or outputs[0].node is None:
            raise refuse("domain", column, "comparison with this sub-select", position)
        self._same_domain(column, outputs[0].sealed)
        assert outputs[0].scope is not None
        self.tag_of(outputs[0].node, outputs[0].scope, outputs[0].sealed)

    def _array_operand(self, operand: Node, column: ProtectedColumn, position: int) -> None:
        cast_end = 0
        array = operand
        if kind(operand) == "type_cast" and kind(operand.type_cast.arg) == "a_array_expr":
            cast = operand.type_cast
            self._check_cast(cast, column, Use.TAG_ARRAY)
            at = self.text.at(cast.location)
            if self.text.word(at) != "::":
                raise refuse("cast", column, "this cast", position)
            cast_end = self.text.ends[self.text.type_end(at + 1)]
            self.edits.replace(cast.location, cast_end)
            array = cast.arg
        if kind(array) == "a_array_expr":
            for item in array.a_array_expr.elements:
                if not self.operand(item, column, Use.TAG):
                    raise refuse("write", column, "comparison with an expression", position)
            return
        if not self.operand(operand, column, Use.TAG_ARRAY):
            raise refuse("write", column, "comparison with an expression", position)

    # -- what a sealed column must not reach in disguise ------------------------------------------

    def _row_expr(self, row: Node, scope: Scope, node: Node) -> None:
        for item in row.args:
            self.plain(item, scope)

    def _json_expr(self, message: Node, scope: Scope, node: Node) -> None:
        raise Refusal("0A000", "SQL/JSON functions beside protected tables are not supported")
