"""When Binds are done natively, and when not any more (native/fastbind.pyx)."""

import struct

import pytest

from proxy import native
from proxy.crypto.column import Canonical, column_codec
from proxy.postgres.messages import Bind, error_fields, read_row_description
from proxy.postgres.plan import (
    ClientParam,
    Effect,
    Literal,
    ParamTarget,
    Refusal,
    StatementPlan,
    Use,
)
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


def test_each_wait_for_rows_in_a_pipeline_asks_the_server_to_answer() -> None:
    """Else both sides wait: the server answers at Sync, which comes after what waits."""
    d = fast(started())
    one = bind("", "s", b"a@b") + execute()
    answer = msg("2") + row(b"1", d.site.codec.seal(b"x")) + msg("C", b"SELECT 1\0")
    assert kinds(d.client(one + one + one + SYNC)) == "BEBH"
    d.server(answer)
    assert kinds(d.sent()) == "EBH"
    d.server(answer)
    assert kinds(d.sent()) == "EH", "Sync waits, too: it would commit"
    d.server(answer)
    assert kinds(d.sent()) == "S"
    d.server(READY)
    assert d.session.idle


# ---- the unnamed statement ---------------------------------------------------------------------
UNNAMED = parse("", SQL.decode()) + bind("", "", b"a@b") + msg("D", b"P\0") + execute() + SYNC


def unnamed(d: Dialogue) -> Dialogue:
    d.client(UNNAMED)
    d.server(msg("1") + ANSWER + msg("C", b"SELECT 0\0") + READY)
    assert len(d.session.wire.parses) == 1
    return d


def test_parse_and_bind_of_the_unnamed_statement_are_native() -> None:
    d = started()
    first = d.client(UNNAMED)
    d.server(msg("1") + ANSWER + msg("C", b"SELECT 0\0") + READY)
    for _ in range(3):
        again = d.client(UNNAMED)
        assert again == first, "a tag is the same each time"
        got = d.server(
            msg("1") + ANSWER + row(b"1", d.site.codec.seal(b"x")) + msg("C", b"SELECT 1\0") + READY
        )
        assert kinds(got) == "12TDCZ"
        assert got[3][1] == row(b"1", b"x")[5:]
    assert [p.uses for p in d.session.wire.parses.values()] == [3]


def test_a_describe_of_the_unnamed_statement_is_answered_for_it() -> None:
    d = unnamed(started())
    d.client(parse("", SQL.decode()) + msg("D", b"S\0") + SYNC)
    described = msg("t", struct.pack("!HI", 1, 17)) + fields(("id", 23), ("email", 17))
    got = d.server(msg("1") + described + READY)
    assert got[1][1] == struct.pack("!HI", 1, 25), "the client sees its own parameter type"
    assert [f.type_oid for f in read_row_description(got[2][1])] == [23, 25]


def test_a_bind_that_is_not_native_still_knows_the_statement() -> None:
    d = unnamed(started())
    sent = d.client(parse("", SQL.decode()) + bind("p", "", b"a@b") + execute("p") + SYNC)
    assert Bind.read(sent[1][1]).values == (d.site.codec.tag(b"a@b"),)


def test_a_bind_in_a_later_segment_still_knows_the_statement() -> None:
    d = unnamed(started())
    d.client(parse("", SQL.decode()) + SYNC)
    d.server(msg("1") + READY)
    d.session.wire.forget_fast()
    sent = d.client(bind("", "", b"a@b") + execute() + SYNC)
    assert Bind.read(sent[0][1]).values == (d.site.codec.tag(b"a@b"),)


def test_another_unnamed_statement_takes_its_place() -> None:
    d = unnamed(started())
    d.client(parse("", SQL.decode()) + SYNC)
    d.server(msg("1") + READY)
    sent = d.client(parse("", PLAIN.decode()) + bind("", "", b"a@b") + execute() + SYNC)
    assert Bind.read(sent[1][1]).values == (b"a@b",)


def test_a_closed_unnamed_statement_is_none() -> None:
    d = unnamed(started())
    d.client(parse("", SQL.decode()) + msg("C", b"S\0") + SYNC)
    assert d.session.wire.unnamed_statement is None


def test_other_declared_types_are_another_statement() -> None:
    d = unnamed(started())
    d.client(parse("", SQL.decode(), 1043) + SYNC)
    assert d.session.wire.unnamed_statement is None


def test_a_text_with_a_sealed_literal_is_sealed_anew_each_time() -> None:
    ring = native.key_import(bytearray(range(32)))
    codec = column_codec([(ring, True)], EMAIL.domain, 25, True, 0, 0, Canonical(), index=ring)
    sql = b"INSERT INTO users (email) VALUES ('a@b')"
    insert = StatementPlan(
        (b"INSERT INTO users (email) VALUES (", Literal(EMAIL, Use.STORE, b"a@b"), b")"), True,
    )  # fmt: skip
    d = Dialogue(FakeSite(plans={sql: insert}, codec=codec))  # type: ignore[arg-type]
    texts = set()
    for _ in range(4):
        sent = d.client(parse("", sql.decode()) + bind("", "") + execute() + SYNC)
        texts.add(sent[0][1])
        d.server(msg("1") + msg("2") + msg("C", b"INSERT 0 1\0") + READY)
    assert len(texts) == 4


# ---- what passes without a plan ----------------------------------------------------------------
def watching() -> Dialogue:
    d = started()
    d.site.watch = native.Watch([b"users", b"set", b"execute"])
    return d


def asked_for_plans(d: Dialogue, data: bytes) -> list[bytes]:
    before = len(d.site.asked)
    d.client(data)
    return [sql for sql, _ in d.site.asked[before:]]


def test_texts_without_a_watched_word_need_no_plan() -> None:
    d = watching()
    assert asked_for_plans(d, msg("Q", b"SELECT 1\0") + parse("x", "SELECT 2") + SYNC) == []
    got = d.server(fields(("c", 23)) + msg("C", b"SELECT 1\0") + READY + msg("1") + READY)
    assert kinds(got) == "TCZ1Z"
    assert d.session.idle


@pytest.mark.parametrize("text", ["SELECT * FROM uSers", "SET x TO y", 'SELECT U&"\\0075sers"',
                                  "SELECT 'users'", "EXECUTE s"])  # fmt: skip
def test_texts_with_one_do(text: str) -> None:
    d = watching()
    assert asked_for_plans(d, msg("Q", text.encode() + b"\0")) == [text.encode()]


def test_a_parse_over_a_known_name_is_seen() -> None:
    d = watching()
    assert asked_for_plans(d, parse("s", "SELECT 1") + SYNC) == [b"SELECT 1"]


def test_nothing_passes_while_settings_are_uncertain() -> None:
    d = watching()
    d.client(msg("Q", b"SET x TO y\0"))
    d.server(msg("C", b"SET\0") + READY)
    d.client(msg("Q", b"SELECT 1\0"))
    d.settings()
    assert [sql for sql, _ in d.site.asked[-1:]] == [b"SELECT 1"]


def test_nothing_passes_in_another_encoding() -> None:
    d = watching()
    d.server(msg("S", b"client_encoding\0SJIS\0"))
    assert asked_for_plans(d, msg("Q", b"SELECT 1\0")) == [b"SELECT 1"]


# ---- a Bind of a statement that is not there ----------------------------------------------------
SECRET = b"canary-3f60"


def bound(d: Dialogue, name: str) -> Bind:
    [payload] = [p for k, p in d.client(bind("", name, SECRET) + execute() + SYNC) if k == "B"]
    return Bind.read(payload)


def test_values_for_a_statement_that_is_not_there_stay_here() -> None:
    d = watching()
    sent = bound(d, "never")
    assert (sent.statement, sent.values) == (b"never", ())
    d.server(error("26000") + READY)
    assert d.session.idle


@pytest.mark.parametrize("sql", ["SELECT 2", "SELECT 'users'"], ids=["passed", "planned"])
def test_values_for_a_statement_that_is_there_go(sql: str) -> None:
    d = watching()
    d.client(parse("x", sql) + SYNC)
    d.server(msg("1") + READY)
    assert bound(d, "x").values == (SECRET,)


def test_a_closed_name_is_not_there_any_more() -> None:
    d = watching()
    d.client(parse("x", "SELECT 2") + SYNC)
    d.client(msg("C", b"Sx\0") + SYNC)
    assert kinds(d.client(bind("", "x", SECRET) + SYNC)) == "H", "not before that is known"
    sent = d.server(msg("1") + READY + msg("3") + READY) and d.sent()
    assert kinds(sent) == "BS" and Bind.read(sent[0][1]).values == ()
    d.server(error("26000") + READY)
    assert bound(d, "x").values == ()
    d = watching()
    d.client(msg("C", b"Ss\0") + SYNC)
    d.server(msg("3") + READY)
    assert bound(d, "s").values == ()


@pytest.mark.parametrize(
    ("sql", "name", "there"),
    [
        ("PREPARE y AS SELECT 1", "y", True),
        ("prepare Y(int) as SELECT $1", "y", True),
        ('PREPARE "Y ""y" AS SELECT 1', 'Y "y', True),
        ("SELECT 1; PREPARE y AS SELECT 1", "y", True),
        ("PREPARE y AS SELECT 1", "z", False),
        ("SELECT f('PREPARE ' || n)", "z", True),
        ("PREPARE /* c */ y AS SELECT 1", "z", True),
    ],
)
def test_names_that_sql_prepares_are_known(sql: str, name: str, there: bool) -> None:
    d = watching()
    d.site.watch = native.Watch([b"users", b"prepare"])
    d.client(msg("Q", sql.encode() + b"\0"))
    d.server(msg("C", b"PREPARE\0") + READY)
    assert bool(bound(d, name).values) is there


@pytest.mark.parametrize("payload", [b"", b"p", b"p\0", b"p\0s", b"\0", b"\0\0", b"p\0s\0"])
def test_a_bind_cut_anywhere_is_an_error_or_the_servers(payload: bytes) -> None:
    d = Dialogue(FakeSite())
    try:
        d.session.receive_client(msg("B", payload))
    except native.WireError:
        return
    d.session.data_to_server()


# ---- the unnamed statement behind an error -----------------------------------------------------
WRITE = b"INSERT INTO users (email) VALUES ($1)"
REFUSED = b"SELECT upper(email) FROM users"
CLEAR = b"canary-7f3a"


def written() -> Dialogue:
    """The server's unnamed statement is a protected INSERT that was prepared natively."""
    d = watching()
    d.site.plans[WRITE] = StatementPlan(
        (WRITE,), True, (ParamTarget(0, Use.STORE, EMAIL, 17),), (ClientParam(25),),
        command="INSERT",
    )  # fmt: skip
    d.site.plans[REFUSED] = Refusal("0A000", "upper() is not supported", "Do it yourself.")
    insert = parse("", WRITE.decode()) + bind("", "", b"x") + execute() + SYNC
    done = msg("1") + msg("2") + msg("C", b"INSERT 0 1\0") + READY
    d.client(insert)
    d.server(done)
    d.client(parse("", "SELECT 1") + SYNC)
    d.server(msg("1") + READY)
    d.client(insert)
    d.server(done)
    assert d.session.wire.unnamed_statement is not None
    return d


BAD = parse("t", "SELECT 1 FROM nowhere")


@pytest.mark.parametrize(
    "turns",
    [
        [(BAD + parse("", "SELECT 1") + SYNC, error("42P01") + READY)],
        [(BAD + msg("C", b"S\0") + SYNC, error("42P01") + READY)],
        [(BAD, error("42P01")), (msg("C", b"S\0") + SYNC, READY)],
        [(parse("", REFUSED.decode()) + SYNC, error("26000") + READY)],
    ],
    ids=["Parse skipped", "Close skipped", "Close while it skips", "Parse refused"],
)
def test_a_change_of_the_unnamed_statement_that_failed_bares_no_value(turns) -> None:
    """The server still has the INSERT: the next Bind is sealed, or finds no statement there."""
    d = written()
    for sent, answer in turns:
        d.client(sent)
        d.server(answer)
    sent = d.client(bind("", "", CLEAR) + execute() + SYNC)
    if kinds(sent) == "CBES":
        assert sent[0][1] == b"S\0", "the server drops its unnamed statement first"
        assert kinds(d.server(msg("3") + error("26000") + READY)) == "EZ"
    else:
        assert not any(CLEAR in payload for _, payload in sent)
        assert kinds(d.server(msg("2") + msg("C", b"INSERT 0 1\0") + READY)) == "2CZ"
    assert d.session.idle
    again = d.client(parse("", WRITE.decode()) + bind("", "", CLEAR) + execute() + SYNC)
    assert not any(CLEAR in payload for _, payload in again)
