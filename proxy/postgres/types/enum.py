"""Enum labels: the text of one of the labels that the configuration lists.

Clients see the column as `text`: the enum's own OID is the server's, and the server never learns that
the column holds one. Order is not needed, since ranges over enums are refused.
"""

from proxy.postgres.snapshot import TEXT
from proxy.postgres.types.base import (
    DEFAULT,
    INVALID_TEXT,
    STRINGS,
    DataError,
    TextContext,
    TypeCodec,
)
from proxy.postgres.types.text import characters


class Enum(TypeCodec):
    oid, array_oid, typlen = TEXT, 1009, -1
    foreign_oid = True

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self._labels = frozenset(label.encode() for label in labels)

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
        if binary not in self._labels:
            shown = characters(binary)
            raise DataError(INVALID_TEXT, f'invalid input value for enum {self.name}: "{shown}"')
        return binary
