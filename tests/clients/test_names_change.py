"""A prepared statement is analysed anew by the server when search_path or the schema change: what
named an unprotected namesake at Parse must not reach the protected table in clear."""

import psycopg
import pytest

from tests.parts.stack import Stack

pytestmark = pytest.mark.system
CANARY = "canary-namesake-51c7@example.org"


@pytest.fixture
def tables(stack: Stack):
    with psycopg.connect(stack.dsn(), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS people")
        c.execute("CREATE TABLE people (id int, email text)")
        c.execute("DROP SCHEMA IF EXISTS other CASCADE")
        c.execute("CREATE SCHEMA other CREATE TABLE people (id int, email text)")
        yield c
        c.execute("DROP SCHEMA IF EXISTS other CASCADE")


def prepare(c: psycopg.Connection) -> None:
    """By libpq: psycopg itself prepares anew after some commands."""
    sql = b"INSERT INTO people (id, email) VALUES (1, $1)"
    assert c.pgconn.prepare(b"st", sql).status == psycopg.pq.ExecStatus.COMMAND_OK


def insert(c: psycopg.Connection, value: str) -> tuple[bytes | None, bytes]:
    """SQLSTATE and message."""
    result = c.pgconn.exec_prepared(b"st", [value.encode()])
    return result.error_field(psycopg.pq.DiagnosticField.SQLSTATE), result.error_message


@pytest.mark.parametrize(
    "change",
    [
        "SET search_path = public",
        "SELECT set_config('search_path', 'public', false)",
        "DO $$ BEGIN EXECUTE 'SET sea' || 'rch_path = public'; END $$",
        "DROP TABLE other.people",
        "ALTER TABLE other.people RENAME TO gone",
    ],
)
def test_a_prepared_insert_does_not_follow_the_name_to_the_protected_table(
    stack: Stack, tables: psycopg.Connection, change: str
) -> None:
    c = tables
    c.execute("SET search_path = other, public")
    prepare(c)
    assert insert(c, "harmless")[0] is None
    c.execute(change)
    state, message = insert(c, CANARY)
    assert (state, b"means something else" in message) == (b"0A000", True), message
    assert CANARY.encode() not in stack.pg_tap.to_server
    assert c.execute("SELECT count(*) FROM public.people").fetchone() == (0,)


def test_a_statement_that_still_means_the_same_goes_on(tables: psycopg.Connection) -> None:
    c = tables
    prepare(c)
    assert insert(c, "a")[0] is None
    c.execute("SET search_path = public, other")
    c.execute("CREATE TABLE other.unrelated (id int)")
    assert insert(c, "b")[0] is None
    assert c.execute("SELECT count(*) FROM people WHERE email IN ('a', 'b')").fetchone() == (2,)


def test_a_statement_prepared_by_sql_does_not_follow_the_name_either(
    stack: Stack, tables: psycopg.Connection
) -> None:
    c = tables
    c.execute("SET search_path = other, public")
    c.execute("PREPARE s2 (text) AS INSERT INTO people (email) VALUES ($1)")
    c.execute("EXECUTE s2 ('harmless')")
    c.execute("SET search_path = public")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="means something else"):
        c.execute(f"EXECUTE s2 ('{CANARY}')")
    assert CANARY.encode() not in stack.pg_tap.to_server
