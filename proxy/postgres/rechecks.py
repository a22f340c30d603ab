"""Range and pattern searches in WHERE: tokens for the server, the exact predicate for the rows. Pure.

The server can only say which rows may match. So each predicate becomes a search for tokens, and stands a
second time in the plan, over the column itself, which is asked for behind the client's own outputs: opened
rows that do not fulfil it are dropped. That is exact only where nothing above the WHERE depends on which
rows there are (LIMIT, aggregates, DISTINCT, data changes, an outer query); everywhere else it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from proxy.postgres.edits import ParamRole, Piece
from proxy.postgres.grammar import Node, fields, inner, kind, strings, type_text
from proxy.postgres.indexing import EQUALITY, MATCH, ORDER, RANGE, IndexColumn, quoted, tokens_of
from proxy.postgres.names import Scope
from proxy.postgres.plan import Bound, Junction, Leaf, Literal, Operand, Pattern, Test, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import INT8, ProtectedColumn

if TYPE_CHECKING:
    from proxy.postgres.expressions import Expressions

_AND, _OR = 1, 2  # BoolExprType
_IS_NULL = 1  # NullTestType
_WITH_TIES = 3  # LimitOption
_OP, _LIKE, _ILIKE, _BETWEEN = 1, 8, 9, 11  # A_Expr_Kind
_SIGNS = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}  # and turned round
_CASES = ("lower", "upper")
# functions in a target list that neither put rows together nor make more of them
_SCALAR = frozenset(
    {
        "lower", "upper", "length", "char_length", "octet_length", "concat", "concat_ws", "substr",
        "substring", "left", "right", "btrim", "ltrim", "rtrim", "replace", "abs", "round", "floor",
        "ceil", "now", "date_trunc", "date_part", "extract", "to_char", "age", "json_build_object",
        "jsonb_build_object", "jsonb_extract_path_text", "md5", "format", "timezone",
    }
)  # fmt: skip


@dataclass(frozen=True)
class _Predicate:
    """A predicate that tokens serve: where it stands, over which column, and its exact form."""

    start: int
    end: int
    reference: Node
    column: ProtectedColumn
    bounds: tuple[Bound, ...] = ()  # of a range
    pattern: Pattern | None = None
    case: str = ""
    pattern_case: str = ""


@dataclass(frozen=True)
class _Nullness:
    """$1 IS NULL beside such predicates: the filter that a client switches off."""

    node: Node
    operand: Operand
    null: bool


@dataclass(frozen=True)
class _Tree:
    every: bool
    parts: tuple[_Predicate | _Nullness | _Tree, ...]


_Part = _Predicate | _Nullness | _Tree


@dataclass(frozen=True)
class _Side:
    """The operands of a predicate: what they are, and where the first begins and the last is."""

    operands: tuple[Operand, ...]
    start: int
    first_end: int
    last_start: int
    end: int


class Rechecks:
    """Of one statement's expressions."""

    def __init__(self, expressions: Expressions) -> None:
        self._of = expressions
        self._references: list[tuple[bytes, ProtectedColumn]] = []  # of the hidden outputs

    def where(self, statement: Node, scope: Scope) -> list[ProtectedColumn]:
        """Handles the whole WHERE clause; the columns that are asked for behind the outputs."""
        conjuncts = _conjuncts(statement.where_clause)
        trees = [self._tree(node, scope) for node in conjuncts]
        trees = [t if t is not None and _any_column(t) else None for t in trees]
        first = next((c for t in trees if t is not None and (c := _any_column(t))), None)
        if first is None:
            self._of.plain(statement.where_clause, scope)
            return []
        self._allowed(statement, scope, first)
        for node, tree in zip(conjuncts, trees, strict=True):
            if tree is None:
                self._of.plain(node, scope)
        tests = [self._emit(t, scope) for t in self._merged([t for t in trees if t is not None])]
        self._of.edits.checks += tests
        self._ask(statement)
        column = self._references[0][1]
        self._of.edits.limits = (
            self._limit(statement.limit_count, "limit", column),
            self._limit(statement.limit_offset, "offset", column),
        )
        columns = [column for _, column in self._references]
        self._of.edits.check_columns += columns
        return columns

    # -- what may stand around it ----------------------------------------------------------------

    def _allowed(self, statement: Node, scope: Scope, column: ProtectedColumn) -> None:
        around = (
            ("no target list", not statement.target_list),
            ("WITH TIES", statement.limit_option == _WITH_TIES),
            ("DISTINCT", len(statement.distinct_clause)),
            ("GROUP BY", len(statement.group_clause) or statement.having_clause.ByteSize()),
            ("a window", len(statement.window_clause)),
            ("FOR UPDATE", len(statement.locking_clause)),
            ("INTO", statement.HasField("into_clause")),
            ("an outer query", scope.parent is not None),
        )
        for what, there in around:
            if there:
                raise refuse("recheck", column, f"this search below {what}")
        nodes = [*statement.target_list, *statement.sort_clause]
        while nodes:
            node = nodes.pop()
            if node.DESCRIPTOR.name == "Node":
                if kind(node) == "sub_link":
                    continue  # a level of its own
                if kind(node) == "func_call":
                    name = strings(node.func_call.funcname)[-1]
                    if name not in _SCALAR or node.func_call.over.ByteSize():
                        raise refuse("recheck", column, f"this search below {name}()")
                if not kind(node):
                    continue
                node = inner(node)
            nodes += fields(node)

    def _ask(self, statement: Node) -> None:
        """The columns are asked for, behind the last target."""
        item = statement.from_clause[0]
        while kind(item) == "join_expr":
            item = item.join_expr.larg
        text = self._of.text
        if kind(item) != "range_var":
            raise refuse("recheck", self._references[0][1], "this search over such a FROM")
        index = text.at(item.range_var.location)
        while text.word(index) != "from":
            index -= 1
        at = text.ends[index - 1]
        asked = [
            b", %s AS %s" % (reference, quoted(f"sealgate recheck {i}"))
            for i, (reference, _) in enumerate(self._references)
        ]
        self._of.edits.replace(at, at, *asked)

    def _limit(self, node: Node, word: str, column: ProtectedColumn) -> Operand | None:
        """LIMIT and OFFSET are taken out of the text: they count the rows that stay."""
        if not node.ByteSize():
            return None
        number = kind(node) == "a_const" and node.a_const.WhichOneof("val") == "ival"
        nothing = kind(node) == "a_const" and node.a_const.isnull
        text = self._of.text
        message = inner(node)
        index = text.at(message.location)
        plain = number or nothing or kind(node) == "param_ref"
        if not plain or text.word(index - 1) != word or text.word(index + 1) in ("row", "rows"):
            raise refuse("recheck", column, f"this search below this {word.upper()}")
        self._of.edits.replace(text.starts[index - 1], text.ends[index])
        if nothing:
            return None
        if number:
            return Operand(str(node.a_const.ival.ival).encode())
        self._of.edits.absorb(node.param_ref.number, INT8)
        return Operand(parameter=node.param_ref.number - 1)

    def _hidden(self, node: Node, column: ProtectedColumn) -> int:
        """Number of the output that brings this column reference."""
        start, end = self._of.span(node.column_ref)
        wanted = (self._of.text.sql[start:end], column)
        if wanted not in self._references:
            self._references.append(wanted)
        return self._references.index(wanted)

    # -- reading ---------------------------------------------------------------------------------

    def _tree(self, node: Node, scope: Scope) -> _Part | None:
        """The predicate or junction of predicates that tokens serve; None for anything else."""
        if kind(node) == "bool_expr" and node.bool_expr.boolop in (_AND, _OR):
            parts = [self._tree(a, scope) for a in node.bool_expr.args]
            known = tuple(p for p in parts if p is not None)
            return _Tree(node.bool_expr.boolop == _AND, known) if len(known) == len(parts) else None
        if kind(node) == "null_test":
            leaf = self._of.operands.leaf(node.null_test.arg)
            if leaf is None:
                return None
            operand = Operand(None if leaf.bare.a_const.isnull else b"")
            if kind(leaf.bare) == "param_ref":
                operand = Operand(parameter=leaf.bare.param_ref.number - 1)
            return _Nullness(node, operand, node.null_test.nulltesttype == _IS_NULL)
        if kind(node) != "a_expr":
            return None
        expr = node.a_expr
        operator = strings(expr.name)[-1]
        if operator in ("~~", "~~*") and expr.kind in (_OP, _LIKE, _ILIKE):
            return self._like(expr, operator, scope)
        if expr.kind == _BETWEEN or (expr.kind == _OP and operator in _SIGNS):
            return self._range(expr, operator, scope)
        return None

    def _like(self, expr: Node, operator: str, scope: Scope) -> _Predicate | None:
        reference, case = self._cased(expr.lexpr)
        column = self._of.peek(reference, scope)
        if column is None or tokens_of(column, MATCH) is None:
            return None
        position = max(expr.location, 0) + 1
        pattern, escape, escape_end = self._escape(expr.rexpr, column, position)
        bare, pattern_case = self._cased(pattern)
        if operator == "~~*":
            if case or pattern_case:
                raise refuse("LIKE", column, "ILIKE with a function", position)
            case = pattern_case = "lower"
        side = self._operands(_concatenated(bare), column, Use.MATCH, position)
        operand = side.operands[0] if len(side.operands) == 1 else Operand(parts=side.operands)
        if pattern_case and pattern is not bare:
            end = self._call_end(pattern.func_call)
            side = replace(side, last_start=pattern.func_call.location, end=end)
        if escape_end:
            side = replace(side, end=escape_end)
        start, end = self._whole(expr.lexpr, reference, side, column, position)
        return _Predicate(
            start, end, reference, column, (), Pattern(escape, operand), case, pattern_case
        )

    def _range(self, expr: Node, operator: str, scope: Scope) -> _Predicate | None:
        left, right = expr.lexpr, expr.rexpr
        position = max(expr.location, 0) + 1
        bounds: tuple[Bound, ...]
        turned = self._of.peek(left, scope) is None
        reference, other = (right, left) if turned else (left, right)
        column = self._of.peek(reference, scope)
        if column is None or tokens_of(column, RANGE) is None or tokens_of(column, ORDER):
            return None
        if expr.kind == _BETWEEN:
            if turned:
                return None
            side = self._operands(list(right.list.items), column, Use.BUCKETS, position)
            bounds = (Bound(">=", side.operands[0]), Bound("<=", side.operands[1]))
        else:
            if operator == "=" and tokens_of(column, EQUALITY):
                return None
            if self._of.peek(other, scope) is not None:
                raise refuse("<", column, "comparison of two columns by range", position)
            side = self._operands([other], column, Use.BUCKETS, position)
            sign = _SIGNS[operator] if turned else operator
            first = side.operands[0]
            bounds = (Bound(sign, first),)
            if sign == "=":
                bounds = (Bound(">=", first), Bound("<=", first))
        if turned:
            begin, end = self._of.span(reference.column_ref)
            side = replace(side, last_start=begin, end=end)
            start, end = self._of.widened(side.start, side.first_end, begin, end, column, position)
        else:
            start, end = self._whole(reference, reference, side, column, position)
        return _Predicate(start, end, reference, column, bounds)

    def _cased(self, node: Node) -> tuple[Node, str]:
        """x and lower of lower(x); casts to text taken off."""
        case = ""
        if kind(node) == "func_call" and len(node.func_call.args) == 1:
            name = strings(node.func_call.funcname)
            if name[-1] in _CASES and name[:-1] in ([], ["pg_catalog"]):
                node, case = node.func_call.args[0], name[-1]
        if kind(node) == "type_cast" and kind(node.type_cast.arg) == "column_ref":
            name_, array = type_text(node.type_cast.type_name)
            if not array and name_ in ("text", "varchar"):
                node = node.type_cast.arg
        return node, case

    def _escape(self, node: Node, column: ProtectedColumn, position: int) -> tuple[Node, str, int]:
        """(pattern, escape character, end of its literal or 0)."""
        if kind(node) != "func_call" or strings(node.func_call.funcname)[-1] != "like_escape":
            return node, "\\", 0
        pattern, escape = node.func_call.args
        if kind(escape) != "a_const" or len(escape.a_const.sval.sval) > 1 or escape.a_const.isnull:
            raise refuse("LIKE", column, "this ESCAPE", position)
        start = escape.a_const.location
        return pattern, escape.a_const.sval.sval, self._of.text.ends[self._of.text.at(start)]

    def _operands(
        self, nodes: list[Node], column: ProtectedColumn, use: Use, position: int
    ) -> _Side:
        found: list[Operand] = []
        places: list[tuple[int, int]] = []
        for node in nodes:
            piece = self._of.operand_piece(node, column, use)
            if piece is None:
                raise refuse("write", column, "comparison with an expression", position)
            start, end, what = piece
            places.append((start, end))
            if isinstance(what, ParamRole):
                found.append(Operand(parameter=what.number - 1))
            elif isinstance(what, Literal):
                found.append(Operand(what.text, what.oid))
            else:
                found.append(Operand())
        return _Side(tuple(found), *places[0], *places[-1])

    def _call_end(self, call: Node) -> int:
        text = self._of.text
        index = text.at(call.location)
        while text.word(index) != "(":
            index += 1
        return text.ends[text.matching(index, 1)]

    def _whole(
        self, left: Node, reference: Node, side: _Side, column: ProtectedColumn, position: int
    ) -> tuple[int, int]:
        """From the left operand to the last on the right."""
        start, end = self._of.span(reference.column_ref)
        if kind(left) == "func_call":
            start, end = left.func_call.location, self._call_end(left.func_call)
        elif kind(left) == "type_cast":
            text, at = self._of.text, self._of.text.at(left.type_cast.location)
            if text.word(at) != "::":
                raise refuse("cast", column, "this form of cast", position)
            end = text.ends[text.type_end(at + 1)]
        return self._of.widened(start, end, side.last_start, side.end, column, position)

    # -- writing ---------------------------------------------------------------------------------

    def _merged(self, trees: list[_Part]) -> list[_Part]:
        """Ranges of one column reference that all must hold are one range: the later predicates go."""
        kept: list[_Part] = []
        for tree in trees:
            if not isinstance(tree, _Predicate) or tree.pattern is not None:
                kept.append(tree)
                continue
            for i, other in enumerate(kept):
                if isinstance(other, _Predicate) and other.bounds and self._same(other, tree):
                    kept[i] = replace(other, bounds=(*other.bounds, *tree.bounds))
                    self._of.edits.replace(tree.start, tree.end, b"true")
                    break
            else:
                kept.append(tree)
        return kept

    def _same(self, one: _Predicate, other: _Predicate) -> bool:
        spans = (self._of.span(p.reference.column_ref) for p in (one, other))
        texts = [self._of.text.sql[start:end] for start, end in spans]
        return texts[0] == texts[1] and one.column == other.column

    def _emit(self, tree: _Part, scope: Scope) -> Test:
        if isinstance(tree, _Nullness):
            self._of.plain(tree.node, scope)
            return Leaf(0, "null" if tree.null else "not null", tree.operand)
        if isinstance(tree, _Tree):
            return Junction(tree.every, tuple(self._emit(p, scope) for p in tree.parts))
        column = tree.column
        self._of.edits.columns.add(column)
        at = self._hidden(tree.reference, column)
        purpose, use = (MATCH, Use.MATCH) if tree.pattern else (RANGE, Use.BUCKETS)
        tokens = tokens_of(column, purpose)
        assert tokens is not None
        how = tree.pattern or tree.bounds
        self._search(tree, tokens, scope, use, how)
        if tree.pattern:
            return Leaf(
                at, "~~", tree.pattern.operand, tree.pattern.escape, tree.case, tree.pattern_case
            )
        leaves = tuple(Leaf(at, bound.sign, bound.operand) for bound in tree.bounds)
        return leaves[0] if len(leaves) == 1 else Junction(True, leaves)

    def _search(
        self, tree: _Predicate, tokens: IndexColumn, scope: Scope, use: Use,
        how: Pattern | tuple[Bound, ...],
    ) -> None:  # fmt: skip
        numbers = _parameters(how)
        piece: Piece = Literal(tree.column, use, b"", 0, how)
        if numbers:
            piece = ParamRole(numbers[0] + 1, (use, tree.column), how)
            for number in numbers[1:]:
                self._of.edits.absorb(number + 1, tree.column.type.oid, secret=True)
        place = self._of.tokens_text(tree.reference, scope, tokens)
        if use is Use.MATCH:
            self._of.edits.replace(tree.start, tree.end, b"(" + place + b" @> ", piece, b")")
        else:
            self._of.edits.replace(tree.start, tree.end, b"(" + place + b" = ANY (", piece, b"))")


def _conjuncts(node: Node) -> list[Node]:
    if kind(node) == "bool_expr" and node.bool_expr.boolop == _AND:
        return [c for arg in node.bool_expr.args for c in _conjuncts(arg)]
    return [node]


def _concatenated(node: Node) -> list[Node]:
    """The operands of ||, which drivers put around a parameter: '%' || $1 || '%'."""
    if kind(node) == "a_expr" and strings(node.a_expr.name) == ["||"]:
        return [*_concatenated(node.a_expr.lexpr), *_concatenated(node.a_expr.rexpr)]
    return [node]


def _any_column(tree: _Part) -> ProtectedColumn | None:
    """A column that is searched in it."""
    if isinstance(tree, _Tree):
        return next((c for part in tree.parts if (c := _any_column(part)) is not None), None)
    return tree.column if isinstance(tree, _Predicate) else None


def _parameters(how: Pattern | tuple[Bound, ...]) -> list[int]:
    """0-based numbers of the parameters, each once."""
    found: list[int] = []
    operands = [how.operand] if isinstance(how, Pattern) else [bound.operand for bound in how]
    for operand in operands:
        for one in operand.parts or (operand,):
            if one.parameter >= 0 and one.parameter not in found:
                found.append(one.parameter)
    return found
