"""Which S3 error does a client get for what went wrong inside? The one translation."""

from proxy import native
from proxy.errors import AccessDenied, IntegrityError, KeyUnavailable, Unsupported
from proxy.s3.s3error import ClientGone, OriginFailed, S3Error
from proxy.s3.wire import BadMessage


def answer_to(error: Exception) -> tuple[S3Error, str | None]:
    """The answer, and how loudly it is logged (None: not at all)."""
    if isinstance(error, S3Error):
        return error, "warning" if error.status >= 500 and error.status != 501 else None
    if isinstance(error, AccessDenied):
        return S3Error("AccessDenied"), "info"
    if isinstance(error, KeyUnavailable | native.KeyGone):
        return S3Error("ServiceUnavailable", "A key is not available now. Please retry."), "warning"
    if isinstance(error, IntegrityError | native.OpenFailed):
        return S3Error("XAmzSealgateIntegrity"), "error"
    if isinstance(error, native.ArenaFull):
        return S3Error("SlowDown"), "warning"
    if isinstance(error, Unsupported):
        return S3Error("NotImplemented", str(error)), None
    if isinstance(error, OriginFailed):
        return S3Error(
            "ServiceUnavailable", "The object store is not available now. Please retry."
        ), "warning"
    if isinstance(error, ClientGone | ConnectionError):
        return S3Error("RequestTimeout"), "info"
    if isinstance(error, BadMessage):
        return S3Error("InvalidRequest", "The request body is not well formed."), "info"
    return S3Error("InternalError"), "exception"
