"""INSERT, UPDATE, DELETE, MERGE on protected tables: what is written into a sealed column. Pure."""

from proxy.postgres.expressions import Want
from proxy.postgres.grammar import Node, inner, kind
from proxy.postgres.indexing import EQUALITY, IndexColumn
from proxy.postgres.names import Entry, Field, Scope, Sealed, quoted
from proxy.postgres.plan import Refusal, UnknownColumns, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.query import Level, Query
from proxy.postgres.snapshot import ProtectedColumn
from proxy.postgres.spans import names_it, table_end

STATEMENTS = ("insert_stmt", "update_stmt", "delete_stmt", "merge_stmt")
_UPDATE, _INSERT = 3, 4  # CmdType


def modify(query: Query, node: Node, parent: Scope | None) -> Level:
    """Records the edits of the statement; the level of its RETURNING, edited too."""
    statement = inner(node)
    scope = Scope(parent)
    if statement.HasField("with_clause"):
        query.sources.ctes(statement.with_clause, scope)
    which = kind(node)
    if which == "insert_stmt":
        inside = _insert(query, statement, scope)
    elif which == "update_stmt":
        inside = _update(query, statement, scope)
    elif which == "delete_stmt":
        inside = _delete(query, statement, scope)
    else:
        inside = _merge(query, statement, scope)
    level = Level(statement, inside, [])
    query.resolve_targets(level, statement.returning_clause.exprs)
    if level.unknown and any(isinstance(o.origin, Sealed) for o in level.outputs):
        raise Refusal("0A000", "* of unknown columns beside protected ones", "Name the columns.")
    wants: list[Want | None] = [
        (Use.SHOW, o.origin.column) if isinstance(o.origin, Sealed) else None for o in level.outputs
    ]
    query.emit_targets(level, wants)
    return level


def _target(query: Query, relation: Node) -> Entry:
    """The table that is written; never a CTE."""
    query.names.visited.add(relation.location)
    alias = relation.alias.aliasname if relation.HasField("alias") else relation.relname
    entry = query.names.entry(query.names.locate(relation.schemaname, relation.relname), alias)
    if entry.protected and not entry.writable:
        raise refuse("view", None, f'writing through view "{relation.relname}"')
    return entry


# -- INSERT ----------------------------------------------------------------------------------------


def _insert(query: Query, statement: Node, scope: Scope) -> Scope:
    entry = _target(query, statement.relation)
    level = None
    if statement.select_stmt.ByteSize():
        source = statement.select_stmt.select_stmt
        if source.values_lists and not source.HasField("with_clause"):
            width = max(len(row.list.items) for row in source.values_lists)
        else:
            level = query.level(source, scope)
            width = len(level.outputs)
            if level.unknown and entry.protected and not statement.cols:
                raise refuse("write", None, "INSERT of * of unknown columns without a column list")
        columns = _columns(query, statement, entry, width)
        if level is not None:
            query.emit(level, _wants(level, columns))
        else:
            _values(query, source, columns, scope)
    inside = Scope(scope)
    inside.add(entry)
    if statement.HasField("on_conflict_clause"):
        _on_conflict(query, statement.on_conflict_clause, entry, inside)
    return inside


def _columns(
    query: Query, statement: Node, entry: Entry, width: int
) -> "list[ProtectedColumn | None]":
    """What is written into, by position; a protected table's columns are named if they are not."""
    if entry.absent and not statement.cols:  # a value could belong to one of these
        raise UnknownColumns(
            "0A000", f'not all columns of "{entry.alias}" are known yet', "Name the columns."
        )
    known = len(statement.cols) or len(entry.fields or ())
    if entry.protected and width > known:  # a value that belongs to no column may be anything
        raise UnknownColumns("42601", "INSERT has more expressions than target columns")
    if statement.cols:
        return [_column(entry, node.res_target) for node in statement.cols]
    fields = list(entry.fields or ())[:width]
    if entry.hidden:
        end = query.text.ends[table_end(query.text, statement.relation) - 1]
        named = b", ".join(quoted(f.name) for f in fields)
        query.edits.replace(end, end, b" (" + named + b")")
    return [f.sealed for f in fields]


def _column(entry: Entry, target: Node) -> ProtectedColumn | None:
    """The protected column that a target of INSERT or SET names."""
    if target.name in entry.hidden:
        raise Refusal("0A000", f'column "{target.name}" cannot be written', "It is generated.")
    field = entry.named(target.name)
    if field is None and entry.protected:  # its value would go to the server as it is
        message = f'column "{target.name}" of relation "{entry.alias}" does not exist'
        raise UnknownColumns("42703", message, "", max(target.location, 0) + 1)
    sealed = field.sealed if field is not None else None
    if sealed is not None and target.indirection:
        raise refuse("write", sealed, "assignment to a part", target.location + 1)
    return sealed


def _wants(level: Level, columns: "list[ProtectedColumn | None]") -> "list[Want | None]":
    """Into protected columns sealed values only; from sealed outputs into these only."""
    if level.unknown and any(columns):
        raise Refusal("0A000", "* of unknown columns into a protected table", "Name the columns.")
    wants: list[Want | None] = []
    for i, output in enumerate(level.outputs):
        column = columns[i] if i < len(columns) else None
        if column is None and isinstance(output.origin, Sealed):
            what = "writing it into a column that is not protected"
            raise refuse("write", output.origin.column, what)
        wants.append(None if column is None else (Use.STORE, column))
    return wants


def _values(
    query: Query, source: Node, columns: "list[ProtectedColumn | None]", scope: Scope
) -> None:
    for row in source.values_lists:
        for i, item in enumerate(row.list.items):
            _store(query, item, columns[i] if i < len(columns) else None, scope)
    sealed = next((c for c in columns if c is not None), None)
    if source.sort_clause and sealed is not None:  # the server would order what is sealed
        raise refuse("ORDER BY", sealed, "ORDER BY of VALUES that are sealed")
    for node in source.sort_clause:
        query.grouping.sort(node.sort_by, scope)
    for clause in (source.limit_count, source.limit_offset):
        if clause.ByteSize():
            query.expressions.plain(clause, scope)


def _store(query: Query, item: Node, column: ProtectedColumn | None, scope: Scope) -> None:
    """An expression is written into a column: sealed if the column is."""
    if kind(item) == "set_to_default":
        if column is not None:
            query.edits.columns.add(column)
        return  # DDL allows no DEFAULT on a protected column: it is NULL
    query.expressions.emit(item, scope, None if column is None else (Use.STORE, column))


def _on_conflict(query: Query, clause: Node, entry: Entry, scope: Scope) -> None:
    if clause.HasField("infer"):
        index = query.text.at(clause.infer.location)
        for node in clause.infer.index_elems:
            element = node.index_elem
            field = entry.named(element.name) if element.name else None
            if field is None or field.sealed is None:
                if element.expr.ByteSize():
                    query.expressions.plain(element.expr, scope)
                continue
            query.edits.columns.add(field.sealed)
            query.edits.compared.add(field.sealed)
            if not field.sealed.equality:
                raise refuse("no equality", field.sealed, "ON CONFLICT")
            index = _conflict_element(query, index, element.name, field)
        if clause.infer.where_clause.ByteSize():
            query.expressions.plain(clause.infer.where_clause, scope)
    both = Scope(scope.parent, list(scope.entries), list(scope.visible))
    both.add(_excluded(entry))
    _assign(query, clause.target_list, entry, both)
    if clause.where_clause.ByteSize():
        query.expressions.plain(clause.where_clause, both)


def _excluded(entry: Entry) -> Entry:
    lead = quoted("excluded") + b"."
    fields = tuple(
        Field(
            f.name, f.value, lead + quoted(f.name), lead if f.lead else b"", False, f.type_oid,
        )
        for f in entry.fields or ()
    )  # fmt: skip
    return Entry("excluded", fields if entry.fields is not None else None, entry.hidden)


def _conflict_element(query: Query, index: int, name: str, field: Field) -> int:
    """The element of ON CONFLICT (…) that names the column names its tags instead."""
    text = query.text
    while not names_it(text, index, name):
        index += 1
        if index >= len(text.starts):
            raise AssertionError("an element of ON CONFLICT is not found")
    assert field.sealed is not None
    element = IndexColumn(field.sealed, EQUALITY).element
    query.edits.replace(text.starts[index], text.ends[index], element)
    return index + 1


# -- UPDATE, DELETE --------------------------------------------------------------------------------


def _assign(query: Query, targets: "list[Node]", entry: Entry, scope: Scope) -> None:
    """The SET list."""
    i = 0
    while i < len(targets):
        value = targets[i].res_target.val
        if kind(value) != "multi_assign_ref":
            _store(query, value, _column(entry, targets[i].res_target), scope)
            i += 1
            continue
        count = value.multi_assign_ref.ncolumns
        columns = [_column(entry, t.res_target) for t in targets[i : i + count]]
        _assign_row(query, value.multi_assign_ref.source, columns, scope, entry.protected)
        i += count


def _assign_row(
    query: Query,
    source: Node,
    columns: "list[ProtectedColumn | None]",
    scope: Scope,
    protected: bool,
) -> None:
    """SET (a, b) = (…) or = (SELECT …). `protected`: a value too many is not sent, whatever it is."""
    if kind(source) == "row_expr":
        if protected and len(source.row_expr.args) != len(columns):
            raise Refusal("42601", "number of columns does not match number of values")
        for item, column in zip(source.row_expr.args, columns, strict=False):
            _store(query, item, column, scope)
    elif kind(source) == "sub_link":
        level = query.level(source.sub_link.subselect.select_stmt, scope)
        if protected and not level.unknown and len(level.outputs) != len(columns):
            raise Refusal("42601", "number of columns does not match number of values")
        query.emit(level, _wants(level, columns))
    elif any(columns):
        column = next(c for c in columns if c is not None)
        raise refuse("write", column, "this assignment of several columns")
    else:
        query.expressions.plain(source, scope)


def _update(query: Query, statement: Node, scope: Scope) -> Scope:
    inside = Scope(scope)
    entry = _target(query, statement.relation)
    inside.add(entry)
    for node in statement.from_clause:
        query.sources.add(node, inside)
    for node in statement.from_clause:  # in the order of the server's analysis
        query.sources.emit(node, inside)
    if statement.where_clause.ByteSize():
        query.expressions.plain(statement.where_clause, inside)
    _assign(query, statement.target_list, entry, inside)
    return inside


def _delete(query: Query, statement: Node, scope: Scope) -> Scope:
    inside = Scope(scope)
    inside.add(_target(query, statement.relation))
    for node in statement.using_clause:
        query.sources.add(node, inside)
    if statement.where_clause.ByteSize():
        query.expressions.plain(statement.where_clause, inside)
    for node in statement.using_clause:
        query.sources.emit(node, inside)
    return inside


# -- MERGE -----------------------------------------------------------------------------------------


def _merge(query: Query, statement: Node, scope: Scope) -> Scope:
    inside = Scope(scope)
    entry = _target(query, statement.relation)
    inside.add(entry)
    query.sources.add(statement.source_relation, inside)
    query.expressions.plain(statement.join_condition, inside)
    for node in statement.merge_when_clauses:
        clause = node.merge_when_clause
        if clause.condition.ByteSize():
            query.expressions.plain(clause.condition, inside)
        if clause.command_type == _UPDATE:
            _assign(query, clause.target_list, entry, inside)
        elif clause.command_type == _INSERT:
            _merge_insert(query, clause, entry, inside)
    query.sources.emit(statement.source_relation, inside)
    return inside


def _merge_insert(query: Query, clause: Node, entry: Entry, scope: Scope) -> None:
    if entry.protected and clause.values and not clause.target_list:
        raise Refusal("0A000", "MERGE … INSERT without columns", "Name the columns.")
    columns = [_column(entry, t.res_target) for t in clause.target_list]
    if entry.protected and len(clause.values) > len(columns):
        raise Refusal("42601", "INSERT has more expressions than target columns")
    for i, item in enumerate(clause.values):
        _store(query, item, columns[i] if i < len(columns) else None, scope)
