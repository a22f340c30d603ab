"""psql, asyncpg, psycopg 3 and SQLAlchemy on one protected table, against what the server holds."""

import datetime as dt
import decimal
import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from tests.parts.stack import PEOPLE, Stack

pytestmark = pytest.mark.system

CANARY = "canary-0b5c1e7a@example.org"
ROW = {
    "name": "Ada Łovelace",
    "email": CANARY,
    "age": 36,
    "born": dt.date(1815, 12, 10),
    "seen": dt.datetime(2026, 11, 24, 2, 15, 52, 123456, tzinfo=dt.UTC),
    "balance": decimal.Decimal("1234567.80"),
    "member": True,
    "token": uuid.UUID("6d1cbb41-2f1c-4f7e-9a4b-3b0d3e6b8f11"),
    "photo": b"\x00\xffcanary-photo\x01",
}
COLUMNS = ", ".join(ROW)
DECLARED = ", ".join(f"{name} {kind}" for name, (kind, _) in PEOPLE.items())
CREATE = f"CREATE TABLE people (id serial PRIMARY KEY, {DECLARED}, note text)"


@pytest.fixture
def people(stack: Stack) -> Iterator[Stack]:
    with psycopg.connect(stack.dsn(), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS people")
        c.execute(CREATE)
    stack.pg_tap.clear()
    yield stack


def raw_rows(stack: Stack) -> list[tuple[object, ...]]:
    with psycopg.connect(stack.dsn(stack.postgres.port)) as c:
        return c.execute(f"SELECT {COLUMNS} FROM people").fetchall()


def assert_sealed(stack: Stack) -> None:
    """The server holds sealed values only, and no canary ever went to it."""
    rows = raw_rows(stack)
    assert rows
    for row in rows:
        for value in row:
            assert value is None or (isinstance(value, bytes) and value[:2] == b"\xc5\x01")
    for plain in (CANARY.encode(), b"canary-photo", b"ovelace", CANARY.encode().hex().encode()):
        assert plain not in stack.pg_tap.to_server
    stack.proxy.assert_not_in_logs(CANARY)
    with urllib.request.urlopen(f"{stack.admin}/metrics", timeout=5) as answer:
        assert CANARY.encode() not in answer.read()


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_psycopg_reads_what_it_wrote(people: Stack, binary: bool) -> None:
    marks = ", ".join(["%s"] * len(ROW))
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        cur = c.cursor(binary=binary)
        cur.execute(
            f"INSERT INTO people ({COLUMNS}) VALUES ({marks}) RETURNING {COLUMNS}",
            list(ROW.values()),
        )
        assert cur.fetchone() == tuple(ROW.values())
        cur.execute(f"SELECT {COLUMNS} FROM people WHERE email = %s", [CANARY])
        assert cur.fetchall() == [tuple(ROW.values())]
        cur.execute("SELECT * FROM people")
        assert cur.description is not None
        assert [d.name for d in cur.description] == ["id", *ROW, "note"]
        cur.execute("SELECT age FROM people WHERE email = %s", ["nobody@example.org"])
        assert cur.fetchall() == []
        cur.execute("UPDATE people SET age = %s WHERE email = %s", [37, CANARY])
        assert cur.rowcount == 1
        cur.execute("SELECT age FROM people WHERE email = %s", [CANARY])
        assert cur.fetchone() == (37,)
    assert_sealed(people)


def test_psycopg_pipeline_and_server_side_prepare(people: Stack) -> None:
    with psycopg.connect(people.dsn(), autocommit=True, prepare_threshold=1) as c:
        with c.pipeline():
            for i in range(20):
                c.execute("INSERT INTO people (email, age) VALUES (%s, %s)", [f"p{i}@x.org", i])
            found = [
                c.execute("SELECT age FROM people WHERE email = %s", [f"p{i}@x.org"])
                for i in range(20)
            ]
        assert [f.fetchone() for f in found] == [(i,) for i in range(20)]


async def test_asyncpg_reads_what_it_wrote(people: Stack) -> None:
    c = await asyncpg.connect(_url(people), ssl=False)
    try:
        marks = ", ".join(f"${i + 1}" for i in range(len(ROW)))
        sql = f"INSERT INTO people ({COLUMNS}) VALUES ({marks})"
        await c.execute(sql, *ROW.values())
        more = [list((ROW | {"email": f"a{i}@x.org"}).values()) for i in range(50)]
        await c.executemany(sql, more)
        row = await c.fetchrow("SELECT * FROM people WHERE email = $1", CANARY)
        assert row is not None
        assert {k: row[k] for k in ROW} == ROW
        assert await c.fetchval("SELECT count(*) FROM people") == 51
        found = await c.fetch(
            "SELECT email FROM people WHERE email = ANY($1)", ["a1@x.org", "a2@x.org", "none"]
        )
        assert sorted(r["email"] for r in found) == ["a1@x.org", "a2@x.org"]
    finally:
        await c.close()
    assert_sealed(people)


def _url(stack: Stack, driver: str = "postgresql", port: int | None = None) -> str:
    pg = stack.postgres
    return f"{driver}://{pg.user}:{pg.password}@127.0.0.1:{port or stack.pg_port}/{pg.database}"


def test_sqlalchemy_creates_fills_searches_and_reads(stack: Stack) -> None:
    with psycopg.connect(stack.dsn(), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS people")
    stack.pg_tap.clear()
    meta = sa.MetaData()
    table = sa.Table(
        "people",
        meta,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("email", sa.Text, unique=True),
        sa.Column("age", sa.Integer),
        sa.Column("born", sa.Date),
        sa.Column("seen", sa.DateTime(timezone=True)),
        sa.Column("balance", sa.Numeric(12, 2)),
        sa.Column("member", sa.Boolean),
        sa.Column("token", sa.Uuid),
        sa.Column("photo", sa.LargeBinary),
        sa.Column("note", sa.Text),
    )
    engine = sa.create_engine(_url(stack, "postgresql+psycopg"))
    try:
        meta.create_all(engine, checkfirst=False)
        with engine.begin() as c:
            c.execute(table.insert(), [ROW, ROW | {"email": "second@x.org", "age": None}])
        with engine.connect() as c:
            row = c.execute(sa.select(table).where(table.c.email == CANARY)).one()
            assert {k: getattr(row, k) for k in ROW} == ROW
            many = c.execute(sa.select(table.c.age).where(table.c.email.in_([CANARY, "x"])))
            assert many.all() == [(36,)]
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as c:
            c.execute(table.insert(), [ROW])
    finally:
        engine.dispose()
    assert_sealed(stack)


def psql(stack: Stack, *commands: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("psql")
    if binary is None:
        pytest.skip("psql is not installed")
    argv = [binary, "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", stack.dsn(port)]
    for command in commands:
        argv += ["-c", command]
    return subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )


def test_psql_literals_in_and_out(people: Stack) -> None:
    done = psql(
        people,
        "INSERT INTO people (email, age, born, balance, member) VALUES "
        f"('{CANARY}', 36, '1815-12-10', 1234.5, true), ('it''s', -1, NULL, NULL, false)",
        f"SELECT email, age, born, balance, member FROM people WHERE email = '{CANARY}'",
        "SELECT email, age, member FROM people WHERE email = 'it''s'",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert f"{CANARY}|36|1815-12-10|1234.50|t" in lines
    assert "it's|-1|f" in lines
    assert_sealed(people)


def test_equality_search_uses_the_index(people: Stack) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute("CREATE INDEX people_email ON people (email)")
        c.cursor().executemany(
            "INSERT INTO people (email) VALUES (%s)", [(f"u{i}@x.org",) for i in range(2000)]
        )
        c.execute("ANALYZE people")
        plan = c.execute("EXPLAIN SELECT age FROM people WHERE email = 'u77@x.org'").fetchall()
    assert any("people_email" in line for (line,) in plan), plan


def test_join_on_columns_of_one_domain(people: Stack) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS orders")
        c.execute("CREATE TABLE orders (id int, email text)")
        c.execute("INSERT INTO people (email, age) VALUES (%s, 5)", [CANARY])
        c.execute("INSERT INTO orders VALUES (1, %s), (2, 'other@x.org')", [CANARY])
        rows = c.execute(
            "SELECT o.id, p.email, p.age FROM orders o JOIN people p ON p.email = o.email"
        ).fetchall()
    assert rows == [(1, CANARY, 5)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT upper(email) FROM people",
        "SELECT * FROM people ORDER BY email",
        "SELECT * FROM people WHERE email LIKE 'a%'",
        "SELECT * FROM people WHERE born > '2000-01-01'",
        "SELECT row_to_json(people) FROM people",
        "UPDATE people SET email = email || 'x'",
        "INSERT INTO people (email) SELECT note FROM people",
        "SELECT email__bx FROM people",
        "DO $$ BEGIN UPDATE people SET email = 'x'; END $$",
        "COPY people (email) FROM '/tmp/people'",
        "SELECT * FROM people WHERE age = 36",  # no equality search on age
        "CREATE VIEW v AS SELECT upper(email) FROM people",
        "SELECT email::bytea FROM people",
        "MERGE INTO people USING orders ON people.email < 'x' WHEN NOT MATCHED THEN DO NOTHING",
    ],
)
def test_what_is_not_provably_handled_is_refused(people: Stack, sql: str) -> None:
    with psycopg.connect(people.dsn()) as c:
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            c.execute(sql)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            c.execute("SELECT 1")
        c.rollback()
        assert c.execute("SELECT 1").fetchone() == (1,)


def test_a_refusal_in_a_pipeline_aborts_what_came_before(people: Stack) -> None:
    with psycopg.connect(people.dsn()) as c, pytest.raises(psycopg.Error), c.pipeline():
        c.execute("INSERT INTO people (email) VALUES ('before@x.org')")
        c.execute("SELECT upper(email) FROM people")
        c.execute("INSERT INTO people (email) VALUES ('after@x.org')")
        c.commit()
    with psycopg.connect(people.dsn()) as c:
        assert c.execute("SELECT count(*) FROM people").fetchone() == (0,)


TAMPER = {
    "a bit of the ciphertext": "set_byte(email, octet_length(email)-20, get_byte(email, "
    "octet_length(email)-20) # 1)",
    "a bit of the authentication tag": "set_byte(email, octet_length(email)-1, get_byte(email, "
    "octet_length(email)-1) # 1)",
    "the equality tag": "set_byte(email, 5, get_byte(email, 5) # 1)",
    "the key id": "set_byte(email, 20, get_byte(email, 20) # 1)",
    "the nonce": "set_byte(email, 30, get_byte(email, 30) # 1)",
    "the flags": "set_byte(email, 2, get_byte(email, 2) # 1)",
    "the end cut off": "substring(email from 1 for octet_length(email)-1)",
    "another column's value": "name",
}


@pytest.mark.parametrize("what", TAMPER)
def test_tampered_value_is_an_error_and_the_session_survives(people: Stack, what: str) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute("INSERT INTO people (email, name, age) VALUES (%s, %s, 1)", [CANARY, CANARY])
        with psycopg.connect(people.dsn(people.postgres.port), autocommit=True) as raw:
            raw.execute(f"UPDATE people SET email = {TAMPER[what]}")
        with pytest.raises(psycopg.errors.DataCorrupted) as caught:
            c.execute("SELECT email FROM people").fetchall()
        assert CANARY not in str(caught.value)
        assert c.execute("SELECT name, age FROM people").fetchone() == (CANARY, 1)


def test_a_comparison_does_not_round(people: Stack) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute("INSERT INTO people (balance) VALUES (1.005)")  # stored as 1.01
        for text, count in (("1.005", 0), ("1.01", 1), ("1.010", 1)):
            rows = c.execute(f"SELECT balance FROM people WHERE balance = {text}").fetchall()
            assert len(rows) == count


def test_a_date_is_read_in_the_order_of_the_session(people: Stack) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute("SET DateStyle = 'ISO, DMY'")
        c.execute("INSERT INTO people (born) VALUES (%s)", ["02/03/2001"])
        c.execute("INSERT INTO people (born) VALUES ('02/03/2001')")
        rows = c.execute("SELECT born FROM people").fetchall()
    assert rows == [(dt.date(2001, 3, 2),)] * 2


def test_the_database_itself_refuses_a_plaintext(people: Stack) -> None:
    with (
        psycopg.connect(people.dsn(people.postgres.port), autocommit=True) as raw,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        raw.execute("INSERT INTO people (email) VALUES ('plain@example.org')")


@pytest.mark.parametrize(
    ("column", "text", "error"),
    [
        ("age", "abc", psycopg.errors.InvalidTextRepresentation),
        ("age", "99999999999", psycopg.errors.NumericValueOutOfRange),
        ("born", "not a day", psycopg.errors.InvalidDatetimeFormat),
        ("token", "zz", psycopg.errors.InvalidTextRepresentation),
        ("balance", "99999999999999", psycopg.errors.NumericValueOutOfRange),
        ("member", "perhaps", psycopg.errors.InvalidTextRepresentation),
    ],
)
def test_bad_input_gets_the_servers_own_sqlstate(
    people: Stack, column: str, text: str, error: type[psycopg.Error]
) -> None:
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        with pytest.raises(error):
            c.execute(f"INSERT INTO people ({column}) VALUES (%s)", [text])
        with pytest.raises(error):
            c.execute(f"INSERT INTO people ({column}) VALUES ('{text}')")
        assert c.execute("SELECT count(*) FROM people").fetchone() == (0,)


def test_unprotected_statements_go_through_byte_for_byte(people: Stack) -> None:
    odd = "SELECT /* ünïcode */ 'a''b' AS \"Q\",E'\\n', $$x$$  ; -- end"
    with psycopg.connect(people.dsn(), autocommit=True) as c:
        c.execute(odd.encode(), prepare=False)
    assert odd.encode() in people.pg_tap.to_server
