"""Does a prepared statement still mean what was planned when it was prepared? Pure.

The server analyses it anew when the settings or the schema have changed. A text that named an unprotected
namesake could then reach a protected table, unsealed: that is refused. While a column is migrated, what the
text is to the server changes with the column's form: then the statement is prepared again under its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.postgres.expected import F_SWALLOW, K_CLOSE, K_PARSE, K_SYNC
from proxy.postgres.messages import CLOSE, SYNC_MESSAGE, Parse, frame
from proxy.postgres.plan import Refusal, StatementPlan
from proxy.postgres.prepared import server_oids
from proxy.postgres.sqlstate import FEATURE_NOT_SUPPORTED
from proxy.postgres.statements import Statement
from proxy.postgres.values import needed_for_text, render_text, several_keys

if TYPE_CHECKING:
    from proxy.postgres.prepared import PlanQuery
    from proxy.postgres.session import Session


def still_meant(
    session: Session,
    plan_query: PlanQuery,
    name: bytes,
    statement: Statement,
    alone: bool,
    locks: bool,
) -> Statement:
    """The statement as it is to be executed now. `alone`: no message of the same segment follows;
    `locks`: what is sent surely locks its tables. Raises Wait or Refusal."""
    if statement.plan.moving:
        session.may_move(locks)
    if session.plans_hold and statement.as_of == session.as_of:
        return statement
    plan = plan_query(statement.sql, statement.oids).statements[0]
    if plan == statement.plan:
        statement.as_of = session.as_of
        return statement
    if not (plan.moving and statement.plan.moving):
        raise _other_meaning()
    return _prepared_again(session, name, statement, plan, alone)


def still_bound(session: Session, plan_query: PlanQuery, statement: Statement) -> None:
    """A portal of a command that the server looks at only when it is executed, as COPY, is executed: it
    still means what it did when it was bound. Raises Wait or Refusal."""
    session.may_move(statement.plan.locks)
    if session.plans_hold and statement.as_of == session.as_of:
        return
    if plan_query(statement.sql, statement.oids).statements[0] != statement.plan:
        raise _other_meaning()


def _other_meaning() -> Refusal:
    return Refusal(
        FEATURE_NOT_SUPPORTED,
        "a prepared statement on protected names means something else since the settings"
        " or the schema have changed",
        "Prepare the statement again.",
    )


def _prepared_again(
    session: Session, name: bytes, old: Statement, plan: StatementPlan, alone: bool
) -> Statement:
    """Close and Parse of ours, whose answers the client does not see; an error it does."""
    wire = session.wire
    codecs = session.codecs(needed_for_text(plan))
    several = several_keys(plan, codecs)
    new = Statement(plan, old.oids, old.sql, session.as_of, old.clears_statements, several=several)
    conforming = session.settings.standard_conforming_strings
    text = render_text(plan.segments, codecs, session.text_context, conforming, several)
    wire.put_server(frame(CLOSE, b"S" + name + b"\0"))
    wire.expect(K_CLOSE, F_SWALLOW)
    wire.put_server(Parse(name, text, server_oids(plan, old.oids, several)).message())
    wire.expect(K_PARSE, F_SWALLOW, session.statements.change(name, new, wire.segment))
    if alone:
        wire.put_server(SYNC_MESSAGE)
        wire.expect(K_SYNC, F_SWALLOW)
    return new
