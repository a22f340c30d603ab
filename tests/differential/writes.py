"""Writing statements, one generator for each row of the rule table (facts: postgres.md 5.3)."""

from __future__ import annotations

from tests.differential.pieces import Parts, Pieces
from tests.differential.schema import Table
from tests.differential.statement import Optional, Part, Statement, Value
from tests.differential.values import ARRAYS_OF, array_literal


class Writes(Pieces):
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
        return Statement(
            "WITH that writes", ("WITH w AS (", *inner, ") SELECT * FROM w"), writes=True
        )

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
            parts: Parts = [f"INSERT INTO {b.sql} (id, {j}) SELECT id + {self.fresh_id()}000, {j} ",
                            f"FROM {a.sql}", *self.where(a)]  # fmt: skip
        elif form == 1:
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT {self.fresh_id()}, ",
                     Value(column.type, self.text(column), f"::{base}")]  # fmt: skip
        elif form == 2 and not column.type.endswith("[]"):
            array = self.array(column)
            parts = [f"INSERT INTO {b.sql} (id, {column.sql}) SELECT {self.fresh_id()}000 + n, v ",
                     "FROM unnest(", array, ") WITH ORDINALITY AS u(v, n)"]  # fmt: skip
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
        parts: Parts = [
            f"UPDATE {table.sql} SET {column.sql} = ",
            value,
            f" WHERE {column.sql} {word} ",
            value,
        ]
        return Statement("one value in two roles", (*parts, *self.returning(table)), writes=True)

    def update_copies(self) -> Statement:
        b, j = self.pair.b, self.pair.joined.sql
        form = self.r.randrange(3)
        if form == 0:
            return Statement(
                "SET c = d", (f"UPDATE {b.sql} SET {j} = k", *self.where(b)), writes=True
            )
        if form == 1:
            column = self.sealed(b)
            parts: Parts = [
                f"UPDATE {b.sql} SET ({j}, p) = (",
                self.value(self.pair.joined),
                ", 3)",
            ]
            return Statement(
                "SET (c, d) = (…)", (*parts, f" WHERE {column.sql} IS NULL"), writes=True
            )
        return Statement("SET c = c || x", (f"UPDATE {b.sql} SET {j} = upper({j})",), writes=True)

    def update_from(self) -> Statement:
        a, b, j = self.pair.a, self.pair.b, self.pair.joined.sql
        other = self.r.choice(["p = y.id", f"{j} = y.k"])
        parts: Parts = [f"UPDATE {a.sql} x SET {other} FROM ",
                        f"(SELECT min(id) AS id FROM {b.sql} GROUP BY {j}) m"
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
        parts: Parts = [f"MERGE INTO {a.sql} x USING (SELECT min(id) AS id, 1 AS one FROM {b.sql}) y ",
                        f"ON x.id = y.id WHEN MATCHED THEN UPDATE SET {j} = ", self.value(self.pair.joined),
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
