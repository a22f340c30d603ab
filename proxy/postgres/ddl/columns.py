"""The definition of a protected column, in CREATE TABLE or ALTER TABLE ADD COLUMN. Pure.

`c type constraints` becomes `"c" bytea <what holds on the sealed value> CHECK (it is one)`, and behind it
the column of its tags with the keys (UNIQUE, PRIMARY KEY, REFERENCES), under the names that they would
have had.
"""

from proxy.postgres.ddl.context import Ddl, Sealed, check_type, constraint_kind
from proxy.postgres.ddl.keys import can_be_key, key_name, reference
from proxy.postgres.grammar import Node, kind, strings
from proxy.postgres.indexing import EQUALITY, index_columns
from proxy.postgres.names import quoted
from proxy.postgres.plan import Literal, Use
from proxy.postgres.predicates import refuse
from proxy.postgres.snapshot import ProtectedColumn

LEAST_BYTES = 67
_BYTEWISE = frozenset({"C", "POSIX", "default", "ucs_basic", "pg_c_utf8"})


def check_text(column: ProtectedColumn) -> bytes:
    """The condition that only a sealed value passes (docs/reference/format.md, "Column value")."""
    name = quoted(column.column)
    return (
        b"CONSTRAINT %s CHECK (octet_length(%s) >= %d AND get_byte(%s, 0) = 197"
        b" AND get_byte(%s, 1) = 1)" % (quoted(column.check_name), name, LEAST_BYTES, name, name)
    )


def column(
    ddl: Ddl, definition: Node, last: int, column: ProtectedColumn, table: "Table", add: bytes = b""
) -> None:
    """Rewrites the definition that ends at token `last`. `add`: the words of ALTER TABLE in front of
    a column, repeated for the columns behind it."""
    text = ddl.text
    check_type(definition, column, definition.location + 1)
    ddl.edits.columns.add(column)
    pieces: list[bytes | Literal] = [quoted(column.column) + b" bytea"]
    moved: list[bytes | Literal] = []
    nodes = [node.constraint for node in definition.constraints]
    name_end = text.type_end(text.at(definition.type_name.location))
    places = [n.location for n in nodes]
    if definition.HasField("coll_clause"):
        _check_collation(definition.coll_clause, column)
        places.append(definition.coll_clause.location)
    first = text.at(min(places)) if places else last + 1
    if first > name_end + 1:  # STORAGE, COMPRESSION
        pieces.append(b" " + _slice(ddl, name_end + 1, first - 1))
    target = pieces
    ends = sorted([*places, text.ends[last]])
    for node in nodes:
        stop = next(e for e in ends if e > node.location)
        until = text.at(stop) - 1 if stop < text.ends[last] else last
        where, words = _constraint(ddl, node, until, column, table)
        if where is not None:
            target = moved if where else pieces
        target += [b" ", *words]
    pieces.append(b" " + check_text(column))
    for tokens in index_columns(column):
        pieces.append(b", " + add + tokens.definition)
        if tokens.purpose == EQUALITY:
            pieces += moved
    ddl.edits.replace(definition.location, text.ends[last], *pieces)


class Table:
    """The table that the column is defined in: what keys and names need to know."""

    def __init__(self, name: str, key: tuple[str, str], columns: list[str], sealed: Sealed) -> None:
        self.name = name
        self.key = key
        self.columns = columns
        self.sealed = sealed


def _slice(ddl: Ddl, first: int, last: int) -> bytes:
    return ddl.text.sql[ddl.text.starts[first] : ddl.text.ends[last]]


def _constraint(
    ddl: Ddl, node: Node, last: int, column: ProtectedColumn, table: Table
) -> tuple[bool | None, list[bytes | Literal]]:
    """(does it move to the tags; None: it belongs to the one before, its words)."""
    which = constraint_kind(node)
    first = ddl.text.at(node.location)
    as_it_is: list[bytes | Literal] = [_slice(ddl, first, last)]
    position = node.location + 1
    if which.startswith("ATTR_"):
        return None, as_it_is
    if which in ("NULL", "NOTNULL"):
        return False, as_it_is
    if which == "DEFAULT":
        return False, [b"DEFAULT ", *default(column, node.raw_expr, position)]
    if which == "CHECK":
        ddl.free_of_sealed(
            node.raw_expr, table.name, table.columns, table.sealed, "constraint", "this CHECK"
        )
        return False, as_it_is
    if which not in ("PRIMARY", "UNIQUE", "FOREIGN"):
        raise refuse("constraint", column, "this constraint", position)
    can_be_key(column, "a key", position)
    words: list[bytes | Literal] = []
    if not node.conname:
        label = {"PRIMARY": "pkey", "UNIQUE": "key", "FOREIGN": "fkey"}[which]
        words.append(key_name(ddl, table.key, table.name, [column.column], label))
    if which == "FOREIGN":
        head = ddl.text.at(node.pktable.location)
        words += [_slice(ddl, first, head - 1), b" "]
        words += reference(ddl, node, last, [column])
    else:
        words += as_it_is
    return True, words


def default(column: ProtectedColumn, expression: Node, position: int) -> "list[bytes | Literal]":
    """A literal DEFAULT is sealed once, here: rows that take it hold the very same bytes."""
    node = expression
    while kind(node) == "type_cast":
        node = node.type_cast.arg
    if kind(node) != "a_const":
        raise refuse("DEFAULT", column, "a DEFAULT that the server computes", position)
    constant = node.a_const
    if constant.isnull:
        return [b"NULL"]
    if not column.equality and not column.equal_defaults:
        raise refuse("equal defaults", column, "a DEFAULT", position)
    which = constant.WhichOneof("val")
    if which == "sval":
        value = constant.sval.sval
    elif which == "fval":
        value = constant.fval.fval
    elif which == "boolval":
        value = "t" if constant.boolval.boolval else "f"
    elif which == "ival":
        value = str(constant.ival.ival)
    else:
        raise refuse("DEFAULT", column, "a bit string as DEFAULT", position)
    return [Literal(column, Use.STORE, value.encode())]


def _check_collation(clause: Node, column: ProtectedColumn) -> None:
    """Tags compare bytes: a collation that says the same of equality changes nothing."""
    if strings(clause.collname)[-1] not in _BYTEWISE:
        raise refuse("collation", column, "COLLATE", clause.location + 1)
