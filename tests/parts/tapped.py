"""A server, a proxy in a process of its own, and one client, with all that the server gets recorded."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.differential.wire import Side
from tests.parts.apart import Apart
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
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        with Tap("127.0.0.1", server.port) as tap:
            config = PostgresConfig(
                listen=Address(),
                upstream=Address(port=tap.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                columns=columns,
            )
            with Apart(config, Path(folder)) as proxy:
                dsn = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
                made = Tapped(Side(dsn), tap, server)
                yield made
                made.side.close()
        server.stop()
