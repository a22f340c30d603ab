"""CompleteMultipartUpload: the footer goes up as the origin's last part, then the origin completes.

What the client lists is held against what the origin has: every part's number, ETag and size. The
whole object's checksum follows from its parts' and goes into the footer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from proxy.crypto import footer, parts, sizes
from proxy.crypto.checksum_field import Checksum
from proxy.policy.model import Action
from proxy.s3 import etag, object_checksums, xml
from proxy.s3.call import Call, PlainBody, relayed
from proxy.s3.checksums import ALGORITHMS
from proxy.s3.operations import stash
from proxy.s3.operations.list_parts import origin_parts_of
from proxy.s3.operations.multipart import Upload, opened
from proxy.s3.operations.put_object import plaintext_only
from proxy.s3.s3error import OriginFailed, S3Error

_DOCUMENT_BYTES = 4 * 1024 * 1024
_TAGGED = re.compile(r'"?([^"]*?)-([0-9a-f]{16})([0-9a-f]{8})"?\Z')


@dataclass(frozen=True, slots=True)
class _Named:
    """A part as the client lists it in Complete."""

    number: int
    bare_etag: str
    commitment: bytes
    version_prefix: str | None
    checksum: tuple[str, bytes] | None  # algorithm and value


def _named_parts(document: bytes) -> list[_Named]:
    found: list[_Named] = []
    for element in xml.parse_request(document):
        if xml.local(element) != "Part":
            continue
        number, tag = xml.text(element, "PartNumber"), xml.text(element, "ETag")
        if not (number.isascii() and number.isdigit()):
            raise S3Error("MalformedXML")
        match, checksum = _TAGGED.match(tag), _checksum_of(element)
        if match:
            named = _Named(int(number), match[1], bytes.fromhex(match[2]), match[3], checksum)
        else:
            bare = tag.strip('"')
            named = _Named(int(number), bare, footer.UNKNOWN_COMMITMENT, None, checksum)
        if found and found[-1].number >= named.number:
            raise S3Error("InvalidPartOrder")
        found.append(named)
    if not found:
        raise S3Error("MalformedXML")
    return found


def _checksum_of(element: ElementTree.Element) -> tuple[str, bytes] | None:
    for found in element:
        algorithm = xml.local(found).removeprefix("Checksum")
        if xml.local(found).startswith("Checksum") and algorithm.lower() in ALGORITHMS:
            return algorithm, object_checksums.digest_of_part(algorithm, found.text or "")
    return None


def _checksum(
    call: Call, named: Sequence[_Named], entries: Sequence[footer.Entry]
) -> Checksum | None:
    """The object's, where every part has one of one kind; S3Error BadDigest."""
    found = [p.checksum for p in named if p.checksum is not None]
    algorithms = {algorithm for algorithm, _ in found}
    if len(found) != len(named) or len(algorithms) != 1:
        return None
    algorithm = algorithms.pop()
    kind = call.request.get("x-amz-checksum-type").upper()
    whole = kind == "FULL_OBJECT" or algorithm == "CRC64NVME"
    digests = [(digest, e.length) for (_, digest), e in zip(found, entries, strict=True)]
    checksum = object_checksums.of_parts(algorithm, digests, whole)
    object_checksums.check_announced(call.request.headers, checksum, len(entries))
    return checksum


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
    with opened(call, keys, next(iter(prefixes), None)) as upload:
        origin_parts = await origin_parts_of(call, upload.upload_id)
        last, waiting = named[-1], None
        absent = [p for p in named if (p.number, p.bare_etag) not in origin_parts]
        if absent:
            # Below 5 MiB: only the last one may be, and it was stashed.
            stashed = await stash.listed(call, upload.hashed)
            if any(_is_stashed(p, stashed) for p in absent if p is not last):
                raise S3Error("EntityTooSmall")
            if absent != [last] or not _is_stashed(last, stashed):
                raise S3Error("InvalidPart")
            waiting = stashed[last.number]
        entries = [
            footer.Entry(p.number, _plain_length(p, origin_parts), p.commitment)
            for p in (named if waiting is None else named[:-1])
        ]
        if waiting is not None:
            entries.append(footer.Entry(last.number, waiting.plain_bytes, last.commitment))
        checksum = _checksum(call, named, entries)
        tail = _footer(upload, entries, checksum)
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
        document = await response.read(xml.MAX_XML_BYTES)
        answer = await _completed(call, document, checksum, len(entries))
        if b"<Error" not in answer:
            await stash.remove(call, upload.hashed)
    call.reply(200, relayed(response.headers, lambda n: n.startswith("x-amz-checksum-")), answer)


def _is_stashed(part: _Named, stashed: dict[int, stash.Stashed]) -> bool:
    found = stashed.get(part.number)
    return found is not None and found.etag.strip('"') == part.bare_etag


def _not_for_complete(name: str) -> bool:
    return plaintext_only(name) or name == "x-amz-mp-object-size" or name == "content-type"


def _plain_length(part: _Named, origin_parts: dict[tuple[int, str], int]) -> int:
    plain = parts.stream_plain_size(origin_parts[part.number, part.bare_etag])
    if plain is None:
        raise S3Error("InvalidPart", PartNumber=str(part.number))
    return plain


def _footer(upload: Upload, entries: list[footer.Entry], checksum: Checksum | None) -> bytes:
    if any(e.length < sizes.MIN_PART_BYTES for e in entries[:-1]):
        raise S3Error("EntityTooSmall")
    return footer.build(
        upload.key,
        upload.object_id,
        entries,
        ring_version_id=upload.version_id,
        upload_hash=upload.hashed,
        checksums=() if checksum is None else (checksum,),
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


async def _completed(call: Call, document: bytes, checksum: Checksum | None, count: int) -> bytes:
    """CompleteMultipartUploadResult: our address, shown ETag, checksums of the plaintext."""
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
    if checksum is not None:
        name = f"Checksum{checksum.algorithm}"
        xml.add(root, name, object_checksums.shown(checksum, count))
        xml.add(root, "ChecksumType", "COMPOSITE" if checksum.composite else "FULL_OBJECT")
    return xml.serialise(root)
