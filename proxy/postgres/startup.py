"""The first bytes of a connection: what does the client ask for, before messages have types?

PostgreSQL documentation, "Message Flow: Start-up", "SSL Session Encryption", "Cancel Requests",
protocol 3.0 and 3.2. Pure: bytes in, requests out. Does not know sockets or TLS.
"""

import struct
from dataclasses import dataclass, replace

from proxy.errors import SealgateError
from proxy.policy.model import MAX_PURPOSE
from proxy.postgres.messages import NEGOTIATE_PROTOCOL_VERSION, Malformed, c_string, frame
from proxy.postgres.sqlstate import FEATURE_NOT_SUPPORTED, PROTOCOL_VIOLATION

CANCEL_CODE = 80877102  # 1234 5678
SSL_CODE = 80877103  # 1234 5679
GSSENC_CODE = 80877104  # 1234 5680
SSL_REQUEST = struct.pack("!II", 8, SSL_CODE)
MAX_CANCEL_KEY_BYTES = 256
NEWEST_MINOR = 2  # protocol 3.2: cancel keys of up to 256 bytes
PURPOSE = "sealgate.purpose"
_PROTOCOL_OPTION = "_pq_."
_FALSE = ("false", "off", "no", "0", "f", "n")  # as far as they are spelt in practice


class StartupError(SealgateError):
    """The client's first packet cannot be used; answered as FATAL with this SQLSTATE."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class NoPacket(StartupError):
    """What came is not even a packet by its length. PostgreSQL closes without a word, so do we: a
    client that only hangs up (node-postgres sends Terminate) must not take it for an error."""


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
    minor: int = 0  # of the protocol version that it asks for

    @property
    def replication(self) -> str:
        """ "" for an ordinary session, "physical", or "database"."""
        value = self.parameters.get("replication", "false").lower()
        if value in _FALSE:
            return ""
        return "database" if value == "database" else "physical"

    @property
    def user(self) -> str:
        return self.parameters["user"]

    @property
    def database(self) -> str:
        return self.parameters.get("database") or self.user

    @property
    def purpose(self) -> str:
        """What the client gives as the purpose of this connection ("": nothing): the parameter
        `sealgate.purpose`, by itself or among `options`. The server keeps it as a setting, too."""
        found = ""
        words = iter(_words(self.parameters.get("options", "")))
        for word in words:
            setting = next(words, "") if word == "-c" else word.removeprefix("-c")
            name, equals, value = setting.removeprefix("--").partition("=")
            if equals and name.lower() == PURPOSE:
                found = value
        for name, value in self.parameters.items():  # these come after `options`, as at the server
            if name.lower() == PURPOSE:
                found = value
        return found if len(found) <= MAX_PURPOSE else ""


Request = SslRequest | GssEncRequest | CancelRequest | StartupMessage


def _words(options: str) -> list[str]:
    """Command-line words as PostgreSQL splits them (pg_split_opts): a backslash takes the next
    character as it is."""
    found: list[str] = []
    word: str | None = None
    letters = iter(options)
    for letter in letters:
        if letter in " \t\n\v\f\r":
            found += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + (next(letters, "") if letter == "\\" else letter)
    return found if word is None else [*found, word]


def cancel_packet(key: bytes) -> bytes:
    """A CancelRequest for the backend with this key (the payload of its BackendKeyData)."""
    return struct.pack("!II", 8 + len(key), CANCEL_CODE) + key


class StartupReader:
    """Collects packets until the first StartupMessage or CancelRequest; `rest` is what follows."""

    def __init__(self, max_bytes: int, allow_replication: bool = False) -> None:
        self._max = max_bytes
        self._allow_replication = allow_replication
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
            raise StartupError(FEATURE_NOT_SUPPORTED, "direct TLS is not offered here")
        if len(data) < 4:
            return None
        length = int.from_bytes(data[:4], "big")
        if length < 8 or length > self._max:
            raise NoPacket(PROTOCOL_VIOLATION, "invalid length of startup packet")
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
        message = _startup_message(packet, code)
        if message.replication and not self._allow_replication:
            raise StartupError(FEATURE_NOT_SUPPORTED, "replication connections are not supported")
        return message

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
    return StartupMessage(packet, parameters, minor)


# ---- what the server is asked, and what the client is told of it ---------------------------------
@dataclass(frozen=True, slots=True)
class Negotiation:
    """What of a client's wish this proxy does not know: a newer minor version, `_pq_.` options."""

    minor: int
    options: tuple[str, ...]

    def message(self, servers: bytes = b"") -> bytes:
        """NegotiateProtocolVersion; `servers` is the payload of the server's own, if it sent one.

        Raises Malformed.
        """
        minor, options = self.minor, list(self.options)
        if servers:
            if len(servers) < 8:
                raise Malformed("NegotiateProtocolVersion")
            minor = min(minor, int.from_bytes(servers[:4], "big") & 0xFFFF)
            at = 8
            for _ in range(int.from_bytes(servers[4:8], "big")):
                name, at = c_string(servers, at)
                options.append(name.decode("utf-8", "replace"))
        body = struct.pack("!II", 3 << 16 | minor, len(options))
        names = b"".join(name.encode() + b"\0" for name in options)
        return frame(NEGOTIATE_PROTOCOL_VERSION, body + names)


def for_server(
    startup: StartupMessage, user: str | None = None
) -> tuple[StartupMessage, Negotiation | None]:
    """The start-up that goes to the server, and what the client must be told if it differs.

    The server is asked for nothing that this proxy would not understand in its answers. What needs
    no change is the very packet that came. `user` takes the client's place.
    """
    unknown = tuple(name for name in startup.parameters if name.startswith(_PROTOCOL_OPTION))
    minor = min(startup.minor, NEWEST_MINOR)
    told = Negotiation(minor, unknown) if unknown or minor != startup.minor else None
    if told is None and user in (None, startup.user):
        return startup, None
    parameters = {k: v for k, v in startup.parameters.items() if k not in unknown}
    if user is not None:
        parameters.setdefault("database", startup.database)
        parameters["user"] = user
    words = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in parameters.items())
    packet = struct.pack("!II", 9 + len(words), 3 << 16 | minor) + words + b"\0"
    return replace(startup, packet=packet, parameters=parameters, minor=minor), told
