"""SQL cursors over protected columns: DECLARE, FETCH, MOVE, CLOSE (PostgreSQL documentation, DECLARE). Pure.

A cursor is a portal under its own name, for SQL and for the protocol alike, so it lives in the session's
portals. DECLARE is planned like its query, whose outputs the cursor keeps; what FETCH shows is known to the
session only, when it is sent. Names are settled by the server's answers, as everywhere (`statements.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from proxy.postgres import sqlstate
from proxy.postgres.needs import Use as KeyUse
from proxy.postgres.plan import Cursor, Refusal, StatementPlan
from proxy.postgres.statements import Change, Portal, Statement
from proxy.postgres.values import needed_for_rows, result_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.postgres.session import Session
    from proxy.postgres.values import Codecs, ResultRows


def resolved(session: Session, plans: Sequence[StatementPlan]) -> tuple[StatementPlan, ...]:
    """The statements of one text, with the outputs of its FETCHes. Raises Uncertain."""
    if not any(p.cursor for p in plans):
        return tuple(plans)
    here: dict[bytes, Cursor] = {}
    found = []
    for plan in plans:
        cursor = plan.cursor
        if cursor is not None and cursor.verb == "declare":
            here[cursor.name] = cursor
        elif cursor is not None and cursor.verb == "fetch":
            plan = _fetched(plan, cursor, here.get(cursor.name) or _declared(session, cursor.name))
        found.append(plan)
    return tuple(found)


def _declared(session: Session, name: bytes) -> Cursor | None:
    portal = session.portals.look(name, session.wire.segment)
    return None if portal is None else portal.cursor


def _fetched(plan: StatementPlan, fetch: Cursor, declared: Cursor | None) -> StatementPlan:
    if declared is None or not declared.outputs:
        return plan
    fetch = replace(fetch, binary=declared.binary)
    return replace(plan, cursor=fetch, outputs=declared.outputs, shown=declared.shown)


def needed_for_cursor(session: Session, cursor: Cursor | None) -> set[KeyUse]:
    """Keys for the rows of a cursor that is to be declared. Refusal when there are too many."""
    if cursor is None or cursor.verb != "declare" or not cursor.outputs:
        return set()
    if len(session.portals) >= session.site.config.limits.max_statements_per_session:
        raise Refusal(
            sqlstate.CONFIGURATION_LIMIT_EXCEEDED,
            "too many cursors on protected columns in one session",
        )
    return needed_for_rows(cursor.outputs)


def cursor_rows(session: Session, cursor: Cursor, codecs: Codecs) -> ResultRows | None:
    """Rows as the cursor itself gives them: in its own format, whoever asks."""
    outputs = cursor.outputs
    if not outputs:
        return None
    formats = (int(cursor.binary),) * len(outputs)
    return result_rows(outputs, formats, codecs, session.text_context, not cursor.binary)


def changes(session: Session, plan: StatementPlan, codecs: Codecs) -> list[Change[Portal]]:
    """What becomes of the names when this statement has been executed; to be noted when it is sent."""
    cursor, names, segment = plan.cursor, session.portals, session.wire.segment
    if cursor is None or cursor.verb in ("fetch", "move"):
        return []
    if cursor.verb == "close":
        closed = [cursor.name] if cursor.name else list(names.table)
        return [names.change(name, None, segment) for name in closed if name in names.table]
    if not cursor.outputs:
        known = cursor.name in names.table
        return [names.change(cursor.name, None, segment)] if known else []
    rows = cursor_rows(session, cursor, codecs)
    # to the protocol the cursor is a portal whose statement yields these outputs
    query = StatementPlan(plan.segments, plan.rewritten, outputs=cursor.outputs, shown=cursor.shown)
    statement = Statement(query, (), b"", (0, 0))
    formats = (int(cursor.binary),) * len(cursor.outputs)
    return [names.change(cursor.name, Portal(statement, rows, formats, cursor), segment)]
