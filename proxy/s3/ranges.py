"""Which plaintext bytes does a Range header ask for? RFC 9110 14.1.2, as S3 applies it.

One byte range is served; several, another unit, or a syntax error mean the whole object with 200
(S3 ignores what it can't read). Not satisfiable means 416. Chunks are `crypto.parts`' business.
"""

import re
from dataclasses import dataclass

from proxy.s3.s3error import S3Error

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*\Z")


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """`first`-`last` inclusive; `last` None: open-ended; `first` None: the last `last` bytes."""

    first: int | None
    last: int | None


def parse_range(value: str) -> RangeSpec | None:
    """None: answer the whole object."""
    match = _RANGE.match(value.strip())
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        return RangeSpec(None, int(last)) if last else None
    if not last:
        return RangeSpec(int(first), None)
    if int(last) < int(first):
        return None
    return RangeSpec(int(first), int(last))


def resolve(spec: RangeSpec, size: int) -> tuple[int, int]:
    """Inclusive plaintext offsets in an object of `size` bytes; S3Error InvalidRange with 416."""
    if spec.first is None:
        length = min(spec.last or 0, size)
        if length == 0:
            raise unsatisfiable(size)
        return size - length, size - 1
    if spec.first >= size:
        raise unsatisfiable(size)
    return spec.first, size - 1 if spec.last is None else min(spec.last, size - 1)


def unsatisfiable(size: int) -> S3Error:
    return S3Error(
        "InvalidRange", headers=(("content-range", f"bytes */{size}"),), ActualObjectSize=str(size)
    )


def total_of(content_range: str) -> int | None:
    """The complete length in a `Content-Range`; None when it is missing or unknown."""
    _, _, total = content_range.rpartition("/")
    return int(total) if total.isascii() and total.isdigit() else None
