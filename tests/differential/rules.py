"""Generators of statements, one for each row of the rule table (facts: postgres.md 5.3)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.differential.schema import Column, Pair, Table
from tests.differential.statement import Optional, Part, Statement, Value
from tests.differential.values import ARRAYS_OF, BAD, CUTTING, GOOD, NUMBERS, array_literal

Parts = list[Part]


class Maker:
    """Makes statements over one pair of tables."""

    def __init__(self, source: random.Random, pair: Pair) -> None:
        self.r = source
        self.pair = pair
        self._next_id = 100

    def statement(self) -> Statement:
        """One of a rule that is picked by weight."""
        rule = self.r.choice(_WEIGHTED)
        return RULES[rule](self)

    # ---- pieces --------------------------------------------------------------------------------
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

    # ---- comparisons ---------------------------------------------------------------------------
    def equal(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        value = self.value(column, 0.1)
        parts: Parts = [f"{column.sql} = ", value]
        if self.r.random() < 0.3:
            parts = [value, f" = {column.sql}"]
        return self.select("c = v", table, parts)

    def unequal(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        operator = self.r.choice(["<>", "!="])
        return self.select("c <> v", table, [f"{column.sql} {operator} ", self.value(column, 0.05)])

    def in_list(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        word = self.r.choice(["IN", "NOT IN"])
        parts: Parts = [f"{column.sql} {word} (", self.value(column)]
        for _ in range(self.r.randrange(4)):
            parts.append(Optional((", ", self.value(column))))
        return self.select("c IN (v, …)", table, [*parts, ")"])

    def any_array(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        word = self.r.choice(["= ANY", "<> ALL", "= ANY"])
        if column.type.endswith("[]"):
            return self.equal()
        if self.r.random() < 0.3:
            items: Parts = []
            for i in range(self.r.randint(1, 3)):
                items += [", " if i else "", self.value(column)]
            return self.select(
                "c = ANY(array)", table, [f"{column.sql} {word} (ARRAY[", *items, "])"]
            )
        array = self.array(column, cast=0.3)
        return self.select("c = ANY(array)", table, [f"{column.sql} {word} (", array, ")"])

    def array(self, column: Column, cast: float = 1.0, null: float = 0.1) -> Value:
        values = [self.text(column, null=null) for _ in range(self.r.randrange(4))]
        base = ARRAYS_OF.get(column.type, column.type)
        casting = f"::{base}[]" if self.r.random() < cast else ""
        return Value(base, array_literal(values), casting, array=True)

    def null_test(self) -> Statement:
        table = self.table()
        column = self.sealed(table, equality=False)
        word = self.r.choice(["IS NULL", "IS NOT NULL", "ISNULL", "NOTNULL"])
        return self.select("c IS NULL", table, [f"{column.sql} {word}"])

    def distinct_from(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        word = self.r.choice(["IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        return self.select("c IS DISTINCT FROM v", table, [f"{column.sql} {word} ", self.value(column)])

    def row_comparison(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        one = self.r.choice(["1", "2", "3"])
        if self.r.random() < 0.5:
            return self.select(
                "(a, c) = (…)", table,
                [f"(p, {column.sql}) = (", Value("integer", one, bare=True), ", ", self.value(column), ")"],
            )  # fmt: skip
        return self.select(
            "(a, c) IN ((…), …)", table,
            [f"(p, {column.sql}) IN ((", Value("integer", one, bare=True), ", ", self.value(column),
             "), (2, ", self.value(column), "))"],
        )  # fmt: skip

    def casts(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        value = Value(column.type, self.text(column, 0.05))
        base = ARRAYS_OF.get(column.type, column.type)
        form = self.r.randrange(4)
        if form == 0:
            parts: Parts = [f"{column.sql} = CAST(", value, f" AS {base})"]
        elif form == 1:
            parts = [f"{column.sql} = ", value, f"::{base}"]
        elif form == 2:
            parts = [f"{column.sql} = (", value, f")::{column.type}"]
        else:
            parts = [f"{column.sql}::{column.type} = ", value]
        return self.select("casts", table, parts)

    def conditional(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            parts: Parts = [f"SELECT id, CASE {column.sql} WHEN ", self.value(column), " THEN 1 ELSE 2 END"]
        elif form == 1:
            parts = [f"SELECT id, COALESCE({column.sql}, ", self.value(column), ")"]
        elif form == 2:
            parts = [f"SELECT id, NULLIF({column.sql}, ", self.value(column), ")"]
        else:
            parts = [f"SELECT id, CASE WHEN {column.sql} = ", self.value(column),
                     f" THEN {column.sql} ELSE NULL END"]  # fmt: skip
        return Statement("CASE, COALESCE, NULLIF", (*parts, f" FROM {table.sql}"))

    # ---- several tables ------------------------------------------------------------------------
    def join_on(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        how = self.r.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN"])
        other = self.r.choice([j, "k"])
        on = "" if how == "CROSS JOIN" else f" ON x.{j} = y.{other}"
        parts: Parts = ["SELECT x.id, y.id, ", *self.targets(a, "x"), Optional((f", y.{j}",))]
        parts += [f" FROM {a.sql} x {how} {b.sql} AS y{on}", *self.where(a, "x")]
        return Statement("JOIN … ON", tuple(parts))

    def join_where(self) -> Statement:
        a, b = self.pair.tables
        column = self.r.choice([c for c in b.sealed if c.equality])
        one = self.r.choice([c for c in a.sealed if c.equality])
        parts: Parts = [f"SELECT x.id, y.id FROM {a.sql} x, {b.sql} y WHERE x.{one.sql} = y.{column.sql}"]
        return Statement("c1 = c2", tuple(parts))

    def join_using(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        how = self.r.choice(["JOIN", "LEFT JOIN", "FULL JOIN"])
        if self.r.random() < 0.2:
            what = f"(SELECT id AS ida, {j} FROM {a.sql}) x NATURAL JOIN (SELECT id AS idb, {j} FROM {b.sql}) y"
            return Statement("JOIN … USING", (f"SELECT ida, idb, {j} FROM {what}",))
        target = self.r.choice([j, f"x.{j}", "*", "x.*", "x.id, y.id"])
        return Statement(
            "JOIN … USING",
            (f"SELECT {target} FROM {a.sql} x {how} {b.sql} y USING ({j})", *self.where(b, "y")),
        )

    def subquery(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        form = self.r.randrange(5)
        inner = f"SELECT {self.r.choice([j, 'k'])} FROM {b.sql} y"
        where = self.where(b, "y")
        if form == 0:
            parts: Parts = [f"{j} IN (", inner, *where, ")"]
        elif form == 1:
            parts = [f"{j} NOT IN (", inner, f" WHERE y.{j} IS NOT NULL)"]
        elif form == 2:
            parts = [f"{j} = (SELECT {j} FROM {b.sql} y WHERE y.id = ", Value("integer", "1", bare=True), ")"]
        elif form == 3:
            word = self.r.choice(["", "NOT "])
            parts = [f"{word}EXISTS (SELECT 1 FROM {b.sql} y WHERE y.{j} = x.{j})"]
            return Statement("sub-selects", (f"SELECT x.id, x.{j} FROM {a.sql} x WHERE ", *parts))
        else:
            parts = [f"{j} = ANY (", inner, *where, ")"]
        return self.select("sub-selects", a, parts)

    def scalar(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        return Statement(
            "scalar sub-select",
            (f"SELECT x.id, (SELECT y.{j} FROM {b.sql} y WHERE y.id = x.id) FROM {a.sql} x",),
        )

    def from_subselect(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        lateral = self.r.random() < 0.3
        if lateral:
            j = self.pair.joined.sql
            return Statement(
                "LATERAL",
                (f"SELECT x.id, s.v FROM {self.pair.a.sql} x, LATERAL (SELECT y.{j} AS v FROM "
                 f"{self.pair.b.sql} y WHERE y.{j} = x.{j}) s",),
            )  # fmt: skip
        names = self.r.choice(["", "(a, b)"])
        want = self.r.choice(["*", "s.*"] + (["a", "b, a"] if names else [column.sql]))
        parts: Parts = [f"SELECT {want} FROM (SELECT id, {column.sql} FROM {table.sql}",
                        *self.where(table), f") AS s{names}"]  # fmt: skip
        if self.r.random() < 0.5:
            name = "s.b" if names else f"s.{column.sql}"
            parts.append(Optional((f" WHERE {name} = ", self.value(column))))
        return Statement("sub-select in FROM", tuple(parts))

    # ---- groups, sets --------------------------------------------------------------------------
    def group(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            parts: Parts = [f"SELECT {column.sql}, count(*) FROM {table.sql}", *self.where(table),
                            f" GROUP BY {column.sql}"]  # fmt: skip
        elif form == 1:
            parts = [f"SELECT count(*), min(id) FROM {table.sql} GROUP BY {column.sql}",
                     Optional((f" HAVING count({column.sql}) > 0",))]  # fmt: skip
        elif form == 2:
            parts = [f"SELECT p, {column.sql} AS g, max(id) FROM {table.sql} GROUP BY p, {column.sql}"]
        else:
            parts = [f"SELECT {column.sql}, count(*) FROM {table.sql} GROUP BY 1"]
        return Statement("GROUP BY", tuple(parts))

    def distinct(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            return Statement("DISTINCT", (f"SELECT DISTINCT {column.sql} FROM {table.sql}", *self.where(table)))
        if form == 1:
            return Statement("DISTINCT", (f"SELECT DISTINCT {column.sql}, p FROM {table.sql}",))
        if form == 2:
            return Statement(
                "DISTINCT ON",
                (f"SELECT DISTINCT ON (p) p, id, {column.sql} FROM {table.sql} ORDER BY p, id",),
                ordered=True,
            )
        return Statement("DISTINCT ON", (f"SELECT DISTINCT ON ({column.sql}) {column.sql} FROM {table.sql}",))

    def counting(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        distinct = self.r.choice(["", "DISTINCT "])
        parts: Parts = [f"SELECT count({distinct}{column.sql}), count(*) FROM {table.sql}"]
        return Statement("count", (*parts, *self.where(table)))

    def window(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        what = self.r.choice(["count(*)", "row_number()", "min(id)"])
        order = " ORDER BY id" if what == "row_number()" else ""
        if self.r.random() < 0.3:
            return Statement(
                "PARTITION BY",
                (f"SELECT id, {what} OVER w FROM {table.sql} WINDOW w AS (PARTITION BY {column.sql}{order})",),
            )
        return Statement(
            "PARTITION BY",
            (f"SELECT id, {column.sql}, {what} OVER (PARTITION BY {column.sql}{order}) FROM {table.sql}",),
        )

    def set_operation(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        operator = self.r.choice(["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL"])
        rule = "UNION ALL" if operator == "UNION ALL" else "UNION, INTERSECT, EXCEPT"
        return Statement(
            rule,
            (f"SELECT {j} FROM {a.sql}", *self.where(a), f" {operator} SELECT {self.r.choice([j, 'k'])} "
             f"FROM {b.sql}", *self.where(b)),
        )  # fmt: skip

    def cte(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        names = self.r.choice(["", "(a, b)"])
        word = self.r.choice(["", " MATERIALIZED", " NOT MATERIALIZED"])
        parts: Parts = [f"WITH w{names} AS{word} (SELECT id, {column.sql} FROM {table.sql}",
                        *self.where(table), ") SELECT * FROM w"]  # fmt: skip
        name = "b" if names else column.sql
        parts.append(Optional((f" WHERE {name} = ", self.value(column))))
        return Statement("WITH", tuple(parts))

    def cte_writes(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(3)
        if form == 0:
            inner: Parts = [f"INSERT INTO {table.sql} (id, {column.sql}) VALUES ({self.fresh_id()}, ",
                            self.value(column), f") RETURNING id, {column.sql}"]  # fmt: skip
        elif form == 1:
            inner = [f"UPDATE {table.sql} SET {column.sql} = ", self.value(column),
                     f" WHERE id = {self.r.randint(1, 12)} RETURNING id, {column.sql}"]  # fmt: skip
        else:
            inner = [f"DELETE FROM {table.sql} WHERE id = {self.r.randint(1, 12)} RETURNING *"]
        return Statement("WITH that writes", ("WITH w AS (", *inner, ") SELECT * FROM w"), writes=True)

    # ---- writing -------------------------------------------------------------------------------
    def insert(self) -> Statement:
        table = self.table()
        chosen = self.r.sample(table.columns, self.r.randint(1, len(table.columns)))
        parts: Parts = [f"INSERT INTO {table.sql} (id"]
        parts += [f", {c.sql}" for c in chosen]
        parts.append(") VALUES ")
        for row in range(self.r.choice([1, 1, 2, 3])):
            parts.append(", (" if row else "(")
            parts.append(Value("integer", self.fresh_id(), bare=True))
            for c in chosen:
                parts.append(", ")
                parts.append("DEFAULT" if self.r.random() < 0.05 else self.value(c, 0.03))
            parts.append(")")
        parts += self.returning(table)
        return Statement("INSERT VALUES", tuple(parts), writes=True)

    def insert_positional(self) -> Statement:
        table = self.table()
        parts: Parts = [f"INSERT INTO {table.sql} VALUES (", Value("integer", self.fresh_id(), bare=True),
                        ", ", Value("integer", "1", bare=True), ", ", Value("text", "q")]  # fmt: skip
        for c in table.columns[: self.r.randint(1, len(table.columns))]:
            parts += [", ", self.value(c)]
        return Statement("INSERT by position", (*parts, ")", *self.returning(table)), writes=True)

    def returning(self, table: Table) -> Parts:
        if self.r.random() < 0.5:
            return []
        column = self.r.choice(table.columns)
        what = self.r.choice(["*", "id", f"id, {column.sql}", f"{column.sql} AS r"])
        return [Optional((f" RETURNING {what}",))]

    def insert_select(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        form = self.r.randrange(5)
        column = self.sealed(b)
        base = ARRAYS_OF.get(column.type, column.type)
        if form == 0:
            parts: Parts = [f"INSERT INTO {b.sql} (id, {j}) SELECT id + {self.fresh_id()}000, {j} FROM {a.sql}",
                            *self.where(a)]  # fmt: skip
        elif form == 1:
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT {self.fresh_id()}, ",
                     Value(column.type, self.text(column), f"::{base}")]  # fmt: skip
        elif form == 2 and not column.type.endswith("[]"):
            array = self.array(column)
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT {self.fresh_id()}000 + n, v FROM unnest(",
                     array, ") WITH ORDINALITY AS u(v, n)"]  # fmt: skip
            return Statement("INSERT … SELECT unnest", (*parts, *self.returning(b)), writes=True)
        elif form == 3 and not column.type.endswith("[]"):
            array = self.array(column, null=0)
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT * FROM UNNEST(",
                     Value("integer", "{" + self.fresh_id() + "}", "::integer[]", array=True), ", ",
                     Value(array.type, array_literal([self.text(column, null=0)]), array.cast, array=True),
                     ")"]  # fmt: skip
            return Statement("INSERT … SELECT unnest", (*parts, *self.returning(b)), writes=True)
        else:
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT v.a, v.b FROM (VALUES (",
                     Value("integer", self.fresh_id(), "::int"), ", ",
                     Value(column.type, self.text(column), f"::{base}"), ")) AS v(a, b)"]  # fmt: skip
        return Statement("INSERT … SELECT", (*parts, *self.returning(b)), writes=True)

    def on_conflict(self) -> Statement:
        a, u = self.pair.a, self.pair.unique
        other = self.sealed(a)
        target = self.r.choice(["(u)", "(id)", ""])
        number = str(self.r.randint(1, 15)) if target == "(id)" else self.fresh_id()
        parts: Parts = [f"INSERT INTO {a.sql} (id, u, p) VALUES (", Value("integer", number, bare=True), ", ",
                        self.value(u, 0), ", 5)"]  # fmt: skip
        if other.name == "u" or not target or self.r.random() < 0.4:
            parts.append(f" ON CONFLICT {target} DO NOTHING")
        else:
            value: Part = self.value(other)
            if self.r.random() < 0.4:
                value = f"{self.r.choice(['excluded', a.sql])}.{other.sql}"
            parts += [f" ON CONFLICT {target} DO UPDATE SET p = excluded.p, {other.sql} = ", value]
            if self.r.random() < 0.3:
                parts.append(Optional((f" WHERE {a.sql}.{other.sql} IS NULL",)))
        return Statement("ON CONFLICT", (*parts, *self.returning(a)), writes=True)

    def update(self) -> Statement:
        table = self.table()
        column = self.sealed(table, equality=False)
        alias = self.r.choice(["", " AS t"])
        parts: Parts = [f"UPDATE {table.sql}{alias} SET {column.sql} = ", self.value(column, 0.05)]
        if self.r.random() < 0.3:
            parts.append(Optional((", p = ", Value("integer", "9", bare=True))))
        parts += [" WHERE ", *self.predicate(table), *self.returning(table)]
        return Statement("UPDATE SET", tuple(parts), writes=True)

    def two_roles(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        value = self.value(column, 0, cast=False, key="both")
        word = self.r.choice(["=", "<>"])
        parts: Parts = [f"UPDATE {table.sql} SET {column.sql} = ", value, f" WHERE {column.sql} {word} ", value]
        return Statement("one value in two roles", (*parts, *self.returning(table)), writes=True)

    def update_copies(self) -> Statement:
        b, j = self.pair.b, self.pair.joined.sql
        form = self.r.randrange(3)
        if form == 0:
            return Statement("SET c = d", (f"UPDATE {b.sql} SET {j} = k", *self.where(b)), writes=True)
        if form == 1:
            column = self.sealed(b)
            parts: Parts = [f"UPDATE {b.sql} SET ({j}, p) = (", self.value(self.pair.joined), ", 3)"]
            return Statement("SET (c, d) = (…)", (*parts, f" WHERE {column.sql} IS NULL"), writes=True)
        return Statement("SET c = c || x", (f"UPDATE {b.sql} SET {j} = upper({j})",), writes=True)

    def update_from(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        other = self.r.choice([f"p = y.id", f"{j} = y.k"])
        parts: Parts = [f"UPDATE {a.sql} x SET {other} FROM (SELECT min(id) AS id FROM {b.sql} GROUP BY {j}) m"
                        f" JOIN {b.sql} y ON y.id = m.id WHERE x.{j} = y.{j}"]  # fmt: skip
        return Statement("UPDATE … FROM", tuple(parts), writes=True)

    def delete(self) -> Statement:
        table = self.table()
        if self.r.random() < 0.4:
            a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
            parts: Parts = [f"DELETE FROM {b.sql} y USING {a.sql} x WHERE x.{j} = y.{j} AND x.id = ",
                            Value("integer", str(self.r.randint(1, 12)), bare=True)]  # fmt: skip
            return Statement("DELETE … USING", tuple(parts), writes=True)
        return Statement(
            "DELETE", (f"DELETE FROM {table.sql} WHERE ", *self.predicate(table), *self.returning(table)),
            writes=True,
        )  # fmt: skip

    def merge(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        parts: Parts = [f"MERGE INTO {a.sql} x USING (SELECT min(id) AS id, 1 AS one FROM {b.sql}) y ON x.id = y.id "
                        f"WHEN MATCHED THEN UPDATE SET {j} = ", self.value(self.pair.joined),
                        f" WHEN NOT MATCHED THEN INSERT (id, {j}) VALUES ({self.fresh_id()}, ",
                        self.value(self.pair.joined), ")"]  # fmt: skip
        return Statement("MERGE", tuple(parts), writes=True)

    def ctas(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        return Statement(
            "CREATE TABLE AS",
            (f"CREATE TEMP TABLE copied AS SELECT id, {column.sql} AS v FROM {table.sql};"
             " SELECT * FROM copied; DROP TABLE copied",),
            writes=True, literal_only=True,
        )  # fmt: skip

    # ---- what needs another index, and what can't be ------------------------------------------
    def ranges(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            operator = self.r.choice(["<", "<=", ">", ">="])
            return self.select("<, BETWEEN", table, [f"{column.sql} {operator} ", self.value(column)])
        if form == 1:
            return self.select(
                "<, BETWEEN", table,
                [f"{column.sql} BETWEEN ", self.value(column), " AND ", self.value(column)],
            )  # fmt: skip
        if form == 2:
            word = self.r.choice(["", " DESC", " NULLS FIRST"])
            return Statement(
                "ORDER BY", (f"SELECT id, {column.sql} FROM {table.sql} ORDER BY {column.sql}{word}, id",),
                ordered=True,
            )  # fmt: skip
        what = self.r.choice(["min", "max"])
        return Statement("min, max", (f"SELECT {what}({column.sql}) FROM {table.sql}",))

    def like(self) -> Statement:
        table = self.table()
        texts = [c for c in table.sealed if c.type in ("text", "varchar(12)")]
        if not texts:
            return self.equal()
        column = self.r.choice(texts)
        pattern = self.r.choice(["a", "a%", "%a%", "ł%", "it''s", "_", "%"])
        word = self.r.choice(["LIKE", "NOT LIKE", "ILIKE"])
        return self.select("LIKE", table, [f"{column.sql} {word} '{pattern}'"])

    def ordered(self) -> Statement:
        """Rows in an order by a plain column, with LIMIT."""
        table = self.table()
        parts: Parts = ["SELECT ", *self.targets(table), f" FROM {table.sql}", *self.where(table),
                        " ORDER BY id", self.r.choice([" DESC", ""])]  # fmt: skip
        if self.r.random() < 0.5:
            parts += [" LIMIT ", Value("bigint", str(self.r.randint(0, 9)), bare=True)]
            parts.append(Optional((" OFFSET 1",)))
        return Statement("ORDER BY another, LIMIT", tuple(parts), ordered=True)

    def whole_row(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        what = self.r.choice(["t", "row_to_json(t)", "t::text", f"upper({column.sql}::text)", f"md5({column.sql}::text)",
                              f"length({column.sql}::text)", f"array_agg({column.sql} ORDER BY id)",
                              f"{column.sql} || 'x'", "(t).*"])  # fmt: skip
        return Statement("whole rows and functions", (f"SELECT {what} FROM {table.sql} t",))

    def explain(self) -> Statement:
        return Statement("EXPLAIN", ("EXPLAIN (COSTS OFF) ", *self.equal().parts), rows=False)

    def several(self) -> Statement:
        one, two = self.equal(), self.ordered()
        return Statement("several statements in one text", (*one.parts, "; ", *two.parts), literal_only=True)

    def prepared_in_sql(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        base = ARRAYS_OF.get(column.type, column.type)
        return Statement(
            "PREPARE, EXECUTE",
            (f"PREPARE pr ({base}) AS SELECT id, {column.sql} FROM {table.sql} WHERE {column.sql} = $1;"
             "EXECUTE pr (", self.value(column, 0, cast=False), "); DEALLOCATE pr"),
            literal_only=True,
        )  # fmt: skip

    def cursor(self) -> Statement:
        table = self.table()
        return Statement(
            "DECLARE, FETCH",
            (f"BEGIN; DECLARE cu CURSOR FOR SELECT * FROM {table.sql}", *self.where(table),
             " ORDER BY id; FETCH 2 FROM cu; FETCH ALL FROM cu; COMMIT"),
            ordered=True, literal_only=True,
        )  # fmt: skip

    def search_path(self) -> Statement:
        table = self.table()
        j = self.pair.joined.sql
        return Statement(
            "same name in another schema",
            (f"SELECT {j} FROM other.{table.sql}; SELECT {j} FROM public.{table.sql} WHERE {j} = ",
             self.value(self.pair.joined, 0)),
            literal_only=True,
        )  # fmt: skip

    def view(self) -> Statement:
        a, j = self.pair.a, self.pair.joined
        return Statement(
            "views",
            (f"SELECT id, {j.sql} FROM v{self.pair.number} WHERE {j.sql} = ", self.value(j)),
        )


def _numeric(text: str) -> bool:
    body = text.strip().lstrip("+-")
    return body.replace(".", "", 1).isdigit() and text == text.strip()


_BY_WEIGHT: dict[int, tuple[Callable[[Maker], Statement], ...]] = {
    4: (Maker.equal, Maker.insert, Maker.update),
    3: (Maker.in_list, Maker.any_array, Maker.join_on, Maker.subquery, Maker.ordered, Maker.on_conflict,
        Maker.from_subselect, Maker.casts, Maker.insert_select),
    2: (Maker.unequal, Maker.distinct_from, Maker.row_comparison, Maker.group, Maker.distinct,
        Maker.counting, Maker.set_operation, Maker.cte, Maker.two_roles, Maker.delete, Maker.update_copies,
        Maker.conditional, Maker.join_using, Maker.insert_positional, Maker.null_test),
    1: (Maker.join_where, Maker.scalar, Maker.window, Maker.cte_writes, Maker.update_from, Maker.merge,
        Maker.ctas, Maker.ranges, Maker.like, Maker.whole_row, Maker.explain, Maker.several,
        Maker.prepared_in_sql, Maker.cursor, Maker.search_path, Maker.view),
}  # fmt: skip
RULES: dict[str, Callable[[Maker], Statement]] = {
    f.__name__: f for group in _BY_WEIGHT.values() for f in group
}
_WEIGHTED = [f.__name__ for weight, group in _BY_WEIGHT.items() for f in group for _ in range(weight)]
