"""Operations without a client: a job reads and writes through the very code that serves requests. IO.

So a job seals, opens, checks policy and counts limits as every request does; nothing is done twice.
The policy sees principal `s3:operator`, unless told otherwise.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote_plus

from proxy.config.model import BucketConfig, S3Config, SecretRef
from proxy.keys.service import KeyService
from proxy.policy.model import Principal
from proxy.s3 import xml
from proxy.s3.call import Call, services_of
from proxy.s3.listing import STASH_PREFIX
from proxy.s3.message import Headers, Query, Request, encode_path, encode_query, header
from proxy.s3.operations import dispatch
from proxy.s3.origin import Origin, Response
from proxy.s3.router import Target
from proxy.s3.s3error import OriginFailed, S3Error
from proxy.s3.sigv4 import UNSIGNED, Authenticated
from proxy.s3.tap import Tap
from proxy.s3.wire import READ_BYTES, Body, Sink, Wire

_NOBODY = Authenticated("", UNSIGNED, b"", "", "", "")
_TICK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as the origin lists it; `stored_bytes` is the origin's size."""

    key: str
    stored_bytes: int
    etag: str


class Refused(OriginFailed):
    """An operation ended with an error's status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class Answer:
    """What an operation would have told a client: a ResponseWriter that keeps or hands on."""

    tap: Tap = field(default_factory=Tap)
    sink: Sink | None = None
    started: bool = False
    finished: bool = False
    status: int = 0
    headers: Headers = field(default_factory=list)
    length: int | None = None
    document: bytearray = field(default_factory=bytearray)

    @property
    def wire(self) -> Wire:
        return cast(Wire, self.tap)

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started, self.status, self.headers, self.length = True, status, headers, length

    def write_body(self, data: bytes | memoryview) -> None:
        if self.sink is not None and self.status in (200, 206):
            self.sink(memoryview(data))
        else:
            self.document += data

    def finish(self) -> None:
        self.finished = True

    def send_continue(self) -> None:
        """There is nobody to send it."""

    def get(self, name: str) -> str:
        return header(self.headers, name) or ""

    def check(self) -> "Answer":
        """Itself; Refused where the status is an error's."""
        if self.status not in (200, 204, 206):
            code, message = xml.error_of(bytes(self.document))
            text = f"{self.status} {code or 'without a reason'} {message}"
            raise Refused(self.status, text.strip())
        return self


class Bytes:
    """A small request body in the shape of a Body."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    async def pump(self, sink: Sink) -> None:
        if self._data:
            sink(memoryview(self._data))


class Reading:
    """An object, or a range of it, as the body of a write: read while it is written."""

    def __init__(
        self, engine: "Engine", bucket: str, key: str, headers: Headers, length: int
    ) -> None:
        self._ask = (engine, bucket, key, headers)
        self.length = length
        self.tap = Tap()

    async def pump(self, sink: Sink) -> None:
        engine, bucket, key, headers = self._ask
        answer = Answer(self.tap, sink)
        try:
            await engine.run("GET", bucket, key, [], headers, into=answer)
        finally:
            self.tap.fed_by(None)  # the connection goes back to its pool
        answer.check()


class Engine:
    """Call `start` first and `close` at the end."""

    def __init__(
        self,
        config: S3Config,
        keys: KeyService,
        resolve_secret: Callable[[SecretRef], str],
        principal: str = "operator",
    ) -> None:
        self.services = services_of(config, keys, resolve_secret, bytearray(READ_BYTES))
        self._principal = Principal("s3", principal)
        self._stall = config.limits.stall_timeout_seconds
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for origin in self.services.origins.values():
            await origin.start()
        self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        for origin in self.services.origins.values():
            await origin.close()

    async def _tick(self) -> None:
        waited = 0.0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            waited += _TICK_SECONDS
            stalled = waited >= self._stall
            waited = 0.0 if stalled else waited
            for origin in self.services.origins.values():
                origin.tick(stalled)

    def rule(self, bucket: str, key: str) -> BucketConfig:
        return self.services.buckets.for_key(bucket, key)

    def origin(self, bucket: str) -> Origin:
        return self.services.origins[self.services.buckets.for_bucket(bucket).origin]

    async def run(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Query,
        headers: Headers,
        body: Bytes | Reading | None = None,
        into: Answer | None = None,
    ) -> Answer:
        """One operation, as a client's request would run it. Raises what operations raise."""
        content = body or Bytes(b"")
        answer = into or Answer()
        if isinstance(body, Reading):
            answer = Answer(body.tap)
        path = encode_path(f"/{bucket}/{key}".encode())
        request = Request(method, path, encode_query(query), [("host", "job"), *headers])
        call, run = dispatch.prepare(
            request,
            Target(bucket, key),
            _NOBODY,
            self._principal,
            cast(Body, content),
            answer,
            self.services,
        )
        await run(call)
        return answer

    def call(self, method: str, bucket: str, key: str) -> Call:
        """A call for the parts of operations that a job uses alone."""
        request = Request(method, encode_path(f"/{bucket}/{key}".encode()), "", [("host", "job")])
        call, _ = dispatch.prepare(
            request,
            Target(bucket, key),
            _NOBODY,
            self._principal,
            cast(Body, Bytes(b"")),
            Answer(),
            self.services,
        )
        return call

    async def head(self, bucket: str, key: str) -> Response:
        """The object's head as the origin tells it."""
        origin = self.services.origins[self.rule(bucket, key).origin]
        return await origin.call("HEAD", bucket, key, [], [])

    async def pages(self, bucket: str, prefix: str, after: str = "") -> AsyncIterator[list[Entry]]:
        """All objects below `prefix` and behind the key `after`, page by page, without the stash."""
        origin = self.origin(bucket)
        query: Query = [("list-type", "2"), ("prefix", prefix), ("encoding-type", "url")]
        more: Query = [("start-after", after)] if after else []
        while True:
            response = await origin.call("GET", bucket, "", [*query, *more], [])
            document = await response.read(xml.MAX_XML_BYTES)
            if response.status != 200:
                code, message = xml.error_of(document)
                raise (
                    S3Error("NoSuchBucket")
                    if code == "NoSuchBucket"
                    else OriginFailed(
                        f"the origin answered {response.status} {code} {message} to a list"
                    )
                )
            root = xml.parse(document)
            encoded = xml.text(root, "EncodingType") == "url"
            page = []
            for found in root:
                if xml.local(found) == "Contents":
                    name = xml.text(found, "Key")
                    key = unquote_plus(name) if encoded else name
                    if not key.startswith(STASH_PREFIX):
                        size = int(xml.text(found, "Size") or 0)
                        page.append(Entry(key, size, xml.text(found, "ETag")))
            yield page
            token = xml.text(root, "NextContinuationToken")
            if xml.text(root, "IsTruncated") != "true" or not token:
                return
            more = [("continuation-token", token)]
