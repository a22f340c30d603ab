"""Wraps object keys under the active ring version again: metadata only, the body stays as it is.

Needed only before an old ring version is destroyed. The copy onto itself is conditional, at both ends,
on the ETag that was read; an origin that ignores that would put an old envelope on a client's new
body, which loses the object, so the caller has to know (`probe`) or to promise that nobody writes.
"""

from proxy.crypto.envelope import OpenedEnvelope, envelope_ring_version, rewrap_envelope
from proxy.policy.model import Action
from proxy.s3.jobs.engine import Engine, Entry
from proxy.s3.jobs.runner import Did
from proxy.s3.jobs.transfer import Place, kept_headers
from proxy.s3.message import encode_path
from proxy.s3.operations import stored
from proxy.s3.operations.put_object import with_envelope
from proxy.s3.s3error import OriginFailed, S3Error

_MAX_COPY_BYTES = 5 * 1024**3


class Rotation:
    """`work` for each entry. Objects already under the active version are skipped."""

    def __init__(self, engine: Engine, bucket: str, dry_run: bool = False) -> None:
        self._engine = engine
        self._bucket = bucket
        self._dry_run = dry_run

    async def work(self, entry: Entry) -> tuple[Did, int]:
        engine, bucket, key = self._engine, self._bucket, entry.key
        if engine.rule(bucket, key).state == "plain":
            return Did.SKIPPED, 0
        head = await engine.head(bucket, key)
        text = stored.envelope_text(head.headers)
        if head.status == 404 or (text is None and engine.rule(bucket, key).state == "mixed"):
            return Did.SKIPPED, 0
        size, tag = stored.stored_bytes_of(head), head.get("etag")
        if head.status != 200 or text is None or size is None:
            raise OriginFailed(f"no sealed object: the origin answered {head.status}")
        call = engine.call("PUT", bucket, key)
        keys = await call.ring_keys(Action.SEAL)
        if envelope_ring_version(text) == keys.active.id:
            return Did.SKIPPED, 0
        if self._dry_run:
            return Did.DONE, 0
        if size > _MAX_COPY_BYTES:
            raise S3Error("EntityTooLarge", "Above 5 GiB an object is not copied in one request.")
        opened, _ = await stored.open_with_keys(call, text, bucket, key)
        if not isinstance(opened, OpenedEnvelope):
            _, opened = await stored.read_footer(call, bucket, key, [], tag, opened, size)
        try:
            envelope = rewrap_envelope(opened, keys.active, bucket, key)
        finally:
            opened.close()
        headers = with_envelope(
            await kept_headers(engine, Place(bucket, key), head.headers), envelope
        )
        headers += [
            ("x-amz-copy-source", encode_path(f"/{bucket}/{key}".encode())),
            ("x-amz-metadata-directive", "REPLACE"),
            ("x-amz-copy-source-if-match", tag),
            ("if-match", tag),
        ]
        response = await call.origin.call("PUT", bucket, key, [], headers)
        await response.read(1 << 20)
        if response.status != 200:
            raise OriginFailed(f"the origin answered {response.status} to the copy")
        return Did.DONE, 0
