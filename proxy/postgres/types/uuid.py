"""uuid: 16 bytes; braces and hyphens after any group of four digits, as uuid_in takes them."""

import re

from proxy.postgres.snapshot import UUID
from proxy.postgres.types.base import TextContext, TypeCodec

_FORM = re.compile(rb"(\{)?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})(?(1)\})")


class Uuid(TypeCodec):
    oid, array_oid, typlen, name, size = UUID, 2951, 16, "uuid", 16

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        match = _FORM.fullmatch(text)
        if match is None:
            raise self.bad(text)
        return bytes.fromhex(match[2].replace(b"-", b"").decode())

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        h = binary.hex()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}".encode()
