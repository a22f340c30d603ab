"""Random interleavings of messages, cut anywhere: sealed columns through the proxy answer as plain ones do.

Real server, real sessions with their native ways, real keys. Both legs are cut at random bytes. Every answer
has to be the same, errors by SQLSTATE, and the table afterwards; no value of a protected column is on the
server leg.
SEED=0 draws new conversations, CONVERSATIONS says how many; a failure names its seed.
"""

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
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
from proxy.postgres.messages import read_row_description
from tests.dialogue import msg
from tests.parts.apart import Apart
from tests.parts.interleavings import CANARY_AGE, MIXED, PROTECTED, Conversation, Statements
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = [pytest.mark.fuzz, pytest.mark.system]

SEED = os.environ.get("SEED", "20261124")
COUNT = int(os.environ.get("CONVERSATIONS", "250"))
KEPT: tuple[str, ...] = ()  # seeds of divergences that were found
# Of something that is wrong in two ways the proxy may tell the other one: a COPY line in its form and a
# value; a Bind with too many values of an unnamed statement that a Query has ended; a syntax error in a
# transaction that is aborted.
ALIKE = {b"22P04": b"22P02", b"08P01": b"26000", b"42601": b"25P02"}
TABLES = (
    "CREATE TABLE users (id int PRIMARY KEY, email text, age int4, note text)",
    "CREATE TABLE mails (email text, age int4)",
)
FRESH = "TRUNCATE users, mails; INSERT INTO users SELECT i, NULL, NULL, 'n' FROM generate_series(1, 4) i"
VALUES = [
    f"UPDATE users SET email = 'canary-{i}', age = {CANARY_AGE + i} WHERE id = {i}"
    for i in (1, 2, 3)
]
ALL = "SELECT id, email, age, note FROM users ORDER BY id"


class CutTap(Tap):
    """Forwards in pieces of random lengths."""

    def _pump(self, source: socket.socket, sink: socket.socket, log: bytearray) -> None:
        r = random.Random(SEED)
        for s in (source, sink):
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while data := source.recv(r.choice((1, 5, 40, 1 << 16))):
                log += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Wire:
    """A connection on which bytes are sent as they are, opened again when it was closed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.sql = psycopg.connect(dsn, autocommit=True)
        self._open()

    def _open(self) -> None:
        self._raw = psycopg.connect(self._dsn, autocommit=True)
        self._socket = socket.socket(fileno=os.dup(self._raw.fileno()))
        self._socket.setblocking(True)
        self._socket.settimeout(10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _shut(self) -> None:
        self._socket.close()
        self._raw.close()

    def again(self) -> None:
        self._shut()
        self._open()

    def close(self) -> None:
        self._shut()
        self.sql.close()

    def fresh(self) -> None:
        for sql in (FRESH, *VALUES):
            self.sql.execute(sql)

    def rows(self) -> list[tuple[object, ...]]:
        mails = self.sql.execute("SELECT email, age FROM mails").fetchall()
        return [*self.sql.execute(ALL).fetchall(), *sorted(mails, key=repr)]

    def talk(self, pieces: list[bytes], end: str) -> list[object]:
        """What comes back for the pieces; `end` is a word that a last query answers, and is left out."""
        last = f"ROLLBACK; DEALLOCATE ALL; SELECT '{end}'\0".encode()
        seen: list[object] = []
        try:
            for i, piece in enumerate([*pieces, msg("f", b"\0") + msg("S") + msg("Q", last)]):
                self._socket.sendall(piece)
                if i % 8 == 3:
                    time.sleep(0.0002)  # else the kernel joins them again
            self._hear(seen, end.encode())
        except ConnectionError:
            seen = ["closed"]  # what came before may be lost
            self.again()
        except TimeoutError:
            seen.append("silence")
            self.again()
        return seen

    def _hear(self, seen: list[object], end: bytes) -> None:
        data, over = b"", False
        while not over or seen[-1] != ("Z", b"I"):
            got = self._socket.recv(1 << 16)
            if not got:
                raise ConnectionResetError
            data += got
            while len(data) >= 5 and len(data) > (size := int.from_bytes(data[1:5], "big")):
                kind, payload, data = chr(data[0]), data[5 : size + 1], data[size + 1 :]
                over = over or kind == "D" and payload.endswith(end)
                if kind not in "NS":  # notices and settings
                    seen.append(shown(kind, payload))


def shown(kind: str, payload: bytes) -> object:
    """An answer as far as it has to be the same."""
    if kind == "E":
        fields = {f[:1]: f[1:] for f in payload.split(b"\0") if f}
        return ("E", ALIKE.get(fields[b"C"], fields[b"C"]))
    if kind == "T":
        return ("T", [(f.name, f.type_oid, f.typlen, f.typmod, f.format)
                      for f in read_row_description(payload)])  # fmt: skip
    return (kind, payload)


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Wire, Wire, Tap]]:
    folder: Path = tmp_path_factory.mktemp("interleaving")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    server = Postgres(folder / "pg")
    server.start()
    os.environ["SG_TEST_PG"] = server.password
    with psycopg.connect(server.dsn(), autocommit=True) as c:
        c.execute("CREATE DATABASE plain_users")
    with CutTap("127.0.0.1", server.port) as tap:
        columns = (
            ColumnConfig(column="public.users.email", type="text", ring="app", equality=True),
            ColumnConfig(column="public.users.age", type="int4", ring="app"),
            ColumnConfig(column="public.mails.email", type="text", ring="app", equality=True),
            ColumnConfig(column="public.mails.age", type="int4", ring="app"),
        )
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=tap.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
            columns=columns,
        )
        with Apart(config, folder) as proxy:
            through = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
            plain = server.dsn().replace(f"dbname={server.database}", "dbname=plain_users")
            assert plain != server.dsn()
            for dsn in (plain, through):
                with psycopg.connect(dsn, autocommit=True) as c:
                    for sql in TABLES:
                        c.execute(sql)
            both = Wire(plain), Wire(through)
            yield *both, tap
            for wire in both:
                wire.close()
    server.stop()


@pytest.mark.parametrize("of", [MIXED, PROTECTED], ids=["mixed", "protected"])
def test_any_interleaving_is_answered_as_directly(
    wires: tuple[Wire, Wire, Tap], of: tuple[Statements, tuple[str, ...]]
) -> None:
    direct, through, tap = wires
    tap.clear()
    base = str(random.randrange(10**9)) if SEED == "0" else SEED
    for seed in (*KEPT, *(f"{base}/{i}" for i in range(COUNT))):
        direct.fresh()
        through.fresh()
        talk = Conversation(seed, of)
        messages = talk.messages(random.Random(seed).randint(3, 25))
        pieces = talk.cut(b"".join(messages))
        wanted, got = (w.talk(pieces, f"end-{seed}") for w in (direct, through))
        assert got == wanted, told(seed, messages, wanted, got)
        assert through.rows() == direct.rows(), told(seed, messages, wanted, got)
        if of is PROTECTED:
            found = leaked(bytes(tap.to_server))
            assert not found, f"{found}\n{told(seed, messages, wanted, got)}"
        tap.clear()


def leaked(leg: bytes) -> list[bytes]:
    """Where the server was sent canaries: texts, and numbers as text or as a binary value."""
    ages = range(CANARY_AGE, CANARY_AGE + 10)
    forms = [b"canary", *(str(a).encode() for a in ages), *(struct.pack("!ii", 4, a) for a in ages)]
    return [leg[max(0, at - 80) : at + 20] for form in forms if (at := leg.find(form)) >= 0]


def told(seed: str, messages: list[bytes], wanted: list[object], got: list[object]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), -1)
    sent = "\n".join(f"  {m[:1].decode()} {m[5:90]!r}" for m in messages)
    return (
        f"seed {seed}, answer {at}\nsent:\n{sent}\n"
        f"direct:  {len(wanted)}: {wanted[max(0, at - 3) : at + 4]} ends {wanted[-3:]}\n"
        f"through: {len(got)}: {got[max(0, at - 3) : at + 4]} ends {got[-3:]}"
    )
