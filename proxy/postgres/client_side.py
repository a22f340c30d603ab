"""The client's messages that touch, or may touch, something protected (facts: postgres.md 5.7).

Pure; works on the session's `Wire`. Each handler first finds out all it needs, raising `Wait`
when something is missing (the message is then tried again), and only then changes state. A local
refusal is made to happen on the server too: it gets a Bind of a statement that does not exist,
its error is replaced by ours, and the client's messages up to Sync are dropped. So order,
transaction state and ReadyForQuery are the server's own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from proxy.errors import AccessDenied, IntegrityError, KeyUnavailable
from proxy.metrics import pg_statements_total
from proxy.native import FastParse, NativeError, WireError
from proxy.postgres import sqlstate
from proxy.postgres.checks import Operands
from proxy.postgres.copy_data import (
    CopyData,
    context_of,
    copy_error,
    copy_stream,
    needed_for_copy,
)
from proxy.postgres.cursors import changes, needed_for_cursor, resolved
from proxy.postgres.expected import (
    F_OPENS,
    K_BIND,
    K_CLOSE,
    K_DESCRIBE,
    K_EXECUTE,
    K_FUNCTION,
    K_PARSE,
    K_POISON,
    K_QUERY,
    K_SYNC,
)
from proxy.postgres.fast import fast_bind
from proxy.postgres.messages import (
    BIND,
    CLOSE,
    COPY_FAIL,
    DESCRIBE,
    EXECUTE,
    FUNCTION_CALL,
    PARSE,
    QUERY,
    SYNC_MESSAGE,
    TERMINATE,
    Bind,
    Malformed,
    Parse,
    c_string,
    error_response,
    frame,
    kind_and_name,
)
from proxy.postgres.needs import Wait
from proxy.postgres.plan import Effect, Literal, Plan, Refusal, StatementPlan, UnknownColumns
from proxy.postgres.prepared import know_names, name_changes, server_oids, with_names
from proxy.postgres.reprepare import still_bound, still_meant
from proxy.postgres.server_side import DescribePortal, DescribeStatement, QueryAnswer
from proxy.postgres.statements import (
    POISON,
    POISON_NAME,
    Change,
    Names,
    Portal,
    Statement,
    Uncertain,
)
from proxy.postgres.types.base import DataError, TextContext
from proxy.postgres.values import (
    Codecs,
    ResultRows,
    needed_for_bind,
    needed_for_rows,
    needed_for_text,
    render_text,
    result_formats,
    result_rows,
    server_parameters,
    several_keys,
)

if TYPE_CHECKING:
    from proxy.native import FastBind, RowPlan, Wire
    from proxy.postgres.session import Session

_LOCAL = frozenset({Effect.SCHEMA_CHANGED, Effect.SETTINGS_CHANGED})
_CLEARS = re.compile(rb"\b(deallocate|discard)\b", re.IGNORECASE)
_EXECUTES = re.compile(rb"\b(execute)\b", re.IGNORECASE)
_ROLLBACK = re.compile(rb"\b(rollback|abort)\b", re.IGNORECASE)


_PARSES = 64  # texts of unnamed statements that a session does natively
_refused = pg_statements_total.labels("refused")


class ClientSide:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._wire: Wire = session.wire

    def message(self, kind: int, payload: bytes) -> None:
        """Handles the held message. Raises Wait; then nothing has changed."""
        wire = self._wire
        if kind == TERMINATE:
            self._session.finished = True
            wire.forward_client()
            return
        if wire.server_skips or wire.discard:
            wire.drop_client()  # the server would discard it, too, but would have seen it
            return
        if wire.copy_in and kind != COPY_FAIL:
            raise WireError("client", "unexpected message type during COPY from stdin")
        try:
            if kind in (QUERY, FUNCTION_CALL) and wire.segment_open and wire.expected:
                # if one before it failed, the server skips it: no Sync of ours may end that
                raise Wait(None)
            if kind == QUERY:
                self._query(payload)
            elif kind == PARSE:
                self._parse(Parse.read(payload))
            elif kind == BIND:
                self._bind(Bind.read(payload))
            elif kind == DESCRIBE:
                self._describe(payload)
            elif kind == EXECUTE:
                self._execute(payload)
            elif kind == CLOSE:
                self._close(payload)
            elif kind == FUNCTION_CALL:
                self._function_call()
            elif kind == COPY_FAIL:
                self._copy_fail(payload)
            else:
                raise Malformed(f"invalid frontend message type {kind}")
        except Uncertain:
            raise Wait(None) from None
        except Refusal as refusal:
            error = error_response(
                refusal.sqlstate, refusal.message, hint=refusal.hint, position=refusal.position
            )
            self._refuse(error, kind)
        except DataError as bad:
            self._refuse(error_response(bad.sqlstate, bad.message), kind)
        except AccessDenied:
            self._refuse(
                error_response(
                    sqlstate.INSUFFICIENT_PRIVILEGE, "permission denied for protected column"
                ),
                kind,
            )
        except (KeyUnavailable, IntegrityError, NativeError):
            self._refuse(
                error_response(
                    sqlstate.SYSTEM_ERROR, "the keys of a protected column are unavailable"
                ),
                kind,
            )

    def _refuse(self, error: bytes, kind: int) -> None:
        wire = self._wire
        wire.put_server(POISON)
        wire.expect(K_POISON, 0, error)
        if kind in (QUERY, FUNCTION_CALL):
            wire.put_server(SYNC_MESSAGE)
            wire.expect(K_SYNC)
        else:
            wire.discard = True
        wire.drop_client()
        _refused.inc()

    # ---- simple protocol -----------------------------------------------------------------------
    def _query(self, payload: bytes) -> None:
        session, wire = self._session, self._wire
        if not payload.endswith(b"\0"):
            raise Malformed("Query without end")
        sql = payload[:-1]
        plan = self._plan(sql, ())
        know_names(session.plain, sql, plan.statements)
        if any(s.command == "TRANSACTION" and s.effects for s in plan.statements):
            session.transaction_ends()
        for s in plan.statements:
            if s.moving:
                session.may_move(s.locks)
        found, prepared = with_names(session, plan.statements, self._plan, self._still, True)
        plan = self._as_known(plan, resolved(session, found))
        names = session.statements or session.portals or session.plain
        clears = bool(names) and _CLEARS.search(sql) is not None
        if plan.transparent:
            changed = self._changes(plan, prepared, {})
            cookie = None
            if any(changed):
                cookie = QueryAnswer(plan.statements, (None,) * len(changed), clears, changed)
            elif clears:
                cookie = QueryAnswer((), (), clears)
            wire.expect(K_QUERY, 0, cookie)
            wire.forward_client()
            self._effects(plan.statements, sql)
            return
        uses = set()
        for s in plan.statements:
            uses |= needed_for_text(s) | needed_for_rows(s.outputs) | needed_for_copy(s.copy)
            uses |= needed_for_cursor(session, s.cursor)
        codecs = session.codecs(uses)
        ctx = session.text_context
        conforming = session.settings.standard_conforming_strings
        text = b"".join(
            render_text(s.segments, codecs, ctx, conforming, several_keys(s, codecs))
            for s in plan.statements
        )
        rows = tuple(self._answer_rows(s, codecs) for s in plan.statements)
        opens = any(r is not None and not (isinstance(r, CopyData) and r.inwards) for r in rows)
        wire.put_server(frame(QUERY, text + b"\0"))
        changed = self._changes(plan, prepared, codecs)
        answer = QueryAnswer(plan.statements, rows, clears, changed)
        wire.expect(K_QUERY, F_OPENS if opens else 0, answer)
        wire.drop_client()
        self._effects(plan.statements, sql)

    def _answer_rows(self, plan: StatementPlan, codecs: Codecs) -> ResultRows | CopyData | None:
        """How the rows of one statement of a simple Query are treated."""
        if plan.copy is not None:
            return self._copy_stream(plan, codecs)
        if plan.outputs is None or not any(plan.outputs):
            return None
        binary = plan.cursor is not None and plan.cursor.binary
        formats = (int(binary),) * len(plan.visible or ())
        ctx = self._session.text_context
        operands = Operands((), (), (), ctx)
        return result_rows(plan.outputs, formats, codecs, ctx, not binary, plan.check, operands)

    def _changes(
        self, plan: Plan, prepared: tuple[Statement | None, ...], codecs: Codecs
    ) -> tuple[list[Change[Any]], ...]:
        session = self._session
        return tuple(
            [*changes(session, s, codecs), *name_changes(session, s, new)]
            for s, new in zip(plan.statements, prepared, strict=True)
        )

    def _as_known(self, plan: Plan, found: tuple[StatementPlan, ...]) -> Plan:
        """The plan of a text whose FETCHes and EXECUTEs are known. Refusal."""
        if found == plan.statements:
            return plan
        if self._session.settings.client_encoding != "UTF8":
            raise _encoding(self._session.settings.client_encoding)
        return replace(plan, statements=found)

    def _fetching(self, statement: Statement) -> Statement:
        """A prepared FETCH yields what its cursor yields now. Raises Uncertain, Refusal."""
        with_names(self._session, (statement.plan,), self._plan, self._still, False)
        (plan,) = resolved(self._session, (statement.plan,))
        return statement if plan is statement.plan else replace(statement, plan=plan)

    def _copy_stream(self, plan: StatementPlan, codecs: Codecs) -> CopyData:
        assert plan.copy is not None
        session = self._session
        return copy_stream(
            plan.copy,
            codecs,
            session.text_context,
            session.site.config.limits.max_message_bytes,
            session.settings.server_version,
        )

    def _function_call(self) -> None:
        if not self._session.site.config.fast_path_calls:
            raise Refusal(
                sqlstate.FEATURE_NOT_SUPPORTED,
                "fast-path function calls are not allowed in a database with protected columns",
                hint="Call the function with SELECT, or set postgres.fast_path_calls.",
            )
        self._wire.expect(K_FUNCTION)
        self._wire.forward_client()

    # ---- COPY FROM STDIN -----------------------------------------------------------------------
    def copy_failed(self, stream: CopyData, error: Exception) -> None:
        """A row could not be sealed: the COPY fails on the server, too."""
        self._end_copy(copy_error(stream, error))

    def copy_keys_gone(self, stream: CopyData) -> None:
        message = "the keys of a protected column are unavailable"
        self._end_copy(error_response(sqlstate.SYSTEM_ERROR, message, context=context_of(stream)))

    def _copy_fail(self, payload: bytes) -> None:
        """The client gives up. Its reason may quote data, so the server is not told."""
        stream = self._session.copying
        assert stream is not None
        reason, _ = c_string(payload, 0)
        self._wire.drop_client()
        self._end_copy(
            error_response(
                sqlstate.QUERY_CANCELED,
                f"COPY from stdin failed: {reason.decode('utf-8', 'replace')}",
                context=f"COPY {stream.plan.relation}, line {stream.line + 1}",
            )
        )

    def _end_copy(self, error: bytes) -> None:
        self._session.copying = None
        self._wire.fail_copy(frame(COPY_FAIL, POISON_NAME + b"\0"), POISON_NAME, error)

    # ---- extended protocol ---------------------------------------------------------------------
    def _parse(self, message: Parse) -> None:
        session, wire = self._session, self._wire
        plan = self._plan(message.sql, message.oids)
        if len(plan.statements) > 1:
            raise Refusal("42601", "cannot insert multiple commands into a prepared statement")
        one = plan.statements[0] if plan.statements else None
        clears = _CLEARS.search(message.sql) is not None
        special = one is not None and (
            not plan.transparent
            or plan.sensitive
            or one.moving
            or bool(_LOCAL & one.effects)
            or clears
            or one.cursor is not None
            or one.named is not None
        )
        if one is not None:
            if one.moving:
                session.may_move(one.locks_early)
            with_names(session, (one,), self._plan, self._still, False)
        know_names(session.plain, message.sql, plan.statements)
        if one is None or not special:
            change: Change[Any] | None = None
            if message.name in session.statements.table:
                wire.fast.pop(message.name, None)
                change = session.statements.change(message.name, None, wire.segment)
            if message.name:
                change = session.plain.sent(message.name, wire.segment, change)
            else:
                wire.unnamed_plain = True
            wire.expect(K_PARSE, 0, change)
            wire.forward_client()
            return
        if len(session.statements) >= session.site.config.limits.max_statements_per_session:
            raise Refusal(
                sqlstate.CONFIGURATION_LIMIT_EXCEEDED,
                "too many prepared statements on protected columns in one session",
            )
        codecs = session.codecs(needed_for_text(one))
        wire.fast.pop(message.name, None)
        several = several_keys(one, codecs)
        statement = Statement(
            one, message.oids, message.sql, session.as_of, clears, several=several
        )
        change = session.statements.change(message.name, statement, wire.segment)
        wire.expect(K_PARSE, 0, change)
        if plan.transparent:
            wire.forward_client()
            return
        text = render_text(
            one.segments,
            codecs,
            session.text_context,
            session.settings.standard_conforming_strings,
            several,
        )
        oids = server_oids(one, message.oids, several)
        wire.put_server(Parse(message.name, text, oids).message())
        wire.drop_client()

    def _bind(self, message: Bind) -> None:
        session, wire = self._session, self._wire
        names: Names[Portal] = session.portals
        statement = self._statement(message.statement)
        if statement is None:
            change = None
            if message.portal in names.table:
                change = names.change(message.portal, None, wire.segment)
            name = message.statement
            if not (session.plain.may_be(name, wire.segment) if name else wire.unnamed_plain):
                # the same error, and the values may have been meant for something protected
                wire.without_values(message.portal, message.statement, change)
                return
            wire.expect(K_BIND, 0, change)
            wire.forward_client()
            return
        statement = self._fetching(self._still(message.statement, statement, False))
        plan = statement.plan
        if not plan.rewritten and not plan.outputs:
            change = names.change(message.portal, Portal(statement, None, ()), wire.segment)
            wire.expect(K_BIND, 0, change)
            wire.forward_client()
            return
        codecs = session.codecs(needed_for_bind(plan))
        ctx = session.text_context
        if not several_keys(plan, codecs) <= statement.several:
            raise Refusal(
                sqlstate.FEATURE_NOT_SUPPORTED,
                "cached plan must not change: a key ring was rotated since the statement was prepared",
                "Prepare the statement again.",
            )
        formats, values = server_parameters(
            plan, statement.oids, message.formats, message.values, codecs, ctx, statement.several
        )
        asked = message.result_formats
        portal = Portal(statement, None, asked)
        if plan.outputs is not None and any(plan.outputs):
            delivered = result_formats(plan.visible or (), asked)
            operands = Operands(statement.oids, message.formats, message.values, ctx)
            rows = result_rows(plan.outputs, delivered, codecs, ctx, False, plan.check, operands)
            portal = Portal(statement, rows, delivered)
            asked = tuple(
                fmt if column is None else 1
                for column, fmt in zip(plan.visible or (), delivered, strict=True)
            )
            asked += (1,) * (len(plan.outputs) - len(delivered))
        wire.put_server(Bind(message.portal, message.statement, formats, values, asked).message())
        wire.expect(K_BIND, 0, names.change(message.portal, portal, wire.segment))
        wire.drop_client()
        if message.portal == b"":
            self._faster(message.statement, statement, codecs, ctx)

    def _statement(self, name: bytes) -> Statement | None:
        """The prepared statement that needs treatment, if this is one. Raises Uncertain."""
        found: Statement | None = self._wire.unnamed_statement if name == b"" else None
        return found or self._session.statements.look(name, self._wire.segment)

    def _faster(self, name: bytes, statement: Statement, codecs: Codecs, ctx: TextContext) -> None:
        """The next Binds of this statement may be done natively; without a name, its Parses too."""
        session, wire = self._session, self._wire
        plan = statement.plan
        payload = b""
        old: FastBind | FastParse | None
        if name:
            old = wire.fast.pop(name, None)
        else:
            payload = Parse(b"", statement.sql, statement.oids).message()[5:]
            old = wire.parses.pop(payload, None)
        if old is not None:
            session.site.note_uses(session.principal, needed_for_bind(plan), old.uses)
        if statement.slow or not session.site.fast or not (name or session.site.fast_unnamed):
            return
        if name and not session.statements.settled(name):
            return
        made = fast_bind(statement, codecs, ctx)
        if made is None:
            statement.slow = True
        elif name:
            wire.fast[name] = made
        elif not any(isinstance(segment, Literal) for segment in plan.segments):
            # a sealed literal must not be sent twice: two rows would show that they hold the same
            text = render_text(plan.segments, codecs, ctx, True, statement.several)
            oids = server_oids(plan, statement.oids, statement.several)
            if len(wire.parses) >= _PARSES:
                wire.parses.clear()
            wire.parses[payload] = FastParse(
                Parse(b"", text, oids).message(), made, statement, DescribeStatement(statement)
            )

    def _still(
        self, name: bytes, statement: Statement, alone: bool = True, described: bool = False
    ) -> Statement:
        """The statement as it is to be executed. `alone`: no message of the same segment follows;
        `described`: it is not executed. Raises Wait or Refusal."""
        plan = statement.plan
        locks = not described and (plan.locks if alone else plan.locks_early)
        return still_meant(self._session, self._plan, name, statement, alone, locks)

    def _describe(self, payload: bytes) -> None:
        session, wire = self._session, self._wire
        kind, name = kind_and_name(payload)
        cookie: object = None
        if kind == ord("S"):
            statement = self._statement(name)
            if statement is not None:
                if session.site.motion is not None:
                    statement = self._still(name, statement, False, described=True)
                cookie = DescribeStatement(self._fetching(statement))
        else:
            portal = session.portals.look(name, wire.segment)
            if portal is not None:
                cookie = DescribePortal(portal)
        wire.expect(K_DESCRIBE, 0, cookie)
        wire.forward_client()

    def _execute(self, payload: bytes) -> None:
        session, wire = self._session, self._wire
        name, at = c_string(payload, 0)
        if len(payload) - at != 4:
            raise Malformed("Execute")
        portal = session.portals.look(name, wire.segment)
        if portal is None:
            wire.expect(K_EXECUTE)
        else:
            statement = portal.statement
            if statement.plan.moving and not statement.plan.locks_early:
                still_bound(session, self._plan, statement)
            codecs = session.codecs(needed_for_cursor(session, statement.plan.cursor))
            changed: list[Change[Any]] = [
                *changes(session, statement.plan, codecs),
                *name_changes(session, statement.plan, None),
            ]
            cookie = None
            if statement.clears_statements or changed:
                cookie = QueryAnswer((), (), statement.clears_statements, (changed,))
            rows: RowPlan | CopyData | None = portal.rows
            if statement.plan.copy is not None:
                codecs = session.codecs(needed_for_copy(statement.plan.copy))
                rows = self._copy_stream(statement.plan, codecs)
            wire.expect(K_EXECUTE, 0, cookie, rows)
            self._effects((statement.plan,), b"")
        wire.forward_client()

    def _close(self, payload: bytes) -> None:
        session, wire = self._session, self._wire
        kind, name = kind_and_name(payload)
        names: Names[Statement] | Names[Portal]
        names = session.statements if kind == ord("S") else session.portals
        if kind == ord("S"):
            wire.fast.pop(name, None)
        change: Change[Any] | None = None
        if name in names.table:
            change = names.change(name, None, wire.segment)
        if kind == ord("S") and name in session.plain.table:
            change = session.plain.change(name, None, wire.segment, change)
        wire.expect(K_CLOSE, 0, change)
        wire.forward_client()

    # ---- plans ---------------------------------------------------------------------------------
    def _plan(self, sql: bytes, oids: tuple[int, ...]) -> Plan:
        session = self._session
        session.current_enough(sql)
        codec = session.settings.codec
        text = sql
        if codec != "utf-8":
            if codec is None and not sql.isascii():
                raise _encoding(session.settings.client_encoding)
            text = _to_utf8(sql, codec)
        else:
            try:
                sql.decode()
            except UnicodeDecodeError:
                text = sql.decode("latin-1").encode()
        try:
            plan = session.site.plan(text, oids, session.context, session.snapshot)
        except UnknownColumns:
            session.look_again(sql)
            raise
        session.looked_again = False
        if not plan.transparent:
            if text is not sql and text != sql:
                raise _encoding(session.settings.client_encoding)
            if session.settings.client_encoding != "UTF8":
                raise _encoding(session.settings.client_encoding)
        if session.statements and _EXECUTES.search(sql):
            self._no_execute(plan)
        return session.site.shown(session.principal, plan)

    def _no_execute(self, plan: Plan) -> None:
        """SQL's EXECUTE could name a statement that was prepared by Parse and rewritten."""
        if any(not s.command for s in plan.statements):
            raise Refusal(
                sqlstate.FEATURE_NOT_SUPPORTED,
                "EXECUTE is not supported while statements on protected columns are prepared",
                hint="Execute the statement through the extended query protocol.",
            )

    def _effects(self, statements: tuple[StatementPlan, ...], sql: bytes) -> None:
        session = self._session
        for statement in statements:
            if statement.command == "TRANSACTION" and statement.effects:
                session.transaction_ends()
            if Effect.SETTINGS_CHANGED in statement.effects:
                session.settings.may_change()
                self._wire.forget_fast()
                self._wire.watch_ready = True
            if Effect.SCHEMA_CHANGED in statement.effects:
                session.schema_changed()
        if session.settings.changed_in_transaction and _ROLLBACK.search(sql):
            session.settings.known = False
            self._wire.forget_fast()


def _encoding(name: str) -> Refusal:
    return Refusal(
        sqlstate.FEATURE_NOT_SUPPORTED,
        f"protected columns cannot be used with client_encoding {name}",
        hint="SET client_encoding TO 'UTF8'.",
    )


def _to_utf8(sql: bytes, codec: str | None) -> bytes:
    if codec is None:
        return sql
    try:
        return sql.decode(codec).encode()
    except UnicodeDecodeError:
        raise Refusal(
            sqlstate.CHARACTER_NOT_IN_REPERTOIRE, "invalid byte sequence for encoding"
        ) from None
