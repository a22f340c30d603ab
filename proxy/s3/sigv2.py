"""Is this presigned URL of the old form signed by someone we know? AWS Signature Version 2, query.

boto3 still makes these by default for us-east-1, us-west-2 and eu-west-1 (facts: s3.md 4.2). Only
the query form is served. V2 signs no more of the query than the names in `_SIGNED`, so any other
name is refused: it could turn a signed request into another one. Source: Amazon S3 developer guide,
"Signing and authenticating REST requests", query string alternative.
"""

import base64
import hmac
from collections.abc import Callable
from datetime import datetime
from urllib.parse import unquote

from proxy.s3.message import Request
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import MAX_EXPIRES_SECONDS, UNSIGNED, Authenticated

_SIGNED = frozenset({
    "accelerate", "acl", "cors", "defaultObjectAcl", "delete", "lifecycle", "location", "logging",
    "notification", "partNumber", "policy", "requestPayment", "response-cache-control",
    "response-content-disposition", "response-content-encoding", "response-content-language",
    "response-content-type", "response-expires", "restore", "storageClass", "tagging", "torrent",
    "uploadId", "uploads", "versionId", "versioning", "versions", "website",
})  # fmt: skip
_OWN = frozenset({"AWSAccessKeyId", "Signature", "Expires", "x-id"})


def is_v2(request: Request) -> bool:
    """The URL names an access key in the old form."""
    return request.param("AWSAccessKeyId") is not None


def verify_v2(
    request: Request,
    bucket_from_host: str,
    secret_of: Callable[[str], str | None],
    now: datetime,
) -> Authenticated:
    """Raises S3Error. `bucket_from_host` is empty in path style."""
    fields = dict(request.query)
    names = [name for name, _ in request.query]
    if len(set(names)) != len(names) or not _SIGNED.union(_OWN).issuperset(names):
        raise S3Error("AccessDenied", "A query parameter of this URL was not signed.")
    access_key, expires = fields["AWSAccessKeyId"], fields.get("Expires", "")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        raise S3Error("AccessDenied", "Invalid date (should be seconds since epoch)")
    left = int(expires) - now.timestamp()
    if left < 0:
        raise S3Error("AccessDenied", "Request has expired")
    if left > MAX_EXPIRES_SECONDS:
        raise S3Error("AccessDenied", "Expires must be at most seven days ahead")
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    text = _string_to_sign(request, bucket_from_host, expires)
    expected = base64.b64encode(hmac.digest(secret.encode(), text.encode("latin-1"), "sha1"))
    given = fields.get("Signature", "").encode("ascii", "replace")
    if not hmac.compare_digest(expected, given):
        raise S3Error("SignatureDoesNotMatch")
    return Authenticated(access_key, UNSIGNED, b"", "", "", "")


def _string_to_sign(request: Request, bucket_from_host: str, expires: str) -> str:
    amz: dict[str, list[str]] = {}
    for name, value in request.headers:
        if name.startswith("x-amz-"):
            amz.setdefault(name, []).append(value)
    lines = [f"{name}:{','.join(amz[name])}" for name in sorted(amz)]
    resource = (f"/{bucket_from_host}" if bucket_from_host else "") + request.path
    found = []
    for item in request.raw_query.split("&"):
        name, equals, value = item.partition("=")
        if name in _SIGNED:
            found.append((name, name + equals + unquote(value, "latin-1")))
    signed = "&".join(text for _, text in sorted(found))
    head = [request.method, request.get("content-md5"), request.get("content-type"), expires]
    return "\n".join([*head, *lines, resource + ("?" + signed if signed else "")])
