"""Keys on protected columns stand on their tags: UNIQUE, PRIMARY KEY, FOREIGN KEY, CHECK. Pure."""

from proxy.postgres.ddl.context import Ddl, Sealed, constraint_kind
from proxy.postgres.ddl.names import free_name
from proxy.postgres.ddl.spans import bracket_from, elements, name_last
from proxy.postgres.grammar import Node, strings
from proxy.postgres.names import quoted
from proxy.postgres.plan import Literal
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn


def key_name(ddl: Ddl, key: tuple[str, str], table: str, columns: list[str], label: str) -> bytes:
    """`CONSTRAINT name ` with the name that the server would have chosen."""
    name = default_name(ddl, key, table, [] if label == "pkey" else columns, label)
    return b"CONSTRAINT " + quoted(name) + b" "


def default_name(ddl: Ddl, key: tuple[str, str], table: str, columns: list[str], label: str) -> str:
    """The name that the server would choose for an index or key, as far as our view knows names."""
    snapshot = ddl.names.snapshot
    schema = key[0]

    def taken(name: str) -> bool:
        return (schema, name) in snapshot.relations or any(
            name in relation.indexes
            for at, relation in snapshot.relations.items()
            if at[0] == schema and at != ddl.creating
        )

    return free_name(table, columns, label, taken)


def table_constraint(
    ddl: Ddl,
    node: Node,
    last: int,
    table: str,
    key: tuple[str, str],
    columns: list[str],
    sealed: Sealed,
) -> bool:
    """A constraint of its own, that ends at token `last`; whether it touches a protected column."""
    which = constraint_kind(node)
    if which == "CHECK":
        if sealed:
            ddl.free_of_sealed(node.raw_expr, table, columns, sealed, "constraint", "this CHECK")
        return False
    if which == "FOREIGN":
        return _foreign(ddl, node, last, table, key, sealed)
    if which == "EXCLUSION":
        for element in [*node.exclusions]:
            item = element.list.items[0].index_elem
            if item.name in sealed:
                raise refuse("constraint", sealed[item.name], "EXCLUDE", node.location + 1)
            if item.expr.ByteSize():
                ddl.free_of_sealed(item.expr, table, columns, sealed, "constraint", "EXCLUDE")
        return False
    named = strings(node.keys)
    touched = [sealed[name] for name in named if name in sealed]
    if not touched:
        return False
    if node.without_overlaps:
        raise refuse("constraint", touched[0], "WITHOUT OVERLAPS", node.location + 1)
    start = ddl.text.at(node.location)
    opening = bracket_from(ddl.text, start + (2 if node.conname else 0))
    for (first, _), name in zip(elements(ddl.text, opening), named, strict=True):
        if name in sealed:
            on_tags(ddl, first, sealed[name])
    if not node.conname:
        label = "pkey" if which == "PRIMARY" else "key"
        covered = [*named, *strings(node.including)]
        ddl.edits.replace(node.location, node.location, key_name(ddl, key, table, covered, label))
    return True


def can_be_key(column: ProtectedColumn, what: str, position: int) -> None:
    """A key needs the equality tags in a column of their own. Refusal."""
    if not column.equality:
        raise refuse("no equality", column, what, position)
    if column.layout != "generated":
        raise refuse("layout", column, what, position)


def on_tags(ddl: Ddl, token: int, column: ProtectedColumn) -> None:
    """The name at this token becomes the name of the column's tags."""
    can_be_key(column, "a key", ddl.text.starts[token] + 1)
    ddl.edits.columns.add(column)
    start, end = ddl.text.starts[token], ddl.text.ends[token]
    ddl.edits.replace(start, end, quoted(column.index_column))


def _foreign(
    ddl: Ddl, node: Node, last: int, table: str, key: tuple[str, str], sealed: Sealed
) -> bool:
    named = strings(node.fk_attrs)
    columns = [sealed.get(name) for name in named]
    if not any(columns):
        plain_reference(ddl, node)
        return False
    text = ddl.text
    start = text.at(node.location)
    opening = bracket_from(text, start + (2 if node.conname else 0))
    for (first, _), column in zip(elements(text, opening), columns, strict=True):
        if column is not None:
            on_tags(ddl, first, column)
    head = text.at(node.pktable.location)
    ddl.edits.replace(text.starts[head], text.ends[last], *reference(ddl, node, last, columns))
    if not node.conname:
        ddl.edits.replace(node.location, node.location, key_name(ddl, key, table, named, "fkey"))
    return True


def reference(
    ddl: Ddl, node: Node, last: int, columns: "list[ProtectedColumn | None]"
) -> list[bytes | Literal]:
    """`table (columns) …` of REFERENCES up to token `last`, on tags where these columns are."""
    text = ddl.text
    first = next(c for c in columns if c is not None)
    position = node.location + 1
    key = ddl.key(node.pktable)
    there = ddl.names.protected(key)
    relation = ddl.names.relation(key)
    names = strings(node.pk_attrs)
    if not names and relation is not None:
        back = {c.index_column: c.column for c in there.values()}
        names = [back.get(n, n) for n in relation.primary_key]
    if not names:
        raise refuse("reference", first, "REFERENCES without columns", position)
    if len(names) != len(columns):
        raise refuse("domain", first, "this reference", position)
    shown = []
    for name, column in zip(names, columns, strict=True):
        target = there.get(name)
        if (target is None) != (column is None):
            raise refuse("domain", column or target, "this reference", position)
        if target is not None and column is not None:
            same = target.domain == column.domain and target.type.oid == column.type.oid
            if not same:
                raise refuse("domain", column, "this reference", position)
            can_be_key(target, "this reference", position)
            ddl.edits.columns.add(target)
            name = target.index_column
        shown.append(quoted(name))
    if node.fk_del_action not in ("a", "r", "c", "") or node.fk_upd_action not in ("a", "r", ""):
        raise refuse("constraint", first, "this referential action", position)
    behind = name_last(text, node.pktable.location) + 1
    table = text.sql[node.pktable.location : text.ends[behind - 1]]
    if node.pk_attrs:
        behind = text.matching(behind, 1) + 1
    words: list[bytes | Literal] = [table + b" (" + b", ".join(shown) + b")"]
    if behind <= last:
        words.append(b" " + text.sql[text.starts[behind] : text.ends[last]])
    return words


def plain_reference(ddl: Ddl, node: Node) -> None:
    """A plain column's reference to a protected key cannot hold: tags are no plain values."""
    there = ddl.sealed(node.pktable)
    if not there:
        return
    relation = ddl.names.relation(ddl.key(node.pktable))
    names = strings(node.pk_attrs)
    if not names and relation is not None:
        names = list(relation.primary_key)
    back = {c.index_column: c for c in there.values()} | there
    for name in names:
        if name in back:
            raise refuse("domain", back[name], "a reference from a plain column", node.location + 1)
