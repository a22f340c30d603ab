"""Where do audit lines go? Into the chain (`log.py`), or, where none is set up, into the log."""

from typing import Protocol

import structlog

from proxy.audit.record import Line


class Sink(Protocol):
    def write(self, line: Line) -> None:
        """Takes one line. Raises AuditUnavailable if it has to be written and cannot be."""

    def require(self) -> None:
        """AuditUnavailable while nothing can be written and the setting says `refuse`."""

    async def stop(self, reason: str) -> None:
        """Nothing comes any more. Idempotent."""


class LogSink:
    """Every line as one event of the structured log, with `audit=true` to tell it apart."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("audit")

    def write(self, line: Line) -> None:
        self._log.info(line.event, audit=True, **line.fields())

    def require(self) -> None:
        """The log takes everything."""

    async def stop(self, reason: str) -> None:
        """The log goes on."""


class MemorySink:
    """Keeps lines in a list; for tests."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, line: Line) -> None:
        self.lines.append(line)

    def require(self) -> None:
        """Memory takes everything."""

    async def stop(self, reason: str) -> None:
        """What was kept stays."""
