"""One-dimensional arrays: `{a,"b c",NULL}` and `[2:3]={a,b}`, the binary form, and arrays as a type.

More than one dimension is refused. Equality is the server's (array_eq): the same bounds and equal
elements, where NULL equals NULL; the canonical form for the tag holds just that.
"""

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy import native
from proxy.postgres.types.base import (
    INVALID_BINARY,
    INVALID_TEXT,
    MISMATCH,
    UNSUPPORTED,
    DataError,
    TextContext,
    TypeCodec,
)

_BLANK = b" \t\n\r\f\v"
_BOUNDS = re.compile(rb"[ \t\n\r\f\v]*\[([+-]?\d+)(?::([+-]?\d+))?\][ \t\n\r\f\v]*")
_BOUND = re.compile(rb"[ \t\n\r\f\v]*\[([+-]?\d{1,4000})")
_ITEM = re.compile(
    rb'[ \t\n\r\f\v]*(?:"((?:[^"\\]|\\.)*)"[ \t\n\r\f\v]*|((?:[^"\\{},]|\\.)*))', re.DOTALL
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NEEDS_QUOTES = re.compile(rb'[\s"\\{},]')
FIRST_USER_OID = 16384
_INT32 = 2**31 - 1
_TOO_MANY = "arrays of more than one dimension are not handled on a protected column"


@dataclass(frozen=True, slots=True)
class Elements:
    """An array's values and its lower bound; None is NULL. Empty arrays have no bounds."""

    items: list[bytes | None]
    lower: int = 1


def parse_array(text: bytes, elem: TypeCodec, ctx: TextContext, typmod: int) -> list[bytes | None]:
    """Binary send forms of the elements of an array's text. DataError."""
    return _read(text, elem, ctx, typmod).items


def _read(text: bytes, elem: TypeCodec, ctx: TextContext, typmod: int) -> Elements:
    """All elements are read before the length or scale is applied to any, as on the server."""
    found = read_array(text, lambda item: elem.parse(item, ctx, -1))
    if typmod == -1:
        return found
    items = [None if item is None else elem.check(item, typmod) for item in found.items]
    return Elements(items, found.lower)


def read_array(text: bytes, convert: Callable[[bytes], bytes]) -> Elements:
    """The elements of an array's text, each one converted before the next is read, as the server does;
    None for an unquoted NULL. DataError."""
    lower, upper, at = _bounds(text)
    if upper is None:
        at = len(text) - len(text.lstrip(_BLANK))
    if text[at : at + 1] != b"{":
        raise _malformed(text)
    items, at = _items(text, at + 1, convert)
    if text[at:].strip(_BLANK):
        raise _malformed(text)
    if upper is not None and len(items) != upper - lower + 1:
        raise _malformed(text)
    if not items:
        return Elements([])
    return Elements(items, lower)


def _bounds(text: bytes) -> tuple[int, int | None, int]:
    """(lower, upper, where the braces begin) of `[l:u]=` or `[u]=`; upper is None without them."""
    if text.lstrip(_BLANK)[:1] != b"[":
        return 1, None, 0
    m = _BOUNDS.match(text)
    if m is None:
        begun = _BOUND.match(text)
        if begun is not None and not -_INT32 - 1 <= int(begun[1]) <= _INT32:
            raise DataError("54000", "array bound is out of integer range")
        raise _malformed(text)
    first, second = int(m[1]), int(m[2]) if m[2] is not None else None
    lower, upper = (1, first) if second is None else (first, second)
    rest = text[m.end() :]
    if rest[:1] == b"[":
        raise DataError(UNSUPPORTED, _TOO_MANY)
    if not -_INT32 - 1 <= lower <= _INT32 or not -_INT32 - 1 <= upper <= _INT32:
        raise DataError("54000", "array bound is out of integer range")
    if upper == _INT32:
        raise DataError("54000", "array upper bound is too large: 2147483647")
    if upper < lower:
        raise DataError("2202E", "upper bound cannot be less than lower bound")
    if rest[:1] != b"=":
        raise _malformed(text)
    return lower, upper, len(text) - len(rest[1:].lstrip(_BLANK))


def _items(
    text: bytes, at: int, convert: Callable[[bytes], bytes]
) -> tuple[list[bytes | None], int]:
    """The elements from behind the opening brace, and where the closing one ends."""
    items: list[bytes | None] = []
    while True:
        m = _ITEM.match(text, at)
        if m is None:
            raise _malformed(text)
        end = text[m.end() : m.end() + 1]
        if end == b"{":
            raise DataError(UNSUPPORTED, _TOO_MANY)
        if end not in (b",", b"}"):
            raise _malformed(text)
        at = m.end() + 1
        if m[1] is not None:
            items.append(convert(_ESCAPED.sub(rb"\1", m[1])))
        else:
            word = _trimmed(m[2])
            if not word:
                if end == b"}" and not items:
                    return items, at
                raise _malformed(text)
            null = word.upper() == b"NULL"
            items.append(None if null else convert(_ESCAPED.sub(rb"\1", word)))
        if end == b"}":
            return items, at


def _trimmed(word: bytes) -> bytes:
    """Without blanks at the end, except an escaped one."""
    short = word.rstrip(_BLANK)
    escapes = len(short) - len(short.rstrip(b"\\"))
    return word[: len(short) + 1] if escapes % 2 and len(word) > len(short) else short


def _malformed(text: bytes) -> DataError:
    shown = text.decode("utf-8", "replace")
    return DataError(INVALID_TEXT, f'malformed array literal: "{shown}"')


def binary_array_elements(raw: bytes) -> list[bytes | None]:
    """The elements of an array's binary form. DataError."""
    return read_binary_array(raw)[0].items


def read_binary_array(raw: bytes) -> tuple[Elements, int]:
    """The elements of an array's binary form, and the OID of their type. DataError."""
    bad = DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
    if len(raw) < 12:
        raise DataError("08P01", "insufficient data left in message")
    dimensions, flags, oid = struct.unpack_from("!iiI", raw)
    if dimensions > 6:
        message = f"number of array dimensions ({dimensions}) exceeds the maximum allowed (6)"
        raise DataError("54000", message)
    if dimensions < 0 or flags not in (0, 1):
        raise DataError(INVALID_BINARY, "invalid array flags" if dimensions in range(7) else
                        f"invalid number of dimensions: {dimensions}")  # fmt: skip
    if dimensions == 0:
        if len(raw) != 12:
            raise bad
        return Elements([]), oid
    if dimensions != 1:
        raise DataError(UNSUPPORTED, _TOO_MANY)
    if len(raw) < 20:
        raise DataError("08P01", "insufficient data left in message")
    count, lower = struct.unpack_from("!ii", raw, 12)
    if count < 0 or count > len(raw):
        raise bad
    if count and lower + count - 1 > _INT32:
        raise DataError("54000", f"array lower bound is too large: {lower}")
    items: list[bytes | None] = []
    at = 20
    for _ in range(count):
        if at + 4 > len(raw):
            raise bad
        (size,) = struct.unpack_from("!i", raw, at)
        at += 4
        if size == -1:
            items.append(None)
            continue
        if size < 0 or at + size > len(raw):
            raise bad
        items.append(raw[at : at + size])
        at += size
    if at != len(raw):
        raise bad
    return Elements(items, lower if items else 1), oid


def write_binary_array(items: Sequence[bytes | None], oid: int, lower: int = 1) -> bytes:
    """The binary send form of a one-dimensional array."""
    if not items:
        return struct.pack("!iiI", 0, 0, oid)
    parts = [struct.pack("!iiIii", 1, int(None in items), oid, len(items), lower)]
    for item in items:
        if item is None:
            parts.append(b"\xff\xff\xff\xff")
        else:
            parts.append(struct.pack("!i", len(item)) + item)
    return b"".join(parts)


class Array(TypeCodec):
    """An array of one dimension as the type of a column; `typmod` is that of the elements."""

    array_oid, typlen = 0, -1
    canonical_kind = native.CANON_CALL

    def __init__(self, elem: TypeCodec) -> None:
        self.elem = elem
        self.oid = elem.array_oid
        self.name = elem.name + "[]"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        found = _read(text, self.elem, ctx, typmod)
        return write_binary_array(found.items, self.elem.oid, found.lower)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        found, _ = read_binary_array(binary)
        shown = [
            b"NULL" if item is None else _quoted(self.elem.render(item, ctx))
            for item in found.items
        ]
        out = b"{" + b",".join(shown) + b"}"
        if found.lower != 1:
            upper = found.lower + len(shown) - 1
            return b"[%d:%d]=" % (found.lower, upper) + out
        return out

    def check(self, binary: bytes, typmod: int) -> bytes:
        found, oid = read_binary_array(binary)
        if oid != self.elem.oid and not (self.elem.foreign_oid and oid >= FIRST_USER_OID):
            message = (
                f"binary data has array element type {oid} instead of expected {self.elem.oid}"
            )
            raise DataError(MISMATCH, f"{message} ({self.elem.name})")
        items = [None if i is None else self.elem.check(i, typmod) for i in found.items]
        return write_binary_array(items, self.elem.oid, found.lower)

    def canonical(self, binary: bytes) -> bytes:
        found, _ = read_binary_array(binary)
        parts = [struct.pack("!ii", len(found.items), found.lower)]
        for item in found.items:
            value = None if item is None else _canonical(self.elem, item)
            parts.append(b"\0" if value is None else b"\1" + struct.pack("!I", len(value)) + value)
        return b"".join(parts)


def _canonical(elem: TypeCodec, item: bytes) -> bytes:
    if elem.canonical_kind == native.CANON_CALL:
        return elem.canonical(item)
    if elem.canonical_kind == native.CANON_INT:
        return int.from_bytes(item, "big", signed=True).to_bytes(8, "big", signed=True)
    return item


def _quoted(text: bytes) -> bytes:
    if text and text.upper() != b"NULL" and not _NEEDS_QUOTES.search(text):
        return text
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", text) + b'"'
