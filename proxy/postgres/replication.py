"""Replication connections, where the policy allows them: replication commands and no other SQL.

PostgreSQL documentation, "Streaming Replication Protocol". Pure. What the server streams is what it
has: protected columns are sealed in it, and stay so. But the server takes ordinary statements on such
a connection, too (`replication=database`), and their literals and results would be neither sealed
nor opened; so one that is no replication command ends the connection. Where nothing is protected all
passes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from proxy.metrics import pg_statements_total
from proxy.postgres import sqlstate
from proxy.postgres.expected import K_QUERY
from proxy.postgres.messages import QUERY, TERMINATE, error_response
from proxy.postgres.session import Session

if TYPE_CHECKING:
    from proxy.postgres.site import Site
    from proxy.postgres.startup import StartupMessage

# the commands of repl_gram.y (PostgreSQL 10 to 18); one statement, whose strings may hold anything
_COMMAND = re.compile(
    rb"""\s*(?:IDENTIFY_SYSTEM|BASE_BACKUP|START_REPLICATION|CREATE_REPLICATION_SLOT
        |DROP_REPLICATION_SLOT|ALTER_REPLICATION_SLOT|READ_REPLICATION_SLOT|TIMELINE_HISTORY
        |UPLOAD_MANIFEST|SHOW)\b
        (?:'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'";\0])*;?\s*\0""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
# what libpq's own tools send first, so that nobody's search_path can trick them
_SECURE_SEARCH_PATH = b"SELECT pg_catalog.set_config('search_path', '', false)"
_refused = pg_statements_total.labels("refused")


def is_command(payload: bytes) -> bool:
    """Whether this Query's text is one replication command, or harmless."""
    if _COMMAND.fullmatch(payload) is not None:
        return True
    return payload.rstrip(b"\0").rstrip(b"; ") == _SECURE_SEARCH_PATH


class ReplicationSession(Session):
    """As a `Session`, for a start-up with `replication`."""

    def __init__(self, site: Site, startup: StartupMessage, **how: Any) -> None:
        physical = startup.replication == "physical"  # of no database, so of every one
        filtered = bool(site.config.columns) and (physical or site.protects(startup.database))
        super().__init__(site, startup, protected=filtered, **how)
        self._client = _CommandsOnly(self)  # type: ignore[assignment]

    def became_ready(self) -> None:
        """Nothing is asked of the server: it plans nothing here."""
        self.ready = True
        self._run_client()


class _CommandsOnly:
    def __init__(self, session: Session) -> None:
        self._session = session

    def message(self, kind: int, payload: bytes) -> None:
        session, wire = self._session, self._session.wire
        if kind == TERMINATE:
            session.finished = True
            wire.forward_client()
        elif kind == QUERY and is_command(payload):
            wire.expect(K_QUERY)
            wire.forward_client()
        else:
            _refused.inc()
            wire.drop_client()
            wire.put_client(
                error_response(
                    sqlstate.FEATURE_NOT_SUPPORTED,
                    "only replication commands are possible on a replication connection to a"
                    " database with protected columns",
                    severity="FATAL",
                    hint="Use an ordinary connection for SQL.",
                )
            )
            session.finished = session.hang_up = True
