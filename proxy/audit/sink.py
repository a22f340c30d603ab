"""Where do audit lines go? For now into the structured log, under the logger name `audit`."""

from typing import Protocol

import structlog

from proxy.audit.record import KeyDecision, OperatorAct


class Sink(Protocol):
    def write(self, line: KeyDecision | OperatorAct) -> None:
        """Takes one line; must not block the event loop."""


class LogSink:
    """Every line as one event of the structured log, with `audit=true` to tell it apart."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("audit")

    def write(self, line: KeyDecision | OperatorAct) -> None:
        self._log.info(line.event, audit=True, **line.fields())


class MemorySink:
    """Keeps lines in a list; for tests and for `--json` output of one command."""

    def __init__(self) -> None:
        self.lines: list[KeyDecision | OperatorAct] = []

    def write(self, line: KeyDecision | OperatorAct) -> None:
        self.lines.append(line)
