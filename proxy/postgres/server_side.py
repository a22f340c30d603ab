"""The server's messages that Python must see: authentication, settings, and answers to
statements that touch something protected. Pure; works on the session's `Wire`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.policy.model import Principal
from proxy.postgres import auth
from proxy.postgres.messages import (
    AUTHENTICATION,
    ERROR_RESPONSE,
    PARAMETER_STATUS,
    READY_FOR_QUERY,
    Malformed,
    c_string,
    error_fields,
    error_response,
)
from proxy.postgres.sqlstate import INVALID_AUTHORIZATION

if TYPE_CHECKING:
    from proxy.postgres.session import Session


class ServerSide:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._plus_offered = False

    def event(self, kind: int, payload: bytes, cookie: object) -> None:
        session = self._session
        wire = session.wire
        if kind == PARAMETER_STATUS:
            session.settings.report(payload)
        elif kind == AUTHENTICATION:
            self._authentication(payload)
        elif kind == ERROR_RESPONSE:
            if wire.authenticating:
                wire.forward_server()
            if error_fields(payload).get("V") in ("FATAL", "PANIC") or wire.authenticating:
                session.finished = True
        elif kind == READY_FOR_QUERY:
            pass
        else:
            wire.forward_server()  # BackendKeyData, NegotiateProtocolVersion

    # ---- authentication ------------------------------------------------------------------------
    def _authentication(self, payload: bytes) -> None:
        session = self._session
        code = auth.request_code(payload)
        if code == auth.SASL and session.any_tls:
            self._plus_offered = auth.offers_channel_binding(payload)
            session.wire.put_client(auth.withdraw_channel_binding(payload))
            session.wire.drop_server()
            return
        if code == auth.OK:
            session.principal = Principal("postgres", session.startup.user)
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
                        INVALID_AUTHORIZATION,
                        "SCRAM channel binding is not possible through this proxy",
                        severity="FATAL",
                        hint="Connect with channel_binding=disable.",
                    )
                )
                self._session.finished = True
                self._session.hang_up = True
                return
        wire.forward_client()
