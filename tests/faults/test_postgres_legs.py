"""Either leg cut, slow, silent or full of rubbish: the right SQLSTATE, no wrong row, others go on."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from proxy.config.model import PostgresLimits, PostgresTls, TlsClient
from proxy.postgres import connection
from tests.parts.certificates import Certificates
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system

STARTUP = struct.pack("!II", 32, 196608) + b"user\0app\0database\0shop\0\0"
assert len(STARTUP) == 32


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.certificates = Certificates(folder / "certs")  # type: ignore[attr-defined]
        server.start(tls=server.certificates.server())  # type: ignore[attr-defined]
        yield server
        server.stop()


@pytest.fixture(scope="module")
def certs(postgres: Postgres) -> Certificates:
    return postgres.certificates  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[Listening]:
    with Listening(config(postgres)) as running:
        yield running


@pytest.fixture(autouse=True)
def others_go_on(postgres: Postgres, proxy: Listening) -> Iterator[None]:
    """Before and after each fault one session lives through it."""
    with connect(postgres, proxy.port) as c:
        c.execute("SELECT 1")
        yield
        assert c.execute("SELECT 2").fetchone() == (2,)


class FakeServer:
    """Does this with each connection, then closes it."""

    def __init__(self, behave: Callable[[socket.socket], Any]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                threading.Thread(target=self._one, args=(link,), daemon=True).start()

    def _one(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link:
            self._behave(link)

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def state_and_text(postgres: Postgres, server: FakeServer, **more: Any) -> str:
    """What a client of the proxy is told whose server behaves like this."""
    limits = PostgresLimits(connect_timeout_seconds=0.5, startup_timeout_seconds=1.0)
    settings = config(postgres, upstream=f"127.0.0.1:{server.port}", limits=limits, **more)
    with Listening(settings) as running:
        return told(running.port)


def told(port: int, data: bytes = STARTUP) -> str:
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.settimeout(10)
        link.sendall(data)
        got = b""
        with contextlib.suppress(OSError):
            while part := link.recv(65536):
                got += part
    return got.decode("latin-1")


# ---- the server ----------------------------------------------------------------------------------
def wait_for_eof(link: socket.socket) -> None:
    while link.recv(4096):
        pass


@pytest.mark.parametrize(
    ("behave", "code"),
    [
        (lambda link: None, "C08006"),
        (lambda link: link.recv(4096), "C08006"),
        (lambda link: (link.recv(4096), link.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")), "C08006"),
        (lambda link: (link.recv(4096), link.sendall(b"R\0\0\0\1")), "C08006"),
        (lambda link: (link.recv(4096), link.sendall(b"R\xff\xff\xff\xff")), "C08006"),
        (lambda link: (link.recv(4096), link.sendall(b"T\0\0\0\6\0\0")), "C08006"),
        (
            lambda link: (link.recv(4096), link.sendall(b"R\0\0\0\x08\0"), wait_for_eof(link)),
            "C08P01",
        ),
        (wait_for_eof, "C08P01"),
    ],
    ids=["hangs-up", "hangs-up-later", "http", "short", "huge", "rows", "half", "silent"],
)
def test_server_that_is_none(postgres, behave, code):
    with FakeServer(behave) as server:
        said = state_and_text(postgres, server)
    assert code in said or (code == "C08006" and "C57P02" in said), said


def test_server_that_never_answers_an_ssl_request(postgres, certs):
    with FakeServer(wait_for_eof) as server:
        said = state_and_text(
            postgres, server, upstream_tls=TlsClient(ca_file=str(certs.ca), mode="verify-ca")
        )
    assert "C08001" in said and "took too long" in said


def test_server_that_stalls_in_the_handshake(postgres, certs):
    with FakeServer(lambda link: (link.recv(8), link.sendall(b"S"), wait_for_eof(link))) as server:
        said = state_and_text(
            postgres, server, upstream_tls=TlsClient(ca_file=str(certs.ca), mode="verify-ca")
        )
    assert "C08001" in said


def test_expired_certificate_of_the_server(certs):
    with open_folder() as folder:
        server = Postgres(folder)
        server.start(tls=certs.expired())
        try:
            settings = config(server, upstream_tls=TlsClient(ca_file=str(certs.ca)))
            with Listening(settings) as running:
                said = told(running.port)
        finally:
            server.stop()
    assert "C08001" in said and "certificate has expired" in said


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@pytest.mark.parametrize("missing", [1, 20, 90])
def test_server_cut_in_the_middle_of_a_row_never_makes_a_wrong_row(postgres, missing):
    """The FATAL must not fall into the row that was being sent, as the end of its value."""
    value = b"x" * 100_000
    row = message(b"D", struct.pack("!HI", 1, len(value)) + value)
    fields = b"\0\1c\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)

    def behave(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(message(b"R", bytes(4)) + message(b"Z", b"I"))
        link.recv(4096)
        link.sendall(message(b"T", fields) + row + row[:-missing])
        time.sleep(0.3)  # so that the first part is on its way to the client

    with FakeServer(behave) as server:
        settings = config(postgres, upstream=f"127.0.0.1:{server.port}")
        with Listening(settings) as running:
            got = told(running.port, STARTUP + message(b"Q", b"SELECT c FROM t\0"))
    assert got.encode("latin-1").endswith(row + row[:-missing])


def test_server_cut_between_rows_is_told_apart_from_an_end(postgres):
    with Tap("127.0.0.1", postgres.port) as tap, Listening(
        config(postgres, upstream=f"127.0.0.1:{tap.port}")
    ) as running, connect(postgres, running.port) as c:  # fmt: skip
        threading.Timer(0.4, tap.cut).start()
        with pytest.raises(psycopg.OperationalError, match="was lost"), c.cursor() as cursor:
            for _ in cursor.stream("SELECT pg_sleep(0.05) FROM generate_series(1, 1000)"):
                pass


def test_server_that_restarts_is_used_again(postgres, certs):
    with open_folder() as folder:
        server = Postgres(folder)
        server.start()
        try:
            with Listening(config(server)) as running:
                sessions = [connect(server, running.port) for _ in range(10)]
                server.restart()
                for c in sessions:
                    with pytest.raises(psycopg.OperationalError):
                        c.execute("SELECT 1")
                    c.close()
                with connect(server, running.port) as c:
                    assert c.execute("SELECT 1").fetchone() == (1,)
        finally:
            server.stop()


def test_slow_server_gives_the_whole_answer(postgres):
    with Tap("127.0.0.1", postgres.port) as tap, Listening(
        config(postgres, upstream=f"127.0.0.1:{tap.port}")
    ) as running, connect(postgres, running.port) as c:  # fmt: skip

        def stutter() -> None:
            for _ in range(5):
                tap.stall()
                time.sleep(0.1)
                tap.resume()
                time.sleep(0.02)

        threading.Thread(target=stutter, daemon=True).start()
        sql = "SELECT i FROM generate_series(1, 100000) i"
        assert sum(row[0] for row in c.execute(sql)) == 100000 * 100001 // 2


# ---- the client ----------------------------------------------------------------------------------
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_client_that_never_reads_is_not_served_into_memory(postgres, certs, tls):
    cert, key = certs.server(label="front")
    front = PostgresTls(cert_file=str(cert), key_file=str(key)) if tls else None
    with Listening(config(postgres, tls=front)) as running:
        c = connect(
            postgres,
            running.port,
            sslmode="require" if tls else "disable",
            channel_binding="disable",
        )
        c.pgconn.nonblocking = 1
        c.pgconn.send_query(b"SELECT repeat('x', 100000) FROM generate_series(1, 5000)")
        while c.pgconn.flush():
            time.sleep(0.01)
        (connection,) = running.listener.connections
        last = -1
        for _ in range(100):
            time.sleep(0.1)
            now = running.listener.traffic[2] + connection.transport.get_write_buffer_size()
            if now == last:
                break
            last = now
        buffered = connection.transport.get_write_buffer_size()
        assert buffered < 4 * 1024 * 1024
        assert connection.session.wire.server_buffered < 1024 * 1024
        c.close()
        end = time.monotonic() + 10
        while running.listener.connections:
            assert time.monotonic() < end, "its server's connection is given up, too"
            time.sleep(0.02)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_client_that_never_reads_its_end_is_not_kept_for_it(postgres, certs, monkeypatch, tls):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)
    cert, key = certs.server(label="front")
    front = PostgresTls(cert_file=str(cert), key_file=str(key)) if tls else None
    with Listening(config(postgres, tls=front)) as running:
        c = connect(
            postgres,
            running.port,
            sslmode="require" if tls else "disable",
            channel_binding="disable",
        )
        c.pgconn.nonblocking = 1
        c.pgconn.send_query(b"SELECT repeat('x', 100000) FROM generate_series(1, 5000)")
        while c.pgconn.flush():
            time.sleep(0.01)
        (held,) = running.listener.connections
        end = time.monotonic() + 8
        while held.client_writable:
            assert time.monotonic() < end
            time.sleep(0.05)
        running._loop.call_soon_threadsafe(held.shut_down)
        end = time.monotonic() + 8
        while running.listener.connections:
            assert time.monotonic() < end, "it is kept until the client reads"
            time.sleep(0.05)
        c.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\xff\xff" + b"\0" * 600,
        b"\x16" * 3000,
        struct.pack("!II", 8, 80877103) + b"",
        STARTUP[:9],
        b"\0",
    ],
    ids=["tls-rubbish", "tls-first-bytes", "ssl-then-nothing", "half-startup", "one-byte"],
)
def test_client_that_begins_and_stops(postgres, certs, data):
    cert, key = certs.server(label="front")
    settings = config(
        postgres,
        tls=PostgresTls(cert_file=str(cert), key_file=str(key)),
        limits=PostgresLimits(startup_timeout_seconds=0.7),
    )
    with Listening(settings) as running:
        start = time.monotonic()
        told(running.port, data)
        assert time.monotonic() - start < 5
        end = time.monotonic() + 5
        while running.listener.connections or any(g.arriving for g in running.listener._gates):
            assert time.monotonic() < end
            time.sleep(0.02)
        with connect(postgres, running.port, sslmode="require", channel_binding="disable"):
            pass


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_client_that_leaves_in_the_handshake_keeps_nobodys_place(postgres, certs, reset):
    cert, key = certs.server(label="front")
    settings = config(
        postgres,
        tls=PostgresTls(cert_file=str(cert), key_file=str(key)),
        limits=PostgresLimits(max_unauthenticated=3),
    )
    with Listening(settings) as running:
        for _ in range(6):
            with socket.create_connection(("127.0.0.1", running.port)) as link:
                link.sendall(struct.pack("!II", 8, 80877103))
                assert link.recv(1) == b"S"
                if reset:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end = time.monotonic() + 5
            while running.listener.connections:
                assert time.monotonic() < end, "it is still counted as a connection"
                time.sleep(0.01)
        with connect(postgres, running.port, sslmode="require", channel_binding="disable"):
            pass


def test_client_that_leaves_in_the_middle_takes_its_server_connection_along(postgres, proxy):
    with connect(postgres, postgres.port) as admin:
        count = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE query LIKE '%leaves%' AND pid <> pg_backend_pid()"
        )
        c = connect(postgres, proxy.port)
        c.pgconn.send_query(b"SELECT 'leaves', repeat('x', 100000) FROM generate_series(1, 100000)")
        with socket.socket(fileno=os.dup(c.fileno())) as sock:  # c's close is a reset then
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        c.close()
        end = time.monotonic() + 10
        while admin.execute(count).fetchone() != (0,):
            assert time.monotonic() < end
            time.sleep(0.05)


def test_client_tls_that_breaks_off_in_a_session(postgres, certs):
    cert, key = certs.server(label="front")
    settings = config(postgres, tls=PostgresTls(cert_file=str(cert), key_file=str(key)))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    with Listening(settings) as running:
        raw = socket.create_connection(("127.0.0.1", running.port))
        link = context.wrap_socket(raw)
        link.sendall(STARTUP)
        assert link.recv(1) == b"R"
        inner = socket.socket(fileno=link.detach())
        inner.sendall(b"this is no TLS record, this is no TLS record")
        inner.settimeout(5)
        with contextlib.suppress(OSError):
            while inner.recv(4096):
                pass
        inner.close()
        end = time.monotonic() + 5
        while running.listener.connections:
            assert time.monotonic() < end
            time.sleep(0.02)
