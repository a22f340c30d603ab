"""When Binds are done natively, and when not any more (native/fastbind.pyx)."""

import struct

import pytest

from proxy import native
from proxy.crypto.column import Canonical, column_codec
from proxy.postgres.messages import Bind, error_fields, read_row_description
from proxy.postgres.plan import ClientParam, Effect, ParamTarget, StatementPlan, Use
from tests.dialogue import (
    EMAIL,
    READY,
    SYNC,
    Dialogue,
    FakeSite,
    bind,
    error,
    execute,
    fields,
    kinds,
    msg,
    parse,
    row,
)

SQL = b"SELECT id, email FROM users WHERE email = $1"
PLAN = StatementPlan(
    (b"SELECT id, email FROM users WHERE email__bx = $1",), True,
    (ParamTarget(0, Use.TAG, EMAIL, 17),), (ClientParam(25),), (None, EMAIL), command="SELECT",
)  # fmt: skip
SET = StatementPlan((b"SET x TO y",), False, effects=frozenset({Effect.SETTINGS_CHANGED}))
PLAIN = b"SELECT 1"
ANSWER = msg("2") + fields(("id", 23), ("email", 17))
ALL = bind("", "s", b"a@b") + msg("D", b"P\0") + execute() + SYNC


def started() -> Dialogue:
    ring = native.key_import(bytearray(range(32)))
    codec = column_codec([(ring, True)], EMAIL.domain, 25, True, 0, 0, Canonical(), index=ring)
    site = FakeSite(plans={SQL: PLAN, b"SET x TO y": SET}, codec=codec)  # type: ignore[arg-type]
    d = Dialogue(site)
    d.client(parse("s", SQL.decode()) + SYNC)
    d.server(msg("1") + READY)
    return d


def asked(d: Dialogue, data: bytes = ALL) -> str:
    return kinds(d.client(data))


def answered(d: Dialogue, *rows: bytes) -> list[tuple[str, bytes]]:
    return d.server(ANSWER + b"".join(rows) + msg("C", b"SELECT 1\0") + READY)


def fast(d: Dialogue) -> Dialogue:
    """The first Bind goes the long way; the next ones need no Python."""
    asked(d)
    answered(d)
    assert b"s" in d.session.wire.fast
    return d


def test_the_second_bind_is_native_and_means_the_same() -> None:
    d = fast(started())
    for _ in range(3):
        sent = d.client(ALL)
        assert kinds(sent) == "BDES"
        values = Bind.read(sent[0][1])
        assert values.values == (d.site.codec.tag(b"a@b"),)
        got = answered(d, row(b"1", d.site.codec.seal(b"a@b")), row(b"2", None))
        assert kinds(got) == "2TDDCZ"
        assert [f.type_oid for f in read_row_description(got[1][1])] == [23, 25]
        assert got[2][1] == row(b"1", b"a@b")[5:]
        assert got[3][1] == row(b"2", None)[5:]
    assert d.session.wire.fast[b"s"].uses == 3
    assert d.session.idle


def test_the_description_is_rewritten_again_when_the_server_says_another() -> None:
    d = fast(started())
    asked(d)
    answered(d)
    asked(d)
    other = msg("2") + fields(("id", 20), ("email", 17))
    got = d.server(other + msg("C", b"SELECT 0\0") + READY)
    assert [f.type_oid for f in read_row_description(got[1][1])] == [20, 25]


def test_a_description_that_does_not_fit_is_an_error() -> None:
    d = fast(started())
    asked(d)
    got = d.server(msg("2") + fields(("id", 20), ("email", 25)) + msg("C", b"SELECT 0\0") + READY)
    assert kinds(got) == "2EZ"


def test_binary_results_are_opened_as_they_are() -> None:
    d = fast(started())
    d.client(bind("", "s", b"a@b", result=(1,)) + execute() + SYNC)
    raw = row(struct.pack("!i", 7), d.site.codec.seal(b"a@b"))
    got = d.server(msg("2") + raw + msg("C", b"SELECT 1\0") + READY)
    assert got[1][1] == row(struct.pack("!i", 7), b"a@b")[5:]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.server(msg("S", b"DateStyle\0German\0")),
        lambda d: (d.client(msg("Q", b"SET x TO y\0")), d.server(msg("C", b"SET\0") + READY)),
        lambda d: (d.client(parse("s", PLAIN.decode()) + SYNC), d.server(msg("1") + READY)),
        lambda d: (d.client(msg("C", b"Ss\0") + SYNC), d.server(msg("3") + READY)),
        lambda d: (
            d.client(msg("Q", b"DISCARD ALL\0")), d.server(msg("C", b"DISCARD ALL\0") + READY),
        ),
        lambda d: d.session.schema_changed(),
    ],
    ids=["a setting is reported", "SET", "Parse of the name", "Close", "DISCARD ALL", "schema"],
)  # fmt: skip
def test_what_changes_the_meaning_ends_it(change) -> None:
    d = fast(started())
    change(d)
    assert d.session.wire.fast == {}


def test_a_set_in_the_same_pipeline_makes_python_look_again() -> None:
    d = fast(started())
    uses = d.session.wire.fast[b"s"]
    d.client(msg("Q", b"SET x TO y\0") + ALL)
    assert uses.uses == 0


def test_uses_are_told_to_the_keys() -> None:
    d = fast(started())
    for _ in range(5):
        asked(d)
        answered(d)
    made = d.session.wire.fast[b"s"]
    d.session.wire.fast[b"s"] = _spent(made, d)
    asked(d)
    assert [n for _, n in d.site.noted] == [5]


def _spent(made: native.FastBind, d: Dialogue) -> native.FastBind:
    """The same with its time used up."""

    class Spent(native.FastBind):
        uses = made.uses

    return Spent(made, [], 0, [], None, None, -1.0, 0)


def test_execute_in_a_later_segment_still_opens_the_rows() -> None:
    d = fast(started())
    d.client(msg("Q", b"BEGIN\0"))
    d.server(msg("C", b"BEGIN\0") + msg("Z", b"T"))
    d.client(bind("", "s", b"a@b") + SYNC)
    d.server(msg("2") + msg("Z", b"T"))
    d.client(msg("E", b"\0\0\0\0\1") + SYNC)
    got = d.server(row(b"1", d.site.codec.seal(b"x")) + msg("s") + msg("Z", b"T"))
    assert got[0][1] == row(b"1", b"x")[5:]
    d.client(msg("E", b"\0\0\0\0\1") + SYNC)
    got = d.server(row(b"2", d.site.codec.seal(b"y")) + msg("s") + msg("Z", b"T"))
    assert got[0][1] == row(b"2", b"y")[5:]


def test_another_portal_or_statement_takes_the_unnamed_portal() -> None:
    d = fast(started())
    asked(d)
    answered(d)
    d.client(bind("", "", b"1") + execute() + SYNC)  # an unprotected statement
    got = d.server(msg("2") + row(b"1", b"\xc5\x01 as it is") + msg("C", b"SELECT 1\0") + READY)
    assert got[1][1] == row(b"1", b"\xc5\x01 as it is")[5:]
    d.client(bind("p", "s", b"a@b") + execute("p") + SYNC)  # a named portal: the long way
    got = d.server(msg("2") + row(b"1", d.site.codec.seal(b"z")) + msg("C", b"SELECT 1\0") + READY)
    assert got[1][1] == row(b"1", b"z")[5:]


def test_a_server_error_skips_to_sync_and_the_session_goes_on() -> None:
    d = fast(started())
    assert asked(d) == "BDES"
    assert kinds(d.server(error() + READY)) == "EZ"
    assert asked(d) == "BDES"
    assert kinds(answered(d)) == "2TCZ"
    assert d.session.idle


def test_a_value_that_does_not_open_is_one_error() -> None:
    d = fast(started())
    asked(d)
    got = answered(d, row(b"1", b"\xc5\x01 not sealed"), row(b"2", d.site.codec.seal(b"x")))
    errors = [error_fields(p) for k, p in got if k == "E"]
    assert [e["C"] for e in errors] == ["XX001"]
    assert kinds(got)[-1] == "Z"


@pytest.mark.parametrize("step", [1, 3, 7, 11])
def test_any_split_of_the_stream_gives_the_same(step: int) -> None:
    d = fast(started())
    got = b""
    for i in range(0, len(ALL), step):
        d.session.receive_client(ALL[i : i + step])
        got += d.session.data_to_server()
    other = fast(started())
    other.session.receive_client(ALL)
    assert got == other.session.data_to_server()


def test_what_counts_each_use_is_never_native() -> None:
    d = started()
    d.site.fast = False
    asked(d)
    answered(d)
    assert d.session.wire.fast == {}
