"""inet and cidr: family, bits and address; text as network_in and network_out have it.

Canonical form for the equality tag: family, bits, address; whether it is a cidr does not count.
"""

import re
from ipaddress import AddressValueError, IPv6Address

from proxy import native
from proxy.postgres.types.base import (
    DEFAULT,
    INVALID_BINARY,
    INVALID_TEXT,
    DataError,
    TextContext,
    TypeCodec,
)

INET, CIDR = 869, 650
_V4, _V6 = 2, 3
_FORM4 = re.compile(r"((?:\d+\.)*\d+\.?)(?:/(\d+))?")
_OCTET = re.compile(r"|0|[1-9]\d?|1\d\d|2[0-4]\d|25[0-5]")
_BITS6 = re.compile(r"0|[1-9]\d{0,2}")


class Inet(TypeCodec):
    canonical_kind = native.CANON_CALL

    def __init__(self, oid: int, array_oid: int, name: str) -> None:
        self.oid, self.array_oid, self.typlen, self.name = oid, array_oid, -1, name
        self._cidr = oid == CIDR

    def parse(self, text: bytes, ctx: TextContext, typmod: int) -> bytes:
        try:
            shown = text.decode("ascii")
        except UnicodeDecodeError:
            raise self.bad(text) from None
        found = self._v6(shown) if ":" in shown else self._v4(shown)
        if found is None:
            raise self.bad(text)
        bits, address = found
        if self._cidr and int.from_bytes(address, "big") & ((1 << (len(address) * 8 - bits)) - 1):
            raise DataError(INVALID_TEXT, f'invalid cidr value: "{shown}"')
        family = _V4 if len(address) == 4 else _V6
        return bytes((family, bits, self._cidr, len(address))) + address

    def _v4(self, text: str) -> tuple[int, bytes] | None:
        m = _FORM4.fullmatch(text)
        if m is None:
            return None
        octets = [int(o) for o in m[1].rstrip(".").split(".")]
        if len(octets) > 4 or max(octets) > 255 or len(m[2] or "") > 9:
            return None
        if m[1].endswith(".") and self._cidr:
            return None
        if m[2] is not None:
            bits = int(m[2])
            if bits > 32 or not self._cidr and bits // 8 > len(octets):
                return None
        elif self._cidr:
            bits = _class_bits(octets)
        elif len(octets) == 4:
            bits = 32
        else:
            return None
        return bits, bytes(octets + [0] * (4 - len(octets)))

    def _v6(self, text: str) -> tuple[int, bytes] | None:
        shown, slash, length = text.partition("/")
        if slash and shown[-1:] == ":" and shown[-2:] != "::":
            shown = shown[:-1]  # as inet_cidr_pton_ipv6 has it
        if slash and not _BITS6.fullmatch(length) or "%" in text:
            return None
        bits = int(length) if slash else 128
        head, _, last = shown.rpartition(":")
        if "." in last:
            octets = last.split(".")
            if (
                len(octets) > 4
                or not (octets[-1] or slash)
                or any(_OCTET.fullmatch(o) is None for o in octets)
            ):
                return None
            four = bytes(int(o or 0) for o in octets).ljust(4, b"\0")  # fewer octets are the first
            shown = f"{head}:{four[:2].hex()}:{four[2:].hex()}"
        try:
            return (bits, IPv6Address(shown).packed) if bits <= 128 else None
        except AddressValueError:
            return None

    def render(self, binary: bytes, ctx: TextContext) -> bytes:
        bits, address = binary[1], binary[4:]
        shown = ".".join(map(str, address)) if len(address) == 4 else _shown6(address)
        whole = bits == len(address) * 8 and not self._cidr
        return shown.encode() if whole else f"{shown}/{bits}".encode()

    def check(self, binary: bytes, typmod: int) -> bytes:
        if len(binary) < 4:
            raise DataError("08P01", "insufficient data left in message")
        family, bits, _, count = binary[:4]
        if family not in (_V4, _V6):
            raise self._bad(f'invalid address family in external "{self.name}" value')
        most = 32 if family == _V4 else 128
        if bits > most:
            raise self._bad(f'invalid bits in external "{self.name}" value')
        if count != most // 8:
            raise self._bad(f'invalid length in external "{self.name}" value')
        if len(binary) != 4 + count:
            raise DataError(INVALID_BINARY, "incorrect binary data format in bind parameter")
        address = binary[4:]
        if self._cidr and int.from_bytes(address, "big") & ((1 << (most - bits)) - 1):
            raise self._bad('invalid external "cidr" value')
        return bytes((family, bits, self._cidr, count)) + address

    def _bad(self, message: str) -> DataError:
        return DataError(INVALID_BINARY, message)

    def coerce(
        self, binary: bytes, from_oid: int, typmod: int, ctx: TextContext = DEFAULT
    ) -> bytes:
        if from_oid in (INET, CIDR) and from_oid != self.oid:
            checked = (INET_CODEC if from_oid == INET else CIDR_CODEC).check(binary, -1)
            if self._cidr:  # inet -> cidr clears the bits right of the mask
                most = len(checked[4:]) * 8
                mask = ((1 << checked[1]) - 1) << (most - checked[1])
                kept = int.from_bytes(checked[4:], "big") & mask
                checked = checked[:4] + kept.to_bytes(most // 8, "big")
            return checked[:2] + bytes((self._cidr,)) + checked[3:]
        return super().coerce(binary, from_oid, typmod, ctx)

    def canonical(self, binary: bytes) -> bytes:
        return binary[:2] + binary[4:]


def _class_bits(octets: list[int]) -> int:
    """The mask of an abbreviated cidr, by address class."""
    first = octets[0]
    bits = (
        32
        if first >= 240
        else 8
        if first >= 224
        else 24
        if first >= 192
        else 16
        if first >= 128
        else 8
    )
    bits = max(bits, len(octets) * 8)
    return 4 if bits == 8 and first == 224 else bits


def _shown6(address: bytes) -> str:
    """RFC 5952 with IPv4 in the last 32 bits where inet_net_ntop puts it."""
    words = [int.from_bytes(address[i : i + 2], "big") for i in range(0, 16, 2)]
    best, length = -1, 1
    at = 0
    while at < 8:
        run = at
        while run < 8 and words[run] == 0:
            run += 1
        if run - at > length:
            best, length = at, run - at
        at = max(run, at + 1)
    mapped = best == 0 and (length == 6 or length == 5 and words[5] == 0xFFFF)
    shown = [f"{w:x}" for w in words]
    if mapped:
        shown = [*shown[:6], ".".join(map(str, address[12:]))]
    if best < 0:
        return ":".join(shown)
    left, right = shown[:best], shown[min(best + length, len(shown)) :]
    if mapped and length >= 6:
        right = shown[6:]
    return ":".join(left) + "::" + ":".join(right)


INET_CODEC = Inet(INET, 1041, "inet")
CIDR_CODEC = Inet(CIDR, 651, "cidr")
