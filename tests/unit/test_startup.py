"""First packets of a connection (PostgreSQL documentation, "Message Flow: Start-up")."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.postgres.auth import withdraw_channel_binding
from proxy.postgres.startup import (
    CANCEL_CODE,
    GSSENC_CODE,
    SSL_CODE,
    CancelRequest,
    GssEncRequest,
    SslRequest,
    StartupError,
    StartupMessage,
    StartupReader,
    for_server,
)
from tests.dialogue import startup_packet


def read(data: bytes, limit: int = 10_000) -> object:
    reader = StartupReader(limit)
    reader.feed(data)
    return reader.next()


def negotiation(code: int) -> bytes:
    return struct.pack("!II", 8, code)


def test_parameters_are_read_and_the_packet_kept():
    packet = startup_packet(user="app", database="shop", application_name="x")
    request = read(packet)
    assert isinstance(request, StartupMessage)
    assert (request.user, request.database, request.packet) == ("app", "shop", packet)


def test_database_defaults_to_the_user():
    request = read(startup_packet(user="app"))
    assert isinstance(request, StartupMessage) and request.database == "app"


def test_protocol_3_2_is_passed_on():
    packet = bytearray(startup_packet(user="app"))
    packet[7] = 2
    request = read(bytes(packet))
    assert isinstance(request, StartupMessage) and request.packet == packet


def test_bytes_come_in_any_pieces():
    reader = StartupReader(10_000)
    packet = startup_packet(user="app")
    for i in range(len(packet)):
        assert reader.next() is None
        reader.feed(packet[i : i + 1])
    assert isinstance(reader.next(), StartupMessage)


def test_ssl_then_gss_then_startup():
    reader = StartupReader(10_000)
    for code, kind in ((GSSENC_CODE, GssEncRequest), (SSL_CODE, SslRequest)):
        reader.feed(negotiation(code))
        assert isinstance(reader.next(), kind)
    reader.feed(startup_packet(user="a"))
    assert isinstance(reader.next(), StartupMessage)


def test_cancel_with_a_long_key_is_passed_on():
    packet = struct.pack("!IIi", 12 + 256, CANCEL_CODE, 7) + b"k" * 256
    request = read(packet)
    assert isinstance(request, CancelRequest) and request.packet == packet


@pytest.mark.parametrize(
    ("data", "sqlstate"),
    [
        (negotiation(SSL_CODE) + b"x", "08P01"),
        (struct.pack("!II", 3, 196608), "08P01"),
        (struct.pack("!II", 2**31, 196608), "08P01"),
        (struct.pack("!II", 10_001, 196608), "08P01"),
        (struct.pack("!II", 9, 131072) + b"\0", "0A000"),
        (struct.pack("!II", 9, 262144) + b"\0", "0A000"),
        (struct.pack("!II", 12, CANCEL_CODE) + b"abcd", "08P01"),
        (struct.pack("!II", 12, 196608) + b"user", "08P01"),
        (struct.pack("!II", 14, 196608) + b"user\0\0", "08P01"),
        (struct.pack("!II", 15, 196608) + b"user\0\0\0", "28000"),
        (startup_packet(database="x"), "28000"),
        (startup_packet(user="x", replication="database"), "0A000"),
        (startup_packet(user="x", replication="1"), "0A000"),
        (b"\x16\x03\x01\x00", "0A000"),
        (b"GET / HTTP/1.1\r\n", "08P01"),
    ],
)
def test_unusable_packets_have_an_sqlstate(data: bytes, sqlstate: str):
    with pytest.raises(StartupError) as failure:
        read(data)
    assert failure.value.sqlstate == sqlstate


def test_channel_binding_is_taken_out_of_the_offer():
    offer = struct.pack("!I", 10) + b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    assert withdraw_channel_binding(offer)[5:] == struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@given(
    parameters=st.dictionaries(NAMES, NAMES, max_size=4),
    options=st.lists(NAMES.map("_pq_.".__add__), max_size=2, unique=True),
    minor=st.integers(0, 0xFFFF),
    user=st.none() | NAMES,
)
def test_what_goes_to_the_server_is_what_both_know(parameters, options, minor, user):
    asked = parameters | {"user": "app"} | dict.fromkeys(options, "x")
    packet = bytearray(startup_packet(**asked))
    packet[6:8] = minor.to_bytes(2, "big")
    request = read(bytes(packet))
    assert isinstance(request, StartupMessage)
    sent, told = for_server(request, user)
    again = read(sent.packet)
    assert isinstance(again, StartupMessage)
    assert again.minor == min(minor, 2)
    kept = {k: v for k, v in asked.items() if not k.startswith("_pq_.")}
    expected = kept | {"user": user or "app"}
    if user not in (None, "app") or again.packet != packet and user is not None:
        expected.setdefault("database", request.database)
    assert again.parameters == expected
    assert (told is None) == (minor <= 2 and not any(k.startswith("_pq_.") for k in asked))
    if told is None and user in (None, "app"):
        assert sent.packet == packet, "untouched where nothing has to change"


@pytest.mark.parametrize(
    ("parameters", "purpose"),
    [
        ({}, ""),
        ({"sealgate.purpose": "case 1"}, "case 1"),
        ({"Sealgate.Purpose": "x"}, "x"),
        ({"options": "-c sealgate.purpose=case\\ 1 -c geqo=off"}, "case 1"),
        ({"options": "-csealgate.purpose=a"}, "a"),
        ({"options": "  --sealgate.purpose=a=b\t"}, "a=b"),
        ({"options": "-c sealgate.purpose=a -c sealgate.purpose=b"}, "b"),
        ({"options": "-c sealgate.purpose=a", "sealgate.purpose": "b"}, "b"),
        ({"options": "-c"}, ""),
        ({"options": "-c sealgate.purposes=a"}, ""),
    ],
)
def test_the_purpose_is_a_setting_given_at_connect(
    parameters: dict[str, str], purpose: str
) -> None:
    assert StartupMessage(b"", {"user": "u", **parameters}).purpose == purpose
