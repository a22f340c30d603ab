"""What ETag does a client see? The origin's, told apart from an MD5 of the plaintext.

An ETag of 32 hex digits is taken for the MD5 of the content by rclone and s3cmd, which then fail
every transfer; with `-0` behind it no client we know does (facts/s3.md 4.3). The suffix goes on in
every answer about an object and comes off in every condition.
"""

import re

_MD5_SHAPED = re.compile(r'("?)([0-9a-fA-F]{32})("?)\Z')
_SUFFIXED = re.compile(r'([0-9a-fA-F]{32})-0(?=["\s,;&]|\Z)')

CONDITIONS = frozenset(
    {
        "if-match",
        "if-none-match",
        "if-range",
        "x-amz-copy-source-if-match",
        "x-amz-copy-source-if-none-match",
    }
)


def shown(etag: str) -> str:
    """`"…32 hex…"` becomes `"…32 hex…-0"`; everything else stays."""
    match = _MD5_SHAPED.match(etag)
    return f"{match[1]}{match[2]}-0{match[3]}" if match else etag


def unsuffixed(value: str) -> str:
    """A condition (one ETag or a list) as the origin knows it."""
    return _SUFFIXED.sub(r"\1", value)
