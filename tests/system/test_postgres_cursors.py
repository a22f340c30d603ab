"""SQL cursors over a protected table against the same on a plain one, direct: same rows, same errors."""

import asyncio
import os
import tempfile
from pathlib import Path

import asyncpg
import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    PostgresLimits,
    SecretRef,
    TlsClient,
)
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack():
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
            limits=PostgresLimits(max_statements_per_session=8),
        )
        with Listening(config, lambda: software_keys(Path(folder))) as proxy:
            through = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
            for dsn, table in ((through, "users"), (server.dsn(), "users_plain")):
                with psycopg.connect(dsn, autocommit=True) as c:
                    c.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, email text, age int4)")
                    for i in range(10):
                        c.execute(f"INSERT INTO {table} VALUES ({i}, 'u{i}@x', {i * 10})")
            yield through, server.dsn()
        server.stop()


@pytest.fixture
def pair(stack):
    """(connection, table) through the proxy, and direct."""
    with (
        psycopg.connect(stack[0], autocommit=True) as sealed,
        psycopg.connect(stack[1], autocommit=True) as plain,
    ):
        yield (sealed, "users"), (plain, "users_plain")


def run(c: psycopg.Connection, table: str, script: list[str], binary: bool) -> list[object]:
    """What each statement gives: rows with types, a command tag, or an error and the state."""
    seen: list[object] = []
    for sql in script:
        try:
            cursor = c.execute(sql.replace("@", table), binary=binary)
        except psycopg.Error as error:
            seen.append((error.sqlstate, c.info.transaction_status))
            continue
        while True:
            if cursor.description is not None:
                types = [(d.name, d.type_code) for d in cursor.description]
                seen.append((types, cursor.fetchall(), cursor.statusmessage))
            else:
                seen.append(cursor.statusmessage)
            if not cursor.nextset():
                break
    return seen


SCRIPTS = {
    "fetch": [
        "BEGIN", "DECLARE c CURSOR FOR SELECT id, email, age FROM @ ORDER BY id", "FETCH 3 FROM c",
        "FETCH c", "MOVE 2 IN c", "FETCH ALL IN c", "CLOSE c", "FETCH c", "ROLLBACK",
    ],
    "scroll": [
        "BEGIN", "DECLARE c SCROLL CURSOR FOR SELECT email FROM @ ORDER BY id", "FETCH LAST FROM c",
        "FETCH PRIOR FROM c", "FETCH ABSOLUTE 2 FROM c", "FETCH BACKWARD ALL FROM c", "COMMIT",
    ],
    "hold": [
        "DECLARE h CURSOR WITH HOLD FOR SELECT email, age FROM @ WHERE email = 'u3@x'", "FETCH h",
        "BEGIN", "ROLLBACK", "FETCH PRIOR FROM h", "CLOSE ALL", "FETCH h",
    ],
    "ends with its transaction": [
        "BEGIN", "DECLARE c CURSOR FOR SELECT email FROM @ ORDER BY id", "COMMIT", "FETCH c",
        "BEGIN", "DECLARE c CURSOR FOR SELECT 1 AS one, 'two' AS two", "FETCH c", "COMMIT",
    ],
    "one text": [
        "BEGIN; DECLARE c CURSOR FOR SELECT age FROM @ ORDER BY id; FETCH 2 FROM c; CLOSE c; COMMIT",
        "BEGIN", "DECLARE c CURSOR FOR SELECT age FROM @ ORDER BY id; FETCH 2 FROM c", "FETCH c",
        "CLOSE c; DECLARE c CURSOR FOR SELECT id FROM @ ORDER BY id; FETCH c", "FETCH c", "COMMIT",
    ],
    "failed": [
        "BEGIN", "DECLARE c CURSOR FOR SELECT email FROM @ ORDER BY id",
        "DECLARE c CURSOR FOR SELECT age FROM @", "ROLLBACK",
        "BEGIN", "DECLARE c CURSOR FOR SELECT age FROM @ ORDER BY id", "FETCH 2 FROM c", "COMMIT",
        "DECLARE c CURSOR FOR SELECT email FROM @",
    ],
    "savepoint": [
        "BEGIN", "SAVEPOINT a", "DECLARE c CURSOR FOR SELECT email FROM @ ORDER BY id",
        "ROLLBACK TO a", "DECLARE c CURSOR FOR SELECT id FROM @ ORDER BY id", "FETCH 2 FROM c",
        "ROLLBACK",
    ],
    "discard": [
        "DECLARE h CURSOR WITH HOLD FOR SELECT email FROM @", "DISCARD ALL", "FETCH h",
        "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM @ ORDER BY id", "FETCH h", "CLOSE h",
    ],
    "no rows of ours": [
        "BEGIN", "DECLARE c CURSOR FOR SELECT count(*) FROM @ WHERE email = 'u1@x'", "FETCH c",
        "COMMIT",
    ],
}  # fmt: skip


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
def test_cursors_give_what_they_give_on_a_plain_table(pair, name, binary):
    script = SCRIPTS[name]
    if binary and name == "one text":
        pytest.skip("several statements need the simple protocol")
    (sealed, table), (plain, other) = pair
    assert run(sealed, table, script, binary) == run(plain, other, script, binary)


def test_binary_cursors(pair):
    found = []
    for c, table in pair:
        c.execute("BEGIN")
        c.execute(f"DECLARE c BINARY CURSOR FOR SELECT id, email, age FROM {table} ORDER BY id")
        rows = c.execute("FETCH 3 FROM c")
        result = rows.pgresult
        found.append(
            [(result.fformat(i), result.ftype(i), result.get_value(2, i)) for i in range(3)]
        )
        c.execute("ROLLBACK")
    assert found[0] == found[1]


def test_psycopg_server_side_cursors(pair):
    for binary in (False, True):
        found = []
        for c, table in pair:
            with c.transaction(), c.cursor("named", binary=binary) as cursor:
                cursor.itersize = 3
                cursor.execute(
                    f"SELECT id, email, age FROM {table} WHERE email <> %s ORDER BY id", ["u4@x"]
                )
                found.append([*cursor])
        assert found[0] == found[1] and len(found[0]) == 9


async def _portals(dsn: str, table: str) -> list[object]:
    pairs = dict(p.split("=") for p in dsn.split())
    c = await asyncpg.connect(
        host="127.0.0.1", port=int(pairs["port"]), user=pairs["user"], password=pairs["password"],
        database=pairs["dbname"],
    )  # fmt: skip
    try:
        seen: list[object] = []
        async with c.transaction():
            query = f"SELECT id, email, age FROM {table} ORDER BY id"
            cursor = await c.cursor(query)
            seen.append([tuple(r) for r in await cursor.fetch(3)])
            await c.execute("SELECT 1")
            seen.append([tuple(r) for r in await cursor.fetch(3)])
            seen.append(await cursor.forward(2))
            async for record in c.cursor(query, prefetch=2):
                seen.append(tuple(record))
            await c.execute(f"DECLARE d CURSOR FOR {query}")
            fetch = await c.prepare("FETCH 2 FROM d")
            seen.append([tuple(r) for r in await fetch.fetch()])
            seen.append([tuple(r) for r in await fetch.fetch()])
        return seen
    finally:
        await c.close()


def test_portals_and_prepared_fetches(stack):
    assert asyncio.run(_portals(stack[0], "users")) == asyncio.run(_portals(stack[1], "users_plain"))


def test_cursors_are_counted(pair):
    (sealed, table), _ = pair
    for i in range(8):
        sealed.execute(f"DECLARE h{i} CURSOR WITH HOLD FOR SELECT email FROM {table}")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        sealed.execute(f"DECLARE h9 CURSOR WITH HOLD FOR SELECT email FROM {table}")
    sealed.execute("CLOSE h1")
    sealed.execute(f"DECLARE h9 CURSOR WITH HOLD FOR SELECT email FROM {table}")
    sealed.execute("CLOSE ALL")


def test_a_search_with_a_recheck_is_refused_in_a_cursor_or_done_exactly(pair):
    (sealed, table), _ = pair
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        sealed.execute(f"DECLARE c CURSOR WITH HOLD FOR SELECT lower(email) FROM {table}")
