"""One session between a client and a server, without I/O: bytes in, bytes out, and what is needed.

Theory of operation: `receive_client` and `receive_server` hand bytes to the native framing
(`native/frames.pyx`), which copies through what touches nothing protected and shows the rest to
`ClientSide` and `ServerSide`. When something outside is needed (keys, a fresh catalogue) the
client's messages wait, in order, `pending()` says for what, and `resolve()` goes on. Nothing
here awaits. In a database without protected columns the framing sees everything alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.native import Wire
from proxy.policy.model import Principal
from proxy.postgres.messages import TERMINATE
from proxy.postgres.server_side import ServerSide
from proxy.postgres.settings import Settings
from proxy.postgres.startup import StartupMessage

if TYPE_CHECKING:
    from proxy.postgres.site import Site


class Session:
    def __init__(
        self, site: Site, startup: StartupMessage, *, client_tls: bool, server_tls: bool
    ) -> None:
        self.site = site
        self.startup = startup
        self.both_tls = client_tls and server_tls
        self.any_tls = client_tls or server_tls
        self.protected = site.protects(startup.database)
        self.settings = Settings(startup.parameters)
        self.principal: Principal | None = None  # known after AuthenticationOk
        self.hang_up = False  # close the client after what is written
        self.finished = False  # a lost connection is no surprise any more
        self.wire = Wire(site.config.limits.max_message_bytes, {}, {}, not self.protected)
        self.wire.put_server(startup.packet)
        self._server = ServerSide(self)

    # ---- bytes ---------------------------------------------------------------------------------
    def receive_client(self, data: bytes) -> None:
        self.wire.client_feed(data)
        self._run_client()

    def receive_server(self, data: bytes) -> None:
        self.wire.server_feed(data)
        wire = self.wire
        while (event := wire.server_next()) is not None:
            self._server.event(*event)

    def data_to_server(self) -> bytes:
        return self.wire.to_server()

    def data_to_client(self) -> bytes:
        return self.wire.to_client()

    def _run_client(self) -> None:
        wire = self.wire
        while (event := wire.client_next()) is not None:
            if wire.authenticating and event[0] != TERMINATE:
                self._server.password(event[1])
                continue
            if event[0] == TERMINATE:
                self.finished = True
            wire.forward_client()

    # ---- needs ---------------------------------------------------------------------------------
    def pending(self) -> object | None:
        return None

    def resolve(self, need: object, result: object) -> None:
        pass

    @property
    def waiting(self) -> bool:
        return self.wire.authenticating

    @property
    def rows_waiting(self) -> bool:
        return False

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
