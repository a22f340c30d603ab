"""COPY on a protected table against the same COPY on a plain one, direct: same bytes, same errors."""

import asyncio
import io
import os
import select
import subprocess
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg.types.string import TextLoader

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system

COLUMNS = {
    "email": ("text", True), "age": ("int4", False), "code": ("varchar(5)", False),
    "member": ("bool", False), "born": ("date", False), "photo": ("bytea", False),
}  # fmt: skip
TABLE = (
    "CREATE TABLE {} (id int, email text, note text DEFAULT 'n/a', age int4, code varchar(5), member bool,"
    " born date, photo bytea)"
)
ROW = ["1", "a@b", "hello", "42", "abcde", "t", "2001-02-03", "\\\\x00ff"]


@pytest.fixture(scope="module")
def stack():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        with Tap("127.0.0.1", server.port) as tap:
            columns = [
                ColumnConfig(column=f"public.people.{n}", type=t, ring="app", equality=e)
                for n, (t, e) in COLUMNS.items()
            ]
            columns.append(ColumnConfig(column="public.one.word", type="text", ring="app"))
            config = PostgresConfig(
                listen=Address(),
                upstream=Address(port=tap.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=tuple(columns),
            )
            with Listening(config, lambda: software_keys(Path(folder))) as proxy:
                through = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
                with (
                    psycopg.connect(through, autocommit=True) as sealed,
                    psycopg.connect(server.dsn(), autocommit=True) as plain,
                ):
                    for c in (sealed, plain):
                        c.adapters.register_loader("date", TextLoader)  # has no BC, no infinity
                    sealed.execute(TABLE.format("people"))
                    plain.execute(TABLE.format("people_plain"))
                    sealed.execute("CREATE TABLE one (word text)")
                    plain.execute("CREATE TABLE one_plain (word text)")
                    yield sealed, plain, tap, through
        server.stop()


def copy_in(c: psycopg.Connection, sql: str, data: bytes, step: int = 1 << 20) -> object:
    """None, or (SQLSTATE, message, place) of the error."""
    try:
        with c.cursor().copy(sql) as copy:
            for i in range(0, len(data), step):
                copy.write(data[i : i + step])
    except psycopg.Error as error:
        place = (error.diag.context or "").split(": ")[0]
        message = (error.diag.message_primary or "").replace("_plain", "")
        return error.sqlstate, message, place.replace("_plain", "")
    return None


def copy_out(c: psycopg.Connection, sql: str) -> bytes:
    with c.cursor().copy(sql) as copy:
        return b"".join(bytes(part) for part in copy)


def both_in(stack, table: str, rest: str, data: bytes, step: int = 1 << 20) -> object:
    """The same COPY into the sealed and the plain table; both must end and be filled alike."""
    sealed, plain, *_ = stack
    sealed.execute(f"TRUNCATE {table}")
    plain.execute(f"TRUNCATE {table}_plain")
    expected = copy_in(plain, f"COPY {table}_plain {rest}", data, step)
    got = copy_in(sealed, f"COPY {table} {rest}", data, step)
    assert got == expected
    rows = sealed.execute(f"SELECT * FROM {table}").fetchall()
    assert rows == plain.execute(f"SELECT * FROM {table}_plain").fetchall()
    return expected or len(rows)


def line(*cells: str) -> str:
    return "\t".join(cells) + "\n"


GOOD = {
    "plain": ("FROM STDIN", line(*ROW) * 3),
    "nulls": ("FROM STDIN", line("2", *["\\N"] * 7)),
    "escapes": ("FROM STDIN", line("1", "a\\tb\\\\c\\n\\x41\\101d", *ROW[2:])),
    "odd escapes": ("FROM STDIN", line("1", "\\q\\\td\\\ne\\xZ\\8", *ROW[2:])),
    "no newline at the end": ("FROM STDIN", line(*ROW) + "\t".join(ROW)),
    "crlf": ("FROM STDIN", (line(*ROW) * 2).replace("\n", "\r\n")),
    "cr": ("FROM STDIN", (line(*ROW) * 2).replace("\n", "\r")),
    "end marker": ("FROM STDIN", line(*ROW) + "\\.\n" + "what follows is not looked at"),
    "other null": ("FROM STDIN (NULL 'none')", line("1", "none", *ROW[2:])),
    "old syntax": ("FROM STDIN WITH DELIMITER AS '|' NULL AS ''", "|".join(["1", "", *ROW[2:]])),
    "default": ("(id, note, email) FROM STDIN (DEFAULT 'D')", "1\tD\tE\n2\tx\ty\n"),
    "columns": ("(age, email) FROM STDIN", "5\tx\n\\N\ty\n"),
    "where": ("FROM STDIN WHERE email = 'a@b' OR id > 5", line(*ROW) + line("2", "c@d", *ROW[2:])),
    "odd numbers": ("FROM STDIN", line("1", "x", "n", " -7 ", "a", "yes", "Jan 5 1999", "abc")),
    "not ascii": ("FROM STDIN", line("1", "Grüße 😀", "ß", "+3", "äöüßé", "f", "infinity", "")),
    "trailing blanks": ("FROM STDIN", line("1", "x", "n", "7", "abcde   ", *ROW[5:])),
    "csv": ("FROM STDIN (FORMAT csv)", '1,"a""b,\nc",n,42,,t,2001-02-03,\\x00\n2,x,,,"",,,\n'),
    "csv crlf": ("FROM STDIN CSV", '1,"a\r\nb",n,,,,,\r\n2,,,,,,,\r\n'),
    "csv header": ("(id, email) FROM STDIN (FORMAT csv, HEADER)", 'secret,"not\nhere"\n1,x\n'),
    "csv match": ("(id, email) FROM STDIN (FORMAT csv, HEADER match)", "id,email\n1,x\n"),
    "text match": ("(id, email) FROM STDIN (HEADER match)", "id\temail\n1\tx\n"),
    "csv escape": ("(id, email) FROM STDIN (FORMAT csv, ESCAPE '!')", '1,"a!"b!!c!d"\n'),
    "csv quote": ("(id, email) FROM STDIN (FORMAT csv, QUOTE '''')", "1,'a''b,c'\n2,\"q\"\n"),
    "csv part quoted": ("(id, email) FROM STDIN CSV", '1,a"b,c"d\n'),
    "csv force": (
        "(id, email, age) FROM STDIN (FORMAT csv, NULL 'x', FORCE_NULL (age), FORCE_NOT_NULL (email))",
        '1,x,"x"\n2,"x",x\n',
    ),
    "csv null": ("(id, email) FROM STDIN (FORMAT csv, NULL 'x')", '1,x\n2,"x"\n'),
    "csv marker": ("(id, email) FROM STDIN CSV", "1,a\n\\.\nbehind"),
    "csv no marker": ("(email, id) FROM STDIN CSV", "\\.x,1\n\\.,2\n"),
    "csv cr": ("(id, email) FROM STDIN CSV", '1,"a\rb"\r2,c\r'),
    "csv tab": ("(id, email) FROM STDIN (FORMAT csv, DELIMITER E'\\t')", "1\ta,b\n"),
    "nothing": ("FROM STDIN", ""),
}  # fmt: skip

BAD = {
    "bad number": ("FROM STDIN", line(*ROW) + line("1", "x", "n", "4x", *ROW[4:])),
    "out of range": ("FROM STDIN", line("1", "x", "n", "3000000000", *ROW[4:])),
    "too long": ("FROM STDIN", line("1", "x", "n", "1", "abcdef", *ROW[5:])),
    "bad bool": ("FROM STDIN", line("1", "x", "n", "1", "a", "maybe", *ROW[6:])),
    "extra": ("(id, email) FROM STDIN", "1\tx\ty\n"),
    "missing": ("(id, email) FROM STDIN", "1\tx\n2\n"),
    "other column": ("(id, email) FROM STDIN", "1\tx\nz\ty\n"),
    "literal cr": ("(id, email) FROM STDIN", "1\tx\n2\ty\rz\n"),
    "literal nl": ("(id, email) FROM STDIN", "1\tx\r2\ty\nz\r"),
    "corrupt marker": ("(id, email) FROM STDIN", "1\tx\n\\.y\n"),
    "marker style": ("(id, email) FROM STDIN", "1\tx\r\n\\.\n"),
    "csv unquoted nl": ("(id, email) FROM STDIN CSV", "1,x\r\n2,y\nz\r\n"),
    "csv open quote": ("(id, email) FROM STDIN CSV", '1,"x\n2,y\n'),
    "csv bad": ("(id, age) FROM STDIN CSV", '1,"4\n5"\n'),
    "zero byte": ("(id, email) FROM STDIN", "1\t\\000\n"),
    "no match": ("(id, email) FROM STDIN (FORMAT csv, HEADER match)", "id,mail\n1,x\n"),
    "header width": ("(id, email) FROM STDIN (FORMAT csv, HEADER match)", "id\n1,x\n"),
    "no default": ("(id, email) FROM STDIN (DEFAULT 'D')", "1\tD\n2\tx\n"),
    "not utf8": ("(id, email) FROM STDIN", b"1\t\xff\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_text_and_csv_come_in_as_on_a_plain_table(stack, name):
    rest, data = GOOD[name]
    assert isinstance(both_in(stack, "people", rest, data.encode()), int)


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_the_servers_own_error(stack, name):
    rest, data = BAD[name]
    data = data if isinstance(data, bytes) else data.encode()
    assert not isinstance(both_in(stack, "people", rest, data), int)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_any_size_of_copy_data_will_do(stack, step):
    rest, data = GOOD["csv"]
    assert both_in(stack, "people", rest, data.encode() * 5, step) == 10
    rest, data = GOOD["escapes"]
    assert both_in(stack, "people", rest, data.encode() * 5, step) == 5


@pytest.mark.parametrize("data", ["", "\n", "a\n\nb\n", "\\.\n", '""\n"\\."\n', "x"])
@pytest.mark.parametrize("rest", ["FROM STDIN", "FROM STDIN CSV"])
def test_a_table_of_one_column(stack, rest, data):
    both_in(stack, "one", rest, data.encode())
    sealed, plain, *_ = stack
    for form in ("text", "csv", "binary"):
        assert copy_out(sealed, f"COPY one TO STDOUT (FORMAT {form})") == copy_out(
            plain, f"COPY one_plain TO STDOUT (FORMAT {form})"
        )


@pytest.fixture
def filled(stack):
    data = line(*ROW) + line("2", *["\\N"] * 7)
    data += line("3", 'q"u,o\\te\\n\\\\', "x", "-1", "", "f", "infinity", "\\\\x")
    data += line("4", "NULL", "NULL", "0", "a|b", "t", "0044-03-15 BC", "\\\\x5c27")
    assert both_in(stack, "people", "FROM STDIN", data.encode()) == 4
    return stack


@pytest.mark.parametrize("options", [
    "", "(FORMAT csv)", "(FORMAT csv, HEADER)", "(HEADER)", "(FORMAT csv, FORCE_QUOTE *)",
    "(FORMAT csv, FORCE_QUOTE (note))", "(FORMAT csv, NULL 'NULL')", "(NULL 'NULL')",
    "(DELIMITER '|')", "(FORMAT csv, DELIMITER '|', QUOTE '''', ESCAPE '!')", "(FORMAT binary)",
    "WITH CSV HEADER QUOTE AS '\"' FORCE QUOTE note", "WITH BINARY",
])  # fmt: skip
@pytest.mark.parametrize("what", ["people", "people (born, id, email, note)", "(SELECT * FROM people)",
                                  "(SELECT note, email AS e, 1 FROM people WHERE id > 1)"])  # fmt: skip
def test_rows_come_out_byte_for_byte(filled, what, options):
    sealed, plain, *_ = filled
    for setting in ("bytea_output = hex", "bytea_output = escape", "DateStyle = 'German'"):
        for c in (sealed, plain):
            c.execute(f"SET {setting}")
        expected = copy_out(plain, f"COPY {what.replace('people', 'people_plain')} TO STDOUT {options}")
        assert copy_out(sealed, f"COPY {what} TO STDOUT {options}") == expected
    for c in (sealed, plain):
        c.execute("RESET bytea_output; RESET DateStyle")


def test_binary_comes_in_and_damaged_binary_is_the_servers_own_error(filled):
    sealed, plain, *_ = filled
    data = copy_out(plain, "COPY people_plain TO STDOUT BINARY")
    for step in (1, 5, 1 << 20):
        assert both_in(filled, "people", "FROM STDIN BINARY", data, step) == 4
    assert both_in(filled, "people", "FROM STDIN BINARY", data[:-2]) == 4, "no trailer"
    at = 19
    damaged = [
        data[:-30], data[:25], data[:12], b"X" + data[1:], data + b"x",
        data[:at] + b"\0\7" + data[at + 2 :], data[:11] + b"\0\1\0\0" + data[15:],
    ]  # fmt: skip
    for stream in damaged:
        assert not isinstance(both_in(filled, "people", "FROM STDIN BINARY", stream), int)
    narrow = copy_out(plain, "COPY (SELECT 1::int8) TO STDOUT BINARY")
    assert not isinstance(both_in(filled, "people", "(age) FROM STDIN BINARY", narrow), int)


def test_the_servers_error_in_the_middle_stays_the_servers(stack):
    sealed, plain, *_ = stack
    for c, t in ((sealed, "people"), (plain, "people_plain")):
        c.execute(f"TRUNCATE {t}; ALTER TABLE {t} ADD CHECK (id < 50000)")
    data = "".join(f"{i}\tx{i}\n" for i in range(100_000)).encode()
    outcome = both_in(stack, "people", "(id, email) FROM STDIN", data)
    assert outcome[0] == "23514"
    for c, t in ((sealed, "people"), (plain, "people_plain")):
        c.execute(f"ALTER TABLE {t} DROP CONSTRAINT {t}_id_check")


def test_an_error_of_a_cell_aborts_the_transaction_on_the_server(stack):
    sealed, *_ = stack
    sealed.execute("TRUNCATE people")
    for sql in ("COPY people (id, age) FROM STDIN",):
        sealed.execute("BEGIN")
        sealed.execute("INSERT INTO people (id) VALUES (1)")
        assert copy_in(sealed, sql, b"1\t2\n1\tx\n" + b"1\t3\n" * 100_000)[0] == "22P02"
        assert sealed.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        sealed.execute("ROLLBACK")
    assert sealed.execute("SELECT count(*) FROM people").fetchone() == (0,)


def answer(c: psycopg.Connection) -> object:
    """The next result. PQgetResult would wait inside the interpreter lock that the proxy needs."""
    while c.pgconn.flush():
        pass
    while c.pgconn.is_busy():
        select.select([c.pgconn.socket], [], [])
        c.pgconn.consume_input()
    return c.pgconn.get_result()


def test_a_client_that_gives_up_is_told_so_and_the_server_is_not_told_why(stack):
    sealed, plain, tap, _ = stack
    found = []
    for c, table in ((plain, "people_plain"), (sealed, "people")):
        c.execute(f"TRUNCATE {table}")
        c.pgconn.send_query(f"COPY {table} (id, email) FROM STDIN".encode())
        answer(c)
        c.pgconn.put_copy_data(b"1\ta\n2\tb")
        c.pgconn.put_copy_end(b"bad value canary-91c")
        result = answer(c)
        message = result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY)
        state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
        found.append((state, message))
        assert answer(c) is None
    assert found[0] == found[1]
    assert b"canary-91c" not in tap.to_server


async def _asyncpg(through: str) -> tuple[list[object], bytes]:
    host, port = "127.0.0.1", int(through.split("port=")[1].split()[0])
    pairs = dict(p.split("=") for p in through.split())
    c = await asyncpg.connect(
        host=host, port=port, user=pairs["user"], password=pairs["password"], database="shop"
    )
    try:
        records = [(i, f"r{i}@x", i * 2) for i in range(5000)]
        await c.copy_records_to_table("people", records=records, columns=["id", "email", "age"])
        out = io.BytesIO()
        await c.copy_from_query(
            "SELECT email FROM people WHERE email = $1", "r77@x", output=out, format="csv"
        )
        rows = await c.fetch("SELECT id, email, age FROM people ORDER BY id LIMIT 2")
        return [tuple(r) for r in rows], out.getvalue()
    finally:
        await c.close()


def test_asyncpg(stack):
    sealed, _, _, through = stack
    sealed.execute("TRUNCATE people")
    rows, csv = asyncio.run(_asyncpg(through))
    assert rows == [(0, "r0@x", 0), (1, "r1@x", 2)] and csv == b"r77@x\n"


def test_psycopg_rows(stack):
    sealed, *_ = stack
    sealed.execute("TRUNCATE people")
    with sealed.cursor().copy("COPY people (id, email, age) FROM STDIN") as copy:
        for i in range(100):
            copy.write_row((i, f"e{i}\t", None))
    with sealed.cursor().copy("COPY people (id, email, age) FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text", "int4"])
        copy.write_row((100, "last", 7))
    with sealed.cursor().copy("COPY (SELECT id, email, age FROM people) TO STDOUT") as copy:
        copy.set_types(["int4", "text", "int4"])
        rows = list(copy.rows())
    assert rows[3] == (3, "e3\t", None) and rows[100] == (100, "last", 7)


def test_psql_copy(stack, tmp_path):
    sealed, _, _, through = stack
    sealed.execute("TRUNCATE people")
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,email\n" + "".join(f"{i},p{i}@x\n" for i in range(2000)))
    subprocess.run(
        ["psql", "-v", "ON_ERROR_STOP=1", through,
         "-c", f"\\copy people (id, email) FROM '{source}' CSV HEADER",
         "-c", f"\\copy (SELECT id, email FROM people) TO '{target}' CSV HEADER"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert target.read_text() == source.read_text()


def test_the_server_never_saw_a_value(stack):
    sealed, _, tap, _ = stack
    before = len(tap.to_server)
    copy_in(sealed, "COPY people (id, email) FROM STDIN", b"1\tcanary-55d\n2\tx\tcanary-55d\n")
    copy_in(sealed, "COPY people (id, email) FROM STDIN CSV HEADER", b"1,canary-55d\n2,\n")
    copy_in(sealed, "COPY people (email) FROM STDIN", b"canary-55d\ncanary-55d\tx\n")
    copy_in(sealed, "COPY people (email) FROM STDIN BINARY", b"canary-55d" * 5)
    sealed.execute("SELECT 1")
    assert len(tap.to_server) > before
    assert b"canary-55d" not in tap.to_server
