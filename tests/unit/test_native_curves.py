"""native/curves.pyx against RFC 8032's first vector and `cryptography` as the other side
(whose HPKE has no aad)."""

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from proxy import native

SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
    "d25bf5f0595bbe24655141438e7a100b"
)


def test_ed25519_gives_the_first_vector_of_rfc_8032() -> None:
    seed = native.key_import(bytearray.fromhex(SEED))
    assert native.ed25519_public(seed).hex() == PUBLIC
    assert native.ed25519_sign(seed, b"").hex() == SIGNATURE


def test_signatures_verify_elsewhere() -> None:
    for message in (b"", b"x", bytes(100_000)):
        seed = native.key_random()
        signature = native.ed25519_sign(seed, message)
        public = Ed25519PublicKey.from_public_bytes(native.ed25519_public(seed))
        public.verify(signature, message)


def test_hpke_opens_what_cryptography_sealed() -> None:
    private = native.key_random()
    public = X25519PublicKey.from_public_bytes(native.x25519_public(private))
    secret = bytes(range(32))
    sealed = SUITE.encrypt(secret, public, info=b"info")
    opened = native.hpke_open(private, sealed[:32], b"info", b"", sealed[32:])
    assert opened.same(native.key_import(bytearray(secret)))


def test_cryptography_opens_what_hpke_sealed() -> None:
    private = X25519PrivateKey.generate()
    secret = native.key_import(bytearray(range(32)))
    enc, sealed = native.hpke_seal(private.public_key().public_bytes_raw(), b"i", b"", secret)
    assert SUITE.decrypt(enc + sealed, private, info=b"i") == bytes(range(32))


@pytest.mark.parametrize("part", ["enc", "info", "aad", "sealed", "key", "short", "zero"])
def test_hpke_refuses_anything_else(part: str) -> None:
    private, secret = native.key_random(), native.key_random()
    enc, sealed = native.hpke_seal(native.x25519_public(private), b"info", b"aad", secret)
    given = {"key": private, "enc": enc, "info": b"info", "aad": b"aad", "sealed": sealed}
    if part == "key":
        given["key"] = native.key_random()
    elif part == "short":
        given["sealed"] = sealed[:-1]
    elif part == "zero":
        given["enc"] = bytes(32)  # of small order: the shared secret would be known to all
    else:
        value = given[part]
        given[part] = bytes([value[0] ^ 1]) + value[1:]  # type: ignore[index]
    before = native.arena_report()["used"]
    with pytest.raises(native.OpenFailed):
        native.hpke_open(*(given[n] for n in ("key", "enc", "info", "aad", "sealed")))  # type: ignore[arg-type]
    assert native.arena_report()["used"] == before
