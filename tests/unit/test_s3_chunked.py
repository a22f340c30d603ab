"""aws-chunked bodies: cut anywhere, signed or not, and every way in which they can be wrong."""

import hashlib
import hmac

import pytest

from proxy.s3 import sigv4
from proxy.s3.chunked import AwsChunked, BadFraming, ChunkFramer
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import Authenticated, ChunkVerifier

AUTH = Authenticated(
    "AK",
    sigv4.STREAMING_SIGNED_TRAILER,
    b"k" * 32,
    "20260101T000000Z",
    "20260101/us-east-1/s3/aws4_request",
    "0" * 64,
)


def unsigned(chunks: list[bytes], trailer: bytes = b"", upper: bool = False) -> bytes:
    form = b"%X\r\n%b\r\n" if upper else b"%x\r\n%b\r\n"
    return b"".join(form % (len(c), c) for c in chunks) + b"0\r\n" + trailer + b"\r\n"


def signed(chunks: list[bytes], trailers: list[tuple[str, str]] | None = None) -> bytes:
    previous, out = AUTH.signature, b""
    for chunk in [*chunks, b""]:
        text = (
            f"AWS4-HMAC-SHA256-PAYLOAD\n{AUTH.timestamp}\n{AUTH.scope}\n{previous}\n"
            f"{sigv4.EMPTY_SHA256}\n{hashlib.sha256(chunk).hexdigest()}"
        )
        previous = hmac.digest(AUTH.signing_key, text.encode(), "sha256").hex()
        out += b"%x;chunk-signature=%b\r\n" % (len(chunk), previous.encode())
        out += chunk + b"\r\n" if chunk else b""
    if trailers is not None:
        block = "".join(f"{n}:{v}\n" for n, v in trailers)
        text = (
            f"AWS4-HMAC-SHA256-TRAILER\n{AUTH.timestamp}\n{AUTH.scope}\n{previous}\n"
            f"{hashlib.sha256(block.encode()).hexdigest()}"
        )
        last = hmac.digest(AUTH.signing_key, text.encode(), "sha256").hex()
        out += "".join(f"{n}:{v}\r\n" for n, v in trailers).encode()
        out += f"x-amz-trailer-signature:{last}\r\n".encode()
    return out + b"\r\n"


def decode(
    body: bytes, length: int, step: int = 10**9, sign: bool = False, names: tuple[str, ...] = ()
) -> tuple[bytes, AwsChunked]:
    decoder = AwsChunked(
        length, ChunkVerifier(AUTH) if sign else None, sign and bool(names), frozenset(names)
    )
    out = b""
    for at in range(0, len(body), step):
        for piece in decoder.decode(memoryview(body[at : at + step])):
            out += piece
    return out, decoder


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 10**9])
@pytest.mark.parametrize("chunks", [[], [b"a"], [b"hello", b"w" * 300, b"!"]])
def test_a_body_decodes_however_it_is_cut(chunks: list[bytes], step: int) -> None:
    plain = b"".join(chunks)
    trailer = b"x-amz-checksum-crc32:AAAAAA==\r\n"
    body = unsigned(chunks, trailer, upper=True)
    out, decoder = decode(body, len(plain), step, names=("x-amz-checksum-crc32",))
    assert (out, decoder.done) == (plain, True)
    assert decoder.trailers == [("x-amz-checksum-crc32", "AAAAAA==")]


@pytest.mark.parametrize("step", [1, 5, 10**9])
def test_signed_chunks_and_a_signed_trailer_verify(step: int) -> None:
    chunks = [b"one", b"two" * 100]
    out, decoder = decode(signed(chunks), 303, step, sign=True)
    assert (out, decoder.done) == (b"".join(chunks), True)
    trailers = [("x-amz-checksum-crc32c", "AAAAAA==")]
    out, decoder = decode(
        signed(chunks, trailers), 303, step, sign=True, names=("x-amz-checksum-crc32c",)
    )
    assert decoder.done


def test_any_changed_byte_of_a_signed_body_is_refused() -> None:
    good = signed([b"one", b"two"], [("x-amz-checksum-crc32c", "AAAAAA==")])
    accepted = []
    for at in range(len(good)):
        body = bytearray(good)
        body[at] ^= 1
        try:
            _, decoder = decode(bytes(body), 6, sign=True, names=("x-amz-checksum-crc32c",))
            if decoder.done:
                accepted.append((at, bytes(body[max(0, at - 5) : at + 5])))
        except S3Error:
            pass
    assert accepted == []


def test_unsigned_chunks_do_not_pass_for_signed_ones() -> None:
    with pytest.raises(S3Error) as caught:
        decode(unsigned([b"abc"]), 3, sign=True)
    assert caught.value.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"11111111111111111\r\n",
        b"3" + b" " * 2000,
        b"3;" + b"x" * 2000 + b"\r\n",
        b"3\r\nabc\r\n0\r\nno colon\r\n\r\n",
        b"3\r\nabc\r\n0\r\n" + b"a:b\r\n" * 5000,
        b"3\r\nabc\r\n0\r\n\r\nmore",
        b"3\r\nabc\r\n0\r\nx-amz-other: 1\r\n\r\n",
    ],
)
def test_bodies_that_break_the_grammar_are_refused(body: bytes) -> None:
    for step in (1, 10**9):
        with pytest.raises(S3Error) as caught:
            decode(body, 3, step)
        assert caught.value.status == 400


def test_more_or_less_than_the_announced_length_is_refused() -> None:
    for length in (2, 4):
        with pytest.raises(S3Error) as caught:
            decode(unsigned([b"abc"]), length)
        assert caught.value.code == "IncompleteBody"


def test_a_body_that_ends_early_is_not_done() -> None:
    body = unsigned([b"abc"])
    for cut in range(len(body)):
        try:
            _, decoder = decode(body[:cut], 3)
        except S3Error:
            continue
        assert not decoder.done, cut


def test_http_chunked_coding_stops_at_its_own_end() -> None:
    framer = ChunkFramer()
    data = memoryview(b"5;ext=1\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n")
    assert b"".join(framer.feed(data)) == b"hello"
    assert framer.done and bytes(data[framer.consumed :]).startswith(b"GET")
    with pytest.raises(BadFraming):
        list(ChunkFramer().feed(memoryview(b"zz\r\n")))
