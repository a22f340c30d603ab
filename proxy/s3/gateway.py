"""The S3 front door: accepts connections, authenticates, hands a `Call` to its operation. IO.

One exit: whatever an operation raises becomes an answer in `_failed`, and nowhere else. An answer
that has begun can't be changed; then the connection ends short of Content-Length, so that a client
never takes a part for the whole. One request at a time per connection; what is pipelined waits.
"""

import asyncio
import contextlib
import hmac
import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

import httptools
import structlog
from prometheus_client import Counter

from proxy import metrics, native
from proxy.audit.process import note
from proxy.config.model import S3Config, SecretRef
from proxy.errors import ConfigError
from proxy.keys.service import KeyService
from proxy.policy.model import Circumstances, Principal
from proxy.s3.call import ResponseWriter, services_of
from proxy.s3.failures import answer_to
from proxy.s3.message import Headers, Request, decoded
from proxy.s3.operations import dispatch
from proxy.s3.operations.post_object import is_form, post_object
from proxy.s3.router import Target, bucket_of_host, target_of
from proxy.s3.s3error import ClientGone, S3Error
from proxy.s3.sigv2 import is_v2, verify_v2
from proxy.s3.sigv4 import UNSIGNED, Authenticated, is_signed, stated_purpose, verify
from proxy.s3.wire import (
    HELD_NEXT_MESSAGE,
    READ_BYTES,
    BadMessage,
    Body,
    Wire,
    body_of,
)

log = structlog.get_logger("s3")

_LINGER_BYTES = 64 * 1024 * 1024
_LINGER_SECONDS = 5.0
_BACKLOG = 1024
_SMALL_BODY_BYTES = 64 * 1024
_NOBODY = Authenticated("", UNSIGNED, b"", "", "", "")
ANONYMOUS = Principal("s3", "anonymous")
_NOT_PROVEN = frozenset(
    {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken"}
)
_REASONS = {s.value: s.phrase for s in HTTPStatus}


class _HeadParser:
    """Collects what httptools reports about one request head."""

    def __init__(self) -> None:
        self.url = b""
        self.raw: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.raw.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(head: bytes) -> tuple[Request, bool]:
    """The request and whether the connection may be kept; BadMessage otherwise."""
    collected = _HeadParser()
    parser = httptools.HttpRequestParser(collected)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        raise BadMessage("upgrade is not supported") from None
    except httptools.HttpParserError as error:
        raise BadMessage(str(error)) from None
    if not collected.complete:
        raise BadMessage("no request line")
    headers = decoded(collected.raw)
    hosts = [v for n, v in headers if n == "host"]
    if len(hosts) != 1:
        raise BadMessage("exactly one Host header is needed")
    url = collected.url.decode("ascii")
    if url.startswith(("http://", "https://")):  # absolute form, RFC 9112 3.2.2
        url = "/" + url.split("//", 1)[1].partition("/")[2]
    path, _, query = url.partition("?")
    request = Request(parser.get_method().decode(), path, query, headers)
    keep = bool(parser.should_keep_alive()) and parser.get_http_version() == "1.1"
    return request, keep


@dataclass(frozen=True, slots=True)
class _Credential:
    """What a client signs with, and who that is. No token: it must not bring one."""

    secret: str = field(repr=False)
    principal: Principal
    token: str = field(repr=False)


class ClientWire(Wire):
    """One client connection and the answer under way on it."""

    def __init__(self, gateway: "S3Gateway") -> None:
        super().__init__(gateway.buffer, gateway.config.limits.max_header_bytes)
        self._gateway = gateway
        self.task: asyncio.Task[None] | None = None
        self._keep = True
        self._expects = False
        self._head_only = False
        self._chunked = False
        self._pending_head = b""
        self._left: int | None = 0
        self._begun = time.monotonic()
        self.request_id = ""
        self.started = False
        self.finished = False
        self.status = 0

    @property
    def wire(self) -> Wire:
        return self

    @property
    def busy(self) -> bool:
        return self.task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._gateway.wires.add(self)

    def head_received(self, head: bytes) -> None:
        request, self._keep = parse_head(head)
        body = body_of(self, request.headers, 0)
        self.hold(HELD_NEXT_MESSAGE)
        self.expect_body(body)
        self._expects = request.get("expect").lower() == "100-continue"
        self._head_only = request.method == "HEAD"
        self.started = self.finished = False
        self.request_id = native.random_bytes(8).hex().upper()
        self.task = asyncio.get_running_loop().create_task(self._serve(request, body))

    async def _serve(self, request: Request, body: Body) -> None:
        try:
            await self._gateway.serve(self, request, body)
            if self.started and not self.finished:
                self.transport.close()  # short of Content-Length, on purpose
            elif not body.complete:
                await self._linger(body)
                self.transport.close()
            elif self._keep and not self._gateway.draining:
                self.task = None
                self.next_message()
            else:
                self.transport.close()
        except Exception:
            log.exception("request failed", request_id=self.request_id)
            self.abort()
        finally:
            self.task = None

    async def _linger(self, body: Body) -> None:
        """Reads on for a while, so that the answer is not lost in a reset."""
        if self._expects:
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LINGER_SECONDS):
                await body.discard(_LINGER_BYTES)

    def broken(self, error: BaseException) -> None:
        if self.task is None and not self.closed:
            self._head_only = False
            self.started, self._keep = False, False
            self.request_id = native.random_bytes(8).hex().upper()
            code = "RequestHeaderSectionTooLarge" if "too large" in str(error) else "InvalidRequest"
            self.fail(S3Error(code), "")
            self.transport.close()

    def lost(self, error: BaseException | None) -> None:
        self._gateway.wires.discard(self)
        if self._body is not None:
            self._body.fail(ClientGone("the client closed the connection"))
        if self.task is not None:
            self.task.cancel()

    def tick(self) -> None:
        """Called once per stall time-out."""
        if self.stalled(self.task is None or self.reading_body):
            self.abort()

    # -- the answer --------------------------------------------------------------------------------

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        """Head of the answer; `length` None sends chunks. HEAD: the length told, no body."""
        assert not self.started
        self.started = True
        self.status = status
        self._left = length
        self._chunked = length is None and not self._head_only
        closing = not self._keep or self._gateway.draining or self._body is not None
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
        lines += [f"{n}: {v}" for n, v in headers]
        lines.append(f"x-amz-request-id: {self.request_id}")
        lines.append(f"date: {self._gateway.date()}")
        lines.append("server: Sealgate")
        if self._chunked:
            lines.append("transfer-encoding: chunked")
        elif status not in (204, 304):
            lines.append(f"content-length: {length or 0}")
        if closing:
            self._keep = False
            lines.append("connection: close")
        self._pending_head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def write_body(self, data: bytes | memoryview) -> None:
        if self.closed:
            raise ClientGone("the client closed the connection")
        if self._left is not None:
            self._left -= len(data)
            assert self._left >= 0, "more body than announced"
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), bytes(data))
        head = self._pending_head
        if not head:
            self.write(data)
            return
        self._pending_head = b""
        if len(data) <= _SMALL_BODY_BYTES:
            self.write(head + bytes(data))
            return
        self.write(head)
        self.write(data)

    def finish(self) -> None:
        if self._pending_head:
            self.write(self._pending_head)
            self._pending_head = b""
        if self._chunked:
            self.write(b"0\r\n\r\n")
        assert self._head_only or not self._left, "less body than announced"
        self.finished = True

    def send_continue(self) -> None:
        if self._expects:
            self._expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def fail(self, error: S3Error, resource: str) -> None:
        """An error as the answer, if none has begun; else nothing, and the connection ends."""
        if self.started or self.closed:
            return
        document = error.to_xml(resource, self.request_id)
        headers: Headers = [*error.headers]
        if error.status == 503:
            headers.append(("retry-after", "1"))
        if self._head_only:
            self.start(error.status, headers, 0)
        else:
            self.start(error.status, [("content-type", "application/xml"), *headers], len(document))
            self.write_body(document)
        self.finish()


class S3Gateway:
    """The server. Secrets are resolved at start; keys stay with the key service."""

    def __init__(
        self,
        config: S3Config,
        keys: KeyService,
        *,
        resolve_secret: Callable[[SecretRef], str],
        sock: socket.socket | None = None,
    ) -> None:
        self.config = config
        self.buffer = bytearray(READ_BYTES)
        self.wires: set[ClientWire] = set()
        self.draining = False
        self._resolve = resolve_secret
        self._sock = sock
        self._server: asyncio.Server | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._credentials: dict[str, _Credential] = {}
        self._date = (0, "")
        self._active = 0
        self._debug = bool(log.is_enabled_for(logging.DEBUG))
        self._services = services_of(config, keys, resolve_secret, self.buffer)

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listening. ConfigError where credentials or certificates can't be had."""
        self._credentials = {
            c.access_key: _Credential(
                self._resolve(c.secret),
                Principal("s3", c.principal),
                self._resolve(c.session_token) if c.session_token else "",
            )
            for c in self.config.credentials
        }
        for origin in self._services.origins.values():
            await origin.start()
        context = None
        if self.config.tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(self.config.tls.cert_file, self.config.tls.key_file)
        self._tls_context = context
        loop = asyncio.get_running_loop()
        listen = self.config.listen

        def factory() -> ClientWire:
            return ClientWire(self)

        if self._sock is not None:
            self._server = await loop.create_server(
                factory, sock=self._sock, ssl=context, backlog=_BACKLOG
            )
        elif listen.unix is not None:
            self._server = await loop.create_unix_server(factory, listen.unix, ssl=context)
        else:
            self._server = await loop.create_server(
                factory, listen.host, listen.port, ssl=context, backlog=_BACKLOG
            )
        self._ticker = loop.create_task(self._tick_forever())

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that were bound."""
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return (name, 0) if isinstance(name, str) else (name[0], name[1])

    def reload_certificate(self) -> None:
        """The certificate's files again, for handshakes from now on. ConfigError."""
        if self._tls_context is None or self.config.tls is None:
            return
        files = self.config.tls.cert_file, self.config.tls.key_file
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*files)  # a trial
            self._tls_context.load_cert_chain(*files)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"s3.tls: {error}") from None

    def stop_accepting(self) -> None:
        self.draining = True
        if self._server is not None:
            self._server.close()

    async def drain(self, seconds: float) -> None:
        """Requests under way get `seconds` to end; then everything is closed."""
        self.stop_accepting()
        end = time.monotonic() + seconds
        for wire in list(self.wires):
            if not wire.busy:
                wire.transport.close()
        busy = [w.task for w in self.wires if w.task is not None]
        if busy:
            await asyncio.wait(busy, timeout=max(0.0, end - time.monotonic()))
        for wire in list(self.wires):
            wire.abort()
        if self._ticker is not None:
            self._ticker.cancel()
        for origin in self._services.origins.values():
            await origin.close()

    async def _tick_forever(self) -> None:
        limit = self.config.limits.stall_timeout_seconds
        step = min(limit, 5.0)
        waited = 0.0
        while True:
            await asyncio.sleep(step)
            waited += step
            stalled = waited >= limit
            if stalled:
                waited = 0.0
                for wire in list(self.wires):
                    wire.tick()
            for origin in self._services.origins.values():
                origin.tick(stalled)

    def date(self) -> str:
        """The Date header, made once a second."""
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    # -- one request -------------------------------------------------------------------------------

    async def serve(self, wire: ClientWire, request: Request, body: Body) -> None:
        """Answers `request`; on return the answer is complete, or it is broken off."""
        begun = time.perf_counter()
        operation = "Unknown"
        self._active += 1
        try:
            if self._active > self.config.limits.max_requests:
                raise S3Error("SlowDown")
            target = target_of(request, self.config.host_suffix)
            if is_form(request, target):
                operation = "PostObject"
                await post_object(request, target, body, wire, self._secret_of, self._run)
                return
            anonymous = not is_signed(request)
            auth = _NOBODY if anonymous else self._authenticate(request, body)
            principal = self._principal(request, auth, wire.client_address)
            call, run = dispatch.prepare(
                request, target, auth, principal, body, wire, self._services
            )
            operation = call.operation
            if anonymous:
                dispatch.check_anonymous(call)
            await run(call)
        except Exception as error:
            self._failed(wire, request, operation, error)
        finally:
            self._active -= 1
            wire.fed_by(None)
            _counter(operation, wire.status).inc()
            if self._debug:
                log.debug(
                    "request",
                    id=wire.request_id,
                    operation=operation,
                    status=wire.status,
                    seconds=round(time.perf_counter() - begun, 6),
                )

    async def _run(
        self,
        request: Request,
        target: Target,
        auth: Authenticated,
        body: Body,
        writer: ResponseWriter,
    ) -> None:
        """A request that a form stands for."""
        principal = self._principal(request, auth, writer.wire.client_address)
        call, run = dispatch.prepare(request, target, auth, principal, body, writer, self._services)
        await run(call)

    def _principal(self, request: Request, auth: Authenticated, client: str) -> Principal:
        """Who it is; S3Error InvalidToken where the session token is not the credential's."""
        if auth is _NOBODY:
            return _known(ANONYMOUS, client, "")
        given = request.get("x-amz-security-token") or request.param("X-Amz-Security-Token") or ""
        credential = self._credentials[auth.access_key]
        if not hmac.compare_digest(credential.token.encode(), given.encode()):
            raise S3Error("InvalidToken")
        return _known(credential.principal, client, stated_purpose(request, auth))

    def _authenticate(self, request: Request, body: Body) -> Authenticated:
        now = datetime.now(UTC)
        if is_v2(request):
            from_host = bucket_of_host(request, self.config.host_suffix)
            return verify_v2(request, from_host, self._secret_of, now)
        has_body = body.length is None or body.length > 0
        skew = self.config.limits.clock_skew_seconds
        return verify(request, self._secret_of, now, skew, has_body)

    def _secret_of(self, access_key: str) -> str | None:
        found = self._credentials.get(access_key)
        return found.secret if found else None

    def _bucket(self, request: Request) -> str:
        """For the audit log; never the object's name."""
        bucket = bucket_of_host(request, self.config.host_suffix)
        return f"bucket:{bucket or request.path.lstrip('/').partition('/')[0]}"

    def _failed(self, wire: ClientWire, request: Request, operation: str, error: Exception) -> None:
        answer, level = answer_to(error)
        if answer.code == "XAmzSealgateIntegrity":
            metrics.s3_integrity_failures_total.inc()
            note("open.fail", plane="s3", resource=self._bucket(request), detail=operation)
        elif answer.code in _NOT_PROVEN:
            note("auth.fail", plane="s3", detail=answer.code)
        if level is not None:
            getattr(log, level)(
                "request failed",
                id=wire.request_id,
                operation=operation,
                code=answer.code,
                cause=type(error).__name__,
                detail=str(error),
                begun=wire.started,
            )
        if level == "exception":
            log.error("unexpected", exc_info=error)
        wire.fail(answer, request.path)


@lru_cache(maxsize=4096)
def _known(principal: Principal, client: str, purpose: str) -> Principal:
    """One object for each, so that looking up a decision compares nothing."""
    return replace(principal, circumstances=Circumstances(client, purpose=purpose))


@lru_cache(maxsize=1024)
def _counter(operation: str, status: int) -> Counter:
    """Operations come from the router's table, so there are few."""
    return metrics.s3_requests_total.labels(operation, str(status))
