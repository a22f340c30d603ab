"""Is a form cut where its boundaries are, however its bytes arrive, and is its policy kept?"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.s3.forms import FormDecoder, boundary_of
from proxy.s3.post_policy import authenticate, check
from proxy.s3.s3error import S3Error

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def form(
    fields: dict[str, str], file: bytes, after: bytes = b"", boundary: bytes = b"xYz"
) -> bytes:
    out = b""
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        out += b"--" + boundary + b"\r\n" + head.encode() + b"\r\n\r\n" + value.encode() + b"\r\n"
    head = (
        'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain'
    )
    out += b"--" + boundary + b"\r\n" + head.encode() + b"\r\n\r\n" + file
    return out + b"\r\n--" + boundary + b"--\r\n" + after


def decoded(body: bytes, cuts: list[int]) -> tuple[FormDecoder, bytes]:
    decoder = FormDecoder(b"xYz", len(body))
    edges = [0, *sorted(cuts), len(body)]
    out = b""
    for start, stop in zip(edges, edges[1:], strict=False):
        for piece in decoder.feed(memoryview(body[start:stop])):
            out += bytes(piece)
    return decoder, out


@given(
    st.dictionaries(
        st.sampled_from(["key", "acl", "policy", "x-amz-meta-a"]), st.text(max_size=20)
    ),
    st.binary(max_size=200),
    st.lists(st.integers(0, 100), max_size=6),
)
def test_fields_and_file_come_back_however_they_are_cut(
    fields: dict[str, str], file: bytes, cuts: list[int]
) -> None:
    fields = {n: v for n, v in fields.items() if "\r\n--xYz" not in v}
    file = b"\r\n--xYz inside" + file  # a boundary within the file is the file's
    decoder, out = decoded(form(fields, file), cuts)
    assert decoder.done and out == file and decoder.file_length == len(file)
    assert {n: v for n, v in decoder.fields.items() if n != "content-type"} == fields
    assert decoder.file_name == "a.txt" and decoder.fields["content-type"] == "text/plain"


@pytest.mark.parametrize(
    "body",
    [
        form({}, b"file", after=b"more"),
        form({"key": "k"}, b"file")[:-1] + b"x",
        form({"key": "k"}, b"file").replace(b"--xYz\r\n", b"--other\r\n"),
        b"no form at all" * 10,
        b"--xYz\r\nno-name: x\r\n\r\nvalue\r\n--xYz--\r\n",
    ],
)
def test_what_is_no_such_form_is_refused(body: bytes) -> None:
    with pytest.raises(S3Error) as raised:
        decoded(body, [])
    assert raised.value.code == "MalformedPOSTRequest"


def test_fields_without_end_and_twice_given_ones_are_refused() -> None:
    decoder = FormDecoder(b"xYz", 1 << 20)
    begin = b'--xYz\r\nContent-Disposition: form-data; name="key"\r\n\r\n' + bytes(70_000)
    with pytest.raises(S3Error, match="too large"):
        list(decoder.feed(memoryview(begin)))
    twice = form({"key": "a", "Key": "b"}, b"")
    with pytest.raises(S3Error, match="twice"):
        decoded(twice, [])


def test_the_boundary_is_read_as_clients_write_it() -> None:
    assert boundary_of('multipart/form-data; boundary="a b"') == b"a b"
    assert boundary_of("Multipart/Form-Data;boundary=----x") == b"----x"
    assert boundary_of("multipart/form-data") is None
    assert boundary_of("application/xml") is None


def policy(*conditions: Any, expires: datetime = NOW + timedelta(hours=1)) -> str:
    document = {"expiration": expires.isoformat(), "conditions": list(conditions)}
    return base64.b64encode(json.dumps(document).encode()).decode()


def code(fields: dict[str, str], length: int = 5) -> str:
    try:
        check(fields, "b", length, NOW)
    except S3Error as error:
        return error.code
    return ""


def test_a_policy_covers_every_field_bucket_and_length() -> None:
    good = [{"bucket": "b"}, ["starts-with", "$key", "up/"], ["content-length-range", 1, 9]]
    assert code({"key": "up/x", "policy": policy(*good)}) == ""
    assert code({"key": "up/x", "x-ignore-a": "1", "policy": policy(*good)}) == ""
    assert code({"key": "down/x", "policy": policy(*good)}) == "AccessDenied"
    assert code({"key": "up/x", "acl": "public-read", "policy": policy(*good)}) == "AccessDenied"
    assert code({"key": "up/x", "policy": policy({"bucket": "c"}, *good[1:])}) == "AccessDenied"
    assert code({"key": "up/x", "policy": policy(*good)}, 0) == "EntityTooSmall"
    assert code({"key": "up/x", "policy": policy(*good)}, 10) == "EntityTooLarge"
    late = policy(*good, expires=NOW - timedelta(seconds=1))
    assert code({"key": "up/x", "policy": late}) == "AccessDenied"
    assert (
        code({"key": "k", "acl": "private", "policy": policy({"acl": "private"}, {"key": "k"})})
        == ""
    )


@pytest.mark.parametrize(
    "text",
    ["", "bm90IGpzb24=", base64.b64encode(b"[]").decode(), "!!", policy(["in", "$key", "x"])]
    + [policy(["eq", "key", "x"]), policy("x"), policy(["content-length-range", "a", 1])]
    + [base64.b64encode(b"[" * 15_000).decode()],
)
def test_a_policy_that_cannot_be_read_allows_nothing(text: str) -> None:
    assert code({"key": "x", "policy": text}) == "InvalidPolicyDocument"


def test_only_the_signer_of_the_policy_is_believed() -> None:
    text = policy({"key": "k"})
    key = b"AWS4secret"
    for step in ("20260601", "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), hashlib.sha256)
    fields = {
        "policy": text,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": "AK/20260601/us-east-1/s3/aws4_request",
        "x-amz-date": "20260601T000000Z",
        "x-amz-signature": hmac.digest(key, text.encode(), hashlib.sha256).hex(),
    }
    assert authenticate(fields, {"AK": "secret"}.get).access_key == "AK"
    old = {"policy": text, "awsaccesskeyid": "AK"}
    old["signature"] = base64.b64encode(hmac.digest(b"secret", text.encode(), "sha1")).decode()
    assert authenticate(old, {"AK": "secret"}.get).access_key == "AK"
    for wrong, secrets, expected in (
        ({**fields, "policy": policy({"key": "other"})}, {"AK": "secret"}, "SignatureDoesNotMatch"),
        ({**old, "policy": policy({"key": "other"})}, {"AK": "secret"}, "SignatureDoesNotMatch"),
        (fields, {"AK": "other"}, "SignatureDoesNotMatch"),
        (fields, {}, "InvalidAccessKeyId"),
        ({}, {"AK": "secret"}, "AccessDenied"),
        ({"policy": text}, {"AK": "secret"}, "InvalidArgument"),
        ({**fields, "x-amz-date": "20260602T000000Z"}, {"AK": "secret"}, "InvalidArgument"),
    ):
        with pytest.raises(S3Error) as raised:
            authenticate(wrong, secrets.get)
        assert raised.value.code == expected
