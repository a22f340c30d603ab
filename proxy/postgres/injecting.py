"""How a query of our own goes into the client's stream. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.postgres.expected import F_SWALLOW, K_BIND, K_CLOSE, K_EXECUTE, K_PARSE, K_SYNC
from proxy.postgres.messages import CLOSE, EXECUTE, FLUSH_MESSAGE, SYNC_MESSAGE, Bind, Parse, frame
from proxy.postgres.statements import POISON_NAME

if TYPE_CHECKING:
    from proxy.native import Wire
    from proxy.postgres.needs import Injection


def inject(wire: Wire, injection: Injection, sql: bytes, in_segment: bool) -> None:
    """Asks the server something of our own, in the client's stream, with nothing of the client's
    disturbed: named statement and portal, closed at once; Flush inside a segment, else Sync."""
    name = POISON_NAME + b" query"
    close = frame(CLOSE, b"S" + name + b"\0")
    parts = [
        *([(K_CLOSE, close)] if injection.leftover else []),
        (K_PARSE, Parse(name, sql, ()).message()),
        (K_BIND, Bind(name, name, (), (), ()).message()),
        (K_EXECUTE, frame(EXECUTE, name + b"\0\0\0\0\0")),
        (K_CLOSE, frame(CLOSE, b"P" + name + b"\0")),
        (K_CLOSE, close),
    ]
    for kind, message in parts:
        wire.put_server(message)
        wire.expect(kind, F_SWALLOW, injection)
    if in_segment:
        wire.put_server(FLUSH_MESSAGE)
    else:
        wire.put_server(SYNC_MESSAGE)
        wire.expect(K_SYNC, F_SWALLOW, injection)
