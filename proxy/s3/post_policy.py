"""May this form upload what it brings? The signed policy of S3's POST, checked field by field.

Pure. The policy is signed as base64 text, with Signature Version 4, or with Version 2 as boto3 still
does in some regions. Every field of the form has to be named by a condition, but for those in `_FREE`.
Source: Amazon S3, "Creating a POST Policy" and "Calculating a Signature".
"""

import base64
import binascii
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.s3.s3error import S3Error
from proxy.s3.sigv4 import UNSIGNED, Authenticated, credential_scope, signing_key

_FREE = frozenset({"policy", "x-amz-signature", "file", "awsaccesskeyid", "signature"})
_MAX_POLICY_BYTES = 20_000


def authenticate(
    fields: Mapping[str, str], secret_of: Callable[[str], str | None]
) -> Authenticated:
    """Who signed the policy; S3Error AccessDenied where nobody did."""
    policy = fields.get("policy", "")
    if not policy:
        raise S3Error("AccessDenied")
    if "x-amz-signature" in fields:
        return _version_4(fields, policy, secret_of)
    access_key, given = fields.get("awsaccesskeyid", ""), fields.get("signature", "")
    if not access_key or not given:
        raise S3Error("InvalidArgument", "The form has a policy, but no signature.")
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    expected = base64.b64encode(hmac.digest(secret.encode(), policy.encode(), "sha1"))
    if not hmac.compare_digest(expected, given.encode("ascii", "replace")):
        raise S3Error("SignatureDoesNotMatch")
    return Authenticated(access_key, UNSIGNED, b"", "", "", "")


def _version_4(
    fields: Mapping[str, str], policy: str, secret_of: Callable[[str], str | None]
) -> Authenticated:
    if fields.get("x-amz-algorithm") != "AWS4-HMAC-SHA256":
        raise S3Error("InvalidArgument", "x-amz-algorithm must be AWS4-HMAC-SHA256")
    access_key, scope, date, region = credential_scope(
        fields.get("x-amz-credential", ""), "InvalidArgument"
    )
    if fields.get("x-amz-date", "")[:8] != date:
        raise S3Error("InvalidArgument", "x-amz-date does not match the credential.")
    secret = secret_of(access_key)
    if secret is None:
        raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=access_key)
    key = signing_key(secret, date, region)
    expected = hmac.digest(key, policy.encode(), "sha256").hex()
    given = fields["x-amz-signature"].encode("ascii", "replace")
    if not hmac.compare_digest(expected.encode(), given):
        raise S3Error("SignatureDoesNotMatch")
    return Authenticated(access_key, UNSIGNED, key, fields["x-amz-date"], scope, "")


def check(fields: Mapping[str, str], bucket: str, length: int, now: datetime) -> None:
    """S3Error unless the policy has not expired and covers `fields`, `bucket` and `length`."""
    document = _document(fields["policy"])
    if _expiration(document) <= now:
        raise S3Error("AccessDenied", "Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    named: set[str] = set()
    conditions = document.get("conditions")
    if not isinstance(conditions, list):
        raise _invalid("Invalid Policy: conditions must be a list.")
    for condition in conditions:
        named |= _one(condition, values, length)
    for name in fields:
        if name not in named and name not in _FREE and not name.startswith("x-ignore-"):
            raise _denied(f"Extra input fields: {name}")


def _one(condition: Any, values: Mapping[str, str], length: int) -> set[str]:
    if isinstance(condition, dict):
        for name, wanted in condition.items():
            _match("eq", str(name).lower(), wanted, values)
        return {str(name).lower() for name in condition}
    if not isinstance(condition, list) or len(condition) != 3:
        raise _invalid("Invalid Policy: a condition has three elements.")
    kind, name, wanted = condition
    if kind == "content-length-range":
        if not (isinstance(name, int | str) and isinstance(wanted, int | str)):
            raise _invalid("Invalid Policy: content-length-range takes two numbers.")
        try:
            low, high = int(name), int(wanted)
        except ValueError:
            raise _invalid("Invalid Policy: content-length-range takes two numbers.") from None
        if length < low:
            raise S3Error("EntityTooSmall", ProposedSize=str(length), MinSizeAllowed=str(low))
        if length > high:
            raise S3Error("EntityTooLarge", ProposedSize=str(length), MaxSizeAllowed=str(high))
        return set()
    if kind not in ("eq", "starts-with") or not str(name).startswith("$"):
        raise _invalid("Invalid Policy: unknown condition.")
    field = str(name)[1:].lower()
    _match(kind, field, wanted, values)
    return {field}


def _match(kind: str, field: str, wanted: Any, values: Mapping[str, str]) -> None:
    given = values.get(field, "")
    if not isinstance(wanted, str):
        raise _invalid("Invalid Policy: a condition compares with a text.")
    good = given == wanted
    if kind == "starts-with":
        # Several content types are compared one by one.
        parts = given.split(",") if field == "content-type" else [given]
        good = all(part.strip().startswith(wanted) for part in parts)
    if not good:
        raise _denied(f'Policy Condition failed: ["{kind}", "${field}"]')


def _document(policy: str) -> dict[str, Any]:
    if len(policy) > _MAX_POLICY_BYTES:
        raise _invalid("Invalid Policy: too long.")
    try:
        found = json.loads(base64.b64decode(policy, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _invalid("Invalid Policy: Invalid JSON.") from None
    if not isinstance(found, dict):
        raise _invalid("Invalid Policy: Invalid JSON.")
    return found


def _expiration(document: Mapping[str, Any]) -> datetime:
    text = document.get("expiration")
    try:
        if not isinstance(text, str):
            raise ValueError
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise _invalid("Invalid Policy: Invalid 'expiration' value.") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _invalid(text: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", text)


def _denied(text: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {text}")
