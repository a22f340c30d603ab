"""The proxy logs in to the server under credentials of its own: messages in, messages out.

PostgreSQL documentation, "Message Flow: Start-up" and "SASL Authentication". Pure; `answer` may
take milliseconds (PBKDF2), so its driver calls it off the loop. The server is not trusted: it is
never given a password in clear, or an MD5 of one, unless the configuration allows that and the
connection has verified TLS; it has to prove that it knows the SCRAM secret; channel binding is used
whenever there is TLS and both sides can (RFC 5802, section 6: the client says so with `y` where
the server does not offer it).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection

from scramp import ScramClient, ScramException

from proxy.errors import SealgateError
from proxy.postgres import auth, sqlstate
from proxy.postgres.messages import (
    AUTHENTICATION,
    ERROR_RESPONSE,
    NEGOTIATE_PROTOCOL_VERSION,
    NOTICE_RESPONSE,
    PASSWORD,
    error_fields,
    frame,
)

_MIN_ITERATIONS, _MAX_ITERATIONS = 4096, 1_000_000


class ServerRefused(SealgateError):
    """The server does not let the proxy in, or asks for what it must not get.

    `sqlstate` is for the client, the text for both; a server's own text never holds a secret.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = code


class ServerLogin:
    """One log-in. `answer` takes each message until `done`: AuthenticationOk has come."""

    def __init__(
        self,
        user: str,
        password: str | None,
        methods: Collection[str],
        *,
        private: bool,
        binding: bytes | None,
    ) -> None:
        """`private`: nobody else can read the connection, and its peer is who it should be;
        `binding`: tls-server-end-point of the peer."""
        self._user = user
        self._password = password
        self._methods = methods
        self._private = private
        self._binding = binding
        self._scram: ScramClient | None = None
        self._proved = False
        self.done = False

    def answer(self, kind: int, payload: bytes) -> bytes:
        """What to send back, may be nothing. Raises ServerRefused, Malformed."""
        if kind in (NEGOTIATE_PROTOCOL_VERSION, NOTICE_RESPONSE):
            return b""  # protocols 3.0 and 3.2 differ in the length of cancel keys alone
        if kind == ERROR_RESPONSE:
            fields = error_fields(payload)
            code = fields.get("C", sqlstate.CONNECTION_FAILURE)
            if code.startswith("28"):
                # whose password is wrong is not the client's business: it proved who it is
                raise ServerRefused(
                    sqlstate.SQLCLIENT_UNABLE_TO_ESTABLISH,
                    "the PostgreSQL server does not accept the proxy's credentials",
                )
            raise ServerRefused(code, fields.get("M", "the server refused the connection"))
        if kind != AUTHENTICATION:
            raise _refused("the server broke the protocol of authentication")
        code_ = auth.request_code(payload)
        if code_ == auth.OK:
            if self._scram is not None and not self._proved:
                raise _refused("the server did not prove that it knows the password")
            self.done = True
            return b""
        if code_ == auth.SASL:
            return self._sasl(payload)
        if code_ == auth.SASL_CONTINUE and self._scram is not None:
            return frame(PASSWORD, self._continue(payload[4:]))
        if code_ == auth.SASL_FINAL and self._scram is not None:
            self._final(payload[4:])
            return b""
        if code_ == auth.CLEARTEXT:
            self._allow("password")
            return frame(PASSWORD, self._secret().encode() + b"\0")
        if code_ == auth.MD5:
            self._allow("md5")
            return frame(PASSWORD, _md5(self._user, self._secret(), payload[4:8]) + b"\0")
        raise _refused(f"the server asks for authentication method {code_}, which is not supported")

    def _secret(self) -> str:
        if self._password is None:
            raise _refused("the server asks for a password, and none is configured")
        return self._password

    def _allow(self, method: str) -> None:
        if method not in self._methods or not self._private:
            raise _refused(
                f"the server asks for method {method}, which needs verified TLS and"
                " a word in auth.server_methods"
            )

    def _sasl(self, payload: bytes) -> bytes:
        offered = payload[4:].split(b"\0")
        mechanisms = [
            name
            for name in ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")
            if name.encode() in offered and name.lower() in self._methods
        ]
        binding = self._binding if "scram-sha-256-plus" in self._methods else None
        if binding is None:
            mechanisms = [name for name in mechanisms if not name.endswith("-PLUS")]
        if not mechanisms or self._scram is not None:
            raise _refused("the server offers no SASL mechanism that auth.server_methods allows")
        bound = None if binding is None else ("tls-server-end-point", binding)
        try:
            # the name is ignored by PostgreSQL, which took it from the start-up
            self._scram = ScramClient(mechanisms, "*", self._secret(), channel_binding=bound)
            first = self._scram.get_client_first().encode()
        except ScramException as error:
            raise _refused(f"SCRAM: {error}") from None
        name = self._scram.mechanism_name.encode()
        return frame(PASSWORD, name + b"\0" + struct.pack("!i", len(first)) + first)

    def _continue(self, message: bytes) -> bytes:
        assert self._scram is not None
        try:
            self._scram.set_server_first(message.decode())
            iterations = int(self._scram.iterations)
            if not _MIN_ITERATIONS <= iterations <= _MAX_ITERATIONS:
                raise _refused(f"the server wants {iterations} iterations of its SCRAM secret")
            return str(self._scram.get_client_final()).encode()
        except (ScramException, UnicodeDecodeError) as error:
            raise _refused(f"SCRAM: {error}") from None

    def _final(self, message: bytes) -> None:
        assert self._scram is not None
        try:
            self._scram.set_server_final(message.decode())
        except (ScramException, UnicodeDecodeError):
            raise _refused("the server did not prove that it knows the password") from None
        self._proved = True


def _refused(message: str) -> ServerRefused:
    return ServerRefused(sqlstate.SQLCLIENT_UNABLE_TO_ESTABLISH, message)


def _md5(user: str, password: str, salt: bytes) -> bytes:
    """PostgreSQL documentation, "Message Flow", AuthenticationMD5Password."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    outer = hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
    return b"md5" + outer.encode()
