"""An error at every position of a pipeline leaves what it leaves on a direct connection: the same answers in
the same order, the same transaction state, the same rows. Messages are written by hand."""

import os
import socket
import struct
import tempfile
from pathlib import Path

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.dialogue import SYNC, execute, msg
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system
FLUSH = msg("H")


class Side:
    """One of the two: its table, and a connection on which bytes are sent as they are."""

    def __init__(self, dsn: str, table: str, sealed: bool) -> None:
        self.dsn, self.table, self.sealed = dsn, table, sealed

    def sql(self, text: str) -> str:
        return text.replace("@", self.table)

    def open(self) -> None:
        """Once; what a test leaves behind, the next finds."""
        if hasattr(self, "_psycopg"):
            return
        self._psycopg = psycopg.connect(self.dsn, autocommit=True)
        self._socket = socket.socket(fileno=os.dup(self._psycopg.fileno()))
        self._socket.setblocking(True)
        self._socket.settimeout(20)

    def close(self) -> None:
        if hasattr(self, "_psycopg"):
            self._socket.close()
            self._psycopg.close()
            del self._psycopg

    def exchange(self, messages: list[bytes]) -> list[str]:
        """Sends all at once; what comes back up to as many ReadyForQuery as there must be."""
        syncs = sum(m[:1] in (b"S", b"Q", b"F") for m in messages)
        self._socket.sendall(b"".join(messages))
        seen: list[str] = []
        data = b""
        while syncs:
            data += self._socket.recv(65536)
            while len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5], "big")):
                kind, payload, data = chr(data[0]), data[5 : size + 1], data[size + 1 :]
                seen.append(self._shown(kind, payload))
                syncs -= kind == "Z"
        return seen

    def _shown(self, kind: str, payload: bytes) -> str:
        if kind == "E":
            fields = dict((f[:1], f[1:].decode()) for f in payload.split(b"\0") if f)
            code = fields[b"C"]
            return f"E {'local' if code in ('0A000', 'XX001', '42703', '22012') else code}"
        if kind == "Z":
            return f"Z {payload.decode()}"
        if kind == "C":
            return f"C {payload[:-1].decode()}"
        if kind == "T":
            return f"T {int.from_bytes(payload[:2], 'big')}"
        return kind


@pytest.fixture(scope="module")
def sides():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
            columns=(
                ColumnConfig(column="public.users.email", type="text", ring="app", equality=True),
                ColumnConfig(column="public.users.age", type="int4", ring="app"),
            ),
        )
        with Listening(config, lambda: software_keys(Path(folder))) as proxy:
            through = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
            both = Side(through, "users", True), Side(server.dsn(), "users_plain", False)
            for side in both:
                with psycopg.connect(side.dsn, autocommit=True) as c:
                    c.execute(side.sql("CREATE TABLE @ (id int PRIMARY KEY, email text, age int4)"))
                    c.execute(side.sql("INSERT INTO @ VALUES (0, 'zero', 0), (-1, 'bad', 1)"))
            with psycopg.connect(server.dsn(), autocommit=True) as c:
                c.execute(
                    "UPDATE users SET email = set_byte(email, 60, 255 - get_byte(email, 60))"
                    " WHERE id = -1"
                )
            yield both
            for side in both:
                side.close()
        server.stop()


def parse(sql: str, name: str = "") -> bytes:
    return msg("P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def bind(*values: str, statement: str = "", portal: str = "") -> bytes:
    body = portal.encode() + b"\0" + statement.encode() + b"\0\0\0" + struct.pack("!H", len(values))
    for v in values:
        body += struct.pack("!i", len(v)) + v.encode()
    return msg("B", body + b"\0\0")


def describe(kind: str, name: str = "") -> bytes:
    return msg("D", kind.encode() + name.encode() + b"\0")


def query(sql: str) -> bytes:
    return msg("Q", sql.encode() + b"\0")


class Ids:
    """The same new ids on both sides."""

    def __init__(self) -> None:
        self.next = 1

    def take(self) -> str:
        self.next += 1
        return str(self.next)


INSERT = "INSERT INTO @ VALUES ($1, $2, $3)"


def good(side: Side, ids: Ids) -> list[bytes]:
    n = ids.take()
    sql = side.sql(INSERT)
    return [parse(sql), describe("S"), bind(n, f"u{n}", n), describe("P"), execute(), msg("C", b"P\0")]


def reading(side: Side, ids: Ids) -> list[bytes]:
    sql = side.sql("SELECT id, email, age FROM @ WHERE id = $1")
    return [parse(sql), bind("0"), describe("P"), execute()]


def statement(first: list[bytes], bad: bytes, rest: list[bytes]) -> list[bytes]:
    return [*first, bad, *rest]


def broken(kind: str, side: Side, ids: Ids) -> list[bytes]:
    """A statement that fails at one of its messages."""
    n = ids.take()
    insert = parse(side.sql(INSERT))
    tail = [describe("P"), execute()]
    if kind == "parse":
        return [parse("SELEC 1"), bind(), *tail]
    if kind == "parse refused":
        wrong = "lower(email)" if side.sealed else "lower(nosuch)"
        return [parse(side.sql(f"SELECT {wrong} FROM @")), describe("S"), bind(), *tail]
    if kind == "bind unknown":
        return [insert, bind(n, "x", n, statement="nosuch"), *tail]
    if kind == "bind data":
        return [insert, bind(n, "x", "12x"), *tail]
    if kind == "bind other data":
        return [insert, bind("x", "x", "12"), *tail]
    if kind == "bind count":
        return [insert, bind(n, "x"), *tail]
    if kind == "describe statement":
        return [insert, describe("S", "nosuch"), bind(n, "x", n), *tail]
    if kind == "describe portal":
        return [insert, bind(n, "x", n), describe("P", "nosuch"), *tail]
    if kind == "execute unknown":
        return [insert, bind(n, "x", n), execute("nosuch"), *tail]
    if kind == "execute unique":
        return [insert, bind("0", "x", n), *tail]
    if kind == "execute":
        return [parse("SELECT 1 / ($1::int - $1::int)"), bind("7"), execute()]
    if kind == "value":
        if side.sealed:
            return [parse(side.sql("SELECT email FROM @ WHERE id = -1")), bind(), execute()]
        return [parse(side.sql("SELECT 1 / (age - 1) FROM @ WHERE id = -1")), bind(), execute()]
    if kind == "query":
        return [query(side.sql("SELECT nosuch FROM @" if not side.sealed else "SELECT @ FROM @"))]
    if kind == "query value":
        # behind a Sync: with the segment before it, it would be one implicit transaction, which
        # the server has ended before the value is here
        what = "email" if side.sealed else "1 / (age - 1)"
        return [SYNC, query(side.sql(f"SELECT {what} FROM @ WHERE id = -1"))]
    assert kind == "query several"
    return [query(side.sql(f"INSERT INTO @ VALUES ({n}, 'x', {n}); SELECT 1 / 0; SELECT 1"))]


KINDS = [
    "parse", "parse refused", "bind unknown", "bind data", "bind other data", "bind count",
    "describe statement", "describe portal", "execute unknown", "execute unique", "execute", "value",
    "query", "query value", "query several",
]  # fmt: skip
SHAPES = ["one segment", "flushed", "three segments", "first", "read before", "simple around"]


def pipeline(shape: str, kind: str, side: Side, ids: Ids) -> list[bytes]:
    bad = broken(kind, side, ids)
    if shape == "one segment":
        return [*good(side, ids), *bad, *good(side, ids), *reading(side, ids), SYNC]
    if shape == "flushed":
        messages = [*good(side, ids), *bad, *good(side, ids)]
        return [*(m for one in messages for m in (one, FLUSH)), SYNC]
    if shape == "three segments":
        return [*good(side, ids), SYNC, *bad, SYNC, *good(side, ids), SYNC, *reading(side, ids), SYNC]
    if shape == "first":
        return [*bad, *good(side, ids), SYNC, *good(side, ids), SYNC]
    if shape == "read before":
        return [*reading(side, ids), *good(side, ids), *bad, *reading(side, ids), SYNC]
    n, m = ids.take(), ids.take()
    before = query(side.sql(f"INSERT INTO @ VALUES ({n}, 'x', 1)"))
    after = query(side.sql(f"INSERT INTO @ VALUES ({m}, 'y', 2) RETURNING email"))
    return [before, *bad, SYNC, after]


@pytest.mark.parametrize("explicit", [False, True], ids=["implicit", "explicit"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_leaves_what_it_leaves_on_a_direct_connection(sides, kind, shape, explicit):
    outcomes = []
    for side in sides:
        ids = Ids()
        side.open()
        try:
            side.exchange([query(side.sql("DELETE FROM @ WHERE id > 0"))])
            messages = pipeline(shape, kind, side, ids)
            if explicit:
                messages = [query("BEGIN"), *messages]
            seen = side.exchange(messages)
            if explicit:
                seen += side.exchange([query("COMMIT")])
            seen += side.exchange([query(side.sql("SELECT id FROM @ WHERE id > 0 ORDER BY id"))])
        except BaseException:
            side.close()
            raise
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]
