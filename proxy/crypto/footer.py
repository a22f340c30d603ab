"""What stands behind the last part of an object: which parts it has, how long, which checksums?

pad ‖ layout entries ‖ tail of 256 bytes (docs/reference/format-objects.md, section "Footer").
The tail is read first, from the end, and says in clear what is needed to find key and entries.
Entries and totals are sealed under a key of this footer alone; the pad, zeros whose length is
authenticated, brings the object to sizes.stored_size of its plaintext.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from proxy import native
from proxy.crypto import object_keys, sizes
from proxy.crypto.checksum_field import Checksum, decode_checksums, encode_checksums
from proxy.crypto.parts import Layout
from proxy.errors import IntegrityError
from proxy.native import KeyHandle

TAIL_BYTES = sizes.TAIL_BYTES
ENTRY_BYTES = sizes.ENTRY_BYTES
UNKNOWN_COMMITMENT = bytes(8)
"""Stands for the commitment of a part that came with a bare ETag."""

_MAGIC = b"SGFOOTER"
_VERSION = 1
# magic, version, flags, parts, pad bytes, ring version id, upload hash, salt
_PREFIX = struct.Struct(">8sBBHI16s32s24s")
_TAG_BYTES = 16
_TOTALS_BYTES = TAIL_BYTES - _PREFIX.size - 2 * _TAG_BYTES
_TOTALS = struct.Struct(">16sQ")  # object id, plaintext bytes; checksum fields, zeros
CHECKSUMS_BYTES = _TOTALS_BYTES - _TOTALS.size
"""Room for checksum fields, each two bytes longer than its value."""

# The key is this footer's alone, so that two fixed nonces never meet again.
_ENTRIES_NONCE = bytes(12)
_TOTALS_NONCE = bytes(11) + b"\x01"
_REFUSED = "the footer does not open"


@dataclass(frozen=True, slots=True)
class Entry:
    """One part: its number, plaintext length, and the first 8 bytes of its commitment."""

    part_number: int  # 1..65535
    length: int
    commitment: bytes = UNKNOWN_COMMITMENT

    def admits(self, header: bytes) -> bool:
        """Whether a stream with this 56-byte header may be this part: the attempt that counted,
        where that is known."""
        return self.commitment in (UNKNOWN_COMMITMENT, header[24:32])


@dataclass(frozen=True, slots=True)
class TailPrefix:
    """The clear part of the tail. Not authenticated until parse has opened the footer."""

    ring_version_id: bytes
    upload_hash: bytes
    parts: int
    pad_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Bytes from the object's end that parse needs."""
        return TAIL_BYTES + ENTRY_BYTES * self.parts

    @property
    def footer_bytes(self) -> int:
        """Bytes from the end at which the last part's stream ends."""
        return self.needed_bytes + self.pad_bytes


@dataclass(frozen=True, slots=True)
class Footer:
    """An opened footer: every field is authentic."""

    prefix: TailPrefix
    entries: tuple[Entry, ...]
    plain_bytes: int
    checksums: tuple[Checksum, ...]

    @property
    def layout(self) -> Layout:
        """Where the parts lie."""
        return Layout([entry.length for entry in self.entries])


def footer_size(plain: int, lengths: Sequence[int]) -> int:
    """Stored bytes of the footer of an object of `plain` bytes in parts of these lengths.

    ValueError when the lengths do not add up, or when the parts are more or smaller than S3's
    rules allow so that they would not fit (every part but the last holds at least 5 MiB).
    """
    if not lengths or len(lengths) > sizes.MAX_PARTS or sum(lengths) != plain:
        raise ValueError("not the part lengths of such an object")
    size = sizes.stored_size(plain) - Layout(lengths).streams_bytes
    if size < TAIL_BYTES + ENTRY_BYTES * len(lengths):
        raise ValueError("parts below 5 MiB before the last one")
    return size


def build(
    object_key: KeyHandle,
    object_id: bytes,
    entries: Sequence[Entry],
    *,
    ring_version_id: bytes,
    upload_hash: bytes = object_keys.NO_UPLOAD,
    checksums: Sequence[Checksum] = (),
) -> bytes:
    """The footer of an object whose parts are `entries`, in rising order of part number.

    `checksums` are those known only at the end. ValueError for a layout that footer_size
    refuses, for numbers that do not rise, and for checksums above CHECKSUMS_BYTES.
    """
    lengths = [entry.length for entry in entries]
    plain = sum(lengths)
    pad = footer_size(plain, lengths) - TAIL_BYTES - ENTRY_BYTES * len(entries)
    if not _rising(entries):
        raise ValueError("part numbers rise from 1")
    fields = encode_checksums(checksums)
    if len(fields) > CHECKSUMS_BYTES:
        raise ValueError("more checksums than a footer has room for")
    if not len(object_id) == len(ring_version_id) == 16 or len(upload_hash) != 32:
        raise ValueError("a field of the footer has another length")
    salt = native.random_bytes(24)
    prefix = _PREFIX.pack(
        _MAGIC, _VERSION, 0, len(entries), pad, ring_version_id, upload_hash, salt
    )
    table = b"".join(_pack_entry(entry) for entry in entries)
    totals = (_TOTALS.pack(object_id, plain) + fields).ljust(_TOTALS_BYTES, b"\0")
    key = object_keys.footer_key(object_key, salt)
    try:
        table = native.gcm_seal(key, _ENTRIES_NONCE, table, prefix)
        prefix += table[-_TAG_BYTES:]
        totals = native.gcm_seal(key, _TOTALS_NONCE, totals, prefix)
    finally:
        key.wipe()
    return bytes(pad) + table[:-_TAG_BYTES] + prefix + totals


def read_tail(data: bytes) -> TailPrefix:
    """What the last 256 bytes of an object say in clear; `data` may hold more before them.

    IntegrityError when they are no tail, or of an unknown version.
    """
    if len(data) < TAIL_BYTES:
        raise IntegrityError(_REFUSED)
    magic, version, flags, count, pad, ring_version_id, upload_hash, _salt = _PREFIX.unpack_from(
        data, len(data) - TAIL_BYTES
    )
    known = magic == _MAGIC and version == _VERSION and flags == 0
    if not known or not 1 <= count <= sizes.MAX_PARTS:
        raise IntegrityError(_REFUSED)
    return TailPrefix(ring_version_id, upload_hash, count, pad)


def parse(object_key: KeyHandle, object_id: bytes, stored_bytes: int, data: bytes) -> Footer:
    """Open a footer. `data` is the end of an object of `stored_bytes` stored bytes, and at least
    read_tail(data).needed_bytes long; pad that it holds is checked too.

    IntegrityError, with one text, for everything that is wrong: altered bytes, another object's
    footer, a size or layout that does not agree with itself.
    """
    prefix = read_tail(data)
    if len(data) < prefix.needed_bytes:
        raise IntegrityError(_REFUSED)
    tail = data[-TAIL_BYTES:]
    bound = tail[: _PREFIX.size + _TAG_BYTES]
    sealed_table = data[-prefix.needed_bytes : -TAIL_BYTES] + bound[-_TAG_BYTES:]
    key = object_keys.footer_key(object_key, tail[_PREFIX.size - 24 : _PREFIX.size])
    try:
        totals = native.gcm_open(key, _TOTALS_NONCE, tail[len(bound) :], bound)
        table = native.gcm_open(key, _ENTRIES_NONCE, sealed_table, tail[: _PREFIX.size])
        checksums = decode_checksums(totals[_TOTALS.size :])
    except (native.OpenFailed, ValueError):
        raise IntegrityError(_REFUSED) from None
    finally:
        key.wipe()
    written_id, plain = _TOTALS.unpack_from(totals)
    entries = tuple(
        _unpack_entry(table[at : at + ENTRY_BYTES]) for at in range(0, len(table), ENTRY_BYTES)
    )
    pad = data[max(len(data) - prefix.footer_bytes, 0) : len(data) - prefix.needed_bytes]
    agrees = (
        written_id == object_id
        and _rising(entries)
        and sum(entry.length for entry in entries) == plain
        and sizes.stored_size(plain) == stored_bytes
        and Layout([entry.length for entry in entries]).streams_bytes + prefix.footer_bytes
        == stored_bytes
        and not any(pad)
    )
    if not agrees:
        raise IntegrityError(_REFUSED)
    return Footer(prefix, entries, plain, checksums)


def _rising(entries: Sequence[Entry]) -> bool:
    numbers = [0, *(entry.part_number for entry in entries)]
    return all(before < after for before, after in zip(numbers, numbers[1:], strict=False))


def _pack_entry(entry: Entry) -> bytes:
    if len(entry.commitment) != len(UNKNOWN_COMMITMENT):
        raise ValueError("a layout entry holds 8 bytes of the commitment")
    if not (1 <= entry.part_number <= 0xFFFF and 0 <= entry.length < 1 << 48):
        raise ValueError("a part number or length out of bounds")
    number, length = entry.part_number.to_bytes(2, "big"), entry.length.to_bytes(6, "big")
    return number + length + entry.commitment


def _unpack_entry(data: bytes) -> Entry:
    return Entry(int.from_bytes(data[:2], "big"), int.from_bytes(data[2:8], "big"), data[8:])
