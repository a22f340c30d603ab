"""Reading statements, one generator for each row of the rule table (facts: postgres.md 5.3)."""

from __future__ import annotations

from tests.differential.pieces import Parts, Pieces
from tests.differential.statement import Optional, Statement, Value
from tests.differential.values import ARRAYS_OF


class Reads(Pieces):
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

    def null_test(self) -> Statement:
        table = self.table()
        column = self.sealed(table, equality=False)
        word = self.r.choice(["IS NULL", "IS NOT NULL", "ISNULL", "NOTNULL"])
        return self.select("c IS NULL", table, [f"{column.sql} {word}"])

    def distinct_from(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        word = self.r.choice(["IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
        return self.select(
            "c IS DISTINCT FROM v", table, [f"{column.sql} {word} ", self.value(column)]
        )

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
            parts: Parts = [
                f"SELECT id, CASE {column.sql} WHEN ",
                self.value(column),
                " THEN 1 ELSE 2 END",
            ]
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
        parts: Parts = [
            f"SELECT x.id, y.id FROM {a.sql} x, {b.sql} y WHERE x.{one.sql} = y.{column.sql}"
        ]
        return Statement("c1 = c2", tuple(parts))

    def join_using(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        how = self.r.choice(["JOIN", "LEFT JOIN", "FULL JOIN"])
        if self.r.random() < 0.2:
            what = f"(SELECT id AS m, {j} FROM {a.sql}) x NATURAL JOIN (SELECT id AS n, {j} FROM {b.sql}) y"
            return Statement("JOIN … USING", (f"SELECT m, n, {j} FROM {what}",))
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
            parts = [
                f"{j} = (SELECT {j} FROM {b.sql} y WHERE y.id = ",
                Value("integer", "1", bare=True),
                ")",
            ]
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
            parts = [
                f"SELECT p, {column.sql} AS g, max(id) FROM {table.sql} GROUP BY p, {column.sql}"
            ]
        else:
            parts = [f"SELECT {column.sql}, count(*) FROM {table.sql} GROUP BY 1"]
        return Statement("GROUP BY", tuple(parts), representative=True)

    def distinct(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            return Statement(
                "DISTINCT", (f"SELECT DISTINCT {column.sql} FROM {table.sql}", *self.where(table)),
                representative=True,
            )  # fmt: skip
        if form == 1:
            return Statement("DISTINCT", (f"SELECT DISTINCT {column.sql}, p FROM {table.sql}",),
                             representative=True)  # fmt: skip
        if form == 2:
            return Statement(
                "DISTINCT ON",
                (f"SELECT DISTINCT ON (p) p, id, {column.sql} FROM {table.sql} ORDER BY p, id",),
                ordered=True,
            )
        return Statement(
            "DISTINCT ON",
            (f"SELECT DISTINCT ON ({column.sql}) {column.sql} FROM {table.sql}",),
            representative=True,
        )

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
                (
                    f"SELECT id, {what} OVER w FROM {table.sql}",
                    f" WINDOW w AS (PARTITION BY {column.sql}{order})",
                ),
            )
        return Statement(
            "PARTITION BY",
            (
                f"SELECT id, {column.sql}, {what} OVER (PARTITION BY {column.sql}{order}) FROM {table.sql}",
            ),
        )

    def set_operation(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        operator = self.r.choice(["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL"])
        rule = "UNION ALL" if operator == "UNION ALL" else "UNION, INTERSECT, EXCEPT"
        return Statement(
            rule,
            (f"SELECT {j} FROM {a.sql}", *self.where(a), f" {operator} SELECT {self.r.choice([j, 'k'])} "
             f"FROM {b.sql}", *self.where(b)),
            representative=operator != "UNION ALL",
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
