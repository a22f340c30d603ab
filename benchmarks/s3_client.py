"""A client that costs next to nothing: presigned requests over kept connections.

Bodies go out of a memory file by sendfile(2); what comes back is counted and thrown away in the kernel
(MSG_TRUNC on TCP, tcp(7)), never copied. Whether the bytes are right is a question for tests; here
every answer's status and length are checked.
"""

import os
import socket
import struct
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

_DISCARD_BYTES = 4 << 20
_QUIET_SECONDS = 60  # without a byte: then the connection is given up


class Zeros:
    """A memory file of `size` bytes, sent by whoever asks."""

    def __init__(self, size: int) -> None:
        self.fd = os.memfd_create("body")
        weakref.finalize(self, os.close, self.fd)
        self.size = size
        os.truncate(self.fd, size)

    def send(self, link: socket.socket, size: int) -> None:
        sent = 0
        while sent < size:
            sent += os.sendfile(link.fileno(), self.fd, sent % self.size, size - sent)


class Link:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel's own limits: Python's would make the socket non-blocking, which sendfile(2) minds.
        limit = struct.pack("ll", _QUIET_SECONDS, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._buffer = bytearray(_DISCARD_BYTES)
        self.etag = ""

    def ask(
        self, head: bytes, body: Zeros | None = None, size: int = 0, pause: float = 0.0
    ) -> tuple[int, int]:
        """Status and length of the answer's body, which is not looked at for `pause` seconds."""
        self._socket.sendall(head)
        time.sleep(pause)
        if body is not None:
            body.send(self._socket, size)
        got = b""
        while (at := got.find(b"\r\n\r\n")) < 0:
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionError("the connection ended before an answer")
            got += piece
        lines = got[:at].decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        self.etag = headers.get("etag", "")
        status, left = int(lines[0].split()[1]), int(headers.get("content-length", "0"))
        length, left = left, left - (len(got) - at - 4)
        while left > 0:
            n = self._socket.recv_into(self._buffer, min(left, _DISCARD_BYTES), socket.MSG_TRUNC)
            if not n:
                raise ConnectionError(f"the connection ended {left} bytes early")
            left -= n
        return status, length

    def close(self) -> None:
        self._socket.close()


class Target:
    """Where to connect, and how its requests are signed (a peer forwards the origin's own host)."""

    def __init__(
        self, name: str, port: int, pid: int, endpoint: str, keys: tuple[str, str], bucket: str,
        signed: bool = True,
    ):  # fmt: skip
        self.name, self.port, self.pid, self.bucket, self.signed = name, port, pid, bucket, signed
        self.host = urlsplit(endpoint).netloc
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                read_timeout=600,
            ),
        )

    def head(
        self, method: str, operation: str, key: str, size: int = 0, extra: str = "", **more: object
    ) -> bytes:
        """A request's head."""
        if self.signed:
            url = urlsplit(
                self.client.generate_presigned_url(
                    operation,
                    Params={"Bucket": self.bucket, "Key": key, **more},
                    ExpiresIn=36_000,
                )
            )
            path = f"{url.path}?{url.query}"
        else:
            upload, number = more.get("UploadId"), more.get("PartNumber")
            query = f"?partNumber={number}&uploadId={upload}" if upload else ""
            path = f"/{self.bucket}/{key}{query}"
        length = f"Content-Length: {size}\r\n" if method == "PUT" else ""
        return f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{length}{extra}\r\n".encode()


def parallel(
    target: Target,
    heads: list[list[bytes]],
    body: Zeros | None,
    size: int,
    length: int,
    pause: float = 0.0,
) -> list[list[str]]:
    """Each list of requests on a connection of its own. `length`: what each answer has to bring.

    Returns the ETags, list by list. RuntimeError on any other status than 200 or 206, OSError on a
    connection that ends or is quiet for a minute.
    """

    def one(requests: list[bytes]) -> list[str]:
        link = Link(target.port)
        tags = []
        try:
            for head in requests:
                status, got = link.ask(head, body, size, pause)
                if status not in (200, 206) or (length >= 0 and got != length):
                    raise RuntimeError(f"{target.name}: {status}, {got} of {length}: {head[:80]!r}")
                tags.append(link.etag)
        finally:
            link.close()
        return tags

    if len(heads) == 1:
        return [one(heads[0])]
    with ThreadPoolExecutor(len(heads)) as pool:
        return list(pool.map(one, heads))
