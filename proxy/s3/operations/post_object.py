"""A browser's form upload (POST Object): fields first, then the policy, then the file as a PutObject.

The file goes the way of every PutObject, sealed or plain, with the form's fields as its headers; only
the answer is another one. Reading is held between the fields and the decision about them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from proxy.s3 import xml
from proxy.s3.call import ResponseWriter
from proxy.s3.forms import FormDecoder, boundary_of
from proxy.s3.message import Headers, Request, encode_path
from proxy.s3.post_policy import authenticate, check
from proxy.s3.router import MAX_KEY_BYTES, Target
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import Authenticated
from proxy.s3.wire import HELD_DECISION, Body, Sink, Wire

_MAX_FORM_BYTES = 5 * 1024**3 + 64 * 1024
_HEADERS = frozenset(
    {"cache-control", "content-type", "content-disposition", "content-encoding", "expires"}
)
_NOT_HEADERS = frozenset(
    {"x-amz-signature", "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-security-token"}
)

Run = Callable[[Request, Target, Authenticated, Body, ResponseWriter], Awaitable[None]]


def is_form(request: Request, target: Target) -> bool:
    """A POST to a bucket whose body is a form."""
    kind = request.get("content-type").lower()
    return request.method == "POST" and not target.key and kind.startswith("multipart/form-data")


class _FormFile:
    """The form's file in the shape of a request's body: `length`, `pump`."""

    def __init__(self, wire: Wire, body: Body, decoder: FormDecoder) -> None:
        self._wire = wire
        self._body = body
        self._decoder = decoder
        self._early: list[bytes] = []
        self._sink: Sink | None = None
        self._begun = asyncio.get_running_loop().create_future()
        self._pumping: asyncio.Task[None] | None = None

    @property
    def length(self) -> int:
        return self._decoder.file_length

    async def fields(self) -> dict[str, str]:
        """All fields before the file."""
        self._pumping = asyncio.ensure_future(self._body.pump(self._take))
        await asyncio.wait({self._pumping, self._begun}, return_when=asyncio.FIRST_COMPLETED)
        if not self._begun.done():
            await self._pumping
            raise S3Error("InvalidArgument", "POST requires exactly one file upload per request.")
        return self._decoder.fields

    def _take(self, data: memoryview) -> None:
        for piece in self._decoder.feed(data):
            if self._sink is None:
                self._early.append(bytes(piece))
            else:
                self._sink(piece)
        if self._decoder.at_file and not self._begun.done():
            self._begun.set_result(None)
            self._wire.hold(HELD_DECISION)

    async def pump(self, sink: Sink) -> None:
        """Calls `sink` with the whole file."""
        assert self._pumping is not None
        early, self._early = self._early, []
        for piece in early:
            sink(memoryview(piece))
        self._sink = sink
        self._wire.release(HELD_DECISION)
        await self._pumping
        if not self._decoder.done:
            raise S3Error("MalformedPOSTRequest")

    def close(self) -> None:
        """Nobody wants the rest."""
        self._wire.release(HELD_DECISION)
        if self._pumping is not None and not self._pumping.done():
            self._pumping.cancel()


class _FormAnswer:
    """PutObject's answer as a form gets it: 204, or as success_action_* says."""

    def __init__(
        self, writer: ResponseWriter, target: Target, fields: dict[str, str], where: str
    ) -> None:
        self._writer = writer
        self._target = target
        self._fields = fields
        self._where = where
        self._document: bytes | None = None

    @property
    def started(self) -> bool:
        return self._writer.started

    @property
    def wire(self) -> Wire:
        return self._writer.wire

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        if status != 200:
            self._writer.start(status, headers, length)
            return
        tag = next((v for n, v in headers if n == "etag"), "")
        headers = [h for h in headers if h[0] != "content-type"]
        headers.append(("location", self._where))
        redirect = self._fields.get("success_action_redirect") or self._fields.get("redirect", "")
        if urlsplit(redirect).scheme in ("http", "https"):
            more = f"bucket={quote(self._target.bucket)}&key={quote(self._target.key)}&etag={quote(tag)}"
            to = redirect + ("&" if urlsplit(redirect).query else "?") + more
            headers = [h for h in headers if h[0] != "location"]
            self._writer.start(303, [*headers, ("location", _one_line(to))], 0)
        elif self._fields.get("success_action_status") == "201":
            self._document = _document(self._target, self._where, tag)
            headers.append(("content-type", "application/xml"))
            self._writer.start(201, headers, len(self._document))
            self._writer.write_body(self._document)
        else:
            plain = self._fields.get("success_action_status") == "200"
            self._writer.start(200 if plain else 204, headers, 0)

    def write_body(self, data: bytes | memoryview) -> None:
        self._writer.write_body(data)

    def finish(self) -> None:
        self._writer.finish()

    def send_continue(self) -> None:
        self._writer.send_continue()


async def post_object(
    request: Request,
    target: Target,
    body: Body,
    writer: ResponseWriter,
    secret_of: Callable[[str], str | None],
    run: Run,
) -> None:
    """Checks the form and has `run` serve its file as a PutObject."""
    boundary = boundary_of(request.get("content-type"))
    if boundary is None:
        raise S3Error("MalformedPOSTRequest")
    if body.length is None:
        raise S3Error("MissingContentLength")
    if body.length > _MAX_FORM_BYTES:
        raise S3Error("EntityTooLarge")
    decoder = FormDecoder(boundary, body.length)
    file = _FormFile(writer.wire, body, decoder)
    writer.send_continue()
    try:
        fields = await file.fields()
        auth = authenticate(fields, secret_of)
        check(fields, target.bucket, decoder.file_length, datetime.now(UTC))
        key = fields.get("key", "").replace("${filename}", decoder.file_name)
        if not key:
            raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'key'.")
        if len(key.encode()) > MAX_KEY_BYTES or "\0" in key:
            raise S3Error("KeyTooLongError")
        place = Target(target.bucket, key)
        path = encode_path(f"/{target.bucket}/{key}".encode())
        put = Request("PUT", path, "", [*_headers(request, fields)])
        scheme = "https" if writer.wire.transport.get_extra_info("sslcontext") else "http"
        where = f"{scheme}://{request.get('host')}{path}"
        answer = _FormAnswer(writer, place, fields, where)
        await run(put, place, auth, file, answer)  # type: ignore[arg-type]  # the shape of a Body
    finally:
        file.close()


def _headers(request: Request, fields: dict[str, str]) -> Headers:
    """The fields that are headers of the upload."""
    out: Headers = [("host", request.get("host"))]
    token = fields.get("x-amz-security-token")
    if token:
        out.append(("x-amz-security-token", token))
    for name, value in fields.items():
        if name.startswith("x-amz-copy-source"):
            raise S3Error("InvalidArgument", "A form uploads its file; it copies nothing.")
        if name == "acl":
            out.append(("x-amz-acl", _one_line(value)))
        elif name == "tagging":
            out.append(("x-amz-tagging", _tags(value)))
        elif name in _HEADERS or (name.startswith("x-amz-") and name not in _NOT_HEADERS):
            out.append((_one_line(name), _one_line(value)))
    return out


def _one_line(value: str) -> str:
    if any(c < " " or c == "\x7f" for c in value):
        raise S3Error("InvalidArgument", "A field of the form holds a control character.")
    return value.encode().decode("latin-1")


def _tags(document: str) -> str:
    """The tagging XML of a form as the header that PutObject takes."""
    root = xml.parse_request(document.encode())
    found = [t for t in root.iter() if xml.local(t) == "Tag"]
    pairs = [f"{quote(xml.text(t, 'Key'))}={quote(xml.text(t, 'Value'))}" for t in found]
    return "&".join(pairs)


def _document(target: Target, where: str, tag: str) -> bytes:
    root = ElementTree.Element("PostResponse")
    for name, text in (
        ("Location", where),
        ("Bucket", target.bucket),
        ("Key", target.key),
        ("ETag", tag),
    ):
        ElementTree.SubElement(root, name).text = text
    return xml.serialise(root)
