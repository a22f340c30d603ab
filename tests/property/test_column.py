"""Any plaintext, padding and search mode: opens to itself, and the oracle agrees."""

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.crypto.column import Canonical, column_codec
from tests.vectors.column_oracle import column_open, column_seal

RING = bytes(range(32))


def codec(domain: str, oid: int, equality: bool, pad_to: int) -> native.ColumnCodec:
    ring = native.key_import(bytearray(RING))
    return column_codec([(ring, True)], domain, oid, equality, 7, pad_to, Canonical(), index=ring)


values = st.binary(max_size=300)
settings_of_columns = st.tuples(
    st.text(min_size=1, max_size=60), st.integers(0, 2**32 - 1), st.booleans(),
    st.sampled_from([0, 1, 2, 16, 64]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(values, settings_of_columns, st.binary(min_size=24, max_size=24))
def test_ours_and_the_oracle_read_each_other(
    plain: bytes, how: tuple[str, int, bool, int], nonce: bytes
) -> None:
    domain, oid, equality, unit = how
    made = codec(*how)
    sealed = made.seal(plain)
    assert column_open(RING, domain, oid, sealed) == plain
    assert made.open(sealed) == plain
    assert not unit or (len(sealed) - 67) % unit == 0
    theirs = column_seal(RING, domain, oid, plain, nonce, equality=equality, transform=7, unit=unit)
    assert made.open(theirs) == plain
    assert theirs[:27] == sealed[:27]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_open(junk: bytes) -> None:
    made = codec("app.t.c", 25, False, 0)
    for value in (junk, b"\xc5\x01\x00" + junk, made.seal(b"x")[:51] + junk):
        try:
            made.open(value)
        except native.OpenFailed:
            continue
        raise AssertionError(f"opened: {value.hex()}")
