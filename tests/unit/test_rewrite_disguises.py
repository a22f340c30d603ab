"""Ways to reach, copy or take the name of a protected table that must be refused."""

import pytest

from proxy.postgres.plan import Refusal, SessionContext, UnknownColumns
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import Column, ProtectedColumn, Relation, Snapshot
from proxy.postgres.types.registry import resolve

EMAIL = ProtectedColumn(
    "public", "people", "email", "db.public.people.email", resolve("text"), "app", True
)


def relation(name: str, *columns: str) -> Relation:
    return Relation("public", name, "r", tuple(Column(c, 25) for c in columns))


SNAPSHOT = Snapshot(
    1,
    "db",
    {
        ("public", "people"): relation("people", "id", "email", "email__bx"),
        ("public", "plain"): relation("plain", "a", "b"),
    },
    {("public", "people", "email"): EMAIL},
    frozenset({"public"}),
)


def plan(sql: str) -> object:
    return Planner().plan(sql.encode(), (), SessionContext("db", "app"), SNAPSHOT)


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE plain RENAME TO people",
        "ALTER SCHEMA public RENAME TO other",
        "ALTER SCHEMA other RENAME TO public",
        "ALTER TABLE other.people SET SCHEMA public",
        "CREATE TABLE copied (LIKE people)",
        "CREATE TABLE child () INHERITS (people)",
        "ALTER TABLE plain INHERIT people",
        "ALTER TABLE people ATTACH PARTITION plain DEFAULT",
        "SET search_path = x; SELECT * FROM people",
        "ROLLBACK; INSERT INTO people (email) VALUES ('x')",
        "SELECT people.lower FROM people",
        "SELECT p.md5 FROM people p",
        "SELECT email FROM people TABLESAMPLE SYSTEM (10) WHERE email = 'x'",
        "TABLE people",
        "SELECT row_to_json(p.*) FROM people p",
        "INSERT INTO people SELECT * FROM plain",
        "INSERT INTO people (email) SELECT * FROM unnest($1::text[], $2::text[])",
        "UPDATE people SET (id, email) = (1, upper('x'))",
        "DELETE FROM people RETURNING old.email",
    ],
)
def test_disguise_is_refused(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ctid FROM people",
        "SELECT p.ctid, p.id FROM people p",
        "BEGIN; SELECT id FROM people; COMMIT",
        "ALTER TABLE plain RENAME COLUMN a TO people",
        "CREATE TABLE copied (LIKE plain)",
        "SET search_path = x; SELECT 1",
    ],
)
def test_what_hides_nothing_is_planned(sql: str) -> None:
    assert plan(sql) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE people SET (id, email) = (1, 'a', 'secret')",
        "UPDATE people SET (id, email) = ROW(1, 'a', 'secret')",
        "UPDATE people SET (id, email) = (SELECT 1, 'a', 'secret')",
        "MERGE INTO people USING plain ON id = a WHEN NOT MATCHED THEN "
        "INSERT (email) VALUES ('a', 'secret')",
    ],
)
def test_a_value_that_belongs_to_no_column_is_not_sent(sql: str) -> None:
    with pytest.raises(Refusal) as caught:
        plan(sql)
    assert caught.value.sqlstate == "42601"


def test_rows_of_a_function_are_not_written_where_their_columns_are_not_known() -> None:
    with pytest.raises(Refusal):
        plan("INSERT INTO people SELECT * FROM json_populate_recordset(NULL::people, '[]')")


def test_values_to_be_sealed_are_not_ordered_by_what_they_become() -> None:
    with pytest.raises(Refusal):
        plan("INSERT INTO people (email) (VALUES ('b'), ('a') ORDER BY 1 LIMIT 1)")


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT * FROM people WHERE emial = 'x'", "42703"),
        ("SELECT 1 FROM people p WHERE EXISTS (SELECT 1 FROM plain WHERE emial = 'x')", "42703"),
        ("DELETE FROM people WHERE emial = 'x'", "42703"),
        ("UPDATE \"PEOPLE\" SET email = 'x'", "42P01"),
        ("INSERT INTO publik.people (email) VALUES ('x')", "42P01"),
        ('COPY "People" (email) FROM STDIN', "42P01"),
    ],
)
def test_a_name_that_means_nothing_is_not_sent_with_its_value(sql: str, sqlstate: str) -> None:
    with pytest.raises(UnknownColumns) as refused:
        plan(sql)
    assert refused.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id AS n FROM people ORDER BY n",
        "SELECT id AS n, count(*) FROM people GROUP BY n",
        "SELECT 1 FROM people, json_each('{}') WHERE key = 'x'",
        "SELECT 1 FROM people, generate_series(1, 2) s WHERE s = 1",
        "SELECT id FROM people WHERE ctid = '(0,1)'",
        "INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET id = excluded.id",
        'WITH "PEOPLE" AS (SELECT 1) SELECT * FROM "PEOPLE"',
        "SELECT 1 FROM pg_temp.people",
    ],
)
def test_a_name_that_means_something_is_planned(sql: str) -> None:
    assert plan(sql) is not None


TEMPORARY = SessionContext("db", "app", temporary=frozenset({"people", "plain"}))


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM people", "INSERT INTO people (email) VALUES ('x')", "TABLE people"]
)
def test_a_temporary_table_that_hides_a_protected_one_is_refused(sql: str) -> None:
    with pytest.raises(Refusal, match="hides"):
        Planner().plan(sql.encode(), (), TEMPORARY, SNAPSHOT)


def test_a_path_may_put_temporary_tables_last() -> None:
    last = TEMPORARY._replace(search_path=("public", "pg_temp"))
    assert Planner().plan(b"SELECT email FROM people", (), last, SNAPSHOT).sensitive
