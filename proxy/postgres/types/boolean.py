"""bool: every spelling that boolin accepts."""

from proxy.postgres.snapshot import BOOL
from proxy.postgres.types.base import INVALID_BINARY, SHORT, DataError, TextContext, TypeCodec


class Boolean(TypeCodec):
    oid, array_oid, typlen, name, size = BOOL, 1000, 1, "boolean", 1

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        word = text.strip(b" \t\n\r\f\v").lower()
        if word:
            if word in (b"1", b"on") or b"true".startswith(word) or b"yes".startswith(word):
                return b"\1"
            if word in (b"0", b"of", b"off"):
                return b"\0"
            if b"false".startswith(word) or b"no".startswith(word):
                return b"\0"
        raise self.bad(text)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return b"t" if binary != b"\0" else b"f"

    def check(self, binary: bytes, typmod: int) -> bytes:
        if not binary:
            raise DataError(SHORT, "no data left in message")
        if len(binary) != 1:
            raise DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
        return b"\0" if binary == b"\0" else b"\1"
