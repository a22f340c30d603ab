"""Level L1 of the plan cache: one plan for all texts that differ in literals only. Pure.

Clients that send values as literals (psycopg2, Django, psql) make every text new. A text is stripped
of its literals by the native scanner; what was planned for one text serves every other with the same
stripped text, if the literals in which they differ are *free*: the plan cannot depend on their values.
A literal is free where the grammar shows it as an operand (`free_literals`); every other one (LIMIT,
ORDER BY 2, a length in a cast, a LIKE pattern) is *pinned*: its value is part of the key.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from proxy.postgres.grammar import Node, inner, kind, strings
from proxy.postgres.plan import Either, Literal, Plan, Segment, StatementPlan, Use

_STATEMENTS = frozenset({"select_stmt", "insert_stmt", "update_stmt", "delete_stmt"})
# node kinds below which a constant stays what it is: an operand, whatever its value
_OPERANDS = _STATEMENTS | {
    "a_expr", "bool_expr", "null_test", "boolean_test", "coalesce_expr", "min_max_expr", "row_expr",
    "a_array_expr", "case_expr", "case_when", "sub_link", "list", "res_target", "join_expr",
    "range_subselect", "common_table_expr", "func_call", "type_cast",
}  # fmt: skip
_CLAUSES = frozenset(
    {
        "target_list", "where_clause", "having_clause", "values_lists", "from_clause", "quals",
        "select_stmt", "larg", "rarg", "with_clause", "ctes", "ctequery", "using_clause",
        "returning_clause", "exprs", "on_conflict_clause", "val", "lexpr", "rexpr", "args", "arg",
        "elements", "items", "testexpr", "subselect", "subquery", "expr", "result", "defresult",
    }
)  # fmt: skip
_OPERATORS = frozenset(
    {
        "=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||",
        "BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC",
    }
)  # fmt: skip
_SEARCHES = (
    Use.TRANSFORM, Use.TRANSFORMED, Use.ORDER_LT, Use.ORDER_LE, Use.ORDER_GT, Use.ORDER_GE,
    Use.ORDER_START, Use.ORDER_END,
)  # fmt: skip
# uses of a literal whose value is looked at only when it is sealed, not by the planner
_VALUE_USES = frozenset(
    {
        Use.STORE,
        Use.SHOW,
        Use.TAG,
        Use.SEARCH,
        Use.STORE_ARRAY,
        Use.TAG_ARRAY,
        Use.SEARCH_ARRAY,
        *_SEARCHES,
    }
)


def free_literals(statement: Node) -> frozenset[int]:
    """Byte offsets of the constants whose values cannot matter to a plan."""
    found: set[int] = set()
    if kind(statement) in _STATEMENTS:
        _collect(inner(statement), found)
    return frozenset(found)


def _collect(message: Node, found: set[int]) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE or descriptor.name not in _CLAUSES:
            continue
        for child in value if descriptor.is_repeated else [value]:
            if child.DESCRIPTOR.name != "Node":
                _collect(child, found)
            elif kind(child) == "a_const":
                found.add(child.a_const.location)
            elif _passes(child):
                _collect(inner(child), found)


def _passes(node: Node) -> bool:
    which = kind(node)
    if which == "a_expr":
        return strings(node.a_expr.name)[-1] in _OPERATORS  # no pattern: LIKE is named ~~
    if which == "type_cast":
        return not node.type_cast.type_name.typmods
    if which == "func_call":
        return strings(node.func_call.funcname)[-1].lower() != "set_config"
    return which in _OPERANDS


@dataclass(frozen=True, slots=True)
class _Place:
    """A position in any text of the template: so many bytes behind the end of the literal before."""

    literals: int  # how many stand before it
    offset: int

    def at(self, spans: list[int]) -> int:
        return spans[2 * self.literals - 1] + self.offset if self.literals else self.offset


@dataclass(frozen=True, slots=True)
class _Hole:
    """A literal that becomes a sealed value or a tag: which one, whether a minus is before it."""

    ordinal: int
    negative: bool
    model: Literal


@dataclass(frozen=True, slots=True)
class _Edit:
    start: _Place
    end: _Place
    pieces: tuple[bytes | Either | _Hole, ...]


@dataclass(frozen=True, slots=True)
class Template:
    plan: Plan
    edits: tuple[_Edit, ...]

    def fill(self, sql: bytes, spans: list[int]) -> Plan:
        """The plan of another text with the same stripped text and the same pinned literals."""
        if not self.edits:
            return self._with((sql,))
        segments: list[Segment] = []
        at = 0
        text = b""
        for edit in self.edits:
            text += sql[at : edit.start.at(spans)]
            for piece in edit.pieces:
                if isinstance(piece, bytes):
                    text += piece
                    continue
                if text:
                    segments.append(text)
                    text = b""
                if isinstance(piece, Either):
                    segments.append(piece)
                    continue
                value = _value(sql, spans, piece.ordinal, piece.negative)
                model = piece.model
                segments.append(Literal(model.column, model.use, value, model.oid, model.how))
            at = edit.end.at(spans)
        text += sql[at:]
        if text:
            segments.append(text)
        return self._with(tuple(segments))

    def _with(self, segments: tuple[Segment, ...]) -> Plan:
        """`dataclasses.replace`, a tenth of its time."""
        statement = object.__new__(StatementPlan)
        statement.__dict__.update(self.plan.statements[0].__dict__, segments=segments)
        plan = object.__new__(Plan)
        plan.__dict__.update(self.plan.__dict__, statements=(statement,))
        return plan


def _value(sql: bytes, spans: list[int], ordinal: int, negative: bool) -> bytes:
    """The value of a literal, as the grammar gives it: an integer that fits 32 bits loses leading
    zeros and the sign of zero, any other number stays as it is written."""
    token = sql[spans[2 * ordinal] : spans[2 * ordinal + 1]]
    if token[:1] == b"'":
        return token[1:-1].replace(b"''", b"'")
    if token.isdigit() and len(token.lstrip(b"0")) <= 10 and int(token) < 1 << 31:
        number = int(token)
        return b"%d" % (-number if negative else number)
    return b"-" + token if negative else token


def make(sql: bytes, spans: list[int], plan: Plan) -> tuple[Template, tuple[int, ...]] | None:
    """A template from a plan and its text, with the ordinals of the pinned literals; None if the
    plan cannot serve another text."""
    if len(plan.statements) != 1:
        return None
    one = plan.statements[0]
    if one.free is None or one.effects:
        return None
    edits: list[_Edit] = []
    sealed: set[int] = set()
    for start, end, pieces in one.edits:
        made = _edit(sql, spans, start, end, pieces)
        if made is None:
            return None
        edits.append(made)
        sealed |= {p.ordinal for p in made.pieces if isinstance(p, _Hole)}
    pinned = tuple(
        n
        for n in range(len(spans) // 2)
        if n not in sealed and (not _is_free(sql, spans, n, one) or _taken(spans, n, one))
    )
    return Template(plan, tuple(edits)), pinned


def _is_free(sql: bytes, spans: list[int], ordinal: int, one: StatementPlan) -> bool:
    start = spans[2 * ordinal]
    assert one.free is not None
    if start in one.free:
        return True
    sign = start - 1  # the grammar folds a sign into the constant
    return sign in one.free and sql[sign : sign + 1] in (b"-", b"+")


def _taken(spans: list[int], ordinal: int, one: StatementPlan) -> bool:
    """An edit stands in its place."""
    return any(a <= spans[2 * ordinal] < b for a, b, _ in one.edits)


def _place(spans: list[int], offset: int) -> _Place | None:
    """None inside a literal."""
    before = 0
    while 2 * before < len(spans) and spans[2 * before + 1] <= offset:
        before += 1
    if 2 * before < len(spans) and spans[2 * before] < offset:
        return None
    return _Place(before, offset - spans[2 * before - 1] if before else offset)


def _edit(
    sql: bytes, spans: list[int], start: int, end: int, pieces: tuple[Segment, ...]
) -> _Edit | None:
    first, last = _place(spans, start), _place(spans, end)
    if first is None or last is None:
        return None
    made: list[bytes | Either | _Hole] = []
    for piece in pieces:
        if isinstance(piece, bytes | Either):
            made.append(piece)
            continue
        if piece.use not in _VALUE_USES or last.literals - first.literals != 1:
            return None
        before = sql[start : spans[2 * first.literals]].rstrip()
        negative = before.endswith(b"-")
        if (
            b"-" in before[:-1]
        ):  # a name, a comment, or a sign far off: of a zero nothing would show
            return None
        if _value(sql, spans, first.literals, negative) != piece.text:
            return None
        if piece.oid > 0 and sql[spans[2 * first.literals] : spans[2 * first.literals] + 1] != b"'":
            return None  # a cast number: whether it may be one depends on its digits
        made.append(_Hole(first.literals, negative, piece))
    return _Edit(first, last, tuple(made))


_Variant = tuple[tuple[int, ...], tuple[bytes, ...], Template]  # pinned ordinals, their tokens
_VARIANTS = 8  # of one stripped text: pages of a LIMIT, columns of an ORDER BY
_OVERHEAD_BYTES = 1024


class Templates:
    """Templates by stripped text, the least recently used out first.

    `other` is whatever else plans depend on: session class, declared types, schema version.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._bytes = 0
        self._known: OrderedDict[tuple[bytes, object], list[_Variant]] = OrderedDict()

    def look(self, sql: bytes, stripped: bytes, spans: list[int], other: object) -> Plan | None:
        """The plan by a template, or None."""
        variants = self._known.get((stripped, other))
        if variants is None:
            return None
        for pinned, tokens, template in variants:
            if tokens == tuple(sql[spans[2 * n] : spans[2 * n + 1]] for n in pinned):
                self._known.move_to_end((stripped, other))
                return template.fill(sql, spans)
        return None

    def learn(
        self, sql: bytes, stripped: bytes, spans: list[int], other: object, plan: Plan
    ) -> bool:
        """Keeps what was just planned, if it can serve other texts; whether it can."""
        made = make(sql, spans, plan)
        if made is None:
            return False
        template, pinned = made
        tokens = tuple(sql[spans[2 * n] : spans[2 * n + 1]] for n in pinned)
        size = 2 * len(stripped) + _OVERHEAD_BYTES
        variants = self._known.setdefault((stripped, other), [])
        variants.insert(0, (pinned, tokens, template))
        self._bytes += size
        if len(variants) > _VARIANTS:
            del variants[_VARIANTS:]
            self._bytes -= size
        self._known.move_to_end((stripped, other))
        while self._bytes > self._limit and self._known:
            (text, _), dropped = self._known.popitem(last=False)
            self._bytes -= (2 * len(text) + _OVERHEAD_BYTES) * len(dropped)
        return True
