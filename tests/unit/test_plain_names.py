"""Which names may values be bound to as they are: those of statements that the server has from the client."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.postgres.messages import Bind
from proxy.postgres.plan import Named, SessionContext, StatementPlan
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import Snapshot
from tests.dialogue import READY, SYNC, Dialogue, FakeSite, bind, error, execute, kinds, msg, parse

SECRET = b"canary-91d2"
FAILED, IN_BLOCK = msg("Z", b"E"), msg("Z", b"T")
PLAIN = "SELECT $1"


def named(sql: str, *parts: tuple[str, str]) -> dict[bytes, StatementPlan]:
    """The plan of a text, as far as names go: (verb, name) of each statement."""
    made = [StatementPlan((sql.encode(),), False, named=Named(v, n.encode())) for v, n in parts]
    return {sql.encode(): made[0]}


PLANS = {
    **named("DEALLOCATE x", ("deallocate", "x")),
    **named("DEALLOCATE ALL", ("deallocate", "")),
    **named("DISCARD ALL", ("deallocate", "")),
    **named("PREPARE x AS SELECT $1", ("prepare", "x")),
}
ENDS = {
    "Close": (msg("C", b"Sx\0") + SYNC, msg("3") + READY),
    **{
        sql: (msg("Q", sql.encode() + b"\0"), msg("C", tag + b"\0") + READY)
        for sql, tag in (
            ("DEALLOCATE x", b"DEALLOCATE"),
            ("DEALLOCATE ALL", b"DEALLOCATE ALL"),
            ("DISCARD ALL", b"DISCARD ALL"),
        )
    },
    "DEALLOCATE by the extended protocol": (
        parse("", "DEALLOCATE x") + bind("", "") + execute() + SYNC,
        msg("1") + msg("2") + msg("C", b"DEALLOCATE\0") + READY,
    ),
}
ended = pytest.mark.parametrize("end", ENDS)


def started(prepared: bool = True) -> Dialogue:
    d = Dialogue(FakeSite(plans=dict(PLANS)))
    if prepared:
        d.client(parse("x", PLAIN) + SYNC)
        d.server(msg("1") + READY)
        assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]
        d.server(msg("2") + READY)
    return d


def values(sent: list[tuple[str, bytes]]) -> list[tuple[bytes | None, ...]]:
    return [Bind.read(payload).values for kind, payload in sent if kind == "B"]


def told(d: Dialogue, answer: bytes) -> list[tuple[str, bytes]]:
    """What goes to the server when it has answered."""
    d.session.receive_server(answer)
    return d.sent()


@ended
def test_a_name_is_forgotten_when_the_server_has_forgotten_it(end: str) -> None:
    d = started()
    sent, answer = ENDS[end]
    d.client(sent)
    d.server(answer)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [()]
    d.server(error("26000") + READY)
    assert d.session.idle and not d.session.plain.table


@ended
def test_a_name_stays_when_its_end_failed(end: str) -> None:
    """As in a transaction that has failed: then nothing of this happens."""
    d = started()
    sent, _ = ENDS[end]
    d.client(sent)
    d.server(error("25P02") + FAILED)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


def test_a_close_that_is_skipped_leaves_the_name() -> None:
    d = started()
    d.client(parse("y", "bad") + msg("C", b"Sx\0") + SYNC)
    d.server(error("42601") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


@ended
def test_values_wait_while_it_is_not_known_whether_the_name_is_forgotten(end: str) -> None:
    sent, answer = ENDS[end]
    d = started()
    d.client(sent)
    assert kinds(d.client(bind("", "x", SECRET) + SYNC)).strip("H") == ""
    assert values(told(d, answer)) == [()]
    d = started()
    d.client(sent)
    assert kinds(d.client(bind("", "x", SECRET) + SYNC)).strip("H") == ""
    assert values(told(d, error("25P02") + FAILED)) == [(SECRET,)]


def test_in_one_segment_a_close_is_believed() -> None:
    """If it failed, the server skips the Bind."""
    d = started()
    assert values(d.client(msg("C", b"Sx\0") + bind("", "x", SECRET) + SYNC)) == [()]


@pytest.mark.parametrize("lost", ["failed", "skipped"])
def test_a_parse_that_did_not_happen_gives_no_name(lost: str) -> None:
    d = started(False)
    d.client((parse("y", "bad") if lost == "skipped" else b"") + parse("x", PLAIN) + SYNC)
    d.server(error("42601") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [()]


def test_a_parse_that_failed_because_the_name_is_taken_leaves_the_name() -> None:
    d = started()
    d.client(parse("x", PLAIN) + SYNC)
    d.server(error("42P05") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


def test_values_do_not_wait_for_a_parse_that_was_sent() -> None:
    d = started(False)
    assert values(d.client(parse("x", PLAIN) + SYNC + bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


def test_a_name_that_is_given_anew_behind_its_end_is_there() -> None:
    d = started()
    d.client(ENDS["Close"][0] + parse("x", PLAIN) + SYNC)
    d.server(msg("3") + READY + msg("1") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


def test_what_sql_prepares_is_there_once_that_is_done() -> None:
    d = started(False)
    prepare = msg("Q", b"PREPARE x AS SELECT $1\0")
    d.client(prepare)
    d.server(error("25P02") + FAILED)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [()]
    d.server(error("26000") + READY)
    d.client(prepare)
    d.server(msg("C", b"PREPARE\0") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


@pytest.mark.parametrize("end", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_that_any_name_may_be_there_ends_with_all_names(end: str) -> None:
    d = started(False)
    d.client(msg("Q", b"SELECT f('PREPARE ' || n)\0"))
    d.server(msg("C", b"SELECT 1\0") + READY)
    assert values(d.client(bind("", "z", SECRET) + SYNC)) == [(SECRET,)]
    d.server(msg("2") + READY)
    sent, answer = ENDS[end]
    d.client(sent)
    d.server(answer)
    assert values(d.client(bind("", "z", SECRET) + SYNC)) == [()]


@pytest.mark.parametrize("sql", ["DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES"])
def test_other_discards_leave_the_names(sql: str) -> None:
    d = started()
    d.client(msg("Q", sql.encode() + b"\0"))
    d.server(msg("C", sql.encode() + b"\0") + READY)
    assert values(d.client(bind("", "x", SECRET) + SYNC)) == [(SECRET,)]


@pytest.mark.parametrize(
    ("sql", "name"),
    [("DISCARD ALL", b""), ("DISCARD PLANS", None), ("deallocate all", b""),
     ("DEALLOCATE PREPARE x", b"x")],
)  # fmt: skip
def test_the_planner_tells_which_names_end(sql: str, name: bytes | None) -> None:
    [plan] = (
        Planner()
        .plan(sql.encode(), (), SessionContext("d", "u"), Snapshot(1, "d", {}, {}))
        .statements
    )
    assert plan.named == (None if name is None else Named("deallocate", name))


def test_so_many_names_that_any_may_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.postgres.statements._MOST_NAMES", 3)
    d = started(False)
    for i in range(5):
        d.client(parse(f"n{i}", PLAIN) + SYNC)
        d.server(msg("1") + READY)
    assert len(d.session.plain) == 4
    assert values(d.client(bind("", "n4", SECRET) + SYNC)) == [(SECRET,)]


NAMES = st.sampled_from("xyz")
ACTS = st.one_of(
    st.tuples(st.just("parse"), NAMES),
    st.tuples(st.just("bad"), NAMES),
    st.tuples(st.just("close"), NAMES),
    st.tuples(st.just("bind"), NAMES),
    st.tuples(st.sampled_from(["all", "discard", "begin", "rollback"]), st.just("")),
    st.tuples(st.just("deallocate"), NAMES),
)


class Server:
    """Names of statements as postgres.c keeps them, and whether the transaction has failed."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.status = b"I"
        self.skips = False

    def take(self, kind: str, payload: bytes) -> bytes:
        if kind == "S":
            self.skips = False
            return msg("Z", self.status)
        if self.skips or kind == "H":
            return b""
        if kind == "Q":
            return (self.query(payload[:-1]) or self.failed()) + msg("Z", self.status)
        name = payload[1:-1] if kind == "C" else payload.split(b"\0")[kind == "B"]
        if kind == "C":
            self.names.discard(name)
            return msg("3")
        if kind == "P" and self.status != b"E" and name not in self.names and b"bad" not in payload:
            self.names.add(name)
            return msg("1")
        if kind == "B":
            bound = Bind.read(payload).values
            assert (bound == (SECRET,)) is (name in self.names), "exactly those that are there"
            if name in self.names and self.status != b"E":
                return msg("2")
        self.skips = True
        return self.failed()

    def failed(self) -> bytes:
        self.status = b"E" if self.status != b"I" else b"I"
        return error("25P02")

    def query(self, sql: bytes) -> bytes | None:
        if self.status == b"E" and sql != b"ROLLBACK":
            return None
        if sql in (b"BEGIN", b"ROLLBACK"):
            self.status = b"T" if sql == b"BEGIN" else b"I"
        elif sql == b"DISCARD ALL" and self.status == b"T":
            return None
        elif sql in (b"DISCARD ALL", b"DEALLOCATE ALL"):
            self.names.clear()
        else:
            name = sql.split()[1]
            if name not in self.names:
                return None
            self.names.discard(name)
        return msg("C", sql.partition(b" x")[0] + b"\0")


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(ACTS, st.booleans(), st.integers(0, 4)), max_size=30))
def test_values_go_exactly_to_names_that_are_there(script) -> None:
    """The server answers late, and the client pipelines, but it binds a name of a Parse only when it
    knows how that went: values behind a Parse are meant for it, whether it fails or not."""
    plans = dict(PLANS)
    for name in "xyz":
        plans |= named(f"DEALLOCATE {name}", ("deallocate", name))
    d = Dialogue(FakeSite(plans=plans))
    server = Server()
    waiting: list[tuple[str, bytes]] = []
    doubtful: set[str] = set()

    def answer(count: int) -> None:
        for _ in range(count):
            waiting.extend(d.sent())
            if not waiting:
                return
            d.server(server.take(*waiting.pop(0)))

    texts = {
        "all": "DEALLOCATE ALL",
        "discard": "DISCARD ALL",
        "begin": "BEGIN",
        "rollback": "ROLLBACK",
    }
    for (act, name), sync, count in script:
        if act in ("parse", "bad"):
            doubtful.add(name)
            data = parse(name, PLAIN if act == "parse" else "bad")
        elif act == "close":
            data = msg("C", b"S" + name.encode() + b"\0")
        elif act == "bind":
            if name in doubtful:
                d.session.receive_client(SYNC)
                answer(1000)
                doubtful.clear()
            data = bind("", name, SECRET)
        else:
            text = texts.get(act, f"DEALLOCATE {name}")
            data = SYNC + msg("Q", text.encode() + b"\0")
        d.session.receive_client(data + (SYNC if sync and data[:1] != b"S" else b""))
        answer(count)
    d.session.receive_client(SYNC)
    answer(10_000)
    assert not waiting and not d.session.wire.expected
    assert set(d.session.plain.table) == server.names, "as the server has them"
