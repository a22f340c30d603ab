"""Real clients and a real server with nothing protected between them: all of the protocol."""

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import asyncpg
import psycopg
import pytest

from proxy.config.model import Address, CatalogAccess, PostgresConfig, PostgresLimits, TlsClient
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def postgres():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the server's uid
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder))
        server.start()
        yield server
        server.stop()


def config(port: int, **limits: float) -> PostgresConfig:
    return PostgresConfig(
        listen=Address(),
        upstream=Address(port=port),
        upstream_tls=TlsClient(mode="disable"),
        database="other",
        catalog=CatalogAccess(user="app"),
        limits=PostgresLimits(**limits),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def proxy(postgres):
    with Listening(config(postgres.port)) as running:
        yield running


def dsn(postgres: Postgres, port: int, **more: str) -> str:
    pairs = {
        "host": "127.0.0.1",
        "port": str(port),
        "user": postgres.user,
        "password": postgres.password,
        "dbname": "shop",
    } | more
    return " ".join(f"{k}={v}" for k, v in pairs.items())


def test_psycopg_in_every_mode(postgres, proxy):
    with psycopg.connect(dsn(postgres, proxy.port), autocommit=True) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)
        for _ in range(8):  # named from the sixth on
            assert c.execute("SELECT %s::int + 1", [41]).fetchone() == (42,)
        with c.pipeline():
            found = [c.execute("SELECT %s::int", [i]) for i in range(100)]
        assert [f.fetchone()[0] for f in found] == list(range(100))
        with pytest.raises(psycopg.errors.UndefinedTable):
            c.execute("SELECT * FROM nope")
        cursor = psycopg.ClientCursor(c)
        assert cursor.execute("SELECT %s; SELECT 2", ["x"]).fetchone() == ("x",)
        c.execute("CREATE TEMP TABLE t (a int, b text)")
        with c.cursor().copy("COPY t FROM STDIN") as copy:
            for i in range(20_000):
                copy.write_row((i, "x" * 50))
        with c.cursor().copy("COPY t TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 20_000
        with c.transaction(), c.cursor(name="held") as held:
            held.itersize = 7
            held.execute("SELECT a FROM t ORDER BY a")
            assert [r[0] for r in held] == list(range(20_000))


def test_an_error_in_a_pipeline_fails_what_follows_up_to_sync(postgres, proxy):
    with psycopg.connect(dsn(postgres, proxy.port), autocommit=True) as c:
        with pytest.raises(psycopg.errors.DivisionByZero), c.pipeline() as p:
            c.execute("SELECT 1")
            c.execute("SELECT 1/0")
            c.execute("SELECT 2")
            p.sync()
        assert c.execute("SELECT 3").fetchone() == (3,)


async def test_asyncpg_with_copy_and_cursors(postgres, proxy):
    c = await asyncpg.connect(
        host="127.0.0.1", port=proxy.port, user=postgres.user, password=postgres.password,
        database="shop",
    )  # fmt: skip
    try:
        assert await c.fetchval("SELECT $1::int8", 2**40) == 2**40
        await c.execute("CREATE TEMP TABLE t (a int, b text)")
        await c.copy_records_to_table("t", records=[(i, "y") for i in range(5000)])
        async with c.transaction():
            seen = [r["a"] async for r in c.cursor("SELECT a FROM t ORDER BY a", prefetch=13)]
        assert seen == list(range(5000))
        with pytest.raises(asyncpg.QueryCanceledError):
            await c.execute("SET statement_timeout = 50; SELECT pg_sleep(5)")
        await c.execute("LISTEN news")
        await c.execute("NOTIFY news, 'x'")
    finally:
        await c.close()


def test_cancel_reaches_the_server(postgres, proxy):
    with psycopg.connect(dsn(postgres, proxy.port), autocommit=True) as c:
        threading.Timer(0.3, c.cancel_safe).start()  # cancel() would hold the GIL
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            c.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 10


def test_a_wrong_password_is_the_servers_own_error(postgres, proxy):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(dsn(postgres, proxy.port, password="wrong"))


def test_replication_is_refused(postgres, proxy):
    with pytest.raises(psycopg.OperationalError, match="replication"):
        psycopg.connect(dsn(postgres, proxy.port, replication="database"))


def test_a_slow_reader_of_a_wide_result_gets_all_of_it(postgres, proxy):
    with psycopg.connect(dsn(postgres, proxy.port)) as c, c.cursor() as cursor:
        rows = 0
        for _ in cursor.stream("SELECT repeat('x', 100000) FROM generate_series(1, 800)"):
            rows += 1
            if rows == 1:
                time.sleep(0.5)
                connection = next(iter(proxy.listener.connections))
                buffered = connection.transport.get_write_buffer_size()
                assert buffered < 4 * 1024 * 1024, "the proxy does not swallow the result"
        assert rows == 800


STARTUP = struct.pack("!II", 23, 196608) + b"user\0app\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        b"\xff" * 100,
        b"GET / HTTP/1.0\r\n\r\n",
        struct.pack("!II", 8, 80877103) + b"early",
        struct.pack("!II", 9, 0x00020000) + b"\0",
        STARTUP,
        struct.pack("!II", 18, 196608) + b"user\0app\0\0" + b"Q\0\0\0\1",
        struct.pack("!II", 18, 196608) + b"user\0app\0\0" + b"p\xff\xff\xff\xff",
    ],
    ids=range(9),
)
def test_malformed_beginnings_end_only_their_connection(postgres, proxy, data):
    with socket.create_connection(("127.0.0.1", proxy.port)) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        s.settimeout(5)
        with contextlib.suppress(OSError):
            while s.recv(4096):
                pass
    with psycopg.connect(dsn(postgres, proxy.port)) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)


def test_a_silent_client_is_dropped(postgres):
    with Listening(config(postgres.port, startup_timeout_seconds=0.3)) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as s:
            s.settimeout(5)
            assert b"08P01" in s.recv(4096)
            assert s.recv(4096) == b""
        assert not running.listener.connections


def test_an_unreachable_server_is_said_so(postgres):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with (
        Listening(config(port)) as running,
        pytest.raises(psycopg.OperationalError, match="could not connect to the PostgreSQL server"),
    ):
        psycopg.connect(dsn(postgres, running.port))


def test_a_lost_server_ends_the_session_with_an_error(postgres):
    with (
        Tap("127.0.0.1", postgres.port) as tap,
        Listening(config(tap.port)) as running,
        psycopg.connect(dsn(postgres, running.port), autocommit=True) as c,
    ):
        threading.Timer(0.3, tap.cut).start()
        with pytest.raises(psycopg.OperationalError, match="was lost"):
            c.execute("SELECT pg_sleep(20)")


def test_drain_ends_idle_sessions_and_waits_for_busy_ones(postgres):
    with Listening(config(postgres.port)) as running:
        idle = psycopg.connect(dsn(postgres, running.port), autocommit=True)
        busy = psycopg.connect(dsn(postgres, running.port), autocommit=True)
        result = []
        work = threading.Thread(
            target=lambda: result.append(busy.execute("SELECT pg_sleep(1), 7").fetchone()[1])
        )
        work.start()
        time.sleep(0.3)
        running.run(running.listener.drain(5))
        work.join()
        assert result == [7]
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("SELECT 1")
        assert not running.listener.connections
        idle.close()
        busy.close()


async def test_many_sessions_at_once(postgres, proxy):
    async def one(i: int) -> int:
        c = await asyncpg.connect(
            host="127.0.0.1", port=proxy.port, user=postgres.user, password=postgres.password,
            database="shop",
        )  # fmt: skip
        try:
            return await c.fetchval("SELECT $1::int", i)
        finally:
            await c.close()

    assert await asyncio.gather(*(one(i) for i in range(40))) == list(range(40))
