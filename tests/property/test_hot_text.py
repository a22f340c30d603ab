"""Texts that are rendered natively are the codecs' own, byte for byte, or are left to them."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import native
from proxy.postgres.snapshot import DATE, NUMERIC, TIMESTAMP, TIMESTAMPTZ, UUID
from proxy.postgres.types.base import DEFAULT
from proxy.postgres.types.registry import codec_for

_FIRST_YEAR = -730_119  # 0001-01-01 in days since 2000
_DAY = 86_400_000_000
moments = st.one_of(
    st.integers(-211_813_488_000_000_000, 9_223_371_331_199_999_999),
    st.integers(-(10**12), 10**12),
    st.integers(-3000, 4_000_000).map(lambda days: days * _DAY),
)


def agrees(kind: int, oid: int, raw: bytes, must: bool) -> None:
    found = native.hot_text(kind, raw)
    assert found is not None or not must
    assert found in (None, codec_for(oid).render(raw, DEFAULT))


@given(st.binary(min_size=16, max_size=16))
def test_every_uuid(raw: bytes) -> None:
    agrees(native.ROW_UUID, UUID, raw, True)


@given(st.integers(-2_451_545, 2_145_031_948))
def test_dates_from_the_year_one_on(days: int) -> None:
    agrees(native.ROW_DATE, DATE, struct.pack("!i", days), days >= _FIRST_YEAR)


@given(moments)
def test_moments_from_the_year_one_on(micros: int) -> None:
    raw, must = struct.pack("!q", micros), micros >= _FIRST_YEAR * _DAY
    agrees(native.ROW_TIMESTAMP, TIMESTAMP, raw, must)
    agrees(native.ROW_TIMESTAMP_UTC, TIMESTAMPTZ, raw, must)


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 70))
def test_numerics_within_the_bounds(value: object, scale: int) -> None:
    raw = codec_for(NUMERIC).parse(f"{value:.{scale}f}".encode(), DEFAULT, -1)
    agrees(native.ROW_NUMERIC, NUMERIC, raw, len(raw) <= 48 and scale <= 60)


@pytest.mark.parametrize("text", ["0", "0.00", "-0.001", "10000", "1e20", "0.0001", "123456789.12345",
                                  "-99999999", "1e-55", "10001.00010001"])  # fmt: skip
def test_numerics_by_hand(text: str) -> None:
    raw = codec_for(NUMERIC).parse(text.encode(), DEFAULT, -1)
    agrees(native.ROW_NUMERIC, NUMERIC, raw, True)


@pytest.mark.parametrize(
    ("kind", "raw"),
    [
        (native.ROW_DATE, b"\x7f\xff\xff\xff"),
        (native.ROW_DATE, b"\x80\0\0\0"),
        (native.ROW_TIMESTAMP, b"\x7f" + b"\xff" * 7),
        (native.ROW_TIMESTAMP, b"\x80" + bytes(7)),
        (native.ROW_NUMERIC, struct.pack("!HhHH", 0, 0, 0xC000, 0)),
        (native.ROW_NUMERIC, struct.pack("!HhHH", 0, 0, 0xD000, 32)),
        (native.ROW_UUID, b"short"),
        (native.ROW_NUMERIC, b""),
        (native.ROW_NUMERIC, struct.pack("!HhHH", 5, 0, 0, 0)),
    ],
)
def test_what_is_not_rendered_here_is_left_to_python(kind: int, raw: bytes) -> None:
    assert native.hot_text(kind, raw) is None
