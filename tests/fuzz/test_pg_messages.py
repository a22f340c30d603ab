"""Bounded fuzzing of both directions: whatever comes, a session answers or ends; it never leaks.

Streams are made of valid messages, cut and bent at random. Printed on failure by Hypothesis.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import SealgateError
from proxy.native import WireError
from proxy.postgres.startup import StartupError, StartupReader
from tests.dialogue import Dialogue, bind, error, execute, fields, msg, parse, row
from tests.unit.test_session import INSERT, REFUSED, SELECT, sealed, site

pytestmark = pytest.mark.fuzz

CANARY = b"canary-7f3a"
CLIENT = st.sampled_from(
    [
        parse("", SELECT.decode()), parse("s", INSERT.decode()), parse("s", "SELECT 1"),
        parse("", REFUSED.decode()), bind("", ""), bind("p", "s", b"1", CANARY),
        bind("", "s", b"1", CANARY, result=(1, 0)), execute(), execute("p"), msg("S"), msg("H"),
        msg("D", b"S\0"), msg("D", b"Ss\0"), msg("D", b"Pp\0"), msg("C", b"Ss\0"),
        msg("C", b"Pp\0"), msg("Q", SELECT + b"\0"), msg("Q", b"SET search_path TO x\0"),
        msg("Q", b"BEGIN\0"), msg("d", b"x"), msg("c"), msg("f", b"\0"), msg("F", b"\0" * 8),
        msg("X"), msg("?"), b"\xff\xff", b"",
    ]
)  # fmt: skip
SERVER = st.sampled_from(
    [
        msg("1"), msg("2"), msg("3"), msg("n"), msg("s"), msg("I"), msg("C", b"SELECT 1\0"),
        msg("C", b"DISCARD ALL\0"), msg("Z", b"I"), msg("Z", b"T"), msg("Z", b"E"), error(),
        error("26000"), fields(("id", 23), ("email", 17)), fields(("x", 25)), row(b"1"),
        row(b"1", sealed(b"a")), row(b"1", b"bad"), row(None, None), msg("t", b"\0\0"),
        msg("G", b"\0\0\0"), msg("d", b"x"), msg("c"), msg("N", b"\0"), msg("S", b"a\0b\0"),
        row(b"app\n1\nhex\nDefault\n[]\npublic"), b"\x00",
    ]
)  # fmt: skip
STEPS = st.lists(st.tuples(st.booleans(), CLIENT, SERVER, st.integers(0, 9)), max_size=40)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_no_stream_confuses_a_session_into_leaking(steps):
    d = Dialogue(site())
    up = b""
    try:
        for from_client, client, server, cut in steps:
            if from_client:
                d.session.receive_client(client[: len(client) - cut] if cut == 9 else client)
            else:
                d.session.receive_server(server[: len(server) - cut] if cut == 9 else server)
            up += d.session.data_to_server()
            d.session.data_to_client()
            d.session.pending()
    except (WireError, SealgateError):
        pass
    assert d.session.wire.expected >= 0
    # A Bind to `s` while it may be the INSERT never carries the parameter in clear, unless the
    # server has been told of no such INSERT under that name.
    if INSERT in up and b"SELECT 1\0" not in up:
        behind = up[up.index(INSERT) :]  # a Bind before it named a statement that was none
        assert CANARY not in behind.replace(b"tag:" + CANARY, b"")  # what a tag looks like here


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_random_bytes_never_crash_either_direction(data: bytes, step: int):
    for feed in ("receive_client", "receive_server"):
        d = Dialogue(site())
        try:
            for i in range(0, len(data), step):
                getattr(d.session, feed)(data[i : i + step])
                d.session.data_to_client()
                d.session.data_to_server()
        except (WireError, SealgateError):
            pass


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_random_first_packets_are_read_or_refused(data: bytes):
    reader = StartupReader(10_000)
    reader.feed(data)
    try:
        reader.next()
    except StartupError as refused:
        assert refused.sqlstate
