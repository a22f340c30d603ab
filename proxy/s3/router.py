"""Method and target to operation. One table: what we model, what we refuse, what is just forwarded.

Fails closed on protected places: a PUT or POST with a query we do not know might carry object
bytes, so it is refused there; anything else unknown is forwarded, so that a new S3 feature works on
the day it appears. GET with an unknown query is treated as GetObject, since that is what an origin
that does not know it either would do.
"""

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from proxy.s3.message import Request
from proxy.s3.s3error import S3Error

MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Target:
    """`bucket` and `key` decoded; empty where the request names none."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Route:
    """`operation` is the S3 name; `refuse` says why it is not served on protected data."""

    operation: str
    refuse: str | None = None


# (method, has key, query name) -> route. First name found in the query wins, in this order.
_SUBRESOURCES: dict[tuple[str, bool], tuple[tuple[str, Route], ...]] = {
    ("GET", True): (
        ("attributes", Route("GetObjectAttributes")),
        ("acl", Route("GetObjectAcl")),
        ("tagging", Route("GetObjectTagging")),
        ("retention", Route("GetObjectRetention")),
        ("legal-hold", Route("GetObjectLegalHold")),
        ("uploadId", Route("ListParts")),
        ("torrent", Route("GetObjectTorrent", "A torrent would carry sealed bytes.")),
        ("annotation", Route("GetObjectAnnotation", "Annotations would be stored in the clear.")),
    ),
    ("PUT", True): (
        ("acl", Route("PutObjectAcl")),
        ("tagging", Route("PutObjectTagging")),
        ("retention", Route("PutObjectRetention")),
        ("legal-hold", Route("PutObjectLegalHold")),
        ("encryption", Route("UpdateObjectEncryption")),
        (
            "renameObject",
            Route(
                "RenameObject",
                "A renamed object would not open: its envelope is "
                "bound to its name. Use CopyObject and DeleteObject.",
            ),
        ),
        ("annotation", Route("PutObjectAnnotation", "Annotations would be stored in the clear.")),
    ),
    ("POST", True): (
        ("uploads", Route("CreateMultipartUpload")),
        ("uploadId", Route("CompleteMultipartUpload")),
        ("restore", Route("RestoreObject")),
        ("select", Route("SelectObjectContent", "The origin cannot query sealed bytes.")),
    ),
    ("DELETE", True): (
        ("uploadId", Route("AbortMultipartUpload")),
        ("tagging", Route("DeleteObjectTagging")),
    ),
}
# Query names that do not change which operation it is.
_NEUTRAL = frozenset(
    {"x-id", "versionid", "partnumber", "uploadid", "awsaccesskeyid", "signature", "expires"}
)


def target_of(request: Request, host_suffix: str | None) -> Target:
    """Path style, or virtual-host style below `host_suffix`."""
    path = request.path
    if not path.startswith("/"):
        raise S3Error("InvalidURI")
    try:
        text = unquote_to_bytes(path[1:]).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Error("InvalidURI") from None
    if "\0" in text:
        raise S3Error("InvalidURI")
    bucket, key = bucket_of_host(request, host_suffix), text
    if not bucket:
        bucket, _, key = text.partition("/")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise S3Error("KeyTooLongError")
    return Target(bucket, key)


def bucket_of_host(request: Request, host_suffix: str | None) -> str:
    """The bucket in virtual-host style; empty in path style."""
    host = request.get("host").rsplit(":", 1)[0].lower()
    if host_suffix and host.endswith("." + host_suffix.lower()):
        return host[: -len(host_suffix) - 1]
    return ""


def route(request: Request, target: Target) -> Route:
    """The operation; never fails. Whether `refuse` counts depends on the place."""
    method = request.method
    names = {name for name, _ in request.query}
    if not target.bucket:
        return Route("ListBuckets" if method == "GET" else "Unknown")
    has_key = bool(target.key)
    if has_key and method == "PUT" and ("uploadId" in names or "partNumber" in names):
        copy = request.has("x-amz-copy-source")
        return Route("UploadPartCopy" if copy else "UploadPart")
    for name, found in _SUBRESOURCES.get((method, has_key), ()):
        if name in names:
            return found
    if has_key:
        return _object_route(request, names)
    return _bucket_route(request, names)


def _object_route(request: Request, names: set[str]) -> Route:
    method = request.method
    if method == "GET":
        return Route("GetObject")
    if method == "HEAD":
        return Route("HeadObject")
    if method == "DELETE":
        return Route("DeleteObject")
    unknown = [n for n in names if n.lower() not in _NEUTRAL and not n.lower().startswith("x-amz-")]
    if method == "PUT" and not unknown:
        if request.has("x-amz-copy-source"):
            return Route("CopyObject")
        return Route("PutObject")
    return Route("Unknown", "This operation is not known to be safe on sealed data.")


def _bucket_route(request: Request, names: set[str]) -> Route:
    method = request.method
    if method == "GET":
        return Route("ListBucket")
    if method == "POST":
        if "delete" in names:
            return Route("DeleteObjects")
        return Route("Unknown", "This operation is not known to be safe on sealed data.")
    return Route("Bucket")
