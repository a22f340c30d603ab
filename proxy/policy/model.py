"""Who asks, for what, to do what: the words of a policy. Leaf module, no decisions here."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

MAX_PURPOSE = 256  # characters; a longer text is none
LOCAL = "local"  # the network of a client on a Unix socket


class Action(Enum):
    SEAL = "seal"
    OPEN = "open"
    MASK = "mask"  # open in order to show a mask of it

    __hash__ = object.__hash__  # Enum's own is Python code; members are singletons


class Verdict(Enum):
    REVEAL = "reveal"
    MASK = "mask"
    NULL = "null"
    CIPHERTEXT = "ciphertext"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Mask:
    """What is shown in place of a text. `text` goes with "fixed"."""

    pattern: Literal["last4", "email", "hash", "fixed"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else is known of who asks. Nothing of it is a right by itself; empty: not known."""

    client: str = ""  # IP address, or "local": a Unix socket
    identity: str = ""  # the name in a verified client certificate
    purpose: str = ""  # as the client stated it


NOTHING_KNOWN = Circumstances()


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated identity. `kind` is "postgres", "s3", "mtls", "token" or "operator"."""

    kind: str
    name: str
    # not in the hash: principals are keys of caches, and those of one name are few
    circumstances: Circumstances = field(default=NOTHING_KNOWN, hash=False)


@dataclass(frozen=True, slots=True)
class Resource:
    """What is protected. `kind` is "column" (name = domain id) or "bucket" (name = bucket/prefix)."""

    kind: str
    name: str
    ring: str
