"""How does a request reach the store? Our own pooled HTTP/1.1 client, re-signed. IO.

Content-Length always, never aws-chunked, never trailers, payload UNSIGNED-PAYLOAD: what every
origin understands (facts/s3.md 4.4). An exchange that is dropped before its end closes its
connection, so a store never takes half a body for a whole one. A request is repeated only when it
is safe: the connection was a kept one, and the method idempotent or nothing of it was sent.
"""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httptools
import structlog

from proxy.config.model import OriginConfig, SecretRef
from proxy.errors import ConfigError
from proxy.s3.message import Headers, Query, decoded, encode_path, encode_query, header
from proxy.s3.s3error import OriginFailed
from proxy.s3.sigv4 import OriginCredentials, sign
from proxy.s3.wire import BadMessage, Body, Wire, body_of

_IDLE_SECONDS = 20.0
_MAX_IDLE = 256
_CONNECT_SECONDS = 10.0
_CREDENTIALS_SECONDS = 30.0
_MAX_HEAD_BYTES = 128 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})

T = TypeVar("T")

log = structlog.get_logger("s3.origin")


@dataclass(slots=True)
class Response:
    """Head of an origin's answer and its body, not yet read."""

    status: int
    headers: Headers
    body: Body
    wire: "OriginWire"

    def get(self, name: str, default: str = "") -> str:
        found = header(self.headers, name)
        return default if found is None else found

    async def read(self, limit: int) -> bytes:
        """The whole body, for XML; OriginFailed when it is too large or breaks off."""
        try:
            return await self.body.read(limit)
        except BadMessage as error:
            self.wire.abort()
            raise OriginFailed(str(error)) from None


class _HeadParser:
    """Collects what httptools reports about one head."""

    def __init__(self) -> None:
        self._raw: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw.append((name, value))

    @property
    def headers(self) -> Headers:
        """Names lower-case, every byte of the values kept."""
        return decoded(self._raw)


class OriginWire(Wire):
    """One connection to an origin; one exchange at a time."""

    def __init__(self, buffer: bytearray, pool: "Origin") -> None:
        super().__init__(buffer, _MAX_HEAD_BYTES)
        self._pool = pool
        self._answer: asyncio.Future[Response] | None = None
        self._method = ""
        self._keep = True
        self._sent = True
        self.used = False
        self.idle_since = 0.0

    def begin(self, method: str) -> "asyncio.Future[Response]":
        """A request is about to be written."""
        self._method = method
        self._answer = asyncio.get_running_loop().create_future()
        self._answer.add_done_callback(_retrieve)
        self._keep = True
        self._sent = False
        return self._answer

    def sent(self) -> None:
        """The request is complete: from now on the connection may be kept."""
        self._sent = True

    def answering(self, answer: "asyncio.Future[Response]") -> bool:
        """This exchange is not over: the connection was not given to another one."""
        return self._answer is answer

    @property
    def busy(self) -> bool:
        """Something is owed by the origin."""
        return self._answer is not None and self._sent

    def head_received(self, head: bytes) -> None:
        collected = _HeadParser()
        parser = httptools.HttpResponseParser(collected)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            raise BadMessage("upgrade") from None
        except httptools.HttpParserError as error:
            raise BadMessage(str(error)) from None
        if not collected.complete:
            raise BadMessage("no status line")
        status = parser.get_status_code()
        if 100 <= status < 200:
            return
        if self._answer is None or self._answer.done():
            raise BadMessage("an answer that nobody asked for")
        headers = collected.headers
        connection = (header(headers, "connection") or "").lower()
        version = parser.get_http_version()
        self._keep = "close" not in connection and version == "1.1"
        if self._method == "HEAD" or status in (204, 304):
            body = Body(self, 0, False)
        else:
            body = body_of(self, headers, None)
            if body.length is None and header(headers, "transfer-encoding") is None:
                self._keep = False
        self.expect_body(body)
        self._answer.set_result(Response(status, headers, body, self))
        if body.complete:
            self.body_finished(body)

    def body_finished(self, body: Body) -> None:
        super().body_finished(body)
        self._answer = None
        self.fed_by(None)
        if self._keep and self._sent and not self.closed:
            self._pool.give_back(self)
        else:
            self.transport.close()

    def broken(self, error: BaseException) -> None:
        self._fail(OriginFailed(f"the origin's answer is not HTTP: {error}"))
        self.transport.abort()

    def lost(self, error: BaseException | None) -> None:
        if self._body is not None:
            self._body.ended(OriginFailed("the origin ended the connection early"))
        self._fail(OriginFailed("the origin closed the connection without an answer"))
        self._pool.forget(self)

    def stall(self) -> None:
        """No progress for the configured time."""
        self._fail(OriginFailed("the origin made no progress"))
        self.transport.abort()

    def _fail(self, error: OriginFailed) -> None:
        if self._body is not None:
            self._body.fail(error)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _retrieve(future: "asyncio.Future[Response]") -> None:
    """An answer that nobody waits for any more is no error."""
    if not future.cancelled():
        future.exception()


class EarlyAnswer(Exception):
    """The origin answered before it had the whole request: it refuses it."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"the origin answered {response.status} early")
        self.response = response


class Exchange:
    """One request under way. Leave the context to drop what is not finished."""

    def __init__(self, wire: OriginWire, answer: "asyncio.Future[Response]") -> None:
        self.wire = wire
        self.answer = answer

    def write(self, data: bytes | memoryview) -> None:
        if self.wire.closed:
            raise OriginFailed("the origin closed the connection during the upload")
        self.wire.write(data)

    async def response(self) -> Response:
        """After the last byte of the request."""
        self.wire.sent()
        return await self.answer

    async def while_sending(self, sending: Coroutine[object, object, T]) -> T:
        """Runs `sending`; EarlyAnswer when the origin answers before it is through, OriginFailed when it
        claims to have what it was not sent."""
        task = asyncio.ensure_future(sending)
        try:
            both: set[asyncio.Future[Any]] = {task, self.answer}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                early = await self.answer
                if early.status < 300:
                    raise OriginFailed(f"the origin answered {early.status} to half a body")
                raise EarlyAnswer(early)
            return await task
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(BaseException):
                    await task

    def abort(self) -> None:
        """Ends the exchange; harmless when it is over."""
        if self.wire.answering(self.answer):
            self.wire.abort()


class Origin:
    """One configured store: its address, credentials and kept connections."""

    def __init__(
        self, config: OriginConfig, resolve_secret: Callable[[SecretRef], str], buffer: bytearray
    ) -> None:
        self.name = config.name
        self._config = config
        self._resolve = resolve_secret
        self._buffer = buffer
        parts = urlsplit(config.endpoint)
        usable = parts.scheme in ("http", "https") and parts.path in ("", "/")
        if not usable or not parts.hostname:
            raise ConfigError(f"origin {config.name}: endpoint must be http(s)://host[:port]")
        self._tls = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        default = 443 if self._tls else 80
        shown = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = shown if self._port == default else f"{shown}:{self._port}"
        self._context = ssl.create_default_context(cafile=config.ca_file) if self._tls else None
        self._idle: deque[OriginWire] = deque()
        self._open: set[OriginWire] = set()
        self._fixed: OriginCredentials | None = None
        self._provider: Any = None
        self._frozen: OriginCredentials | None = None
        self._frozen_at = 0.0
        self._stamp = (0, "")

    async def start(self) -> None:
        """Credentials are found; ConfigError when there are none."""
        config = self._config
        if config.access_key is not None and config.secret_key is not None:
            self._fixed = OriginCredentials(
                self._resolve(config.access_key), self._resolve(config.secret_key)
            )
            return
        from aiobotocore.session import get_session

        self._provider = await get_session().get_credentials()  # type: ignore[no-untyped-call]
        if self._provider is None:
            raise ConfigError(
                f"origin {self.name}: no credentials found in the environment, "
                "profile, web identity or instance metadata"
            )

    async def close(self) -> None:
        for wire in list(self._open):
            wire.abort()

    def tick(self, stalled: bool) -> None:
        """Closes connections idle too long; with `stalled`, those that make no progress."""
        limit = time.monotonic() - _IDLE_SECONDS
        while self._idle and self._idle[0].idle_since < limit:
            self._idle.popleft().transport.close()
        if stalled:
            for wire in list(self._open):
                if wire.stalled(wire.busy):
                    wire.stall()

    async def begin(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Query,
        headers: Headers,
        length: int | None,
    ) -> Exchange:
        """Sends the head of a request with a body of `length` bytes to be written after."""
        wire = await self._connection(fresh=False)
        head = await self._head(method, bucket, key, query, headers, length)
        return self._start(wire, method, head)

    async def call(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Query,
        headers: Headers,
        body: bytes | Callable[[], bytes] = b"",
    ) -> Response:
        """A request whose whole body is here; repeated once if a kept connection was dead.

        `body` may be made anew for each attempt, always of one length: a sealed stream is never
        sent twice under one salt.
        """
        for fresh in (False, True):
            wire = await self._connection(fresh)
            kept = wire.used
            content = body() if callable(body) else body
            length = len(content) if content or method in ("PUT", "POST") else None
            head = await self._head(method, bucket, key, query, headers, length)
            exchange = self._start(wire, method, head + content)
            try:
                return await exchange.response()
            except OriginFailed:
                if fresh or not kept or method not in _IDEMPOTENT:
                    raise
            except asyncio.CancelledError:
                exchange.abort()
                raise
        raise AssertionError("unreachable")

    def _start(self, wire: OriginWire, method: str, data: bytes) -> Exchange:
        answer = wire.begin(method)
        wire.used = True
        exchange = Exchange(wire, answer)
        exchange.write(data)
        return exchange

    async def _head(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Query,
        headers: Headers,
        length: int | None,
    ) -> bytes:
        credentials = await self._credentials()
        authority, path = self._authority, "/" + key
        if bucket and self._config.addressing == "virtual":
            authority = f"{bucket}.{authority}"
        elif bucket:
            path = f"/{bucket}/{key}" if key else f"/{bucket}"
        path = encode_path(path.encode())
        text = encode_query(query)
        signed = sign(
            method,
            authority,
            path,
            text,
            headers,
            credentials,
            self._config.region,
            self._timestamp(),
        )
        lines = [f"{method} {path}{'?' if text else ''}{text} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in signed]
        if length is not None:
            lines.append(f"content-length: {length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _timestamp(self) -> str:
        """x-amz-date, made once a second."""
        now = int(time.time())
        if self._stamp[0] != now:
            self._stamp = (now, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)))
        return self._stamp[1]

    async def _credentials(self) -> OriginCredentials:
        if self._fixed is not None:
            return self._fixed
        now = time.monotonic()
        if self._frozen is None or now - self._frozen_at > _CREDENTIALS_SECONDS:
            frozen = await self._provider.get_frozen_credentials()
            self._frozen = OriginCredentials(frozen.access_key, frozen.secret_key, frozen.token)
            self._frozen_at = now
        return self._frozen

    # -- pool ------------------------------------------------------------------------------------

    async def _connection(self, fresh: bool) -> OriginWire:
        while self._idle and not fresh:
            wire = self._idle.pop()
            if not wire.closed and not wire.transport.is_closing():
                return wire
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, wire = await loop.create_connection(
                    lambda: OriginWire(self._buffer, self),
                    self._host,
                    self._port,
                    ssl=self._context,
                )
        except (OSError, TimeoutError, ssl.SSLError) as error:
            raise OriginFailed(f"origin {self.name} cannot be reached: {error}") from None
        self._open.add(wire)
        return wire

    def give_back(self, wire: OriginWire) -> None:
        if len(self._idle) >= _MAX_IDLE or wire.transport.is_closing():
            wire.transport.close()
            return
        wire.idle_since = time.monotonic()
        self._idle.append(wire)

    def forget(self, wire: OriginWire) -> None:
        self._open.discard(wire)
        with contextlib.suppress(ValueError):
            self._idle.remove(wire)
