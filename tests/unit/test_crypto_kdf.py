"""Every named derivation against an independent HKDF, its label and its length prefixes."""

import pytest

from proxy import native
from proxy.crypto import kdf
from tests.vectors.column_oracle import derive

RAW = bytes(range(32))


def key(raw: bytes = RAW) -> native.KeyHandle:
    return native.key_import(bytearray(raw))


def test_column_keys() -> None:
    for purpose in ("seal", "equality"):
        want = derive(RAW, b"column", purpose.encode(), "größe".encode())
        assert kdf.column_key(key(), "größe", purpose).same(key(want))


def test_identifiers() -> None:
    assert kdf.column_key_id(key()) == derive(RAW, b"key-id", n=8)
    assert kdf.ring_version_id(key()) == derive(RAW, b"ring-id", n=16)


def test_object_wrap_key() -> None:
    salt = bytes(range(16))
    assert kdf.object_wrap_key(key(), salt).same(key(derive(RAW, b"object-wrap", salt)))
    with pytest.raises(ValueError, match="16"):
        kdf.object_wrap_key(key(), b"short")


def test_length_prefixes_keep_fields_apart() -> None:
    assert kdf.prefixed(b"ab", b"c") != kdf.prefixed(b"a", b"bc")
    with pytest.raises(ValueError, match="65535"):
        kdf.prefixed(bytes(65536))


def test_labels_are_distinct() -> None:
    assert len(set(kdf.LABELS.values())) == len(kdf.LABELS)
