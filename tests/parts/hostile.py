"""An origin of our own that keeps what it is given and answers as a test wants: truly, or not.

A small S3 in memory over `http.server`: objects with ranges and conditions, multipart, ListParts,
ListObjectsV2, copies, deletes. It believes every signature. `twist` may change any answer before it is sent;
`refuse` may answer a request instead of the store; `cut_after` ends a body early.
"""

import hashlib
import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

_KEPT = ("x-amz-meta-", "content-type", "cache-control", "content-disposition", "expires")


@dataclass
class Stored:
    """One object as this origin keeps it."""

    body: bytes
    headers: dict[str, str]
    etag: str


@dataclass
class Answer:
    """What is about to be sent. `length` None: the body's own."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    cut_after: int | None = None  # then the connection ends


@dataclass
class Asked:
    """A request as it came."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class _Upload:
    headers: dict[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


def _etag(body: bytes) -> str:
    return '"' + hashlib.md5(body, usedforsecurity=False).hexdigest() + '"'


def error(status: int, code: str, message: str = "") -> Answer:
    """An S3 error document."""
    text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    return Answer(status, {"content-type": "application/xml"}, text.encode())


def _xml(text: str) -> Answer:
    return Answer(200, {"content-type": "application/xml"}, text.encode())


class HostileOrigin:
    """`objects` maps (bucket, key) to what is stored; tests read and damage it freely."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, _Upload] = {}
        self.twist: Callable[[Asked, Answer], Answer] | None = None
        self.refuse: Callable[[Asked], Answer | None] | None = None
        self.asked: list[Asked] = []
        self._numbers = itertools.count(1)
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True
                    return
                parts = urlsplit(self.path)
                bucket, _, key = unquote(parts.path[1:]).partition("/")
                headers = {n.lower(): v for n, v in self.headers.items()}
                query = dict(parse_qsl(parts.query, keep_blank_values=True))
                asked = Asked(self.command, bucket, key, query, headers, body)
                origin.asked.append(asked)
                answer = origin.refuse(asked) if origin.refuse else None
                answer = answer or origin.answer(asked)
                if origin.twist:
                    answer = origin.twist(asked, answer)
                self._send(answer)

            def _send(self, answer: Answer) -> None:
                self.send_response_only(answer.status)
                length = len(answer.body) if answer.length is None else answer.length
                if "content-length" not in answer.headers and answer.status not in (204, 304):
                    self.send_header("content-length", str(length))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(answer.body[: answer.cut_after])
                if answer.cut_after is not None or len(answer.body) != length:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- the honest store --------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        """What an honest S3 would say."""
        if not asked.key:
            return self._bucket(asked)
        if "uploads" in asked.query or "uploadId" in asked.query:
            return self._multipart(asked)
        if asked.method == "PUT" and "x-amz-copy-source" in asked.headers:
            return self._copy(asked)
        if asked.method == "PUT":
            stored = Stored(asked.body, _kept(asked.headers), _etag(asked.body))
            self.objects[asked.bucket, asked.key] = stored
            return Answer(200, {"etag": stored.etag})
        if asked.method == "DELETE":
            self.objects.pop((asked.bucket, asked.key), None)
            return Answer(204)
        stored_or_none = self.objects.get((asked.bucket, asked.key))
        if stored_or_none is None:
            return error(404, "NoSuchKey")
        return _read(asked, stored_or_none)

    def _bucket(self, asked: Asked) -> Answer:
        if "delete" in asked.query:
            for key in re.findall(r"<Key>(.*?)</Key>", asked.body.decode(), re.S):
                self.objects.pop((asked.bucket, unescape(key)), None)
            return _xml("<DeleteResult></DeleteResult>")
        if asked.method != "GET":
            return Answer(200)
        prefix = asked.query.get("prefix", "")
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><ETag>{escape(stored.etag)}</ETag>"
            f"<Size>{len(stored.body)}</Size></Contents>"
            for (bucket, key), stored in sorted(self.objects.items())
            if bucket == asked.bucket and key.startswith(prefix)
        )
        return _xml(
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
        )

    def _copy(self, asked: Asked) -> Answer:
        source = unquote(asked.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/")
        bucket, _, key = source.partition("/")
        found = self.objects.get((bucket, key))
        if found is None:
            return error(404, "NoSuchKey")
        copied = Stored(found.body, _kept(asked.headers), found.etag)
        self.objects[asked.bucket, asked.key] = copied
        return _xml(f"<CopyObjectResult><ETag>{escape(found.etag)}</ETag></CopyObjectResult>")

    def _multipart(self, asked: Asked) -> Answer:
        if "uploads" in asked.query:
            name = f"upload-{next(self._numbers)}"
            self.uploads[name] = _Upload(_kept(asked.headers))
            return _xml(
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        upload = self.uploads.get(asked.query["uploadId"])
        if upload is None:
            return error(404, "NoSuchUpload")
        if asked.method == "PUT":
            part = Stored(asked.body, {}, _etag(asked.body))
            upload.parts[int(asked.query["partNumber"])] = part
            return Answer(200, {"etag": part.etag})
        if asked.method == "GET":
            entries = "".join(
                f"<Part><PartNumber>{n}</PartNumber><ETag>{escape(p.etag)}</ETag>"
                f"<Size>{len(p.body)}</Size></Part>"
                for n, p in sorted(upload.parts.items())
            )
            return _xml(
                f"<ListPartsResult><IsTruncated>false</IsTruncated>{entries}</ListPartsResult>"
            )
        del self.uploads[asked.query["uploadId"]]
        if asked.method == "DELETE":
            return Answer(204)
        numbers = [
            int(n) for n in re.findall(r"<PartNumber>(\d+)</PartNumber>", asked.body.decode())
        ]
        body = b"".join(upload.parts[n].body for n in numbers)
        etag = f'{_etag(body)[:-1]}-{len(numbers)}"'
        self.objects[asked.bucket, asked.key] = Stored(body, upload.headers, etag)
        return _xml(
            "<CompleteMultipartUploadResult>"
            f"<ETag>{escape(etag)}</ETag></CompleteMultipartUploadResult>"
        )


def _kept(headers: dict[str, str]) -> dict[str, str]:
    return {n: v for n, v in headers.items() if n.startswith(_KEPT)}


def _read(asked: Asked, stored: Stored) -> Answer:
    headers = {**stored.headers, "etag": stored.etag}
    if asked.headers.get("if-match", stored.etag) != stored.etag:
        return error(412, "PreconditionFailed")
    if asked.headers.get("if-none-match") == stored.etag:
        return Answer(304, headers)
    total = len(stored.body)
    match = re.match(r"bytes=(\d*)-(\d*)\Z", asked.headers.get("range", ""))
    if match is None:
        return Answer(200, headers, stored.body)
    first, last = match.groups()
    start = int(first) if first else max(0, total - int(last))
    stop = min(total, int(last) + 1) if first and last else total
    if start >= total:
        return error(416, "InvalidRange")
    headers["content-range"] = f"bytes {start}-{stop - 1}/{total}"
    return Answer(206, headers, stored.body[start:stop])
