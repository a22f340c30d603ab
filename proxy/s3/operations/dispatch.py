"""From route to function: which code serves an operation in a protected place, and in a plain one.

What is not in the table is forwarded, unless the router says why it must not be.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from proxy.config.model import BucketConfig
from proxy.policy.model import Principal, Resource, Verdict
from proxy.s3.buckets import as_shown
from proxy.s3.call import Call, ResponseWriter, Services
from proxy.s3.message import Request
from proxy.s3.operations.attributes import get_object_attributes
from proxy.s3.operations.complete_upload import complete_upload
from proxy.s3.operations.copy_object import copy_object
from proxy.s3.operations.copy_source import same_origin_plain, source_of
from proxy.s3.operations.forward import (
    delete_objects,
    forward,
    list_bucket,
    list_buckets,
)
from proxy.s3.operations.get_object import get_object
from proxy.s3.operations.head_object import head_object
from proxy.s3.operations.list_parts import list_parts
from proxy.s3.operations.multipart import abort_upload, create_upload, upload_part
from proxy.s3.operations.part_copy import upload_part_copy
from proxy.s3.operations.put_object import put_object
from proxy.s3.operations.stash import PREFIX
from proxy.s3.router import Target, route
from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import Authenticated
from proxy.s3.wire import Body

Operation = Callable[[Call], Awaitable[None]]


_PROTECTED: dict[str, Operation] = {
    "PutObject": put_object,
    "GetObject": get_object,
    "HeadObject": head_object,
    "CopyObject": copy_object,
    "GetObjectAttributes": get_object_attributes,
    "CreateMultipartUpload": create_upload,
    "UploadPart": upload_part,
    "UploadPartCopy": upload_part_copy,
    "CompleteMultipartUpload": complete_upload,
    "ListParts": list_parts,
    "AbortMultipartUpload": abort_upload,
}
_COPIES = ("CopyObject", "UploadPartCopy")  # they tell sealed and plain places apart themselves
_BUCKET: dict[str, Operation] = {
    "ListBucket": list_bucket,
    "DeleteObjects": delete_objects,
}
# What a reader who is shown ciphertext gets as it is stored (`list_bucket` decides for itself).
_SHOWN = frozenset({"GetObject", "HeadObject"})


def _verdict(services: Services, principal: Principal, resource: Resource) -> Verdict:
    return services.keys.verdict(principal, resource)[0]


def check_anonymous(call: Call) -> None:
    """S3Error AccessDenied unless this may be asked without a signature."""
    public = call.has_rule and call.rule.anonymous == "read"
    if not public or call.operation not in ("GetObject", "HeadObject"):
        raise S3Error("AccessDenied")
    if any(name.startswith("response-") for name, _ in call.request.query):
        raise S3Error(
            "InvalidRequest",
            "Request specific response headers cannot be used for anonymous GET requests.",
        )


def prepare(
    request: Request,
    target: Target,
    auth: Authenticated,
    principal: Principal,
    body: Body,
    writer: ResponseWriter,
    services: Services,
) -> tuple[Call, Operation]:
    """The call and what runs it; S3Error where it is refused."""
    found = route(request, target)
    buckets = services.buckets
    rule: BucketConfig | None = None
    run: Operation = forward
    if not target.bucket:
        if found.operation != "ListBuckets":
            raise S3Error("MethodNotAllowed")
        run = list_buckets
    elif not target.key:
        rule = buckets.for_bucket(target.bucket)
        if buckets.any_protected(target.bucket):
            if found.refuse:
                raise S3Error("NotImplemented", found.refuse)
            run = _BUCKET.get(found.operation, forward)
    else:
        rule = buckets.for_key(target.bucket, target.key)
        if services.keys.shows and found.operation in _SHOWN:
            rule = as_shown(rule, target.bucket, partial(_verdict, services, principal))
        if rule.state != "plain":
            if target.key.startswith(PREFIX):
                raise S3Error("InvalidArgument", f"The prefix {PREFIX} is reserved.")
            if found.refuse:
                raise S3Error("NotImplemented", found.refuse)
            run = _PROTECTED.get(found.operation, forward)
    call = Call(request, target, found.operation, rule, auth, principal, body, writer, services)
    if rule is not None and rule.state == "plain" and request.has("x-amz-copy-source"):
        if found.operation in _COPIES:
            run = _PROTECTED[found.operation]
        elif not same_origin_plain(call, source_of(call)):
            raise S3Error("NotImplemented", "Only CopyObject and UploadPartCopy may copy.")
    return call, run
