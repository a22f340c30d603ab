"""Expressions over sealed columns: where they may stand, and what they become. Pure.

Fail closed: `plain()` refuses every sealed value that it meets but in the forms that are handled by
name; `emit()` writes an expression as a sealed value or as a tag of a given column, and refuses what
cannot be one. Comparisons are in `comparisons.py`.
"""

from typing import TYPE_CHECKING

from proxy.postgres.comparisons import Comparisons
from proxy.postgres.edits import Piece
from proxy.postgres.grammar import Node, fields, inner, kind, strings, type_text
from proxy.postgres.indexing import EQUALITY, IndexColumn, quoted
from proxy.postgres.names import Cell, Field, Scope, Sealed
from proxy.postgres.operands import comparable_types
from proxy.postgres.ordering import Ordering
from proxy.postgres.patterns import Patterns
from proxy.postgres.plan import Refusal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.provenance import first_of, harmless_cast, passes
from proxy.postgres.rechecks import Rechecks
from proxy.postgres.snapshot import VARCHAR, ProtectedColumn

if TYPE_CHECKING:
    from proxy.postgres.query import Query

Want = tuple[Use, ProtectedColumn]  # Use.STORE, Use.SHOW or Use.TAG


class Expressions:
    """Of one statement. `query` analyses the sub-selects that are met."""

    def __init__(self, query: "Query") -> None:
        self.query = query
        self.text = query.text
        self.edits = query.edits
        self.operands = query.operands
        self.provenance = query.provenance
        self.patterns = Patterns(self)
        self.ordering = Ordering(self)
        self.rechecks = Rechecks(self)
        self.comparisons = Comparisons(self)

    # -- columns ---------------------------------------------------------------------------------

    def span(self, ref: Node) -> tuple[int, int]:
        """Bytes of a column reference."""
        if ref.location < 0:
            raise refuse("statement", None, "this form on a protected table")
        return ref.location, self.text.name_end(ref.location, len(ref.fields))

    def tag_text(self, ref: Node, field: Field) -> bytes:
        """How the tag of a sealed column is written in place of the reference to it."""
        assert field.sealed is not None
        return self._tokens(ref, field, IndexColumn(field.sealed, EQUALITY))

    def _tokens(self, ref: Node, field: Field, tokens: IndexColumn) -> bytes:
        start, end = self.span(ref)
        written = field.text if field.merged else self.text.sql[start:end]
        if field.merged or not field.lead or tokens.column.layout != "generated":
            return self.field_tokens(field, tokens, written)
        last = self.text.at(start) + 2 * (len(ref.fields) - 1)
        return self.text.sql[start : self.text.starts[last]] + quoted(tokens.name)

    def field_tokens(self, field: Field, tokens: IndexColumn, written: bytes = b"") -> bytes:
        """Where a field's tokens are, if it is written so or as its entry has it."""
        if field.lead and tokens.column.layout == "generated":
            return field.lead + quoted(tokens.name)
        return tokens.expression(written or field.text)

    def peek(self, node: Node, scope: Scope) -> ProtectedColumn | None:
        """The provenance of a column reference, None if it is none to a sealed column."""
        if kind(node) != "column_ref":
            return None
        found = self.provenance.lookup(node.column_ref, scope)
        return found[0].sealed if found is not None else None

    def tokens_text(self, node: Node, scope: Scope, tokens: IndexColumn) -> bytes:
        """How the tokens of a sealed column are written in place of the reference to it."""
        found = self.provenance.lookup(node.column_ref, scope)
        assert found is not None
        return self._tokens(node.column_ref, found[0], tokens)

    def field_tag(self, field: Field, text: bytes = b"") -> bytes:
        """The tag of a field that is written as `text`, or as its entry has it. Of a cell, its final
        form decides: to be asked for last."""
        if isinstance(field.value, Cell) and field.value.form != "sealed":
            return text or field.text
        if field.sealed is None:
            return tag_of(text or field.text)
        return self.field_tokens(field, IndexColumn(field.sealed, EQUALITY), text)

    def fits(self, want: Want, source: Sealed, position: int) -> None:
        """Refusal unless a sealed value can be written so."""
        if want[0] is Use.TAG:
            comparable(want[1], source.column, position)
        else:
            self.copied(want, source, position)

    def copied(self, want: Want, source: Sealed, position: int = 0) -> None:
        """Refusal unless the sealed value is one of the wanted column as it stands, and, where it is
        written, keeps to the column's length and scale."""
        use, to = want
        copyable(to, source.column, position)
        if use is Use.STORE and not _within(to, source):
            what = f'writing "{source.column.table}.{source.column.column}"'
            raise refuse("domain", to, f"{what}, which has another length or scale,", position)

    def value_text(self, written: bytes, field: Field, where: Scope) -> bytes:
        """How a sealed column is written as a value; `where`: the level that it belongs to."""
        text = field.text if field.merged else written
        if field in where.grouped:
            return b"(pg_catalog.array_agg(" + text + b"))[1]"
        return text

    def _reference(self, node: Node, scope: Scope, want: Want, aggregated: bool) -> None:
        use, column = want
        ref = node.column_ref
        position = max(ref.location, 0) + 1
        found = self.provenance.lookup(ref, scope)
        field, where = found if found else (Field(""), scope)
        start, end = self.span(ref)
        written = self.text.sql[start:end]
        if isinstance(field.value, Cell):
            cell = field.value
            text = field.text if field.merged else written
            cell.want("tag" if use is Use.TAG else "sealed", column, position)
            if use is Use.TAG:
                self.edits.compared.add(column)
                self.query.later(
                    lambda: self._put(start, end, tag_of(text) if cell.form == "sealed" else text)
                )
            else:
                self._put(start, end, text)
            return
        if not isinstance(field.value, Sealed):
            what = "comparison with" if use is Use.TAG else "writing"
            raise refuse("write", column, f"{what} a value that is not sealed", position)
        mine = field.value.column
        self.edits.columns.add(mine)
        if use is Use.TAG:
            comparable(column, mine, position)
            self._put(start, end, self.tag_text(ref, field))
            return
        self.copied(want, field.value, position)
        self._put(start, end, written if aggregated else self.value_text(written, field, where))

    def _put(self, start: int, end: int, text: bytes) -> None:
        if self.text.sql[start:end] != text:
            self.edits.replace(start, end, text)

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

    # -- sealed values and tags ------------------------------------------------------------------

    def emit(self, node: Node, scope: Scope, want: Want | None, aggregated: bool = False) -> None:
        """The expression becomes a sealed value or tag of a column; None: it must be plain.
        `aggregated`: it is an argument of an aggregate function."""
        if want is None:
            self.plain(node, scope)
            return
        use, column = want
        self.edits.columns.add(column)
        leaf = self.operands.leaf(node)
        if leaf is not None:
            self.operands.put(leaf, column, use)
            return
        which = kind(node)
        if which == "column_ref":
            self._reference(node, scope, want, aggregated)
        elif which == "type_cast":
            self._emit_cast(node.type_cast, scope, want, aggregated)
        elif which == "coalesce_expr":
            for item in node.coalesce_expr.args:
                self.emit(item, scope, want, aggregated)
        elif which == "case_expr":
            self._case(node.case_expr, scope, want, aggregated)
        elif which == "a_expr" and node.a_expr.kind == 6:  # NULLIF
            self.comparisons.nullif(node.a_expr, scope, want)
        elif which == "sub_link" and node.sub_link.sub_link_type == 5:  # EXPR_SUBLINK
            level = self.query.level(node.sub_link.subselect.select_stmt, scope)
            self.query.emit(level, [want])
        elif (extreme := self.ordering.extreme_of(node, scope)) is not None:
            if use is Use.TAG:
                comparable(column, extreme.column)
            else:
                self.copied(want, Sealed(extreme.column, extreme.column.type))
            self.ordering.extreme(node.func_call, extreme, scope, use is Use.TAG)
        elif (picked := first_of(node)) is not None:
            self.emit(picked, scope, want, aggregated=True)
            self._call_rest(node.a_indirection.arg.func_call, scope)
            for step in node.a_indirection.indirection:
                self.walk(step, scope)
        elif which == "func_call" and passes(node.func_call):
            self._passing(node.func_call, scope, want)
        else:
            what = "comparison with" if use is Use.TAG else "writing"
            raise refuse("write", column, f"{what} an expression")

    def _emit_cast(self, cast: Node, scope: Scope, want: Want, aggregated: bool) -> None:
        origin = self.provenance.of(cast.arg, scope)
        column = want[1]
        if isinstance(origin, Sealed):
            name, array = type_text(cast.type_name)
            if array or harmless_cast(origin.shown, name) is None:
                raise refuse("cast", origin.column, f"a cast to {name}", max(cast.location, 0) + 1)
        else:
            self.operands.check_cast(cast, column, False)
        self.emit(cast.arg, scope, want, aggregated)
        self.operands.drop_cast(cast, column)

    def _passing(self, call: Node, scope: Scope, want: Want) -> None:
        name = strings(call.funcname)[-1]
        self.emit(call.args[0], scope, want, aggregated=name == "any_value")
        for i, item in enumerate(call.args[1:]):
            # lag(value, offset, default)
            self.emit(item, scope, want if i == 1 and name in ("lag", "lead") else None)
        self._call_rest(call, scope)

    def _call_rest(self, call: Node, scope: Scope) -> None:
        for order in call.agg_order:
            if call.agg_within_group:  # percentile_disc, mode: they give back what they sort by
                self.plain(order.sort_by.node, scope)
            else:
                self.query.grouping.sort(order.sort_by, scope)
        if call.agg_filter.ByteSize():
            self.plain(call.agg_filter, scope)
        if call.HasField("over"):
            self.query.grouping.window(call.over, scope)

    def _case(self, case: Node, scope: Scope, want: Want | None, aggregated: bool = False) -> None:
        if case.arg.ByteSize():
            self.comparisons.case(case, scope)
        else:
            for when in case.args:
                self.plain(when.case_when.expr, scope)
        for when in case.args:
            self.emit(when.case_when.result, scope, want, aggregated)
        if case.defresult.ByteSize():
            self.emit(case.defresult, scope, want, aggregated)

    def as_it_is(self, node: Node, scope: Scope, aggregated: bool = False) -> None:
        """A place where a sealed value may stand as well as any other."""
        origin = self.provenance.of(node, scope)
        if isinstance(origin, Sealed):
            self.emit(node, scope, (Use.SHOW, origin.column), aggregated)
        else:
            self.plain(node, scope)

    # -- plain expressions -----------------------------------------------------------------------

    def plain(self, node: Node, scope: Scope) -> None:
        """Nothing sealed in it but in forms that are handled. Refusal otherwise."""
        which = kind(node)
        handler = getattr(self, f"_plain_{which}", None)
        if handler is not None:
            handler(inner(node), scope)
        elif which:
            self.walk(inner(node), scope)

    def walk(self, message: Node, scope: Scope) -> None:
        """`plain` for everything below a message."""
        for child in fields(message):
            name = child.DESCRIPTOR.name
            if name == "Node":
                self.plain(child, scope)
            elif name == "SelectStmt":
                self._no_sealed(child, scope)
            elif name == "WindowDef":
                self.query.grouping.window(child, scope)
            else:
                self.walk(child, scope)

    def _no_sealed(self, statement: Node, scope: Scope) -> None:
        level = self.query.level(statement, scope)
        for output in level.outputs:
            if isinstance(output.origin, Sealed):
                raise refuse("expression", output.origin.column, "a sub-select that yields it here")
        self.query.emit(level, None)

    def _plain_column_ref(self, ref: Node, scope: Scope) -> None:
        found = self.provenance.lookup(ref, scope)
        if found is None:
            return
        field = found[0]
        position = max(ref.location, 0) + 1
        if isinstance(field.value, Sealed):
            raise refuse("expression", field.value.column, "this expression", position)
        if isinstance(field.value, Cell):
            field.value.want_plain(position)
        if field.merged:
            self._put(*self.span(ref), field.text)

    def _plain_param_ref(self, ref: Node, scope: Scope) -> None:
        end = self.text.ends[self.text.at(ref.location)]
        self.edits.param(ref.location, end, ref.number)

    def _plain_select_stmt(self, statement: Node, scope: Scope) -> None:
        self._no_sealed(statement, scope)

    def _plain_window_def(self, window: Node, scope: Scope) -> None:
        self.query.grouping.window(window, scope)

    def _plain_null_test(self, test: Node, scope: Scope) -> None:
        if kind(test.arg) == "row_expr":
            for item in test.arg.row_expr.args:
                self._nullness(item, scope)
        else:
            self._nullness(test.arg, scope)

    def _nullness(self, node: Node, scope: Scope) -> None:
        """A place where only NULL or not matters."""
        leaf = self.operands.leaf(node)
        if leaf is not None and kind(leaf.bare) == "param_ref":
            self.edits.nullness(leaf.start, leaf.end, leaf.bare.param_ref.number)
        elif leaf is not None and not leaf.bare.a_const.isnull:
            self.edits.not_null(leaf.start, leaf.end)
            return
        if kind(node) != "column_ref":
            self.as_it_is(node, scope)
            return
        found = self.provenance.lookup(node.column_ref, scope)
        if found is None:
            self.plain(node, scope)
            return
        field, where = found
        start, end = self.span(node.column_ref)
        if isinstance(field.value, Sealed):
            self.edits.columns.add(field.value.column)
            if field in where.grouped:
                self._put(start, end, self.tag_text(node.column_ref, field))
                return
        if field.merged:
            self._put(start, end, field.text)

    def _plain_type_cast(self, cast: Node, scope: Scope) -> None:
        origin = self.provenance.of(cast.arg, scope)
        if isinstance(origin, Sealed):
            raise refuse("cast", origin.column, "a cast", max(cast.location, 0) + 1)
        self.plain(cast.arg, scope)

    def _plain_case_expr(self, case: Node, scope: Scope) -> None:
        self._case(case, scope, None)

    def _plain_func_call(self, call: Node, scope: Scope) -> None:
        name = strings(call.funcname)
        if name in (["count"], ["pg_catalog", "count"]) and len(call.args) == 1:
            if call.agg_distinct:
                self.query.grouping.key(call.args[0], scope)
            else:
                self.as_it_is(call.args[0], scope, aggregated=True)
            self._call_rest(call, scope)
            return
        for item in call.args:
            origin = self.provenance.of(item, scope)
            if isinstance(origin, Sealed):
                position = max(call.location, 0) + 1
                raise refuse("function", origin.column, f"{name[-1]}()", position)
            self.plain(item, scope)
        self._call_rest(call, scope)

    def _plain_min_max_expr(self, expr: Node, scope: Scope) -> None:
        for item in expr.args:
            origin = self.provenance.of(item, scope)
            if isinstance(origin, Sealed):
                raise refuse("<", origin.column, "GREATEST or LEAST", max(expr.location, 0) + 1)
            self.plain(item, scope)

    def _plain_sub_link(self, link: Node, scope: Scope) -> None:
        self.comparisons.sub_link(link, scope)

    def _plain_a_expr(self, expr: Node, scope: Scope) -> None:
        self.comparisons.expression(expr, scope)

    def _plain_collate_clause(self, clause: Node, scope: Scope) -> None:
        origin = self.provenance.of(clause.arg, scope)
        if isinstance(origin, Sealed):
            raise refuse("expression", origin.column, "COLLATE", max(clause.location, 0) + 1)
        self.plain(clause.arg, scope)

    def _plain_json_expr(self, message: Node, scope: Scope) -> None:
        raise Refusal("0A000", "SQL/JSON functions beside protected tables are not supported")

    def same_domain(self, one: ProtectedColumn, other: ProtectedColumn) -> None:
        """Refusal unless the two columns have one domain and type."""
        same = one.domain == other.domain and one.ring == other.ring
        if not same or one.type.oid != other.type.oid or one.transform_id != other.transform_id:
            raise refuse("domain", one, f'comparison with "{other.table}.{other.column}"')

    def operand_piece(
        self, node: Node, column: ProtectedColumn, use: Use
    ) -> tuple[int, int, Piece] | None:
        """Where a parameter or literal stands, and what is to stand there; None if it is neither."""
        leaf = self.operands.leaf(node)
        return (
            None if leaf is None else (leaf.start, leaf.end, self.operands.piece(leaf, column, use))
        )

    def operand(self, node: Node, column: ProtectedColumn, use: Use) -> bool:
        """A parameter or literal takes another form where it stands. False if it is neither."""
        leaf = self.operands.leaf(node)
        if leaf is not None:
            self.operands.put(leaf, column, use)
        return leaf is not None


def tag_of(text: bytes) -> bytes:
    """The equality tag of a sealed value (docs/reference/format.md, "Column value")."""
    return b"substring(" + text + b" from 4 for 16)"


def comparable(one: ProtectedColumn, other: ProtectedColumn, position: int = 0) -> None:
    """Refusal unless equal values of the two columns have equal tags."""
    for column in (one, other):
        if not column.equality:
            raise refuse("no equality", column, "comparison", position)
    same = one.domain == other.domain and one.ring == other.ring
    alike = comparable_types(one.type.oid, other.type.oid)
    if not same or not alike or one.transform_id != other.transform_id:
        raise refuse("domain", one, f'comparison with "{other.table}.{other.column}"', position)


def copyable(to: ProtectedColumn, source: ProtectedColumn, position: int = 0) -> None:
    """Refusal unless a sealed value of `source` is one of `to` as it stands."""
    what = f'writing "{source.table}.{source.column}"'
    if to.domain != source.domain or to.type.oid != source.type.oid or to.ring != source.ring:
        raise refuse("domain", to, what, position)
    searches = (to.equality, to.transform_id, to.search)
    if searches != (source.equality, source.transform_id, source.search):
        raise refuse("domain", to, "writing a value with another search option", position)


def _within(to: ProtectedColumn, source: Sealed) -> bool:
    """Whether a value that is shown with this length or scale can only be one that `to` takes."""
    has, most = source.shown.typmod, to.type.typmod
    return most in (-1, has) or (to.type.oid == VARCHAR and 0 < has <= most)
