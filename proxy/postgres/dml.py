"""INSERT, UPDATE, DELETE on protected tables: what is written into a sealed column, and what is not. Pure."""

from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import EQUALITY, tokens_of
from proxy.postgres.names import Entry, Field, Scope, quoted
from proxy.postgres.plan import Refusal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.query import Output, Query
from proxy.postgres.snapshot import ProtectedColumn


def insert(query: Query, statement: Node) -> list[Output]:
    """Outputs of its RETURNING."""
    scope = Scope()
    if statement.HasField("with_clause"):
        query.ctes(statement.with_clause, scope)
    relation = statement.relation
    query.names.visited.add(relation.location)
    entry = query.names.entry(
        query.names.locate(relation.schemaname, relation.relname),
        relation.alias.aliasname if relation.HasField("alias") else relation.relname,
    )
    columns = _target_columns(query, statement, entry)
    source = statement.select_stmt.select_stmt if statement.select_stmt.ByteSize() else None
    if source is not None and source.values_lists:
        if source.HasField("with_clause"):
            query.ctes(source.with_clause, scope)
        for row in source.values_lists:
            _row(query, row.list.items, columns, scope)
    elif source is not None:
        _selected(query, source, columns, scope)
    inside = Scope(scope, [entry])
    if statement.HasField("on_conflict_clause"):
        _on_conflict(query, statement.on_conflict_clause, entry, inside)
    return query.targets(statement.returning_clause.exprs, inside)


def _target_columns(query: Query, statement: Node, entry: Entry) -> list[Field] | None:
    """The columns that are written, in order; None when nothing is known (and nothing protected)."""
    if entry.fields is None:
        return None
    by_name = {f.name: f for f in entry.fields}
    if statement.cols:
        named = [node.res_target.name for node in statement.cols]
        for name in named:
            if name in entry.hidden:
                raise Refusal("0A000", f'column "{name}" cannot be written', "It is generated.")
        return [by_name.get(name, Field(name)) for name in named]
    columns = list(entry.fields)
    if entry.protected and statement.select_stmt.ByteSize():
        relation = statement.relation
        text = query.text
        end = text.name_end(relation.location, 2 if relation.schemaname else 1)
        if relation.HasField("alias"):
            end = text.ends[text.at(end) + (text.word(text.at(end)) == "as")]
        source = statement.select_stmt.select_stmt
        width = len(columns)
        if source.values_lists:
            width = max(len(row.list.items) for row in source.values_lists)
        named_text = b", ".join(quoted(f.name) for f in columns[:width])
        query.edits.replace(end, end, b" (" + named_text + b")")
    return columns


def _row(query: Query, items: "list[Node]", columns: list[Field] | None, scope: Scope) -> None:
    for i, item in enumerate(items):
        field = columns[i] if columns is not None and i < len(columns) else None
        store(query, item, field.sealed if field else None, scope)


def store(query: Query, item: Node, column: ProtectedColumn | None, scope: Scope) -> None:
    """An expression is written into a column: sealed if the column is."""
    expressions = query.expressions
    if column is None:
        if kind(item) != "set_to_default":
            expressions.plain(item, scope)
        return
    query.edits.columns.add(column)
    if kind(item) == "set_to_default":
        return  # DDL allows no DEFAULT on a protected column: it is NULL
    if expressions.operand(item, column, Use.STORE):
        return
    if kind(item) not in ("column_ref", "sub_link"):
        raise refuse("write", column, "writing an expression")
    _same_domain(expressions.value(item, scope), column)


def _same_domain(sealed: ProtectedColumn | None, column: ProtectedColumn) -> None:
    if sealed is None:
        raise refuse("write", column, "writing a value that is not sealed")
    if sealed.domain != column.domain or sealed.type.oid != column.type.oid:
        raise refuse("domain", column, f'writing "{sealed.table}.{sealed.column}"')
    if sealed.equality != column.equality or sealed.search != column.search:
        raise refuse("domain", column, "writing a value with another search option")


def _selected(query: Query, source: Node, columns: list[Field] | None, scope: Scope) -> None:
    protected = {i: f.sealed for i, f in enumerate(columns or []) if f.sealed}
    if protected and source.op <= 1 and not source.distinct_clause and not source.group_clause:
        _select_into_sealed(query, source, protected, scope)
        return
    outputs = query.select(source, scope)
    _match(outputs, protected)


def _select_into_sealed(
    query: Query, source: Node, protected: dict[int, ProtectedColumn], scope: Scope
) -> None:
    """INSERT … SELECT whose target list may hold parameters and literals for sealed columns."""
    stars = any(
        kind(t.res_target.val) == "column_ref"
        and strings(t.res_target.val.column_ref.fields)[-1] == "*"
        for t in source.target_list
    )
    if stars:
        _match(query.select(source, scope), protected)
        return
    direct: dict[int, ProtectedColumn] = {}
    for i, target in enumerate(source.target_list):
        if i in protected and kind(target.res_target.val) in ("param_ref", "a_const", "type_cast"):
            direct[i] = protected[i]
    if not direct:
        _match(query.select(source, scope), protected)
        return
    rest = type(source)()
    rest.CopyFrom(source)
    kept = [t for i, t in enumerate(source.target_list) if i not in direct]
    del rest.target_list[:]
    rest.target_list.extend(kept)
    outputs = query.select(rest, scope)
    left = iter(outputs)
    placed = [None if i in direct else next(left) for i in range(len(source.target_list))]
    for i, column in direct.items():
        if not query.expressions.operand(source.target_list[i].res_target.val, column, Use.STORE):
            raise refuse("write", column, "writing an expression")
    for i, output in enumerate(placed):
        if output is not None:
            _match_one(output, protected.get(i))


def _match(outputs: list[Output], protected: dict[int, ProtectedColumn]) -> None:
    if any(o.name == "*" for o in outputs) and protected:
        raise Refusal("0A000", "* of unknown columns into a protected table", "Name the columns.")
    for i, output in enumerate(outputs):
        _match_one(output, protected.get(i))


def _match_one(output: Output, column: ProtectedColumn | None) -> None:
    if column is not None:
        _same_domain(output.sealed, column)
    elif output.sealed is not None:
        raise refuse("write", output.sealed, "writing it into a column that is not protected")


def _on_conflict(query: Query, clause: Node, entry: Entry, scope: Scope) -> None:
    if clause.HasField("infer"):
        for node in clause.infer.index_elems:
            element = node.index_elem
            sealed = next(
                (f.sealed for f in entry.fields or () if f.name == element.name and f.sealed), None
            )
            if sealed is None:
                if element.expr.ByteSize():
                    query.expressions.plain(element.expr, scope)
                continue
            if not sealed.equality:
                raise refuse("no equality", sealed, "ON CONFLICT")
            _rename_element(query, clause, element.name, sealed)
        if clause.infer.where_clause.ByteSize():
            query.expressions.plain(clause.infer.where_clause, scope)
    excluded = Entry("excluded", entry.fields, entry.hidden)
    both = Scope(scope.parent, [entry, excluded])
    _assign(query, clause.target_list, entry, both)
    if clause.where_clause.ByteSize():
        query.expressions.plain(clause.where_clause, both)


def _rename_element(query: Query, clause: Node, name: str, sealed: ProtectedColumn) -> None:
    """The element of ON CONFLICT (…) that names the column names its tags instead."""
    text = query.text
    index = text.at(clause.infer.location if clause.infer.location > 0 else clause.location)
    while text.word(index) not in (name.lower(), f'"{name.lower()}"'):
        index += 1
        if index >= len(text.starts):
            raise refuse("no equality", sealed, "ON CONFLICT")
    tokens = tokens_of(sealed, EQUALITY)
    assert tokens is not None
    query.edits.replace(text.starts[index], text.ends[index], tokens.element)


def _assign(query: Query, targets: "list[Node]", entry: Entry, scope: Scope) -> None:
    by_name = {f.name: f for f in entry.fields or ()}
    for node in targets:
        target = node.res_target
        if target.name in entry.hidden:
            raise Refusal("0A000", f'column "{target.name}" cannot be written', "It is generated.")
        field = by_name.get(target.name)
        sealed = field.sealed if field else None
        if kind(target.val) == "multi_assign_ref":
            if sealed is not None:
                raise refuse("write", sealed, "assignment of several columns at once")
            query.expressions.plain(target.val, scope)
            continue
        if sealed is not None and target.indirection:
            raise refuse("write", sealed, "assignment to a part")
        store(query, target.val, sealed, scope)


def update(query: Query, statement: Node) -> list[Output]:
    """Outputs of its RETURNING."""
    scope = Scope()
    if statement.HasField("with_clause"):
        query.ctes(statement.with_clause, scope)
    inside = Scope(scope)
    entry = query.table(statement.relation, inside)
    for node in statement.from_clause:
        query.source(node, inside)
    _assign(query, statement.target_list, entry, inside)
    if statement.where_clause.ByteSize():
        query.expressions.plain(statement.where_clause, inside)
    return query.targets(statement.returning_clause.exprs, inside)


def delete(query: Query, statement: Node) -> list[Output]:
    """Outputs of its RETURNING."""
    scope = Scope()
    if statement.HasField("with_clause"):
        query.ctes(statement.with_clause, scope)
    inside = Scope(scope)
    query.table(statement.relation, inside)
    for node in statement.using_clause:
        query.source(node, inside)
    if statement.where_clause.ByteSize():
        query.expressions.plain(statement.where_clause, inside)
    return query.targets(statement.returning_clause.exprs, inside)
