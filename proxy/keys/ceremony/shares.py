"""How is a master key split among custodians, and made whole again? SLIP-0039, one group.

SLIP-0039 (SatoshiLabs) is the one published specification of Shamir's scheme with a digest of the
secret, a checksum, words for people and official vectors, in use in independent products; its
256-bit form is used as it stands: extendable, iteration exponent 1, empty passphrase (a share is
sealed to its custodian instead). The arithmetic is native, in the arena. Each share leaves it
sealed to the custodian's X25519 key (HPKE, RFC 9180), or as words, by an act of the custodian.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from proxy import native
from proxy.keys.ceremony import documents
from proxy.keys.ceremony.approvals import Refused
from proxy.keys.ceremony.canonical import Json
from proxy.keys.ceremony.documents import DocumentError, Roster
from proxy.native import KeyHandle

FORMAT = "sealgate-share/1"
_EXPONENT = 1
_INFO = b"sealgate/ceremony/1 share"


@dataclass(frozen=True, slots=True)
class ShareHeader:
    """The 40 bits before a share's value (SLIP-0039, "Format of the share mnemonic")."""

    identifier: int  # 15 bits, random: shares of one split have the same
    extendable: bool
    exponent: int
    group_index: int
    group_threshold: int
    group_count: int
    index: int  # coordinate of the share
    threshold: int

    @property
    def number(self) -> int:
        value = self.identifier << 1 | self.extendable
        for part in (
            self.exponent,
            self.group_index,
            self.group_threshold - 1,
            self.group_count - 1,
            self.index,
            self.threshold - 1,
        ):
            value = value << 4 | part
        return value

    @staticmethod
    def of(number: int) -> "ShareHeader":
        e, gi, gt, g, i, t = (number >> shift & 15 for shift in (20, 16, 12, 8, 4, 0))
        return ShareHeader(number >> 25, bool(number >> 24 & 1), e, gi, gt + 1, g + 1, i, t + 1)

    @property
    def salt(self) -> bytes:
        """What seasons the encryption of the master secret."""
        return b"" if self.extendable else b"shamir" + self.identifier.to_bytes(2, "big")

    def at(self, index: int) -> "ShareHeader":
        return replace(self, index=index)


@dataclass(frozen=True, slots=True)
class SealedShare:
    """One share, for its custodian alone."""

    custodian: str
    roster: bytes  # fingerprint
    root_id: bytes  # 16, of the master that the shares give
    header: int  # ShareHeader.number
    created: int  # Unix seconds
    enc: bytes = b""  # 32
    sealed: bytes = b""  # 48

    def _stated(self) -> dict[str, Json]:
        return {
            "format": FORMAT,
            "custodian": self.custodian,
            "roster": self.roster.hex(),
            "root_id": self.root_id.hex(),
            "header": f"{self.header:010x}",
            "created": self.created,
        }

    @property
    def aad(self) -> bytes:
        return documents.signed_bytes("share", self._stated())

    def document(self) -> dict[str, Json]:
        return {**self._stated(), "enc": self.enc.hex(), "sealed": self.sealed.hex()}


def split(master: KeyHandle, root_id: bytes, roster: Roster, now: int) -> list[SealedShare]:
    """One share for each custodian, sealed to him; as many as the roster's threshold give `master`
    again. Every choice of consecutive shares is combined and compared before this returns. Refused
    if a custodian has no key to seal to."""
    people = roster.custodians
    for person in people:
        if not person.seal:
            raise Refused(f"{person.name} has no key that a share could be sealed to")
    if roster.threshold == 1 and len(people) > 1:
        raise Refused("a threshold of 1 would give every custodian the whole key")
    header = ShareHeader(
        secrets.randbits(15), True, _EXPONENT, 0, 1, 1, 0, roster.threshold
    )  # fmt: skip
    encrypted = native.slip39_encrypt(master, bytearray(), header.salt, _EXPONENT)
    parts: list[KeyHandle] = []
    try:
        parts = native.slip39_split(encrypted, roster.threshold, len(people))
        numbered = list(enumerate(parts))
        for first in range(len(parts)):
            chosen = [numbered[(first + i) % len(parts)] for i in range(roster.threshold)]
            _compare(chosen, header, master)
        return [
            _seal(part, SealedShare(p.name, roster.fingerprint, root_id, header.at(i).number, now),
                  p.seal)
            for i, (p, part) in enumerate(zip(people, parts, strict=True))
        ]  # fmt: skip
    finally:
        encrypted.wipe()
        for part in parts:
            part.wipe()


def open_share(share: SealedShare, private: KeyHandle) -> KeyHandle:
    """The share's value in the arena. Refused if it was sealed to another key, or altered."""
    try:
        return native.hpke_open(private, share.enc, _INFO, share.aad, share.sealed)
    except native.OpenFailed:
        raise Refused(f"the share of {share.custodian} does not open with this key") from None


def combine(shares: Sequence[tuple[ShareHeader, KeyHandle]]) -> KeyHandle:
    """The master in the arena. Refused: too few, twice the same, of different splits, or altered."""
    if not shares:
        raise Refused("no shares")
    first = shares[0][0]
    if any(header.at(0) != first.at(0) for header, _ in shares):
        raise Refused("the shares are not of one split")
    if (first.group_index, first.group_threshold, first.group_count) != (0, 1, 1):
        raise Refused("shares of several groups are not combined here")
    if len({header.index for header, _ in shares}) != len(shares):
        raise Refused("a share is there twice")
    if len(shares) < first.threshold:
        raise Refused(f"{len(shares)} of {first.threshold} shares")
    try:
        encrypted = native.slip39_combine(
            [(header.index, share) for header, share in shares[: first.threshold]]
        )
    except native.ShareError as error:
        raise Refused(str(error)) from None
    try:
        return native.slip39_encrypt(
            encrypted, bytearray(), first.salt, first.exponent, decrypt=True
        )
    finally:
        encrypted.wipe()


def parse(raw: bytes) -> SealedShare:
    """The sealed share in a file's bytes; DocumentError for anything else."""
    top = documents.Fields(documents.read(raw), "a share", FORMAT)
    share = SealedShare(
        top.name("custodian"),
        top.hex("roster", 32),
        top.hex("root_id", 16),
        int.from_bytes(top.hex("header", 5), "big"),
        top.number("created"),
        top.hex("enc", 32),
        top.hex("sealed", 48),
    )
    top.end()
    return share


def words(share: SealedShare, private: KeyHandle) -> bytearray:
    """The share as SLIP-0039's 33 words, for paper. The caller wipes them."""
    value = open_share(share, private)
    try:
        return native.slip39_words(value, share.header, word_table())
    finally:
        value.wipe()


def from_words(text: bytearray) -> tuple[ShareHeader, KeyHandle]:
    """The share in these words; DocumentError if they are not such. The caller wipes `text`."""
    try:
        number, value = native.slip39_parse(text, word_table())
    except native.ShareError as error:
        raise DocumentError(str(error)) from None
    return ShareHeader.of(number), value


@cache
def word_table() -> bytes:
    """SLIP-0039's word list, each word padded by blanks to 8 letters."""
    listed = resources.files(__package__).joinpath("slip39-words.txt").read_text("ascii").split()
    return "".join(word.ljust(8) for word in listed).encode("ascii")


def _seal(part: KeyHandle, share: SealedShare, recipient: bytes) -> SealedShare:
    try:
        enc, sealed = native.hpke_seal(recipient, _INFO, share.aad, part)
    except native.OpenFailed:  # a point of small order: anybody could open what is sealed to it
        raise Refused(f"nothing can be sealed to the key of {share.custodian}") from None
    return replace(share, enc=enc, sealed=sealed)


def _compare(chosen: list[tuple[int, KeyHandle]], header: ShareHeader, master: KeyHandle) -> None:
    again = combine([(header.at(index), part) for index, part in chosen])
    try:
        if not again.same(master):
            raise AssertionError("shares that were just made give another key")
    finally:
        again.wipe()
