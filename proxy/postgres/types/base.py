"""What a type codec is: text <-> binary send form, canonical form, and the errors of bad input.

The plaintext inside a sealed value is PostgreSQL's binary send form of the declared type. A message of
a DataError quotes the value: it goes only to the client that sent it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from proxy import native
from proxy.postgres.snapshot import BPCHAR, TEXT, UNKNOWN, VARCHAR

INVALID_TEXT = "22P02"
INVALID_BINARY = "22P03"
SHORT = "08P01"  # as the server says it of a binary value that ends early
OUT_OF_RANGE = "22003"
DATETIME_FORMAT = "22007"
DATETIME_OVERFLOW = "22008"
TOO_LONG = "22001"
NOT_IN_REPERTOIRE = "22021"
MISMATCH = "42804"
UNSUPPORTED = "0A000"

STRINGS = frozenset({0, TEXT, VARCHAR, BPCHAR, UNKNOWN})


class DataError(Exception):
    """A client's value that is none of its type: SQLSTATE and the server's own message."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


@dataclass(frozen=True, slots=True)
class TextContext:
    """Session settings that change text input and output."""

    date_style: str = "ISO, MDY"
    time_zone: str = "UTC"
    interval_style: str = "postgres"
    extra_float_digits: int = 1
    bytea_output: str = "hex"
    default_abbreviations: bool = True  # timezone_abbreviations is "Default"


DEFAULT = TextContext()


class TypeCodec(ABC):
    """One type. `name` is how the server's messages call it; `size` its binary length or 0."""

    oid: int
    array_oid: int
    typlen: int
    name: str
    size: int = 0
    canonical_kind: int = native.CANON_IDENTITY
    foreign_oid: bool = False  # of a user's type: the server's own OID for it is not known here

    @abstractmethod
    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        """Text input (UTF-8) to the binary send form. DataError."""

    @abstractmethod
    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        """The server's text output for the binary send form."""

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        """A client's binary parameter of type `from_oid` as this type's binary, by the assignment
        cast. DataError. `ctx` counts where a value moves between local and absolute time.
        """
        if from_oid == self.oid:
            return self.check(binary, typmod)
        raise DataError(MISMATCH, f"column is of type {self.name}: cast the parameter to it")

    def check(self, binary: bytes, typmod: int) -> bytes:
        """The same bytes if they are this type's binary form. DataError."""
        if len(binary) < self.size:
            raise DataError(SHORT, "insufficient data left in message")
        if self.size and len(binary) != self.size:
            raise DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
        return binary

    def canonical(self, binary: bytes) -> bytes:
        """What the equality tag is computed over, where canonical_kind is CANON_CALL."""
        return binary

    def bad(self, text: bytes, sqlstate: str = INVALID_TEXT) -> DataError:
        shown = text.decode("utf-8", "replace")
        return DataError(sqlstate, f'invalid input syntax for type {self.name}: "{shown}"')
