"""Find out what a stored object is: its envelope, its parts, its size. Shared by GET, HEAD, copy.

The envelope says whose key opens it; the size of the plaintext follows from the stored size; where
there are parts, the footer lists them. Nothing here trusts the origin: what it says is checked by
opening, and a stored size that no sealed object has is an integrity error.
"""

from collections.abc import Callable
from typing import TypeVar

from proxy.config.model import BucketConfig
from proxy.crypto import footer, sizes
from proxy.crypto.checksum_field import Checksum
from proxy.crypto.envelope import METADATA_NAME, OpenedEnvelope, UploadEnvelope, open_envelope
from proxy.crypto.footer import Entry, Footer
from proxy.crypto.parts import SINGLE_PART
from proxy.errors import IntegrityError
from proxy.keys.service import RingKeys
from proxy.native import KeyHandle
from proxy.policy.model import Action
from proxy.s3 import object_checksums
from proxy.s3.call import Call
from proxy.s3.message import Headers, Query
from proxy.s3.origin import Response
from proxy.s3.ranges import total_of
from proxy.s3.s3error import S3Error

T = TypeVar("T")
FIRST_TAIL_BYTES = 16 * 1024  # the tail and the entries of about a thousand parts
_CIPHERTEXT_HEADERS = frozenset(
    {
        METADATA_NAME,
        "content-range",
        "accept-ranges",
        "x-amz-mp-parts-count",
        "x-amz-object-size",
        "content-md5",
    }
)


class Changed(Exception):
    """Another version took the object's place between two requests of one read."""


def not_for_client(name: str) -> bool:
    """Headers of an origin that speak of the ciphertext."""
    return name in _CIPHERTEXT_HEADERS or name.startswith("x-amz-checksum-")


def envelope_text(headers: Headers) -> str | None:
    """The envelope; None when there is none. Two are refused."""
    found = [v for n, v in headers if n == METADATA_NAME]
    if len(found) > 1:
        raise IntegrityError("more than one envelope")
    return found[0] if found else None


async def open_with_keys(
    call: Call, text: str, bucket: str, key: str, rule: BucketConfig | None = None
) -> tuple[OpenedEnvelope | UploadEnvelope, RingKeys]:
    """The opened envelope of the object bucket/key and the ring it opened under."""
    keys = await call.ring_keys(Action.OPEN, rule, bucket)
    kept = call.services.envelopes.get(keys, text, bucket, key)
    if kept is not None:
        return kept, keys
    opened, keys = await _finding(call, keys, lambda find: open_envelope(text, bucket, key, find))
    if isinstance(opened, OpenedEnvelope):
        call.services.envelopes.put(keys, text, bucket, key, opened)
    return opened, keys


async def _finding(
    call: Call, keys: RingKeys, use: Callable[[Callable[[bytes], KeyHandle | None]], T]
) -> tuple[T, RingKeys]:
    """`use(find)`; once more with the store's newest ring when a version was unknown."""
    unknown = False

    def find(version_id: bytes) -> KeyHandle | None:
        nonlocal unknown
        version = keys.by_id(version_id)
        unknown = unknown or version is None
        return None if version is None else version.handle

    try:
        return use(find), keys
    except IntegrityError:
        if not unknown:
            raise
    keys = await call.services.keys.refresh(keys.ring)
    return use(find), keys


def plain_bytes(stored: int) -> int:
    """Plaintext size of a sealed object; IntegrityError when none is stored in `stored` bytes."""
    plain = sizes.plain_size(stored)
    if plain is None:
        raise IntegrityError("no sealed object has this stored size")
    return plain


async def read_footer(
    call: Call,
    bucket: str,
    key: str,
    query: Query,
    etag: str,
    opened: OpenedEnvelope | UploadEnvelope,
    stored_bytes: int,
    rule: BucketConfig | None = None,
) -> tuple[Footer, OpenedEnvelope]:
    """Footer of a multipart object, by one suffix range (two where it has very many parts).

    `rule` is that of the object's place where it is not the call's own."""
    wanted = FIRST_TAIL_BYTES
    for _ in range(2):
        data = await _suffix(call, bucket, key, query, etag, min(wanted, stored_bytes))
        prefix = footer.read_tail(data)
        if isinstance(opened, UploadEnvelope):
            keys = await call.ring_keys(Action.OPEN, rule, bucket)
            if keys.by_id(prefix.ring_version_id) is None:
                await call.services.keys.refresh(keys.ring)
            opened = opened.resolve(prefix.ring_version_id, prefix.upload_hash)
        if prefix.needed_bytes <= len(data):
            return footer.parse(opened.object_key, opened.object_id, stored_bytes, data), opened
        wanted = prefix.needed_bytes
    raise IntegrityError("the footer names more parts than it holds")


async def _suffix(call: Call, bucket: str, key: str, query: Query, etag: str, length: int) -> bytes:
    headers: Headers = [("range", f"bytes=-{length}"), ("if-match", etag)]
    response = await call.origin.call("GET", bucket, key, query, headers)
    if response.status == 412:
        await response.read(1 << 20)
        raise Changed
    if response.status != 206:
        response.wire.abort()
        raise IntegrityError("the origin did not answer the footer's range")
    return await response.read(length)


def checksum_of(opened: OpenedEnvelope, known: Footer | None) -> Checksum | None:
    """The whole object's, from the envelope or the footer."""
    late = known.checksums[0] if known is not None and known.checksums else None
    return opened.checksum or late


def checksum_headers(opened: OpenedEnvelope, known: Footer | None) -> Headers:
    """As an answer tells it; empty where there is none."""
    parts = len(known.entries) if known is not None else 1
    return object_checksums.to_headers(checksum_of(opened, known), parts)


async def describe(call: Call) -> tuple[OpenedEnvelope, Footer] | None:
    """Envelope and footer of the object the request names, by HEAD and a suffix range. None: the
    object is not sealed, in a mixed place. The envelope is the caller's to close."""
    target = call.target
    query = [(n, v) for n, v in call.request.query if n == "versionId"]
    head = await call.origin.call("HEAD", target.bucket, target.key, query, [])
    if head.status != 200:
        raise S3Error("NoSuchKey" if head.status == 404 else "ServiceUnavailable")
    text, size = envelope_text(head.headers), stored_bytes_of(head)
    if text is None and call.rule.state == "mixed":
        call.authorise(Action.OPEN)
        return None
    if text is None or size is None:
        raise IntegrityError("an object without envelope in a sealed place")
    opened, _ = await open_with_keys(call, text, target.bucket, target.key)
    known, found = await read_footer(
        call, target.bucket, target.key, query, head.get("etag"), opened, size
    )
    return found, known


def part_number(call: Call) -> int | None:
    """Of GET and HEAD; S3Error where it is none, or comes with a range."""
    text = call.request.param("partNumber")
    if text is None:
        return None
    if call.request.has("range"):
        raise S3Error(
            "InvalidRequest", "Cannot specify both Range header and partNumber query parameter"
        )
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 10_000):
        raise S3Error("InvalidArgument", "Part number must be an integer between 1 and 10000")
    return int(text)


def single_entry(plain: int) -> tuple[Entry, ...]:
    """The layout of an object stored by one PUT."""
    return (Entry(SINGLE_PART, plain),)


def stored_bytes_of(response: Response) -> int | None:
    """Complete stored length, from a 206's Content-Range or a 200's Content-Length."""
    if response.status == 206:
        return total_of(response.get("content-range"))
    text = response.get("content-length")
    return int(text) if text.isascii() and text.isdigit() else None
