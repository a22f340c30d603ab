"""What is copied: the object that x-amz-copy-source names, read by its own GetObject and HeadObject.

The operations of the source's place do the reading, sealed or plain, with this module standing in for
the client: so conditions, policy, integrity and limits hold as in every read.
"""

import base64
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote_to_bytes

from proxy.config.model import BucketConfig
from proxy.errors import IntegrityError
from proxy.s3.call import Call
from proxy.s3.checksums import ALGORITHMS
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.message import Headers, Query, Request, encode_path, encode_query, header
from proxy.s3.operations import stored
from proxy.s3.operations.forward import forward
from proxy.s3.operations.get_object import get_object
from proxy.s3.operations.head_object import head_object
from proxy.s3.router import Target
from proxy.s3.s3error import S3Error
from proxy.s3.tap import Tap
from proxy.s3.wire import Sink, Wire

_CONDITION = "x-amz-copy-source-"


@dataclass(frozen=True, slots=True)
class Source:
    """Place of the object and its version, empty for the current one."""

    bucket: str
    key: str
    version: str
    rule: BucketConfig

    @property
    def query(self) -> Query:
        return [("versionId", self.version)] if self.version else []

    @property
    def header(self) -> str:
        """x-amz-copy-source as the origin is told."""
        text = "/" + encode_path(f"{self.bucket}/{self.key}".encode())
        return f"{text}?versionId={self.version}" if self.version else text


def source_of(call: Call) -> Source:
    """S3Error InvalidArgument where the header names no object, NoSuchBucket where no rule is."""
    path, _, query = call.request.get("x-amz-copy-source").partition("?")
    try:
        text = unquote_to_bytes(path).decode("utf-8").removeprefix("/")
    except UnicodeDecodeError:
        raise S3Error("InvalidArgument", "Invalid copy source encoding.") from None
    bucket, _, key = text.partition("/")
    version = query.removeprefix("versionId=") if query else ""
    if not bucket or not key or text.startswith("arn:"):
        raise S3Error("InvalidArgument", "Invalid copy source object key")
    rule = call.services.buckets.for_key(bucket, key)
    if rule.state != "plain" and key.startswith(STASH_PREFIX):
        raise S3Error("InvalidArgument", f"The prefix {STASH_PREFIX} is reserved.")
    return Source(bucket, key, version, rule)


def as_decided(headers: Headers, source: Source) -> Headers:
    """`headers` with the source as it was understood here: a rule was found for that one, and origins
    differ in how they read escapes, `+` and `?`."""
    return [(n, source.header if n == "x-amz-copy-source" else v) for n, v in headers]


async def by_origin(call: Call, source: Source) -> None:
    """The origin copies as it is asked to."""
    call.request.headers = as_decided(call.request.headers, source)
    await forward(call)


def refuse_unreadable(status: int) -> None:
    """S3Error unless a read of the source was answered with the object."""
    if status in (304, 412):
        raise S3Error("PreconditionFailed")
    if status == 404:
        raise S3Error("NoSuchKey")
    if status == 405:
        raise S3Error(
            "InvalidRequest", "The source of a copy may not be a delete marker by its version."
        )
    if status not in (200, 206):
        raise S3Error("AccessDenied" if status == 403 else "ServiceUnavailable")


def same_origin_plain(call: Call, source: Source) -> bool:
    """Nothing here is ours: the origin copies as it is asked to."""
    both_plain = source.rule.state == call.rule.state == "plain"
    return both_plain and source.rule.origin == call.rule.origin


def conditions(call: Call) -> Headers:
    """x-amz-copy-source-if-* as the conditions of a read."""
    return [
        (name.removeprefix(_CONDITION), value)
        for name, value in call.request.headers
        if name.startswith(_CONDITION + "if-")
    ]


class _Heard:
    """Stands in for the source's client: what a read answers goes into `sink`."""

    def __init__(self, sink: Sink | None, tap: Tap) -> None:
        self.started = False
        self.status = 0
        self.headers: Headers = []
        self.length = 0
        self._sink = sink
        self._tap = tap

    @property
    def wire(self) -> Wire:
        return cast(Wire, self._tap)

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        self.status, self.headers, self.length = status, headers, length or 0
        refuse_unreadable(status)

    def write_body(self, data: bytes | memoryview) -> None:
        if self._sink is not None:
            self._sink(memoryview(data))

    def finish(self) -> None:
        """Whoever writes the copy ends it."""

    def send_continue(self) -> None:
        """A read has no body."""


def reading(call: Call, source: Source, method: str, headers: Headers, heard: _Heard) -> Call:
    """A read of the source, for whoever asked for the copy."""
    path = "/" + encode_path(f"{source.bucket}/{source.key}".encode())
    return Call(
        Request(method, path, encode_query(source.query), headers),
        Target(source.bucket, source.key),
        "HeadObject" if method == "HEAD" else "GetObject",
        source.rule,
        call.auth,
        call.principal,
        call.body,
        heard,
        call.services,
    )


@dataclass(frozen=True, slots=True)
class Description:
    """What the source is, over its plaintext; the ETag as clients are shown it."""

    length: int
    headers: Headers

    def get(self, name: str) -> str:
        return header(self.headers, name) or ""


async def describe(call: Call, source: Source) -> Description:
    """HEAD under the copy's conditions; S3Error where they do not hold or there is no source."""
    for name, _ in call.request.headers:
        if name.startswith(_CONDITION + "server-side-encryption-customer"):
            raise S3Error("NotImplemented", "A copy of an SSE-C object is not supported.")
    heard = _Heard(None, Tap())
    asked = [*conditions(call), ("x-amz-checksum-mode", "ENABLED")]
    ask = reading(call, source, "HEAD", asked, heard)
    await (forward if source.rule.state == "plain" else head_object)(ask)
    return Description(heard.length, heard.headers)


class SourceBody:
    """The source, or `wanted` of its bytes, as what is to be stored. Read while it is written.

    With `announced`, the source's own checksum, `algorithm` is its algorithm: it is verified before the
    copy may finish. `pump` raises stored.Changed where another version took the source's place.
    """

    has_trailer_checksum = False

    def __init__(
        self,
        call: Call,
        source: Source,
        described: Description,
        wanted: tuple[int, int] | None = None,
        announced: Headers | None = None,
        algorithm: str = "",
    ) -> None:
        self._call = call
        self._source = source
        self._tag = described.get("etag")
        self._wanted = wanted
        self._algorithm = algorithm.lower()
        self.announced = announced or []
        self.tap = Tap()
        first, last = wanted or (0, described.length - 1)
        self.length = last - first + 1

    async def pump(self, sink: Sink) -> Headers:
        """Checksum headers where `algorithm` was given, over what went to `sink`."""
        digest = ALGORITHMS[self._algorithm][1]() if self._algorithm else None
        seen = 0

        def take(piece: memoryview) -> None:
            nonlocal seen
            seen += len(piece)
            if seen > self.length:
                raise stored.Changed
            if digest is not None:
                digest.update(piece)
            sink(piece)

        headers: Headers = [("if-match", self._tag)] if self._tag else []
        if self._wanted is not None:
            headers.append(("range", f"bytes={self._wanted[0]}-{self._wanted[1]}"))
        heard = _Heard(take, self.tap)
        ask = reading(self._call, self._source, "GET", headers, heard)
        try:
            await (forward if self._source.rule.state == "plain" else get_object)(ask)
        except S3Error as error:
            if error.code == "PreconditionFailed":
                raise stored.Changed from None
            raise
        finally:
            self.tap.fed_by(None)  # the connection goes back to its pool
        if seen != self.length:
            raise stored.Changed
        if digest is None:
            return self.announced
        confirmed = checksum_headers(self._algorithm, digest.digest())
        if any(h not in confirmed for h in self.announced):
            raise IntegrityError("the source's checksum is not that of its bytes")
        return confirmed

    async def read(self, limit: int) -> tuple[bytes, Headers]:
        """All of a small source."""
        if self.length > limit:
            raise S3Error("EntityTooLarge")
        out = bytearray()
        confirmed = await self.pump(lambda piece: out.extend(piece))
        return bytes(out), confirmed


def checksum_headers(algorithm: str, digest: bytes) -> Headers:
    """As a PUT confirms it."""
    name = "x-amz-checksum-" + algorithm
    return [(name, base64.b64encode(digest).decode()), ("x-amz-checksum-type", "FULL_OBJECT")]
