"""Is this request signed by someone we know, and how do we sign for the origin? AWS Signature V4.

Verifies the header form and the presigned form over the request exactly as received: header bytes,
an unnormalised path, a canonical query. Gives back what the body's reader needs (payload rule,
chunk-signing state). Knows no clock and no socket: `now` is passed in. Sources: Amazon S3 API
reference, "Authenticating Requests (AWS Signature Version 4)".
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from proxy.policy.model import MAX_PURPOSE
from proxy.s3.message import Headers, Query, Request, encode_path, encode_query
from proxy.s3.s3error import S3Error

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING = frozenset({STREAMING_SIGNED, STREAMING_SIGNED_TRAILER, STREAMING_UNSIGNED_TRAILER})

AUTH_QUERY = frozenset(
    {
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-signedheaders",
        "x-amz-signature",
        "x-amz-security-token",
        "x-amz-content-sha256",
    }
)
MAX_EXPIRES_SECONDS = 604_800  # seven days, the limit of SigV4
_ALGORITHM = "AWS4-HMAC-SHA256"
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_BLANKS = re.compile(r" +")


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who signed, and the state from which the chunk signatures of the body continue."""

    access_key: str
    payload: str  # hex SHA-256, UNSIGNED-PAYLOAD or one of STREAMING
    signing_key: bytes
    timestamp: str
    scope: str
    signature: str


PURPOSE = "x-sealgate-purpose"  # header, or parameter of a presigned URL


@lru_cache(maxsize=256)
def signing_key(secret: str, date: str, region: str, service: str = "s3") -> bytes:
    """kSigning; one per day and credential, so it is kept."""
    key = ("AWS4" + secret).encode()
    for step in (date, region, service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return key


def stated_purpose(request: Request, auth: Authenticated) -> str:
    """What the client gives as its purpose, in a header or the query; "" where it does not, where it
    gives two, or where the signature would not cover it (version 2).

    Two headers `a` and `b` are signed as one `a,b` is: who relays a request could cut it in two."""
    if not auth.scope:
        return ""
    stated = [v for n, v in request.headers if n == PURPOSE]
    if request.raw_query:
        stated += [v for n, v in request.query if n == PURPOSE]
    return stated[0] if len(stated) == 1 and len(stated[0]) <= MAX_PURPOSE else ""


def is_signed(request: Request) -> bool:
    """Whether the request claims to be somebody's, in any form we know or don't."""
    return bool(request.get("authorization")) or any(
        name.lower() in AUTH_QUERY or name in ("AWSAccessKeyId", "Signature")
        for name, _ in request.query
    )


def verify(
    request: Request,
    secret_of: Callable[[str], str | None],
    now: datetime,
    skew_seconds: int = 900,
    has_body: bool = False,
) -> Authenticated:
    """Raises S3Error; afterwards method, target and signed headers are the credential's own."""
    authorization = request.get("authorization")
    if request.param("X-Amz-Algorithm") is not None:
        if authorization:
            raise S3Error("InvalidArgument", "Only one auth mechanism allowed")
        return _verify_presigned(request, secret_of, now, skew_seconds)
    if not authorization:
        raise S3Error("AccessDenied")
    return _verify_header(request, authorization, secret_of, now, skew_seconds, has_body)


def _verify_header(
    request: Request,
    authorization: str,
    secret_of: Callable[[str], str | None],
    now: datetime,
    skew_seconds: int,
    has_body: bool,
) -> Authenticated:
    scheme, _, rest = authorization.partition(" ")
    if scheme != _ALGORITHM:
        raise S3Error(
            "InvalidRequest",
            "The authorization mechanism you have provided is not "
            "supported. Please use AWS4-HMAC-SHA256.",
        )
    fields = dict(part.strip().split("=", 1) for part in rest.split(",") if "=" in part)
    try:
        credential, signed, signature = (
            fields["Credential"],
            fields["SignedHeaders"],
            fields["Signature"],
        )
    except KeyError:
        raise S3Error("AuthorizationHeaderMalformed") from None
    access_key, scope, date, region = credential_scope(credential, "AuthorizationHeaderMalformed")
    timestamp = request.get("x-amz-date") or _from_http_date(request.get("date"))
    when = _parse_timestamp(timestamp, "AccessDenied")
    if timestamp[:8] != date:
        raise S3Error(
            "AuthorizationHeaderMalformed",
            "The date in the credential scope does not match the request's date.",
        )
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    if abs((now - when).total_seconds()) > skew_seconds:
        raise S3Error(
            "RequestTimeTooSkewed", RequestTime=timestamp, ServerTime=now.strftime("%Y%m%dT%H%M%SZ")
        )
    payload = request.get("x-amz-content-sha256")
    if not payload:
        # curl before 8.? sends none and signs the hash of an empty body.
        if has_body:
            raise S3Error(
                "InvalidRequest", "Missing required header for this request: x-amz-content-sha256"
            )
        payload = EMPTY_SHA256
    if payload != UNSIGNED and payload not in STREAMING and not _HEX64.match(payload):
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a "
            "supported STREAMING value, or a valid sha256 value.",
        )
    key = signing_key(secret, date, region)
    names = signed.split(";")
    _check_signed_headers(request.headers, names)
    _compare(request, request.query, names, payload, timestamp, scope, key, signature)
    return Authenticated(access_key, payload, key, timestamp, scope, signature)


def _verify_presigned(
    request: Request, secret_of: Callable[[str], str | None], now: datetime, skew_seconds: int
) -> Authenticated:
    fields: dict[str, str] = {}
    for name, value in request.query:
        if name.lower() in AUTH_QUERY:
            if name.lower() in fields:
                raise S3Error("AuthorizationQueryParametersError")
            fields[name.lower()] = value
    try:
        algorithm, credential, timestamp, expires, signed, signature = (
            fields["x-amz-" + n]
            for n in ("algorithm", "credential", "date", "expires", "signedheaders", "signature")
        )
    except KeyError:
        raise S3Error(
            "AuthorizationQueryParametersError",
            "Query-string authentication version 4 requires the X-Amz-Algorithm, "
            "X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and "
            "X-Amz-Expires parameters.",
        ) from None
    if algorithm != _ALGORITHM:
        raise S3Error("AuthorizationQueryParametersError")
    access_key, scope, date, region = credential_scope(
        credential, "AuthorizationQueryParametersError"
    )
    when = _parse_timestamp(timestamp, "AuthorizationQueryParametersError")
    if timestamp[:8] != date:
        raise S3Error("AuthorizationQueryParametersError")
    if not (
        expires.isascii() and expires.isdigit() and 1 <= int(expires[:9]) <= MAX_EXPIRES_SECONDS
    ):
        raise S3Error(
            "AuthorizationQueryParametersError",
            "X-Amz-Expires must be between 1 and 604800 seconds",
        )
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    age = (now - when).total_seconds()
    if age < -skew_seconds:
        raise S3Error("AccessDenied", "Request is not yet valid")
    if age > int(expires):
        raise S3Error("AccessDenied", "Request has expired")
    payload = fields.get("x-amz-content-sha256") or request.get("x-amz-content-sha256") or UNSIGNED
    if payload != UNSIGNED and not _HEX64.match(payload):
        raise S3Error("InvalidArgument", "x-amz-content-sha256 is not valid")
    key = signing_key(secret, date, region)
    names = signed.split(";")
    _check_signed_headers(request.headers, names)
    query = [(k, v) for k, v in request.query if k.lower() != "x-amz-signature"]
    _compare(request, query, names, payload, timestamp, scope, key, signature)
    return Authenticated(access_key, payload, key, timestamp, scope, signature)


def credential_scope(credential: str, error: str) -> tuple[str, str, str, str]:
    """Access key, scope, date and region of a credential field; S3Error `error`."""
    # An access key may hold slashes; the scope's four fields may not.
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[3] != "s3" or parts[4] != "aws4_request" or not parts[0]:
        raise S3Error(
            error,
            "The credential is mal-formed; expecting "
            '"<YOUR-AKID>/YYYYMMDD/REGION/s3/aws4_request".',
        )
    return parts[0], "/".join(parts[1:]), parts[1], parts[2]


@lru_cache(maxsize=64)
def _parse_timestamp(text: str, error: str) -> datetime:
    try:
        if len(text) != 16:
            raise ValueError
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise S3Error(
            error, "AWS authentication requires a valid Date or x-amz-date header"
        ) from None


def _from_http_date(text: str) -> str:
    try:
        return datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").strftime("%Y%m%dT%H%M%SZ")
    except ValueError:
        return ""


def _check_signed_headers(headers: Headers, signed: list[str]) -> None:
    names = set(signed)
    if "host" not in names:
        raise S3Error("AccessDenied", "The Host header must be signed")
    for name, _ in headers:
        # The payload rule is part of the string that is signed, so it need not be a signed header.
        ours = name.startswith(("x-amz-", "x-sealgate-"))
        if ours and name not in names and name != "x-amz-content-sha256":
            raise S3Error(
                "AccessDenied",
                "There were headers present in the request which were not signed",
                HeadersNotSigned=name,
            )


def canonical_request(
    method: str,
    path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    signed: list[str],
    payload: str,
) -> str:
    """The six lines of the specification; `path` and `query` already in canonical form."""
    values: dict[str, list[str]] = {name: [] for name in signed}
    for name, value in headers:
        if name in values:
            value = value.strip()
            values[name].append(_BLANKS.sub(" ", value) if "  " in value else value)
    lines = "".join([f"{name}:{','.join(values[name])}\n" for name in signed])
    return f"{method}\n{path}\n{query}\n{lines}\n{';'.join(signed)}\n{payload}"


def _string_to_sign(timestamp: str, scope: str, canonical: str) -> bytes:
    digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
    return f"{_ALGORITHM}\n{timestamp}\n{scope}\n{digest}".encode()


def _compare(
    request: Request,
    query: Query,
    signed: list[str],
    payload: str,
    timestamp: str,
    scope: str,
    key: bytes,
    signature: str,
) -> None:
    canonical_query = encode_query(query)
    given = signature.encode("ascii", "replace")

    def signed_as(path: str) -> bool:
        canonical = canonical_request(
            request.method, path, canonical_query, request.headers, signed, payload
        )
        expected = hmac.digest(key, _string_to_sign(timestamp, scope, canonical), "sha256").hex()
        return hmac.compare_digest(expected.encode(), given)

    # Clients differ in which reserved characters of a key they escape; AWS signs the re-encoded
    # path, botocore signs the path as sent. Both name the same key.
    if signed_as(request.path):
        return
    encoded = encode_path(unquote_to_bytes(request.path))
    if encoded == request.path or not signed_as(encoded):
        raise S3Error("SignatureDoesNotMatch")


class ChunkVerifier:
    """The chain of chunk signatures of one streaming body, then the trailer's."""

    def __init__(self, auth: Authenticated) -> None:
        self._auth = auth
        self._previous = auth.signature

    def check_chunk(self, digest_hex: str, signature: str) -> None:
        auth = self._auth
        self._check(
            f"AWS4-HMAC-SHA256-PAYLOAD\n{auth.timestamp}\n{auth.scope}\n{self._previous}\n"
            f"{EMPTY_SHA256}\n{digest_hex}",
            signature,
        )

    def check_trailer(self, block: bytes, signature: str) -> None:
        """`block` is `name:value\\n` for each trailer, in the order sent."""
        auth = self._auth
        digest = hashlib.sha256(block).hexdigest()
        self._check(
            f"AWS4-HMAC-SHA256-TRAILER\n{auth.timestamp}\n{auth.scope}\n{self._previous}\n{digest}",
            signature,
        )

    def _check(self, text: str, signature: str) -> None:
        expected = hmac.digest(self._auth.signing_key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected.encode(), signature.encode("ascii", "replace")):
            raise S3Error("SignatureDoesNotMatch")
        self._previous = expected


@dataclass(frozen=True, slots=True)
class OriginCredentials:
    access_key: str
    secret_key: str
    token: str | None = None


def sign(
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Headers,
    credentials: OriginCredentials,
    region: str,
    timestamp: str,
    payload: str = UNSIGNED,
) -> Headers:
    """`headers` plus host, date, payload rule and Authorization. `path`, `query` canonical;
    `timestamp` as in x-amz-date, 20260131T235959Z.

    Signs host and every `x-amz-*`; the rest may be rewritten by hops in between (GCS rewrites
    accept-encoding), so it is left out.
    """
    out = [("host", host), *headers, ("x-amz-date", timestamp), ("x-amz-content-sha256", payload)]
    if credentials.token:
        out.append(("x-amz-security-token", credentials.token))
    signed = sorted({n for n, _ in out if n == "host" or n.startswith("x-amz-")})
    scope = f"{timestamp[:8]}/{region}/s3/aws4_request"
    canonical = canonical_request(method, path, query, out, signed, payload)
    key = signing_key(credentials.secret_key, timestamp[:8], region)
    signature = hmac.digest(key, _string_to_sign(timestamp, scope, canonical), "sha256").hex()
    out.append(
        (
            "authorization",
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={';'.join(signed)}, Signature={signature}",
        )
    )
    return out
