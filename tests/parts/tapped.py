"""A server, a proxy in a process of its own, and one client, with all that the server gets recorded."""

import contextlib
from collections.abc import Iterator

from proxy.config.model import (
    ColumnConfig,
)
from tests.differential.wire import Side
from tests.parts.apart import Apart
from tests.parts.database import tapped_database
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap


class Tapped:
    def __init__(self, side: Side, tap: Tap, server: Postgres) -> None:
        self.side, self.tap, self.server = side, tap, server

    def state(self, sql: str) -> str:
        """The SQLSTATE of the first error in a text; empty if there is none."""
        error = self.side.simple(sql).error
        return error.sqlstate if error else ""

    def one(self, sql: str) -> bytes | None:
        """The first value of the last answer to a text that must not fail."""
        answers = self.side.simple(sql).answers
        assert not answers[-1].sqlstate, answers[-1].message
        return answers[-1].rows[0][0]

    def sent(self, value: str) -> bool:
        """Whether the server was sent this, by anybody, ever."""
        return value.encode() in bytes(self.tap.to_server)


@contextlib.contextmanager
def tapped(columns: tuple[ColumnConfig, ...]) -> Iterator[Tapped]:
    with (
        tapped_database(columns) as (made, tap),
        Apart(made.config, made.folder) as proxy,
    ):
        found = Tapped(Side(made.through(proxy.port)), tap, made.server)
        yield found
        found.side.close()
