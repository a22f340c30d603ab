"""Malformed and hostile input to both listeners: a proper error, and the process lives."""

import http.client
import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.parts.stack import Stack

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("bad")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    with Stack(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def still_alive(stack: Stack) -> Iterator[None]:
    """After each test the same processes serve both protocols."""
    before = stack.proxy.worker_pids()
    yield
    with psycopg.connect(stack.dsn()) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)
    link = http.client.HTTPConnection("127.0.0.1", stack.proxy.s3_port, timeout=10)
    link.request("GET", "/")
    assert link.getresponse().status == 403
    assert stack.proxy.worker_pids() == before


def pg(stack: Stack, data: bytes, port: int = 0) -> bytes:
    """Everything the proxy (or who listens on `port`) answers until it closes, or for ten seconds."""
    with socket.create_connection(("127.0.0.1", port or stack.pg_port), 5) as link:
        link.settimeout(10)
        link.sendall(data)
        got = b""
        try:
            while part := link.recv(65536):
                got += part
        except (TimeoutError, ConnectionResetError):
            pass
        return got


def startup(*pairs: bytes, version: int = 196608) -> bytes:
    body = struct.pack("!I", version) + b"\0".join(pairs) + b"\0\0"
    return struct.pack("!I", len(body) + 4) + body


def sqlstate(answer: bytes) -> str:
    assert answer[:1] == b"E", answer[:80]
    fields = dict((f[:1], f[1:]) for f in answer[5:].split(b"\0") if f)
    return fields[b"C"].decode()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", 2**31 - 1, 196608),  # a length that nobody sends
        struct.pack("!II", 4, 0),  # shorter than its own header
        struct.pack("!I", 0),
        struct.pack("!IH", 6, 0),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["huge", "tiny", "zero", "six", "http"],
)
def test_what_is_no_packet_ends_without_a_word_as_at_the_server(stack: Stack, data: bytes) -> None:
    """PostgreSQL's ProcessStartupPacket only logs an invalid length."""
    assert pg(stack, data) == pg(stack, data, stack.postgres.port) == b""


@pytest.mark.parametrize(
    "data",
    [
        startup(b"user", version=2 << 16),  # protocol 2
        startup(b"user", b"x", version=9 << 16),
        startup(b"database", b"x"),  # no user
        struct.pack("!II", 12, 196608) + b"user",  # no terminator
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
        + bytes(200),  # TLS where none is configured
        startup(b"user", b"x", b"replication", b"true"),
    ],
    ids=[
        "v2",
        "v9",
        "nouser",
        "unterminated",
        "tls",
        "replication",
    ],
)
def test_malformed_startup_is_a_fatal_error(stack: Stack, data: bytes) -> None:
    answer = pg(stack, data)
    assert sqlstate(answer) in {"08P01", "0A000", "28000"}


def test_half_a_startup_then_silence_holds_nothing_up(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", stack.pg_port), 5) as link:
        link.sendall(startup(b"user", b"app")[:7])
        with psycopg.connect(stack.dsn()) as c:
            assert c.execute("SELECT 2").fetchone() == (2,)


@pytest.mark.parametrize(
    "message",
    [
        b"Q" + struct.pack("!I", 3),
        b"Q" + struct.pack("!I", 2**31 - 1),
        b"Q" + struct.pack("!I", 0xFFFFFFFF),
        b"\0\0\0\0\0",
        b"B" + struct.pack("!I", 6) + b"\0\0",
        b"P" + struct.pack("!I", 8) + b"abcd",
        b"B" + struct.pack("!I", 14) + b"\0\0" + struct.pack("!HHI", 0, 9999, 0),
        b"D" + struct.pack("!I", 6) + b"Zx",
        b"E" + struct.pack("!I", 5) + b"\0",
    ],
)
def test_malformed_message_after_authentication(stack: Stack, message: bytes) -> None:
    with psycopg.connect(stack.dsn(), autocommit=True) as c:
        link = socket.socket(fileno=os.dup(c.fileno()))
        link.settimeout(10)
        link.setblocking(True)
        link.sendall(message + b"S\0\0\0\4")
        time.sleep(0.2)
        link.setblocking(False)
        got = b""
        try:
            got = link.recv(65536)
        except BlockingIOError:
            pytest.fail("no answer")
        except ConnectionResetError:
            got = b""
        assert got == b"" or sqlstate(got) in {"08P01", "26000", "54000"}
        link.close()


def s3(stack: Stack, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", stack.proxy.s3_port), 5) as link:
        link.settimeout(10)
        link.sendall(data)
        got = b""
        try:
            while part := link.recv(65536):
                got += part
                if b"</Error>" in got:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
        return got


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"\0\1\2\3\r\n\r\n", b"400"),
        (b"GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n", b"403"),
        (b"GET /b/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 junk\r\n\r\n", b"40"),
        (
            b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nhello",
            b"400",
        ),
        (b"GET /b HTTP/1.1\r\n" + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n", b"4"),
        (b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", b"400"),
    ],
    ids=["version", "junk", "anonymous", "auth", "smuggle", "headers", "length"],
)
def test_malformed_request_gets_an_error(stack: Stack, data: bytes, status: bytes) -> None:
    answer = s3(stack, data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:200]


def test_random_bytes_on_both_ports(stack: Stack) -> None:
    seed = 20261124
    source = random.Random(seed)
    for _ in range(150):
        junk = source.randbytes(source.randrange(1, 300))
        for port in (stack.pg_port, stack.proxy.s3_port):
            with socket.create_connection(("127.0.0.1", port), 5) as link:
                link.sendall(junk)
