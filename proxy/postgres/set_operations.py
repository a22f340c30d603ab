"""UNION, INTERSECT, EXCEPT. Pure.

UNION ALL keeps its form: each output has one domain on both sides. The others depend on which rows are
equal, which the server cannot see in sealed values: they become a UNION ALL in brackets, of which rows
are taken by their tags. With sealed outputs that are wanted as tags only, the operation stays as it is.
"""

from typing import TYPE_CHECKING

from proxy.postgres.expressions import tag_of
from proxy.postgres.names import quoted
from proxy.postgres.plan import Use
from proxy.postgres.predicates import refuse
from proxy.postgres.spans import operands

if TYPE_CHECKING:
    from proxy.postgres.expressions import Want
    from proxy.postgres.query import Level, Query

_UNION, _INTERSECT, _EXCEPT = 2, 3, 4


class SetOperations:
    """Of one statement."""

    def __init__(self, query: "Query") -> None:
        self.query = query
        self.text = query.text
        self.edits = query.edits

    def emit(self, level: "Level", wants: "list[Want | None]") -> None:
        """Both sides in the wanted forms."""
        assert level.sides is not None
        left, right = level.sides
        statement = level.statement
        stored = [w for w in wants if w is not None and w[0] is not Use.TAG]
        tags = [w for w in wants if w is not None and w[0] is Use.TAG]
        self.edits.compared |= {w[1] for w in tags}
        if not stored or (statement.op == _UNION and statement.all):
            self.query.emit(left, wants)
            self.query.emit(right, wants)
            return
        column = stored[0][1]
        self.edits.compared |= {w[1] for w in stored}
        for want in stored:
            if not want[1].equality:
                raise refuse("no equality", want[1], "a set operation that removes duplicates")
        if level.recursive:
            raise refuse("recursive", column, "WITH RECURSIVE … UNION without ALL")
        first, second = operands(self.text, statement)
        lead, middle, tail = self._words(level, wants)
        start, end = self.text.starts[first[0]], self.text.ends[second[1] - 1]
        self.edits.replace(start, start, lead)  # before the edits of what is inside
        self.query.emit(left, wants)
        self.query.emit(right, wants)
        word = first[1]
        last = word + (self.text.word(word + 1) in ("all", "distinct"))
        self.edits.replace(self.text.starts[word], self.text.ends[last], middle)
        self.edits.replace(end, end, tail)

    def _words(self, level: "Level", wants: "list[Want | None]") -> tuple[bytes, bytes, bytes]:
        """What is written before, between and behind the two sides."""
        names = [b"c%d" % (i + 1) for i in range(len(wants))]
        keys = [
            tag_of(b"u." + n) if want is not None and want[0] is not Use.TAG else b"u." + n
            for n, want in zip(names, wants, strict=True)
        ]
        shown = [quoted(o.name) for o in level.outputs]
        columns = b", ".join(names)
        if level.statement.op == _UNION:
            picked = b", ".join(b"u.%s AS %s" % pair for pair in zip(names, shown, strict=True))
            lead = b"SELECT DISTINCT ON (" + b", ".join(keys) + b") " + picked + b" FROM ("
            return lead, b"UNION ALL", b") AS u(" + columns + b")"
        picked = b", ".join(
            (b"u.%s AS %s" if key == b"u." + n else b"(pg_catalog.array_agg(u.%s ORDER BY u.side))[1] AS %s")
            % (n, name)
            for n, key, name in zip(names, keys, shown, strict=True)
        )  # fmt: skip
        # with ALL the copies of a row are numbered, and each is a row of its own
        number = b""
        if level.statement.all:
            number = b", pg_catalog.row_number() OVER (PARTITION BY " + b", ".join(keys) + b")"
            keys = [*keys, b"u.n"]
        lead = b"SELECT " + picked + b" FROM (SELECT u.*, 1" + number + b" FROM ("
        named = b") AS u(" + columns + b")"
        middle = named + b" UNION ALL SELECT u.*, 2" + number + b" FROM ("
        right = b"= 2" if level.statement.op == _INTERSECT else b"= 1"
        having = b"HAVING min(u.side) = 1 AND max(u.side) " + right
        outer = b") AS u(" + columns + b", side" + (b", n" if number else b"") + b") GROUP BY "
        return lead, middle, named + outer + b", ".join(keys) + b" " + having
