"""CopyObject between protected places: the body stays where it is, the envelope is written anew.

Bucket and key are bound by the envelope alone, so the origin copies the sealed body and only the
metadata is replaced. Between a protected and a plain place, or between origins, bytes would have to
be opened or sealed: refused, clients fall back to GET and PUT.
"""

from urllib.parse import unquote_to_bytes

from proxy.config.model import BucketConfig
from proxy.crypto.envelope import METADATA_NAME, OpenedEnvelope, rewrap_envelope
from proxy.policy.model import Action
from proxy.s3 import etag, xml
from proxy.s3.call import Call, relayed
from proxy.s3.message import Headers, Query, encode_path
from proxy.s3.operations import stored
from proxy.s3.operations.put_object import check_headers, plaintext_only, with_envelope
from proxy.s3.s3error import S3Error

# What COPY takes along from the source besides x-amz-meta-*.
_KEPT = frozenset(
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "expires",
        "x-amz-website-redirect-location",
    }
)


def source_of(call: Call) -> tuple[str, str, str]:
    """Bucket, key and version id (may be empty) of x-amz-copy-source."""
    path, _, query = call.request.get("x-amz-copy-source").partition("?")
    try:
        text = unquote_to_bytes(path).decode("utf-8").removeprefix("/")
    except UnicodeDecodeError:
        raise S3Error("InvalidArgument", "Invalid copy source encoding.") from None
    bucket, _, key = text.partition("/")
    version = query.removeprefix("versionId=") if query else ""
    if not bucket or not key or text.startswith("arn:"):
        raise S3Error("InvalidArgument", "Invalid copy source object key")
    return bucket, key, version


def check_places(call: Call, source: BucketConfig) -> None:
    """Server-side copies stay within one origin and within protected places."""
    if source.origin != call.rule.origin:
        raise S3Error(
            "NotImplemented",
            "A copy between two origins is not supported; read and write the object instead.",
        )
    if (source.state == "plain") != (call.rule.state == "plain"):
        raise S3Error(
            "NotImplemented",
            "A copy between a sealed and a plain place is not "
            "supported; read and write the object instead.",
        )


async def _onto_itself(call: Call) -> None:
    """A copy to the very same key under the same metadata: the envelope stays right, the origin
    decides, as it does for a plain object, whether it wants to do that."""
    await call.ring_keys(Action.SEAL)
    headers = call.origin_headers(plaintext_only)
    response = await call.origin.call(
        "PUT", call.target.bucket, call.target.key, call.origin_query(), headers
    )
    if response.status != 200:
        await call.relay(response)
        return
    document = await response.read(xml.MAX_XML_BYTES)
    call.reply(200, relayed(response.headers), edit_copy_result(document))


async def copy_object(call: Call) -> None:
    bucket, key, version_id = source_of(call)
    source = call.services.buckets.for_key(bucket, key)
    check_places(call, source)
    check_headers(call)
    replaces = call.request.get("x-amz-metadata-directive").upper() == "REPLACE"
    if (bucket, key) == (call.target.bucket, call.target.key) and not replaces:
        await _onto_itself(call)
        return
    query: Query = [("versionId", version_id)] if version_id else []
    head = await call.origin.call("HEAD", bucket, key, query, [])
    if head.status != 200:
        raise (
            S3Error("AccessDenied")
            if head.status == 403
            else S3Error("NoSuchKey" if head.status == 404 else "ServiceUnavailable")
        )
    text = stored.envelope_text(head.headers)
    if text is None:
        raise S3Error("NotImplemented", "The source is not sealed; read and write it instead.")
    opened, _ = await stored.open_with_keys(call, text, bucket, key, source)
    if not isinstance(opened, OpenedEnvelope):
        stored_bytes = stored.stored_bytes_of(head) or 0
        _, opened = await stored.read_footer(
            call, bucket, key, query, head.get("etag"), opened, stored_bytes
        )
    try:
        keys = await call.ring_keys(Action.SEAL)
        envelope = rewrap_envelope(opened, keys.active, call.target.bucket, call.target.key)
    finally:
        opened.close()
    headers = with_envelope(_metadata(call, head.headers), envelope)
    headers.append(
        (
            "x-amz-copy-source",
            "/"
            + encode_path(f"{bucket}/{key}".encode())
            + (f"?versionId={version_id}" if version_id else ""),
        )
    )
    headers.append(("x-amz-metadata-directive", "REPLACE"))
    if not call.request.has("x-amz-copy-source-if-match"):
        headers.append(("x-amz-copy-source-if-match", head.get("etag")))
    response = await call.origin.call(
        "PUT", call.target.bucket, call.target.key, call.origin_query(), headers
    )
    if response.status != 200:
        await call.relay(response)
        return
    document = await response.read(xml.MAX_XML_BYTES)
    call.reply(200, relayed(response.headers), edit_copy_result(document))


def _metadata(call: Call, source: Headers) -> Headers:
    """The copy's headers less envelope: the client's, and the source's unless it replaces them."""
    replace = call.request.get("x-amz-metadata-directive").upper() == "REPLACE"

    def is_metadata(name: str) -> bool:
        return name in _KEPT or name.startswith("x-amz-meta-")

    own = call.origin_headers(
        lambda n: (
            plaintext_only(n)
            or n in ("x-amz-copy-source", "x-amz-metadata-directive")
            or (not replace and is_metadata(n))
        )
    )
    if replace:
        return own
    return own + [(n, v) for n, v in source if is_metadata(n) and n != METADATA_NAME]


def edit_copy_result(document: bytes) -> bytes:
    """CopyObjectResult: ETag shown, checksums of the ciphertext out."""
    root = xml.parse(document)
    if xml.local(root) == "Error":
        return document
    for found in [c for c in root if xml.local(c).startswith("Checksum")]:
        root.remove(found)
    tag = xml.child(root, "ETag")
    if tag is not None and tag.text:
        tag.text = etag.shown(tag.text)
    return xml.serialise(root)
