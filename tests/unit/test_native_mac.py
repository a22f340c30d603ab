"""HMAC, HKDF and scrypt: published values, and an oracle for what the RFCs do not reach."""

import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from proxy import native

PUBLISHED = json.loads((Path(__file__).parents[1] / "vectors/published.json").read_text())
RAW = bytes(range(32))


def key(raw: bytes = RAW) -> native.KeyHandle:
    return native.key_import(bytearray(raw))


@pytest.mark.parametrize("v", PUBLISHED["hmac"])
def test_rfc_4231(v: dict[str, str]) -> None:
    raw = bytes.fromhex(v["key"])
    mac = native.hmac_sha256(key(raw.ljust(32, b"\0")), bytes.fromhex(v["data"]))
    assert mac.hex() == v["mac"]


def test_hmac_of_every_length_around_the_block() -> None:
    handle = key()
    for n in range(200):
        data = bytes(i & 0xFF for i in range(n))
        assert native.hmac_sha256(handle, data) == hmac.digest(RAW, data, "sha256"), n


def test_rfc_5869_holds_for_the_oracle() -> None:
    v = {k: bytes.fromhex(x) for k, x in PUBLISHED["hkdf"].items()}
    assert HKDF(SHA256(), 42, v["salt"], v["info"]).derive(v["ikm"]) == v["okm"]


@pytest.mark.parametrize("salt", [b"", b"s", b"s" * 64, b"s" * 65])
@pytest.mark.parametrize("n", [1, 8, 32, 33, 64])
def test_hkdf_is_the_oracles(salt: bytes, n: int) -> None:
    info = b"info" * 20
    want = HKDF(SHA256(), n, salt, info).derive(RAW)
    assert native.hkdf_sha256_public(key(), salt, info, n) == want
    if n == 32:
        assert native.hkdf_sha256(key(), salt, info).same(key(want))


@pytest.mark.parametrize("v", PUBLISHED["scrypt"])
def test_rfc_7914(v: dict[str, str | int]) -> None:
    passphrase = bytearray(str(v["passphrase"]).encode())
    made = native.scrypt_key(
        passphrase, str(v["salt"]).encode(), int(v["n"]), int(v["r"]), int(v["p"])
    )
    assert made.same(key(bytes.fromhex(str(v["key"]))))


@pytest.mark.parametrize("bad", [(0, 8, 1), (3, 8, 1), (16, 0, 1), (16, 8, 0), (1 << 24, 8, 1)])
def test_scrypt_parameters_out_of_range(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="scrypt"):
        native.scrypt_key(bytearray(b"x"), b"salt", *bad)
