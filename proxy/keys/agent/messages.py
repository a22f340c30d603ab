"""What do a worker and the key agent say to each other? The payloads, without the keys. Pure.

A message is one datagram (docs/reference/keys.md, "Agent protocol"): header and keys are native
(native/channel.pyx), the payload is written and read here. Texts and byte strings have a 16-bit
length before them, numbers are big-endian, and `parse_*` refuses all that its writer would not
write. A reply has its request's kind with the high bit set, or is FAILED.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from proxy.errors import AccessDenied, IntegrityError, KeyUnavailable, SealgateError
from proxy.keys.providers.base import (
    Asking,
    CapabilityMissing,
    CredentialRefused,
    DeviceDown,
    Overloaded,
)
from proxy.keys.record import Purpose, Subject
from proxy.policy.model import Action, Circumstances, Principal, Resource

MAX_ITEMS = 64  # of one OPEN; as many as a message has room for keys
MAX_TEXT = 4096
MAX_ITEM = 4095  # bytes of one item of an OPEN: sixteen fit a message
MAX_DETAIL = 256


class MessageError(ValueError):
    """The bytes are not a payload of this kind: end the connection."""


class Kind(IntEnum):
    """6 and 7 are kept for SEAL and UNSEAL, in-token batches of `hsm` mode."""

    OPEN = 1  # ring keys, on behalf of somebody
    WRAP = 2  # operators only, as is UNWRAP
    UNWRAP = 3
    RANDOM = 4
    HEALTH = 5
    AUDIT_KEY = 8  # where a chain of the audit log begins
    AUDIT_SIGN = 9


REPLY = 0x80
FAILED = 0xFF


class Status(IntEnum):
    """How one question ended; the classes of providers.base, by number."""

    OK = 0
    UNAVAILABLE = 1
    DENIED = 2
    INTEGRITY = 3
    DEVICE_DOWN = 4
    CREDENTIAL = 5
    CAPABILITY = 6
    OVERLOADED = 7


# The nearest class first: the others are kinds of KeyUnavailable.
_CLASSES: tuple[tuple[Status, type[SealgateError]], ...] = (
    (Status.DENIED, AccessDenied),
    (Status.INTEGRITY, IntegrityError),
    (Status.DEVICE_DOWN, DeviceDown),
    (Status.CREDENTIAL, CredentialRefused),
    (Status.CAPABILITY, CapabilityMissing),
    (Status.OVERLOADED, Overloaded),
    (Status.UNAVAILABLE, KeyUnavailable),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status, and what an operator reads of it. Holds no secret."""

    status: Status
    detail: str = ""

    def error(self) -> SealgateError:
        """The exception that this stands for."""
        return dict(_CLASSES)[self.status](self.detail)


OK = Outcome(Status.OK)


def outcome_of(error: SealgateError) -> Outcome:
    """What to tell the other side of an exception."""
    for status, kind in _CLASSES:
        if isinstance(error, kind):
            return Outcome(status, str(error)[:MAX_DETAIL])
    return Outcome(Status.UNAVAILABLE, "the key agent failed")


@dataclass(frozen=True, slots=True)
class OpenItem:
    """One ring version to open. `asking` None: the proxy itself, to have it ready."""

    ring: str
    record: bytes
    asking: Asking | None


@dataclass(frozen=True, slots=True)
class Health:
    up: bool
    provider: str
    root_id: bytes  # 16, or none while the provider is not open
    detail: str


def open_item(item: OpenItem) -> bytes:
    """One item of an OPEN. MessageError: with names so long that it takes more than `MAX_ITEM`."""
    out = [_text(item.ring), _lp(item.record)]
    if item.asking is None:
        out.append(b"\0")
    else:
        who, what = item.asking.principal, item.asking.resource
        known = who.circumstances
        out += [b"\1", *map(_text, (who.kind, who.name))]
        out += map(_text, (known.client, known.identity, known.purpose))
        out += map(_text, (what.kind, what.name, what.ring, item.asking.action.value))
    written = b"".join(out)
    if len(written) > MAX_ITEM:
        raise MessageError(f"an item has at most {MAX_ITEM} bytes")
    return written


def open_request(items: Sequence[bytes]) -> bytes:
    """`items`: each from `open_item`."""
    return struct.pack(">H", len(items)) + b"".join(items)


def parse_open_request(payload: bytes) -> list[OpenItem]:
    reader = _Reader(payload)
    count = reader.number(2)
    if not 1 <= count <= MAX_ITEMS:
        raise MessageError("1 to 64 items")
    items = [_open_item(reader) for _ in range(count)]
    reader.end()
    return items


def _open_item(reader: "_Reader") -> OpenItem:
    ring, record = reader.text(), reader.bytes()
    if not reader.flag():
        return OpenItem(ring, record, None)
    kind, name, client, identity, purpose = (reader.text() for _ in range(5))
    what, which, its_ring, action = (reader.text() for _ in range(4))
    try:
        asked = Action(action)
    except ValueError:
        raise MessageError("no such action") from None
    who = Principal(kind, name, Circumstances(client, identity, purpose))
    return OpenItem(ring, record, Asking(who, Resource(what, which, its_ring), asked))


def open_reply(outcomes: list[Outcome]) -> bytes:
    """The keys of those that are OK go with it, in this order."""
    return struct.pack(">H", len(outcomes)) + b"".join(failed(o) for o in outcomes)


def parse_open_reply(payload: bytes, keys: int) -> list[Outcome]:
    reader = _Reader(payload)
    count = reader.number(2)
    if count > MAX_ITEMS:
        raise MessageError("at most 64 items")
    outcomes = [_outcome(reader) for _ in range(count)]
    reader.end()
    if sum(o.status is Status.OK for o in outcomes) != keys:
        raise MessageError("another number of keys than of good outcomes")
    return outcomes


def failed(outcome: Outcome) -> bytes:
    """The payload of FAILED."""
    text = _cut(outcome.detail)
    return struct.pack(">BH", outcome.status, len(text)) + text


def parse_failed(payload: bytes) -> Outcome:
    reader = _Reader(payload)
    outcome = _outcome(reader)
    reader.end()
    if outcome.status is Status.OK:
        raise MessageError("a failure that is none")
    return outcome


def _outcome(reader: "_Reader") -> Outcome:
    try:
        status = Status(reader.number(1))
    except ValueError:
        raise MessageError("no such status") from None
    return Outcome(status, reader.text())


_SUBJECT = struct.Struct(">16sIBQQ32s")


def wrap_request(subject: Subject, context: bytes) -> bytes:
    """Its one key goes with it."""
    return _SUBJECT.pack(
        subject.key_id, subject.version, subject.purpose, subject.not_before, subject.not_after,
        context,
    )  # fmt: skip


def parse_wrap_request(payload: bytes) -> tuple[Subject, bytes]:
    if len(payload) != _SUBJECT.size:
        raise MessageError("a wrap request has one size")
    key_id, version, purpose, not_before, not_after, context = _SUBJECT.unpack(payload)
    try:
        return Subject(key_id, version, Purpose(purpose), not_before, not_after), context
    except ValueError:
        raise MessageError("no such purpose") from None


def unwrap_request(record: bytes, context: bytes) -> bytes:
    return context + record


def parse_unwrap_request(payload: bytes) -> tuple[bytes, bytes]:
    """(record, context)."""
    if len(payload) <= 32:
        raise MessageError("context and record")
    return payload[32:], payload[:32]


def random_request(n: int) -> bytes:
    return struct.pack(">H", n)


def parse_random_request(payload: bytes) -> int:
    reader = _Reader(payload)
    n = reader.number(2)
    reader.end()
    if not 1 <= n <= 1024:
        raise MessageError("1 to 1024 bytes")
    return n


def audit_key_request(ring: str, record: bytes) -> bytes:
    return _text(ring) + _lp(record)


def parse_audit_key_request(payload: bytes) -> tuple[str, bytes]:
    """(ring, record)."""
    reader = _Reader(payload)
    found = reader.text(), reader.bytes()
    reader.end()
    return found


_SIGNED = struct.Struct(">16sQ32s")


def audit_sign_request(writer: bytes, n: int, mac: bytes) -> bytes:
    return _SIGNED.pack(writer, n, mac)


def parse_audit_sign_request(payload: bytes) -> tuple[bytes, int, bytes]:
    """(writer, n, MAC)."""
    if len(payload) != _SIGNED.size:
        raise MessageError("a question for a signature has one size")
    writer, n, mac = _SIGNED.unpack(payload)
    return writer, n, mac


def health_reply(health: Health) -> bytes:
    return (
        bytes([health.up])
        + _text(health.provider)
        + _lp(health.root_id)
        + _text(_cut(health.detail).decode())
    )


def parse_health_reply(payload: bytes) -> Health:
    reader = _Reader(payload)
    health = Health(reader.flag(), reader.text(), reader.bytes(), reader.text())
    reader.end()
    if len(health.root_id) not in (0, 16):
        raise MessageError("a root id has 16 bytes")
    return health


def _cut(text: str) -> bytes:
    return text.encode()[:MAX_DETAIL].decode(errors="ignore").encode()


def _text(text: str) -> bytes:
    return _lp(text.encode())


def _lp(field: bytes) -> bytes:
    if len(field) > MAX_TEXT:
        raise MessageError(f"a field has at most {MAX_TEXT} bytes")
    return struct.pack(">H", len(field)) + field


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, n: int) -> bytes:
        found = self._data[self._at : self._at + n]
        if len(found) != n:
            raise MessageError("cut off")
        self._at += n
        return found

    def number(self, n: int) -> int:
        return int.from_bytes(self._take(n), "big")

    def flag(self) -> bool:
        value = self.number(1)
        if value > 1:
            raise MessageError("a flag is 0 or 1")
        return value == 1

    def bytes(self) -> bytes:
        n = self.number(2)
        if n > MAX_TEXT:
            raise MessageError("a field is too long")
        return self._take(n)

    def text(self) -> str:
        try:
            return self.bytes().decode()
        except UnicodeDecodeError:
            raise MessageError("not UTF-8") from None

    def end(self) -> None:
        if self._at != len(self._data):
            raise MessageError("more than the message")
