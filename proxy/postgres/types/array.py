"""One-dimensional arrays: `{a,"b c",NULL}` and the binary form, split into elements and no further."""

import struct

from proxy.postgres.types.base import (
    INVALID_BINARY,
    INVALID_TEXT,
    UNSUPPORTED,
    DataError,
    TextContext,
    TypeCodec,
)

_BLANK = b" \t\n\r\f\v"


def parse_array(text: bytes, elem: TypeCodec, ctx: TextContext, typmod: int) -> list[bytes | None]:
    """Binary send forms of the elements of an array's text. DataError."""
    return [
        None if item is None else elem.parse(item, ctx, typmod) for item in split_array_text(text)
    ]


def split_array_text(text: bytes) -> list[bytes | None]:
    """The elements' own texts; None for an unquoted NULL. DataError."""

    def bad() -> DataError:
        shown = text.decode("utf-8", "replace")
        return DataError(INVALID_TEXT, f'malformed array literal: "{shown}"')

    body = text.strip(_BLANK)
    if body[:1] == b"[":
        raise DataError(UNSUPPORTED, "array bounds are not handled on a protected column")
    if body[:1] != b"{" or body[-1:] != b"}":
        raise bad()
    if not body[1:-1].strip(_BLANK):
        return []
    items: list[bytes | None] = []
    at, end = 1, len(body) - 1
    while True:
        while at < end and body[at] in _BLANK:
            at += 1
        item = bytearray()
        if body[at : at + 1] == b'"':
            at += 1
            while at < end and body[at] != 0x22:
                at += body[at] == 0x5C
                if at >= end:
                    raise bad()
                item.append(body[at])
                at += 1
            if at >= end:
                raise bad()
            at += 1
            items.append(bytes(item))
        else:
            escaped = False
            while at < end and body[at] not in b",":
                if body[at] == 0x7B:
                    raise DataError(
                        UNSUPPORTED, "arrays of more than one dimension are not handled"
                    )
                if body[at] in b'}"':
                    raise bad()
                if body[at] == 0x5C:
                    escaped, at = True, at + 1
                    if at >= end:
                        raise bad()
                item.append(body[at])
                at += 1
            word = bytes(item).rstrip(_BLANK)
            if not word:
                raise bad()
            items.append(None if word.upper() == b"NULL" and not escaped else word)
        while at < end and body[at] in _BLANK:
            at += 1
        if at >= end:
            return items
        if body[at] != 0x2C:
            raise bad()
        at += 1


def binary_array_elements(raw: bytes) -> list[bytes | None]:
    """The elements of an array's binary form. DataError."""
    bad = DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
    if len(raw) < 12:
        raise bad
    dimensions, _, _ = struct.unpack_from("!iiI", raw)
    if dimensions == 0:
        return []
    if dimensions != 1:
        raise DataError(UNSUPPORTED, "arrays of more than one dimension are not handled")
    if len(raw) < 20:
        raise bad
    (count,) = struct.unpack_from("!i", raw, 12)
    if count < 0 or count > len(raw):
        raise bad
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
    return items
