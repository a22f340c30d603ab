"""What generated statements are put together from: tables, values, targets, conditions."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.differential.schema import Column, Pair, Table
from tests.differential.statement import Optional, Part, Statement, Value
from tests.differential.values import ARRAYS_OF, BAD, CUTTING, GOOD, NUMBERS, array_literal

Parts = list[Part]


class Pieces:
    """Of statements over one pair of tables."""

    def __init__(self, source: random.Random, pair: Pair) -> None:
        self.r = source
        self.pair = pair
        self._next_id = 100

    def fresh_id(self) -> str:
        self._next_id += 1
        return str(self._next_id)

    def table(self) -> Table:
        return self.r.choice(self.pair.tables)

    def text(self, column: Column, wrong: float = 0.0, null: float = 0.1) -> str | None:
        if self.r.random() < null:
            return None
        if wrong and column.type in BAD and self.r.random() < wrong:
            return self.r.choice(BAD[column.type])
        return self.r.choice(GOOD[column.type])

    def value(self, column: Column, wrong: float = 0.02, cast: bool = True, key: str = "") -> Value:
        text = self.text(column, wrong)
        bare = (
            text is not None and column.type in NUMBERS and _numeric(text) and self.r.random() < 0.4
        )
        casting = f"::{column.type}" if cast and self.r.random() < 0.15 else ""
        if column.type in CUTTING and casting:
            casting = f"::{ARRAYS_OF[column.type]}" if self.r.random() < 0.5 else casting
        if text in BAD.get(column.type, ()):
            bare = False
        return Value(column.type, text, casting, bare=bare, key=key)

    def array(self, column: Column, cast: float = 1.0, null: float = 0.1) -> Value:
        values = [self.text(column, null=null) for _ in range(self.r.randrange(4))]
        base = ARRAYS_OF.get(column.type, column.type)
        casting = f"::{base}[]" if self.r.random() < cast else ""
        return Value(base, array_literal(values), casting, array=True)

    def sealed(self, table: Table, equality: bool = True) -> Column:
        """A sealed column, mostly one with equality search."""
        columns = [c for c in table.sealed if c.equality or not equality]
        if self.r.random() < 0.05:
            columns = table.sealed
        return self.r.choice(columns)

    def targets(self, table: Table, alias: str = "") -> Parts:
        """A target list: `*`, or some columns."""
        dot = f"{alias}." if alias else ""
        if self.r.random() < 0.25:
            return [f"{dot}*"]
        chosen = self.r.sample(table.columns, self.r.randint(1, min(4, len(table.columns))))
        parts: Parts = [f"{dot}id"]
        for i, column in enumerate(chosen):
            name = self.r.choice(["", "", f" AS n{i}", f" n{i}"])
            parts.append(Optional((f", {dot}{column.sql}{name}",)))
        return parts

    def predicate(self, table: Table, alias: str = "") -> Parts:
        """A condition of an easy kind on a sealed column."""
        dot = f"{alias}." if alias else ""
        column = self.sealed(table)
        name = dot + column.sql
        which = self.r.randrange(5)
        if which == 0:
            return [f"{name} IS {self.r.choice(['', 'NOT '])}NULL"]
        if which == 1:
            return [f"{name} IN (", self.value(column), ", ", self.value(column), ")"]
        if which == 2:
            return [f"{name} <> ", self.value(column)]
        return [f"{name} = ", self.value(column)]

    def where(self, table: Table, alias: str = "") -> Parts:
        """WHERE with one or two conditions, that can be left out."""
        parts: Parts = [" WHERE ", *self.predicate(table, alias)]
        if self.r.random() < 0.3:
            word = self.r.choice([" AND ", " OR ", " AND NOT "])
            more = self.predicate(table, alias)
            parts.append(Optional((word, *more)))
        return [Optional(tuple(parts))]

    def select(self, rule: str, table: Table, condition: Sequence[Part]) -> Statement:
        """Rows of a table under a condition, which is what the rule is about."""
        alias = self.r.choice(["", "", "t"])
        name = f"{table.sql} {alias}" if alias else table.sql
        return Statement(
            rule, ("SELECT ", *self.targets(table, alias), f" FROM {name} WHERE ", *condition)
        )


def _numeric(text: str) -> bool:
    body = text.strip().lstrip("+-")
    return body.replace(".", "", 1).isdigit() and text == text.strip()
