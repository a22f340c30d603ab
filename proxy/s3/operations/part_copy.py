"""UploadPartCopy into a protected place: the source is read, opened, and sealed again as the part.

Bytes go through the gateway, since a part is sealed under its own upload's key. The source is read
by its own GetObject, protected or plain, with this module standing in for the client.
"""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

from proxy.s3 import etag, xml
from proxy.s3.call import Call
from proxy.s3.message import Headers, Query, Request, encode_path, encode_query
from proxy.s3.operations import stored
from proxy.s3.operations.copy_object import source_of
from proxy.s3.operations.forward import forward
from proxy.s3.operations.get_object import get_object
from proxy.s3.operations.multipart import seal_part
from proxy.s3.operations.put_object import check_headers
from proxy.s3.origin import Exchange
from proxy.s3.router import Target
from proxy.s3.s3error import S3Error
from proxy.s3.wire import Sink, Wire

_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})\Z")
_CONDITION = "x-amz-copy-source-"


class _IntoPart:
    """Takes what the source's GetObject answers and feeds it to the sealer."""

    def __init__(self, sink: Sink, wire: Wire) -> None:
        self.started = False
        self._sink = sink
        self._wire = wire

    @property
    def wire(self) -> Wire:
        return self._wire

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        if status in (304, 412):
            raise S3Error("PreconditionFailed")
        if status == 404:
            raise S3Error("NoSuchKey")
        if status not in (200, 206):
            raise S3Error("AccessDenied" if status == 403 else "ServiceUnavailable")

    def write_body(self, data: bytes | memoryview) -> None:
        self._sink(memoryview(data))

    def finish(self) -> None:
        """Nothing follows; the part is finished by its own request."""

    def send_continue(self) -> None:
        """A GET has no body."""


async def upload_part_copy(call: Call) -> None:
    check_headers(call)
    bucket, key, version_id = source_of(call)
    source = call.services.buckets.for_key(bucket, key)
    query: Query = [("versionId", version_id)] if version_id else []
    origin = call.services.origins[source.origin]
    head = await origin.call("HEAD", bucket, key, query, [])
    if head.status != 200:
        raise S3Error("NoSuchKey" if head.status == 404 else "AccessDenied")
    total = stored.stored_bytes_of(head)
    if total is None:
        raise S3Error("ServiceUnavailable")
    if stored.envelope_text(head.headers) is not None and source.state != "plain":
        total = stored.plain_bytes(total)
    first, last = _range(call, total)
    headers: Headers = [
        (name.removeprefix(_CONDITION), value)
        for name, value in call.request.headers
        if name.startswith(_CONDITION + "if-")
    ]
    if not any(n == "if-match" for n, _ in headers):
        headers.append(("if-match", etag.shown(head.get("etag"))))
    if call.request.has("x-amz-copy-source-range"):
        headers.append(("range", f"bytes={first}-{last}"))
    request = Request(
        "GET", "/" + encode_path(f"{bucket}/{key}".encode()), encode_query(query), headers
    )

    async def pump(sink: Sink, exchange: Exchange) -> Headers:
        reading = Call(
            request,
            Target(bucket, key),
            "GetObject",
            source,
            call.auth,
            call.principal,
            call.body,
            _IntoPart(sink, exchange.wire),
            call.services,
        )
        await (forward if source.state == "plain" else get_object)(reading)
        return []

    response, _, tag = await seal_part(call, last - first + 1, pump)
    if response.status != 200:
        await call.relay(response)
        return
    root = ElementTree.Element("CopyPartResult")
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    ElementTree.SubElement(root, "LastModified").text = moment
    ElementTree.SubElement(root, "ETag").text = tag
    call.reply(200, [("content-type", "application/xml")], xml.serialise(root))


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
