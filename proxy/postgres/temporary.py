"""Which statement makes or drops a temporary relation? Pure.

The server looks for a bare name among the session's temporary relations first. So the session is asked for
their names whenever they may have changed, and none may be made with the name of a protected table.
"""

from proxy.postgres.grammar import Node, inner, kind, strings
from proxy.postgres.names import TEMPORARY, Names
from proxy.postgres.predicates import refuse

# words without which a text makes none
WORDS = ("temp", "temporary", TEMPORARY)
_TARGETS = {
    "create_stmt": "relation",
    "create_seq_stmt": "sequence",
    "view_stmt": "view",
    "create_table_as_stmt": "into",
    "select_stmt": "into_clause",
}


def changes(node: Node, names: Names) -> bool:
    """Whether the session's temporary relations may be others after this statement. Refusal: one would
    get the name of a protected table, or of a view of one."""
    which = kind(node)
    if which == "explain_stmt":
        return changes(node.explain_stmt.query, names)
    statement = inner(node) if which else node
    if which == "drop_stmt":
        return any(_dropped(item, names) for item in statement.objects)
    if which in ("rename_stmt", "alter_object_schema_stmt"):
        return _renamed(statement, names)
    if which not in _TARGETS or not statement.HasField(_TARGETS[which]):
        return False
    target = getattr(statement, _TARGETS[which])
    if which in ("create_table_as_stmt", "select_stmt"):
        target = target.rel
    if target.relpersistence != "t" and not _temporary(target.schemaname):
        return False
    _free(target.relname, names)
    return True


def _renamed(statement: Node, names: Names) -> bool:
    if not statement.HasField("relation"):
        return False
    schema, name = names.locate(statement.relation.schemaname, statement.relation.relname)
    if not _temporary(schema):
        return False
    if statement.DESCRIPTOR.name == "RenameStmt" and not statement.subname:
        _free(statement.newname, names)
    return True


def _dropped(item: Node, names: Names) -> bool:
    parts = strings(item.list.items) if kind(item) == "list" else []
    schema = parts[-2] if len(parts) > 1 else ""
    return bool(parts) and (_temporary(schema) or not schema and parts[-1] in names.ctx.temporary)


def _temporary(schema: str) -> bool:
    return schema == TEMPORARY or schema.startswith("pg_temp_")


def _free(name: str, names: Names) -> None:
    if name in names.watched():
        raise refuse("statement", None, "a temporary table with a protected table's name")
