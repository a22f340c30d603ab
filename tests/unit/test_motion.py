"""Statements on a table whose column is being migrated: who waits for the switch, who must not?"""

import time

import pytest

from proxy.postgres.motion import Motion
from proxy.postgres.needs import LayoutWanted
from proxy.postgres.plan import Effect, StatementPlan
from proxy.postgres.snapshot import Snapshot
from tests.dialogue import READY, Dialogue, FakeSite, bind, execute, kinds, msg, parse, split

SELECT, OTHER, END = b"SELECT email FROM users", b"SELECT 'users'", b"COMMIT"
OLD = StatementPlan((SELECT,), False, command="SELECT", moving=True, locks=True)
NEW = StatementPlan((b"SELECT other FROM users",), True, command="SELECT", moving=True, locks=True)
NAMED = StatementPlan((OTHER,), False, command="SELECT", moving=True)
TRUNCATE = b"TRUNCATE users"
LATE = StatementPlan((TRUNCATE,), False, command="TRUNCATE", moving=True, locks=True)
COMMIT = StatementPlan(
    (END,), False, command="TRANSACTION", effects=frozenset({Effect.END, Effect.SETTINGS_CHANGED})
)
INSIDE = msg("Z", b"T")
DONE = msg("C", b"SELECT 0\0")
SYNC = msg("S")


class FakeMotion:
    def __init__(self) -> None:
        self.open = True
        self.under_way: set[object] = set()

    def goes_on(self, session: object) -> bool:
        return session in self.under_way

    def enter(self, session: object) -> None:
        self.under_way.add(session)

    def leave(self, session: object) -> None:
        self.under_way.discard(session)


def query(sql: bytes) -> bytes:
    return msg("Q", sql + b"\0")


@pytest.fixture
def talk() -> Dialogue:
    site = FakeSite({SELECT: OLD, OTHER: NAMED, END: COMMIT, TRUNCATE: LATE})
    site.motion = FakeMotion()  # type: ignore[assignment]
    return Dialogue(site)


def motion(talk: Dialogue) -> FakeMotion:
    found = talk.site.motion
    assert isinstance(found, FakeMotion)
    return found


def test_a_statement_is_under_way_until_it_is_answered(talk: Dialogue) -> None:
    talk.session.receive_client(query(SELECT))
    assert motion(talk).under_way == {talk.session}
    talk.session.receive_server(DONE + READY)
    assert not motion(talk).under_way


def test_new_statements_wait_while_the_lock_is_gone(talk: Dialogue) -> None:
    motion(talk).open = False
    talk.session.receive_client(query(SELECT))
    assert talk.session.data_to_server() == b""
    assert talk.session.pending() == LayoutWanted()
    motion(talk).open = True
    talk.session.resolve(LayoutWanted(), None)
    assert kinds(split(talk.session.data_to_server())) == "Q"


def test_a_block_that_has_locked_the_table_goes_on(talk: Dialogue) -> None:
    talk.session.receive_client(query(SELECT))
    talk.session.data_to_server()
    talk.session.receive_server(DONE + INSIDE)
    motion(talk).open = False
    talk.session.receive_client(query(SELECT))
    assert kinds(split(talk.session.data_to_server())) == "Q"
    assert not motion(talk).under_way


def test_what_follows_the_end_of_the_block_in_the_same_stream_waits(talk: Dialogue) -> None:
    talk.session.receive_client(query(SELECT))
    talk.session.receive_server(DONE + INSIDE)
    talk.session.data_to_server()
    motion(talk).open = False
    talk.session.receive_client(
        parse("", "COMMIT") + bind("", "") + execute() + SYNC + query(SELECT)
    )
    assert "Q" not in kinds(split(talk.session.data_to_server()))


def test_a_name_alone_locks_nothing(talk: Dialogue) -> None:
    talk.session.receive_client(query(OTHER))
    talk.session.receive_server(DONE + INSIDE)
    talk.session.data_to_server()
    motion(talk).open = False
    talk.session.receive_client(query(SELECT))
    assert talk.session.data_to_server() == b""


def test_a_prepared_statement_is_prepared_again_unseen(talk: Dialogue) -> None:
    talk.session.receive_client(parse("s", SELECT.decode()) + SYNC)
    talk.session.receive_server(msg("1") + READY)
    talk.session.data_to_server()
    talk.session.data_to_client()
    talk.site.plans[SELECT] = NEW
    talk.site.snapshot = Snapshot(7, "shop", {}, {})  # type: ignore[misc]
    talk.session.receive_client(bind("", "s") + execute() + SYNC)
    sent = split(talk.session.data_to_server())
    assert kinds(sent) == "CPBES"
    assert sent[1][1].startswith(b"s\0SELECT other FROM users\0")
    talk.session.receive_server(msg("3") + msg("1") + msg("2") + DONE + READY)
    assert kinds(split(talk.session.data_to_client())) == "2CZ"


def test_an_error_of_preparing_again_reaches_the_client(talk: Dialogue) -> None:
    talk.session.receive_client(parse("s", SELECT.decode()) + SYNC)
    talk.session.receive_server(msg("1") + READY)
    talk.session.data_to_client()
    talk.site.plans[SELECT] = NEW
    talk.site.snapshot = Snapshot(7, "shop", {}, {})  # type: ignore[misc]
    talk.session.receive_client(bind("", "s") + execute() + SYNC)
    bad = msg("E", b"SERROR\0VERROR\0C42P01\0Mgone\0\0")
    talk.session.receive_server(msg("3") + bad + READY)
    assert kinds(split(talk.session.data_to_client())) == "EZ"


@pytest.mark.parametrize(
    "first",
    [parse("", TRUNCATE.decode()), parse("", TRUNCATE.decode()) + bind("p", "")],
    ids=["Parse", "Bind"],
)
def test_a_command_that_is_not_executed_yet_has_locked_nothing(
    talk: Dialogue, first: bytes
) -> None:
    """The server looks at the tables of a utility command when it is executed."""
    talk.session.receive_client(first + SYNC)
    talk.session.receive_server(msg("1") + (msg("2") if b"p\0" in first else b"") + INSIDE)
    talk.session.data_to_server()
    assert not motion(talk).under_way
    motion(talk).open = False
    talk.session.receive_client(bind("q", "") if b"p\0" not in first else execute("p"))
    assert talk.session.data_to_server() == b""
    assert talk.session.pending() == LayoutWanted()


def test_a_portal_of_such_a_command_is_refused_when_it_means_something_else(talk: Dialogue) -> None:
    talk.session.receive_client(parse("", TRUNCATE.decode()) + bind("p", "") + SYNC)
    talk.session.receive_server(msg("1") + msg("2") + INSIDE)
    talk.session.data_to_server()
    talk.site.plans[TRUNCATE] = StatementPlan(
        (b"other",), False, command="TRUNCATE", moving=True, locks=True
    )
    talk.site.snapshot = Snapshot(7, "shop", {}, {})  # type: ignore[misc]
    talk.session.receive_client(execute("p") + SYNC)
    assert "E" not in kinds(split(talk.session.data_to_server()))


def test_a_statement_that_is_only_described_has_locked_nothing(talk: Dialogue) -> None:
    talk.session.receive_client(parse("s", SELECT.decode()) + SYNC)
    talk.session.receive_server(msg("1") + READY)
    talk.session.receive_client(msg("D", b"Ss\0") + SYNC)
    talk.session.receive_server(msg("t", b"\0\0") + msg("n") + INSIDE)
    talk.session.data_to_server()
    motion(talk).open = False
    talk.session.receive_client(bind("", "s"))
    assert talk.session.data_to_server() == b""


def test_what_belongs_to_a_statement_under_way_does_not_wait(talk: Dialogue) -> None:
    """The lock is kept until that is answered, which needs the rest of its segment."""
    talk.session.receive_client(parse("", SELECT.decode()))
    assert kinds(split(talk.session.data_to_server())) == "P"
    motion(talk).open = False
    talk.session.receive_client(bind("", "") + execute() + SYNC)
    assert kinds(split(talk.session.data_to_server())) == "BES"
    talk.session.receive_client(query(SELECT))
    assert talk.session.data_to_server() == b"", "another one waits"


def test_with_the_connection_the_lock_is_gone_at_once(talk: Dialogue) -> None:
    made = Motion(talk.site.config, None, None)  # type: ignore[arg-type]
    made.enter(talk.session)
    made._now_open(time.monotonic())
    assert made.open
    assert made.goes_on(talk.session)
    made._lost()
    assert not made.open
    assert not made.goes_on(talk.session)
