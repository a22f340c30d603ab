"""One object from place to place through the engine: sealed where the target is, opened where it was.

Streams in constant memory; above one request's limit it becomes a multipart upload. What S3 keeps with
an object goes along: `KEPT`, user metadata and tags. ACLs do not: S3 has no way to write them in the
same request, and an object must not be public between two.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from urllib.parse import quote

from proxy.crypto.envelope import METADATA_NAME
from proxy.s3 import xml
from proxy.s3.jobs.engine import Answer, Bytes, Engine, Reading
from proxy.s3.message import Headers, header
from proxy.s3.s3error import OriginFailed
from proxy.s3.wire import Sink

KEPT = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
        "x-amz-object-lock-legal-hold",
        "x-amz-object-lock-mode",
        "x-amz-object-lock-retain-until-date",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-storage-class",
        "x-amz-website-redirect-location",
    }
)
PART_BYTES = 1024**3
MAX_AT_ONCE_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class Place:
    bucket: str
    key: str


class _Hashed(Reading):
    """Takes the SHA-256 of what passes."""

    digest = b""

    async def pump(self, sink: Sink) -> None:
        state = hashlib.sha256()

        def both(piece: memoryview) -> None:
            state.update(piece)
            sink(piece)

        await super().pump(both)
        self.digest = state.digest()


async def kept_headers(engine: Engine, place: Place, head: Headers) -> Headers:
    """What the object at `place` has besides its bytes, as headers of a PUT."""
    out = [
        (n, v) for n, v in head if n in KEPT or (n.startswith("x-amz-meta-") and n != METADATA_NAME)
    ]
    if (header(head, "x-amz-tagging-count") or "0") != "0":
        answer = await engine.run("GET", place.bucket, place.key, [("tagging", "")], [])
        root = xml.parse(bytes(answer.check().document))
        tags = [t for t in root.iter() if xml.local(t) == "Tag"]
        pairs = (f"{quote(xml.text(t, 'Key'))}={quote(xml.text(t, 'Value'))}" for t in tags)
        out.append(("x-amz-tagging", "&".join(pairs)))
    return out


async def transfer(
    engine: Engine, source: Place, target: Place, condition: Headers, verify: bool
) -> int:
    """Copies; plaintext bytes. `condition` guards the write. OriginFailed where the copy read back is
    another one."""
    told = (await engine.run("HEAD", source.bucket, source.key, [], [])).check()
    size, tag = told.length or 0, told.get("etag")
    headers = await kept_headers(engine, source, told.headers)
    only_this: Headers = [("if-match", tag)] if tag else []
    if size > MAX_AT_ONCE_BYTES:
        await _in_parts(engine, source, target, [*headers], condition, size, only_this)
        digest = b""
    else:
        body = _Hashed(engine, source.bucket, source.key, only_this, size)
        put = [*headers, *condition]
        (await engine.run("PUT", target.bucket, target.key, [], put, body)).check()
        digest = body.digest
    if verify:
        await _compare(engine, source, target, size, digest)
    return size


async def _in_parts(
    engine: Engine,
    source: Place,
    target: Place,
    headers: Headers,
    condition: Headers,
    size: int,
    only_this: Headers,
) -> None:
    began = await engine.run("POST", target.bucket, target.key, [("uploads", "")], headers)
    upload = xml.text(xml.parse(bytes(began.check().document)), "UploadId")
    named = ""
    try:
        for number, first in enumerate(range(0, size, PART_BYTES), 1):
            last = min(first + PART_BYTES, size) - 1
            ranged = [*only_this, ("range", f"bytes={first}-{last}")]
            body = Reading(engine, source.bucket, source.key, ranged, last - first + 1)
            query = [("partNumber", str(number)), ("uploadId", upload)]
            sent = (await engine.run("PUT", target.bucket, target.key, query, [], body)).check()
            named += (
                f"<Part><PartNumber>{number}</PartNumber><ETag>{sent.get('etag')}</ETag></Part>"
            )
        document = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
        query = [("uploadId", upload)]
        done = await engine.run(
            "POST", target.bucket, target.key, query, condition, Bytes(document)
        )
        if b"<Error" in done.check().document:
            raise OriginFailed("the upload was not completed")
    except BaseException:
        await asyncio.shield(
            engine.run("DELETE", target.bucket, target.key, [("uploadId", upload)], [])
        )
        raise


async def read_whole(engine: Engine, place: Place, sink: Sink) -> Answer:
    """Opens all of an object into `sink`; raises where it does not open."""
    answer = Answer(sink=sink)
    await engine.run("GET", place.bucket, place.key, [], [], into=answer)
    return answer.check()


async def _compare(engine: Engine, source: Place, target: Place, size: int, digest: bytes) -> None:
    state, count = hashlib.sha256(), 0

    def take(piece: memoryview) -> None:
        nonlocal count
        count += len(piece)
        state.update(piece)

    await read_whole(engine, target, take)
    if not digest:  # it went in parts
        reference = hashlib.sha256()
        await read_whole(engine, source, reference.update)
        digest = reference.digest()
    if count != size or state.digest() != digest:
        raise OriginFailed("what was written reads back as something else")
