"""Which DDL statement is rewritten by whom. Pure."""

from collections.abc import Callable

from proxy.postgres.ddl.alter import alter_table
from proxy.postgres.ddl.context import Ddl
from proxy.postgres.ddl.grants import grant
from proxy.postgres.ddl.index import create_index
from proxy.postgres.ddl.rename import moved, rename
from proxy.postgres.ddl.table import create_table
from proxy.postgres.edits import Edits
from proxy.postgres.grammar import Node, Text, inner
from proxy.postgres.names import Names

_HANDLERS: dict[str, Callable[[Ddl, Node], None]] = {
    "create_stmt": create_table,
    "index_stmt": create_index,
    "alter_table_stmt": alter_table,
    "rename_stmt": rename,
    "grant_stmt": grant,
}
# statements that stand on the policy alone: they may follow other DDL in the same text
ON_POLICY_ALONE = frozenset({*_HANDLERS, "comment_stmt", "drop_stmt"})


def define(text: Text, node: Node, which: str, names: Names, edits: Edits) -> bool:
    """Records the edits of a DDL statement; False if it is none of ours. Raises Refusal."""
    ddl = Ddl(text, edits, names)
    if which in _HANDLERS:
        _HANDLERS[which](ddl, inner(node))
        return True
    if which == "alter_object_schema_stmt":
        statement = node.alter_object_schema_stmt
        if statement.HasField("relation"):
            key = ddl.key(statement.relation)
            moved(ddl, key, (statement.newschema, key[1]))
        return True
    if which == "create_policy_stmt":
        _row_policy(ddl, node.create_policy_stmt)
        return True
    return False


def _row_policy(ddl: Ddl, statement: Node) -> None:
    """A row security policy may look at columns that are not protected, of its own table and others."""
    sealed = ddl.sealed(statement.table)
    columns = ddl.visible(statement.table)
    for expression in (statement.qual, statement.with_check):
        if expression.ByteSize():
            ddl.free_of_sealed(
                expression, statement.table.relname, columns, sealed, "constraint", "this POLICY"
            )
