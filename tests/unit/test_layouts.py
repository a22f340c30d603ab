"""Which form of a migrating column do clients use, in which order do they see the columns?"""

import json

import pytest

from proxy.config.model import ColumnConfig
from proxy.postgres.catalog import build_snapshot, protected_columns
from proxy.postgres.layouts import place_comment, place_of
from proxy.postgres.plan import Plan, SessionContext
from proxy.postgres.rewrite import Planner
from proxy.postgres.snapshot import Snapshot

CONTEXT = SessionContext("d", "u")


def snapshot(columns: list[tuple[str, int]], check: tuple[str, str, str | None] | None) -> Snapshot:
    """Of a table `p`, whose columns are (name, type) and whose CHECK is (name, column, comment)."""
    policy = protected_columns(
        [
            ColumnConfig(
                column="public.p.c", type="text", ring="r", equality=True, state="migrating"
            )
        ],
        "d",
    )
    described = [[n, t, -1, n == "c__bx", False, False, i + 1] for i, (n, t) in enumerate(columns)]
    relation = ["public", "p", "r", None, None, described, ["id"], [], [check] if check else None]
    answer = {"schemas": ["public"], "system": [], "reads": None, "relations": [relation]}
    return build_snapshot(json.dumps(answer), "d", policy)


PLAIN = snapshot([("id", 23), ("c", 25), ("n", 23)], None)
FILLING = snapshot(
    [("id", 23), ("c", 25), ("n", 23), ("c__sealing", 17), ("c__bx", 17)],
    ("c__sealed", "c__sealing", place_comment(2)),
)
SWITCHED = snapshot(
    [("id", 23), ("c__clear", 25), ("n", 23), ("c", 17), ("c__bx", 17)],
    ("c__sealed", "c", place_comment(2)),
)
FINISHED = snapshot(
    [("id", 23), ("n", 23), ("c", 17), ("c__bx", 17)], ("c__sealed", "c", place_comment(2))
)


def plan(sql: str, at: Snapshot) -> Plan:
    return Planner().plan(sql.encode(), (), CONTEXT, at)


def text(sql: str, at: Snapshot) -> bytes:
    return b"".join(s for s in plan(sql, at).statements[0].segments if isinstance(s, bytes))


@pytest.mark.parametrize("at", [PLAIN, FILLING])
def test_a_column_in_clear_is_not_rewritten(at: Snapshot) -> None:
    found = plan("SELECT id FROM p WHERE c = 'x'", at)
    assert found.transparent
    assert found.statements[0].moving
    assert found.statements[0].locks


@pytest.mark.parametrize("at", [FILLING, SWITCHED, FINISHED])
def test_clients_see_their_columns_in_their_order(at: Snapshot) -> None:
    assert text("SELECT * FROM p", at) == b'SELECT "p"."id", "p"."c", "p"."n" FROM p'
    assert b'p ("id", "c", "n") VALUES' in text("INSERT INTO p VALUES (1, $1, 2)", at)
    assert text("COPY p FROM STDIN", at) == b'COPY p ("id", "c", "n") FROM STDIN'


@pytest.mark.parametrize("at", [SWITCHED, FINISHED])
def test_a_sealed_column_is_searched_by_its_tag(at: Snapshot) -> None:
    assert b'"c__bx" = ' in text("SELECT id FROM p WHERE c = $1", at)


def test_a_with_query_of_the_tables_name_locks_nothing_for_sure() -> None:
    found = plan("WITH p AS (SELECT 1) SELECT * FROM p", FILLING)
    assert found.statements[0].moving
    assert not found.statements[0].locks


def test_what_clients_may_not_name_they_may_not_while_it_is_in_clear() -> None:
    assert plan("SELECT id FROM p", FILLING).statements[0].rewritten is False
    assert FILLING.relations["public", "p"].beside >= {"c__sealing", "c__bx"}


def test_only_our_comment_is_a_place() -> None:
    assert place_of(place_comment(12)) == 12
    assert place_of("stands at 12") is None
    assert place_of(None) is None
    assert place_of("12") is None
