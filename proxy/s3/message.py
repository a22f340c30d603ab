"""One HTTP request as received, and the encodings of S3 targets.

Header names are lower-case, values keep every byte (latin-1) less surrounding blanks, order and
duplicates stay. The path is never normalised: `a//b/../c` is a legal S3 key.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from urllib.parse import quote, unquote_to_bytes

Headers = list[tuple[str, str]]
Query = list[tuple[str, str]]

# RFC 9110 7.6.1 and what belongs to one hop of ours.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "expect",
    }
)


_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*\Z")
_PLAIN_PATH = re.compile(rb"[A-Za-z0-9_.~/-]*\Z")


def header(headers: Headers, name: str) -> str | None:
    """First value of `name` (lower-case), or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


@lru_cache(maxsize=512)
def _header_name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


def decoded(raw: list[tuple[bytes, bytes]]) -> Headers:
    """Headers as received in our form: names lower-case, values with every byte but blanks."""
    return [(_header_name(n), v.decode("latin-1").strip()) for n, v in raw]


def encode_path(raw: bytes) -> str:
    """SigV4 `UriEncode` of a path: everything but unreserved characters and `/`."""
    return raw.decode("ascii") if _PLAIN_PATH.match(raw) else quote(raw, safe="/-_.~")


def _encode(text: str) -> str:
    return text if _UNRESERVED.match(text) else quote(text, safe="-_.~")


def encode_query(query: Query) -> str:
    """Canonical query string: encoded, sorted by name, then value."""
    return "&".join([f"{k}={v}" for k, v in sorted([(_encode(k), _encode(v)) for k, v in query])])


def parse_query(raw: str) -> Query:
    """`+` is a blank, as S3 reads it; bytes that are not UTF-8 survive as surrogates."""
    out: Query = []
    for item in raw.split("&"):
        if item:
            name, _, value = item.partition("=")
            out.append((_decode(name), _decode(value)))
    return out


def _decode(text: str) -> str:
    if "%" not in text and "+" not in text and text.isascii():
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


@dataclass(slots=False)
class Request:
    """`path` and `raw_query` are the target as sent, before any decoding."""

    method: str
    path: str
    raw_query: str
    headers: Headers = field(repr=False)

    @cached_property
    def query(self) -> Query:
        return parse_query(self.raw_query)

    def get(self, name: str, default: str = "") -> str:
        found = header(self.headers, name)
        return default if found is None else found

    def has(self, name: str) -> bool:
        return header(self.headers, name) is not None

    def param(self, name: str) -> str | None:
        for key, value in self.query:
            if key == name:
                return value
        return None
