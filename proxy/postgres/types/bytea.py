"""bytea: hex and escape forms, both ways (PostgreSQL manual, "Binary Data Types")."""

import binascii
import re

from proxy.postgres.snapshot import BYTEA
from proxy.postgres.types.base import INVALID_TEXT, DataError, TextContext, TypeCodec

_PAIRS = re.compile(rb"(?:[ \n\t\r]*[0-9a-fA-F]{2})*[ \n\t\r]*")  # blanks between pairs only
_NO_PAIR = re.compile(
    rb"(?:[ \n\t\r]*[0-9a-fA-F]{2})*[ \n\t\r]*[0-9a-fA-F]?([^0-9a-fA-F].{0,3})?", re.DOTALL
)
_ESCAPE = re.compile(rb"\\(\\|[0-3][0-7]{2})|\\")


class Bytea(TypeCodec):
    oid, array_oid, typlen, name = BYTEA, 1001, -1, "bytea"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        if text[:2] == b"\\x":
            if _PAIRS.fullmatch(text, 2):
                return binascii.unhexlify(text[2:].translate(None, b" \n\t\r"))
            wrong = _NO_PAIR.match(text, 2)
            digit = wrong[1].decode("utf-8", "replace")[:1] if wrong and wrong[1] else ""
            what = f'digit: "{digit}"' if digit else "data: odd number of digits"
            raise DataError("22023", f"invalid hexadecimal {what}")

        def unescape(match: re.Match[bytes]) -> bytes:
            if match[1] is None:
                raise DataError(INVALID_TEXT, "invalid input syntax for type bytea")
            return b"\\" if match[1] == b"\\" else bytes((int(match[1], 8),))

        return _ESCAPE.sub(unescape, text)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        if ctx.bytea_output != "escape":
            return b"\\x" + binary.hex().encode()
        return b"".join(
            b"\\\\" if c == 92 else bytes((c,)) if 32 <= c <= 126 else b"\\%03o" % c for c in binary
        )
