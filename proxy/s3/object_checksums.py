"""Which checksum has the whole object, and how is it told? Over the plaintext, from what was sealed.

A single PUT's is the client's own, verified while the body came in. A multipart object's follows from
its parts' (each verified when it came in, and named again at Complete): the CRC of the whole by
combination, or the composite, a digest over the parts' digests with `-N` behind it. Pure.
"""

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache

from proxy.crypto.checksum_field import Checksum
from proxy.s3.checksums import ALGORITHMS
from proxy.s3.message import Headers
from proxy.s3.s3error import S3Error

_PREFIX = "x-amz-checksum-"
# Reflected polynomials: zlib's CRC-32, Castagnoli's, and NVM Express' CRC-64.
_POLYNOMIALS = {
    "CRC32": (32, 0xEDB88320),
    "CRC32C": (32, 0x82F63B78),
    "CRC64NVME": (64, 0x9A6C9329AC4BC9B5),
}


def from_headers(headers: Headers) -> Checksum | None:
    """The object's checksum as a client sent it, or as it was confirmed to it."""
    for name, value in headers:
        algorithm = name[len(_PREFIX) :]
        if name.startswith(_PREFIX) and algorithm in ALGORITHMS:
            return Checksum(algorithm.upper(), base64.b64decode(value))
    return None


def to_headers(checksum: Checksum | None, parts: int) -> Headers:
    """As GET and HEAD answer it to `x-amz-checksum-mode: ENABLED`; empty where there is none."""
    if checksum is None:
        return []
    kind = "COMPOSITE" if checksum.composite else "FULL_OBJECT"
    name = _PREFIX + checksum.algorithm.lower()
    return [(name, shown(checksum, parts)), ("x-amz-checksum-type", kind)]


def shown(checksum: Checksum, parts: int) -> str:
    """Base64, with the number of parts behind a composite one."""
    text = base64.b64encode(checksum.value).decode()
    return f"{text}-{parts}" if checksum.composite else text


def of_parts(algorithm: str, parts: Sequence[tuple[bytes, int]], whole: bool) -> Checksum | None:
    """From the parts' digests and plaintext lengths. None where there is no such combination:
    only CRCs combine to the whole's."""
    if whole:
        if algorithm not in _POLYNOMIALS:
            return None
        bits, polynomial = _POLYNOMIALS[algorithm]
        crc = 0
        for digest, length in parts:
            crc = _times(crc, _power(length, bits, polynomial), bits, polynomial)
            crc ^= int.from_bytes(digest, "big")
        return Checksum(algorithm, crc.to_bytes(bits // 8, "big"))
    _, factory = ALGORITHMS[algorithm.lower()]
    digest_of = factory()
    for digest, _ in parts:
        digest_of.update(memoryview(digest))
    return Checksum(algorithm, digest_of.digest(), composite=True)


def check_announced(headers: Headers, checksum: Checksum | None, parts: int) -> None:
    """S3Error BadDigest where Complete's own checksum header names another value."""
    for name, value in headers:
        if name.startswith(_PREFIX) and name[len(_PREFIX) :] in ALGORITHMS and checksum is not None:
            same = name[len(_PREFIX) :].upper() == checksum.algorithm
            if same and value not in (
                shown(checksum, parts),
                shown(checksum, parts).partition("-")[0],
            ):
                raise S3Error("BadDigest", f"The {name} you specified did not match.")


def digest_of_part(algorithm: str, text: str) -> bytes:
    """A part's checksum out of Complete's document; S3Error InvalidPart."""
    size, _ = ALGORITHMS[algorithm.lower()]
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        raise S3Error("InvalidPart", "A part's checksum is not valid.")
    return raw


# -- CRCs as polynomials over GF(2), reflected: the top bit is the coefficient of x^0 ---------------


def _times(a: int, b: int, bits: int, polynomial: int) -> int:
    product = 0
    bit = 1 << (bits - 1)
    while bit:
        if a & bit:
            product ^= b
        b = (b >> 1) ^ polynomial if b & 1 else b >> 1
        bit >>= 1
    return product


@lru_cache(maxsize=256)
def _power(length: int, bits: int, polynomial: int) -> int:
    """x to the power of 8 * length: what appending `length` bytes does to a CRC."""
    result, square, n = 1 << (bits - 1), 1 << (bits - 2), 8 * length
    while n:
        if n & 1:
            result = _times(result, square, bits, polynomial)
        square = _times(square, square, bits, polynomial)
        n >>= 1
    return result
