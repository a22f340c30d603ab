"""What a statement does to an SQL cursor, from its tree. Pure. (`cursors.py` goes on with it.)"""

from proxy.postgres.grammar import Node, inner
from proxy.postgres.plan import Cursor

STATEMENTS = ("declare_cursor_stmt", "fetch_stmt", "close_portal_stmt")
_BINARY, _HOLD = 0x0001, 0x0020  # CURSOR_OPT_*


def cursor_of(which: str, node: Node) -> Cursor | None:
    """What a statement does to a cursor; of a DECLARE the outputs are still to be filled in."""
    if which not in STATEMENTS:
        return None
    statement = inner(node)
    name = statement.portalname.encode()
    if which == "close_portal_stmt":
        return Cursor("close", name)
    if which == "fetch_stmt":
        return Cursor("move" if statement.ismove else "fetch", name)
    options = statement.options
    return Cursor("declare", name, bool(options & _BINARY), bool(options & _HOLD))
