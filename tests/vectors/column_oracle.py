"""An independent reader and writer of column values, written from docs/reference/format.md.

Uses `cryptography` and the standard library; shares no code with the product. Slow and plain.
"""

import hmac
import struct

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
) -> bytes:  # fmt: skip
    name = domain.encode()
    seal = derive(ring, b"column", b"seal", name)
    tag = bytes(16)
    if equality:
        message = struct.pack(">H", transform) + (plain if canonical is None else canonical)
        tag = hmac.digest(derive(ring, b"column", b"equality", name), message, "sha256")[:16]
    flags = (1 if equality else 0) | (2 if unit else 0)
    head = bytes((0xC5, 1, flags)) + tag + derive(seal, b"key-id", n=8)
    aad = head + labelled(name) + struct.pack(">I", oid)
    return head + nonce + xaes_seal(seal, nonce, pad(plain, unit) if unit else plain, aad)


def column_open(ring: bytes, domain: str, oid: int, value: bytes) -> bytes | None:
    """The plaintext (the tag is not looked at), or None."""
    name = domain.encode()
    seal = derive(ring, b"column", b"seal", name)
    if len(value) < 67 or value[19:27] != derive(seal, b"key-id", n=8):
        return None
    aad = value[:27] + labelled(name) + struct.pack(">I", oid)
    nonce = value[27:51]
    try:
        plain = AESGCM(xaes_message_key(seal, nonce)).decrypt(nonce[12:], value[51:], aad)
    except InvalidTag:
        return None
    if value[2] & 2:
        plain = plain.rstrip(b"\0")[:-1]
    return plain
