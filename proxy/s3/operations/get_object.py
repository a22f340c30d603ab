"""GetObject from a protected place: whole or one range, verified before the client can finish.

The first piece is opened before the head is sent, so damage there is a proper error; the last piece
is held until the end of the stream (and, on a whole read, the footer) has been verified, so damage
later ends the connection short of Content-Length. An origin that breaks off early is logged as
that, not as damage. Only the chunks of the range are fetched, behind one small request that tells
size and envelope where they are not cached under the object's ETag.
"""

import structlog

from proxy import metrics
from proxy.crypto import footer
from proxy.crypto.envelope import Kind, OpenedEnvelope, UploadEnvelope
from proxy.crypto.footer import Footer
from proxy.crypto.parts import HEADER_BYTES, Layout
from proxy.errors import IntegrityError
from proxy.policy.model import Action
from proxy.s3 import etag
from proxy.s3.call import Call, StoredObject, relayed
from proxy.s3.message import Headers
from proxy.s3.opening import Piece, StreamOpener, to_end
from proxy.s3.operations import stored
from proxy.s3.origin import Response
from proxy.s3.ranges import RangeSpec, parse_range, resolve
from proxy.s3.s3error import OriginFailed, S3Error

log = structlog.get_logger("s3.get")
_ATTEMPTS = 3
_NOT_SENT = frozenset({"range", "if-range", "x-amz-checksum-mode"})
# Conditions that our own If-Match would take the place of (RFC 9110 13.2.2).
_ASKED_FIRST = ("if-match", "if-range", "if-unmodified-since")


async def get_object(call: Call) -> None:
    spec = parse_range(call.request.get("range")) if call.request.has("range") else None
    part = stored.part_number(call)
    for _ in range(_ATTEMPTS):
        try:
            if spec is None and part is None:
                await _whole(call)
            else:
                await _ranged(call, spec, part)
            return
        except stored.Changed:
            call.services.cache.drop(_where(call))
            if call.writer.started:
                raise
    raise S3Error("ServiceUnavailable", "The object is being replaced. Please retry.")


def _where(call: Call) -> tuple[str, str, str]:
    return call.target.bucket, call.target.key, call.request.param("versionId") or ""


def _client_headers(call: Call) -> Headers:
    return call.origin_headers(lambda n: n in _NOT_SENT)


_PART_QUERY = frozenset({"partnumber"})


async def _fetch(call: Call, headers: Headers) -> Response:
    return await call.origin.call(
        "GET", call.target.bucket, call.target.key, call.origin_query(_PART_QUERY), headers
    )


# -- whole -----------------------------------------------------------------------------------------


async def _whole(call: Call, response: Response | None = None) -> None:
    response = response or await _fetch(call, _client_headers(call))
    try:
        if response.status != 200:
            await _relay_shown(call, response)
            return
        text = stored.envelope_text(response.headers)
        if text is None and call.rule.state == "mixed":
            await _relay_plaintext(call, response)
            return
        if text is None:
            raise IntegrityError("an object without envelope in a sealed place")
        opened, keys = await stored.open_with_keys(call, text, call.target.bucket, call.target.key)
        stored_bytes = stored.stored_bytes_of(response)
        if stored_bytes is None:
            raise IntegrityError("the origin tells no length")
        plain = stored.plain_bytes(stored_bytes)
        known: Footer | None = None
        if isinstance(opened, UploadEnvelope) or opened.kind is Kind.MULTIPART:
            known, opened = await stored.read_footer(
                call,
                call.target.bucket,
                call.target.key,
                call.origin_query(),
                response.get("etag"),
                opened,
                stored_bytes,
            )
        try:
            entries = known.entries if known else stored.single_entry(plain)
            layout = Layout([e.length for e in entries])
            pieces = [Piece(entries[p.index], p) for p in layout.whole()]
            opener = StreamOpener(opened.object_key, opened.object_id, pieces, None)
            headers = _object_headers(response)
            if call.request.get("x-amz-checksum-mode").upper() == "ENABLED":
                headers += stored.checksum_headers(opened, known)
            await _stream(
                call, response, opener, 200, headers, plain, _FooterCheck(opened, stored_bytes)
            )
            call.note_bytes(keys, Action.OPEN, plain)
        finally:
            opened.close()
    finally:
        if not response.body.complete:
            response.wire.abort()


class _FooterCheck:
    """Collects what follows the streams of a whole read, and verifies it."""

    def __init__(self, opened: OpenedEnvelope, stored_bytes: int) -> None:
        self._opened = opened
        self._stored = stored_bytes
        self._data = bytearray()

    def feed(self, data: memoryview) -> None:
        self._data += data

    def finish(self) -> None:
        footer.parse(
            self._opened.object_key, self._opened.object_id, self._stored, bytes(self._data)
        )


# -- range -----------------------------------------------------------------------------------------


async def _ranged(call: Call, spec: RangeSpec | None, part: int | None) -> None:
    cache = call.services.cache
    known = cache.get(_where(call))
    probe: Response | None = None
    if known is None or any(call.request.has(name) for name in _ASKED_FIRST):
        wanted = ("range", f"bytes=0-{HEADER_BYTES - 1}")
        probe = await _fetch(call, [*_client_headers(call), wanted])
        if probe.status == 200:  # an origin that ignores ranges
            await _whole(call, probe)
            return
        known = await _learn(call, probe)
        if known is None:
            return
        if call.request.has("if-range") and not _if_range_holds(call, probe):
            await _whole(call)
            return
    try:
        await _ranged_of(call, known, spec, part)
    except (S3Error, IntegrityError):
        # What was remembered may be of a version that is gone: then it says nothing about this one.
        if probe is not None or call.writer.started:
            raise
        raise stored.Changed from None


async def _ranged_of(
    call: Call, known: StoredObject, spec: RangeSpec | None, part: int | None
) -> None:
    opened: OpenedEnvelope | UploadEnvelope
    opened, keys = await stored.open_with_keys(
        call, known.envelope, call.target.bucket, call.target.key
    )
    if isinstance(opened, UploadEnvelope) or opened.kind is Kind.MULTIPART:
        if isinstance(known.footer, Footer) and isinstance(opened, UploadEnvelope):
            prefix = known.footer.prefix
            opened = opened.resolve(prefix.ring_version_id, prefix.upload_hash)
        elif not isinstance(known.footer, Footer):
            known.footer, opened = await stored.read_footer(
                call,
                call.target.bucket,
                call.target.key,
                call.origin_query(_PART_QUERY),
                known.etag,
                opened,
                known.stored_bytes,
            )
    assert isinstance(opened, OpenedEnvelope)
    try:
        plain = stored.plain_bytes(known.stored_bytes)
        entries = (
            known.footer.entries if isinstance(known.footer, Footer) else stored.single_entry(plain)
        )
        layout = Layout([e.length for e in entries])
        extra: Headers = []
        if part is None:
            assert spec is not None
            first, last = resolve(spec, plain)
        else:
            index = next((i for i, e in enumerate(entries) if e.part_number == part), None)
            if index is None:
                raise S3Error("InvalidPartNumber")
            if not entries[index].length:
                await _whole(call)
                return
            first = sum(e.length for e in entries[:index])
            last = first + entries[index].length - 1
            if isinstance(known.footer, Footer):
                extra = [("x-amz-mp-parts-count", str(len(entries)))]
        await _send_range(call, known, opened, layout, first, last, plain, extra)
        call.note_bytes(keys, Action.OPEN, last - first + 1)
    finally:
        opened.close()


async def _learn(call: Call, probe: Response) -> StoredObject | None:
    """What the first 56 bytes' answer tells; None when the call has been answered with it."""
    if probe.status == 416 and call.rule.state == "mixed":
        await probe.read(1 << 20)
        await _plain_range(call)
        return None
    if probe.status == 416:
        await probe.read(1 << 20)
        raise IntegrityError("an object shorter than any sealed one")
    if probe.status != 206:
        await _relay_shown(call, probe)
        return None
    head = await probe.read(HEADER_BYTES)
    text = stored.envelope_text(probe.headers)
    if text is None and call.rule.state == "mixed":
        await _plain_range(call)
        return None
    total = stored.stored_bytes_of(probe)
    if text is None or total is None:
        raise IntegrityError("an object without envelope in a sealed place")
    known = StoredObject(probe.get("etag"), text, total, None, {0: head})
    if known.etag:
        call.services.cache.put(_where(call), known)
    return known


def _if_range_holds(call: Call, probe: Response) -> bool:
    wanted = call.request.get("if-range").strip()
    if '"' in wanted:
        return etag.unsuffixed(wanted) == probe.get("etag")
    return wanted == probe.get("last-modified")


async def _send_range(
    call: Call,
    known: StoredObject,
    opened: OpenedEnvelope,
    layout: Layout,
    first: int,
    last: int,
    plain: int,
    extra: Headers,
) -> None:
    entries = (
        known.footer.entries if isinstance(known.footer, Footer) else (stored.single_entry(plain))
    )
    pieces = [to_end(Piece(entries[p.index], p)) for p in layout.locate(first, last)]
    place = pieces[0].place
    header: bytes | None = None
    if place.chunks.first_chunk:
        header = known.part_headers.get(place.index)
        if header is None:
            answer = await _fetch(
                call,
                _range_headers(call, known, place.stream_start, place.stream_start + HEADER_BYTES),
            )
            if answer.status != 206:
                raise await _refused(answer)
            header = await answer.read(HEADER_BYTES)
            if len(known.part_headers) < 1024:
                known.part_headers[place.index] = header
    opener = StreamOpener(opened.object_key, opened.object_id, pieces, header)
    response = await _fetch(call, _range_headers(call, known, opener.start, opener.stop))
    try:
        if response.status in (304, 403, 404):
            await _relay_shown(call, response)
            return
        if response.status != 206:
            raise await _refused(response)
        if response.get("etag") != known.etag or (
            stored.stored_bytes_of(response) != known.stored_bytes
        ):
            raise stored.Changed
        headers = [
            *_object_headers(response),
            ("content-range", f"bytes {first}-{last}/{plain}"),
            *extra,
        ]
        await _stream(call, response, opener, 206, headers, last - first + 1, None)
    finally:
        if not response.body.complete:
            response.wire.abort()


def _range_headers(call: Call, known: StoredObject, start: int, stop: int) -> Headers:
    own = [h for h in _client_headers(call) if h[0] not in _ASKED_FIRST]
    return [*own, ("if-match", known.etag), ("range", f"bytes={start}-{stop - 1}")]


async def _refused(response: Response) -> Exception:
    """Why a follow-up request did not bring the chunks."""
    status = response.status
    if status == 200:
        response.wire.abort()
        return stored.Changed()
    await response.read(1 << 20)
    if status == 412:
        return stored.Changed()
    if status == 416:
        return IntegrityError("the object is shorter than its size says")
    return OriginFailed(f"the origin answered {status} to a range")


# -- answers ---------------------------------------------------------------------------------------


def _object_headers(response: Response) -> Headers:
    headers = relayed(response.headers, stored.not_for_client)
    headers = [(n, etag.shown(v) if n == "etag" else v) for n, v in headers]
    return [*headers, ("accept-ranges", "bytes")]


async def _stream(
    call: Call,
    response: Response,
    opener: StreamOpener,
    status: int,
    headers: Headers,
    length: int,
    rest: _FooterCheck | None,
) -> None:
    """Opens the body into the client's connection, always one piece behind."""
    writer = call.writer
    held = b""
    total = opener.stop - opener.start
    seen = 0

    def sink(data: memoryview) -> None:
        nonlocal held, seen
        before = seen
        seen += len(data)
        if seen <= total:
            plain = opener.feed(data)
        else:
            stream = data[: max(0, total - before)]
            plain = opener.feed(stream)
            if rest is not None:
                rest.feed(data[len(stream) :])
        if plain:
            if held:
                if not writer.started:
                    writer.start(status, headers, length)
                writer.write_body(held)
            held = plain

    writer.wire.fed_by(response.wire)
    await response.body.pump(sink)
    opener.finish()
    if rest is not None:
        rest.finish()
    if not writer.started:
        writer.start(status, headers, length)
    if held:
        writer.write_body(held)
    writer.finish()


async def _relay_shown(call: Call, response: Response) -> None:
    headers = relayed(response.headers, stored.not_for_client)
    await call.relay(response, [(n, etag.shown(v) if n == "etag" else v) for n, v in headers])


async def _relay_plaintext(call: Call, response: Response) -> None:
    """An object that is not sealed yet, for whoever might open it if it were."""
    call.authorise(Action.OPEN)
    metrics.s3_plain_reads_total.inc()
    log.info("plaintext object served from a mixed place", bucket=call.target.bucket)
    await call.relay(response)


async def _plain_range(call: Call) -> None:
    """A plaintext object in a mixed place: the client's own request, untouched."""
    call.authorise(Action.OPEN)
    headers = call.origin_headers()
    response = await call.origin.call(
        "GET", call.target.bucket, call.target.key, call.origin_query(), headers
    )
    if stored.envelope_text(response.headers) is not None:
        response.wire.abort()
        raise stored.Changed
    await _relay_plaintext(call, response)
