"""What an operation gets: the authenticated request, its place, and the ways to answer.

Operations are functions of one `Call`. They raise S3Error or a family of `proxy.errors`; the
gateway turns that into the answer once. The decoded, checked body comes from `PlainBody`.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from proxy import metrics, native
from proxy.config.model import BucketConfig, S3Config, SecretRef
from proxy.keys.service import KeyService, RingKeys
from proxy.policy.model import Action, Principal
from proxy.s3 import etag, xml
from proxy.s3.buckets import Buckets, resource_of
from proxy.s3.checksums import BodyChecks
from proxy.s3.chunked import AwsChunked
from proxy.s3.envelopes import EnvelopeCache
from proxy.s3.message import HOP_BY_HOP, Headers, Query, Request
from proxy.s3.origin import Origin, Response
from proxy.s3.router import Target
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import (
    AUTH_QUERY,
    PURPOSE,
    STREAMING,
    STREAMING_SIGNED_TRAILER,
    STREAMING_UNSIGNED_TRAILER,
    Authenticated,
    ChunkVerifier,
)
from proxy.s3.wire import Body, Sink, Wire

log = structlog.get_logger("s3.call")

# Headers of the client's that are between it and us.
_OURS = HOP_BY_HOP | {
    "authorization",
    "x-amz-date",
    "date",
    "x-amz-content-sha256",
    "x-amz-security-token",
    "x-amz-decoded-content-length",
    "x-amz-trailer",
    "accept-encoding",
    "user-agent",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "x-forwarded-for",
    PURPOSE,
}
_KEPT_ENVELOPES = 1024  # each takes a slot of the arena, of which at most a quarter
_MAX_ERROR_BYTES = 256 * 1024
_OUR_QUERY = frozenset({"awsaccesskeyid", "signature", "expires", PURPOSE})
# Of an origin's answer, what is about the connection or told anew by us.
NOT_RELAYED = HOP_BY_HOP | {"x-amz-request-id", "x-amz-id-2", "server", "date"}


class ResponseWriter(Protocol):
    """The client's connection, as operations see it."""

    started: bool

    def start(self, status: int, headers: Headers, length: int | None) -> None: ...
    def write_body(self, data: bytes | memoryview) -> None: ...
    def finish(self) -> None: ...
    def send_continue(self) -> None: ...
    @property
    def wire(self) -> Wire: ...


@dataclass(slots=True)
class StoredObject:
    """What a ranged read learned of one object version; valid as long as its ETag is."""

    etag: str
    envelope: str
    stored_bytes: int
    footer: object | None = None
    part_headers: dict[int, bytes] = field(default_factory=dict)


class ObjectCache:
    """Least recently used; keyed by bucket, key and version."""

    def __init__(self, entries: int = 4096) -> None:
        self._entries = entries
        self._map: OrderedDict[tuple[str, str, str], StoredObject] = OrderedDict()

    def get(self, where: tuple[str, str, str]) -> StoredObject | None:
        found = self._map.get(where)
        if found is not None:
            self._map.move_to_end(where)
        return found

    def put(self, where: tuple[str, str, str], stored: StoredObject) -> None:
        self._map[where] = stored
        self._map.move_to_end(where)
        if len(self._map) > self._entries:
            self._map.popitem(last=False)

    def drop(self, where: tuple[str, str, str]) -> None:
        self._map.pop(where, None)


@dataclass(slots=True)
class Services:
    """What all calls share."""

    config: S3Config
    buckets: Buckets
    origins: dict[str, Origin]
    keys: KeyService
    cache: ObjectCache
    envelopes: EnvelopeCache


def services_of(
    config: S3Config,
    keys: KeyService,
    resolve_secret: Callable[[SecretRef], str],
    buffer: bytearray,
) -> Services:
    """Everything behind a configuration; `buffer` is shared by all connections of the loop."""
    slots = int(str(native.arena_report()["slots"]))
    return Services(
        config,
        Buckets(config.buckets),
        {o.name: Origin(o, resolve_secret, buffer) for o in config.origins},
        keys,
        ObjectCache(),
        EnvelopeCache(min(_KEPT_ENVELOPES, slots // 4)),
    )


class Call:
    """One request past authentication and routing."""

    def __init__(
        self,
        request: Request,
        target: Target,
        operation: str,
        rule: BucketConfig | None,
        auth: Authenticated,
        principal: Principal,
        body: Body,
        writer: ResponseWriter,
        services: Services,
    ) -> None:
        self.request = request
        self.target = target
        self.operation = operation
        self._rule = rule
        self.auth = auth
        self.principal = principal
        self.body = body
        self.writer = writer
        self.services = services

    @property
    def rule(self) -> BucketConfig:
        assert self._rule is not None, "the operation names a bucket"
        return self._rule

    @property
    def has_rule(self) -> bool:
        """The request names a bucket that is configured."""
        return self._rule is not None

    @property
    def origin(self) -> Origin:
        return self.services.origins[self.rule.origin]

    async def ring_keys(
        self, action: Action, rule: BucketConfig | None = None, bucket: str | None = None
    ) -> RingKeys:
        """Keys of the place; raises AccessDenied or KeyUnavailable."""
        resource = resource_of(rule or self.rule, self.target.bucket if bucket is None else bucket)
        keys = self.services.keys
        found = keys.ring_keys_now(self.principal, resource, action)
        return (
            found if found is not None else await keys.ring_keys(self.principal, resource, action)
        )

    def authorise(self, action: Action) -> None:
        """AccessDenied unless this may be done at the place: for what needs no key there."""
        resource = resource_of(self.rule, self.target.bucket)
        self.services.keys.authorise(self.principal, resource, action)

    def note_bytes(self, keys: RingKeys, action: Action, count: int) -> None:
        """Counts plaintext bytes towards the ring's limit and the metric."""
        self.services.keys.note_bytes(keys, count)
        metrics.s3_bytes_total.labels(action.value).inc(count)

    # -- towards the origin ------------------------------------------------------------------------

    def origin_query(self, drop: frozenset[str] = frozenset()) -> Query:
        """The client's query less its authentication."""
        return [
            (n, v)
            for n, v in self.request.query
            if n.lower() not in AUTH_QUERY and n.lower() not in _OUR_QUERY and n.lower() not in drop
        ]

    def origin_headers(self, drop: Callable[[str], bool] = lambda name: False) -> Headers:
        """The client's headers for the origin: conditions translated, `aws-chunked` taken out."""
        out: Headers = []
        for name, value in self.request.headers:
            if name in _OURS or drop(name):
                continue
            if name == "content-encoding":
                value = ",".join(
                    part
                    for part in (p.strip() for p in value.split(","))
                    if part.lower() != "aws-chunked"
                )
                if not value:
                    continue
            elif name in etag.CONDITIONS:
                value = etag.unsuffixed(value)
            out.append((name, value))
        return out

    # -- towards the client ------------------------------------------------------------------------

    def reply(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A whole answer."""
        self.writer.start(status, headers, len(body))
        if body:
            self.writer.write_body(body)
        self.writer.finish()

    async def relay(self, response: Response, headers: Headers | None = None) -> None:
        """The origin's answer as it is, streamed; `headers` replace its own."""
        chosen = relayed(response.headers) if headers is None else headers
        if response.status >= 500:
            await self._relay_failure(response, chosen)
            return
        length = response.body.length
        if self.request.method == "HEAD":
            text = response.get("content-length")
            length = int(text) if text.isdigit() else 0
        elif response.status in (204, 304):
            length = 0
        self.writer.start(response.status, chosen, length)
        if not response.body.complete or response.body.received_bytes:
            self.writer.wire.fed_by(response.wire)
            await response.body.pump(self.writer.write_body)
        self.writer.finish()

    async def _relay_failure(self, response: Response, headers: Headers) -> None:
        """A 5xx: logged with the origin's reason, and always an S3 error for the client."""
        document = b""
        if not response.body.complete or response.body.received_bytes:
            document = await response.read(_MAX_ERROR_BYTES)
        code, reason = xml.error_of(document)
        log.warning(
            "the origin failed",
            operation=self.operation,
            bucket=self.target.bucket,
            status=response.status,
            code=code,
            reason=reason[:500],
        )
        if code:
            self.reply(response.status, headers, document)
            return
        away = response.status in (502, 503, 504)
        raise S3Error(
            "ServiceUnavailable" if away else "InternalError",
            f"The object store answered {response.status}. Please try again.",
        )


def relayed(headers: Headers, drop: Callable[[str], bool] = lambda name: False) -> Headers:
    """Of an origin's headers, those that the client gets; ETag in its shown form."""
    return [(n, v) for n, v in headers if n not in NOT_RELAYED and not drop(n)]


class Plaintext(Protocol):
    """What is about to be stored: a request's body, or an object that is being copied."""

    length: int

    @property
    def announced(self) -> Headers:
        """The checksum that is known before the bytes; not yet verified."""

    @property
    def has_trailer_checksum(self) -> bool: ...

    async def pump(self, sink: Sink) -> Headers:
        """Calls `sink` with all of it; the headers that tell its checksum."""

    async def read(self, limit: int) -> tuple[bytes, Headers]: ...


class PlainBody:
    """The request's body as plaintext of known length, verified by the end of `pump`."""

    def __init__(self, call: Call) -> None:
        request, payload = call.request, call.auth.payload
        self._body = call.body
        self._decoder: AwsChunked | None = None
        self._checks = BodyChecks(request, payload)
        self._seen = 0
        if payload in STREAMING:
            text = request.get("x-amz-decoded-content-length")
            if not (text.isascii() and text.isdigit() and len(text) <= 18):
                raise S3Error("MissingContentLength")
            self.length = int(text)
            signed = payload != STREAMING_UNSIGNED_TRAILER
            self._decoder = AwsChunked(
                self.length,
                ChunkVerifier(call.auth) if signed else None,
                payload == STREAMING_SIGNED_TRAILER,
                self._checks.trailer_names,
            )
        else:
            if "aws-chunked" in request.get("content-encoding").lower():
                raise S3Error("InvalidRequest", "x-amz-content-sha256 does not say STREAMING.")
            if call.body.length is None:
                raise S3Error("MissingContentLength")
            self.length = call.body.length

    @property
    def announced(self) -> Headers:
        """The checksum that came as a header, before the body; not yet verified."""
        return self._checks.announced

    @property
    def has_trailer_checksum(self) -> bool:
        return bool(self._checks.trailer_names)

    async def pump(self, sink: Sink) -> Headers:
        """Calls `sink` with all plaintext; the headers that confirm the client's checksum."""
        await self._body.pump(self._decoded(sink))
        if self._decoder is not None and not self._decoder.done or self._seen != self.length:
            raise S3Error("IncompleteBody")
        trailers = self._decoder.trailers if self._decoder is not None else ()
        return self._checks.finish(trailers)

    def _decoded(self, sink: Sink) -> Sink:
        checks, decoder = self._checks, self._decoder

        def take(piece: memoryview) -> None:
            self._seen += len(piece)
            checks.update(piece)
            sink(piece)

        def decode(data: memoryview) -> None:
            assert decoder is not None
            for piece in decoder.decode(data):
                take(piece)

        return take if decoder is None else decode

    async def read(self, limit: int) -> tuple[bytes, Headers]:
        """All of a small body."""
        if self.length > limit:
            raise S3Error("EntityTooLarge")
        out = bytearray()
        confirmed = await self.pump(lambda piece: out.extend(piece))
        return bytes(out), confirmed
