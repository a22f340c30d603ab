"""PostgreSQL's own grammar, through postgast: tree, tokens, and the byte span of an operand.

The only importer of postgast. Trees carry byte offsets; text is spliced at them and never deparsed.
"""

from bisect import bisect_left
from typing import Any

import postgast

Node = Any  # a protobuf message of postgast.pg_query_pb2

_TYPE_WORDS = frozenset(
    {"double", "precision", "varying", "with", "without", "time", "zone", "setof", "array"}
)


class SyntaxProblem(Exception):
    """The grammar does not take this text: message, and 1-based character position (0: unknown)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Text:
    """One client text: its bytes, its statements, its tokens."""

    def __init__(self, sql: bytes) -> None:
        self.sql = sql
        text = sql.decode("utf-8")
        try:
            self.statements: list[Node] = list(postgast.parse(text).stmts)
            tokens = postgast.scan(text).tokens
        except postgast.PgQueryError as error:
            position = getattr(error, "cursorpos", 0) or 0
            raise SyntaxProblem(str(getattr(error, "message", error)), position) from None
        comments = {275, 276}  # SQL_COMMENT, C_COMMENT
        kept = [t for t in tokens if t.token not in comments]
        self.starts: list[int] = [t.start for t in kept]
        self.ends: list[int] = [t.end for t in kept]

    def word(self, index: int) -> str:
        """The token's text in lower case; empty behind the last."""
        if not 0 <= index < len(self.starts):
            return ""
        return self.sql[self.starts[index] : self.ends[index]].decode("utf-8").lower()

    def at(self, offset: int) -> int:
        """Index of the first token that starts at or behind this offset."""
        return bisect_left(self.starts, offset)

    def matching(self, index: int, step: int) -> int:
        """Index of the bracket that closes (step 1) or opens (-1) the one at `index`."""
        depth = 0
        while 0 <= index < len(self.starts):
            word = self.word(index)
            if word in ("(", "["):
                depth += 1
            elif word in (")", "]"):
                depth -= 1
            if depth == 0:
                return index
            index += step
        raise SyntaxProblem("unbalanced brackets", 0)

    def name_end(self, offset: int, parts: int) -> int:
        """End of a dotted name of `parts` parts that starts at this offset."""
        return self.ends[self.at(offset) + 2 * (parts - 1)]

    def type_end(self, index: int) -> int:
        """Index of the last token of the type name that starts at token `index`."""
        while self.word(index + 1) == ".":
            index += 2
        while True:
            following = self.word(index + 1)
            if following in ("(", "["):
                index = self.matching(index + 1, 1)
            elif following in _TYPE_WORDS:
                index += 1
            else:
                return index


def kind(node: Node) -> str:
    """Which node this Node message holds: "a_const", "column_ref", ... ("" if none)."""
    return str(node.WhichOneof("node") or "")


def inner(node: Node) -> Node:
    """The message inside a Node."""
    return getattr(node, kind(node))


def strings(nodes: Any) -> list[str]:
    """The names in a list of String nodes; a star is "*"."""
    return ["*" if kind(n) == "a_star" else n.string.sval for n in nodes]


def type_text(name: Node) -> tuple[str, bool]:
    """A TypeName as text that `types.registry.resolve` reads, and whether it is an array."""
    words = [n for n in strings(name.names) if n != "pg_catalog"]
    mods = [str(inner(m).ival.ival) if kind(m) == "a_const" else "?" for m in name.typmods]
    base = ".".join(words)
    return (f"{base}({','.join(mods)})" if mods else base), bool(name.array_bounds)


def fields(message: Node) -> list[Node]:
    """All Node messages directly below a message, in field order."""
    found: list[Node] = []
    for descriptor, value in message.ListFields():
        if descriptor.type != descriptor.TYPE_MESSAGE:
            continue
        items = value if descriptor.is_repeated else [value]
        found += items
    return found
