"""The first bytes of a connection: what does the client ask for, before messages have types?

PostgreSQL documentation, "Message Flow: Start-up", "SSL Session Encryption", "Cancel Requests",
protocol 3.0 and 3.2. Pure: bytes in, requests out. Does not know sockets or TLS.
"""

import struct
from dataclasses import dataclass

from proxy.errors import SealgateError
from proxy.postgres.sqlstate import FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION

CANCEL_CODE = 80877102  # 1234 5678
SSL_CODE = 80877103  # 1234 5679
GSSENC_CODE = 80877104  # 1234 5680
SSL_REQUEST = struct.pack("!II", 8, SSL_CODE)
MAX_CANCEL_KEY_BYTES = 256


class StartupError(SealgateError):
    """The client's first packet cannot be used; answered as FATAL with this SQLSTATE."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True)
class SslRequest:
    pass


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequest:
    packet: bytes  # whole, as the client sent it: the key is the server's own


@dataclass(frozen=True, slots=True)
class StartupMessage:
    packet: bytes  # whole, as the client sent it
    parameters: dict[str, str]

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def database(self) -> str:
        return self.parameters.get("database") or self.user


Request = SslRequest | GssEncRequest | CancelRequest | StartupMessage


class StartupReader:
    """Collects packets until the first StartupMessage or CancelRequest; `rest` is what follows."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._buffer = b""
        self._negotiations = 0

    @property
    def rest(self) -> bytes:
        return self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """The next request, None when bytes are missing; raises StartupError."""
        data = self._buffer
        if data[:1] == b"\x16":
            raise StartupError(FEATURE_NOT_SUPPORTED, "direct TLS negotiation is not supported")
        if len(data) < 4:
            return None
        length = int.from_bytes(data[:4], "big")
        if length < 8 or length > self._max:
            raise StartupError(PROTOCOL_VIOLATION, "invalid length of startup packet")
        if len(data) < length:
            return None
        packet, self._buffer = data[:length], data[length:]
        code = int.from_bytes(packet[4:8], "big")
        if code in (SSL_CODE, GSSENC_CODE):
            return self._negotiation(code, length)
        if code == CANCEL_CODE:
            if not 12 < length <= 12 + MAX_CANCEL_KEY_BYTES:
                raise StartupError(PROTOCOL_VIOLATION, "invalid length of cancel request")
            return CancelRequest(packet)
        return _startup_message(packet, code)

    def _negotiation(self, code: int, length: int) -> Request:
        self._negotiations += 1
        if length != 8 or self._negotiations > 2:
            raise StartupError(PROTOCOL_VIOLATION, "invalid negotiation request")
        # Bytes sent before the answer would cross from clear into TLS (CVE-2021-23214).
        if self._buffer:
            raise StartupError(PROTOCOL_VIOLATION, "received unencrypted data after SSL request")
        return SslRequest() if code == SSL_CODE else GssEncRequest()


def _startup_message(packet: bytes, code: int) -> StartupMessage:
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        raise StartupError(
            FEATURE_NOT_SUPPORTED,
            f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2",
        )
    body = packet[8:]
    if not body.endswith(b"\0"):
        raise StartupError(PROTOCOL_VIOLATION, "invalid startup packet layout")
    words = body[:-1].split(b"\0")
    if words and words[-1] == b"":
        words.pop()  # the terminator behind the last value
    if len(words) % 2 or b"" in words[::2]:
        raise StartupError(PROTOCOL_VIOLATION, "invalid startup packet layout")
    try:
        text = [w.decode() for w in words]
    except UnicodeDecodeError:
        raise StartupError(PROTOCOL_VIOLATION, "startup packet is not UTF-8") from None
    parameters = dict(zip(text[::2], text[1::2], strict=True))
    if not parameters.get("user"):
        raise StartupError("28000", "no PostgreSQL user name specified in startup packet")
    if parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
        raise StartupError(FEATURE_NOT_SUPPORTED, "replication connections are not supported")
    return StartupMessage(packet, parameters)
