"""CREATE INDEX on a protected table: on the tags. Pure.

An operator class (Django adds `varchar_pattern_ops` indexes for LIKE) and a collation say nothing of tags
and are left out: the index is made under its name, so that a later DROP finds it.
"""

from proxy.postgres.ddl.context import Ddl
from proxy.postgres.ddl.keys import default_name
from proxy.postgres.ddl.names import element_name
from proxy.postgres.ddl.spans import bracket_from, elements, name_last
from proxy.postgres.grammar import Node, kind
from proxy.postgres.indexing import TRANSFORM, indexed_by, tokens_of
from proxy.postgres.names import quoted
from proxy.postgres.patterns import transform_operand
from proxy.postgres.predicates import refuse

_ORDERING = ("asc", "desc", "nulls", "first", "last")


def create_index(ddl: Ddl, statement: Node) -> None:
    """CREATE [UNIQUE] INDEX [CONCURRENTLY] [IF NOT EXISTS]."""
    sealed = ddl.sealed(statement.relation)
    if not sealed:
        return
    text, relation = ddl.text, statement.relation
    columns = ddl.visible(relation)
    if statement.where_clause.ByteSize():
        ddl.free_of_sealed(
            statement.where_clause, relation.relname, columns, sealed, "index", "this partial index"
        )
    opening = bracket_from(text, name_last(text, relation.location))
    touched = False
    for (first, last), node in zip(elements(text, opening), statement.index_params, strict=True):
        touched = _element(ddl, statement, node.index_elem, first, last) or touched
    if touched and not statement.idxname:
        covered = [
            element_name(n.index_elem)
            for n in (*statement.index_params, *statement.index_including_params)
        ]
        name = default_name(ddl, ddl.key(relation), relation.relname, covered, "idx")
        at = text.at(relation.location)
        while text.word(at) != "on":
            at -= 1
        ddl.edits.replace(text.starts[at], text.starts[at], quoted(name) + b" ")


def _element(ddl: Ddl, statement: Node, element: Node, first: int, last: int) -> bool:
    """One element, of tokens first..last; whether it stands on tokens now."""
    text, relation = ddl.text, statement.relation
    sealed = ddl.sealed(relation)
    found = sealed.get(element.name) if element.name else None
    if found is not None:
        method = statement.access_method
        tokens = indexed_by(found, method, statement.unique)
        if tokens is None:
            raise refuse("no equality", found, "an index", text.starts[first] + 1)
        if method not in ("btree", "hash", "gin"):
            raise refuse("index", found, f"an index of method {method}", text.starts[first] + 1)
    else:
        call = element.expr.func_call if kind(element.expr) == "func_call" else None
        found = transform_operand(call, sealed) if call is not None else None
        tokens = tokens_of(found, TRANSFORM) if found is not None else None
    if found is None or tokens is None:
        if element.expr.ByteSize():
            ddl.free_of_sealed(
                element.expr, relation.relname, ddl.visible(relation), sealed,
                "index", "an expression index",
            )  # fmt: skip
        elif element.name:
            ddl.not_hidden(element.name, sealed)
        return False
    ddl.edits.columns.add(found)
    words = [i for i in range(first + 1, last + 1) if text.word(i) in _ORDERING]
    until = words[0] - 1 if words else last
    ddl.edits.replace(text.starts[first], text.ends[until], tokens.element)
    return True
