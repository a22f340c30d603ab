"""Which name does PostgreSQL give to a constraint or index that the statement does not name? Pure.

(PostgreSQL, src/backend/commands/indexcmds.c: makeObjectName, ChooseIndexName.) A key on a protected
column is created on its tags; it must still get the name that it would have had, since migrations drop
it by that name.
"""

from collections.abc import Callable, Sequence

from proxy.postgres.grammar import Node, kind, strings

_LONGEST = 63  # bytes, NAMEDATALEN - 1


def object_name(table: str, columns: str, label: str) -> str:
    """`table_columns_label`, the longer part clipped until the whole fits."""
    one, other = table.encode(), columns.encode()
    room = _LONGEST - len(label) - (2 if columns else 1)
    one_size, other_size = len(one), len(other)
    while one_size + other_size > room:
        if one_size > other_size:
            one_size -= 1
        else:
            other_size -= 1
    kept = [_clip(one, one_size)] + ([_clip(other, other_size)] if columns else [])
    return "_".join([*kept, label])


def _clip(name: bytes, size: int) -> str:
    return name[:size].decode("utf-8", "ignore")


def free_name(table: str, columns: Sequence[str], label: str, taken: Callable[[str], bool]) -> str:
    """The first of `…_label`, `…_label1`, `…_label2` that is not taken."""
    joined = "_".join(columns)
    number = 0
    while True:
        name = object_name(table, joined, label + (str(number) if number else ""))
        if not taken(name):
            return name
        number += 1


def element_name(element: Node) -> str:
    """What an index element contributes to the index's name."""
    if element.name:
        return str(element.name)
    if kind(element.expr) == "func_call":
        return strings(element.expr.func_call.funcname)[-1]
    return "expr"
