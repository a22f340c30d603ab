"""Which search tokens does a value of a column carry, and what does a search ask for?

The token region of a column value (docs/reference/format.md, "Token region"): tags, an order token and
match tokens, each under a key of its own. It is made here, from the plaintext, and authenticated as
part of the value; nothing here knows SQL or PostgreSQL's types: numbers come as ranks, text as UTF-8.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from proxy import native
from proxy.crypto import kdf
from proxy.crypto.folding import TRANSFORMS, fold
from proxy.native import KeyHandle

TAG_BYTES = 16
MOST_BYTES = 65535  # of a region: its length has two bytes
_FIRST = 22  # position in the value, from 1, of the first byte of the region
_PREFIX_BYTES = 8  # of an order token: names its key
_TOKEN_CHARACTERS = 8  # of a match token: 48 bits in base64url
_START, _END = "\x02", "\x03"  # stand before and behind a text whose n-grams are taken


class TooManyTokens(ValueError):
    """A text with more different n-grams (about 7200) than a value can carry."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` buckets of `width` ranks from rank `low` on, one below them (0) and one above."""

    low: int
    width: int
    count: int

    def number(self, rank: int) -> int:
        """0 below `low`, 1 to `count`, `count` + 1 above."""
        return min(max((rank - self.low) // self.width + 1, 0), self.count + 1)


@dataclass(frozen=True, slots=True)
class Match:
    """`ngram` characters each, 0 for none; prefixes of these lengths."""

    ngram: int = 3
    prefixes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """The searches of a column beyond equality. False when there are none."""

    transform: str = ""
    buckets: Buckets | None = None
    order_bits: int = 0
    match: Match | None = None

    def __bool__(self) -> bool:
        return self != Search()

    def descriptor(self) -> bytes:
        """Says all of it; bound into every value."""
        parts = []
        if self.transform:
            parts.append(f"transform={self.transform}")
        if self.buckets:
            parts.append(f"range={self.buckets.low},{self.buckets.width},{self.buckets.count}")
        if self.order_bits:
            parts.append(f"order={self.order_bits}")
        if self.match:
            lengths = ",".join(map(str, (self.match.ngram, *self.match.prefixes)))
            parts.append(f"match={lengths}")
        return ";".join(parts).encode()

    def place(self, purpose: str) -> tuple[int, int]:
        """(position from 1 in the value, bytes) of a token of fixed size."""
        at = _FIRST
        for name, size in self._fixed():
            if name == purpose:
                return at, size
            at += size
        raise KeyError(purpose)

    def _fixed(self) -> list[tuple[str, int]]:
        sizes = []
        if self.transform:
            sizes.append(("transform", TAG_BYTES))
        if self.buckets:
            sizes.append(("range", TAG_BYTES))
        if self.order_bits:
            sizes.append(("order", _PREFIX_BYTES + 2 * self.order_bits))
        return sizes

    @property
    def fixed_bytes(self) -> int:
        """Of the region before the match tokens."""
        return sum(size for _, size in self._fixed())

    @property
    def purposes(self) -> tuple[str, ...]:
        names = [name for name, _ in self._fixed()]
        return (*names, "match") if self.match else tuple(names)


class Tokens:
    """The tokens of one column under its index keys.

    `rank` gives the number of a plaintext (order, range), `text` its characters (transform, match);
    each only where its search is on. Every method raises KeyGone once a key was wiped.
    """

    def __init__(
        self,
        search: Search,
        index: KeyHandle,
        domain: str,
        rank: Callable[[bytes], int] | None,
        text: Callable[[bytes], str] | None,
    ) -> None:
        self.search = search
        self._keys = {p: kdf.column_key(index, domain, p) for p in search.purposes}
        self._rank = rank
        self._text = text
        self._order_id = kdf.column_key_id(self._keys["order"]) if search.order_bits else b""

    @property
    def handles(self) -> list[KeyHandle]:
        """The keys: wiped with the ring's."""
        return list(self._keys.values())

    def most_bytes(self, n: int) -> int:
        """No region of a plaintext of n bytes is longer."""
        match = self.search.match
        if match is None:
            return self.search.fixed_bytes
        grams = n + 3 if match.ngram else 0
        most = self.search.fixed_bytes + (grams + len(match.prefixes)) * (_TOKEN_CHARACTERS + 1)
        return min(most, MOST_BYTES)

    def region(self, plain: bytes) -> bytes:
        """The token region of a plaintext. TooManyTokens."""
        search = self.search
        parts = []
        if search.transform:
            assert self._text is not None
            parts.append(self.transformed(self._text(plain)))
        if search.buckets or search.order_bits:
            assert self._rank is not None
            rank = self._rank(plain)
            if search.buckets:
                parts.append(self.bucket(search.buckets.number(rank)))
            if search.order_bits:
                parts.append(self.order(rank))
        if search.match:
            assert self._text is not None
            parts.append(b" ".join(self.match_tokens(self._text(plain))))
        region = b"".join(parts)
        if len(region) > MOST_BYTES:
            raise TooManyTokens("too many tokens")
        return region

    # -- transform -------------------------------------------------------------------------------

    def transformed(self, text: str) -> bytes:
        """Tag of the transformed text."""
        return self.already_transformed(TRANSFORMS[self.search.transform].apply(text))

    def already_transformed(self, text: str) -> bytes:
        """Tag of a text that is compared with transformed ones as it is."""
        mac = native.hmac_sha256(self._keys["transform"], text.encode())
        return mac[:TAG_BYTES]

    # -- range -----------------------------------------------------------------------------------

    def bucket(self, number: int) -> bytes:
        """Tag of a bucket."""
        mac = native.hmac_sha256(self._keys["range"], number.to_bytes(8, "big"))
        return mac[:TAG_BYTES]

    # -- order -----------------------------------------------------------------------------------

    def order(self, rank: int) -> bytes:
        """Token of a rank. Ranks below all give the lowest bound, those above all the highest, so
        that for every rank r: rank(v) < r exactly if token(v) < order(r)."""
        bits = self.search.order_bits
        if rank < 0:
            return self._order_id
        if rank >> bits:
            return self.order_end()
        number = rank.to_bytes((bits + 7) // 8, "big")
        return self._order_id + native.order_digits(self._keys["order"], number, bits)

    def order_start(self) -> bytes:
        """Not above any token of this key, and above every one of a key with a lower id."""
        return self._order_id

    def order_end(self) -> bytes:
        """Above every token of this key: no digit is FFFF twice in a row for all bits."""
        return self._order_id + b"\xff\xff" * (self.search.order_bits + 1)

    # -- match -----------------------------------------------------------------------------------

    def match_tokens(self, text: str) -> list[bytes]:
        """All tokens of a stored text, each once, sorted: their order says nothing."""
        match = self.search.match
        assert match is not None
        folded = fold(text)
        found = {"p" + folded[:n] for n in match.prefixes if len(folded) >= n}
        if match.ngram:
            found |= {"g" + g for g in grams(_START + folded + _END, match.ngram)}
        return self._made(found)

    def match_search(self, pieces: Sequence[str]) -> list[bytes]:
        """Tokens that every text carries which consists of `pieces` in this order with anything
        between them. An empty first or last piece: the text may begin or end with anything.
        ValueError when there is none: the pattern is too short."""
        match = self.search.match
        assert match is not None
        folded = [fold(p) for p in pieces]
        found: set[str] = set()
        lengths = [n for n in match.prefixes if len(folded[0]) >= n]
        if lengths:
            found.add("p" + folded[0][: max(lengths)])
        if match.ngram:
            folded[0] = _START + folded[0] if folded[0] else ""
            folded[-1] = folded[-1] + _END if folded[-1] else ""
            for piece in folded:
                found |= {"g" + g for g in grams(piece, match.ngram)}
        if not found:
            raise ValueError("the pattern is too short")
        return self._made(found)

    def _made(self, messages: set[str]) -> list[bytes]:
        encoded = [message.encode() for message in messages]
        macs = native.hmac_tags(self._keys["match"], encoded, _TOKEN_CHARACTERS * 6 // 8)
        text = base64.urlsafe_b64encode(b"".join(macs))  # 6 bytes are 8 characters, none of padding
        return sorted({text[i : i + 8] for i in range(0, len(text), 8)})


def grams(text: str, n: int) -> set[str]:
    """Every run of n characters."""
    return {text[i : i + n] for i in range(len(text) - n + 1)}
