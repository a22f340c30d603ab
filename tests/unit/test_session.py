"""The session core, bytes in and bytes out (facts: postgres.md 5.7)."""

import gc
import struct
import tracemalloc

import pytest

from proxy.errors import KeyUnavailable
from proxy.native import KeyGone, WireError
from proxy.policy.model import Action
from proxy.postgres.messages import Bind, error_fields, read_row_description
from proxy.postgres.plan import (
    ClientParam,
    CopyPlan,
    Effect,
    Literal,
    ParamTarget,
    Refusal,
    StatementPlan,
    Use,
)
from tests.dialogue import (
    EMAIL,
    MAGIC,
    READY,
    SYNC,
    Dialogue,
    FakeCodec,
    FakeSite,
    bind,
    error,
    execute,
    fields,
    kinds,
    msg,
    parse,
    row,
    split,
)

SELECT = b"SELECT id, email FROM users"
READ = StatementPlan((SELECT,), False, outputs=(None, EMAIL), command="SELECT")
INSERT = b"INSERT INTO users VALUES ($1, $2)"
WRITE = StatementPlan(
    (INSERT,),
    True,
    params=(
        ParamTarget(0, Use.PASS),
        ParamTarget(1, Use.STORE, EMAIL, 17),
        ParamTarget(1, Use.TAG, EMAIL, 17),
    ),
    client_params=(ClientParam(0, 0), ClientParam(25)),
    command="INSERT",
)
SETTING = StatementPlan(
    (b"SET search_path TO x",), False, effects=frozenset({Effect.SETTINGS_CHANGED})
)
REFUSED = b"SELECT upper(email) FROM users"
LITERAL = b"INSERT INTO users VALUES (1, 'a@b')"


def site(**kw: object) -> FakeSite:
    return FakeSite(
        plans={
            SELECT: READ,
            INSERT: WRITE,
            b"SET search_path TO x": SETTING,
            REFUSED: Refusal("0A000", "upper() is not supported", "Do it yourself."),
            LITERAL: StatementPlan(
                (b"INSERT INTO users VALUES (1, ", Literal(EMAIL, Use.STORE, b"a@b"), b")"), True
            ),
        },
        **kw,  # type: ignore[arg-type]
    )


def hexed(value: bytes) -> bytes:
    return b"\\x" + value.hex().encode()


def sealed(plain: bytes) -> bytes:
    return MAGIC + plain[::-1]


def test_unprotected_statements_pass_untouched_as_the_same_object():
    d = Dialogue(database="other")
    data = parse("s", "SELECT 1") + bind("", "s") + execute() + SYNC
    d.session.receive_client(data)
    assert d.session.data_to_server() is data
    answer = msg("1") + msg("2") + row(b"1") + msg("C", b"SELECT 1\0") + READY
    d.session.receive_server(answer)
    assert d.session.data_to_client() is answer
    assert d.session.idle


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64])
def test_any_split_of_the_stream_gives_the_same_bytes(step: int):
    turns = [
        (
            parse("s", SELECT.decode()) + bind("", "s") + execute() + SYNC,
            msg("1")
            + msg("2")
            + row(b"1", sealed(b"x"))
            + row(b"2", None)
            + msg("C", b"SELECT 2\0")
            + READY,
        ),
        (msg("Q", b"SELECT 1\0"), fields(("c", 23)) + row(b"1") + msg("C", b"SELECT 1\0") + READY),
    ]
    d, whole = Dialogue(site()), Dialogue(site())
    for up, down in turns:
        got = b""
        for i in range(0, len(up), step):
            d.session.receive_client(up[i : i + step])
            got += d.session.data_to_server()
        whole.session.receive_client(up)
        assert got == whole.session.data_to_server()
        got = b""
        for i in range(0, len(down), step):
            d.session.receive_server(down[i : i + step])
            got += d.session.data_to_client()
        whole.session.receive_server(down)
        assert got == whole.session.data_to_client()
        assert (row(b"1", b"x") + row(b"2", None) in got) == (up is turns[0][0])


def test_protected_rows_are_asked_for_in_binary_and_opened():
    d = Dialogue(site())
    sent = d.client(parse("", SELECT.decode()) + msg("D", b"S\0") + bind("", "") + execute() + SYNC)
    assert kinds(sent) == "PDBES"
    assert sent[2][1].endswith(struct.pack("!Hhh", 2, 0, 1)), "formats of two output columns"
    got = d.server(
        msg("1")
        + msg("t", b"\0\0")
        + fields(("id", 23), ("email", 17))
        + msg("2")
        + row(b"7", sealed(b"a@b"))
        + msg("C", b"SELECT 1\0")
        + READY
    )
    assert kinds(got) == "1tT2DCZ"
    description = read_row_description(got[2][1])
    assert (description[1].type_oid, description[1].name) == (25, b"email")
    assert msg(*got[4]) == row(b"7", b"a@b")


def test_one_parameter_feeds_a_value_and_a_tag():
    d = Dialogue(site())
    sent = d.client(
        parse("i", INSERT.decode(), 23, 25)
        + msg("D", b"Si\0")
        + bind("", "i", b"7", b"a@b")
        + execute()
        + SYNC
    )
    assert sent[0][1] == b"i\0" + INSERT + b"\0" + struct.pack("!HIII", 3, 23, 17, 17)
    assert (
        sent[2][1]
        == b"\0i\0"
        + struct.pack("!Hhhh", 3, 0, 1, 1)
        + row(b"7", sealed(b"a@b"), b"tag:a@b")[5:]
        + b"\0\0"
    )
    got = d.server(msg("1") + msg("t", struct.pack("!HIII", 3, 20, 17, 17)) + msg("n"))
    assert got[1] == ("t", struct.pack("!HII", 2, 20, 25)), "the client's own list"


def test_null_stays_null():
    d = Dialogue(site())
    sent = d.client(parse("", INSERT.decode()) + bind("", "", b"7", None) + execute() + SYNC)
    assert row(b"7", None, None)[5:] in sent[1][1]


def test_literals_are_spliced_as_bytea():
    d = Dialogue(site())
    sent = d.client(msg("Q", LITERAL + b"\0"))
    assert sent == [
        ("Q", b"INSERT INTO users VALUES (1, '\\x" + sealed(b"a@b").hex().encode() + b"'::bytea)\0")
    ]


def test_simple_query_opens_text_bytea():
    d = Dialogue(site())
    d.client(msg("Q", SELECT + b"\0"))
    got = d.server(
        fields(("id", 23), ("email", 17))
        + row(b"7", hexed(sealed(b"a@b")))
        + row(b"8", None)
        + row(b"9", b"\\305\\001b@a")  # bytea_output = escape
        + msg("C", b"SELECT 3\0")
        + READY
    )
    assert [msg(*m) for m in got[1:4]] == [row(b"7", b"a@b"), row(b"8", None), row(b"9", b"a@b")]


def test_refused_query_fails_on_the_server_and_answers_ours():
    d = Dialogue(site())
    sent = d.client(msg("Q", REFUSED + b"\0"))
    assert kinds(sent) == "BS" and b"refused" in sent[0][1]
    got = d.server(error("26000") + msg("Z", b"E"))
    assert kinds(got) == "EZ" and got[1][1] == b"E", "the server's own state"
    assert error_fields(got[0][1])["C"] == "0A000"
    assert error_fields(got[0][1])["H"] == "Do it yourself."


def test_refusal_in_a_pipeline_keeps_order_and_drops_up_to_sync():
    d = Dialogue(site())
    sent = d.client(
        parse("", "SELECT 1")
        + bind("", "")
        + execute()
        + parse("", REFUSED.decode())
        + bind("", "", b"plaintext")
        + execute()
        + SYNC
        + msg("Q", b"SELECT 2\0")
    )
    assert kinds(sent) == "PBEBSQ"
    assert b"plaintext" not in b"".join(p for _, p in sent)
    got = d.server(
        msg("1")
        + msg("2")
        + row(b"1")
        + msg("C", b"SELECT 1\0")
        + error("26000")
        + READY
        + fields(("x", 23))
        + row(b"2")
        + msg("C", b"SELECT 1\0")
        + READY
    )
    assert kinds(got) == "12DCEZTDCZ"


def test_a_failed_parse_does_not_replace_the_statement_of_that_name():
    d = Dialogue(site())
    d.client(parse("s", INSERT.decode()) + SYNC)
    d.server(msg("1") + READY)
    d.client(parse("s", "SELECT 1") + SYNC)
    d.server(error("42P05") + READY)
    sent = d.client(bind("", "s", b"7", b"a@b") + SYNC)
    assert sealed(b"a@b") in sent[0][1], "s still is the INSERT"


def test_a_name_that_may_have_changed_waits_for_the_answer():
    d = Dialogue(site())
    d.client(parse("s", INSERT.decode()) + SYNC)
    d.server(msg("1") + READY)
    sent = d.client(parse("s", "SELECT 1") + SYNC + bind("", "s", b"7", b"a@b") + SYNC)
    assert kinds(sent) == "PSH", "no Bind before it is known what s is"
    d.server(error("42P05") + READY)
    sent = d.sent()
    assert kinds(sent) == "BS" and sealed(b"a@b") in sent[0][1]


def test_close_forgets_a_statement():
    d = Dialogue(site())
    d.client(parse("s", INSERT.decode()) + msg("C", b"Ss\0") + SYNC)
    d.server(msg("1") + msg("3") + READY)
    assert not d.session.statements
    sent = d.client(bind("", "s", b"7", b"a@b") + SYNC)
    assert kinds(sent) == "BS"
    assert Bind.read(sent[0][1]).values == (), "values for nothing stay here"


def test_portals_end_with_the_transaction():
    d = Dialogue(site())
    d.client(parse("s", SELECT.decode()) + bind("p", "s") + execute("p") + SYNC)
    d.server(msg("1") + msg("2") + row(b"1", sealed(b"x")) + msg("s") + msg("Z", b"T"))
    assert kinds(d.client(execute("p") + SYNC)) == "ES"
    got = d.server(row(b"2", sealed(b"y")) + msg("C", b"SELECT 1\0") + READY)
    assert msg(*got[0]) == row(b"2", b"y"), "a suspended portal keeps its plan"
    assert not d.session.portals and d.session.statements


def test_a_damaged_value_is_one_error_and_the_session_goes_on():
    d = Dialogue(site())
    d.client(parse("", SELECT.decode()) + bind("", "") + execute() + SYNC)
    got = d.server(
        msg("1")
        + msg("2")
        + row(b"1", sealed(b"x"))
        + row(b"2", b"forged")
        + row(b"3", b"more")
        + msg("C", b"SELECT 3\0")
        + READY
    )
    assert kinds(got) == "12DEZ"
    assert error_fields(got[3][1])["C"] == "XX001"
    assert "forged" not in repr(got)
    d.client(msg("Q", b"SELECT 1\0"))
    assert (
        kinds(d.server(fields(("x", 23)) + row(b"1") + msg("C", b"SELECT 1\0") + READY)) == "TDCZ"
    )


def test_a_damaged_value_before_sync_drops_what_the_client_still_sends():
    d = Dialogue(site())
    d.client(parse("", SELECT.decode()) + bind("", "") + execute() + msg("H"))
    got = d.server(msg("1") + msg("2") + row(b"2", b"forged") + msg("C", b"SELECT 1\0"))
    assert kinds(got) == "12E"
    assert kinds(d.sent()) == "B", "the server's transaction fails, too"
    assert kinds(d.client(parse("", "DELETE") + bind("", "") + execute() + SYNC)) == "S"
    assert kinds(d.server(error("26000") + READY)) == "Z"


def test_a_damaged_value_aborts_an_open_transaction_before_the_client_is_told_it_is_ready():
    d = Dialogue(site())
    d.client(msg("Q", b"BEGIN\0"))
    d.server(msg("C", b"BEGIN\0") + msg("Z", b"T"))
    d.client(msg("Q", SELECT + b"\0") + msg("Q", b"COMMIT\0"))
    assert not d.sent(), "nothing follows rows that may fail to open"
    got = d.server(
        fields(("id", 23), ("email", 17))
        + row(b"2", hexed(b"forged"))
        + msg("C", b"SELECT 1\0")
        + msg("Z", b"T")
    )
    assert kinds(got) == "TE"
    assert kinds(d.sent()) == "BSQ"
    got = d.server(error("26000") + msg("Z", b"E") + msg("C", b"ROLLBACK\0") + READY)
    assert kinds(got) == "ZCZ" and got[0][1] == b"E"


def test_a_sync_waits_until_the_rows_of_its_segment_were_opened():
    d = Dialogue(site())
    pipeline = parse("", INSERT.decode()) + bind("", "", b"1", b"a@b") + execute()
    pipeline += parse("", SELECT.decode()) + bind("", "") + execute() + SYNC
    assert kinds(d.client(pipeline)) == "PBEPBEH"
    head = msg("1") + msg("2") + msg("C", b"INSERT 0 1\0") + msg("1") + msg("2")
    got = d.server(head + row(b"1", b"forged") + msg("C", b"SELECT 1\0"))
    assert kinds(got) == "12C12E"
    assert kinds(d.sent()) == "BS", "the insert is rolled back"
    assert kinds(d.server(error("26000") + READY)) == "Z"


def test_a_column_that_is_not_bytea_on_the_server_is_an_error():
    d = Dialogue(site())
    d.client(msg("Q", SELECT + b"\0"))
    got = d.server(
        fields(("id", 23), ("email", 25)) + row(b"1", b"plain") + msg("C", b"SELECT 1\0") + READY
    )
    assert kinds(got) == "EZ"


def test_rows_of_another_shape_are_an_error():
    d = Dialogue(site())
    d.client(parse("", SELECT.decode()) + bind("", "") + execute() + SYNC)
    got = d.server(msg("1") + msg("2") + row(b"1") + msg("C", b"SELECT 1\0") + READY)
    assert kinds(got) == "12EZ"


def test_missing_keys_pause_the_client_in_order():
    s = site(keys_in_memory=False)
    d = Dialogue(s)
    sent = d.client(
        parse("", INSERT.decode())
        + bind("", "", b"7", b"a@b")
        + execute()
        + SYNC
        + msg("Q", b"SELECT 1\0")
    )
    assert kinds(sent) == "P"
    need = d.pending()
    assert need is not None
    d.session.resolve(need, {(EMAIL, Action.SEAL): s.codec, (EMAIL, Action.OPEN): s.codec})
    assert kinds(d.sent()) == "BESQ"
    assert d.pending() is None


def test_unavailable_keys_are_an_error_of_that_statement():
    d = Dialogue(site(keys_in_memory=False))
    d.client(parse("", INSERT.decode()) + bind("", "", b"7", b"a@b") + execute() + SYNC)
    need = d.pending()
    assert need is not None
    d.session.resolve(need, KeyUnavailable("token away"))
    assert kinds(d.sent()) == "BS"
    got = d.server(msg("1") + error("26000") + READY)
    assert error_fields(got[1][1])["C"] == "58000"


def test_denied_principal_gets_42501():
    d = Dialogue(site(denied=True))
    d.client(msg("Q", SELECT + b"\0"))
    got = d.server(error("26000") + READY)
    assert error_fields(got[0][1])["C"] == "42501"


def test_changed_settings_are_read_again_before_the_next_plan():
    s = site()
    d = Dialogue(s)
    assert (
        kinds(d.client(msg("Q", b"SET search_path TO x\0") + msg("Q", SELECT + b"\0"))) == "QPBECCS"
    )
    d.server(msg("C", b"SET\0") + READY)
    assert d.settings("x") == "", "our own question is invisible"
    assert kinds(d.sent()) == "Q"
    assert s.asked[-1][1].search_path == ("x",)


def test_settings_inside_a_segment_are_read_with_flush():
    s = site()
    d = Dialogue(s)
    sent = d.client(
        parse("", "SET search_path TO x") + bind("", "") + execute() + parse("", SELECT.decode())
    )
    assert kinds(sent) == "PBEPBECCH"
    d.server(msg("1") + msg("2") + msg("C", b"SET\0"))
    assert d.settings("x", b"") == ""
    assert kinds(d.sent()) == "P"


def test_rollback_reads_settings_again():
    s = site()
    d = Dialogue(s)
    d.client(msg("Q", b"BEGIN\0"))
    d.server(msg("C", b"BEGIN\0") + msg("Z", b"T"))
    d.client(msg("Q", b"SET search_path TO x\0"))
    d.server(msg("C", b"SET\0") + msg("Z", b"T"))
    d.client(msg("Q", SELECT + b"\0"))
    d.settings("x", msg("Z", b"T"))
    assert kinds(d.sent()) == "Q"
    d.server(fields(("id", 23), ("email", 17)) + msg("C", b"SELECT 0\0") + msg("Z", b"T"))
    d.client(msg("Q", b"ROLLBACK\0"))
    d.sent()
    d.server(msg("C", b"ROLLBACK\0") + READY)
    assert kinds(d.client(msg("Q", SELECT + b"\0"))) == "PBECCS"


def test_copy_in_ignores_a_sync_before_copy_done():
    d = Dialogue(database="other")
    d.client(parse("", "COPY t FROM STDIN") + bind("", "") + execute() + SYNC)
    d.server(msg("1") + msg("2") + msg("G", b"\0\0\0"))
    assert kinds(d.client(msg("d", b"x" * 10) + msg("c") + SYNC)) == "dcS"
    assert kinds(d.server(msg("C", b"COPY 1\0") + READY)) == "CZ"
    assert d.session.idle


@pytest.mark.parametrize("length", [0, 3, 0x7FFFFFFF, 0xFFFFFFFF])
def test_impossible_lengths_end_the_connection(length: int):
    d = Dialogue()
    with pytest.raises(WireError):
        d.session.receive_client(b"Q" + struct.pack("!I", length))
    with pytest.raises(WireError):
        d.session.receive_server(b"C" + struct.pack("!I", length))


def test_answers_without_a_question_end_the_connection():
    d = Dialogue()
    for kind in "12CZTDnt3GHVW?":
        with pytest.raises(WireError):
            Dialogue().session.receive_server(msg(kind, b"I"))
    assert d.session.idle


COPY_SQL = b"COPY users (id, email) FROM STDIN"
COPY_IN = StatementPlan(
    (COPY_SQL,), False, copy=CopyPlan("users", True, 0, (("id", None), ("email", EMAIL)))
)
IN_RESPONSE = msg("G", b"\0\0\2\0\0\0\0")


def copying() -> Dialogue:
    s = site()
    s.plans[COPY_SQL] = COPY_IN
    d = Dialogue(s)
    assert kinds(d.client(msg("Q", COPY_SQL + b"\0"))) == "Q"
    assert kinds(d.server(IN_RESPONSE)) == "G"
    return d


def test_copy_data_are_sealed_and_what_a_client_gives_up_for_stays_here():
    d = copying()
    assert d.client(msg("d", b"1\ta@b\n2")) == [
        ("d", b"1\t\\\\x" + sealed(b"a@b").hex().encode() + b"\n")
    ]
    ((kind, reason),) = d.client(msg("f", b"bad value x\0"))
    assert kind == "f" and b"bad value" not in reason
    got = d.server(msg("E", b"SERROR\0C57014\0MCOPY from stdin failed: " + reason + b"\0") + READY)
    assert kinds(got) == "EZ"
    assert error_fields(got[0][1])["M"] == "COPY from stdin failed: bad value x"


def test_copy_data_wait_for_the_servers_word_and_are_dropped_without_a_copy():
    s = site()
    s.plans[COPY_SQL] = COPY_IN
    d = Dialogue(s)
    sent = d.client(msg("Q", COPY_SQL + b"\0") + msg("d", b"1\tcanary\n") + msg("c"))
    assert kinds(sent) == "Q", "it may be no COPY at all"
    d.server(IN_RESPONSE)
    assert kinds(d.sent()) == "dc"
    d = Dialogue(s)
    d.client(msg("Q", COPY_SQL + b"\0") + msg("d", b"1\tcanary\n") + msg("c"))
    assert kinds(d.server(error("42P01") + READY)) == "EZ"
    assert d.sent() == []


def test_fast_path_calls_are_refused_where_columns_are_protected():
    d = Dialogue(site())
    assert kinds(d.client(msg("F", b"\0\0\0\1\0\0\0\0\0\0"))) == "BS"
    got = d.server(error("26000") + READY)
    assert error_fields(got[0][1])["C"] == "0A000"
    other = Dialogue(database="other")
    assert kinds(other.client(msg("F", b"\0\0\0\1\0\0\0\0\0\0"))) == "F"


def test_a_copy_whose_key_left_the_cache_waits_for_it_and_goes_on():
    class Going(FakeCodec):
        gone = True

        def seal(self, plain: bytes) -> bytes:
            if self.gone:
                raise KeyGone("wiped")
            return super().seal(plain)

    d = copying()
    going, fresh = Going(), FakeCodec()
    d.session.copying.renew([None, going])
    assert d.client(msg("d", b"1\ta@b\n2\tc\n") + msg("c")) == []
    need = d.pending()
    assert need is not None and d.session.waiting
    d.session.resolve(need, {(EMAIL, Action.SEAL): fresh})
    sent = d.sent()
    assert kinds(sent) == "dc" and sealed(b"c").hex().encode() in sent[0][1]
    d = copying()
    d.session.copying.renew([None, going])
    d.client(msg("d", b"1\ta@b\n"))
    need = d.pending()
    assert need is not None
    d.session.resolve(need, KeyUnavailable("token away"))
    ((kind, reason),) = d.sent()
    assert kind == "f"
    got = d.server(msg("E", b"SERROR\0C57014\0MCOPY from stdin failed: " + reason + b"\0") + READY)
    assert error_fields(got[0][1])["C"] == "58000"


def test_nothing_grows_with_the_number_of_statements():
    d = Dialogue(site())

    def turn(i: int) -> None:
        name = f"s{i}"
        d.client(parse(name, INSERT.decode()) + bind("", name, b"7", b"a@b") + execute() + SYNC)
        d.server(msg("1") + msg("2") + msg("C", b"INSERT 0 1\0") + READY)
        d.client(msg("C", b"S" + name.encode() + b"\0") + SYNC)
        d.server(msg("3") + READY)
        d.client(msg("Q", SELECT + b"\0"))
        d.server(fields(("id", 23), ("email", 17)) + msg("C", b"SELECT 0\0") + READY)
        d.client(msg("Q", REFUSED + b"\0"))
        d.server(error("26000") + READY)
        d.client(parse("", REFUSED.decode()) + SYNC)
        d.server(error("26000") + READY)
        d.site.asked.clear()

    tracemalloc.start()
    grown = []  # in each run; a table of the interpreter's own may double in one of them
    try:
        for run in range(8):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for i in range(600 * run, 600 * (run + 1)):
                turn(i)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(grown[1:]) < 2 * 1024, f"{grown} bytes"
    assert not d.session.statements and not d.session.portals and not d.session.wire.fast


@pytest.mark.parametrize("text", [SETTING.segments[0], REFUSED, b"SELECT 1"])
def test_a_query_behind_a_segment_without_sync_waits_until_it_is_known_to_be_read(text: bytes):
    """Else a Sync of ours behind it would end what the server skips, and what follows be executed."""
    d = Dialogue(site())
    sent = d.client(parse("", "SELECT nothing") + msg("Q", text + b"\0") + bind("", "") + SYNC)
    assert kinds(sent) == "PH"
    d.session.receive_server(error("42703"))
    assert d.session.data_to_server() == SYNC, "what the server would skip is not sent"
    assert kinds(d.server(READY)) == "EZ" and d.session.idle


def test_a_query_behind_a_segment_that_went_well_is_sent():
    d = Dialogue(site())
    assert kinds(d.client(parse("", "SELECT 2") + msg("Q", SELECT + b"\0"))) == "PH"
    d.session.receive_server(msg("1"))
    assert kinds(d.sent()) == "Q"


@pytest.mark.parametrize(
    "before", [b"", parse("", "SELECT 2") + SYNC + msg("Q", b"SELECT 1\0"),
               parse("", "SELECT 2") + msg("C", b"S\0") + SYNC],
    ids=["none", "Query", "Close"],
)  # fmt: skip
def test_a_bind_of_an_unnamed_statement_that_is_none_fails_without_its_values(before: bytes):
    d = Dialogue(site())
    d.client(before)
    closed = "C" in kinds(split(before))
    if before:
        d.server(msg("1") + (msg("3") if closed else b"") + READY)
        if not closed:
            d.server(msg("C", b"SELECT 1\0") + READY)
    sent = d.client(bind("", "", b"canary") + SYNC)
    assert kinds(sent) == ("CBS" if closed else "BS"), "one that the server may have is dropped"
    assert Bind.read(sent[-2][1]).values == ()
    assert kinds(d.server((msg("3") if closed else b"") + error("26000") + READY)) == "EZ"


def test_a_bind_of_a_plain_unnamed_statement_goes_as_it_is():
    d = Dialogue(site())
    sent = d.client(parse("", "SELECT $1") + bind("", "", b"v") + SYNC)
    assert kinds(sent) == "PBS" and Bind.read(sent[1][1]).values == (b"v",)


def test_nothing_is_sent_to_a_server_that_skips_to_sync():
    """The Parse of a protected statement is dropped then, so that its Bind would look like any other."""
    d = Dialogue(site())
    d.client(parse("", "SELECT nothing") + msg("H"))
    d.server(error("42703"))
    more = parse("b", INSERT.decode()) + bind("", "b", b"1", b"canary") + execute() + msg("H")
    assert d.client(more) == []
    assert kinds(d.client(SYNC)) == "S"
    assert kinds(d.server(READY)) == "Z" and d.session.idle


def test_a_bind_of_no_statement_to_a_portal_that_had_protected_rows_goes_without_its_values():
    d = Dialogue(site())
    d.client(parse("", SELECT.decode()) + bind("p", "") + SYNC)
    d.server(msg("1") + msg("2") + READY)
    sent = d.client(bind("p", "none", b"canary") + SYNC)
    assert kinds(sent) == "BS" and Bind.read(sent[0][1]).values == ()
