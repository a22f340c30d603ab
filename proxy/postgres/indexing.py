"""Where does a statement find the search tokens of a protected column? One table.

Layout G: a generated column per kind of token, named `<column>__bx` and so on, which carries indexes
and keys and is hidden from clients. Layout P: no such column; the same expression stands in the
statement, spelled exactly as in the index on it. Read by ddl.py, names.py and the operators.
"""

from dataclasses import dataclass

from proxy.postgres.snapshot import ProtectedColumn

EQUALITY, TRANSFORM, RANGE, ORDER, MATCH = "equality", "transform", "range", "order", "match"
SUFFIXES = {EQUALITY: "__bx", TRANSFORM: "__lx", RANGE: "__rx", ORDER: "__ox", MATCH: "__mx"}


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """One kind of token of one column. `method`: of the index that serves it."""

    column: ProtectedColumn
    purpose: str

    @property
    def name(self) -> str:
        return self.column.column + SUFFIXES[self.purpose]

    @property
    def type(self) -> bytes:
        return b"text[]" if self.purpose == MATCH else b"bytea"

    @property
    def method(self) -> str:
        return "gin" if self.purpose == MATCH else "btree"

    def expression(self, reference: bytes) -> bytes:
        """The tokens in the sealed value that `reference` gives, with immutable functions alone."""
        search = self.column.search
        if self.purpose == EQUALITY:
            return b"substring(%s from 4 for 16)" % reference
        if self.purpose != MATCH:
            return b"substring(%s from %d for %d)" % (reference, *search.place(self.purpose))
        fixed = search.fixed_bytes
        size = b"(get_byte(%s, 19) * 256 + get_byte(%s, 20) - %d)" % (reference, reference, fixed)
        tokens = b"substring(%s from %d for %s)" % (reference, 22 + fixed, size)
        return b"string_to_array(encode(%s, 'escape'), ' ')" % tokens

    @property
    def element(self) -> bytes:
        """In the brackets of CREATE INDEX and ON CONFLICT."""
        if self.column.layout == "generated":
            return quoted(self.name)
        return b"(" + self.expression(quoted(self.column.column)) + b")"

    @property
    def definition(self) -> bytes:
        """Of the generated column."""
        return b"%s %s GENERATED ALWAYS AS (%s) STORED" % (
            quoted(self.name), self.type, self.expression(quoted(self.column.column)),
        )  # fmt: skip


def token_kinds(column: ProtectedColumn) -> tuple[IndexColumn, ...]:
    """All kinds of tokens that the column carries, whatever the layout."""
    purposes = ((EQUALITY,) if column.equality else ()) + column.search.purposes
    return tuple(IndexColumn(column, p) for p in purposes)


def index_columns(column: ProtectedColumn) -> tuple[IndexColumn, ...]:
    """The generated columns beside a column: none in layout P."""
    return token_kinds(column) if column.layout == "generated" else ()


def tokens_of(column: ProtectedColumn, purpose: str) -> IndexColumn | None:
    """One kind of tokens; None when the column does not carry it."""
    return next((t for t in token_kinds(column) if t.purpose == purpose), None)


def indexed_by(column: ProtectedColumn, method: str, unique: bool) -> IndexColumn | None:
    """The tokens that an index on the column itself stands on: with a b-tree the order where there is
    one, since it serves every comparison but the keys'."""
    if method == "gin":
        return tokens_of(column, MATCH)
    wanted = (EQUALITY,) if unique or method == "hash" else (ORDER, EQUALITY, RANGE)
    found = (tokens_of(column, purpose) for purpose in wanted)
    return next((tokens for tokens in found if tokens is not None), None)


def hidden_names(columns: "dict[str, ProtectedColumn]") -> frozenset[str]:
    """Names of the generated columns of a table."""
    return frozenset(i.name for c in columns.values() for i in index_columns(c))


def quoted(name: str) -> bytes:
    """A name as an identifier that means exactly it."""
    return b'"' + name.replace('"', '""').encode() + b'"'
