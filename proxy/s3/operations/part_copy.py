"""UploadPartCopy: the source is read, opened where it is sealed, and becomes the part.

Bytes go through the gateway, since a part is sealed under its own upload's key; between two plain
places of one origin the origin does it alone.
"""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

from proxy.s3 import xml
from proxy.s3.call import Call
from proxy.s3.message import Headers, Request, encode_query, header
from proxy.s3.operations import patience, stored
from proxy.s3.operations.copy_source import (
    Description,
    Source,
    SourceBody,
    by_origin,
    describe,
    same_origin_plain,
    source_of,
)
from proxy.s3.operations.copy_through import Written
from proxy.s3.operations.forward import store_as_it_is
from proxy.s3.operations.multipart import seal_part
from proxy.s3.operations.patience import Result
from proxy.s3.operations.put_object import check_headers
from proxy.s3.origin import Exchange
from proxy.s3.s3error import S3Error
from proxy.s3.wire import Sink

_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})\Z")
_MAX_PART_BYTES = 5 * 1024**3


async def upload_part_copy(call: Call) -> None:
    source = source_of(call)
    if same_origin_plain(call, source):
        await by_origin(call, source)
        return
    if call.rule.state != "plain":
        check_headers(call)
    await patience.answer(call, _copied(call, source))


async def _copied(call: Call, source: Source) -> Result:
    described = await describe(call, source)
    wanted = _range(call, described.length)
    body = SourceBody(call, source, described, wanted if _ranged(call) else None)
    if body.length > _MAX_PART_BYTES:
        raise S3Error("EntityTooLarge", MaxSizeAllowed=str(_MAX_PART_BYTES))
    try:
        write = _plain_part if call.rule.state == "plain" else _sealed_part
        status, tag, headers, error = await write(call, body)
    except stored.Changed:
        raise S3Error("PreconditionFailed") from None
    if status != 200:
        return Result(status, headers, error)
    root = ElementTree.Element("CopyPartResult")
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    ElementTree.SubElement(root, "LastModified").text = moment
    ElementTree.SubElement(root, "ETag").text = tag
    return Result(200, _told(described), xml.serialise(root))


def _told(described: Description) -> Headers:
    version = described.get("x-amz-version-id")
    more = [("x-amz-copy-source-version-id", version)] if version else []
    return [("content-type", "application/xml"), *more]


async def _sealed_part(call: Call, body: SourceBody) -> tuple[int, str, Headers, bytes]:
    async def pump(sink: Sink, exchange: Exchange) -> Headers:
        exchange.wire.fed_by(body.tap)  # type: ignore[arg-type]  # a Wire's shape
        return await body.pump(sink)

    response, _, tag = await seal_part(call, body.length, pump)
    if response.status == 200:
        return 200, tag, [], b""
    document = await response.read(xml.MAX_XML_BYTES)
    return response.status, "", [("content-type", "application/xml")], document


async def _plain_part(call: Call, body: SourceBody) -> tuple[int, str, Headers, bytes]:
    query = [(n, call.request.param(n) or "") for n in ("partNumber", "uploadId")]
    written = Written(body.tap)
    write = Call(
        Request("PUT", call.request.path, encode_query(query), []),
        call.target,
        "UploadPart",
        call.rule,
        call.auth,
        call.principal,
        call.body,
        written,
        call.services,
    )
    await store_as_it_is(write, body)
    tag = header(written.headers, "etag") or ""
    return written.status, tag, written.headers, bytes(written.document)


def _ranged(call: Call) -> bool:
    return bool(call.request.get("x-amz-copy-source-range"))


def _range(call: Call, total: int) -> tuple[int, int]:
    text = call.request.get("x-amz-copy-source-range")
    if not text:
        return 0, total - 1
    match = _RANGE.match(text)
    if match is None:
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last",
        )
    first, last = int(match[1]), int(match[2])
    if not first <= last < total:
        raise S3Error(
            "InvalidArgument", f"Range specified is not valid for source object of size: {total}"
        )
    return first, last
