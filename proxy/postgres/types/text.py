"""text, varchar(n), char(n): UTF-8, length rules of the SQL standard as PostgreSQL applies them."""

from proxy import native
from proxy.postgres.snapshot import BPCHAR, TEXT, VARCHAR
from proxy.postgres.types.base import (
    DEFAULT,
    NOT_IN_REPERTOIRE,
    STRINGS,
    TOO_LONG,
    DataError,
    TextContext,
    TypeCodec,
)


def characters(text: bytes) -> str:
    if b"\0" in text:
        raise DataError(NOT_IN_REPERTOIRE, 'invalid byte sequence for encoding "UTF8": 0x00')
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = f"0x{text[error.start]:02x}"
        message = f'invalid byte sequence for encoding "UTF8": {shown}'
        raise DataError(NOT_IN_REPERTOIRE, message) from None


class Text(TypeCodec):
    oid, array_oid, typlen, name = TEXT, 1009, -1, "text"

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        return self.check(text, typmod)

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        return binary

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid in STRINGS:
            return self.check(binary, typmod)
        return super().coerce(binary, from_oid, typmod, ctx)

    def check(self, binary: bytes, typmod: int) -> bytes:
        characters(binary)
        return binary


class Varchar(Text):
    oid, array_oid, typlen, name = VARCHAR, 1015, -1, "character varying"

    def check(self, binary: bytes, typmod: int) -> bytes:
        value = characters(binary)
        limit = typmod - 4
        if typmod < 4 or len(value) <= limit:
            return binary
        if value[limit:].strip(" "):
            raise DataError(TOO_LONG, f"value too long for type {self.name}({limit})")
        return value[:limit].encode()


class Bpchar(Varchar):
    """char(n): blank-padded; blanks at the end do not count in a comparison."""

    oid, array_oid, typlen, name = BPCHAR, 1014, -1, "character"
    canonical_kind = native.CANON_CALL

    def check(self, binary: bytes, typmod: int) -> bytes:
        value = super().check(binary, typmod)
        if typmod < 4:
            return value
        return value + b" " * (typmod - 4 - len(value.decode()))

    def canonical(self, binary: bytes) -> bytes:
        return binary.rstrip(b" ")
