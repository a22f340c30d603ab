"""ALTER TABLE of a protected table, command by command. Pure.

What concerns the table as a whole passes; what names a protected column is done on its sealed value and
its tags, or refused.
"""

from proxy.postgres.ddl.columns import Table, column, default
from proxy.postgres.ddl.context import Ddl, check_type
from proxy.postgres.ddl.keys import plain_reference, table_constraint
from proxy.postgres.ddl.spans import Span, name_last, parts, statement_end
from proxy.postgres.ddl.table import attach
from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import index_columns
from proxy.postgres.names import quoted
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn

# commands on a column that mean the same for its sealed value
_SAME = frozenset(
    {
        "AT_DropNotNull", "AT_SetNotNull", "AT_SetStorage", "AT_SetCompression", "AT_SetStatistics",
        "AT_SetOptions", "AT_ResetOptions",
    }
)  # fmt: skip
_OF_A_COLUMN = _SAME | {
    "AT_ColumnDefault", "AT_AlterColumnType", "AT_DropColumn", "AT_SetExpression", "AT_AddIdentity",
    "AT_DropExpression", "AT_SetIdentity", "AT_DropIdentity", "AT_AlterColumnGenericOptions",
}  # fmt: skip
_NOTHING = b"SET WITHOUT OIDS"  # accepted, and without any effect, since PostgreSQL 12


def alter_table(ddl: Ddl, statement: Node) -> None:
    """ALTER TABLE, also of what is inherited."""
    relation = statement.relation
    for node in statement.cmds:
        child = _other_table(getattr(node.alter_table_cmd, "def"))
        if child is not None:
            attach(ddl, statement, child)
    sealed = ddl.sealed(relation)
    if not sealed:
        _plain(ddl, statement)
        return
    text = ddl.text
    first = name_last(text, relation.location) + 1
    if text.word(first) == "*":
        first += 1
    columns = _columns(ddl, statement)
    table = Table(relation.relname, ddl.key(relation), columns, sealed)
    spans = parts(text, first, statement_end(text, first - 1))
    for span, node in zip(spans, statement.cmds, strict=True):
        _command(ddl, node.alter_table_cmd, span, table)


def _columns(ddl: Ddl, statement: Node) -> list[str]:
    """The table's columns, with those that the statement adds."""
    found = ddl.visible(statement.relation)
    for node in statement.cmds:
        definition = getattr(node.alter_table_cmd, "def")
        if kind(definition) == "column_def" and definition.column_def.colname:
            found.append(definition.column_def.colname)
    return found


def _other_table(definition: Node) -> Node | None:
    if kind(definition) == "range_var":  # INHERIT
        return definition.range_var
    if kind(definition) == "partition_cmd" and definition.partition_cmd.HasField("name"):
        return definition.partition_cmd.name
    return None


def _plain(ddl: Ddl, statement: Node) -> None:
    for node in statement.cmds:
        definition = getattr(node.alter_table_cmd, "def")
        found = []
        if kind(definition) == "constraint":
            found = [definition.constraint]
        elif kind(definition) == "column_def":
            found = [c.constraint for c in definition.column_def.constraints]
        for constraint in found:
            if constraint.HasField("pktable"):
                plain_reference(ddl, constraint)


def command_name(command: Node) -> str:
    """ "AT_AddColumn", …"""
    names = command.DESCRIPTOR.fields_by_name["subtype"].enum_type.values_by_number
    return str(names[command.subtype].name)


def _command(ddl: Ddl, command: Node, span: Span, table: Table) -> None:
    which, sealed = command_name(command), table.sealed
    definition = getattr(command, "def")
    if which == "AT_AddColumn":
        _add_column(ddl, definition.column_def, span, table)
    elif which == "AT_DropConstraint":
        ddl.not_hidden(command.name, sealed)
    elif which in _OF_A_COLUMN:
        _on_column(ddl, which, command.name, definition, span, table)
    elif kind(definition) == "constraint":
        node = definition.constraint
        table_constraint(ddl, node, span[1], table.name, table.key, table.columns, sealed)


def _on_column(ddl: Ddl, which: str, name: str, definition: Node, span: Span, table: Table) -> None:
    ddl.not_hidden(name, table.sealed)
    found = table.sealed.get(name)
    if found is not None:
        ddl.edits.columns.add(found)
        _alter_column(ddl, which, definition, span, found)
        return
    expression, rule, what = definition, "constraint", "this expression"
    if kind(definition) == "column_def":
        expression, rule, what = definition.column_def.raw_default, "expression", "USING"
    elif which not in ("AT_ColumnDefault", "AT_SetExpression"):
        return
    if expression.ByteSize():
        ddl.free_of_sealed(expression, table.name, table.columns, table.sealed, rule, what)


def _add_column(ddl: Ddl, definition: Node, span: Span, table: Table) -> None:
    found = table.sealed.get(definition.colname)
    ddl.not_hidden(definition.colname, table.sealed)
    if found is None:
        for node in definition.constraints:
            constraint = node.constraint
            if constraint.HasField("pktable"):
                plain_reference(ddl, constraint)
            elif constraint.raw_expr.ByteSize():
                ddl.free_of_sealed(
                    constraint.raw_expr, table.name, table.columns, table.sealed,
                    "constraint", "this expression",
                )  # fmt: skip
        return
    text = ddl.text
    head = text.at(definition.location)
    again = text.word(span[0] + 1) == "if" or text.word(head - 1) == "exists"
    words = b"ADD COLUMN " + (b"IF NOT EXISTS " if again else b"")
    column(ddl, definition, span[1], found, table, words)


def _alter_column(
    ddl: Ddl, which: str, definition: Node, span: Span, found: ProtectedColumn
) -> None:
    text = ddl.text
    start, end = text.starts[span[0]], text.ends[span[1]]
    name = quoted(found.column)
    if which in _SAME:
        return
    if which == "AT_DropColumn":
        cascade = b" CASCADE" if text.word(span[1]) == "cascade" else b""
        first = b"".join(
            b"DROP COLUMN IF EXISTS %s%s, " % (quoted(i.name), cascade)
            for i in index_columns(found)
        )
        ddl.edits.replace(start, start, first)
        return
    if which == "AT_ColumnDefault":
        if definition.ByteSize():
            value = default(found, definition, start + 1)
            ddl.edits.replace(start, end, b"ALTER COLUMN ", name, b" SET DEFAULT ", *value)
        return
    if which == "AT_AlterColumnType":
        check_type(definition.column_def, found, start + 1)
        if definition.column_def.HasField("raw_default"):
            _check_using(definition.column_def.raw_default, found, start + 1)
        ddl.edits.replace(start, end, _NOTHING)
        return
    raise refuse("alter", found, "this ALTER COLUMN", start + 1)


def _check_using(expression: Node, found: ProtectedColumn, position: int) -> None:
    """`USING c` and `USING c::type` say nothing that the type does not."""
    node = expression
    while kind(node) == "type_cast":
        node = node.type_cast.arg
    if kind(node) != "column_ref" or strings(node.column_ref.fields)[-1] != found.column:
        raise refuse("alter", found, "USING", position)
