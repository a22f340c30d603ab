"""Text input, coercion and resolution that need no server: limits, settings, and what is refused."""

import struct

import pytest

from proxy.errors import ConfigError
from proxy.postgres.snapshot import (
    DATE,
    FLOAT8,
    INT2,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
)
from proxy.postgres.types.array import binary_array_elements, parse_array
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.types.registry import codec_for, resolve

ISO = TextContext()


def parse(kind: str, text: str, ctx: TextContext = ISO) -> bytes:
    declared = resolve(kind)
    return codec_for(declared.oid).parse(text.encode(), ctx, declared.typmod)


def state(kind: str, text: str, ctx: TextContext = ISO) -> str:
    with pytest.raises(DataError) as refused:
        parse(kind, text, ctx)
    return refused.value.sqlstate


@pytest.mark.parametrize(
    ("text", "typmod", "typlen", "name"),
    [
        ("varchar(50)", 54, -1, "character varying(50)"),
        ("numeric(12,2)", ((12 << 16) | 2) + 4, -1, "numeric(12,2)"),
        ("int4", -1, 4, "integer"),
        ("text", -1, -1, "text"),
        ("char", 5, -1, "character(1)"),
        ("timestamp(3) with time zone", 3, 8, "timestamp(3) with time zone"),
    ],
)
def test_resolve_says_what_row_description_would(
    text: str, typmod: int, typlen: int, name: str
) -> None:
    declared = resolve(text)
    assert (declared.typmod, declared.typlen, declared.name) == (typmod, typlen, name)


@pytest.mark.parametrize(
    "text",
    [
        "money",
        "varchar(0)",
        "numeric(1001)",
        "int4(3)",
        "int4[][]",
        "interval day to second",
        "xml",
        "",
    ],
)
def test_resolve_refuses_with_the_list_of_types(text: str) -> None:
    with pytest.raises(ConfigError):
        resolve(text)


@pytest.mark.parametrize(
    ("kind", "text", "sqlstate"),
    [
        ("int8", "9" * 5000, "22003"),
        ("numeric(5,2)", "1e200000", "22003"),
        ("numeric", "1e" + "9" * 5000, "22003"),
        ("numeric", "0x" + "f" * 5000, "22003"),
        ("jsonb", "1e999999999", "22003"),
        ("jsonb", "1e" + "9" * 5000, "22003"),
        ("jsonb", "[" * 100_000, "22P02"),
        ("float8", "1e-400", "22003"),
        ("date", "now", "0A000"),
        ("timestamptz", "tomorrow", "0A000"),
        ("timestamptz", "2026-01-01 00:00+16", "22009"),
        ("timestamp", "2026-01-01 00:00 No/Where", "22023"),
        ("bytea", "\\xd ead", "22023"),
        ("text", "a\0b", "22021"),
    ],
)
def test_hostile_values_are_refused_at_once(kind: str, text: str, sqlstate: str) -> None:
    assert state(kind, text) == sqlstate


def test_long_zeros_are_still_a_number() -> None:
    assert parse("int4", "-" + "0" * 5000 + "7") == struct.pack("!i", -7)


def test_order_of_date_style_holds_for_every_separator() -> None:
    august, january = parse("date", "1999-08-01"), parse("date", "1999-01-08")
    for mark in "/.-":
        text = f"8{mark}1{mark}1999"
        assert parse("date", text) == august
        assert parse("date", text, TextContext(date_style="SQL, DMY")) == january
        assert state("date", text, TextContext(date_style="ISO, YMD")) == "22008"


def test_zone_rules_repeat_beyond_the_year_9999() -> None:
    ctx = TextContext(time_zone="Europe/Warsaw")
    codec = codec_for(TIMESTAMPTZ)
    value = codec.parse(b"15000-07-01 12:00", ctx, -1)
    assert codec.render(value, ctx) == b"15000-07-01 12:00:00+02"


def test_coerce_follows_assignment_casts() -> None:
    whole = codec_for(INT8).coerce(struct.pack("!h", -5), INT2, -1)
    assert whole == struct.pack("!q", -5)
    with pytest.raises(DataError, match="out of range") as refused:
        codec_for(INT2).coerce(struct.pack("!i", 70000), INT4, -1)
    assert refused.value.sqlstate == "22003"
    forty_digits = codec_for(NUMERIC).parse(b"9" * 40, ISO, -1)
    with pytest.raises(DataError) as refused:
        codec_for(INT8).coerce(forty_digits, NUMERIC, -1)
    assert refused.value.sqlstate == "22003"
    fine = codec_for(NUMERIC).parse(b"1." + b"5" * 60, ISO, -1)
    assert codec_for(INT8).coerce(fine, NUMERIC, -1) == struct.pack("!q", 2)
    with pytest.raises(DataError) as refused:
        codec_for(NUMERIC).coerce(b"123", INT4, -1)
    assert refused.value.sqlstate == "08P01"  # the server: insufficient data left in message
    assert codec_for(NUMERIC).coerce(struct.pack("!d", 0.1), FLOAT8, -1) == parse("numeric", "0.1")
    with pytest.raises(DataError) as refused:
        codec_for(NUMERIC).coerce(b"1", TEXT, -1)
    assert refused.value.sqlstate == "42804"


def test_coerce_between_times_uses_the_sessions_zone() -> None:
    warsaw = TextContext(time_zone="Europe/Warsaw", date_style="SQL, DMY")
    zoned, local, date = codec_for(TIMESTAMPTZ), codec_for(TIMESTAMP), codec_for(DATE)
    there = local.parse(b"2026-07-01 12:00", ISO, -1)
    moment = zoned.coerce(there, TIMESTAMP, -1, warsaw)
    assert zoned.render(moment, ISO) == b"2026-07-01 10:00:00+00"
    assert local.coerce(moment, TIMESTAMPTZ, -1, warsaw) == there
    day = date.parse(b"08/01/1999", warsaw, -1)
    assert date.render(day, ISO) == b"1999-01-08"
    assert local.render(local.coerce(day, DATE, -1), ISO) == b"1999-01-08 00:00:00"
    assert local.coerce(date.parse(b"infinity", ISO, -1), DATE, -1) == b"\x7f" + b"\xff" * 7


def test_canonical_forms_follow_the_servers_equality() -> None:
    numeric, double = codec_for(NUMERIC), codec_for(FLOAT8)
    assert len({numeric.canonical(parse("numeric", t)) for t in ("100", "100.00", "1e2")}) == 1
    assert numeric.canonical(parse("numeric", "-0.00")) == b"0"
    assert double.canonical(parse("float8", "-0")) == double.canonical(parse("float8", "0"))
    char = resolve("char(4)")
    assert codec_for(char.oid).canonical(parse("char(4)", "ab")) == b"ab"


def test_arrays_are_split_in_both_formats() -> None:
    codec = codec_for(TEXT)
    items = parse_array(b'{a,"b \\"c",NULL,"NULL", d e }', codec, ISO, -1)
    assert items == [b"a", b'b "c', None, b"NULL", b"d e"]
    raw = struct.pack("!iiIii", 1, 1, TEXT, 2, 1) + struct.pack("!i", 1) + b"x"
    assert binary_array_elements(raw + struct.pack("!i", -1)) == [b"x", None]
    for wrong in (b"{a", b"{a,}", b"{,}", b"a", b'{"a}'):
        with pytest.raises(DataError):
            parse_array(wrong, codec, ISO, -1)
