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
    circumstances: Circumstances = NOTHING_KNOWN
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Once: it is the key of each decision. Of everything, since a client chooses its purpose
        # and maybe its address: principals that differ in these only must not share a bucket.
        object.__setattr__(self, "_hash", hash((self.kind, self.name, self.circumstances)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Resource:
    """What is protected. `kind` is "column" (name = domain id) or "bucket" (name = bucket/prefix)."""

    kind: str
    name: str
    ring: str
