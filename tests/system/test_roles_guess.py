"""Roles that are not shown a value try to learn it: by guessing, by order, by errors, by copying.

A guess teaches something if the right one has another outcome than a wrong one.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.config.model import (
    ColumnConfig,
    MatchConfig,
    PolicyRule,
)
from tests.parts.database import database
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system

DOMAIN = "shop.public.people.email"
COLUMNS = (
    ColumnConfig(column="public.people.email", type="text", ring="app", equality=True),
    ColumnConfig(column="public.own.email", type="text", ring="app", equality=True, domain=DOMAIN),
    ColumnConfig(
        column="public.people.name", type="text", ring="app", equality=True,
        match=MatchConfig(ngram=3), acknowledge=("match",),
    ),
    ColumnConfig(
        column="public.people.born", type="date", ring="app", order=True, acknowledge=("order",)
    ),
)  # fmt: skip
ROLES = ("clerk", "guest", "backup", "nobody")


def rule(who: str, effect: str, actions: str = "seal open", **more: str) -> PolicyRule:
    return PolicyRule.model_validate(
        {"principals": (f"postgres:{who}",), "resources": ("column:*",), "effect": effect,
         "actions": tuple(actions.split())} | more
    )  # fmt: skip


RULES = (
    rule("app", "allow"),
    rule("clerk", "mask", "open", mask="hash"),
    rule("guest", "null", "open"),
    rule("backup", "ciphertext", "open"),
    rule("writer", "mask", "open", mask="last4"),
    rule("writer", "allow", "seal"),
)
SECRET, WRONG = "ada@example.org", "eve@example.org"
BORN, NOT_BORN = "1981-03-07", "1999-12-24"
GUESSES = {
    "=": "SELECT id FROM people WHERE email = '{g}'",
    "<>": "SELECT count(*) FROM people WHERE email <> '{g}'",
    "IN": "SELECT id FROM people WHERE email IN ('{g}', 'x')",
    "ANY": "SELECT id FROM people WHERE email = ANY ('{{{g}}}')",
    "IS DISTINCT FROM": "SELECT id FROM people WHERE email IS DISTINCT FROM '{g}'",
    "a row": "SELECT id FROM people WHERE (id, email) = (1, '{g}')",
    "<": "SELECT id FROM people WHERE born < '{d}'",
    "BETWEEN": "SELECT id FROM people WHERE born BETWEEN '{d}' AND '{d}'",
    "HAVING of an extreme": "SELECT 1 FROM people HAVING min(born) = '{d}'",
    "LIKE": "SELECT id FROM people WHERE name LIKE '{g}%'",
    "CASE": "SELECT CASE WHEN email = '{g}' THEN 1 ELSE 2 END FROM people",
    "CASE of it": "SELECT CASE email WHEN '{g}' THEN 1 ELSE 2 END FROM people",
    "NULLIF": "SELECT id, NULLIF(email, '{g}') IS NULL FROM people",
    "NULLIF, shown": "SELECT id, NULLIF(email, '{g}') FROM people",
    "COALESCE": "SELECT COALESCE(email, '{g}') FROM people",
    "COALESCE of NULL": "SELECT COALESCE(NULLIF(email, email), '{g}') FROM people",
    "FILTER": "SELECT count(*) FILTER (WHERE email = '{g}') FROM people",
    "HAVING": "SELECT count(*) FROM people GROUP BY email HAVING email = '{g}'",
    "EXISTS": "SELECT EXISTS (SELECT 1 FROM people WHERE email = '{g}')",
    "a sub-select": "SELECT (SELECT id FROM people WHERE email = '{g}')",
    "VALUES": "SELECT p.id FROM people p JOIN (VALUES ('{g}')) v(e) ON v.e = p.email",
    "UNION": "SELECT email FROM people UNION SELECT '{g}'",
    "UNION ALL": "SELECT email FROM people UNION ALL SELECT '{g}'",
    "INTERSECT": "SELECT email FROM people INTERSECT SELECT '{g}'",
    "EXCEPT": "SELECT count(*) FROM (SELECT email FROM people EXCEPT SELECT '{g}') s",
    "an order": "SELECT id FROM people ORDER BY name = '{g}'",
    "a window": "SELECT id, row_number() OVER (PARTITION BY email = '{g}') FROM people",
    "a view": "SELECT id FROM seen WHERE email = '{g}'",
    "a cursor": "BEGIN; DECLARE c CURSOR FOR SELECT id FROM people WHERE email = '{g}'; FETCH ALL FROM c;"
    " COMMIT",
    "PREPARE": "PREPARE q AS SELECT id FROM people WHERE email = $1; EXECUTE q('{g}'); DEALLOCATE q",
    "EXPLAIN": "EXPLAIN (ANALYZE, TIMING off, SUMMARY off, COSTS off) SELECT 1 FROM people WHERE email = "
    "'{g}'",
    "COPY": "COPY (SELECT id FROM people WHERE email = '{g}') TO STDOUT",
    "UPDATE": "UPDATE people SET id = id WHERE email = '{g}'",
    "UPDATE RETURNING": "UPDATE people SET id = id RETURNING email = '{g}'",
    "DELETE": "BEGIN; DELETE FROM people WHERE email = '{g}'; ROLLBACK",
    "INSERT": "INSERT INTO people (id, email) VALUES (7, '{g}')",
    "ON CONFLICT": "INSERT INTO people (id, email) VALUES (7, '{g}') ON CONFLICT (email) DO NOTHING",
    "INSERT elsewhere": "INSERT INTO own (id, email) VALUES (7, '{g}')",
    "MERGE": "BEGIN; MERGE INTO people p USING (VALUES (1)) v(n) ON p.email = '{g}' "
    "WHEN MATCHED THEN DELETE; ROLLBACK",
    "SET ROLE": "SET ROLE app; SELECT id FROM people WHERE email = '{g}'; RESET ROLE",
    "SET SESSION AUTHORIZATION": "SET SESSION AUTHORIZATION app; "
    "SELECT id FROM people WHERE email = '{g}'; RESET SESSION AUTHORIZATION",
}  # fmt: skip
READS = {
    "email": "SELECT email FROM people",
    "in a CTE": "WITH w AS MATERIALIZED (SELECT email, name FROM people) SELECT * FROM w",
    "min": "SELECT min(born), max(born) FROM people",
    "ORDER BY and LIMIT": "SELECT born, name FROM people ORDER BY born LIMIT 1",
    "DISTINCT ON": "SELECT DISTINCT ON (email) email FROM people",
    "a window": "SELECT first_value(email) OVER (ORDER BY id), lag(email) OVER (ORDER BY id) FROM people",
    "any_value": "SELECT any_value(email) FROM people",
    "COALESCE": "SELECT COALESCE(email, name) FROM people",
    "a column of the domain": "SELECT COALESCE(o.email, p.email) FROM people p LEFT JOIN own o ON false",
    "UNION": "SELECT email FROM own UNION ALL SELECT email FROM people",
    "a cast": "SELECT email::varchar FROM people",
    "a cast that cuts": "SELECT email::varchar(3) FROM people",
    "a function": "SELECT lower(email), md5(email), length(email) FROM people",
    "a row": "SELECT people FROM people",
    "json": "SELECT row_to_json(p), to_jsonb(p.email) FROM people p",
    "RETURNING": "UPDATE people SET id = id RETURNING email, name, *",
    "its own value": "UPDATE people SET email = email RETURNING email",
    "a copy": "INSERT INTO own (id, email) SELECT id, email FROM people RETURNING email",
    "a plain copy": "INSERT INTO plain SELECT email FROM people",
    "CREATE TABLE AS": "CREATE TEMP TABLE t AS SELECT email FROM people",
    "a view": "SELECT * FROM seen",
    "COPY": "COPY people TO STDOUT",
    "COPY of a query": "COPY (SELECT name, email FROM people) TO STDOUT",
    "a cursor": "BEGIN; DECLARE c CURSOR FOR SELECT email FROM people; FETCH ALL FROM c; COMMIT",
    "a duplicate": "UPDATE people SET id = 1",
    "a cast in an error": "SELECT email::int FROM people",
    "another role": "SET ROLE app; SELECT email FROM people; RESET ROLE",
    "another session's": "SET SESSION AUTHORIZATION app; SELECT email FROM people",
}  # fmt: skip


class Place:
    def __init__(self, server: Postgres, port: int) -> None:
        self.server, self._port = server, port

    def connect(self, role: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1", port=self._port, user=role, password=self.server.password,
            dbname="shop", autocommit=True,
        )  # fmt: skip

    def outcome(self, role: str, sql: str) -> tuple[str, ...]:
        """What a role sees of a text: the error, or all answers."""
        seen: list[str] = []
        with self.connect(role) as c:
            c.add_notice_handler(lambda d: seen.append(str(d.message_primary)))
            try:
                if sql.startswith("COPY"):
                    with c.cursor().copy(sql) as copy:
                        return (repr(b"".join(bytes(piece) for piece in copy)),)
                for one in sql.split("; "):
                    cur = psycopg.ClientCursor(c)
                    cur.execute(one)
                    seen += [str(cur.statusmessage), *map(repr, cur if cur.description else ())]
            except psycopg.Error as error:
                d = error.diag
                return (
                    *seen,
                    *map(str, (d.sqlstate, d.message_primary, d.message_detail, d.context)),
                )
            return tuple(seen)

    def explore(self, role: str, sql: str) -> tuple[str, ...]:
        """The outcome, with the tables as they were afterwards."""
        try:
            return self.outcome(role, sql)
        finally:
            self.outcome("app", "DELETE FROM people WHERE id = 7; DELETE FROM own")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with (
        database(COLUMNS) as made,
        Listening(made.config, lambda: software_keys(made.folder, policy=RULES)) as proxy,
    ):
        found = Place(made.server, proxy.port)
        setup = [
            "CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, name text, born date)",
            "CREATE TABLE own (id int, email text UNIQUE)",
            "CREATE TABLE plain (email text)",
            "CREATE VIEW seen AS SELECT id, email FROM people",
            f"INSERT INTO people VALUES (1, '{SECRET}', '{SECRET}', '{BORN}'),"
            " (2, 'bob@example.org', 'bob', '2001-01-01')",
        ]
        for role in (*ROLES, "writer"):
            setup += [
                f"CREATE ROLE {role} LOGIN PASSWORD '{made.server.password}'",
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON people, own, plain, seen TO {role}",
                f"GRANT app TO {role}",
            ]
        for sql in setup:
            assert len(found.outcome("app", sql)) < 3, sql
        yield found


@pytest.mark.parametrize("role", ROLES)
def test_a_right_guess_looks_like_a_wrong_one(place: Place, role: str) -> None:
    told = []
    for what, sql in GUESSES.items():
        right = place.explore(role, sql.format(g=SECRET, d=BORN))
        wrong = place.explore(role, sql.format(g=WRONG, d=NOT_BORN))
        if right != wrong:
            told.append((what, right, wrong))
    assert not told


def test_the_guesses_are_such_that_would_tell(place: Place) -> None:
    """Who has the values gets another outcome for the right one; else the test above could not fail."""
    alike = {
        what
        for what, sql in GUESSES.items()
        if place.explore("app", sql.format(g=SECRET, d=BORN))
        == place.explore("app", sql.format(g=WRONG, d=NOT_BORN))
    }
    # refused to everybody; the value hides the guess; `own` has no value to collide with
    assert alike == {"HAVING of an extreme", "COALESCE", "INSERT elsewhere"}


@pytest.mark.parametrize("role", (*ROLES, "writer"))
def test_no_way_of_reading_shows_more_than_the_policy(place: Place, role: str) -> None:
    shown = []
    for what, sql in READS.items():
        seen = "\n".join(place.explore(role, sql))
        if any(
            s in seen for s in (SECRET, "bob", SECRET[:7], SECRET.encode().hex(), BORN, "(1981")
        ):
            shown.append((what, seen))
        if role != "backup" and ("xc501" in seen or "\\xc5" in seen):
            shown.append((what, seen))
    assert not shown


def test_the_ways_of_reading_show_the_values_to_who_has_them(place: Place) -> None:
    refused = {
        what for what, sql in READS.items() if place.explore("app", sql)[-4:][0] in ("0A000", "23505")
    }
    assert refused == {"COALESCE", "a cast that cuts", "a function", "a row", "json", "a plain copy",
                       "CREATE TABLE AS", "a duplicate", "a cast in an error"}  # fmt: skip
    for what in READS.keys() - refused:
        seen = "\n".join(place.explore("app", READS[what]))
        assert any(s in seen for s in (SECRET, "bob", "(1981")), (what, seen)


ORDERS = (
    "SELECT id FROM people ORDER BY born", "SELECT id FROM people ORDER BY born DESC LIMIT 1",
    "SELECT a.id FROM people a, people b WHERE a.born < b.born AND b.id = 1",
    "SELECT id, rank() OVER (ORDER BY born) FROM people", "SELECT min(born) IS NULL FROM people",
    "SELECT a.id FROM people a JOIN own b USING (email)",
    "SELECT a.id FROM people a JOIN own b ON b.email = a.email",
    "SELECT id FROM people WHERE email IN (SELECT email FROM own)",
    "SELECT id FROM people p WHERE EXISTS (SELECT 1 FROM own o WHERE o.email = p.email)",
    "SELECT count(*) FROM people GROUP BY email", "SELECT count(DISTINCT email) FROM people",
    "SELECT DISTINCT email FROM people", "SELECT DISTINCT ON (email) id FROM people",
    "SELECT id, count(*) OVER (PARTITION BY email) FROM people",
    "SELECT email FROM people INTERSECT SELECT email FROM own",
)  # fmt: skip


@pytest.mark.parametrize("role", (*ROLES, "writer"))
def test_values_are_not_compared_with_each_other_for_who_may_not_have_them(
    place: Place, role: str
) -> None:
    """Who may write could put a guess beside the values, and ask which are less, or equal."""
    states = {sql: place.outcome(role, sql)[0] for sql in ORDERS}
    assert not {sql: state for sql, state in states.items() if state not in ("42501", "0A000")}
    assert "42501" in states.values()


def test_a_writer_learns_from_a_unique_constraint_alone(place: Place) -> None:
    """As documented in leakage.md: the constraint tells whether a value is there."""
    told = [
        what
        for what, sql in GUESSES.items()
        if place.explore("writer", sql.format(g=SECRET, d=BORN))
        != place.explore("writer", sql.format(g=WRONG, d=NOT_BORN))
    ]
    assert told == ["INSERT"]
    for form in ("simple", "extended"):
        with place.connect("writer") as c, pytest.raises(psycopg.errors.UniqueViolation) as error:
            if form == "simple":
                psycopg.ClientCursor(c).execute(GUESSES["INSERT"].format(g=SECRET))
            else:
                c.execute("INSERT INTO people (id, email) VALUES (%s, %s)", (7, SECRET))
        assert error.value.diag.message_detail == "Key (email)=(…) already exists."


def test_the_owner_of_the_values_has_them(place: Place) -> None:
    assert place.outcome("app", GUESSES["="].format(g=SECRET)) == ("SELECT 1", "(1,)")
    assert repr((SECRET,)) in place.outcome("app", READS["a cursor"])
