"""Defects that other column-encryption proxies had (facts of their issue lists), shown not to be here.

Each test is named after what a user of the other product saw. What is refused is refused with 0A000
and nothing of it reaches the server.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import pq

from proxy.config.model import (
    ColumnConfig,
    PostgresLimits,
)
from tests.differential.wire import Outcome, Side, state_of
from tests.parts.apart import Apart
from tests.parts.database import tapped_database
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system

COLUMNS = {
    "public.people.email": "text", "public.people.name": "varchar(40)", "public.orders.email": "text",
}  # fmt: skip


class Stand:
    def __init__(self, server: Postgres, proxy: Apart, tap: Tap) -> None:
        self.server, self.proxy, self.tap = server, proxy, tap
        self.dsn = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")

    def plain(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.server.dsn(), autocommit=True) as c:
            return list(c.execute(sql).fetchall())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    columns = tuple(
        ColumnConfig(column=c, type=t, ring="app", equality=True, domain=f"d.{t}")
        for c, t in COLUMNS.items()
    )
    limits = PostgresLimits(max_statements_per_session=50)
    with (
        tapped_database(columns, limits=limits) as (made, tap),
        Apart(made.config, made.folder) as proxy,
    ):
        yield Stand(made.server, proxy, tap)


@pytest.fixture
def side(stand: Stand) -> Iterator[Side]:
    made = Side(stand.dsn)
    for sql in (
        "DROP TABLE IF EXISTS people, orders",
        "DROP SCHEMA IF EXISTS other CASCADE",
        "CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, name varchar(40), plain text)",
        "CREATE TABLE orders (id int, email text)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.people (id int, email text)",
        "INSERT INTO people VALUES (1, 'one@x', 'One', 'p'), (2, 'two@x', 'Two', 'p'), (3, NULL, NULL, 'p')",
        "INSERT INTO orders VALUES (10, 'one@x'), (11, 'one@x'), (12, 'nobody@x')",
        "INSERT INTO other.people VALUES (7, 'clear@x')",
    ):  # fmt: skip
        error = made.simple(sql).error
        assert error is None, f"{sql}: {error}"
    yield made
    made.close()


def rows(outcome: Outcome) -> list[tuple[bytes | None, ...]]:
    assert outcome.error is None, outcome.error
    return sorted(outcome.answers[-1].rows, key=str)


def rows_or_refusal(outcome: Outcome) -> list[tuple[bytes | None, ...]] | None:
    """The rows; None where the statement was refused as documented."""
    if outcome.error is not None:
        assert outcome.error.sqlstate == "0A000", outcome.error
        return None
    return rows(outcome)


def extended(side: Side, sql: str, *values: bytes) -> pq.PGresult:
    side.conn.send_query_params(sql.encode(), list(values) or None)
    return side.last()  # type: ignore[no-any-return]


# ---- Acra ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", " WITH (FORMAT csv)"])
def test_copy_in_never_stores_clear_text(stand: Stand, side: Side, options: str) -> None:
    data = b"50,copied@x\n" if options else b"50\tcopied@x\n"
    state = side.copy_in(f"COPY people (id, email) FROM STDIN{options}", data, 3)
    assert state in ("", "0A000")
    assert b"copied@x" not in stand.tap.to_server
    if not state:
        assert rows(side.simple("SELECT email FROM people WHERE id = 50")) == [(b"copied@x",)]


def test_copy_out_is_opened_or_refused_never_raw(side: Side) -> None:
    data, state = side.copy_out("COPY people (id, email) TO STDOUT")
    assert state in ("", "0A000")
    assert sorted(data.splitlines()) == ([] if state else [b"1\tone@x", b"2\ttwo@x", b"3\t\\N"])


def test_on_conflict_seals_what_it_writes(stand: Stand, side: Side) -> None:
    sql = "INSERT INTO people (id, email) VALUES (1, 'upsert@x') ON CONFLICT (id) DO UPDATE SET email = "
    for value in ("excluded.email", "'upsert2@x'"):
        assert side.simple(sql + value).error is None
    assert rows(side.simple("SELECT email FROM people WHERE id = 1")) == [(b"upsert2@x",)]
    assert b"upsert" not in stand.tap.to_server


def test_one_parameter_as_value_and_operand(stand: Stand, side: Side) -> None:
    sql = "UPDATE people SET email = $1, name = $1 WHERE email = $1"
    assert extended(side, sql, b"one@x").command_status == b"UPDATE 1"
    assert rows(side.simple("SELECT email, name FROM people WHERE id = 1")) == [
        (b"one@x", b"one@x")
    ]


def test_an_index_panic_of_execute_with_arguments(side: Side) -> None:
    """Acra #743: EXECUTE p(true, 'x') ended the session."""
    side.simple("PREPARE p (bool, text) AS SELECT id FROM people WHERE $1 AND email = $2")
    for call in ("p(true, 'one@x')", "p(true,'x')", "p()", "p(1,2,3)", "nowhere(1)", "p"):
        side.simple(f"EXECUTE {call}")
    assert rows(side.simple("SELECT 1")) == [(b"1",)]


@pytest.mark.parametrize(
    "call",
    ["substr()", "substr(email)", "count()", "coalesce()", "email()", "any_value()", "nullif(email)",
     "unnest()", "row_number() OVER ()", "array_agg(DISTINCT)", "lower(email, email, email)", "greatest()"],
)  # fmt: skip
def test_odd_calls_do_not_end_the_session(side: Side, call: str) -> None:
    """Acra #745: substr() without arguments did."""
    for sql in (f"SELECT {call} FROM people", f"SELECT id FROM people WHERE {call} = 'x'"):
        side.simple(sql)
        extended(side, sql)
    assert rows(side.simple("SELECT count(*) FROM people")) == [(b"3",)]


def test_a_statement_name_is_used_again_for_another_statement(side: Side) -> None:
    for sql, found in (
        ("SELECT email FROM people WHERE id = 1", b"one@x"),
        ("SELECT plain FROM people WHERE id = 1", b"p"),
        ("SELECT name FROM people WHERE id = 1", b"One"),
    ):
        for name in (b"", b"again"):
            if name:
                side.simple("DEALLOCATE ALL")
            side.conn.send_prepare(name, sql.encode())
            assert state_of(side.last()) == ""
            side.conn.send_query_prepared(name, None)
            assert side.last().get_value(0, 0) == found, f"{sql} as {name!r}"


def test_the_text_of_every_row_is_not_parsed_again(side: Side) -> None:
    """A result's cost grows with its rows, not with rows times statement: a long statement is as fast."""
    long = "SELECT email FROM people, generate_series(1, 5000) WHERE id = 1" + " AND 1 = 1" * 500
    assert len(rows(side.simple(long))) == 5000


def test_star_needs_no_list_of_columns_in_an_order(side: Side) -> None:
    assert rows(side.simple("SELECT * FROM people WHERE id = 1")) == [
        (b"1", b"one@x", b"One", b"p")
    ]


def test_several_statements_in_one_text(stand: Stand, side: Side) -> None:
    sql = "SELECT 0; INSERT INTO people (id, email) VALUES (60, 'multi@x'); SELECT 1"
    assert side.simple(sql).error is None
    assert b"multi@x" not in stand.tap.to_server
    assert rows(side.simple("SELECT email FROM people WHERE id = 60; ")) == [(b"multi@x",)]


# ---- CipherStash ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [
    "SELECT upper(email) FROM people", "UPDATE people SET email = email || 'x'",
    "INSERT INTO people (id, email) VALUES (70, random()::text)", "SELECT people FROM people",
    "INSERT INTO people (id, email) SELECT 71, plain FROM people",
])  # fmt: skip
def test_what_is_not_understood_is_never_forwarded(side: Side, sql: str) -> None:
    error = side.simple(sql).error
    assert error is not None and error.sqlstate == "0A000"


def test_no_setting_turns_protection_off(stand: Stand, side: Side) -> None:
    for sql in ("SET CIPHERSTASH.UNSAFE_DISABLE_MAPPING = true", "SET sealgate.disable = on"):
        side.simple(sql)
    assert side.simple("INSERT INTO people (id, email) VALUES (72, 'unsafe@x')").error is None
    assert b"unsafe@x" not in stand.tap.to_server


def test_the_same_table_name_in_two_schemas(side: Side) -> None:
    assert rows(side.simple("SELECT email FROM other.people")) == [(b"clear@x",)]
    side.simple("SET search_path = other, public")
    assert rows(side.simple("SELECT email FROM people")) == [(b"clear@x",)]
    assert rows(side.simple("SELECT email FROM public.people WHERE email = 'one@x'")) == [
        (b"one@x",)
    ]
    side.simple("BEGIN; SET LOCAL search_path = public")
    assert rows(side.simple("SELECT email FROM people WHERE id = 2")) == [(b"two@x",)]
    side.simple("ROLLBACK")
    assert rows(side.simple("SELECT email FROM people")) == [(b"clear@x",)]


def test_join_using_is_right_or_refused_never_empty(side: Side) -> None:
    for join in ("JOIN orders USING (email)", "NATURAL JOIN (SELECT email, id AS o FROM orders) x"):
        found = rows_or_refusal(side.simple(f"SELECT people.id FROM people {join}"))
        assert found in (None, [(b"1",), (b"1",)])


@pytest.mark.parametrize(("operation", "count"), [("UNION", 3), ("INTERSECT", 1), ("EXCEPT", 1)])
def test_set_operations_compare_values_not_ciphertexts(
    side: Side, operation: str, count: int
) -> None:
    sql = (f"SELECT email FROM people WHERE email IS NOT NULL {operation} "
           "SELECT email FROM orders")  # fmt: skip
    found = rows_or_refusal(side.simple(sql))
    assert found is None or len(found) == count, found


def test_count_distinct_group_by_and_distinct_compare_values(side: Side) -> None:
    assert rows(side.simple("SELECT count(DISTINCT email) FROM orders")) == [(b"2",)]
    assert rows(side.simple("SELECT DISTINCT email FROM orders")) == [(b"nobody@x",), (b"one@x",)]
    found = rows(side.simple("SELECT email, count(*) FROM orders GROUP BY email"))
    assert found == [(b"nobody@x", b"1"), (b"one@x", b"2")]


def test_a_window_over_the_column_sorts_no_ciphertext(side: Side) -> None:
    error = side.simple("SELECT row_number() OVER (ORDER BY email) FROM people").error
    assert error is not None and error.sqlstate == "0A000"
    found = rows_or_refusal(
        side.simple("SELECT id, count(*) OVER (PARTITION BY email) FROM orders")
    )
    assert found in (None, [(b"10", b"2"), (b"11", b"2"), (b"12", b"1")])


def test_every_row_is_checked_not_the_first_only(stand: Stand, side: Side) -> None:
    with psycopg.connect(stand.server.dsn(), autocommit=True) as c:  # name's value into email
        c.execute("UPDATE people SET email = name WHERE id = 2")
    error = side.simple("SELECT id, email FROM people ORDER BY id").error
    assert error is not None and error.sqlstate == "XX001"


def test_a_ciphertext_of_a_client_is_a_plaintext(stand: Stand, side: Side) -> None:
    """CipherStash #458: what looks like a sealed value is sealed like any other."""
    ((stored,),) = stand.plain("SELECT encode(email, 'hex') FROM people WHERE id = 1")
    assert side.simple(f"INSERT INTO people (id, email) VALUES (80, '\\x{stored}')").error is None
    assert rows(side.simple("SELECT email FROM people WHERE id = 80")) == [
        (f"\\x{stored}".encode(),)
    ]


async def test_replies_never_overtake_each_other(stand: Stand, side: Side) -> None:
    with psycopg.connect(stand.dsn, autocommit=True) as c, c.pipeline() as p:
        cursors = []
        for i in range(200):
            sql = ["SELECT %s::int", "SELECT id FROM people WHERE email = 'one@x' AND %s >= 0"][
                i % 2
            ]
            cursors.append(c.execute(sql, [i]))
        p.sync()
        found = [cursor.fetchone()[0] for cursor in cursors]  # type: ignore[index]
    assert found == [1 if i % 2 else i for i in range(200)]


def test_a_refusal_in_a_pipeline_comes_in_its_place(stand: Stand, side: Side) -> None:
    with psycopg.connect(stand.dsn, autocommit=True) as c:
        with pytest.raises(psycopg.errors.FeatureNotSupported), c.pipeline() as p:
            first = c.execute("SELECT pg_sleep(0.2), 1")
            c.execute("SELECT upper(email) FROM people")
            c.execute("SELECT 2")
            p.sync()
        assert first.fetchone() == ("", 1)


def test_statements_do_not_pile_up(stand: Stand, side: Side) -> None:
    """CipherStash #395, #400: a map that grew with every statement."""
    for i in range(60):
        side.conn.send_prepare(b"s%d" % i, b"SELECT email FROM people WHERE email = $1")
        state = state_of(side.last())
        assert state in ("", "53400", "54000", "0A000"), state
    assert state, "a session has a limit of prepared statements"
    assert rows(side.simple("SELECT 1")) == [(b"1",)]
    before = _resident(stand.proxy.pid)
    for i in range(4000):
        side.simple(f"SELECT id FROM people WHERE email = 'v{i}'")
    assert _resident(stand.proxy.pid) - before < 40 * 2**20


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- others --------------------------------------------------------------------------------------


async def test_rows_are_opened_without_a_row_description(stand: Stand, side: Side) -> None:
    """A driver describes once and then only binds and executes, over and over; pgjdbc does so after
    five uses (keycloak-kms-proxy built its decrypt plan from RowDescription, and leaked ciphertext)."""
    server, port = stand.server, stand.proxy.port
    c = await asyncpg.connect(
        host="127.0.0.1", port=port, user=server.user, password=server.password,
        database=server.database,
    )  # fmt: skip
    try:
        statement = await c.prepare("SELECT email FROM people WHERE id = $1")
        assert [await statement.fetchval(1) for _ in range(8)] == ["one@x"] * 8
    finally:
        await c.close()


def test_the_limit_of_a_portal_keeps_its_rows_opened(stand: Stand, side: Side) -> None:
    with psycopg.connect(stand.dsn) as c, c.cursor() as cursor:
        found = [row[0] for row in cursor.stream("SELECT email FROM people ORDER BY id", size=1)]
    assert found == ["one@x", "two@x", None]
