"""The S3 errors this gateway raises itself: code, status, text. One table, one exception.

Texts are for the client; they say what to do and nothing about keys. Two families are ours:

* `XAmzSealgateIntegrity` (500): stored bytes do not open. Not `InternalError`, because SDKs retry
  that and an operator should be able to search for it; not a 4xx, because no change of the request
  helps. One text for every cause, so that a client learns nothing from the difference.
* `ServiceUnavailable` (503): key or origin is away; SDKs retry it with a pause.
"""

from xml.sax.saxutils import escape

_INTEGRITY = "The stored object failed its integrity check and was not returned."

CODES: dict[str, tuple[int, str]] = {
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, "The authorization header is not valid."),
    "AuthorizationQueryParametersError": (400, "The query-string authentication is not valid."),
    "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed size"),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "IncompleteBody": (400, "The body is shorter than the length that was announced."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The access key ID that you provided does not exist."),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidDigest": (400, "The Content-MD5 that you specified is not valid."),
    "InvalidPart": (400, "One or more of the specified parts could not be found."),
    "InvalidPartOrder": (400, "The list of parts was not in ascending order."),
    "NoSuchUpload": (404, "The specified multipart upload does not exist."),
    "InvalidPartNumber": (416, "The requested part number is not satisfiable."),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KeyTooLongError": (400, "Your key is too long."),
    "InvalidPolicyDocument": (400, "The content of the form does not meet the policy's rules."),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "MalformedPOSTRequest": (
        400,
        "The body of your POST request is not well-formed multipart/form-data, "
        "or something follows the file.",
    ),
    "MaxPostPreDataLengthExceededError": (
        400,
        "Your POST request fields preceding the upload file were too large.",
    ),
    "MalformedXML": (400, "The XML that you provided was not well formed."),
    "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size."),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NotImplemented": (501, "A header or operation that you provided is not implemented."),
    "PreconditionFailed": (412, "At least one of the preconditions did not hold."),
    "RequestHeaderSectionTooLarge": (400, "Your request header section exceeds the maximum size."),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the server's time is too large.",
    ),
    "RequestTimeout": (
        400,
        "Your socket connection to the server was not read from or written to "
        "within the timeout period.",
    ),
    "ServiceUnavailable": (503, "Service is unable to handle request. Please retry."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature that the server calculated does not "
        "match the signature that you provided.",
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "XAmzContentSHA256Mismatch": (
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
    "XAmzSealgateIntegrity": (500, _INTEGRITY),
}


class S3Error(Exception):
    """An answer to the client. `extra` become child elements, `headers` go on the response."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        **extra: str,
    ) -> None:
        self.code = code
        self.status, default = CODES[code]
        self.message = message or default
        self.headers = headers
        self.extra = extra
        super().__init__(f"{code}: {self.message}")

    def to_xml(self, resource: str, request_id: str) -> bytes:
        """The error document that S3 clients parse."""
        fields = {
            "Code": self.code,
            "Message": self.message,
            **self.extra,
            "Resource": resource,
            "RequestId": request_id,
        }
        inner = "".join(f"<{name}>{escape(_clean(text))}</{name}>" for name, text in fields.items())
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()


def _clean(text: str) -> str:
    """XML 1.0 has no way to write most control characters."""
    return "".join(c if c >= " " and c not in "\ufffe\uffff" else "?" for c in text)


class OriginFailed(Exception):
    """The origin could not be reached, broke off, or stalled. Never says that data was altered."""


class ClientGone(Exception):
    """The client's connection ended before its request was through."""
