"""In which of its two forms does the server hold a column that is being migrated? Pure.

A column `c` of a table has two forms while `sealgate migrate` works on it: in clear, of its declared type,
and sealed, a bytea that the CHECK `c__sealed` stands on. One of the two is named `c`, which is the one that
clients use; the other is beside it, hidden from them: `c__sealing` before the switch, `c__clear` after it.
The switch is a renaming, so the catalogue alone says where a migration stands.

A new column stands behind all others; for clients it stands where the old one stood. That place, an
attribute number, is kept in the comment on the CHECK, which goes where the column goes: into dumps, too.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from proxy.postgres.indexing import index_columns
from proxy.postgres.snapshot import ProtectedColumn

SEALING, CLEAR, CHECK = "__sealing", "__clear", "__sealed"
_PLACE = "sealgate: stands at "


def place_comment(attnum: int) -> str:
    """The comment that says where clients see the column."""
    return f"{_PLACE}{attnum}"


def place_of(comment: str | None) -> int | None:
    """The attribute number in such a comment; None for any other."""
    text = (comment or "").removeprefix(_PLACE)
    return int(text) if text != comment and text.isascii() and text.isdigit() else None


class Look:
    """What the catalogue shows of a table with these protected columns.

    `columns`: [name, …, attnum] in the server's order; `checks`: [name, its column, comment] of CHECKs
    named `…__sealed`. `in_order`: the columns in the order of clients. `clear`: names of migrating columns
    that are in clear now. `beside`: columns that clients do not see. `migrating`: whether any is.
    """

    def __init__(
        self,
        protected: Iterable[ProtectedColumn],
        columns: Sequence[Sequence[Any]],
        checks: Iterable[Sequence[Any]],
    ) -> None:
        self.clear: list[str] = []
        self.migrating = False
        self.in_order = list(columns)
        hidden: set[str] = set()
        names = {c[0] for c in columns}
        found = {check: (column, comment) for check, column, comment in checks}
        places: dict[str, float] = {}
        for p in protected:
            on, comment = found.get(p.column + CHECK, ("", None))
            hidden |= {p.column + CLEAR, p.column + SEALING} & names
            if p.migrating:
                self.migrating = True
                if p.column in names and on != p.column:
                    self.clear.append(p.column)
                    hidden |= {i.name for i in index_columns(p)} & names
            place = place_of(comment)
            if place is not None:
                places[p.column] = place - 0.5
        if places:
            self.in_order.sort(key=lambda c: places.get(c[0], c[-1]))
        if places:
            hidden.add("")  # no column's name: but `*` and column lists are written out
        self.beside = frozenset(hidden)
