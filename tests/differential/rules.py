"""All generators of statements with their weights; those here need another index or are refused."""

from __future__ import annotations

from collections.abc import Callable

from tests.differential.pieces import Parts
from tests.differential.reads import Reads
from tests.differential.statement import Optional, Statement, Value
from tests.differential.values import ARRAYS_OF
from tests.differential.writes import Writes


class Maker(Reads, Writes):
    """Makes statements over one pair of tables."""

    def statement(self) -> Statement:
        """One of a rule that is picked by weight."""
        rule = self.r.choice(_WEIGHTED)
        return RULES[rule](self)

    # ---- what needs another index, and what can't be ------------------------------------------
    def ranges(self) -> Statement:
        table = self.table()
        column = self.sealed(table)
        form = self.r.randrange(4)
        if form == 0:
            operator = self.r.choice(["<", "<=", ">", ">="])
            return self.select(
                "<, BETWEEN", table, [f"{column.sql} {operator} ", self.value(column)]
            )
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
        c = column.sql
        what = self.r.choice(
            ["t", "row_to_json(t)", "t::text", f"upper({c}::text)", f"md5({c}::text)", "(t).*",
             f"length({c}::text)", f"array_agg({c} ORDER BY id)", f"{c} || 'x'"]
        )  # fmt: skip
        return Statement("whole rows and functions", (f"SELECT {what} FROM {table.sql} t",))

    def explain(self) -> Statement:
        return Statement("EXPLAIN", ("EXPLAIN (COSTS OFF) ", *self.equal().parts), rows=False)

    def several(self) -> Statement:
        one, two = self.equal(), self.ordered()
        return Statement(
            "several statements in one text", (*one.parts, "; ", *two.parts), literal_only=True
        )

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
        j = self.pair.joined
        return Statement(
            "views",
            (f"SELECT id, {j.sql} FROM v{self.pair.number} WHERE {j.sql} = ", self.value(j)),
        )


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
_WEIGHTED = [
    f.__name__ for weight, group in _BY_WEIGHT.items() for f in group for _ in range(weight)
]
