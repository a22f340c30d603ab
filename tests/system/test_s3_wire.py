"""Bad input, broken peers: raw sockets on one side, an origin of our own on the other."""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from proxy.s3 import sigv4
from proxy.s3.operations import patience
from proxy.s3.sigv4 import OriginCredentials, sign
from tests.parts.s3_gateway import Gateway

pytestmark = pytest.mark.system


class Origin:
    """Keeps what is PUT, byte for byte; misbehaves as `fault` says. One thread per connection."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.fault = ""
        self.asked: dict[str, str] = {}  # the last request's headers
        self.broken_uploads = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as stream:
            while line := stream.readline():
                method, path, _ = line.decode().split(" ", 2)
                headers: dict[str, str] = {}
                while item := stream.readline().decode("latin-1").strip():
                    name, _, value = item.partition(":")
                    headers[name] = value.strip()
                self.asked = headers
                length = int(headers.get("content-length", "0"))
                if self.fault == "accept early" and method == "PUT":
                    peer.sendall(b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 0\r\n\r\n')
                    stream.read(length)
                    return
                if self.fault == "refuse early" and method == "PUT":
                    peer.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                    return
                body = stream.read(length)
                if len(body) < length:
                    self.broken_uploads += 1
                    return
                peer.sendall(self._answer(method, path.partition("?")[0], headers, body))
                if self.fault in ("early end", "close"):
                    return

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        envelope = headers.get("x-amz-meta-sealgate", "")
        if self.fault == "refuse late" and method == "PUT":
            time.sleep(0.1)
            return b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
        if method == "PUT":
            self.objects[path] = (body, envelope)
            tag = hashlib.md5(body).hexdigest()
            return f'HTTP/1.1 200 OK\r\netag: "{tag}"\r\ncontent-length: 0\r\n\r\n'.encode()
        if path not in self.objects:
            return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
        if self.fault == "not http":
            return b"SSH-2.0-OpenSSH_9\r\n\r\n"
        if self.fault == "two lengths":
            return b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"
        if self.fault == "silent":
            time.sleep(5)
            return b""
        body, envelope = self.objects[path]
        head = (
            f'HTTP/1.1 200 OK\r\nx-amz-meta-sealgate: {envelope}\r\netag: "e"\r\n'
            f"content-length: {len(body)}\r\n\r\n"
        ).encode()
        return head + (body[: len(body) // 2] if self.fault == "early end" else body)


@pytest.fixture
def origin() -> Iterator[Origin]:
    server = Origin()
    yield server
    server.close()


@pytest.fixture
def gateway(origin: Origin) -> Iterator[Gateway]:
    running = Gateway(origin.endpoint, "OA", "OS", stall_timeout_seconds=1.0).start()
    yield running
    running.stop()


def request(
    gateway: Gateway, method: str, path: str, payload: str = sigv4.UNSIGNED, **extra: str
) -> bytes:
    """Head of a well-signed request."""
    headers = [(n.replace("_", "-"), v) for n, v in extra.items() if n.startswith("x_amz")]
    signed = sign(
        method,
        f"127.0.0.1:{gateway.port}",
        path,
        "",
        headers,
        OriginCredentials("CLIENT", "client-secret"),
        "us-east-1",
        datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        payload,
    )
    others = [(n.replace("_", "-"), v) for n, v in extra.items() if not n.startswith("x_amz")]
    lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in [*signed, *others])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def put(gateway: Gateway, path: str, body: bytes) -> bytes:
    return request(gateway, "PUT", path, content_length=str(len(body))) + body


def talk(gateway: Gateway, data: bytes, seconds: float = 10.0) -> bytes:
    """Everything the gateway answers until it closes or is quiet after a whole answer."""
    with socket.create_connection(("127.0.0.1", gateway.port), seconds) as peer:
        peer.sendall(data)
        return read_answer(peer)


def read_answer(peer: socket.socket) -> bytes:
    out = b""
    while b"\r\n\r\n" not in out and (piece := peer.recv(65536)):
        out += piece
    head, _, body = out.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length and (piece := peer.recv(65536)):
        body += piece
    return head + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"PUT /sealed-a/k HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        b"PUT /sealed-a/k HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n"
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"PUT /sealed-a/k HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"PUT /sealed-a/k HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
        b"GET / HTTP/1.1\nhost: a\n\n" + b"x" * 9,
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_gateway_lives(gateway: Gateway, data: bytes) -> None:
    answer = talk(gateway, data)
    assert 400 <= status(answer) < 500 or answer == b"\r\n\r\n", answer
    assert status(talk(gateway, put(gateway, "/sealed-a/k", b"alive"))) == 200


def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(
            put(gateway, "/sealed-a/p", b"one" * 20_000)
            + request(gateway, "GET", "/sealed-a/p")
            + request(gateway, "GET", "/sealed-a/none")
        )
        peer.settimeout(10)
        seen = b""
        while seen.count(b"HTTP/1.1 ") < 3 and (piece := peer.recv(65536)):
            seen += piece
    assert [int(p[:3]) for p in seen.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]
    assert b"one" * 20_000 in seen


def test_a_client_that_vanishes_leaves_nothing_behind(gateway: Gateway, origin: Origin) -> None:
    head = request(gateway, "PUT", "/sealed-a/gone", content_length="1000000")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head + b"x" * 500_000)
        time.sleep(0.2)
    end = time.monotonic() + 5
    while not origin.broken_uploads and time.monotonic() < end:
        time.sleep(0.02)
    assert (origin.broken_uploads, origin.objects) == (1, {})


@pytest.mark.parametrize("payload", [hashlib.sha256(b"other").hexdigest()])
def test_a_body_that_fails_its_checksum_is_not_stored(
    gateway: Gateway, origin: Origin, payload: str
) -> None:
    body = b"x" * 100_000
    data = request(gateway, "PUT", "/sealed-a/bad", payload, content_length=str(len(body))) + body
    answer = talk(gateway, data)
    assert status(answer) == 400 and b"XAmzContentSHA256Mismatch" in answer
    data = (
        request(
            gateway,
            "PUT",
            "/sealed-a/bad",
            content_length=str(len(body)),
            content_md5="1B2M2Y8AsgTpgAmY7PhCfg==",
        )
        + body
    )
    assert b"BadDigest" in talk(gateway, data)
    assert origin.objects == {}


def test_an_empty_body_that_fails_its_checksum_is_not_stored_either(
    gateway: Gateway, origin: Origin
) -> None:
    """An origin takes an empty object with its head: the checks have to come first."""
    signed = request(
        gateway,
        "PUT",
        "/plain-a/empty",
        sigv4.STREAMING_SIGNED,
        content_length="86",
        content_encoding="aws-chunked",
        x_amz_decoded_content_length="0",
    )
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(signed)
        time.sleep(0.3)  # an origin would have answered by now
        peer.sendall(b"0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n")
        answer = read_answer(peer)
    assert status(answer) == 403 and b"SignatureDoesNotMatch" in answer
    assert origin.objects == {}


@pytest.mark.parametrize("path", ["/plain-a/half", "/sealed-a/half"])
def test_an_origin_that_claims_to_have_what_it_was_not_sent_is_not_believed(
    gateway: Gateway, origin: Origin, path: str
) -> None:
    origin.fault = "accept early"
    head = request(gateway, "PUT", path, content_length="1000000")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head + b"x" * 300_000)
        answer = read_answer(peer)
    assert status(answer) == 503, answer


def test_continue_is_said_only_after_authentication(gateway: Gateway) -> None:
    head = request(gateway, "PUT", "/sealed-a/c", content_length="5", expect="100-continue")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head)
        assert peer.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.sendall(b"hello")
        assert status(read_answer(peer)) == 200
    wrong = head.replace(b"Signature=", b"Signature=0")
    assert status(talk(gateway, wrong)) == 403
    refused = request(gateway, "PUT", "/denied-a/c", content_length="5", expect="100-continue")
    assert status(talk(gateway, refused)) == 403


def test_a_put_without_length_is_411(gateway: Gateway) -> None:
    data = request(gateway, "PUT", "/sealed-a/k", transfer_encoding="chunked")
    assert status(talk(gateway, data + b"3\r\nabc\r\n0\r\n\r\n")) == 411


def test_aws_chunked_inside_chunked_coding_is_decoded(gateway: Gateway, origin: Origin) -> None:
    inner = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    head = request(
        gateway,
        "PUT",
        "/sealed-a/n",
        sigv4.STREAMING_UNSIGNED_TRAILER,
        transfer_encoding="chunked",
        content_encoding="aws-chunked",
        x_amz_decoded_content_length="5",
        x_amz_trailer="x-amz-checksum-crc32",
    )
    whole = b"".join(b"%x\r\n%b\r\n" % (1, inner[i : i + 1]) for i in range(len(inner)))
    assert status(talk(gateway, head + whole + b"0\r\n\r\n")) == 200
    assert talk(gateway, request(gateway, "GET", "/sealed-a/n")).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("fault", ["not http", "two lengths", "close", "silent"])
def test_a_broken_origin_is_503_and_never_tampering(
    gateway: Gateway, origin: Origin, fault: str
) -> None:
    assert status(talk(gateway, put(gateway, "/sealed-a/o", b"data" * 10_000))) == 200
    origin.fault = fault
    answer = talk(gateway, request(gateway, "GET", "/sealed-a/o"))
    assert status(answer) == (200 if fault == "close" else 503)
    assert b"Integrity" not in answer


def test_an_origin_that_ends_early_ends_the_answer_short(gateway: Gateway, origin: Origin) -> None:
    data = bytes(range(256)) * 4096
    assert status(talk(gateway, put(gateway, "/sealed-a/o", data))) == 200
    origin.fault = "early end"
    answer = talk(gateway, request(gateway, "GET", "/sealed-a/o"))
    body = answer.partition(b"\r\n\r\n")[2]
    if status(answer) == 200:
        assert f"content-length: {len(data)}".encode() in answer
        assert len(body) < len(data) and data.startswith(body)
    else:
        assert status(answer) == 503


def test_the_origin_is_asked_for_the_source_that_was_decided_about(
    gateway: Gateway, origin: Origin
) -> None:
    """`+` is a blank to some origins; no source may be read in two ways."""
    talk(gateway, request(gateway, "PUT", "/plain-a/c", x_amz_copy_source="plain-b/a+b%20c?d"))
    assert origin.asked["x-amz-copy-source"] == "/plain-b/a%2Bb%20c?versionId=d"


@pytest.mark.parametrize("seconds", [10.0, 0.0005])
def test_a_copy_that_the_origin_refuses_without_a_word_is_told_as_an_error(
    gateway: Gateway, origin: Origin, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(patience, "QUIET_SECONDS", seconds)
    assert status(talk(gateway, put(gateway, "/sealed-a/from", b"x"))) == 200
    origin.fault = "refuse late"
    head = request(gateway, "PUT", "/sealed-a/to", x_amz_copy_source="/sealed-a/from")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(head)
        peer.settimeout(2)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while piece := peer.recv(65536):
                answer += piece
                if b"0\r\n\r\n" in answer or b"content-length: 0" in answer:
                    break
    late = status(answer) == 200
    assert late == (seconds < 1)
    assert not late or b"<Code>AccessDenied</Code>" in answer
    assert late or status(answer) == 403


def test_an_origin_that_refuses_early_is_heard(gateway: Gateway, origin: Origin) -> None:
    origin.fault = "refuse early"
    answer = talk(gateway, put(gateway, "/sealed-a/r", b"x" * 3_000_000))
    assert status(answer) in (403, 503)


def test_a_client_that_stalls_is_cut_off(gateway: Gateway) -> None:
    for data in (b"GET / HT", request(gateway, "PUT", "/sealed-a/s", content_length="10") + b"1"):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
            peer.sendall(data)
            peer.settimeout(8)
            with contextlib.suppress(ConnectionResetError):
                assert b"200 OK" not in peer.recv(1000)
        assert time.monotonic() - begun < 7


def test_a_drain_lets_requests_end(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as peer:
        peer.sendall(request(gateway, "PUT", "/sealed-a/d", content_length="10") + b"12345")
        time.sleep(0.1)
        closing = threading.Thread(target=lambda: gateway.run(lambda: gateway.gateway.drain(5)))
        closing.start()
        time.sleep(0.1)
        peer.sendall(b"67890")
        answer = read_answer(peer)
        closing.join()
    assert status(answer) == 200 and b"connection: close" in answer
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port), 1)
