"""Lines as rows of a table to which one can only add. I/O module."""

from datetime import datetime

import asyncpg

from proxy.audit.forward import Batch, Place
from proxy.config.audit import AuditPostgres
from proxy.config.secrets import resolve

_SECONDS = 10.0


class Table:
    """The table's DDL is in docs/reference/audit.md. No conflict target: naming one needs SELECT."""

    def __init__(self, connection: "asyncpg.Connection", table: str) -> None:
        self._connection = connection
        # The name has the form that the configuration allows: lower case words.
        self._insert = (
            f"INSERT INTO {table} (writer, n, at, event, line) "  # noqa: S608
            "VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
        )

    async def take(self, batch: Batch) -> None:
        rows = [
            (e.writer, e.n, datetime.fromisoformat(e.time), e.event, line.decode("ascii"))
            for e, line in batch
        ]
        await self._connection.executemany(self._insert, rows, timeout=_SECONDS)

    async def close(self) -> None:
        self._connection.terminate()


async def connect(config: AuditPostgres) -> Place:
    """Raises OSError, TimeoutError, asyncpg's errors."""
    connection = await asyncpg.connect(resolve(config.dsn), timeout=_SECONDS)
    return Table(connection, config.table)
