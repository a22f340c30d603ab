"""Checksums of the plaintext: each algorithm verifies, a wrong one is refused, as S3 names it."""

import base64
import hashlib
import zlib

import pytest
from awscrt import checksums as crt

from proxy.s3.checksums import BodyChecks
from proxy.s3.message import Request
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import STREAMING_UNSIGNED_TRAILER, UNSIGNED

DATA = b"the quick brown fox" * 1000


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


VALUES = {
    "crc32": b64(zlib.crc32(DATA).to_bytes(4, "big")),
    "crc32c": b64(crt.crc32c(DATA).to_bytes(4, "big")),
    "crc64nvme": b64(crt.crc64nvme(DATA).to_bytes(8, "big")),
    "sha1": b64(hashlib.sha1(DATA).digest()),
    "sha256": b64(hashlib.sha256(DATA).digest()),
    "sha512": b64(hashlib.sha512(DATA).digest()),
    "md5": b64(hashlib.md5(DATA).digest()),
    "xxhash64": b64(crt.XXHash.compute_xxhash64(DATA)),
    "xxhash3": b64(crt.XXHash.compute_xxhash3_64(DATA)),
    "xxhash128": b64(crt.XXHash.compute_xxhash3_128(DATA)),
}


def run(
    headers: list[tuple[str, str]],
    payload: str = UNSIGNED,
    data: bytes = DATA,
    trailers: list[tuple[str, str]] | None = None,
) -> list[tuple[str, str]]:
    checks = BodyChecks(Request("PUT", "/b/k", "", headers), payload)
    for at in range(0, len(data), 777):
        checks.update(memoryview(data)[at : at + 777])
    return checks.finish(trailers or [])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("xxhash64", "ef46db3751d8e999"),
        ("xxhash3", "2d06800538d394c2"),
        ("xxhash128", "99aa06d3014798d86001c324468d497f"),
    ],
)
def test_the_xxhashes_of_nothing_are_the_published_ones(name: str, expected: str) -> None:
    value = b64(bytes.fromhex(expected))
    assert (f"x-amz-checksum-{name}", value) in run([(f"x-amz-checksum-{name}", value)], data=b"")


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_right_checksum_is_confirmed_and_a_wrong_one_refused(name: str) -> None:
    header = f"x-amz-checksum-{name}"
    assert (header, VALUES[name]) in run([(header, VALUES[name])])
    with pytest.raises(S3Error) as caught:
        run([(header, VALUES[name])], data=DATA + b"!")
    assert caught.value.code == "BadDigest"


@pytest.mark.parametrize("name", sorted(VALUES))
def test_a_trailing_checksum_is_confirmed_and_has_to_come(name: str) -> None:
    header = f"x-amz-checksum-{name}"
    announced = [("x-amz-trailer", header)]
    payload = STREAMING_UNSIGNED_TRAILER
    assert (header, VALUES[name]) in run(announced, payload, trailers=[(header, VALUES[name])])
    for trailers in ([], [(header, VALUES[name][:-4] + "AAA=")], [(header, "!")]):
        with pytest.raises(S3Error):
            run(announced, payload, trailers=trailers)


def test_content_md5_and_content_sha256_are_verified() -> None:
    assert run([("content-md5", VALUES["md5"])], hashlib.sha256(DATA).hexdigest()) == []
    for headers, payload, code in [
        ([("content-md5", VALUES["md5"])], UNSIGNED, "BadDigest"),
        ([], hashlib.sha256(DATA).hexdigest(), "XAmzContentSHA256Mismatch"),
    ]:
        with pytest.raises(S3Error) as caught:
            run(headers, payload, data=DATA[1:])
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("content-md5", "short")], "InvalidDigest"),
        ([("x-amz-checksum-crc32", "AAAA")], "InvalidRequest"),
        (
            [("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
            "InvalidRequest",
        ),
        ([("x-amz-checksum-blake3", "AAAAAAAAAAA=")], "NotImplemented"),
    ],
)
def test_what_is_no_checksum_is_refused_before_the_body(
    headers: list[tuple[str, str]], code: str
) -> None:
    with pytest.raises(S3Error) as caught:
        BodyChecks(Request("PUT", "/b/k", "", headers), UNSIGNED)
    assert caught.value.code == code


def test_words_that_look_like_checksums_are_none() -> None:
    assert (
        run(
            [
                ("x-amz-checksum-mode", "ENABLED"),
                ("x-amz-checksum-algorithm", "CRC32"),
                ("x-amz-checksum-type", "FULL_OBJECT"),
            ]
        )
        == []
    )
