"""The proxy authenticates a client itself: SASL messages in, messages out. Pure.

PostgreSQL documentation, "SASL Authentication". Nothing is sent to any server before the client
is known. AuthenticationOk is not sent here: the server's own is passed on, once it is there.
"""

from __future__ import annotations

import struct

from proxy.errors import SealgateError
from proxy.postgres import auth, sqlstate
from proxy.postgres.messages import AUTHENTICATION, Malformed, c_string, frame
from proxy.postgres.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramFailed,
    ScramServer,
    Verifiers,
)


class LoginFailed(SealgateError):
    """The client is not let in; `sqlstate` and text are what it is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = code


class ClientLogin:
    """One log-in: send `offer()`, then `receive` each message's answer until `done`."""

    def __init__(
        self, user: str, verifiers: Verifiers, binding: bytes | None, require_binding: bool
    ) -> None:
        """`binding`: what the client's TLS is bound to, where -PLUS is to be offered."""
        self._user = user
        self._mechanisms = [MECHANISM_PLUS] if binding is not None else []
        if not require_binding:
            self._mechanisms.append(MECHANISM)
        self._scram = ScramServer(*verifiers.look_up(user), binding)
        self._begun = False
        self.done = False

    def offer(self) -> bytes:
        """AuthenticationSASL. Raises LoginFailed: this client could use no mechanism."""
        if not self._mechanisms:
            raise LoginFailed(
                sqlstate.INVALID_AUTHORIZATION, "channel binding is required, and needs TLS"
            )
        names = b"".join(name + b"\0" for name in self._mechanisms)
        return _authentication(auth.SASL, names + b"\0")

    def receive(self, payload: bytes) -> bytes:
        """The body of a password message. Raises LoginFailed; Malformed for what is no SASL."""
        try:
            if self._begun:
                final = self._scram.final(payload)
                self.done = True
                return _authentication(auth.SASL_FINAL, final)
            self._begun = True
            mechanism, at = c_string(payload, 0)
            if mechanism not in self._mechanisms:
                raise Malformed("client selected an invalid SASL authentication mechanism")
            if len(payload) < at + 4:
                raise Malformed("SASLInitialResponse too short")
            (size,) = struct.unpack_from("!i", payload, at)
            if size != len(payload) - at - 4:
                raise Malformed("SASLInitialResponse without its message")
            first = self._scram.first(mechanism, payload[at + 4 :])
            return _authentication(auth.SASL_CONTINUE, first)
        except ScramFailed:
            raise LoginFailed(
                sqlstate.INVALID_PASSWORD,
                f'password authentication failed for user "{self._user}"',
            ) from None


def _authentication(code: int, body: bytes) -> bytes:
    return frame(AUTHENTICATION, struct.pack("!I", code) + body)
