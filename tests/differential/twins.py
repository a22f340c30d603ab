"""The same statements on plain tables directly and on protected ones through the proxy, compared."""

from __future__ import annotations

import contextlib
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from proxy.config.model import Address, CatalogAccess, PostgresConfig, SecretRef, TlsClient
from tests.differential.rules import Maker
from tests.differential.schema import Pair, config, make_pair
from tests.differential.statement import Rendered, Statement, Value, render, values_in
from tests.differential.values import BAD, GOOD
from tests.differential.wire import Answer, Outcome, Side
from tests.parts.apart import Apart
from tests.parts.postgres import Postgres

FORMS = ("literal", "text", "binary")
REFUSED = "0A000"
IDLE = 0
SPELT = (700, 701, 1042, 1186, 1266, 1700, 3802)  # types with equal values that look different
COUNTED = ("same", "failed_alike", "refused", "lenient")
# Operators and assignments that PostgreSQL has not for these types; a tag does not tell them apart.
TYPE_ERRORS = ("42883", "42804", "42P18", "42725")
SETTINGS = {
    "DateStyle": ("ISO, MDY", "ISO, DMY", "SQL, DMY", "German", "Postgres, MDY"),
    "TimeZone": ("UTC", "Europe/Warsaw", "America/New_York", "Asia/Kathmandu"),
    "IntervalStyle": ("postgres", "iso_8601", "sql_standard", "postgres_verbose"),
    "extra_float_digits": ("1", "0", "-3"),
    "bytea_output": ("hex", "escape"),
}


@dataclass
class Tally:
    """What became of the statements of each rule; `divergences` are the defects."""

    same: Counter[str] = field(default_factory=Counter)
    failed_alike: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lenient: Counter[str] = field(default_factory=Counter)  # the server would not take these types
    known: Counter[str] = field(default_factory=Counter)  # by the name of the gap
    divergences: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(
            sum(c.values()) for c in (self.same, self.failed_alike, self.refused, self.lenient)
        )

    def report(self) -> str:
        kinds = (self.same, self.failed_alike, self.refused, self.lenient)
        lines = [f"{'rule':<34} {'same':>7} {'error':>7} {'refused':>7} {'lenient':>7}"]
        for r in sorted(set().union(*kinds)):
            lines.append(f"{r:<34} " + " ".join(f"{c[r]:>7}" for c in kinds))
        lines.append(f"{'all':<34} " + " ".join(f"{c.total():>7}" for c in kinds))
        lines += [f"known gap, {name}: {n}" for name, n in sorted(self.known.items())]
        return "\n".join(lines)


class Twins:
    """Both sides of one pair of tables. `plain` and `sealed` are connections of their own."""

    def __init__(self, plain: Side, sealed: Side, pair: Pair, seed: int, tally: Tally) -> None:
        self.plain = plain
        self.sealed = sealed
        self.pair = pair
        self.tally = tally
        self.seed = seed
        self.source = random.Random(seed)
        self.maker = Maker(self.source, pair)
        self._settings = ""

    def both(
        self, what: Rendered, binary: dict[Value, bytes] | None = None
    ) -> tuple[Outcome, Outcome]:
        return self.plain.run(what, binary), self.sealed.run(what, binary)

    def must(self, sql: str) -> None:
        """A step of the set-up, that has to succeed on both sides."""
        for side in (self.plain, self.sealed):
            error = side.simple(sql).error
            assert error is None, f"{sql}: {error}"

    def load(self, rows: int = 10) -> None:
        """Makes the tables and puts the same rows into both."""
        for table in self.pair.tables:
            for statement in table.ddl():
                self.must(statement)
        for table in self.pair.tables:
            self.must(f"CREATE TABLE other.{table.sql} (id int, j text)")
            self.must(f"INSERT INTO other.{table.sql} VALUES (1, 'other')")
            for number in range(1, rows + 1):
                parts: list[object] = [
                    f"INSERT INTO {table.sql} VALUES ({number}, {number % 3}, 'q'"
                ]
                for column in table.columns:
                    text = (
                        None
                        if self.source.random() < 0.15
                        else self.source.choice(GOOD[column.type])
                    )
                    parts += [", ", Value(column.type, text)]
                made = Statement("load", (*parts, ") ON CONFLICT DO NOTHING"), writes=True)  # type: ignore[arg-type]
                self.check(made, "literal")
        view = f"CREATE VIEW v{self.pair.number} AS SELECT id, j FROM {self.pair.a.sql}"
        self.plain.simple(view)
        if self.sealed.simple(view).error:
            self.plain.simple(f"DROP VIEW v{self.pair.number}")

    def settle(self) -> None:
        """Puts both sessions under other settings."""
        if self.source.random() < 0.4:
            settings = {name: self.source.choice(v) for name, v in SETTINGS.items()}
            if self.source.random() < 0.5:
                settings = {name: v[0] for name, v in SETTINGS.items()}
            self._settings = "; ".join(f"SET {n} = '{v}'" for n, v in settings.items())
            self.must(self._settings)

    def step(self) -> None:
        """One random statement in one or all of its forms."""
        statement = self.maker.statement()
        forms = ["literal"] if statement.literal_only else list(FORMS)
        if statement.writes and not statement.literal_only:
            forms = [self.source.choice(FORMS)]
        for form in forms:
            self.check(statement, form)
        if not statement.literal_only and self.source.random() < 0.2:
            self.describe(statement)

    def describe(self, statement: Statement) -> None:
        """What Describe says of parameters and columns."""
        what = render(statement, "text")
        plain, sealed = (
            s.describe(what.sql, len(what.values or ())) for s in (self.plain, self.sealed)
        )
        rule = f"Describe: {statement.rule}"
        if sealed == ("error", REFUSED):
            self.tally.refused[rule] += 1
        elif plain[0] == "error" and sealed[0] == "error":
            self.tally.failed_alike[rule] += 1
        elif plain == sealed:
            self.tally.same[rule] += 1
        elif plain[0] == "error" and plain[1] in TYPE_ERRORS:
            self.tally.lenient[rule] += 1
        else:
            shown = f"    directly {plain}\n    proxied  {sealed}"
            if gap := known_gap(what.sql, shown):
                self.tally.known[gap] += 1
                return
            self.tally.divergences.append(f"[seed {self.seed}] {rule}: {what.sql}\n{shown}")

    def check(self, statement: Statement, form: str) -> None:
        """Runs a statement on both sides, compares all that a client sees, and counts."""
        binary_result = self.source.random() < 0.5
        verdict = self.compare(statement, form, binary_result)
        if verdict is None:
            return
        if verdict in COUNTED:
            getattr(self.tally, verdict)[statement.rule] += 1
            return
        smallest, verdict = self._shrink(statement, form, binary_result, verdict)
        what = render(smallest, form, binary_result)
        if gap := known_gap(what.sql, verdict):
            self.tally.known[gap] += 1
            return
        self.tally.divergences.append(
            f"[seed {self.seed}] {statement.rule}, {form}: {what.sql}\n"
            f"    values {[(v.type, v.text) for v in what.values or ()]} settings {self._settings!r}\n"
            f"    types {[(c.name, c.type, c.equality) for t in self.pair.tables for c in t.sealed]}\n"
            f"    {verdict}"
        )

    def _shrink(
        self, statement: Statement, form: str, binary_result: bool, verdict: str
    ) -> tuple[Statement, str]:
        again = True
        while again:
            again = False
            for smaller in statement.smaller():
                found = self.compare(smaller, form, binary_result)
                if found is not None and found not in COUNTED:
                    statement, verdict, again = smaller, str(found), True
                    break
        return statement, verdict

    def compare(self, statement: Statement, form: str, binary_result: bool) -> str | None:
        """same, failed_alike, refused, or what differs; None where this form cannot be sent."""
        what = render(statement, form, binary_result)
        binary: dict[Value, bytes] = {}
        if what.binary:
            for value in what.values or ():
                if value.text is not None:
                    data = self.plain.binary(value)
                    if data is None:
                        return None
                    binary[value] = data
        if not statement.writes:
            plain, sealed = self.both(what, binary)
            if plain.transaction != IDLE or sealed.transaction != IDLE:
                self.both(
                    Rendered("ROLLBACK", None)
                )  # a text with BEGIN in it, that failed half-way
            return difference(statement, plain, sealed)
        self.both(Rendered("BEGIN", None))
        plain, sealed = self.both(what, binary)
        verdict = difference(statement, plain, sealed)
        if verdict == "same":
            verdict = self._contents() or verdict
        end = "COMMIT" if verdict == "same" else "ROLLBACK"  # the twins stay alike
        plain, sealed = self.both(Rendered(end, None))
        if plain.transaction != sealed.transaction:
            verdict = f"after {end}: {plain} and {sealed}"
        return verdict

    def _contents(self) -> str | None:
        """What differs in the tables, when everything is read through the proxy."""
        for table in self.pair.tables:
            names = ", ".join(c.sql for c in table.columns)
            what = Rendered(f"SELECT id, {names} FROM {table.sql} ORDER BY id", ())
            shown = difference(Statement("contents", (what.sql,), ordered=True), *self.both(what))
            if shown != "same":
                return f"{table.name} has other rows afterwards: {shown}"
        return None


# Defects that have a test in test_regressions.py, marked as expected to fail: (statement, what differs)
KNOWN = {
    # with a parameter that is NULL the server plans the column alone, and shows its length
    "length of COALESCE with NULL": (r"COALESCE\(.*\$\d", r"directly \(\(.*coalesce"),
}


def known_gap(sql: str, verdict: str) -> str | None:
    """The name of the known defect that a divergence belongs to."""
    for name, (statement, shown) in KNOWN.items():
        if re.search(statement, sql) and re.search(shown, verdict):
            return name
    return None


def difference(statement: Statement, plain: Outcome, sealed: Outcome) -> str:
    """same, failed_alike, refused; or a description of what a client sees differently."""
    theirs, ours = plain.error, sealed.error
    if ours is not None and ours.sqlstate == REFUSED:
        return "failed_alike" if theirs is not None else "refused"
    if theirs is not None or ours is not None:
        if theirs is not None and ours is not None and theirs.sqlstate == ours.sqlstate:
            return "failed_alike"
        if theirs is not None and theirs.sqlstate in TYPE_ERRORS:
            return "lenient" if ours is None else "failed_alike"
        if theirs is not None and ours is not None and _several_wrong(statement):
            return "failed_alike"  # which of them is seen first is open
        return f"directly {theirs or 'no error'}\n    proxied  {ours or 'no error'}"
    if plain.transaction != sealed.transaction:
        return f"transaction state {plain.transaction} and {sealed.transaction}"
    if len(plain.answers) != len(sealed.answers):
        return f"{len(plain.answers)} and {len(sealed.answers)} answers"
    for one, other in zip(plain.answers, sealed.answers, strict=True):
        if (one.status, one.tag) != (other.status, other.tag):
            return f"directly {one.status} {one.tag!r}\n    proxied  {other.status} {other.tag!r}"
        if one.columns != other.columns:
            return f"directly {one.columns}\n    proxied  {other.columns}"
        if not statement.rows:
            continue
        if statement.representative:
            one, other = _without_spelling(one), _without_spelling(other)
        if statement.ordered and one.rows != other.rows:
            return f"directly {one.rows}\n    proxied  {other.rows}"
        if Counter(one.rows) != Counter(other.rows):
            only = Counter(one.rows) - Counter(other.rows)
            extra = Counter(other.rows) - Counter(one.rows)
            return f"only directly {list(only)}\n    only proxied  {list(extra)}"
    return "same"


def _several_wrong(statement: Statement) -> bool:
    wrong = [v for v in values_in(statement.parts) if v.text in BAD.get(v.type, ())]
    return len(wrong) > 1


def _without_spelling(answer: Answer) -> Answer:
    """Without the columns whose equal values can be spelt in several ways (0 and 0.00)."""
    keep = [i for i, c in enumerate(answer.columns) if c[1] not in SPELT]
    rows = tuple(tuple(row[i] for i in keep) for row in answer.rows)
    return replace(answer, rows=rows)


@contextlib.contextmanager
def stand(pairs: list[Pair]) -> Iterator[tuple[Postgres, str, str]]:
    """A server with a plain and a protected database: (it, conninfo directly, through the proxy)."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the server's uid
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        try:
            for database in ("plain", server.database):
                where = server.dsn().replace(f"dbname={server.database}", "dbname={}")
                with psycopg.connect(where.format("postgres"), autocommit=True) as c:
                    if database == "plain":
                        c.execute("CREATE DATABASE plain")
                with psycopg.connect(where.format(database), autocommit=True) as c:
                    c.execute("CREATE SCHEMA other")
            os.environ["SG_TEST_PG"] = server.password
            listening = PostgresConfig(
                listen=Address(),
                upstream=Address(port=server.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=config(pairs),
            )
            with Apart(listening, Path(folder)) as proxy:
                sealed = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
                plain = server.dsn().replace(f"dbname={server.database}", "dbname=plain")
                yield server, plain, sealed
        finally:
            server.stop()


def run(seed: int, pairs: int, steps: int) -> Tally:
    """A whole run of `pairs` pairs of tables with `steps` statements each, seeded."""
    source = random.Random(seed)
    made = [make_pair(source, number) for number in range(pairs)]
    tally = Tally()
    with stand(made) as (_, plain, sealed):
        for pair in made:
            sides = Side(plain), Side(sealed)
            twins = Twins(*sides, pair, seed * 1000 + pair.number, tally)
            twins.load()
            for number in range(steps):
                if number % 25 == 0:
                    twins.settle()
                twins.step()
            for side in sides:
                side.close()
    return tally


__all__ = ["Tally", "Twins", "difference", "run", "stand"]
