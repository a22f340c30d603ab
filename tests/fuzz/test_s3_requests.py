"""Bounded fuzzing of what an unauthenticated peer, or a hostile origin, can feed the S3 side.

No input may raise anything but the errors that the edge translates, and nothing altered may open.
"""

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.config.model import BucketConfig
from proxy.crypto.footer import Entry
from proxy.crypto.parts import Layout, part_context
from proxy.errors import IntegrityError
from proxy.s3 import listing, xml
from proxy.s3.buckets import Buckets
from proxy.s3.checksums import BodyChecks
from proxy.s3.chunked import AwsChunked, BadFraming, ChunkFramer
from proxy.s3.gateway import parse_head
from proxy.s3.message import Request
from proxy.s3.opening import Piece, StreamOpener, to_end
from proxy.s3.ranges import parse_range, resolve
from proxy.s3.router import route, target_of
from proxy.s3.s3error import OriginFailed, S3Error
from proxy.s3.sigv2 import is_v2, verify_v2
from proxy.s3.sigv4 import verify
from proxy.s3.wire import BadMessage

pytestmark = pytest.mark.fuzz
LIMITED = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([
            "host", "authorization", "x-amz-date", "x-amz-content-sha256", "content-md5",
            "x-amz-checksum-crc32", "x-amz-trailer", "range", "x-amz-copy-source", "date",
            "content-encoding", "expect",
        ]),
        st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)
        | st.sampled_from([
            "AWS4-HMAC-SHA256 Credential=K/20260101/r/s3/aws4_request,SignedHeaders=host,"
            "Signature=00", "20260101T000000Z", "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-checksum-crc32", "bytes=0-", "aws-chunked",
        ]),
    ),
    max_size=8,
)  # fmt: skip
TARGETS = st.text(st.sampled_from("/ab.%0fF?&=+Xx~-"), max_size=60) | st.sampled_from([
    "/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K%2F20260101%2Fr%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=9&X-Amz-SignedHeaders=host&X-Amz-Signature=00",
    "/b/k?AWSAccessKeyId=K&Expires=1767225601&Signature=AAAA", "/b/k?uploadId=x&partNumber=1",
])  # fmt: skip


@LIMITED
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET / HTTP/1.1\r\nhost: a\r\n"]))
def test_any_head_is_a_request_or_a_bad_message(noise: bytes, start: bytes) -> None:
    with contextlib.suppress(BadMessage):
        parse_head(start + noise.replace(b"\r\n\r\n", b"") + b"\r\n\r\n")


@LIMITED
@given(st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD", "X"]), TARGETS, HEADERS)
def test_no_forged_request_is_accepted(
    method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    path, _, query = target.partition("?")
    request = Request(method, path, query, headers)
    with contextlib.suppress(S3Error):
        found = target_of(request, "s3.test")
        route(request, found)
    for check in (
        lambda: verify(request, {"K": "S"}.get, NOW),
        lambda: is_v2(request) and verify_v2(request, "", {"K": "S"}.get, NOW),
    ):
        with contextlib.suppress(S3Error):
            assert not check(), "accepted without the secret"
    with contextlib.suppress(S3Error):
        BodyChecks(request, "UNSIGNED-PAYLOAD")
    with contextlib.suppress(S3Error):
        spec = parse_range(request.get("range"))
        if spec is not None:
            first, last = resolve(spec, 1000)
            assert 0 <= first <= last < 1000


@LIMITED
@given(st.lists(st.sampled_from([b"3", b"0", b"a", b"\r\n", b"\n", b";chunk-signature=", b"abc",
                                 b"x:y", b"ffffffffffffffff", b" "]) | st.binary(max_size=5),
                max_size=30), st.integers(1, 20))  # fmt: skip
def test_chunks_decode_the_same_however_cut_or_are_refused(parts: list[bytes], step: int) -> None:
    body = b"".join(parts)

    def run(size: int) -> Any:
        framer, out = ChunkFramer(), b""
        try:
            for at in range(0, len(body), size):
                out += b"".join(bytes(p) for p in framer.feed(memoryview(body[at : at + size])))
                if framer.done:
                    break
        except BadFraming:
            return "bad"
        return out, framer.done, framer.trailers

    assert run(step) == run(len(body) or 1)
    decoder = AwsChunked(3, None, False, frozenset())
    with contextlib.suppress(S3Error):
        out = b"".join(bytes(p) for p in decoder.decode(memoryview(body)))
        assert len(out) <= 3


@LIMITED
@given(st.binary(max_size=200) | st.text(st.sampled_from("<>/aListBucketResultContents"),
                                         max_size=120).map(str.encode))  # fmt: skip
def test_any_listing_of_an_origin_is_edited_or_refused(document: bytes) -> None:
    buckets = Buckets([BucketConfig(bucket="b", origin="o", ring="r")])
    with contextlib.suppress(OriginFailed):
        root = xml.parse(document)
        if listing.is_listing(root):
            listing.hide_stash(root)
            listing.append_page(root, xml.parse(document))
            listing.edit_listing(root, "b", buckets)
        listing.edit_attributes(xml.parse(document))
    with contextlib.suppress(S3Error):
        listing.edit_deletes(document)


@pytest.fixture(scope="module")
def sealed() -> tuple[native.KeyHandle, bytes, tuple[Entry, ...], bytes, bytes]:
    native.arena_init(4096, True)
    key, object_id = native.key_random(), native.random_bytes(16)
    lengths = (16384 * 2, 16384 + 5, 0)
    plain = native.random_bytes(sum(lengths))
    stored, entries, at = b"", [], 0
    for number, length in enumerate(lengths, 1):
        sealer = native.PartSealer(key, part_context(object_id, number))
        stored += sealer.header + sealer.update(plain[at : at + length]) + sealer.finish()
        entries.append(Entry(number, length, sealer.header[24:32]))
        at += length
    return key, object_id, tuple(entries), plain, stored


@LIMITED
@given(st.data())
def test_a_range_opens_to_its_bytes_and_not_once_altered(sealed: Any, data: st.DataObject) -> None:
    key, object_id, entries, plain, stored = sealed
    layout = Layout([e.length for e in entries])
    first = data.draw(st.integers(0, len(plain) - 1))
    last = data.draw(st.integers(first, len(plain) - 1))
    pieces = [to_end(Piece(entries[p.index], p)) for p in layout.locate(first, last)]
    place = pieces[0].place
    header = stored[place.stream_start : place.stream_start + 56]

    def run(body: bytes, step: int) -> bytes:
        opener = StreamOpener(key, object_id, pieces, header if place.chunks.first_chunk else None)
        part = memoryview(body)[opener.start : opener.stop]
        out = b"".join(opener.feed(part[at : at + step]) for at in range(0, len(part), step))
        opener.finish()
        return out

    step = data.draw(st.sampled_from([1000, 16400, 100_000]))
    assert run(stored, step) == plain[first : last + 1]
    begins = place.stream_start + (place.chunks.start if place.chunks.first_chunk else 0)
    ends = pieces[-1].place.stream_start + pieces[-1].place.chunks.stop
    changed = bytearray(stored)
    changed[data.draw(st.integers(begins, ends - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError):
        run(bytes(changed), step)
    with pytest.raises(IntegrityError):
        run(stored[: data.draw(st.integers(begins, ends - 1))], step)
