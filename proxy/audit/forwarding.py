"""Which sinks does the configuration name? One forwarder each, in every worker; the lock picks one."""

import asyncio
from functools import partial
from pathlib import Path

from proxy.audit import syslog, table
from proxy.audit.forward import Forwarder
from proxy.config.audit import AuditConfig


def start(config: AuditConfig) -> list[asyncio.Task[None]]:
    """They run until they are cancelled."""
    made = []
    if config.syslog is not None:
        connect = partial(syslog.connect, config.syslog)
        made.append(Forwarder(Path(config.path), "syslog", connect))
    if config.postgres is not None:
        made.append(
            Forwarder(Path(config.path), "postgres", partial(table.connect, config.postgres))
        )
    return [asyncio.create_task(forwarder.run(), name="audit-forward") for forwarder in made]
