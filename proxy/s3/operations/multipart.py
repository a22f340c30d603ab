"""Multipart uploads to a protected place: parts in any order, through any instance, no state here.

Key and object id follow from the ring version and the origin's UploadId, so any instance seals any
part. The ETag that UploadPart answers is the origin's with 24 hex digits behind it: 8 bytes of the
part's commitment and 4 of the ring version id; Complete takes both back into the footer, so that an
earlier attempt of the same part can't be passed off. Clients that resume bring bare ETags from
ListParts: those parts go in without. The footer is the last part of the origin's upload, behind a
stashed small part where there is one; so part 10,000 is ours.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

from proxy import native
from proxy.crypto import footer, object_keys, parts, sizes
from proxy.crypto.envelope import seal_upload_envelope
from proxy.keys.service import RingKeys
from proxy.native import KeyHandle
from proxy.policy.model import Action
from proxy.s3 import etag, xml
from proxy.s3.call import Call, PlainBody, relayed
from proxy.s3.message import Headers, header
from proxy.s3.operations import stash
from proxy.s3.operations.forward import forward
from proxy.s3.operations.put_object import check_headers, plaintext_only, with_envelope
from proxy.s3.origin import EarlyAnswer, Exchange, Response
from proxy.s3.s3error import OriginFailed, S3Error
from proxy.s3.wire import Sink

MAX_PART_NUMBER = sizes.MAX_PARTS - 1  # the footer needs one behind the last
MAX_PART_BYTES = 5_363_471_288  # the largest stream of at most 5 GiB
_DOCUMENT_BYTES = 4 * 1024 * 1024
_TAGGED = re.compile(r'"?([^"]*?)-([0-9a-f]{16})([0-9a-f]{8})"?\Z')

Pump = Callable[[Sink, Exchange], Awaitable[Headers]]


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload's keys, for as long as a request needs them."""

    upload_id: str
    hashed: bytes
    version_id: bytes
    key: KeyHandle
    object_id: bytes


@contextmanager
def _opened(call: Call, keys: RingKeys, version_prefix: str | None = None) -> Iterator[Upload]:
    """Keys of the upload named in the request, under the active ring version or the one named."""
    upload_id = call.request.param("uploadId") or ""
    version = keys.active
    if version_prefix is not None:
        found = [v for v in keys.versions if v.id[:4].hex() == version_prefix]
        if not found:
            raise S3Error("InvalidPart", "A part was sealed under a key that is gone.")
        version = found[0]
    hashed = object_keys.upload_hash(upload_id)
    key = object_keys.upload_key(version.handle, call.target.bucket, call.target.key, hashed)
    try:
        yield Upload(upload_id, hashed, version.id, key, object_keys.upload_object_id(key))
    finally:
        key.wipe()


async def create_upload(call: Call) -> None:
    check_headers(call)
    await PlainBody(call).read(0)
    keys = await call.ring_keys(Action.SEAL)
    envelope = seal_upload_envelope(keys.active, call.target.bucket, call.target.key)
    headers = with_envelope(call.origin_headers(plaintext_only), envelope)
    response = await call.origin.call(
        "POST", call.target.bucket, call.target.key, call.origin_query(), headers
    )
    if response.status != 200:
        await call.relay(response)
        return
    document = await response.read(xml.MAX_XML_BYTES)
    call.reply(200, relayed(response.headers, lambda n: n.startswith("x-amz-checksum-")), document)


async def upload_part(call: Call) -> None:
    check_headers(call)
    body = PlainBody(call)

    async def pump(sink: Sink, exchange: Exchange) -> Headers:
        exchange.wire.fed_by(call.writer.wire)
        call.writer.send_continue()
        return await body.pump(sink)

    response, confirmed, tag = await seal_part(call, body.length, pump)
    if response.status != 200:
        await call.relay(response)
        return
    await response.read(64 * 1024)
    headers = relayed(response.headers, _not_of_a_part)
    call.reply(200, [*headers, ("etag", tag), *confirmed])


def _not_of_a_part(name: str) -> bool:
    return name.startswith("x-amz-checksum-") or name in (
        "etag",
        "content-type",
        "x-amz-object-size",
        "x-amz-version-id",
    )


async def seal_part(call: Call, length: int, pump: Pump) -> tuple[Response, Headers, str]:
    """Seals `length` bytes that `pump` brings as the part named in the request."""
    number = _part_number(call)
    if length > MAX_PART_BYTES:
        raise S3Error(
            "EntityTooLarge",
            f"Your proposed part exceeds the maximum allowed size of {MAX_PART_BYTES} bytes.",
            MaxSizeAllowed=str(MAX_PART_BYTES),
        )
    keys = await call.ring_keys(Action.SEAL)
    with _opened(call, keys) as upload:
        query = [("partNumber", str(number)), ("uploadId", upload.upload_id)]
        key = call.target.key
        if length < sizes.MIN_PART_BYTES:
            await _check_upload_exists(call, upload)
            key, query = stash.name(upload.hashed, number), []
        exchange = await call.origin.begin(
            "PUT", call.target.bucket, key, query, [], parts.stream_size(length)
        )
        try:
            context = parts.part_context(upload.object_id, number)
            sealer = native.PartSealer(upload.key, context)
            exchange.write(sealer.header)

            def seal(piece: memoryview) -> None:
                sealed = sealer.update(piece)
                if sealed:
                    exchange.write(sealed)

            async def whole() -> Headers:
                return await pump(seal, exchange)

            confirmed: Headers = []
            try:
                confirmed = await exchange.while_sending(whole())
                exchange.write(sealer.finish())
                response = await exchange.response()
            except EarlyAnswer as early:
                response = early.response
            call.note_bytes(keys, Action.SEAL, length)
            suffix = sealer.header[24:32].hex() + upload.version_id[:4].hex()
            bare = (header(response.headers, "etag") or "").strip('"')
            if response.status == 200 and response.body.complete:
                return response, confirmed, f'"{bare}-{suffix}"'
            if response.status == 200:
                await response.read(64 * 1024)
            return response, confirmed, f'"{bare}-{suffix}"'
        finally:
            if not exchange.answer.done() or exchange.answer.exception() is not None:
                exchange.abort()


def _part_number(call: Call) -> int:
    text = call.request.param("partNumber") or ""
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_PART_NUMBER):
        raise S3Error(
            "InvalidArgument",
            f"Part number must be an integer between 1 and {MAX_PART_NUMBER}, inclusive",
            ArgumentName="partNumber",
            ArgumentValue=text,
        )
    return int(text)


async def _check_upload_exists(call: Call, upload: Upload) -> None:
    response = await call.origin.call(
        "GET",
        call.target.bucket,
        call.target.key,
        [("uploadId", upload.upload_id), ("max-parts", "1")],
        [],
    )
    await response.read(xml.MAX_XML_BYTES)
    if response.status != 200:
        raise S3Error("NoSuchUpload")


# -- complete --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Named:
    """A part as the client lists it in Complete."""

    number: int
    bare_etag: str
    commitment: bytes
    version_prefix: str | None


def _named_parts(document: bytes) -> list[_Named]:
    found: list[_Named] = []
    for element in xml.parse_request(document):
        if xml.local(element) != "Part":
            continue
        number, tag = xml.text(element, "PartNumber"), xml.text(element, "ETag")
        if not (number.isascii() and number.isdigit()):
            raise S3Error("MalformedXML")
        match = _TAGGED.match(tag)
        if match:
            named = _Named(int(number), match[1], bytes.fromhex(match[2]), match[3])
        else:
            named = _Named(int(number), tag.strip('"'), footer.UNKNOWN_COMMITMENT, None)
        if found and found[-1].number >= named.number:
            raise S3Error("InvalidPartOrder")
        found.append(named)
    if not found:
        raise S3Error("MalformedXML")
    return found


async def complete_upload(call: Call) -> None:
    call.writer.send_continue()
    document, _ = await PlainBody(call).read(_DOCUMENT_BYTES)
    named = _named_parts(document)
    prefixes = {p.version_prefix for p in named if p.version_prefix is not None}
    if len(prefixes) > 1:
        raise S3Error(
            "InvalidPart", "The key ring was rotated during this upload. Abort it and start again."
        )
    keys = await call.ring_keys(Action.SEAL)
    with _opened(call, keys, next(iter(prefixes), None)) as upload:
        origin_parts = await _list_parts(call, upload.upload_id)
        last, waiting = named[-1], None
        if (last.number, last.bare_etag) not in origin_parts:
            waiting = (await stash.listed(call, upload.hashed)).get(last.number)
            if waiting is None or waiting.etag.strip('"') != last.bare_etag:
                raise S3Error("InvalidPart")
        entries = [
            footer.Entry(p.number, _plain_length(p, origin_parts), p.commitment)
            for p in (named if waiting is None else named[:-1])
        ]
        if waiting is not None:
            entries.append(footer.Entry(last.number, waiting.plain_bytes, last.commitment))
        tail = _footer(upload, entries)
        number, body = last.number + 1, tail
        if waiting is not None:
            sealed = await stash.fetch(call, upload.hashed, waiting, sizes.MIN_PART_BYTES * 2)
            number, body = last.number, sealed + tail
        final = await _send_final(call, upload, number, body)
        kept = named if waiting is None else named[:-1]
        tags = [(p.number, p.bare_etag) for p in kept] + [(number, final)]
        response = await call.origin.call(
            "POST",
            call.target.bucket,
            call.target.key,
            [("uploadId", upload.upload_id)],
            [*call.origin_headers(_not_for_complete), ("content-type", "application/xml")],
            _complete_document(tags),
        )
        if response.status != 200:
            await call.relay(response)
            return
        answer = await _completed(call, await response.read(xml.MAX_XML_BYTES))
        if b"<Error" not in answer:
            await stash.remove(call, upload.hashed)
    call.reply(200, relayed(response.headers, lambda n: n.startswith("x-amz-checksum-")), answer)


def _not_for_complete(name: str) -> bool:
    return plaintext_only(name) or name == "x-amz-mp-object-size" or name == "content-type"


def _plain_length(part: _Named, origin_parts: dict[tuple[int, str], int]) -> int:
    stored = origin_parts.get((part.number, part.bare_etag))
    if stored is None:
        # It was never sent, or sent again since, or too small to be anything but the last part.
        raise S3Error(
            "InvalidPart",
            "A part was not found, has another ETag, or is not the last one and below 5 MiB.",
            PartNumber=str(part.number),
        )
    plain = parts.stream_plain_size(stored)
    if plain is None:
        raise S3Error("InvalidPart", PartNumber=str(part.number))
    return plain


def _footer(upload: Upload, entries: list[footer.Entry]) -> bytes:
    if any(e.length < sizes.MIN_PART_BYTES for e in entries[:-1]):
        raise S3Error("EntityTooSmall")
    return footer.build(
        upload.key,
        upload.object_id,
        entries,
        ring_version_id=upload.version_id,
        upload_hash=upload.hashed,
    )


async def _send_final(call: Call, upload: Upload, number: int, body: bytes) -> str:
    response = await call.origin.call(
        "PUT",
        call.target.bucket,
        call.target.key,
        [("partNumber", str(number)), ("uploadId", upload.upload_id)],
        [],
        body,
    )
    await response.read(1 << 20)
    tag = response.get("etag").strip('"')
    if response.status != 200 or not tag:
        raise OriginFailed(f"the origin answered {response.status} to the footer's part")
    return tag


def _complete_document(tags: list[tuple[int, str]]) -> bytes:
    root = ElementTree.Element("CompleteMultipartUpload")
    for number, tag in tags:
        part = ElementTree.SubElement(root, "Part")
        ElementTree.SubElement(part, "PartNumber").text = str(number)
        ElementTree.SubElement(part, "ETag").text = f'"{tag}"'
    return xml.serialise(root)


async def _completed(call: Call, document: bytes) -> bytes:
    """CompleteMultipartUploadResult: our address, shown ETag, no checksums of the ciphertext."""
    root = xml.parse(document)
    if xml.local(root) != "CompleteMultipartUploadResult":
        return document
    for found in [c for c in root if xml.local(c).startswith("Checksum")]:
        root.remove(found)
    tag, place = xml.child(root, "ETag"), xml.child(root, "Location")
    if tag is not None:
        if not (tag.text or "").strip('"'):  # Ceph, after a part was sent twice
            head = await call.origin.call("HEAD", call.target.bucket, call.target.key, [], [])
            tag.text = head.get("etag")
        tag.text = etag.shown(tag.text or "")
    if place is not None:
        scheme = "https" if call.services.config.tls is not None else "http"
        place.text = f"{scheme}://{call.request.get('host')}{call.request.path}"
    return xml.serialise(root)


# -- lists and end ---------------------------------------------------------------------------------


async def _list_parts(call: Call, upload_id: str) -> dict[tuple[int, str], int]:
    """All parts at the origin, stored size by number and bare ETag.

    SeaweedFS lists every attempt of a part that was sent again, so a number is no key.
    """
    found: dict[tuple[int, str], int] = {}
    marker = ""
    while True:
        query = [("uploadId", upload_id), ("max-parts", "1000")]
        if marker:
            query.append(("part-number-marker", marker))
        response = await call.origin.call("GET", call.target.bucket, call.target.key, query, [])
        document = await response.read(xml.MAX_XML_BYTES)
        if response.status == 404:
            raise S3Error("NoSuchUpload")
        if response.status != 200:
            raise OriginFailed(f"the origin answered {response.status} to ListParts")
        root = xml.parse(document)
        for part in root:
            if xml.local(part) == "Part":
                tag = xml.text(part, "ETag").strip('"')
                found[int(xml.text(part, "PartNumber")), tag] = int(xml.text(part, "Size"))
        following = xml.text(root, "NextPartNumberMarker")
        if xml.text(root, "IsTruncated") != "true" or following == marker:
            return found
        marker = following


async def list_parts(call: Call) -> None:
    """ListParts with plaintext sizes and the stashed part in its place."""
    response = await call.origin.call(
        "GET", call.target.bucket, call.target.key, call.origin_query(), call.origin_headers()
    )
    if response.status != 200:
        await call.relay(response)
        return
    document = await response.read(xml.MAX_XML_BYTES)
    hashed = object_keys.upload_hash(call.request.param("uploadId") or "")
    document = _merged(document, await stash.listed(call, hashed))
    call.reply(200, relayed(response.headers), document)


def _merged(document: bytes, waiting: dict[int, stash.Stashed]) -> bytes:
    """One entry per number, the newest: SeaweedFS lists every attempt; the stash has its own."""
    root = xml.parse(document)
    old = [part for part in root if xml.local(part) == "Part"]
    at = list(root).index(old[0]) if old else len(root)
    newest: dict[int, tuple[str, ElementTree.Element]] = {}
    for part in old:
        root.remove(part)
        _keep_newest(newest, int(xml.text(part, "PartNumber")), _plain_part(part))
    truncated = xml.text(root, "IsTruncated") == "true"
    marker = xml.text(root, "PartNumberMarker")
    after = int(marker) if marker.isdigit() else 0
    upto = max(newest, default=0) if truncated else MAX_PART_NUMBER
    prefix = str(root.tag).rpartition("ListPartsResult")[0]
    for stashed in waiting.values():
        if after < stashed.number <= upto:
            _keep_newest(newest, stashed.number, _stashed_part(stashed, prefix))
    for offset, number in enumerate(sorted(newest)):
        root.insert(at + offset, newest[number][1])
    return xml.serialise(root)


def _keep_newest(
    newest: dict[int, tuple[str, ElementTree.Element]], number: int, part: ElementTree.Element
) -> None:
    age = xml.text(part, "LastModified")
    if number not in newest or newest[number][0] <= age:
        newest[number] = (age, part)


def _plain_part(part: ElementTree.Element) -> ElementTree.Element:
    for name in [c for c in part if xml.local(c).startswith("Checksum")]:
        part.remove(name)
    size = xml.child(part, "Size")
    plain = parts.stream_plain_size(int(size.text or "0")) if size is not None else None
    if size is not None and plain is not None:
        size.text = str(plain)
    return part


def _stashed_part(stashed: stash.Stashed, prefix: str) -> ElementTree.Element:
    element = ElementTree.Element(prefix + "Part")
    for field, text in (
        ("PartNumber", str(stashed.number)),
        ("LastModified", stashed.last_modified),
        ("ETag", stashed.etag),
        ("Size", str(stashed.plain_bytes)),
    ):
        ElementTree.SubElement(element, prefix + field).text = text
    return element


async def abort_upload(call: Call) -> None:
    await stash.remove(call, object_keys.upload_hash(call.request.param("uploadId") or ""))
    await forward(call)
