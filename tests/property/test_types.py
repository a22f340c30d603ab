"""For every type: what is shown reads back as the same value, and no input raises but DataError."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.postgres.snapshot import (
    BYTEA,
    DATE,
    FLOAT4,
    FLOAT8,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    UUID,
)
from proxy.postgres.types.array import write_binary_array
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_for, codec_of, resolve

STYLES = ["ISO, MDY", "ISO, YMD", "SQL, MDY", "SQL, DMY", "German, DMY", "Postgres, MDY"]
KINDS = ["text", "varchar(3)", "char(3)", "int2", "int8", "float4", "float8", "numeric",
         "numeric(5,2)", "bool", "date", "time", "timestamp", "timestamptz", "uuid", "bytea",
         "json", "jsonb", "bpchar", "timetz", "interval", "interval(2)", "inet", "cidr", "text[]",
         "numeric(5,2)[]", "interval[]", "enum mood ('sad', 'ok')"]  # fmt: skip
CTX = TextContext()


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_come_back(value: int) -> None:
    raw = struct.pack("!q", value)
    assert codec_for(INT8).parse(codec_for(INT8).render(raw, CTX), CTX, -1) == raw


@given(st.decimals(allow_nan=False, allow_infinity=False, places=7))
def test_numerics_come_back_with_their_scale(value: object) -> None:
    codec = codec_for(NUMERIC)
    raw = codec.parse(f"{value:f}".encode(), CTX, -1)
    assert codec.parse(codec.render(raw, CTX), CTX, -1) == raw
    assert codec.check(raw, -1) == raw


@given(st.floats(allow_nan=False))
def test_doubles_come_back(value: float) -> None:
    raw = struct.pack("!d", value)
    assert codec_for(FLOAT8).parse(codec_for(FLOAT8).render(raw, CTX), CTX, -1) == raw


@given(st.floats(allow_nan=False, width=32))
def test_reals_come_back(value: float) -> None:
    raw = struct.pack("!f", value)
    assert codec_for(FLOAT4).parse(codec_for(FLOAT4).render(raw, CTX), CTX, -1) == raw


@given(st.integers(-730_000, 100_000_000), st.sampled_from(STYLES))
def test_dates_come_back_in_every_style(days: int, style: str) -> None:
    ctx, raw = TextContext(date_style=style), struct.pack("!i", days)
    assert codec_for(DATE).parse(codec_for(DATE).render(raw, ctx), ctx, -1) == raw


@given(st.integers(-63_000_000_000_000_000, 9_000_000_000_000_000_000), st.sampled_from(STYLES[:5]))
def test_timestamps_come_back(micros: int, style: str) -> None:
    ctx, raw = TextContext(date_style=style), struct.pack("!q", micros)
    assert codec_for(TIMESTAMP).parse(codec_for(TIMESTAMP).render(raw, ctx), ctx, -1) == raw


@given(
    st.integers(-(2**63) + 1, 2**63 - 1), st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-(2**31) + 12, 2**31 - 13),
    st.sampled_from(["postgres", "postgres_verbose", "sql_standard", "iso_8601"]),
)  # fmt: skip
def test_intervals_come_back(micros: int, days: int, months: int, style: str) -> None:
    ctx, raw = TextContext(interval_style=style), struct.pack("!qii", micros, days, months)
    codec = codec_of(resolve("interval"))
    assert codec.parse(codec.render(raw, ctx), ctx, -1) == raw


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_addresses_come_back(address: IPv4Address | IPv6Address, bits: int) -> None:
    codec = codec_of(resolve("inet"))
    raw = codec.parse(f"{address}/{min(bits, address.max_prefixlen)}".encode(), CTX, -1)
    assert codec.parse(codec.render(raw, CTX), CTX, -1) == raw == codec.check(raw, -1)


@given(
    st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
)
def test_arrays_come_back(items: list[str | None]) -> None:
    codec = codec_of(resolve("text[]"))
    raw = write_binary_array([None if i is None else i.encode() for i in items], TEXT)
    assert codec.parse(codec.render(raw, CTX), CTX, -1) == raw == codec.check(raw, -1)


@given(st.binary(max_size=64), st.sampled_from(["hex", "escape"]))
def test_bytes_come_back(raw: bytes, output: str) -> None:
    ctx = TextContext(bytea_output=output)
    assert codec_for(BYTEA).parse(codec_for(BYTEA).render(raw, ctx), ctx, -1) == raw


@given(st.binary(min_size=16, max_size=16))
def test_uuids_come_back(raw: bytes) -> None:
    assert codec_for(UUID).parse(codec_for(UUID).render(raw, CTX), CTX, -1) == raw


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.one_of(
    st.binary(max_size=40),
    st.text(alphabet="0123456789 -+:./eETBCxinfan_{}[]\",\\", max_size=30).map(str.encode),
))  # fmt: skip
def test_no_input_raises_anything_but_a_data_error(kind: str, text: bytes) -> None:
    declared = resolve(kind)
    codec = codec_of(declared)
    try:
        raw = codec.parse(text, CTX, declared.typmod)
    except DataError:
        return
    assert codec.check(raw, declared.typmod) == raw
    codec.render(raw, CTX)
    codec.canonical(raw)
