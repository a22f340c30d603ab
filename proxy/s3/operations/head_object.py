"""HeadObject in a protected place: the plaintext's size, without reading the object.

The envelope is opened, so a moved object or one under an unknown key is an error here already; the
size comes from the stored size, which only a GET authenticates.
"""

from proxy.crypto.envelope import OpenedEnvelope
from proxy.crypto.footer import Footer
from proxy.errors import IntegrityError
from proxy.policy.model import Action
from proxy.s3 import etag, object_checksums
from proxy.s3.call import Call, relayed
from proxy.s3.message import Headers
from proxy.s3.operations import stored
from proxy.s3.ranges import parse_range, resolve
from proxy.s3.s3error import S3Error

_NOT_SENT = frozenset({"range", "if-range", "x-amz-checksum-mode"})
_PART_QUERY = frozenset({"partnumber"})


async def head_object(call: Call) -> None:
    response = await call.origin.call(
        "HEAD",
        call.target.bucket,
        call.target.key,
        call.origin_query(_PART_QUERY),
        call.origin_headers(lambda n: n in _NOT_SENT),
    )
    text = stored.envelope_text(response.headers)
    not_sealed = text is None and call.rule.state == "mixed"
    if response.status == 200 and not_sealed:
        call.authorise(Action.OPEN)
    if response.status != 200 or not_sealed:
        headers = relayed(response.headers, stored.not_for_client)
        if text is not None or response.status != 200:
            headers = [(n, etag.shown(v) if n == "etag" else v) for n, v in headers]
        await call.relay(response, headers)
        return
    stored_bytes = stored.stored_bytes_of(response)
    if text is None or stored_bytes is None:
        raise IntegrityError("an object without envelope in a sealed place")
    opened, _ = await stored.open_with_keys(call, text, call.target.bucket, call.target.key)
    plain = stored.plain_bytes(stored_bytes)
    headers = relayed(response.headers, stored.not_for_client)
    headers = [(n, etag.shown(v) if n == "etag" else v) for n, v in headers]
    headers.append(("accept-ranges", "bytes"))
    part = stored.part_number(call)
    checksums = call.request.get("x-amz-checksum-mode").upper() == "ENABLED"
    known: Footer | None = None
    try:
        late = checksums and opened.checksum is None
        if late or (part is not None and opened.has_parts):
            known, opened = await stored.read_footer(
                call,
                call.target.bucket,
                call.target.key,
                call.origin_query(_PART_QUERY),
                response.get("etag"),
                opened,
                stored_bytes,
            )
        if part is not None:
            status, length, extra = _part_of(known if opened.has_parts else None, plain, part)
        else:
            status, length, extra = _range_of(call, plain)
        if checksums and status == 200:
            checksum = opened.checksum or (
                known.checksums[0] if known and known.checksums else None
            )
            count = len(known.entries) if known else 1
            extra += object_checksums.to_headers(checksum, count)
    finally:
        if isinstance(opened, OpenedEnvelope):
            opened.close()
    call.writer.start(status, headers + extra, length)
    call.writer.finish()


def _part_of(known: Footer | None, plain: int, part: int) -> tuple[int, int, Headers]:
    entries = known.entries if known is not None else stored.single_entry(plain)
    first = 0
    for entry in entries:
        if entry.part_number == part:
            count = [("x-amz-mp-parts-count", str(len(entries)))] if known is not None else []
            if not entry.length:
                return 200, 0, count
            last = first + entry.length - 1
            return 206, entry.length, [("content-range", f"bytes {first}-{last}/{plain}"), *count]
        first += entry.length
    raise S3Error("InvalidPartNumber")


def _range_of(call: Call, plain: int) -> tuple[int, int, Headers]:
    spec = parse_range(call.request.get("range")) if call.request.has("range") else None
    if spec is None:
        return 200, plain, []
    first, last = resolve(spec, plain)
    return 206, last - first + 1, [("content-range", f"bytes {first}-{last}/{plain}")]
