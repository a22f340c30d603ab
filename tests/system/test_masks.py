"""Three roles read one table: one in full, one masked, one nothing; by every protocol and format.
And what a value that does not open becomes, and how long padded values are."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.config.model import (
    ColumnConfig,
    PolicyRule,
)
from tests.parts.database import database
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system

COLUMNS = (
    ColumnConfig(column="public.people.email", type="text", ring="app", equality=True),
    ColumnConfig(column="public.people.card", type="varchar(19)", ring="app", pad="max"),
    ColumnConfig(column="public.people.age", type="int4", ring="app", on_error="null"),
)


def rule(who: str, what: str, effect: str, actions: str = "seal open", **more: str) -> PolicyRule:
    return PolicyRule.model_validate(
        {"principals": (f"postgres:{who}",), "resources": (f"column:*.{what}",), "effect": effect,
         "actions": tuple(actions.split())} | more
    )  # fmt: skip


RULES = (
    rule("app", "*", "allow"),
    rule("clerk", "email", "mask", "open", mask="email"),
    rule("clerk", "card", "mask", "open", mask="last4"),
    rule("clerk", "age", "mask", "open", mask="last4"),
    rule("guest", "email", "null", "open"),
    rule("guest", "card", "ciphertext", "open"),
)


class Place:
    def __init__(self, server: Postgres, port: int) -> None:
        self.server, self._port = server, port

    def connect(self, role: str, direct: bool = False) -> psycopg.Connection[Any]:
        port = self.server.port if direct else self._port
        return psycopg.connect(
            host="127.0.0.1", port=port, user=role, password=self.server.password, dbname="shop",
            autocommit=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with (
        database(COLUMNS) as made,
        Listening(made.config, lambda: software_keys(made.folder, policy=RULES)) as proxy,
    ):
        found = Place(made.server, proxy.port)
        with found.connect("app") as c:
            c.execute("CREATE TABLE people (id int, email text, card varchar(19), age int4)")
            c.execute(
                "INSERT INTO people VALUES (1, 'ada@example.org', '4111111111111111', 36),"
                " (2, NULL, NULL, NULL), (3, 'bob@example.org', '1', 5)"
            )
            for role in ("clerk", "guest"):
                c.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{made.server.password}'")
                c.execute(f"GRANT SELECT, INSERT, UPDATE ON people TO {role}")
        yield found


SQL = "SELECT email, card, age FROM people WHERE id <= 2 ORDER BY id"
EMPTY = (None, None, None)


@pytest.mark.parametrize("protocol", ["simple", "text", "binary", "prepared"])
def test_each_role_is_shown_its_own(place: Place, protocol: str) -> None:
    def read(role: str, sql: str = SQL) -> list[tuple[Any, ...]]:
        with place.connect(role) as c:
            if protocol == "simple":
                return psycopg.ClientCursor(c).execute(sql).fetchall()
            if protocol == "prepared":
                for _ in range(8):
                    rows = c.execute(sql, prepare=True).fetchall()
                return rows
            return c.cursor(binary=protocol == "binary").execute(sql).fetchall()

    assert read("app") == [("ada@example.org", "4111111111111111", 36), EMPTY]
    assert read("clerk") == [("a***@example.org", "************1111", None), EMPTY]
    guest = read("guest", "SELECT email, card FROM people WHERE id <= 2 ORDER BY id")
    assert guest[0][0] is None
    assert isinstance(guest[0][1], bytes), "the sealed form, as the server has it"
    assert guest[1] == (None, None)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        read("guest")  # no rule gives it the age


def test_returning_is_masked_too_and_a_masked_reader_cannot_search(place: Place) -> None:
    with place.connect("clerk") as c:
        row = c.execute("UPDATE people SET id = 1 WHERE id = 1 RETURNING email, card").fetchone()
        assert row == ("a***@example.org", "************1111")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute("SELECT id FROM people WHERE email = 'ada@example.org'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute("INSERT INTO people VALUES (9, 'x@y', '1', 1)")


def test_copies_cursors_and_prepared_statements_show_no_more(place: Place) -> None:
    """Each either masks as a query does, or is refused."""
    secret = (b"ada@", b"example.org", b"4111111111111111")
    inside = "SELECT email, card FROM people WHERE id = 1"
    ways = (
        ("COPY people TO STDOUT",), ("COPY people TO STDOUT (FORMAT binary)",),
        (f"COPY ({inside}) TO STDOUT (FORMAT csv)",),
        ("BEGIN", f"DECLARE c CURSOR FOR {inside}", "FETCH ALL FROM c", "COMMIT"),
        (f"PREPARE p AS {inside}", "EXECUTE p"),
        (f"WITH x AS ({inside}) SELECT * FROM x",),
        (f"{inside} UNION ALL {inside}",),
    )  # fmt: skip
    for role in ("clerk", "guest"):
        for statements in ways:
            shown = b""
            with place.connect(role) as c:
                try:
                    for sql in statements:
                        shown += _all_of(c, sql)
                except psycopg.Error as error:
                    assert error.sqlstate in ("0A000", "42501"), f"{role} {sql}: {error}"
            assert b"a***@example.org" in shown or b"example.org" not in shown, f"{role} {sql}"
            assert not any(s in shown for s in secret if s != b"example.org"), f"{role} {sql}"


def _all_of(c: psycopg.Connection[Any], sql: str) -> bytes:
    if sql.startswith("COPY"):
        with c.cursor().copy(sql) as copy:
            return b"".join(bytes(piece) for piece in copy)
    cur = psycopg.ClientCursor(c)
    cur.execute(sql)
    return repr(cur.fetchall()).encode() if cur.description else b""


def test_values_padded_to_the_maximum_are_of_one_length(place: Place) -> None:
    with place.connect("app", direct=True) as c:
        sizes = c.execute("SELECT DISTINCT octet_length(card) FROM people WHERE card IS NOT NULL")
        assert len(sizes.fetchall()) == 1


@pytest.mark.parametrize("binary", [False, True])
def test_a_value_that_does_not_open_is_null_where_that_was_asked_for(
    place: Place, binary: bool
) -> None:
    with place.connect("app", direct=True) as c:
        c.execute("ALTER TABLE people ADD COLUMN IF NOT EXISTS kept bytea")
        c.execute("UPDATE people SET kept = age WHERE id = 1")
        c.execute("UPDATE people SET age = set_byte(age, 60, get_byte(age, 60) # 1) WHERE id = 1")
    try:
        with place.connect("app") as c:
            read = c.cursor(binary=binary)
            rows = read.execute("SELECT email, age FROM people WHERE id IN (1, 3) ORDER BY id")
            assert rows.fetchall() == [("ada@example.org", None), ("bob@example.org", 5)]
    finally:
        with place.connect("app", direct=True) as c:
            c.execute("UPDATE people SET age = kept WHERE id = 1")
            c.execute("ALTER TABLE people DROP COLUMN kept")
