"""Everything that is not modelled, and plain places: signed again and passed on.

PutObject and UploadPart bodies stream with one read held back until the checks have passed; other
bodies are documents, read whole first, so that a checksum sent as a trailer can go on as a header.
"""

from xml.etree import ElementTree

import structlog

from proxy.s3 import listing, xml
from proxy.s3.buckets import Buckets
from proxy.s3.call import Call, PlainBody, Plaintext, relayed
from proxy.s3.message import Headers
from proxy.s3.origin import EarlyAnswer
from proxy.s3.s3error import OriginFailed

log = structlog.get_logger("s3.forward")

_MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
_FILL_UPS = 4
_STREAMED = frozenset({"PutObject", "UploadPart"})


async def forward(call: Call) -> None:
    """The origin's answer as it is."""
    request, target = call.request, call.target
    if call.operation in _STREAMED:
        await store_as_it_is(call, PlainBody(call))
        return
    document, headers = await _document(call)
    response = await call.origin.call(
        request.method, target.bucket, target.key, call.origin_query(), headers, document
    )
    try:
        await call.relay(response)
    finally:
        if not response.body.complete:
            response.wire.abort()


async def delete_objects(call: Call) -> None:
    """DeleteObjects where ETags are shown with a suffix."""
    document, headers = await _document(call)
    if b"ETag" in document:
        document = listing.edit_deletes(document)
        headers = [h for h in headers if not _is_checksum(h[0])]
        headers.append(_content_md5(document))
    response = await call.origin.call(
        "POST", call.target.bucket, "", call.origin_query(), headers, document
    )
    await call.relay(response)


async def list_bucket(call: Call) -> None:
    """GET on a bucket: lists get plaintext sizes, other documents pass."""
    response = await call.origin.call(
        "GET", call.target.bucket, "", call.origin_query(), call.origin_headers()
    )
    if response.status != 200:
        await call.relay(response)
        return
    document = await response.read(xml.MAX_XML_BYTES)
    root = xml.parse(document) if document.lstrip()[:1] == b"<" else None
    if root is not None and listing.is_listing(root):
        await _without_stash(call, root)
        listing.edit_listing(root, call.target.bucket, _buckets_as_shown(call))
        document = xml.serialise(root)
    call.reply(200, _without_length(response.headers), document)


def _buckets_as_shown(call: Call) -> Buckets:
    """Who is shown ciphertext is told the sizes of what is stored."""
    services = call.services
    if not services.keys.shows:
        return services.buckets
    return services.buckets.shown(
        call.target.bucket, lambda resource: services.keys.verdict(call.principal, resource)[0]
    )


async def _without_stash(call: Call, root: ElementTree.Element) -> None:
    """Stashed parts are taken out of the page; as many entries that follow take their place."""
    page = root
    for _ in range(_FILL_UPS):
        query = listing.query_for_next(page, call.origin_query(), 1)
        hidden = listing.hide_stash(page)
        if page is not root:
            listing.append_page(root, page)
        if not hidden or xml.text(page, "IsTruncated") != "true":
            return
        query = [(n, str(hidden) if n == "max-keys" else v) for n, v in query]
        headers = call.origin_headers()
        response = await call.origin.call("GET", call.target.bucket, "", query, headers)
        document = await response.read(xml.MAX_XML_BYTES)
        if response.status != 200:
            raise OriginFailed(f"the origin answered {response.status} to a list")
        page = xml.parse(document)
    listing.hide_stash(page)
    listing.append_page(root, page)


async def list_buckets(call: Call) -> None:
    """Buckets of all origins, those that a rule covers, in one list."""
    services = call.services
    merged = None
    headers: Headers = []
    for name, origin in services.origins.items():
        try:
            response = await origin.call("GET", "", "", call.origin_query(), call.origin_headers())
        except OriginFailed as error:
            log.warning("an origin is left out of ListBuckets", origin=name, detail=str(error))
            continue
        if response.status != 200:
            await call.relay(response)
            return
        root = xml.parse(await response.read(xml.MAX_XML_BYTES))
        found = xml.child(root, "Buckets")
        for bucket in list(found) if found is not None else []:
            text = xml.text(bucket, "Name")
            covered = services.buckets.covers(text)
            if not covered or services.buckets.for_bucket(text).origin != name:
                found.remove(bucket)  # type: ignore[union-attr]
        if merged is None:
            merged, headers = root, _without_length(response.headers)
        else:
            into = xml.child(merged, "Buckets")
            if into is not None and found is not None:
                into.extend(list(found))
    if merged is None:
        raise OriginFailed("no origin answered")
    call.reply(200, headers, xml.serialise(merged))


def _without_length(headers: Headers) -> Headers:
    return relayed(headers, lambda n: n == "content-encoding")


async def _document(call: Call) -> tuple[bytes, Headers]:
    call.writer.send_continue()
    if call.request.method in ("GET", "HEAD") and call.body.length == 0:
        return b"", call.origin_headers()
    body, confirmed = await PlainBody(call).read(_MAX_DOCUMENT_BYTES)
    headers = call.origin_headers()
    known = {n for n, _ in headers}
    headers += [(n, v) for n, v in confirmed if n not in known and n != "x-amz-checksum-type"]
    return body, headers


def _is_checksum(name: str) -> bool:
    return (
        name.startswith("x-amz-checksum-")
        or name == "content-md5"
        or name == "x-amz-sdk-checksum-algorithm"
    )


def _content_md5(document: bytes) -> tuple[str, str]:
    import base64
    import hashlib

    digest = hashlib.md5(document, usedforsecurity=False).digest()
    return "content-md5", base64.b64encode(digest).decode()


def _nothing(piece: memoryview) -> None:
    assert not len(piece), "more body than announced"


async def store_as_it_is(call: Call, body: Plaintext) -> None:
    """Sends `body` on unsealed and answers as the origin does.

    Nothing is stored unless all of it passed its checks: the last piece is sent after them, and of an
    empty body, which the origin takes with its head, that head."""
    checked: Headers | None = None
    if not body.length:
        call.writer.send_continue()
        checked = await body.pump(_nothing)
    drop = frozenset({"x-amz-sdk-checksum-algorithm"}) if body.has_trailer_checksum else frozenset()
    exchange = await call.origin.begin(
        call.request.method,
        call.target.bucket,
        call.target.key,
        call.origin_query(),
        call.origin_headers(lambda n: n in drop),
        body.length,
    )
    held = b""

    def send(piece: memoryview) -> None:
        nonlocal held
        if held:
            exchange.write(held)
        held = bytes(piece)

    try:
        exchange.wire.fed_by(call.writer.wire)
        call.writer.send_continue()
        try:
            confirmed = checked
            if confirmed is None:
                confirmed = await exchange.while_sending(body.pump(send))
            if held:
                exchange.write(held)
            response = await exchange.response()
        except EarlyAnswer as early:
            response, confirmed = early.response, []
        headers = relayed(response.headers)
        if response.status == 200:
            known = {n for n, _ in headers}
            headers += [h for h in confirmed if h[0] not in known]
        await call.relay(response, headers)
    finally:
        exchange.abort()
