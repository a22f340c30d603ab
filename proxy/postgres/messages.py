"""The messages that Python reads or writes (PostgreSQL documentation, "Message Formats").

Pure functions over payloads (the bytes behind type and length). What rows carry is native
(`native/rows.pyx`); framing is `native/frames.pyx`. A payload that does not parse raises
`Malformed`; no length from the wire is used before it was checked.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import SealgateError

# Frontend types
BIND, CLOSE, DESCRIBE, EXECUTE = 0x42, 0x43, 0x44, 0x45
FLUSH, FUNCTION_CALL, PARSE, QUERY, SYNC = 0x48, 0x46, 0x50, 0x51, 0x53
TERMINATE, PASSWORD, COPY_FAIL = 0x58, 0x70, 0x66
# Backend types
AUTHENTICATION, BACKEND_KEY_DATA, ERROR_RESPONSE, READY_FOR_QUERY = 0x52, 0x4B, 0x45, 0x5A
PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, COMMAND_COMPLETE = 0x31, 0x32, 0x33, 0x43
ROW_DESCRIPTION, PARAMETER_DESCRIPTION, NO_DATA, DATA_ROW = 0x54, 0x74, 0x6E, 0x44
NEGOTIATE_PROTOCOL_VERSION, NOTICE_RESPONSE = 0x76, 0x4E
PARAMETER_STATUS, EMPTY_QUERY, PORTAL_SUSPENDED = 0x53, 0x49, 0x73
COPY_IN_RESPONSE, COPY_OUT_RESPONSE = 0x47, 0x48
ROW_FAILED = 33  # native: a row that did not open
COPY_FAILED = 34  # native: a row of COPY FROM STDIN that was not sealed

SYNC_MESSAGE = b"S\x00\x00\x00\x04"
FLUSH_MESSAGE = b"H\x00\x00\x00\x04"


class Malformed(SealgateError):
    """A message that is not what its type says."""


def frame(kind: int, payload: bytes) -> bytes:
    """One whole message."""
    return struct.pack("!BI", kind, len(payload) + 4) + payload


def error_response(
    sqlstate: str,
    message: str,
    *,
    severity: str = "ERROR",
    hint: str = "",
    detail: str = "",
    context: str = "",
    position: int = 0,
) -> bytes:
    """A whole ErrorResponse; `position` is 1-based in characters, 0 means none."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", message)]
    if detail:
        fields.append(("D", detail))
    if hint:
        fields.append(("H", hint))
    if context:
        fields.append(("W", context))
    if position:
        fields.append(("P", str(position)))
    body = b"".join(k.encode() + v.replace("\0", "").encode() + b"\0" for k, v in fields)
    return frame(ERROR_RESPONSE, body + b"\0")


def error_fields(payload: bytes) -> dict[str, str]:
    """Fields of an ErrorResponse or NoticeResponse by their one-letter code."""
    parts = payload.split(b"\0")
    return {p[:1].decode("latin-1"): p[1:].decode("utf-8", "replace") for p in parts if p}


def c_string(payload: bytes, at: int) -> tuple[bytes, int]:
    """The zero-terminated string at `at` and the offset behind it."""
    end = payload.find(b"\0", at)
    if end < 0:
        raise Malformed("string without end")
    return payload[at:end], end + 1


def _numbers(payload: bytes, at: int, code: str, size: int) -> tuple[tuple[int, ...], int]:
    """An Int16 count and that many numbers."""
    if len(payload) - at < 2:
        raise Malformed("message too short")
    count = int.from_bytes(payload[at : at + 2], "big")
    at += 2
    if count * size > len(payload) - at:
        raise Malformed("message too short")
    return struct.unpack_from(f"!{count}{code}", payload, at), at + count * size


@dataclass(frozen=True, slots=True)
class Parse:
    name: bytes
    sql: bytes
    oids: tuple[int, ...]

    @classmethod
    def read(cls, payload: bytes) -> "Parse":
        name, at = c_string(payload, 0)
        sql, at = c_string(payload, at)
        oids, at = _numbers(payload, at, "I", 4)
        if at != len(payload):
            raise Malformed("bytes behind Parse")
        return cls(name, sql, oids)

    def message(self) -> bytes:
        count = len(self.oids)
        return frame(
            PARSE,
            self.name + b"\0" + self.sql + b"\0" + struct.pack(f"!H{count}I", count, *self.oids),
        )


@dataclass(frozen=True, slots=True)
class Bind:
    portal: bytes
    statement: bytes
    formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]

    @classmethod
    def read(cls, payload: bytes) -> "Bind":
        portal, at = c_string(payload, 0)
        statement, at = c_string(payload, at)
        formats, at = _numbers(payload, at, "h", 2)
        if len(payload) - at < 2:
            raise Malformed("message too short")
        count = int.from_bytes(payload[at : at + 2], "big")
        at += 2
        values: list[bytes | None] = []
        for _ in range(count):
            if len(payload) - at < 4:
                raise Malformed("message too short")
            size = int.from_bytes(payload[at : at + 4], "big", signed=True)
            at += 4
            if size == -1:
                values.append(None)
                continue
            if size < 0 or size > len(payload) - at:
                raise Malformed("parameter length")
            values.append(payload[at : at + size])
            at += size
        result_formats, at = _numbers(payload, at, "h", 2)
        if at != len(payload):
            raise Malformed("bytes behind Bind")
        return cls(portal, statement, formats, tuple(values), result_formats)

    def message(self) -> bytes:
        parts = [
            self.portal + b"\0" + self.statement + b"\0",
            _formats(self.formats),
            struct.pack("!H", len(self.values)),
        ]
        for value in self.values:
            if value is None:
                parts.append(b"\xff\xff\xff\xff")
            else:
                parts.append(struct.pack("!i", len(value)))
                parts.append(value)
        parts.append(_formats(self.result_formats))
        return frame(BIND, b"".join(parts))


def _formats(codes: Sequence[int]) -> bytes:
    return struct.pack(f"!H{len(codes)}h", len(codes), *codes)


def format_of(codes: Sequence[int], index: int) -> int:
    """Format code of one value: none given = text, one given = for all."""
    if not codes:
        return 0
    return codes[0] if len(codes) == 1 else codes[index]


def kind_and_name(payload: bytes) -> tuple[int, bytes]:
    """Body of Describe and Close: `S` or `P`, and the name."""
    name, at = c_string(payload, 1)
    if at != len(payload):
        raise Malformed("bytes behind the name")
    return payload[0], name


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a RowDescription."""

    name: bytes
    table_oid: int
    attribute: int
    type_oid: int
    typlen: int
    typmod: int
    format: int


_FIELD = struct.Struct("!IhIhih")


def read_row_description(payload: bytes) -> list[Field]:
    if len(payload) < 2:
        raise Malformed("message too short")
    fields = []
    at = 2
    for _ in range(int.from_bytes(payload[:2], "big")):
        name, at = c_string(payload, at)
        if len(payload) - at < _FIELD.size:
            raise Malformed("message too short")
        fields.append(Field(name, *_FIELD.unpack_from(payload, at)))
        at += _FIELD.size
    if at != len(payload):
        raise Malformed("bytes behind RowDescription")
    return fields


def row_description(fields: Sequence[Field]) -> bytes:
    parts = [struct.pack("!H", len(fields))]
    for f in fields:
        parts.append(f.name + b"\0")
        parts.append(
            _FIELD.pack(f.table_oid, f.attribute, f.type_oid, f.typlen, f.typmod, f.format)
        )
    return frame(ROW_DESCRIPTION, b"".join(parts))


def read_parameter_description(payload: bytes) -> tuple[int, ...]:
    oids, at = _numbers(payload, 0, "I", 4)
    if at != len(payload):
        raise Malformed("bytes behind ParameterDescription")
    return oids


def parameter_description(oids: Sequence[int]) -> bytes:
    return frame(PARAMETER_DESCRIPTION, struct.pack(f"!H{len(oids)}I", len(oids), *oids))


def first_value(payload: bytes) -> bytes | None:
    """First column of a DataRow."""
    if len(payload) < 6:
        raise Malformed("row without a column")
    size = int.from_bytes(payload[2:6], "big", signed=True)
    if size == -1:
        return None
    if size < 0 or size > len(payload) - 6:
        raise Malformed("value length")
    return payload[6 : 6 + size]
