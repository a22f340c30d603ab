"""How long is a stored object of P plaintext bytes, and the reverse, from a listing alone?

Every sealed object, single PUT or multipart, is padded in its footer to one strictly rising
function of its plaintext size (docs/reference/format-objects.md, section "Stored size"):

    C(P) = P + 328 + 16 * (P // 16384 + 1) + 88 * min(P // 5 MiB, 10000)

328 = stream header 56 + layout entry 16 + footer tail 256. A further part costs at most 88
(header 56, entry 16, one more chunk tag 16), holds at least 5 MiB, and there are at most 10,000.
"""

from functools import lru_cache

from proxy.crypto import parts

MIN_PART_BYTES = 5 * 1024 * 1024
MAX_PARTS = 10_000
ENTRY_BYTES = 16
TAIL_BYTES = 256
MAX_PLAIN_BYTES = MAX_PARTS * 5 * 1024**3
"""Ten thousand parts of 5 GiB, the most that S3 takes."""

_PER_PART_BYTES = parts.HEADER_BYTES + ENTRY_BYTES + parts.TAG_BYTES
_FIXED_BYTES = parts.HEADER_BYTES + ENTRY_BYTES + TAIL_BYTES


def stored_size(plain: int) -> int:
    """Stored bytes of an object of `plain` bytes, footer included. ValueError when negative."""
    if plain < 0:
        raise ValueError("a size is not negative")
    tags = parts.TAG_BYTES * (plain // parts.CHUNK_BYTES + 1)
    return plain + _FIXED_BYTES + tags + _PER_PART_BYTES * min(plain // MIN_PART_BYTES, MAX_PARTS)


@lru_cache(maxsize=4096)
def plain_size(stored: int) -> int | None:
    """Plaintext bytes of a stored object of `stored` bytes; None when no object is that long."""
    low, high = 0, min(stored - _FIXED_BYTES - parts.TAG_BYTES, MAX_PLAIN_BYTES)
    while low <= high:
        middle = (low + high) // 2
        size = stored_size(middle)
        if size == stored:
            return middle
        if size < stored:
            low = middle + 1
        else:
            high = middle - 1
    return None
