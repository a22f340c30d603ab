"""Temporary tables, which the server finds before those of the schema."""

import secrets
from collections.abc import Iterator

import pytest

from proxy.config.model import ColumnConfig
from tests.parts.tapped import Tapped, tapped

pytestmark = pytest.mark.system

HIDE = "DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE peop' || 'le (id int, email text)'; END $$"
EMAIL = ColumnConfig(column="public.people.email", type="text", ring="app", equality=True)


@pytest.fixture(scope="module")
def stand() -> Iterator[Tapped]:
    with tapped((EMAIL,)) as made:
        assert made.state("CREATE TABLE people (id serial, email text)") == ""
        assert made.state("CREATE TABLE plain (id int, email text)") == ""
        assert made.state("INSERT INTO people (email) VALUES ('a')") == ""
        yield made


@pytest.fixture(autouse=True)
def afterwards(stand: Tapped) -> Iterator[None]:
    yield
    stand.side.simple("ROLLBACK")
    stand.side.simple("DISCARD TEMP")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMP TABLE people (email text)",
        "CREATE TABLE pg_temp.people (email text)",
        "CREATE TABLE pg_temp.people AS SELECT 'x'::text AS email",
        "EXPLAIN ANALYZE CREATE TEMP TABLE people AS SELECT 1",
        "SELECT 'x'::text AS email INTO TEMP people",
        "SELECT 'x'::text AS email INTO pg_temp.people",
        "CREATE TEMP VIEW people AS SELECT 'x'::text AS email",
        "CREATE VIEW pg_temp.people AS SELECT 'x'::text AS email",
        "CREATE TEMP SEQUENCE people",
        "ALTER TABLE other RENAME TO people",
        "ALTER TABLE pg_temp.other RENAME TO people",
    ],
)
def test_none_gets_the_name_of_a_protected_table(stand: Tapped, sql: str) -> None:
    assert stand.state("CREATE TEMP TABLE other (email text)") == ""
    assert stand.state(sql) == "0A000"


def test_one_that_a_function_made_is_not_taken_for_the_protected_table(stand: Tapped) -> None:
    assert stand.state(HIDE) == ""
    assert stand.state("INSERT INTO people (email) VALUES ('b')") == "0A000"
    assert stand.state("SELECT * FROM people") == "0A000"
    assert stand.one("SELECT email FROM public.people") == b"a"
    assert stand.state("DROP TABLE pg_temp.people") == ""
    assert stand.one("SELECT email FROM people") == b"a"


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
def test_it_is_forgotten_with_its_transaction(stand: Tapped, end: str) -> None:
    stand.side.simple("BEGIN")
    stand.side.simple(HIDE.replace("text)", "text) ON COMMIT DROP"))
    assert stand.state("SELECT * FROM public.people") == ""
    stand.side.simple(end)
    assert stand.one("SELECT email FROM people") == b"a"


def test_it_is_forgotten_with_discard(stand: Tapped) -> None:
    stand.side.simple(HIDE)
    assert stand.state("SELECT * FROM people") == "0A000"
    stand.side.simple("DISCARD TEMP")
    assert stand.one("SELECT email FROM people") == b"a"


@pytest.mark.parametrize(
    "create", ["CREATE TEMP TABLE plain (x int)", "SELECT 1 AS x INTO TEMP plain"]
)
def test_a_value_is_not_sent_by_the_columns_of_a_table_that_is_hidden(
    stand: Tapped, create: str
) -> None:
    """plain.email would be meant, were plain the schema's; it is people's."""
    canary = "canary" + secrets.token_hex(9)
    asked = (
        f"SELECT count(*) FROM people WHERE EXISTS (SELECT 1 FROM plain WHERE email = '{canary}')"
    )
    assert stand.state(create) == ""
    assert stand.state(asked) == "0A000"
    assert not stand.sent(canary)
    assert stand.state("DROP TABLE plain") == ""
    assert stand.one(asked) == b"0"


def test_temporary_tables_serve_as_ever(stand: Tapped) -> None:
    assert stand.state("CREATE TEMP TABLE ids AS SELECT id FROM people") == ""
    assert stand.state("INSERT INTO ids VALUES (77)") == ""
    assert stand.one("SELECT p.email FROM people p JOIN ids i ON i.id = p.id") == b"a"
