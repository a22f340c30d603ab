"""One session between a client and a server, without I/O: bytes in, bytes out, and what is needed.

Theory of operation: `receive_client` and `receive_server` hand bytes to the native framing
(`native/frames.pyx`), which copies through what touches nothing protected and shows the rest to
`ClientSide` and `ServerSide`. When something outside is needed (keys, a fresh catalogue) the
client's messages wait, in order, `pending()` says for what, and `resolve()` goes on. Nothing
here awaits. In a database without protected columns the framing sees everything alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from proxy.errors import AccessDenied, KeyUnavailable, SealgateError
from proxy.native import KeyGone, Wire
from proxy.policy.model import Action, Principal
from proxy.postgres import settings as settings_module
from proxy.postgres import sqlstate
from proxy.postgres.client_side import ClientSide
from proxy.postgres.copy_data import CopyData, needed_for_copy
from proxy.postgres.error_details import without_sealed
from proxy.postgres.injecting import inject
from proxy.postgres.messages import COPY_FAILED, FLUSH_MESSAGE, TERMINATE
from proxy.postgres.motion import Stand
from proxy.postgres.names import tables_of
from proxy.postgres.needs import (
    Injection,
    KeysWanted,
    LayoutWanted,
    Need,
    SnapshotWanted,
    Use,
    Wait,
)
from proxy.postgres.plan import Refusal, SessionContext
from proxy.postgres.server_side import CANCELED, ServerSide
from proxy.postgres.settings import Settings
from proxy.postgres.snapshot import Snapshot
from proxy.postgres.startup import Negotiation, StartupMessage
from proxy.postgres.statements import Names, PlainNames, Portal, Statement
from proxy.postgres.types.base import TextContext
from proxy.postgres.values import ResultRows, needed_for_rows, row_codecs

if TYPE_CHECKING:
    from proxy.native import ColumnCodec
    from proxy.postgres.site import Site

_ENDS = re.compile(rb"\s*(rollback|commit|end|abort|prepare\s+transaction)\b", re.IGNORECASE)

# Must come before any query of its transaction, so nothing of ours may be asked first; names nothing.
_TRANSACTION_MODE = re.compile(
    rb"\s*set\s+(local\s+|session\s+)?transaction\s[a-z0-9\s,'-]*;?\s*\Z", re.IGNORECASE
)


class Session:
    def __init__(
        self,
        site: Site,
        startup: StartupMessage,
        *,
        any_tls: bool = False,
        same_certificate: bool = False,
        principal: Principal | None = None,
        logged_in: bool = False,
        negotiation: Negotiation | None = None,
        protected: bool | None = None,
    ) -> None:
        """`any_tls`: TLS ends here, on either leg; `same_certificate`: on both, with one and the
        same certificate, so that SCRAM channel binding holds from end to end. `principal`: who the
        client is once it is let in (default: the role); `logged_in`: the server has taken the
        start-up packet and the proxy's own credentials already; `negotiation`: what the client is
        to be told of its protocol version; `protected`: whether statements are looked at, whatever
        the database."""
        self.site = site
        self.startup = startup
        self.withdraw_binding = any_tls and not same_certificate
        self.protected = site.protects(startup.database) if protected is None else protected
        self.settings = Settings(startup.parameters)
        self.principal: Principal | None = None  # known after AuthenticationOk
        self.becomes = principal or Principal("postgres", startup.user)
        self.negotiation = negotiation
        self.cancel_key = b""  # the server's BackendKeyData
        self.ready = False
        self.hang_up = False  # close the client after what is written
        self.finished = False  # a lost connection is no surprise any more
        self.statements: Names[Statement] = Names()
        self.portals: Names[Portal] = Names()
        self.plain = PlainNames()
        self.wire = Wire(
            site.config.limits.max_message_bytes,
            self.statements.table,
            self.portals.table,
            not self.protected,
            self.plain.table,
            lambda name: self.plain.sent(name, self.wire.segment),
        )
        if self.protected:
            self.wire.on_error = lambda error: without_sealed(
                error, lambda: tables_of(self.snapshot)
            )
        if not logged_in:
            self.wire.put_server(startup.packet)
        self._server = ServerSide(self)
        self._client = ClientSide(self)
        self._message: tuple[int, bytes] | None = None  # the client's, that waits
        self._wait: Wait | None = None
        self._injection: Injection | None = None
        self._leftover = False
        self._rows: ResultRows | CopyData | None = None  # rows that wait for their keys
        self.copying: CopyData | None = None  # COPY FROM STDIN in progress, or the last
        self._copy_waits = False  # ... for its keys
        self._granted: dict[Use, ColumnCodec] = {}
        self._local: Snapshot | None = None  # schema as an open transaction sees it
        self._schema_stale = False
        self._defined = False  # a definition went out in this transaction
        self.looked_again = False
        self._stand = Stand()

    # ---- bytes ---------------------------------------------------------------------------------
    def receive_client(self, data: bytes) -> None:
        self.wire.client_feed(data)
        self.client_fed()

    def receive_server(self, data: bytes) -> None:
        self.wire.server_feed(data)
        self.server_fed()

    def client_fed(self, event: tuple[int, Any, None] | None = None) -> None:
        """There is more in the Wire; `event`: what it has shown already, being asked at rest."""
        if self._message is None:
            self._run_client(event)

    def server_fed(self, event: tuple[int, Any, Any] | None = None) -> None:
        """As `client_fed`."""
        if event is not None:
            self._server.event(*event)
        self._run_server()

    def data_to_server(self) -> bytes:
        return self.wire.to_server()

    def data_to_client(self) -> bytes:
        return self.wire.to_client()

    def _run_server(self) -> None:
        wire = self.wire
        while self._rows is None and (event := wire.server_next()) is not None:
            self._server.event(*event)
        if self._message is not None:
            self._retry()
        elif wire.stalled:
            self._run_client()

    def _run_client(self, event: tuple[int, Any, None] | None = None) -> None:
        wire = self.wire
        if self._copy_waits:
            return
        while self._message is None:
            if event is None:
                self.look_out()
                if (event := wire.client_next()) is None:
                    break
            kind, payload, _ = event
            event = None
            if kind == COPY_FAILED:
                self._copy_failed(payload)
                if self._copy_waits:
                    return
                continue
            if not self.protected or wire.authenticating:
                self._plain(kind, payload)
                continue
            self._handle(kind, payload)

        if wire.stalled and wire.unflushed:
            wire.put_server(FLUSH_MESSAGE)
            wire.unflushed = False

    def _copy_failed(self, error: Exception) -> None:
        assert self.copying is not None
        if isinstance(error, KeyGone):
            self._copy_waits = True  # `resolve` goes on
        else:
            self._client.copy_failed(self.copying, error)

    def look_out(self) -> None:
        """Texts without the words of `wire.watch` need no plan; None while anything is uncertain."""
        if not self.protected:
            return
        if self.settings.known and not self._schema_stale and self._local is None and self.ready:
            self.wire.watch = self.site.watch if self.settings.ascii_as_it_is else None
        else:
            self.wire.watch = None

    def _plain(self, kind: int, payload: bytes) -> None:
        """Start-up, and databases in which nothing is protected."""
        if kind == TERMINATE:
            self.finished = True
            self.wire.forward_client()
        elif self.wire.authenticating:
            self._server.password(payload)
        else:
            self.wire.forward_client()

    def _handle(self, kind: int, payload: bytes) -> None:
        self._message = None
        try:
            self._client.message(kind, payload)
        except Wait as wait:
            self._message = (kind, payload)
            self._wait = wait
            if wait.on is None:
                self.wire.put_server(FLUSH_MESSAGE)
        else:
            self._wait = None
            self._granted = {}

    def _retry(self) -> None:
        """Tries the waiting client message again once what it waits for is there."""
        if self._wait is None or self._message is None:
            return
        on = self._wait.on
        wire = self.wire
        if on is None and wire.expected and not wire.server_skips and not wire.copy_in:
            return
        if isinstance(on, Injection):
            if not on.done:
                return
        elif on is not None:
            return  # `resolve` goes on
        self._handle(*self._message)
        if self._message is None:
            self._run_client()

    # ---- needs ---------------------------------------------------------------------------------
    def pending(self) -> Need | None:
        """What the surroundings must fetch before the session can go on."""
        if self._rows is not None:
            return self._keys_wanted(needed_for_rows(self._rows.outputs))
        if self._copy_waits and self.copying is not None:
            return self._keys_wanted(needed_for_copy(self.copying.plan))
        if self._wait is not None and isinstance(
            self._wait.on, KeysWanted | SnapshotWanted | LayoutWanted
        ):
            return self._wait.on
        return None

    def resolve(self, need: Need, result: object) -> None:
        """Goes on with what was fetched; an error instead of a result is the client's answer."""
        if isinstance(need, KeysWanted) and isinstance(result, dict):
            self._granted.update(result)
        if self._rows is not None:
            rows, self._rows = self._rows, None
            if isinstance(result, SealgateError):
                self._server.keys_gone(result)
            else:
                granted = self._granted
                rows.renew(row_codecs(rows.outputs, granted))
                self._granted = {}
            self._run_server()
            return
        if self._copy_waits and self.copying is not None:
            self._copy_waits = False
            stream, granted = self.copying, self._granted
            self._granted = {}
            if isinstance(result, SealgateError):
                self._client.copy_keys_gone(stream)
            else:
                stream.renew(
                    [None if c is None else granted[c, Action.SEAL] for c in stream.outputs]
                )
            self._run_client()
            return
        if isinstance(need, SnapshotWanted):
            self.wire.forget_fast()
            self._schema_stale = isinstance(result, SealgateError)
        if isinstance(need, LayoutWanted):
            self.wire.forget_fast()
            if self._local is not None:  # the view of an open transaction is from before
                self._local, self._schema_stale = None, True
        message = self._message
        assert message is not None
        if isinstance(result, SealgateError):
            self._failure = result
        self._handle(*message)
        self._failure = None
        if self._message is None:
            self._run_client()

    _failure: SealgateError | None = None

    @property
    def at_rest(self) -> bool:
        """Nothing is waited for, on either side: `pending` is None and `waiting` false."""
        return (
            self._message is None
            and self._rows is None
            and not self._copy_waits
            and not self.wire.stalled
            and not self.wire.authenticating
        )

    @property
    def waiting(self) -> bool:
        wire = self.wire
        return self._message is not None or self._copy_waits or wire.stalled or wire.authenticating

    @property
    def rows_waiting(self) -> bool:
        return self._rows is not None

    def renew_rows(self, rows: ResultRows | CopyData) -> None:
        """The keys of these rows left the cache while rows were coming."""
        self._rows = rows

    def codecs(self, uses: Iterable[Use]) -> dict[Use, ColumnCodec]:
        """Codecs of these columns. Raises Wait, AccessDenied, KeyUnavailable."""
        if isinstance(self._failure, AccessDenied):
            raise self._failure
        if self._failure is not None:
            raise KeyUnavailable("keys could not be fetched") from self._failure
        found: dict[Use, ColumnCodec] = {}
        missing = []
        for use in uses:
            codec = self._granted.get(use) or self._codec_now(use)
            if codec is None:
                missing.append(use)
            else:
                found[use] = codec
        if missing:
            raise Wait(self._keys_wanted(missing))
        return found

    def _codec_now(self, use: Use) -> ColumnCodec | None:
        if self.principal is None:
            raise AccessDenied("not authenticated")
        return self.site.codec_now(self.principal, *use)

    def _keys_wanted(self, uses: Iterable[Use]) -> KeysWanted:
        if self.principal is None:
            raise AccessDenied("not authenticated")
        return KeysWanted(self.principal, tuple(uses))

    # ---- what plans depend on ------------------------------------------------------------------
    def current_enough(self, sql: bytes) -> None:
        """Settings and schema are known as the server will see them. Raises Wait or Refusal."""
        wire = self.wire
        if (self.settings.known and not self._schema_stale) or _TRANSACTION_MODE.match(sql):
            return
        if isinstance(self._failure, SealgateError):
            raise Refusal(sqlstate.SYSTEM_ERROR, "the server's catalogue cannot be read")
        injection = self._injection
        if injection is not None:
            if not injection.done:
                raise Wait(injection)
            self._injection = None
            self._take(injection)
            self.current_enough(sql)
            return
        if wire.status == b"E":
            if wire.expected:
                raise Wait(None)
            if _ENDS.match(sql) or not sql.strip():
                return
            raise Refusal(sqlstate.IN_FAILED_TRANSACTION, sqlstate.ABORTED)
        in_segment = wire.segment_open
        if not self.settings.known:
            raise Wait(self._inject("settings", settings_module.QUERY, in_segment))
        if wire.status == b"I" and not wire.expected and not in_segment:
            raise Wait(SnapshotWanted())
        raise Wait(self._inject("snapshot", self.site.catalog_query, in_segment))

    def _inject(self, topic: str, sql: bytes, in_segment: bool) -> Injection:
        injection = Injection(topic, in_segment, self._leftover)
        self._leftover = False
        inject(self.wire, injection, sql, in_segment)
        self._injection = injection
        return injection

    @property
    def holds_message(self) -> bool:
        """A message of the client waits for something."""
        return self._message is not None

    def _take(self, injection: Injection) -> None:
        self._leftover = injection.lost
        if injection.canceled:
            raise Refusal(sqlstate.QUERY_CANCELED, CANCELED)
        if not injection.failed and (injection.lost or injection.value is None):
            return  # the server never came to it
        if injection.failed or injection.value is None:
            raise Refusal(sqlstate.SYSTEM_ERROR, "the session's settings and schema cannot be read")
        self.wire.forget_fast()
        if injection.topic == "settings":
            self.settings.read(injection.value)
        else:
            self._local = self.site.local_snapshot(injection.value)
            self._schema_stale = False

    # ---- tables with a column that is being migrated -------------------------------------------
    def may_move(self, locks: bool) -> None:
        """A message that touches such a table may be sent now; `locks`: it surely locks the table.
        Raises Wait or Refusal; see `motion.py`."""
        motion = self.site.motion
        if motion is None or self._stand.locked:
            return
        if isinstance(self._failure, SealgateError):
            raise Refusal(
                sqlstate.SYSTEM_ERROR, "the state of a column's migration cannot be read now"
            )
        if not motion.open and not (self.wire.segment_open and motion.goes_on(self)):
            if not self.wire.expected:
                motion.leave(self)
            raise Wait(LayoutWanted())
        motion.enter(self)
        if locks:
            self._stand = Stand(True)
        self.wire.watch_ready = True

    def transaction_ends(self) -> None:
        """A statement that ends the transaction, or a part of it, is being sent."""
        self._stand = Stand()

    def all_answered(self) -> None:
        """ReadyForQuery; nothing more is on its way if `wire.expected` says so."""
        motion = self.site.motion
        if motion is None or self.wire.expected:
            return
        motion.leave(self)
        inside = self.wire.status == b"T" and self._stand.touched
        self._stand = Stand(inside, inside)
        self.wire.watch_ready = self.wire.watch_ready or inside

    @property
    def plans_hold(self) -> bool:
        """Nothing that plans depend on may have changed since it was last read."""
        return self.settings.known and not self._schema_stale

    @property
    def as_of(self) -> tuple[int, int]:
        """Which reading of the settings, and which view of the schema, plans are made under now."""
        return self.settings.readings, self.snapshot.version

    @property
    def snapshot(self) -> Snapshot:
        return self._local or self.site.snapshot

    @property
    def context(self) -> SessionContext:
        return SessionContext(
            database=self.startup.database,
            user=self.settings.user,
            search_path=self.settings.search_path,
            standard_conforming_strings=self.settings.standard_conforming_strings,
            temporary=self.settings.temporary,
        )

    @property
    def text_context(self) -> TextContext:
        reported = self.settings.reported
        return TextContext(
            date_style=reported.get("DateStyle", "ISO, MDY"),
            time_zone=reported.get("TimeZone", "UTC"),
            interval_style=reported.get("IntervalStyle", "postgres"),
            extra_float_digits=self.settings.extra_float_digits,
            bytea_output=self.settings.bytea_output,
            default_abbreviations=self.settings.abbreviations == "Default",
        )

    # ---- told by the two sides -----------------------------------------------------------------
    def became_ready(self) -> None:
        """The first ReadyForQuery: client messages that came early are looked at now."""
        self.ready = True
        if self.protected:
            self._schema_stale = not self.site.snapshot_read
            self._inject("settings", settings_module.QUERY, False)
        if self._message is None:
            self._run_client()

    def look_again(self, sql: bytes) -> None:
        """Reads the schema anew, once for a message. Raises Wait; returns when it was done already."""
        if self.looked_again:
            self.looked_again = False
            return
        self.looked_again = True
        self.schema_changed()
        self.current_enough(sql)

    def schema_changed(self) -> None:
        self.wire.forget_fast()
        self._schema_stale = self._defined = True
        self._local = None
        self.wire.watch_ready = True

    def transaction_ended(self) -> None:
        self.portals.forget(lambda portal: portal.cursor is not None and portal.cursor.hold)
        self.settings.transaction_ended()
        if not self.settings.known:
            self.wire.forget_fast()
        if self._defined:  # other sessions are to know, too
            self._defined = False
            self.site.schema_changed()
        if self._local is not None:
            self._local = None
            self._schema_stale = True
        self.wire.watch_ready = bool(len(self.portals))

    # ---- for the connection --------------------------------------------------------------------
    @property
    def client_buffered(self) -> int:
        return self.wire.client_buffered

    @property
    def authenticating(self) -> bool:
        return self.wire.authenticating

    @property
    def idle(self) -> bool:
        """Between transactions, with nothing on the way."""
        wire = self.wire
        return not wire.expected and wire.status == b"I" and not wire.segment_open

    def close(self) -> None:
        self.finished = True
        if self.site.motion is not None:
            self.site.motion.leave(self)
