"""AES-256-GCM and XAES-256-GCM: published vectors on every engine, engines interchangeable."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest

from proxy import native
from tests.vectors import column_oracle

PUBLISHED = json.loads((Path(__file__).parents[1] / "vectors/published.json").read_text())


@pytest.fixture(params=native.engines())
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    native.use_engine(request.param)
    yield request.param
    native.use_engine(native.engines()[0])


def nist(name: str) -> list[dict[str, bytes | None]]:
    """Cases of a CAVP file with 96-bit IV and 128-bit tag; PT is None where it must fail."""
    cases: list[dict[str, bytes | None]] = []
    section: dict[str, str] = {}
    case: dict[str, bytes | None] = {}
    with cryptography_vectors.open_vector_file(f"ciphers/AES/GCM/{name}", "r") as file:
        for line in file:
            line = line.strip()
            if line.startswith("["):
                key, _, value = line.strip("[]").partition(" = ")
                section[key] = value
            elif line == "FAIL":
                case["PT"] = None
            elif " =" in line:
                key, _, value = line.partition(" =")
                if key == "Count":
                    case = {}
                    if section["IVlen"] == "96" and section["Taglen"] == "128":
                        cases.append(case)
                else:
                    case[key] = bytes.fromhex(value.strip())
    return cases


def test_nist_vectors_of_sealing(engine: str) -> None:
    cases = nist("gcmEncryptExtIV256.rsp")
    assert len(cases) > 300
    for c in cases:
        key = native.key_import(bytearray(c["Key"] or b""))
        sealed = native.gcm_seal(key, c["IV"] or b"", c["PT"] or b"", c["AAD"] or b"")
        assert sealed == (c["CT"] or b"") + (c["Tag"] or b"")


def test_nist_vectors_of_opening_with_their_failures(engine: str) -> None:
    failed = 0
    for c in nist("gcmDecrypt256.rsp"):
        key = native.key_import(bytearray(c["Key"] or b""))
        sealed = (c["CT"] or b"") + (c["Tag"] or b"")
        if c["PT"] is None:
            failed += 1
            with pytest.raises(native.OpenFailed):
                native.gcm_open(key, c["IV"] or b"", sealed, c["AAD"] or b"")
        else:
            assert native.gcm_open(key, c["IV"] or b"", sealed, c["AAD"] or b"") == c["PT"]
    assert failed > 100


@pytest.mark.parametrize("v", PUBLISHED["xaes"])
def test_published_xaes_vectors(engine: str, v: dict[str, str]) -> None:
    raw, nonce, plain, aad, sealed = (
        bytes.fromhex(v[k]) for k in ("key", "nonce", "plaintext", "aad", "sealed")
    )
    key = native.key_import(bytearray(raw))
    assert column_oracle.xaes_seal(raw, nonce, plain, aad) == sealed
    assert native.xaes_seal(key, nonce, plain, aad) == sealed
    assert native.xaes_open(key, nonce, sealed, aad) == plain


def test_accumulated_xaes_vector(engine: str) -> None:
    stream, at = hashlib.shake_128().digest(6_000_000), 0
    found = hashlib.shake_128()

    def read(n: int) -> bytes:
        nonlocal at
        at += n
        return stream[at - n : at]

    for _ in range(10_000):
        key, nonce = native.key_import(bytearray(read(32))), read(24)
        plain = read(read(1)[0])
        aad = read(read(1)[0])
        sealed = native.xaes_seal(key, nonce, plain, aad)
        assert native.xaes_open(key, nonce, sealed, aad) == plain
        found.update(sealed)
    assert found.hexdigest(32) == PUBLISHED["xaes_accumulated_10000"]


@pytest.mark.skipif(len(native.engines()) < 2, reason="ipsec-mb is not installed")
def test_engines_open_what_the_other_sealed() -> None:
    key = native.key_random()
    for n in [*range(70), 255, 256, 257, 1000, 16384, 70001]:
        plain, nonce, aad = os.urandom(n), os.urandom(24), os.urandom(n % 50)
        made = []
        for name in native.engines():
            native.use_engine(name)
            made.append(native.xaes_seal(key, nonce, plain, aad))
        assert made[0] == made[1]
        for name in native.engines():
            native.use_engine(name)
            assert native.xaes_open(key, nonce, made[0], aad) == plain
    native.use_engine(native.engines()[0])


@pytest.mark.parametrize("at", [0, 15, 16, 31])
def test_one_flipped_bit_does_not_open(engine: str, at: int) -> None:
    key, nonce = native.key_random(), bytes(12)
    sealed = bytearray(native.gcm_seal(key, nonce, bytes(16), b"aad"))
    sealed[at] ^= 1
    with pytest.raises(native.OpenFailed):
        native.gcm_open(key, nonce, bytes(sealed), b"aad")


def test_a_key_travels_wrapped(engine: str) -> None:
    kek, key, nonce = native.key_random(), native.key_random(), native.random_bytes(12)
    wrapped = native.wrap_key(kek, key, nonce, b"ring")
    assert len(wrapped) == 48
    assert native.unwrap_key(kek, nonce, wrapped, b"ring").same(key)
    used = native.arena_report()["used"]
    for bad in (wrapped[:-1], wrapped[:-1] + bytes((wrapped[-1] ^ 1,))):
        with pytest.raises(native.OpenFailed):
            native.unwrap_key(kek, nonce, bad, b"ring")
    assert native.arena_report()["used"] == used, "a failed unwrap leaves a slot behind"


def test_unknown_engine_and_wrong_nonce_are_refused() -> None:
    with pytest.raises(native.NativeError):
        native.use_engine("none")
    with pytest.raises(ValueError, match="12"):
        native.gcm_seal(native.key_random(), bytes(11), b"", b"")
    with pytest.raises(ValueError, match="24"):
        native.xaes_seal(native.key_random(), bytes(12), b"", b"")
