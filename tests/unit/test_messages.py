"""Message payloads (PostgreSQL documentation, "Message Formats")."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.postgres.messages import (
    Bind,
    Field,
    Malformed,
    Parse,
    error_fields,
    error_response,
    first_value,
    kind_and_name,
    read_parameter_description,
    read_row_description,
    row_description,
)
from proxy.postgres.settings import parse_search_path

NAME = st.binary(max_size=8).map(lambda b: b.replace(b"\0", b""))
INT16 = st.integers(-(2**15), 2**15 - 1)


@given(NAME, NAME, st.lists(st.integers(0, 2**32 - 1), max_size=5))
def test_parse_reads_back_what_it_writes(name: bytes, sql: bytes, oids: list[int]):
    message = Parse(name, sql, tuple(oids))
    assert Parse.read(message.message()[5:]) == message


@given(
    NAME,
    NAME,
    st.lists(INT16, max_size=3),
    st.lists(st.none() | st.binary(max_size=9), max_size=4),
    st.lists(INT16, max_size=3),
)
def test_bind_reads_back_what_it_writes(portal, name, formats, values, results):
    message = Bind(portal, name, tuple(formats), tuple(values), tuple(results))
    assert Bind.read(message.message()[5:]) == message


@given(st.binary(max_size=64))
def test_any_payload_is_read_or_malformed(payload: bytes):
    readers = (
        Parse.read, Bind.read, read_row_description, read_parameter_description, first_value,
        kind_and_name, error_fields,
    )  # fmt: skip
    for reader in readers:
        try:
            reader(payload)
        except (Malformed, IndexError) as error:
            assert not isinstance(error, IndexError) or not payload


def test_row_description_keeps_every_field():
    fields = [Field(b"id", 16384, 1, 23, 4, -1, 1), Field(b"", 0, 0, 2**32 - 1, -2, 68, 0)]
    assert read_row_description(row_description(fields)[5:]) == fields


def test_error_response_carries_position_and_hint():
    message = error_response("0A000", "no\0pe", hint="do", position=7)
    assert error_fields(message[5:]) == {
        "S": "ERROR", "V": "ERROR", "C": "0A000", "M": "nope", "H": "do", "P": "7",
    }  # fmt: skip


def test_a_parameter_longer_than_the_message_is_malformed():
    payload = b"\0\0" + struct.pack("!HHi", 0, 1, 2**31 - 1) + b"x"
    with pytest.raises(Malformed):
        Bind.read(payload)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('"$user", public', ("$user", "public")),
        ('Foo, "Bar""s",x', ("foo", 'Bar"s', "x")),
        ('""', ("",)),
        ("", ()),
        ('"a, b"', ("a, b",)),
    ],
)
def test_search_path_is_split_as_the_server_does(text: str, names: tuple[str, ...]):
    assert parse_search_path(text) == names
