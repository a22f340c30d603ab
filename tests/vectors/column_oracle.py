"""An independent reader and writer of column values, written from docs/reference/format.md.

Uses `cryptography` and the standard library; shares no code with the product. Slow and plain.
"""

import base64
import hmac
import struct
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def labelled(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(f)) + f for f in fields)


def derive(key: bytes, *info: bytes, n: int = 32) -> bytes:
    return HKDF(SHA256(), n, b"sealgate/v1", labelled(*info)).derive(key)


def xaes_message_key(key: bytes, nonce: bytes) -> bytes:
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    subkey = int.from_bytes(block.update(bytes(16)), "big") << 1
    if subkey >> 128:
        subkey ^= (1 << 128) | 0x87
    k1 = (subkey).to_bytes(16, "big")
    inputs = [b"\0" + bytes((i,)) + b"X\0" + nonce[:12] for i in (1, 2)]
    return b"".join(block.update(bytes(a ^ b for a, b in zip(m, k1, strict=True))) for m in inputs)


def xaes_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    return AESGCM(xaes_message_key(key, nonce)).encrypt(nonce[12:], plaintext, aad)


def pad(plain: bytes, unit: int) -> bytes:
    return plain + b"\x80" + bytes(-(len(plain) + 1) % unit)


def column_seal(
    ring: bytes, domain: str, oid: int, plain: bytes, nonce: bytes,
    *, equality: bool, transform: int = 0, canonical: bytes | None = None, unit: int = 0,
    search: dict[str, Any] | None = None, rank: int = 0,
) -> bytes:  # fmt: skip
    name = domain.encode()
    seal = derive(ring, b"column", b"seal", name)
    tag = bytes(16)
    if equality:
        message = struct.pack(">H", transform) + (plain if canonical is None else canonical)
        tag = hmac.digest(derive(ring, b"column", b"equality", name), message, "sha256")[:16]
    flags = (1 if equality else 0) | (2 if unit else 0)
    head = bytes((0xC5, 1, flags | (4 if search else 0))) + tag
    if search:
        head += labelled(token_region(ring, name, plain, rank, search))
    head += derive(seal, b"key-id", n=8)
    aad = head + labelled(name) + struct.pack(">I", oid)
    if search:
        aad += labelled(descriptor(search))
    return head + nonce + xaes_seal(seal, nonce, pad(plain, unit) if unit else plain, aad)


def descriptor(search: dict[str, Any]) -> bytes:
    parts = []
    for name in ("transform", "range", "order", "match"):
        if name in search:
            what = search[name]
            parts.append(f"{name}={','.join(map(str, what)) if isinstance(what, list) else what}")
    return ";".join(parts).encode()


def token_region(
    ring: bytes, name: bytes, plain: bytes, rank: int, search: dict[str, Any]
) -> bytes:
    def mac(purpose: bytes, message: bytes) -> bytes:
        return hmac.digest(derive(ring, b"column", purpose, name), message, "sha256")

    region = b""
    if search.get("transform") == "lower":  # ASCII will do for the vectors
        region += mac(b"transform", plain.lower())[:16]
    if "range" in search:
        low, width, count = search["range"]
        number = 0 if rank < low else min((rank - low) // width, count) + 1
        region += mac(b"range", struct.pack(">Q", number))[:16]
    if "order" in search:
        region += order_token(ring, name, rank, search["order"])
    if "match" in search:
        n, *prefixes = search["match"]
        low_text = plain.decode().lower()
        marked = "\x02" + low_text + "\x03"
        messages = {"p" + low_text[:k] for k in prefixes if len(low_text) >= k}
        if n:
            messages |= {"g" + marked[i : i + n] for i in range(len(marked) - n + 1)}
        tokens = {base64.urlsafe_b64encode(mac(b"match", m.encode())[:6]) for m in messages}
        region += b" ".join(sorted(tokens))
    return region


def order_token(ring: bytes, name: bytes, rank: int, bits: int) -> bytes:
    key = derive(ring, b"column", b"order", name)
    out = derive(key, b"key-id", n=8)
    for i in range(bits):
        before = rank >> (bits - i) << (bits - i)
        message = struct.pack(">H", i) + before.to_bytes((bits + 7) // 8, "big")
        drawn = int.from_bytes(hmac.digest(key, message, "sha256")[:8], "big") % 65535
        out += struct.pack(">H", drawn + (rank >> (bits - 1 - i) & 1))
    return out


def column_open(
    ring: bytes, domain: str, oid: int, value: bytes, described: bytes = b""
) -> bytes | None:
    """The plaintext (no tag is looked at), or None. `described`: the column's token descriptor."""
    name = domain.encode()
    seal = derive(ring, b"column", b"seal", name)
    if len(value) < 67:
        return None
    at = 19
    if value[2] & 4:
        at += 2 + int.from_bytes(value[19:21], "big")
    if value[at : at + 8] != derive(seal, b"key-id", n=8):
        return None
    aad = value[: at + 8] + labelled(name) + struct.pack(">I", oid)
    if value[2] & 4:
        aad += labelled(described)
    nonce = value[at + 8 : at + 32]
    try:
        plain = AESGCM(xaes_message_key(seal, nonce)).decrypt(nonce[12:], value[at + 32 :], aad)
    except InvalidTag:
        return None
    if value[2] & 2:
        plain = plain.rstrip(b"\0")[:-1]
    return plain
