"""Time-outs and limits of the proxy, with the SQLSTATE that PostgreSQL gives for each."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.config.model import Keepalive, PostgresConfig, PostgresLimits
from proxy.postgres.timeouts import CANCEL, Timeouts
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with open_folder() as folder:
        server = Postgres(folder)
        server.start()
        yield server
        server.stop()


def limited(postgres: Postgres, **limits: Any) -> PostgresConfig:
    return config(postgres, limits=PostgresLimits(**limits))


def test_idle_session_ends(postgres):
    with (
        Listening(limited(postgres, idle_session_timeout_seconds=0.3)) as running,
        connect(postgres, running.port) as c,
    ):
        for _ in range(4):
            time.sleep(0.15)
            c.execute("SELECT 1")
        time.sleep(1.0)
        with pytest.raises(psycopg.errors.IdleSessionTimeout):
            c.execute("SELECT 1")


def test_idle_transaction_ends_and_the_server_rolls_back(postgres):
    settings = limited(postgres, idle_in_transaction_timeout_seconds=0.3)
    with Listening(settings) as running, connect(postgres, running.port) as c:
        time.sleep(0.8)  # idle outside a transaction does not count
        c.execute("CREATE TABLE held (a int)")
        c.execute("BEGIN")
        c.execute("LOCK TABLE held")
        time.sleep(1.0)
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            c.execute("SELECT 1")
        with connect(postgres, postgres.port) as other:
            other.execute("SET lock_timeout = '2s'")
            other.execute("DROP TABLE held")


def test_long_statement_is_cancelled_on_the_server_and_the_session_lives(postgres):
    settings = limited(postgres, statement_timeout_seconds=0.4)
    with Listening(settings) as running, connect(postgres, running.port) as c:
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            c.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 5
        for _ in range(4):  # many short ones are no long one
            c.execute("SELECT pg_sleep(0.2)")


def test_statement_that_cannot_be_cancelled_ends_its_connection():
    timeouts = Timeouts(PostgresLimits(statement_timeout_seconds=1.0))
    timeouts.client_sent(1, 100.0)
    assert timeouts.due(1, b"I", 100.9) is None
    assert timeouts.due(1, b"I", 101.0) == CANCEL
    assert timeouts.due(1, b"I", 105.0) is None
    assert timeouts.due(1, b"I", 111.1) == "57014"


def test_too_many_connections(postgres):
    with Listening(limited(postgres, max_connections=2)) as running:
        with (
            connect(postgres, running.port),
            connect(postgres, running.port),
            pytest.raises(psycopg.OperationalError, match="too many clients"),
        ):
            connect(postgres, running.port)
        deadline = time.monotonic() + 5
        while running.listener.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        with connect(postgres, running.port) as c:
            c.execute("SELECT 1")


def test_too_many_connections_of_one_user(postgres):
    with connect(postgres, postgres.port) as admin:
        admin.execute(f"CREATE ROLE second LOGIN SUPERUSER PASSWORD '{postgres.password}'")
    with (
        Listening(limited(postgres, max_connections_per_user=1)) as running,
        connect(postgres, running.port),
    ):
        with pytest.raises(psycopg.OperationalError, match='too many connections for role "app"'):
            connect(postgres, running.port)
        with connect(postgres, running.port, user="second"):
            pass


def test_silent_clients_do_not_take_the_place_of_others_for_long(postgres):
    settings = limited(postgres, max_unauthenticated=8, startup_timeout_seconds=0.5)
    with Listening(settings) as running, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            connect(postgres, running.port)
        time.sleep(0.8)
        with connect(postgres, running.port) as c:
            assert c.execute("SELECT 1").fetchone() == (1,)
            time.sleep(0.8)  # who is in stays in
            assert c.execute("SELECT 2").fetchone() == (2,)


def test_a_client_that_floods_before_it_is_known_is_not_read(postgres):
    with (
        Listening(limited(postgres, startup_timeout_seconds=1.0)) as running,
        socket.create_connection(("127.0.0.1", running.port)) as link,
    ):
        link.settimeout(0.2)
        link.sendall(b"\0\0\x20\0" + b"\0\3\0\0")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 64 * 1024 * 1024:
                sent += link.send(bytes(1 << 16))
        assert sent < 32 * 1024 * 1024, "socket buffers only"


def test_keepalive_is_set_on_both_legs(postgres):
    settings = config(postgres, keepalive=Keepalive(idle_seconds=33, user_timeout_seconds=44))
    with Listening(settings) as running, connect(postgres, running.port):
        (connection,) = running.listener.connections
        for transport in (connection.transport, connection.server.transport):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 44_000


def test_errors_and_bytes_are_counted(postgres):
    from proxy.metrics import pg_bytes_total, pg_errors_total

    def errors(name: str) -> float:
        return float(pg_errors_total.labels(name)._value.get())

    with Listening(config(postgres)) as running, connect(postgres, running.port) as c:
        before = errors("22"), errors("42"), pg_bytes_total.labels("client", "out")._value.get()
        for sql in ("SELECT 1/0", "SELECT * FROM nope", "SELECT 1/0"):
            with contextlib.suppress(psycopg.Error):
                c.execute(sql)
        c.execute("SELECT repeat('x', 100000)")
        running.listener.publish()
        assert (errors("22") - before[0], errors("42") - before[1]) == (2, 1)
        assert pg_bytes_total.labels("client", "out")._value.get() - before[2] > 100_000
