"""A value of one type where a column of another stands: what is stored, and what is looked for."""

import struct

import pytest

from proxy.postgres.snapshot import (
    BPCHAR,
    INT4,
    INT8,
    NUMERIC,
    TEXT,
    VARCHAR,
)
from proxy.postgres.types.base import DEFAULT, DataError
from proxy.postgres.types.operands import assigned, compared, type_of_number
from proxy.postgres.types.registry import codec_for, codec_of, longest, resolve

INET = 869


def raw(kind: str, text: str) -> bytes:
    declared = resolve(kind)
    return codec_of(declared).parse(text.encode(), DEFAULT, declared.typmod)


def stored(kind: str, source: str, text: str) -> str:
    """The column's text after storing a value of type `source`."""
    declared, given = resolve(kind), resolve(source)
    value = assigned(codec_of(declared), raw(source, text), given.oid, declared.typmod, DEFAULT)
    return codec_of(declared).render(value, DEFAULT).decode()


def test_an_array_of_a_narrower_type_is_assigned_element_by_element() -> None:
    assert stored("int4[]", "int2[]", "[0:2]={1,NULL,-3}") == "[0:2]={1,NULL,-3}"
    assert stored("varchar(3)[]", "text[]", "{abc}") == "{abc}"
    assert stored("numeric(4,1)[]", "int8[]", "{7}") == "{7.0}"
    for kind, source, text, code in (
        ("varchar(3)[]", "text[]", "{abcd}", "22001"), ("numeric(3,1)[]", "int4[]", "{100}", "22003"),
        ("int4[]", "text[]", "{1}", "42804"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            stored(kind, source, text)
        assert caught.value.sqlstate == code, (kind, source)


def test_arrays_of_two_types_have_no_equality() -> None:
    with pytest.raises(DataError) as caught:
        found("int4[]", "int2[]", "{1}")
    assert caught.value.sqlstate == "42883"


def found(kind: str, source: str, text: str) -> bytes | None:
    declared = resolve(kind)
    return compared(codec_of(declared), raw(source, text), resolve(source).oid, DEFAULT)


@pytest.mark.parametrize(
    ("kind", "source", "text", "shown"),
    [
        ("text", "bool", "t", "true"),
        ("text", "inet", "10.0.0.1", "10.0.0.1/32"),
        ("text", "char(3)", "a", "a"),
        ("varchar(5)", "int4", "12345", "12345"),
        ("numeric", "float8", "33333333333333333333.3", "33333333333333300000"),
        ("numeric", "float4", "1234567.9", "1234570"),
        ("int4", "float8", "2.5", "2"),
        ("int4", "float8", "-3.5", "-4"),
        ("int8", "numeric", "-2.5", "-3"),
        ("float4", "numeric", "0.1", "0.1"),
        ("float4", "int8", "16777217", "1.6777216e+07"),
        ("time", "interval", "-1 hour", "23:00:00"),
        ("interval", "time", "01:00", "01:00:00"),
        ("date", "timestamp", "2026-11-24 23:59", "2026-11-24"),
        ("cidr", "inet", "10.1.2.3/8", "10.0.0.0/8"),
        ("json", "jsonb", '{"a" : 1}', '{"a": 1}'),
        ("jsonb", "json", '{"a" : 1}', '{"a": 1}'),
    ],
)  # fmt: skip
def test_assignment_casts_are_the_servers(kind: str, source: str, text: str, shown: str) -> None:
    assert stored(kind, source, text) == shown


@pytest.mark.parametrize(
    ("kind", "source", "text", "state"),
    [
        ("date", "text", "2026-11-24", "42804"),
        ("bool", "int4", "1", "42804"),
        ("varchar(5)", "int4", "123456", "22001"),
        ("int8", "numeric", "NaN", "0A000"),
        ("int8", "float8", "NaN", "22003"),
        ("float4", "float8", "1e300", "22003"),
        ("float4", "float8", "1e-300", "22003"),
        ("int4[]", "int8[]", "{1}", "42804"),
    ],
)
def test_what_has_no_assignment_cast_is_refused(
    kind: str, source: str, text: str, state: str
) -> None:
    with pytest.raises(DataError) as refused:
        stored(kind, source, text)
    assert refused.value.sqlstate == state


def test_integers_of_every_width_are_compared_by_value() -> None:
    assert found("int2", "int8", "3000000000") == struct.pack("!q", 3_000_000_000)
    assert found("int4", "numeric", "7.00") == struct.pack("!q", 7)
    assert found("int4", "float8", "7") == struct.pack("!q", 7)
    for source, text in (
        ("numeric", "1.5"),
        ("numeric", "NaN"),
        ("numeric", "1e40"),
        ("float8", "0.5"),
    ):
        assert found("int8", source, text) is None
    with pytest.raises(DataError):  # beyond 2**53 several integers are one double
        found("int8", "float8", "1e17")


def test_a_real_equals_a_double_only_where_it_is_one() -> None:
    assert found("float4", "float8", "0.1") is None
    assert found("float4", "float8", "0.5") == struct.pack("!f", 0.5)
    assert found("float4", "float8", "1e300") is None
    assert found("float8", "float4", "0.1") == struct.pack(
        "!d", struct.unpack("!f", raw("float4", "0.1"))[0]
    )
    assert found("float8", "int4", "3") == struct.pack("!d", 3.0)


def test_blanks_at_the_end_count_as_the_operator_has_it() -> None:
    char = codec_for(BPCHAR)
    assert compared(char, b"a ", 0, DEFAULT) == b"a "  # both sides become char(n)
    assert compared(char, b"a ", VARCHAR, DEFAULT) == b"a "
    assert compared(char, b"a ", TEXT, DEFAULT) is None  # both sides become text
    assert compared(char, b"a", TEXT, DEFAULT) == b"a"
    assert compared(codec_for(TEXT), b"a ", BPCHAR, DEFAULT) == b"a"


def test_an_address_is_compared_with_its_host_bits() -> None:
    looked_for = found("cidr", "inet", "10.1.2.3/8")
    assert looked_for is not None
    cidr = codec_of(resolve("cidr"))
    assert cidr.canonical(looked_for) != cidr.canonical(raw("cidr", "10.0.0.0/8"))
    same = found("inet", "cidr", "10.0.0.0/8")
    assert same is not None
    assert codec_for(INET).canonical(same) == codec_for(INET).canonical(raw("inet", "10.0.0.0/8"))


@pytest.mark.parametrize(
    ("kind", "source", "text", "state"),
    [
        ("text", "int4", "1", "42883"),
        ("date", "timestamp", "2026-11-24", "0A000"),
        ("timestamp", "timestamptz", "2026-11-24", "0A000"),
        ("time", "timetz", "12:00+00", "0A000"),
        ("numeric", "float8", "1", "0A000"),
        ("uuid", "text", "x", "42883"),
    ],
)
def test_what_a_tag_cannot_compare_is_refused(
    kind: str, source: str, text: str, state: str
) -> None:
    with pytest.raises(DataError) as refused:
        found(kind, source, text)
    assert refused.value.sqlstate == state


def test_digits_decide_the_type_of_a_bare_number() -> None:
    assert [type_of_number(t) for t in (b"5", b"-2147483648", b"3000000000", b"1.0", b"9" * 19)] == [
        INT4, INT8, INT8, NUMERIC, NUMERIC,
    ]  # fmt: skip


def test_equal_intervals_and_arrays_have_one_canonical_form() -> None:
    interval = codec_of(resolve("interval"))
    forms = {interval.canonical(raw("interval", t)) for t in ("1 mon", "30 days", "720:00:00")}
    assert len(forms) == 1
    array = codec_of(resolve("numeric[]"))
    one, two = (array.canonical(raw("numeric[]", t)) for t in ("{1,NULL}", "{1.00,NULL}"))
    assert one == two
    other = array.canonical(raw("numeric[]", "[0:1]={1,NULL}"))
    assert one != other, "the server compares the bounds, too"


def test_an_enum_has_its_labels_and_no_others() -> None:
    declared = resolve("enum mood ('sad', 'it''s')")
    codec = codec_of(declared)
    assert declared.labels == ("sad", "it's")
    assert codec.parse(b"it's", DEFAULT, -1) == b"it's"
    with pytest.raises(DataError, match='invalid input value for enum mood: "SAD"'):
        codec.parse(b"SAD", DEFAULT, -1)


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("varchar(10)", 40), ("char(3)", 12), ("numeric(12,2)", 16), ("numeric(3,-2)", 12),
        ("numeric(2,5)", 12), ("inet", 20), ("enum m ('a', 'long')", 4), ("uuid", 16),
        ("text", None), ("numeric", None), ("varchar(3)[]", None), ("jsonb", None),
    ],
)  # fmt: skip
def test_the_longest_value_of_a_type_is_known(kind: str, most: int | None) -> None:
    assert longest(resolve(kind)) == most


@pytest.mark.parametrize(
    "kind", ["numeric(12,2)", "numeric(3,-2)", "numeric(2,5)", "numeric(38,19)"]
)
def test_no_numeric_is_longer_than_the_longest(kind: str) -> None:
    most = longest(resolve(kind))
    precision, scale = (int(n) for n in kind[8:-1].split(","))
    digits = "9" * precision
    for text in (f"{digits}e{-scale}", f"-{digits}e{-scale}", f"1e{-scale}"):
        assert most is not None and len(raw(kind, text)) <= most
