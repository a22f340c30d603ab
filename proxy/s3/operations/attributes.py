"""GetObjectAttributes of a sealed object: size, checksum and parts of the plaintext.

The origin is asked for what it alone knows; checksum and parts come from envelope and footer, which
are authenticated, at the price of a HEAD and one small range.
"""

from xml.etree import ElementTree

from proxy.crypto.footer import Footer
from proxy.s3 import listing, object_checksums, xml
from proxy.s3.call import Call, relayed
from proxy.s3.operations import stored
from proxy.s3.s3error import S3Error

_WANTED = "x-amz-object-attributes"
_OURS = frozenset({"checksum", "objectparts"})
_PAGING = frozenset({"x-amz-max-parts", "x-amz-part-number-marker"})


async def get_object_attributes(call: Call) -> None:
    wanted = {w.strip().lower() for w in call.request.get(_WANTED).split(",") if w.strip()}
    if not wanted:
        raise S3Error("InvalidRequest", f"The {_WANTED} header is required.")
    theirs = [n for n in ("ETag", "StorageClass", "ObjectSize") if n.lower() in wanted]
    headers = call.origin_headers(lambda n: n == _WANTED or n in _PAGING)
    response = await call.origin.call(
        "GET",
        call.target.bucket,
        call.target.key,
        call.origin_query(),
        [*headers, (_WANTED, ",".join(theirs or ["ETag"]))],
    )
    if response.status != 200:
        await call.relay(response)
        return
    root = listing.edit_attributes(xml.parse(await response.read(xml.MAX_XML_BYTES)))
    if not theirs:
        for found in [c for c in root if xml.local(c) == "ETag"]:
            root.remove(found)
    if wanted & _OURS:
        await _add_ours(call, root, wanted)
    call.reply(
        200, relayed(response.headers, lambda n: n == "content-encoding"), xml.serialise(root)
    )


async def _add_ours(call: Call, root: ElementTree.Element, wanted: set[str]) -> None:
    described = await stored.describe(call)
    if described is None:
        return
    opened, known = described
    try:
        checksum = stored.checksum_of(opened, known)
        if "checksum" in wanted and checksum is not None:
            element = xml.add(root, "Checksum", "")
            text = object_checksums.shown(checksum, len(known.entries))
            xml.add(element, f"Checksum{checksum.algorithm}", text.partition("-")[0])
            xml.add(element, "ChecksumType", "COMPOSITE" if checksum.composite else "FULL_OBJECT")
        if "objectparts" in wanted and opened.has_parts:
            _add_parts(call, root, known)
    finally:
        opened.close()


def _add_parts(call: Call, root: ElementTree.Element, known: Footer) -> None:
    after = _number(call, "x-amz-part-number-marker", 0)
    limit = min(_number(call, "x-amz-max-parts", 1000), 1000)
    following = [e for e in known.entries if e.part_number > after]
    page = following[:limit]
    element = xml.add(root, "ObjectParts", "")
    xml.add(element, "PartsCount", str(len(known.entries)))
    xml.add(element, "PartNumberMarker", str(after))
    xml.add(element, "NextPartNumberMarker", str(page[-1].part_number if page else after))
    xml.add(element, "MaxParts", str(limit))
    xml.add(element, "IsTruncated", "true" if len(following) > len(page) else "false")
    for entry in page:
        part = xml.add(element, "Part", "")
        xml.add(part, "PartNumber", str(entry.part_number))
        xml.add(part, "Size", str(entry.length))


def _number(call: Call, name: str, default: int) -> int:
    text = call.request.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise S3Error("InvalidArgument", f"{name} must be an integer between 0 and 2147483647")
    return int(text)
