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


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT query_to_xml('SELECT * FROM people', true, false, '')",
        "SELECT pg_catalog.query_to_xml('SELECT * FROM PEOPLE'::text, true, false, '')",
        "SELECT query_to_xml('SELECT * FROM peo' || 'ple', true, false, '')",
        "SELECT query_to_xml(E'SELECT * FROM \\x70eople', true, false, '')",
        "SELECT query_to_xml('SELECT * FROM U&\"\\0070eople\"', true, false, '')",
        "SELECT query_to_xml(query => 'TABLE people', nulls => true, tableforest => true, targetns => '')",
        "SELECT query_to_xml($1, true, false, '')",
        "SELECT query_to_xml(a, true, false, '') FROM plain",
        "SELECT query_to_xml('SELECT table_to_xml(''x'', true, true, '''')', true, false, '')",
        "SELECT query_to_xml('SELECT set_config(''search_path'', ''x'', false)', true, false, '')",
        "SELECT query_to_xmlschema('SELECT * FROM people', true, false, '')",
        "SELECT query_to_xml_and_xmlschema('SELECT * FROM people', true, false, '')",
        "SELECT table_to_xml('plain', true, false, '')",
        "SELECT schema_to_xml('public', true, false, '')",
        "SELECT schema_to_xml_and_xmlschema('public', true, false, '')",
        "SELECT database_to_xml(true, false, '')",
        "SELECT cursor_to_xml('c', 1, true, false, '')",
        "SELECT * FROM ts_stat('SELECT to_tsvector(email) FROM people')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT t, s FROM people')",
        "SELECT * FROM dblink('dbname=db', 'SELECT email FROM people') AS t (a text)",
        "SELECT dblink_exec('dbname=db', $1)",
        "SELECT dblink_build_sql_insert('plain', '1', 1, '{1}', '{1}')",
        "SELECT * FROM crosstab('SELECT id, email, 1 FROM people') AS t (a text)",
        "SELECT * FROM crosstab3('SELECT id, email, 1 FROM people')",
        "SELECT * FROM xpath_table('id', 'doc', 'people', '/a', 'true') AS t (a text)",
        "SELECT * FROM connectby('people', 'id', 'p', '1', 0) AS t (a text)",
        "CREATE VIEW v AS SELECT query_to_xml('SELECT * FROM people', true, false, '')",
        "PREPARE p AS SELECT query_to_xml($1, true, false, '')",
        "COPY (SELECT query_to_xml('TABLE people', true, false, '')) TO STDOUT",
        "SELECT 1 FROM plain WHERE a = (SELECT count(*) FROM ts_stat(b))",
        "SELECT SELECT query_to_xml('TABLE x', true, false, '')",
    ],
)
def test_a_text_that_is_run_as_sql_is_refused_where_it_is_not_seen_through(sql: str) -> None:
    with pytest.raises(Refusal):
        plan(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT query_to_xml('SELECT * FROM plain', true, false, '')",
        "SELECT * FROM ts_stat('SELECT t FROM plain')",
        "SELECT ts_rewrite('a & b'::tsquery, 'a'::tsquery, $1::tsquery)",
        "SELECT * FROM crosstab('SELECT a, b, 1 FROM plain') AS t (a text)",
        "SELECT table_to_xml FROM plain",
    ],
)
def test_a_text_that_is_run_as_sql_and_names_nothing_protected_is_planned(sql: str) -> None:
    made = Planner().plan(sql.encode(), (), SessionContext("db", "app"), SNAPSHOT)
    assert all(s.free is None for s in made.statements), "no plan for other texts"


def test_the_names_of_such_functions_are_looked_for_in_every_text() -> None:
    watch = Planner().watch(SNAPSHOT)
    assert watch.hit(b"SELECT Query_To_Xml($1, true, true, '')")
    assert watch.hit(b"SELECT * FROM dblink($1) AS t (a int)")
    assert not watch.hit(b"SELECT a FROM plain WHERE b = $1")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE POLICY p ON plain USING (EXISTS (SELECT 1 FROM people WHERE email = 'x'))",
        "CREATE POLICY p ON plain WITH CHECK (a IN (SELECT lower(email) FROM people))",
        "CREATE POLICY p ON people USING (email = 'x')",
    ],
)
def test_a_policy_that_asks_for_a_protected_value_is_refused(sql: str) -> None:
    with pytest.raises(Refusal, match="POLICY"):
        plan(sql)


def test_a_policy_may_ask_a_protected_table_for_other_columns() -> None:
    assert plan("CREATE POLICY p ON plain USING (EXISTS (SELECT 1 FROM people WHERE id = a))")
