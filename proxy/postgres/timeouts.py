"""When has a session been quiet, or busy, for too long? Pure: told of events, asked by a sweep.

The names, SQLSTATEs and texts are those of PostgreSQL's own settings (documentation, "Client
Connection Defaults"). Exact to one sweep. A pipeline that never runs dry counts as one statement.
"""

from __future__ import annotations

from proxy.config.model import PostgresLimits
from proxy.postgres import sqlstate

_TEXTS = {
    sqlstate.IDLE_SESSION_TIMEOUT: "terminating connection due to idle-session timeout",
    sqlstate.IDLE_IN_TRANSACTION_TIMEOUT: (
        "terminating connection due to idle-in-transaction timeout"
    ),
    sqlstate.QUERY_CANCELED: "terminating connection: a statement could not be cancelled in time",
}
CANCEL = "cancel"  # the server is to be asked to cancel the statement
_GRACE_SECONDS = 10.0  # after a cancel request, for the server to obey


class Timeouts:
    __slots__ = (
        "_busy_since", "_cancelled", "_idle", "_idle_in_transaction", "_quiet_since", "_statement",
        "enabled",
    )  # fmt: skip

    def __init__(self, limits: PostgresLimits) -> None:
        self.set(limits)
        self._busy_since = 0.0
        self._quiet_since = 0.0  # 0: not seen quiet yet since something happened
        self._cancelled = False

    def set(self, limits: PostgresLimits) -> None:
        self._statement = limits.statement_timeout_seconds
        self._idle = limits.idle_session_timeout_seconds
        self._idle_in_transaction = limits.idle_in_transaction_timeout_seconds
        self.enabled = bool(self._statement or self._idle or self._idle_in_transaction)

    def client_sent(self, expected: int, now: float) -> None:
        """`expected` answers are outstanding after what the client sent."""
        self._quiet_since = 0.0
        if expected and not self._busy_since:
            self._busy_since, self._cancelled = now, False

    def server_sent(self, expected: int) -> None:
        self._quiet_since = 0.0
        if not expected:
            self._busy_since = 0.0

    def due(self, expected: int, status: bytes, now: float) -> str | None:
        """CANCEL, or the SQLSTATE with which the connection is to end; None: nothing has passed."""
        if not self.enabled:
            return None
        if expected:
            if not self._statement or not self._busy_since:
                return None
            limit = self._statement + (_GRACE_SECONDS if self._cancelled else 0.0)
            if now - self._busy_since < limit:
                return None
            if self._cancelled:
                return sqlstate.QUERY_CANCELED
            self._cancelled = True
            return CANCEL
        if not self._quiet_since:
            self._quiet_since = now
            return None
        quiet = now - self._quiet_since
        if status == b"I":
            return sqlstate.IDLE_SESSION_TIMEOUT if 0 < self._idle <= quiet else None
        limit = self._idle_in_transaction
        return sqlstate.IDLE_IN_TRANSACTION_TIMEOUT if 0 < limit <= quiet else None

    @staticmethod
    def text(code: str) -> str:
        return _TEXTS[code]
