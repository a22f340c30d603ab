"""Values of every type that can be protected, with the spellings that are equal, odd or wrong."""

from collections.abc import Mapping, Sequence

from proxy.errors import ConfigError
from proxy.postgres.types.registry import resolve

# Spellings that compare equal stand together, so that searches by another spelling find something.
GOOD: Mapping[str, Sequence[str]] = {
    "text": ["", "a", "A", "it's", "łódź", "łódź ", "back\\slash", "%_", "NULL", "two\nlines"],
    "varchar(12)": ["", "a", "A", "it's", "łódź", "abcdefghijkl", "a ", "\\N", '{"x"}'],
    "char(6)": ["", "a", "a ", "abcdef", "łódź", "ab  ", "ab", "it's"],
    "smallint": ["0", "1", "-1", "32767", "-32768", "+1", "007"],
    "integer": ["0", "1", "-1", "2147483647", "-2147483648", " 42 ", "42"],
    "bigint": ["0", "1", "-1", "9223372036854775807", "-9223372036854775808", "42"],
    "real": ["0", "-0", "1.5", "0.1", "NaN", "Infinity", "-Infinity", "1e10", "1e-5", "16777217"],
    "double precision": ["0", "-0", "1.5", "0.1", "NaN", "Infinity", "1e15", "1e-5", "1e300"],
    "numeric": ["0", "0.00", "1", "1.0", "1.50", "-1.5", "NaN", "Infinity", "1e10", "0.00001"],
    "numeric(10,2)": ["0", "1", "1.00", "1.005", "-3.1", "99999999.99", "NaN", "1e3"],
    "boolean": ["t", "f", "true", "no", "1", "off"],
    "date": ["2026-11-24", "2000-02-29", "0044-03-15 BC", "infinity", "-infinity", "epoch",
             "20261124", "Jan 8, 1999", "1999-01-08"],
    "time": ["00:00", "12:34:56.789", "24:00", "04:05 PM", "16:05", "23:59:59.999999"],
    "timestamp": ["2026-11-24 02:15:52.123456", "infinity", "1999-01-08", "0044-03-15 12:00 BC",
                  "1999-01-08 00:00", "2026-03-29 02:30"],
    "timestamp(3)": ["2026-11-24 02:15:52.123456", "2026-11-24 02:15:52.123", "infinity"],
    "timestamp with time zone": ["2026-11-24 02:15:52+00", "2026-11-24 03:15:52+01", "infinity",
                                 "2026-03-29 02:30", "2026-07-01 12:00 Asia/Tokyo", "1900-01-01"],
    "time with time zone": ["12:00+00", "13:00+01", "00:00", "23:59:59.5-03:30"],
    "interval": ["1 day", "24 hours", "1 mon", "30 days", "-1 year 2 mons", "00:00:01.5", "0", "P1DT2H"],
    "uuid": ["6d1cbb41-2f1c-4f7e-9a4b-3b0d3e6b8f11", "6D1CBB412F1C4F7E9A4B3B0D3E6B8F11",
             "00000000-0000-0000-0000-000000000000"],
    "bytea": ["\\x", "\\x00ff41", "\\x00FF41", "plain", "a\\\\b", "\\000\\377A"],
    "json": ['{"b": 1,  "a": [1, 2.50, null]}', '"x"', "1e2", "null"],
    "jsonb": ['{"bb": 1, "a": [1, 2.50, null]}', '{"a": [1, 2.50, null], "bb": 1}', "1.0", "1", "[]"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1", "10.0.0.1/32", "fe80::1/64"],
    "text[]": ["{}", "{a,b}", '{"a","b"}', '{NULL,"NULL",""}', '{"a\\"b",łódź}', "{a,a}"],
    "integer[]": ["{}", "{1,2}", "{ 1 , 2 }", "{NULL,-1}", "{2147483647}"],
}  # fmt: skip

BAD: Mapping[str, Sequence[str]] = {
    "varchar(12)": ["abcdefghijklm"],
    "char(6)": ["abcdefg"],
    "smallint": ["32768", "x", "", "1.5"],
    "integer": ["2147483648", "x", "1e3"],
    "bigint": ["9223372036854775808", "-"],
    "real": ["1e39", "x"],
    "double precision": ["1e309", ""],
    "numeric": ["1.2.3", "x"],
    "numeric(10,2)": ["100000000", "Infinity", ""],
    "boolean": ["", "maybe"],
    "date": ["2026-02-30", "no day", ""],
    "time": ["25:00", "x"],
    "timestamp": ["2026-02-30 00:00", "x"],
    "timestamp with time zone": ["2026-11-24 02:15 Nowhere/City", "x"],
    "time with time zone": ["25:00+00", "x"],
    "interval": ["1 parsec", ""],
    "uuid": ["zz", ""],
    "bytea": ["\\x4", "\\xzz", "\\9"],
    "json": ["{", "NaN"],
    "jsonb": ["{", '"\\u0000"'],
    "inet": ["300.1.1.1", ""],
    "text[]": ["{", "{a}}", "x"],
    "integer[]": ["{x}", "{1"],
}

# What a text that is not valid in a cast could be cut to: an explicit cast to these shortens.
CUTTING = ("varchar(12)", "char(6)", "numeric(10,2)", "timestamp(3)")
NUMBERS = ("smallint", "integer", "bigint", "numeric", "numeric(10,2)", "double precision")
WITHOUT_EQUALITY = ("json",)
FEW_VALUES = ("boolean",)
ARRAYS_OF: Mapping[str, str] = {"varchar(12)": "varchar", "char(6)": "char", "numeric(10,2)": "numeric",
                                "timestamp(3)": "timestamp"}  # fmt: skip


def _known(name: str) -> bool:
    try:
        resolve(name)
    except ConfigError:
        return False
    return True


def supported() -> list[str]:
    """Types of this table that the product protects today."""
    return [name for name in GOOD if _known(name)]


def array_literal(values: Sequence[str | None]) -> str:
    """Text of a one-dimensional array."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
