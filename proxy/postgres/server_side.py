"""The server's messages that Python must see: authentication, settings, and answers to
statements that touch something protected. Pure; works on the session's `Wire`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from proxy.audit.process import note
from proxy.metrics import pg_integrity_failures_total
from proxy.native import FastDescribe, KeyGone
from proxy.postgres import auth, sqlstate
from proxy.postgres.copy_data import CopyData
from proxy.postgres.messages import (
    AUTHENTICATION,
    BACKEND_KEY_DATA,
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    EMPTY_QUERY,
    ERROR_RESPONSE,
    NEGOTIATE_PROTOCOL_VERSION,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
    ROW_FAILED,
    Malformed,
    c_string,
    error_fields,
    error_response,
    first_value,
    frame,
    parameter_description,
    read_parameter_description,
    read_row_description,
    row_description,
)
from proxy.postgres.needs import Injection
from proxy.postgres.plan import StatementPlan
from proxy.postgres.snapshot import BYTEA, ProtectedColumn
from proxy.postgres.statements import POISON, Change, Portal, Statement
from proxy.postgres.values import ResultRows

if TYPE_CHECKING:
    from proxy.postgres.session import Session

log = structlog.get_logger()
CANCELED = "canceling statement due to user request"
_CLEARING_TAGS = (b"DEALLOCATE ALL\0", b"DISCARD ALL\0")


@dataclass
class QueryAnswer:
    """What is expected for a simple Query: its statements, their row plans, and where we are."""

    statements: tuple[StatementPlan, ...]
    rows: tuple[ResultRows | CopyData | None, ...]
    clears: bool = False  # DEALLOCATE or DISCARD is in it
    changes: tuple[list[Change[Any]], ...] = ()  # what each does to names
    index: int = 0

    def settle(self) -> bool:
        """The statement at hand was completed; whether that changed a name."""
        here = self.changes[self.index] if self.index < len(self.changes) else []
        for change in here:
            change.done()
        return bool(here)

    def lost(self) -> None:
        """The statement at hand, and with it all that follow, failed."""
        for here in self.changes[self.index :]:
            for change in here:
                change.lost()


@dataclass(frozen=True)
class DescribeStatement:
    statement: Statement


@dataclass(frozen=True)
class DescribePortal:
    portal: Portal


class ServerSide:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._plus_offered = False

    def event(self, kind: int, payload: bytes, cookie: object) -> None:
        """One message that the framing shows; a held one is forwarded or dropped here."""
        session = self._session
        wire = session.wire
        if kind == PARAMETER_STATUS:
            session.settings.report(payload)
            wire.forget_fast()
        elif kind == READY_FOR_QUERY:
            self._ready(cookie)
        elif kind == ERROR_RESPONSE:
            self._error(payload, cookie)
        elif kind == AUTHENTICATION:
            self._authentication(payload)
        elif kind == ROW_FAILED:
            self._row_failed(payload, cookie)
        elif isinstance(cookie, Injection):
            self._injected(kind, payload, cookie)
        elif kind in (PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE):
            if isinstance(cookie, Change):
                cookie.done()
                if kind == BIND_COMPLETE:
                    wire.watch_ready = True  # portals end with the transaction
        elif kind in (COPY_IN_RESPONSE, COPY_OUT_RESPONSE):
            self._copy_begins(cookie)
        elif kind == ROW_DESCRIPTION:
            self._row_description(payload, cookie)
        elif kind == PARAMETER_DESCRIPTION:
            self._parameter_description(payload, cookie)
        elif kind in (COMMAND_COMPLETE, EMPTY_QUERY):
            self._complete(payload, cookie)
        elif kind == NEGOTIATE_PROTOCOL_VERSION:
            self._negotiated(payload)
        else:
            if kind == BACKEND_KEY_DATA:
                session.cancel_key = payload
            wire.forward_server()  # NoData is the other

    # ---- results -------------------------------------------------------------------------------
    def _row_description(self, payload: bytes, cookie: object) -> None:
        wire = self._session.wire
        outputs: tuple[ProtectedColumn | None, ...] | None = None
        plan: StatementPlan | None = None
        formats: tuple[int, ...] = ()
        if isinstance(cookie, DescribeStatement):
            plan = cookie.statement.plan
        elif isinstance(cookie, FastDescribe):
            plan = cookie.statement.plan
            formats = (cookie.format,) * len(plan.visible or ())
        elif isinstance(cookie, DescribePortal):
            plan = cookie.portal.statement.plan
            formats = cookie.portal.result_formats
        elif isinstance(cookie, QueryAnswer) and cookie.index < len(cookie.statements):
            plan = cookie.statements[cookie.index]
            wire.set_rows(cookie.rows[cookie.index])
        outputs = plan.outputs if plan is not None else None
        if plan is None or outputs is None or not any(outputs):
            wire.forward_server()
            return
        fields = read_row_description(payload)
        if len(fields) != len(outputs) or any(
            c is not None and f.type_oid != BYTEA for f, c in zip(fields, outputs, strict=False)
        ):
            wire.drop_server()
            self._corrupted(None)
            return
        del fields[len(plan.visible or ()) :]
        for i, column in enumerate(plan.visible or ()):
            if column is not None:
                t = (plan.shown[i] if plan.shown is not None else None) or column.type
                fields[i] = replace(
                    fields[i],
                    type_oid=t.oid,
                    typlen=t.typlen,
                    typmod=t.typmod,
                    format=formats[i] if formats else fields[i].format,
                )
        told = row_description(fields)
        if isinstance(cookie, FastDescribe):
            cookie.learn(payload, told)
        wire.put_client(told)
        wire.drop_server()

    def _copy_begins(self, cookie: object) -> None:
        session = self._session
        assert isinstance(cookie, tuple)
        answer, stream = cookie
        if isinstance(answer, QueryAnswer) and answer.index < len(answer.rows):
            stream = answer.rows[answer.index]
        stream = stream if isinstance(stream, CopyData) else None
        session.wire.begin_copy(stream)
        session.copying = stream
        session.wire.forward_server()

    def _parameter_description(self, payload: bytes, cookie: object) -> None:
        wire = self._session.wire
        plan = cookie.statement.plan if isinstance(cookie, DescribeStatement) else None
        if plan is None or not plan.client_params:
            wire.forward_server()
            return
        server = read_parameter_description(payload)
        oids = []
        for parameter in plan.client_params:
            if parameter.oid:
                oids.append(parameter.oid)
            elif 0 <= parameter.pass_target < len(server):
                oids.append(server[parameter.pass_target])
            else:
                oids.append(0)
        wire.put_client(parameter_description(oids))
        wire.drop_server()

    def _complete(self, tag: bytes, cookie: object) -> None:
        if not isinstance(cookie, QueryAnswer):
            return
        if cookie.settle():
            self._session.wire.watch_ready = True  # cursors end with the transaction
        if cookie.statements:
            cookie.index += 1
            self._session.wire.set_rows(None)
        if cookie.clears and tag in _CLEARING_TAGS:
            self._session.statements.forget()
            self._session.plain.forget()
            if tag == b"DISCARD ALL\0":
                self._session.portals.forget()
            self._session.wire.forget_fast()

    def _row_failed(self, error: object, cookie: object) -> None:
        assert isinstance(cookie, tuple)
        rows = cookie[1]
        if isinstance(error, KeyGone) and isinstance(rows, ResultRows | CopyData):
            self._session.renew_rows(rows)
            return
        column = None
        if isinstance(rows, ResultRows | CopyData) and 0 <= rows.failed < len(rows.outputs):
            column = rows.outputs[rows.failed]
        pg_integrity_failures_total.inc()
        note("open.fail", plane="postgres", resource=f"column:{column.domain if column else '?'}")
        log.error(
            "postgres.row_not_opened",
            column=column.domain if column else None,
            reason=type(error).__name__,
        )
        self._corrupted(column)

    def _corrupted(self, column: ProtectedColumn | None) -> None:
        """One answer for every cause; what still comes of the segment is swallowed."""
        wire = self._session.wire
        name = f' "{column.column}"' if column is not None else ""
        wire.put_client(
            error_response(
                sqlstate.DATA_CORRUPTED, f"the value of protected column{name} cannot be opened"
            )
        )
        wire.drain(POISON)

    def keys_gone(self, error: Exception) -> None:
        """Keys left the cache while rows were coming, and cannot be had again now."""
        wire = self._session.wire
        wire.put_client(
            error_response(sqlstate.SYSTEM_ERROR, "the keys of a protected column are unavailable")
        )
        wire.drain(POISON)

    # ---- endings -------------------------------------------------------------------------------
    def _ready(self, cookie: object) -> None:
        session = self._session
        if isinstance(cookie, Injection):
            cookie.done = True
        elif cookie is True and session.principal is not None and not session.ready:
            session.became_ready()
        if session.wire.status == b"I":
            session.transaction_ended()
        session.all_answered()

    def _error(self, payload: bytes, cookie: object) -> None:
        session = self._session
        if session.wire.authenticating:
            session.wire.forward_server()
            session.finished = True
            return
        fields = error_fields(payload)
        if isinstance(cookie, list):
            if len(cookie) > 1 and cookie[0] is True and isinstance(cookie[1], Change):
                # of a Parse of ours that stands for the client's own
                session.wire.put_client(frame(ERROR_RESPONSE, payload))
            for lost in cookie:
                if isinstance(lost, Change | QueryAnswer):
                    lost.lost()
                elif isinstance(lost, Injection) and not lost.lost:
                    self._injection_lost(lost, cookie[0] is True, fields.get("C", ""))
        if fields.get("V") in ("FATAL", "PANIC"):
            session.finished = True

    def _injection_lost(self, injection: Injection, failed: bool, code: str) -> None:
        canceled = failed and code == sqlstate.QUERY_CANCELED
        injection.lost = True
        injection.canceled = canceled and self._session.holds_message
        # in a transaction that the client's statements before it have aborted nothing is answered
        aborted = code == sqlstate.IN_FAILED_TRANSACTION
        injection.failed = failed and (not (canceled or aborted) or injection.in_segment)
        injection.done = injection.in_segment  # else at ReadyForQuery
        if injection.in_segment and failed:
            code, text = sqlstate.SYSTEM_ERROR, "the session's settings cannot be read"
            if canceled:
                code, text = sqlstate.QUERY_CANCELED, CANCELED
            elif aborted:
                code, text = sqlstate.IN_FAILED_TRANSACTION, sqlstate.ABORTED
            self._session.wire.put_client(error_response(code, text))

    def _injected(self, kind: int, payload: bytes, injection: Injection) -> None:
        wire = self._session.wire
        if kind == DATA_ROW:
            injection.value = first_value(payload)
            wire.drop_server()
        elif kind == CLOSE_COMPLETE:
            injection.closes += 1
            injection.done = injection.in_segment and injection.closes == 2 + injection.leftover
        elif kind in (ROW_DESCRIPTION, PARAMETER_DESCRIPTION):
            wire.drop_server()

    # ---- authentication ------------------------------------------------------------------------
    def _negotiated(self, servers: bytes) -> None:
        """Tells the client once what of its wish server and proxy know, before authentication."""
        session = self._session
        told, session.negotiation = session.negotiation, None
        if told is not None:
            session.wire.put_client(told.message(servers))
            if servers:
                session.wire.drop_server()
        elif servers:
            session.wire.forward_server()

    def _authentication(self, payload: bytes) -> None:
        session = self._session
        self._negotiated(b"")
        code = auth.request_code(payload)
        if code == auth.SASL and session.withdraw_binding:
            self._plus_offered = auth.offers_channel_binding(payload)
            session.wire.put_client(auth.withdraw_channel_binding(payload))
            session.wire.drop_server()
            return
        if code == auth.OK:
            session.principal = session.becomes
        session.wire.forward_server()

    def password(self, payload: bytes) -> None:
        """The client's answer to an Authentication message."""
        wire = self._session.wire
        if self._plus_offered:
            self._plus_offered = False
            mechanism, at = c_string(payload, 0)
            if len(payload) < at + 4:
                raise Malformed("SASLInitialResponse too short")
            if mechanism == b"SCRAM-SHA-256" and payload[at + 4 : at + 5] == b"y":
                # The server would take this for a downgrade attack (RFC 5802, section 6): it
                # offered channel binding, which cannot hold across a proxy that ends TLS.
                wire.drop_client()
                wire.put_client(
                    error_response(
                        sqlstate.INVALID_AUTHORIZATION,
                        "SCRAM channel binding is not possible through this proxy",
                        severity="FATAL",
                        hint="Connect with channel_binding=disable.",
                    )
                )
                self._session.finished = True
                self._session.hang_up = True
                return
        wire.forward_client()
