"""A copy whose bytes change on the way: opened where they were, sealed or not where they go.

The write is the target's own PutObject with the source's GetObject as its body: one pass, constant
memory, and nothing appears at the target unless every byte of the source was verified. A source that
is replaced meanwhile is begun again, as if the request had come a moment later.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast
from xml.etree import ElementTree

from proxy.s3 import xml
from proxy.s3.call import Call
from proxy.s3.checksums import ALGORITHMS
from proxy.s3.message import Headers, Request, header
from proxy.s3.operations import copy_headers, stored
from proxy.s3.operations.copy_source import Description, Source, SourceBody, describe
from proxy.s3.operations.forward import store_as_it_is
from proxy.s3.operations.patience import Result
from proxy.s3.operations.put_object import MAX_PLAIN_BYTES, store
from proxy.s3.s3error import OriginFailed, S3Error
from proxy.s3.sigv4 import UNSIGNED
from proxy.s3.tap import Tap
from proxy.s3.wire import Wire

_MAX_COPY_BYTES = 5 * 1024**3
_ATTEMPTS = 3
_CHECKSUM = "x-amz-checksum-"
_NOT_STORED = ("x-amz-copy-source", "x-amz-tagging", _CHECKSUM)


class Written:
    """Stands in for the client of the write: keeps the answer."""

    def __init__(self, tap: Tap) -> None:
        self.started = False
        self.status = 0
        self.headers: Headers = []
        self.document = bytearray()
        self._tap = tap

    @property
    def wire(self) -> Wire:
        return cast(Wire, self._tap)

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self.started = True
        self.status, self.headers = status, headers

    def write_body(self, data: bytes | memoryview) -> None:
        if len(self.document) + len(data) > xml.MAX_XML_BYTES:
            raise OriginFailed("the origin's answer to a write is too large")
        self.document += data

    def finish(self) -> None:
        """The copy's own answer follows."""

    def send_continue(self) -> None:
        """The body is not the client's."""


async def copy_through(call: Call, source: Source) -> Result:
    """S3Error where the source is above 5 GiB, as with S3: such a copy goes by UploadPartCopy."""
    for _ in range(_ATTEMPTS):
        described = await describe(call, source)
        limit = _MAX_COPY_BYTES if call.rule.state == "plain" else MAX_PLAIN_BYTES
        if described.length > min(limit, _MAX_COPY_BYTES):
            raise S3Error(
                "InvalidRequest",
                "The specified copy source is larger than the maximum allowable size for a "
                f"copy source: {min(limit, _MAX_COPY_BYTES)}",
            )
        try:
            return await _copy(call, source, described)
        except stored.Changed:
            continue
    raise S3Error("ServiceUnavailable", "The source is being replaced. Please retry.")


async def _copy(call: Call, source: Source, described: Description) -> Result:
    announced, algorithm = _checksum(call, described)
    body = SourceBody(call, source, described, announced=announced, algorithm=algorithm)
    headers = [
        (n, v)
        for n, v in call.request.headers
        if copy_headers.own(call, n) and not n.startswith(_NOT_STORED) and n != "content-md5"
    ]
    headers += copy_headers.carried(call, described.headers)
    headers += await copy_headers.tags(call, source, described.headers)
    headers += announced
    written = Written(body.tap)
    write = Call(
        Request("PUT", call.request.path, "", headers),
        call.target,
        "PutObject",
        call.rule,
        replace(call.auth, payload=UNSIGNED),
        call.principal,
        call.body,
        written,
        call.services,
    )
    await (store_as_it_is if call.rule.state == "plain" else store)(write, body)
    told = [
        (n, v)
        for n, v in written.headers
        if n.startswith(("x-amz-version-id", "x-amz-server-side-encryption", "x-amz-expiration"))
    ]
    if written.status != 200:
        return Result(written.status, written.headers, bytes(written.document))
    version = described.get("x-amz-version-id")
    if version:
        told.append(("x-amz-copy-source-version-id", version))
    document = _document(header(written.headers, "etag") or "", written.headers)
    return Result(200, [("content-type", "application/xml"), *told], document)


def _checksum(call: Call, described: Description) -> tuple[Headers, str]:
    """The whole source's checksum, verified while it passes, or the algorithm that the client asks
    for instead; a composite one is of parts that the copy does not have."""
    wanted = call.request.get("x-amz-checksum-algorithm").lower()
    if wanted and wanted not in ALGORITHMS:
        raise S3Error("InvalidRequest", "Checksum algorithm provided is unsupported.")
    for name, value in described.headers:
        algorithm = name.removeprefix(_CHECKSUM)
        whole = name.startswith(_CHECKSUM) and algorithm in ALGORITHMS and "-" not in value
        if whole and wanted in ("", algorithm):
            return [(name, value)], algorithm
    return [], "" if call.rule.state == "plain" else wanted


def _document(tag: str, headers: Headers) -> bytes:
    root = ElementTree.Element("CopyObjectResult")
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    ElementTree.SubElement(root, "LastModified").text = moment
    ElementTree.SubElement(root, "ETag").text = tag
    for name, value in headers:
        algorithm = name.removeprefix(_CHECKSUM)
        if name.startswith(_CHECKSUM) and algorithm in ALGORITHMS:
            ElementTree.SubElement(root, "Checksum" + algorithm.upper()).text = value
            ElementTree.SubElement(root, "ChecksumType").text = "FULL_OBJECT"
    return xml.serialise(root)
