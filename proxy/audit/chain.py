"""How is a line written, keyed and chained? docs/reference/audit.md, "Chain". Pure.

A line is one JSON object; its last member is its MAC over all bytes before it, under the key of that
line (HMAC-SHA-256, FIPS 198-1). The key of line n+1 is HKDF (RFC 5869) of the key of line n, which
is then wiped: the forward-secure log of Bellare and Yee (1997) and Schneier and Kelsey (1999). Each
line also holds the MAC of the line before it, so that the chain shows even without keys.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from proxy import native
from proxy.audit.events import Field
from proxy.crypto import kdf
from proxy.native import KeyHandle

FORMAT = "sealgate-audit/1"
ZERO_MAC = "0" * 64
_MAC = b',"mac":"'
_TAIL_BYTES = len(_MAC) + 64 + 2
_MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """A line taken apart; nothing of it is verified yet."""

    n: int
    writer: str  # 32 hexadecimal digits
    time: str
    event: str
    previous: str  # MAC of the line before
    mac: str
    body: bytes  # what the MAC is over
    fields: Mapping[str, Field]


class Chain:
    """The writing end of one writer's chain. Owns `key`, which is the key of the next line."""

    def __init__(self, key: KeyHandle, writer: bytes) -> None:
        self.writer = writer.hex()
        self.n = 0
        self.mac = ZERO_MAC
        self._key = key
        self._next: KeyHandle | None = None  # the key of the line after, while one is being sealed

    def seal(self, time: str, event: str, fields: Mapping[str, Field]) -> bytes:
        """The next line, with its newline. The chain stays where it is until `advance`.

        ArenaFull: here, not in `advance`, so that no line is written that the chain cannot follow.
        """
        if self._next is None:
            self._next = kdf.audit_next_key(self._key)
        body = _dumped(
            {
                "n": self.n + 1,
                "t": time,
                "w": self.writer,
                "e": event,
                "p": self.mac,
                **fields,
            }
        )[:-1]
        mac = native.hmac_sha256(self._key, body).hex().encode()
        return body + _MAC + mac + b'"}\n'

    def advance(self, line: bytes) -> None:
        """`line`, just made by `seal`, is written: its key is gone."""
        assert self._next is not None
        self.n += 1
        self.mac = line[-67:-3].decode()
        self._key.wipe()
        self._key, self._next = self._next, None

    def wipe(self) -> None:
        """No line can be added any more. Idempotent."""
        self._key.wipe()
        if self._next is not None:
            self._next.wipe()


def parse(line: bytes) -> Entry | None:
    """The line (without newline) taken apart; None if it has not the form of one."""
    if len(line) < _TAIL_BYTES or len(line) > _MAX_LINE_BYTES:
        return None
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if not tail.startswith(_MAC) or not tail.endswith(b'"}'):
        return None
    try:
        found = json.loads(line)
        mac = tail[len(_MAC) : -2].decode("ascii")
        if not isinstance(found, dict) or found.pop("mac", None) != mac:
            return None
        n, time, writer = found.pop("n"), found.pop("t"), found.pop("w")
        event, previous = found.pop("e"), found.pop("p")
    except (ValueError, KeyError, RecursionError):
        return None
    texts = (time, writer, event, previous)
    if type(n) is not int or n < 1 or not all(isinstance(x, str) for x in texts):
        return None
    return Entry(n, writer, time, event, previous, mac, body, found)


def genuine(entry: Entry, key: KeyHandle) -> bool:
    """Whether this is the line that was written with this key; in constant time."""
    mac = native.hmac_sha256(key, entry.body).hex().encode()
    return native.ct_equal(mac, entry.mac.encode("utf-8", "replace"))


def _dumped(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
