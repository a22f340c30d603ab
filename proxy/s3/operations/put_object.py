"""PutObject into a protected place: sealed in constant memory, finished only when all checks pass.

The origin is told the stored size at once (a function of the plaintext's), gets the stream as it is
sealed, and never gets the last chunk and the footer of a body that failed a check: its request is
cut off instead, so that nothing half-written appears.
"""

from dataclasses import dataclass

from proxy import native
from proxy.crypto import footer
from proxy.crypto.checksum_field import Checksum
from proxy.crypto.envelope import METADATA_NAME, seal_envelope
from proxy.crypto.parts import SINGLE_PART, part_context
from proxy.crypto.sizes import stored_size
from proxy.keys.handles import RingVersionKey
from proxy.native import KeyHandle, PartSealer
from proxy.policy.model import Action
from proxy.s3 import etag, object_checksums
from proxy.s3.call import Call, PlainBody, Plaintext, relayed
from proxy.s3.message import Headers
from proxy.s3.origin import EarlyAnswer, Response
from proxy.s3.s3error import S3Error

MAX_STORED_BYTES = 5 * 1024**3
MAX_PLAIN_BYTES = 5_363_381_176  # the largest P with stored_size(P) <= 5 GiB
_METADATA_BYTES = 2048
SMALL_BYTES = 64 * 1024  # read whole before anything is sent

_REFUSED_HEADERS = {
    "x-amz-write-offset-bytes": "Appending to a sealed object is not possible.",
    "x-amz-server-side-encryption-customer-algorithm": "SSE-C on a sealed object is not supported.",
}


def plaintext_only(name: str) -> bool:
    """Headers that speak of the plaintext: verified here, wrong for what is stored."""
    return (
        name.startswith("x-amz-checksum-")
        or name == METADATA_NAME
        or name in ("x-amz-sdk-checksum-algorithm", "content-md5")
    )


def check_headers(call: Call) -> None:
    """What a protected place can't honour is refused before a byte is taken."""
    for name, why in _REFUSED_HEADERS.items():
        if call.request.has(name):
            raise S3Error("NotImplemented", why, Header=name)
    if call.request.has(METADATA_NAME):
        raise S3Error("InvalidArgument", f"The metadata name {METADATA_NAME} is reserved.")


def with_envelope(headers: Headers, envelope: str) -> Headers:
    """`headers` and the envelope, within S3's 2 KB of user metadata."""
    out = [*headers, (METADATA_NAME, envelope)]
    prefix = len("x-amz-meta-")
    used = sum(len(n) - prefix + len(v) for n, v in out if n.startswith("x-amz-meta-"))
    if used > _METADATA_BYTES:
        own = len(envelope) + len(METADATA_NAME) - prefix
        raise S3Error(
            "MetadataTooLarge",
            f"Your metadata headers exceed the maximum allowed "
            f"metadata size, of which {own} bytes are the gateway's.",
            Size=str(used),
            MaxSizeAllowed=str(_METADATA_BYTES),
        )
    return out


async def put_object(call: Call) -> None:
    check_headers(call)
    await store(call, PlainBody(call))


async def store(call: Call, body: Plaintext) -> None:
    """Seals `body` at the call's place and answers."""
    if body.length > MAX_PLAIN_BYTES:
        raise S3Error(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object "
            f"size of {MAX_PLAIN_BYTES} bytes for a single request.",
            ProposedSize=str(body.length),
            MaxSizeAllowed=str(MAX_PLAIN_BYTES),
        )
    keys = await call.ring_keys(Action.SEAL)
    sealing = _Sealing(call, keys.active, native.key_random(), native.random_bytes(16))
    try:
        await (sealing.small if body.length <= SMALL_BYTES else sealing.stream)(body)
        call.note_bytes(keys, Action.SEAL, body.length)
    finally:
        sealing.object_key.wipe()


@dataclass(frozen=True, slots=True)
class _Sealing:
    """One object on its way to the origin."""

    call: Call
    version: RingVersionKey
    object_key: KeyHandle
    object_id: bytes

    def _headers(self, checksum: Checksum | None) -> Headers:
        target = self.call.target
        envelope = seal_envelope(
            self.version,
            target.bucket,
            target.key,
            self.object_key,
            self.object_id,
            checksum=checksum,
        )
        return with_envelope(self.call.origin_headers(plaintext_only), envelope)

    def _footer(self, sealer: PartSealer, length: int, late: Checksum | None) -> bytes:
        entry = footer.Entry(SINGLE_PART, length, sealer.header[24:32])
        return footer.build(
            self.object_key,
            self.object_id,
            [entry],
            ring_version_id=self.version.id,
            checksums=() if late is None else (late,),
        )

    async def small(self, body: Plaintext) -> None:
        """In one write, and sealed again under a new salt where a kept connection was dead."""
        call = self.call
        call.writer.send_continue()
        plain, confirmed = await body.read(SMALL_BYTES)
        headers = self._headers(object_checksums.from_headers(confirmed))

        def sealed() -> bytes:
            sealer = PartSealer(self.object_key, part_context(self.object_id, SINGLE_PART))
            chunks = sealer.update(plain) + sealer.finish()
            return sealer.header + chunks + self._footer(sealer, len(plain), None)

        response = await call.origin.call(
            "PUT", call.target.bucket, call.target.key, call.origin_query(), headers, sealed
        )
        await answer_upload(call, response, confirmed)

    async def stream(self, body: Plaintext) -> None:
        """As it comes; a checksum that comes last goes into the footer."""
        call = self.call
        known = object_checksums.from_headers(body.announced)
        exchange = await call.origin.begin(
            "PUT",
            call.target.bucket,
            call.target.key,
            call.origin_query(),
            self._headers(known),
            stored_size(body.length),
        )
        try:
            exchange.wire.fed_by(call.writer.wire)
            call.writer.send_continue()
            sealer = PartSealer(self.object_key, part_context(self.object_id, SINGLE_PART))
            exchange.write(sealer.header)

            def seal(piece: memoryview) -> None:
                sealed = sealer.update(piece)
                if sealed:
                    exchange.write(sealed)

            confirmed = await exchange.while_sending(body.pump(seal))
            late = object_checksums.from_headers(confirmed) if known is None else None
            exchange.write(sealer.finish() + self._footer(sealer, body.length, late))
            response = await exchange.response()
            await answer_upload(call, response, confirmed)
        except EarlyAnswer as early:
            await answer_upload(call, early.response, [])
        finally:
            exchange.abort()


async def answer_upload(call: Call, response: Response, confirmed: Headers) -> None:
    """PutObject's or UploadPart's answer: ETag shown, the client's own checksum confirmed."""
    if response.status != 200:
        await call.relay(response)
        return
    await response.read(64 * 1024)
    headers = relayed(
        response.headers,
        lambda n: (
            n.startswith("x-amz-checksum-")
            or n in ("x-amz-object-size", "content-type", "content-length")
        ),
    )
    headers = [(n, etag.shown(v) if n == "etag" else v) for n, v in headers]
    call.reply(200, headers + confirmed)
