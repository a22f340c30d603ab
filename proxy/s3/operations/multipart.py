"""Multipart uploads to a protected place: parts in any order, through any instance, no state here.

Key and object id follow from the ring version and the origin's UploadId, so any instance seals any
part. The ETag that UploadPart answers is the origin's with 24 hex digits behind it: 8 bytes of the
part's commitment and 4 of the ring version id; Complete takes both back into the footer, so that an
earlier attempt of the same part can't be passed off. Clients that resume bring bare ETags from
ListParts: those parts go in without. The footer is the last part of the origin's upload, behind a
stashed small part where there is one; so part 10,000 is ours.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proxy import native
from proxy.crypto import object_keys, parts, sizes
from proxy.crypto.envelope import seal_upload_envelope
from proxy.keys.service import RingKeys
from proxy.native import KeyHandle
from proxy.policy.model import Action
from proxy.s3 import xml
from proxy.s3.call import Call, PlainBody, relayed
from proxy.s3.message import Headers, header
from proxy.s3.operations import stash
from proxy.s3.operations.forward import forward
from proxy.s3.operations.put_object import check_headers, plaintext_only, with_envelope
from proxy.s3.origin import EarlyAnswer, Exchange, Response
from proxy.s3.s3error import S3Error
from proxy.s3.wire import Sink

MAX_PART_NUMBER = sizes.MAX_PARTS - 1  # the footer needs one behind the last
MAX_PART_BYTES = 5_363_471_288  # the largest stream of at most 5 GiB

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
def opened(call: Call, keys: RingKeys, version_prefix: str | None = None) -> Iterator[Upload]:
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
    with opened(call, keys) as upload:
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


async def abort_upload(call: Call) -> None:
    await stash.remove(call, object_keys.upload_hash(call.request.param("uploadId") or ""))
    await forward(call)
