"""How is a client's checksum written into an envelope or a footer?

One byte algorithm code (top bit set: composite, a checksum over part checksums), one byte length,
the value. Only ever inside sealed bytes: a checksum of a plaintext tells a guesser that he is
right. Computing and comparing checksums is not done here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

_CODES: dict[str, tuple[int, int]] = {
    # S3's algorithm name: (code, bytes)
    "CRC32": (1, 4),
    "CRC32C": (2, 4),
    "CRC64NVME": (3, 8),
    "SHA1": (4, 20),
    "SHA256": (5, 32),
    "MD5": (6, 16),
    "SHA512": (7, 64),
    "XXHASH64": (8, 8),
    "XXHASH3": (9, 8),
    "XXHASH128": (10, 16),
}
_NAMES = {code: (name, size) for name, (code, size) in _CODES.items()}
_COMPOSITE = 0x80


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum over plaintext; `algorithm` is S3's name for it, or MD5."""

    algorithm: str
    value: bytes = field(repr=False)  # never in a log: it identifies the plaintext
    composite: bool = False

    def __post_init__(self) -> None:
        if self.algorithm not in _CODES:
            raise ValueError(f"no code for the checksum algorithm {self.algorithm}")
        if len(self.value) != _CODES[self.algorithm][1]:
            raise ValueError(f"a {self.algorithm} checksum has {_CODES[self.algorithm][1]} bytes")


def encode_checksums(checksums: Iterable[Checksum]) -> bytes:
    """The fields one after another."""
    out = bytearray()
    for checksum in checksums:
        code = _CODES[checksum.algorithm][0] | (_COMPOSITE if checksum.composite else 0)
        out += bytes((code, len(checksum.value))) + checksum.value
    return bytes(out)


def decode_checksums(data: bytes) -> tuple[Checksum, ...]:
    """The fields in `data`, up to its end or to a zero byte, after which all must be zero.

    ValueError for an unknown code, a wrong length, or bytes left over.
    """
    found: list[Checksum] = []
    at = 0
    while at < len(data) and data[at]:
        name, size = _NAMES.get(data[at] & ~_COMPOSITE, ("", 0))
        value = data[at + 2 : at + 2 + size]
        if not name or data[at + 1 : at + 2] != bytes((size,)) or len(value) != size:
            raise ValueError("not a checksum field")
        found.append(Checksum(name, value, bool(data[at] & _COMPOSITE)))
        at += 2 + size
    if any(data[at:]):
        raise ValueError("bytes after the last checksum field")
    return tuple(found)
