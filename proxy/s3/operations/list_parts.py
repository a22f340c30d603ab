"""Which parts has an upload? ListParts with plaintext sizes, and the parts as the origin has them."""

from xml.etree import ElementTree

from proxy.crypto import object_keys, parts
from proxy.s3 import xml
from proxy.s3.call import Call, relayed
from proxy.s3.operations import stash
from proxy.s3.operations.multipart import MAX_PART_NUMBER
from proxy.s3.s3error import OriginFailed, S3Error


async def origin_parts_of(call: Call, upload_id: str) -> dict[tuple[int, str], int]:
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
