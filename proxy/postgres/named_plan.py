"""PREPARE, EXECUTE, DEALLOCATE and DISCARD ALL, from their trees. Pure. (`prepared.py` goes on with them.)"""

from proxy.errors import ConfigError
from proxy.postgres.grammar import Node, Text, inner, kind, type_text
from proxy.postgres.operands import Operands
from proxy.postgres.plan import Argument, Named
from proxy.postgres.types.registry import resolve

_STATEMENTS = ("prepare_stmt", "execute_stmt", "deallocate_stmt")
_DISCARD_ALL = 1  # DiscardMode
_AROUND = ("explain_stmt", "create_table_as_stmt")


def named_of(text: Text, which: str, node: Node, start: int, end: int) -> Named | None:
    """What the statement in sql[start:end] does to a prepared statement."""
    if which in _AROUND:
        query = inner(node).query
        if kind(query) == "execute_stmt":
            return Named("inside", query.execute_stmt.name.encode())
        return None
    if which == "discard_stmt":
        return Named("deallocate", b"") if inner(node).target == _DISCARD_ALL else None
    if which not in _STATEMENTS:
        return None
    statement = inner(node)
    name = statement.name.encode()
    if which == "deallocate_stmt":
        return Named("deallocate", name)
    at = text.at(start) + 1  # the name's token
    if which == "execute_stmt":
        return Named("execute", name, arguments=_arguments(text, at + 1, statement.params))
    types: tuple[tuple[bytes, int], ...] = ()
    last = at
    if statement.argtypes:
        last = text.matching(at + 1, 1)
        types = tuple(
            (piece, _oid(declared))
            for piece, declared in zip(_pieces(text, at + 1), statement.argtypes, strict=True)
        )
    assert text.word(last + 1) == "as"
    return Named(
        "prepare",
        name,
        head=text.sql[start : text.ends[at]],
        types=types,
        sql=text.sql[text.starts[last + 2] : end],
    )


def _oid(declared: Node) -> int:
    words, array = type_text(declared.type_name)
    try:
        found = resolve(words)
    except ConfigError:
        return 0
    return found.array_oid if array else found.oid


def _pieces(text: Text, opening: int) -> list[bytes]:
    """What stands between the commas of a bracketed list."""
    closing = text.matching(opening, 1)
    found, first, at = [], opening + 1, opening + 1
    while at < closing:
        if text.word(at) in ("(", "["):
            at = text.matching(at, 1)
        elif text.word(at) == ",":
            found.append(text.sql[text.starts[first] : text.ends[at - 1]])
            first = at + 1
        at += 1
    found.append(text.sql[text.starts[first] : text.ends[closing - 1]])
    return found


def _arguments(text: Text, opening: int, nodes: "list[Node]") -> tuple[Argument, ...]:
    if not nodes:
        return ()
    return tuple(
        Argument(piece, *_constant(text, node))
        for piece, node in zip(_pieces(text, opening), nodes, strict=True)
    )


def _constant(text: Text, node: Node) -> tuple[bool, bytes | None]:
    """(whether its value is known, the value as text; None for NULL). A cast could change it."""
    from proxy.postgres.edits import Edits

    leaf = Operands(text, Edits()).leaf(node)
    if leaf is None or kind(leaf.bare) != "a_const" or leaf.casts:
        return False, None
    constant = leaf.bare.a_const
    if constant.isnull:
        return True, None
    which = constant.WhichOneof("val")
    if which == "sval":
        return True, constant.sval.sval.encode()
    if which == "fval":
        return True, constant.fval.fval.encode()
    if which == "boolval":
        return True, b"t" if constant.boolval.boolval else b"f"
    if which == "bsval":
        return False, None
    return True, b"%d" % constant.ival.ival
