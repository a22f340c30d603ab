"""CopyObject. Where the stored bytes need not change, the origin copies them; else they pass through.

Between sealed places of one origin, under whatever rings, only the envelope binds the place: the origin
copies the sealed body and the envelope is written anew. Between a sealed and a plain place, or between
two origins, the source is opened and sealed on the way, in constant memory (`copy_through`).
"""

from proxy.crypto.envelope import OpenedEnvelope, rewrap_envelope
from proxy.errors import IntegrityError
from proxy.policy.model import Action
from proxy.s3 import etag, xml
from proxy.s3.call import Call, relayed
from proxy.s3.message import Headers
from proxy.s3.operations import patience, stored
from proxy.s3.operations.copy_headers import carried, own, replaces_metadata
from proxy.s3.operations.copy_source import (
    Source,
    as_decided,
    by_origin,
    refuse_unreadable,
    same_origin_plain,
    source_of,
)
from proxy.s3.operations.copy_through import copy_through
from proxy.s3.operations.patience import Result
from proxy.s3.operations.put_object import check_headers, plaintext_only, with_envelope
from proxy.s3.origin import Response
from proxy.s3.s3error import S3Error

_ATTEMPTS = 3
_IF_MATCH = "x-amz-copy-source-if-match"


async def copy_object(call: Call) -> None:
    source = source_of(call)
    if same_origin_plain(call, source):
        await by_origin(call, source)
        return
    if call.rule.state != "plain":
        check_headers(call)
    await patience.answer(call, _copied(call, source))


async def _copied(call: Call, source: Source) -> Result:
    here = (source.bucket, source.key) == (call.target.bucket, call.target.key)
    if here and not replaces_metadata(call):
        return await _onto_itself(call, source)
    if source.rule.origin != call.rule.origin or "plain" in (source.rule.state, call.rule.state):
        return await copy_through(call, source)
    for _ in range(_ATTEMPTS):
        try:
            return await _under_new_envelope(call, source)
        except stored.Changed:
            continue
    raise S3Error("ServiceUnavailable", "The source is being replaced. Please retry.")


async def _under_new_envelope(call: Call, source: Source) -> Result:
    """The origin copies the version whose envelope was opened, and no other: under the envelope of an
    older one the copy would never open. stored.Changed where that version is gone."""
    head = await call.origin.call("HEAD", source.bucket, source.key, source.query, [])
    refuse_unreadable(head.status)
    _check_if_match(call, head.get("etag"))
    text = stored.envelope_text(head.headers)
    if text is None and source.rule.state == "mixed":
        return await copy_through(call, source)
    if text is None:
        raise IntegrityError("an object without envelope in a sealed place")
    envelope = await _rewrapped(call, source, head, text)
    headers = with_envelope(_metadata(call, head.headers), envelope)
    headers.append(("x-amz-copy-source", source.header))
    headers.append(("x-amz-metadata-directive", "REPLACE"))
    headers.append((_IF_MATCH, head.get("etag")))
    result = await _asked(call, headers)
    if result.status == 412 and not _conditional(call):
        raise stored.Changed
    return result


def _conditional(call: Call) -> bool:
    """The client has conditions of its own, besides the one that was checked."""
    return any(
        n in ("if-match", "if-none-match")
        or (n.startswith("x-amz-copy-source-if-") and n != _IF_MATCH)
        for n, _ in call.request.headers
    )


def _check_if_match(call: Call, found: str) -> None:
    """The client's condition on the source, whose place in the request to the origin ours takes."""
    if not call.request.has(_IF_MATCH):
        return
    wanted = etag.unsuffixed(call.request.get(_IF_MATCH)).split(",")
    if not {"*", found.strip('"')} & {w.strip().strip('"') for w in wanted}:
        raise S3Error("PreconditionFailed")


async def _onto_itself(call: Call, source: Source) -> Result:
    """A copy to the very same key under the same metadata: the envelope stays right, the origin
    decides, as it does for a plain object, whether it wants to do that."""
    await call.ring_keys(Action.SEAL)
    return await _asked(call, as_decided(call.origin_headers(plaintext_only), source))


async def _rewrapped(call: Call, source: Source, head: Response, text: str) -> str:
    """The envelope of the copy, under the target's ring."""
    opened, _ = await stored.open_with_keys(call, text, source.bucket, source.key, source.rule)
    if not isinstance(opened, OpenedEnvelope):
        stored_bytes = stored.stored_bytes_of(head) or 0
        _, opened = await stored.read_footer(
            call,
            source.bucket,
            source.key,
            source.query,
            head.get("etag"),
            opened,
            stored_bytes,
            source.rule,
        )
    try:
        keys = await call.ring_keys(Action.SEAL)
        return rewrap_envelope(opened, keys.active, call.target.bucket, call.target.key)
    finally:
        opened.close()


async def _asked(call: Call, headers: Headers) -> Result:
    """The origin's copy."""
    response = await call.origin.call(
        "PUT", call.target.bucket, call.target.key, call.origin_query(), headers
    )
    document = await response.read(xml.MAX_XML_BYTES)
    if response.status == 200:
        document = edit_copy_result(document)
    elif response.status >= 500 and not xml.error_of(document)[0]:
        raise S3Error("ServiceUnavailable")
    return Result(response.status, relayed(response.headers), document)


def _metadata(call: Call, source: Headers) -> Headers:
    """The copy's headers less envelope: the client's, and the source's unless it replaces them."""
    client = call.origin_headers(lambda n: plaintext_only(n) or not own(call, n))
    return client + carried(call, source)


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
