"""Where do the depths of this process note what an auditor must know? One sink, as with metrics.

For what has failed anyhow (an open, a proof of identity): a note that cannot be written changes no
answer here; the log counts it and, if it must, stops the keys.
"""

import contextlib

from proxy.audit.events import Field
from proxy.audit.record import Happening
from proxy.audit.sink import Sink
from proxy.errors import AuditUnavailable

_sink: Sink | None = None


def use(sink: Sink | None) -> None:
    """From now on notes go there; None: nowhere (they stand in the structured log as well)."""
    global _sink
    _sink = sink


def note(event: str, **fields: Field) -> None:
    if _sink is not None:
        with contextlib.suppress(AuditUnavailable):
            _sink.write(Happening(event, fields))
