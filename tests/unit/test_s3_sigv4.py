"""Who signed this request? botocore is the oracle: what it signs passes, once altered it fails."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from proxy.s3 import sigv4
from proxy.s3.message import Request, encode_path, parse_query
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import (
    PURPOSE,
    Authenticated,
    ChunkVerifier,
    OriginCredentials,
    sign,
    stated_purpose,
    verify,
)

KEYS = {"AKIDEXAMPLE": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
TARGETS = [
    "/bucket/key",
    "/bucket/a//b/../c%20d%2Be%252F~%C3%BC%3F%23.txt",
    "/bucket/?list-type=2&prefix=a%2Fb&delimiter=%2F",
    "/bucket/key?uploads=",
    "/bucket/k%28eep%29?versionId=x%2By",
]


def now() -> datetime:
    return datetime.now(UTC)


def as_received(method: str, url: str, headers: list[tuple[str, str]]) -> Request:
    path, _, query = url.removeprefix("http://host:9000").partition("?")
    found = [(n.lower(), v) for n, v in headers]
    if not any(n == "host" for n, _ in found):
        found.append(("host", "host:9000"))
    return Request(method, path, query, found)


def signed_by_botocore(method: str, target: str, body: bytes = b"", **headers: str) -> Request:
    named = {n.replace("_", "-"): v for n, v in headers.items()}
    request = AWSRequest(method, "http://host:9000" + target, headers=named, data=body)
    request.context["payload_signing_enabled"] = True
    auth = S3SigV4Auth(Credentials("AKIDEXAMPLE", KEYS["AKIDEXAMPLE"]), "s3", "us-east-1")
    auth.add_auth(request)
    return as_received(method, request.url, [(n, str(v)) for n, v in request.headers.items()])


def presigned_by_botocore(method: str, target: str, expires: int = 60) -> Request:
    request = AWSRequest(method, "http://host:9000" + target)
    S3SigV4QueryAuth(
        Credentials("AKIDEXAMPLE", KEYS["AKIDEXAMPLE"]), "s3", "eu-west-1", expires=expires
    ).add_auth(request)
    return as_received(method, request.url, [])


def code_of(request: Request, at: datetime | None = None, has_body: bool = False) -> str:
    with pytest.raises(S3Error) as caught:
        verify(request, KEYS.get, at or now(), has_body=has_body)
    return caught.value.code


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_botocore_signs_is_accepted(method: str, target: str) -> None:
    auth = verify(signed_by_botocore(method, target, x_amz_meta_a="b  c "), KEYS.get, now())
    assert auth.access_key == "AKIDEXAMPLE"
    assert auth.payload == sigv4.EMPTY_SHA256


@pytest.mark.parametrize("target", TARGETS)
def test_what_botocore_presigns_is_accepted(target: str) -> None:
    assert verify(presigned_by_botocore("GET", target), KEYS.get, now()).payload == sigv4.UNSIGNED


def test_a_changed_method_path_query_or_header_is_refused() -> None:
    good = signed_by_botocore("GET", "/bucket/key?a=b", x_amz_meta_a="b")
    variants = [
        Request("PUT", good.path, good.raw_query, good.headers),
        Request("GET", "/bucket/kez", good.raw_query, good.headers),
        Request("GET", good.path, "a=c", good.headers),
        Request("GET", good.path, good.raw_query + "&x=y", good.headers),
        Request(
            "GET",
            good.path,
            good.raw_query,
            [(n, "other" if n == "x-amz-meta-a" else v) for n, v in good.headers],
        ),
        Request(
            "GET",
            good.path,
            good.raw_query,
            [(n, "other" if n == "host" else v) for n, v in good.headers],
        ),
    ]
    assert [code_of(v) for v in variants] == ["SignatureDoesNotMatch"] * len(variants)


def test_an_amz_header_that_was_not_signed_is_refused() -> None:
    good = signed_by_botocore("PUT", "/bucket/key")
    added = Request("PUT", good.path, "", [*good.headers, ("x-amz-copy-source", "/b/k")])
    assert code_of(added) == "AccessDenied"


def test_a_signature_in_other_shapes_is_refused_not_crashed_on() -> None:
    good = signed_by_botocore("GET", "/bucket/key")
    for value in [
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a,SignedHeaders=b,Signature=c",
        "AWS a:b",
        "",
        "AWS4-HMAC-SHA256 Credential=\xff/1/2/s3/aws4_request,SignedHeaders=host,Signature=\xff",
    ]:
        headers = [(n, value if n == "authorization" else v) for n, v in good.headers]
        assert code_of(Request("GET", good.path, "", headers)) in {
            "AccessDenied",
            "AuthorizationHeaderMalformed",
            "InvalidRequest",
        }


def test_an_unknown_key_is_named_as_such() -> None:
    request = signed_by_botocore("GET", "/bucket/key")
    with pytest.raises(S3Error) as caught:
        verify(request, {}.get, now())
    assert caught.value.code == "InvalidAccessKeyId"


def test_a_clock_that_is_off_is_refused() -> None:
    request = signed_by_botocore("GET", "/bucket/key")
    assert code_of(request, now() + timedelta(seconds=901)) == "RequestTimeTooSkewed"
    assert code_of(request, now() - timedelta(seconds=901)) == "RequestTimeTooSkewed"


def test_a_presigned_url_expires_and_is_not_valid_early() -> None:
    request = presigned_by_botocore("GET", "/bucket/key", expires=60)
    assert code_of(request, now() + timedelta(seconds=62)) == "AccessDenied"
    assert code_of(request, now() - timedelta(seconds=1000)) == "AccessDenied"
    assert code_of(presigned_by_botocore("GET", "/b/k", expires=700_000)) == (
        "AuthorizationQueryParametersError"
    )


def test_a_presigned_url_that_was_changed_is_refused() -> None:
    good = presigned_by_botocore("GET", "/bucket/key")
    assert code_of(Request("DELETE", good.path, good.raw_query, good.headers)) == (
        "SignatureDoesNotMatch"
    )
    assert code_of(Request("GET", "/bucket/other", good.raw_query, good.headers)) == (
        "SignatureDoesNotMatch"
    )


def test_anonymous_requests_are_refused() -> None:
    assert code_of(Request("GET", "/bucket/key", "", [("host", "h")])) == "AccessDenied"


def without_payload_header(payload: str) -> Request:
    moment = now().strftime("%Y%m%dT%H%M%SZ")
    headers = [("host", "h"), ("x-amz-date", moment)]
    canonical = sigv4.canonical_request("GET", "/b/k", "", headers, ["host", "x-amz-date"], payload)
    scope = f"{moment[:8]}/us-east-1/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = sigv4.signing_key(KEYS["AKIDEXAMPLE"], moment[:8], "us-east-1")
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}".encode()
    signature = hmac.digest(key, text, "sha256").hex()
    headers.append(
        (
            "authorization",
            f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, "
            f"SignedHeaders=host;x-amz-date, Signature={signature}",
        )
    )
    return Request("GET", "/b/k", "", headers)


def test_a_request_without_payload_header_is_taken_as_of_an_empty_body() -> None:
    request = without_payload_header(sigv4.EMPTY_SHA256)
    assert verify(request, KEYS.get, now()).payload == sigv4.EMPTY_SHA256
    assert code_of(request, has_body=True) == "InvalidRequest"


def test_our_own_signature_is_botocores() -> None:
    for target in TARGETS:
        path, _, query = target.partition("?")
        request = AWSRequest(
            "PUT",
            "http://host:9000" + target,
            headers={"x-amz-meta-a": "b", "x-amz-acl": "private"},
        )
        request.context["payload_signing_enabled"] = False
        auth = S3SigV4Auth(Credentials("AK", "SK", "TOKEN"), "s3", "eu-central-1")
        auth.payload = lambda _request: "UNSIGNED-PAYLOAD"
        auth.add_auth(request)
        ours = dict(
            sign(
                "PUT",
                "host:9000",
                path,
                "&".join(sorted(query.split("&"))) if query else "",
                [("x-amz-meta-a", "b"), ("x-amz-acl", "private")],
                OriginCredentials("AK", "SK", "TOKEN"),
                "eu-central-1",
                request.context["timestamp"],
            )
        )
        assert ours["authorization"] == request.headers["Authorization"], target


def test_query_and_path_encoding_follow_the_specification() -> None:
    assert encode_path("a b/ü~(x)".encode()) == "a%20b/%C3%BC~%28x%29"
    assert parse_query("a=b+c&d=%2B&e&f=%ff") == [
        ("a", "b c"),
        ("d", "+"),
        ("e", ""),
        ("f", "\udcff"),
    ]


def test_the_chunk_signatures_of_amazons_example_verify() -> None:
    # Amazon S3 API reference, "Signature calculations for chunked uploads", example.
    key = sigv4.signing_key(KEYS["AKIDEXAMPLE"].replace("+", "/"), "20130524", "us-east-1")
    auth = Authenticated(
        "AKIAIOSFODNN7EXAMPLE",
        sigv4.STREAMING_SIGNED,
        key,
        "20130524T000000Z",
        "20130524/us-east-1/s3/aws4_request",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    )
    verifier = ChunkVerifier(auth)
    for data, signature in [
        (b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ]:
        verifier.check_chunk(hashlib.sha256(data).hexdigest(), signature)
    with pytest.raises(S3Error):
        verifier.check_chunk(hashlib.sha256(b"x").hexdigest(), "0" * 64)


def test_a_purpose_is_what_the_signature_covers_in_one_piece() -> None:
    request = signed_by_botocore("GET", "/bucket/key", **{"x-sealgate-purpose": "a,b"})
    auth = verify(request, KEYS.get, now())
    assert stated_purpose(request, auth) == "a,b"
    host = [h for h in request.headers if h[0] != PURPOSE]
    cut = Request("GET", request.path, "", [*host, (PURPOSE, "a"), (PURPOSE, "b")])
    assert stated_purpose(cut, verify(cut, KEYS.get, now())) == ""  # the signature is right
    other = Request("GET", request.path, "", [*host, (PURPOSE, "b")])
    assert code_of(other) == "SignatureDoesNotMatch"
    slipped_in = signed_by_botocore("GET", "/bucket/key")
    slipped_in.headers.append((PURPOSE, "b"))
    assert code_of(slipped_in) == "AccessDenied"


def test_a_purpose_in_a_url_is_signed_or_refused() -> None:
    request = presigned_by_botocore("GET", "/bucket/key?x-sealgate-purpose=case-1")
    assert stated_purpose(request, verify(request, KEYS.get, now())) == "case-1"
    two = Request("GET", request.path, request.raw_query, [*request.headers, (PURPOSE, "b")])
    assert code_of(two) == "AccessDenied"
    changed = Request(
        "GET", request.path, request.raw_query.replace("case-1", "case-2"), request.headers
    )
    assert code_of(changed) == "SignatureDoesNotMatch"
    of_version_2 = Authenticated("k", sigv4.UNSIGNED, b"", "", "", "")
    assert stated_purpose(request, of_version_2) == ""
