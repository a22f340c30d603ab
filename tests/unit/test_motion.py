"""Statements on a table whose column is being migrated: who waits for the switch, who must not?"""

import pytest

from proxy.postgres.needs import LayoutWanted
from proxy.postgres.plan import Effect, StatementPlan
from proxy.postgres.snapshot import Snapshot
from tests.dialogue import READY, Dialogue, FakeSite, bind, execute, kinds, msg, parse, split

SELECT, OTHER, END = b"SELECT email FROM users", b"SELECT 'users'", b"COMMIT"
OLD = StatementPlan((SELECT,), False, command="SELECT", moving=True, locks=True)
NEW = StatementPlan((b"SELECT other FROM users",), True, command="SELECT", moving=True, locks=True)
NAMED = StatementPlan((OTHER,), False, command="SELECT", moving=True)
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

    def enter(self, session: object) -> None:
        self.under_way.add(session)

    def leave(self, session: object) -> None:
        self.under_way.discard(session)


def query(sql: bytes) -> bytes:
    return msg("Q", sql + b"\0")


@pytest.fixture
def talk() -> Dialogue:
    site = FakeSite({SELECT: OLD, OTHER: NAMED, END: COMMIT})
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
