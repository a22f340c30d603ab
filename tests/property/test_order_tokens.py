"""memcmp of two order tokens is the order of their ranks: exhaustively on small domains, by property on
large ones. Ranks agree with PostgreSQL's order for every type (checked on the server in
tests/system/test_search_on_server.py)."""

import itertools
import math
import struct
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import native
from proxy.crypto.tokens import Search, Tokens
from proxy.errors import ConfigError
from proxy.postgres.ranks import operand_bounds, ranks
from proxy.postgres.types.base import DEFAULT
from proxy.postgres.types.registry import codec_for, resolve

KEY = native.key_import(bytearray(range(32)))


def token(rank: int, bits: int) -> bytes:
    return native.order_digits(KEY, rank.to_bytes((bits + 7) // 8, "big"), bits)


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 8, 9, 12])
def test_every_pair_of_a_small_domain_is_in_order(bits: int) -> None:
    tokens = [token(rank, bits) for rank in range(1 << bits)]
    assert all(len(t) == 2 * bits for t in tokens)
    assert all(a < b for a, b in itertools.pairwise(tokens))


def test_the_order_holds_under_many_keys() -> None:
    for _ in range(200):
        key = native.key_random()
        tokens = [native.order_digits(key, bytes((r,)), 6) for r in range(64)]
        assert all(a < b for a, b in itertools.pairwise(tokens))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([16, 21, 32, 37, 64, 127, 128]).flatmap(
    lambda bits: st.tuples(st.just(bits), st.integers(0, 2**bits - 1), st.integers(0, 2**bits - 1),
                           st.integers(-3, 3))))  # fmt: skip
def test_any_pair_of_a_large_domain_is_in_order(how: tuple[int, int, int, int]) -> None:
    bits, a, b, near = how
    for other in (b, min(max(a + near, 0), 2**bits - 1)):
        one, two = token(a, bits), token(other, bits)
        assert (one > two) - (one < two) == (a > other) - (a < other)


def test_two_tokens_differ_first_where_their_ranks_do_and_by_that_bit() -> None:
    bits = 32
    for a, b in ((0, 1), (5, 4096), (2**31, 2**31 - 1), (7, 2**32 - 1)):
        one, two = (struct.unpack(f"!{bits}H", token(r, bits)) for r in (a, b))
        first = bits - (a ^ b).bit_length()
        assert one[:first] == two[:first]
        assert abs(one[first] - two[first]) == 1


def test_bounds_enclose_all_ranks_of_their_key_alone() -> None:
    made = Tokens(Search(order_bits=8), KEY, "a", int.from_bytes, None)
    other = Tokens(Search(order_bits=8), KEY, "b", int.from_bytes, None)
    every = [made.order(r) for r in range(256)]
    assert made.order_start() < every[0]
    assert every[-1] < made.order_end() == made.order(256)
    assert made.order(-1) == made.order_start()
    foreign = [other.order(r) for r in range(256)]
    assert not any(made.order_start() <= t < made.order_end() for t in foreign)


@pytest.mark.parametrize(
    ("number", "bits"), [(b"\x02", 1), (b"\0\0", 8), (b"", 0), (bytes(17), 129)]
)
def test_a_number_that_does_not_fit_is_refused(number: bytes, bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        native.order_digits(KEY, number, bits)


# -- ranks ----------------------------------------------------------------------------------------

numbers = st.decimals(allow_nan=True, allow_infinity=True, min_value=None, max_value=None)


def key_of(value: Decimal) -> tuple[int, Decimal]:
    """PostgreSQL's order: NaN above all."""
    return (1, Decimal(0)) if value.is_nan() else (0, value)


@settings(max_examples=400, deadline=None)
@given(st.decimals("-9999.99", "9999.99", places=2), numbers | st.decimals(-10100, 10100, places=4))
def test_a_numeric_column_compares_with_any_numeric(stored: Decimal, operand: Decimal) -> None:
    declared = resolve("numeric(6,2)")
    codec = codec_for(declared.oid)
    if operand.is_nan():
        operand = Decimal("nan")
    if operand.is_finite() and abs(operand.adjusted()) > 1000:
        return
    text = str(operand).encode()
    floor, ceil = operand_bounds(declared, text, 0, 0, DEFAULT)
    made = ranks(declared)
    rank = made.of(codec.parse(str(stored).encode(), DEFAULT, declared.typmod))
    assert 0 <= rank < 1 << made.bits
    assert (rank < ceil) == (key_of(stored) < key_of(operand)), "<"
    assert (rank < floor + 1) == (key_of(stored) <= key_of(operand)), "<="


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**15), 2**15 - 1), st.integers(-70000, 70000), st.sampled_from([20, 1700]))
def test_an_integer_column_compares_with_wider_numbers(stored: int, operand: int, oid: int) -> None:
    declared = resolve("smallint")
    rank = ranks(declared).of(struct.pack("!h", stored))
    text = b"%d" % operand
    for raw, fmt in ((text, 0), (codec_for(oid).parse(text, DEFAULT, -1), 1)):
        floor, ceil = operand_bounds(declared, raw, fmt, oid, DEFAULT)
        assert (rank < ceil) == (stored < operand)
        assert (rank < floor + 1) == (stored <= operand)


def test_an_integer_column_compares_with_fractions() -> None:
    declared = resolve("integer")
    assert operand_bounds(declared, b"1.5", 0, 1700, DEFAULT) == (2**31 + 1, 2**31 + 2)
    assert operand_bounds(declared, b"-1.5", 0, 1700, DEFAULT) == (2**31 - 2, 2**31 - 1)


@settings(max_examples=300, deadline=None)
@given(st.floats(), st.floats())
def test_floats_are_ordered_as_the_server_orders_them(a: float, b: float) -> None:
    def order(x: float) -> tuple[bool, float]:
        return (True, 0.0) if math.isnan(x) else (False, x)

    of = ranks(resolve("double precision")).of
    one, two = of(struct.pack("!d", a)), of(struct.pack("!d", b))
    assert (one < two) == (order(a) < order(b))
    assert (one == two) == (order(a) == order(b))


@pytest.mark.parametrize(
    "name", ["text", "real", "numeric", "numeric(39,0)", "uuid", "bytea", "jsonb"]
)
def test_types_without_a_provable_order_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="order"):
        ranks(resolve(name))
