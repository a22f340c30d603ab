"""A server of a test's own, and the configuration of a proxy in front of it that protects some columns."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.front import open_folder
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap


@dataclass(frozen=True)
class Database:
    """`folder` is for what the proxy keeps, too."""

    folder: Path
    server: Postgres
    config: PostgresConfig

    def through(self, port: int) -> str:
        """The connection string by way of a proxy that listens there."""
        return self.server.dsn().replace(f"port={self.server.port}", f"port={port}")


@contextlib.contextmanager
def database(columns: tuple[ColumnConfig, ...], **settings: Any) -> Iterator[Database]:
    """`settings`: more of the section `postgres`."""
    with _started() as (folder, server):
        yield Database(folder, server, _config(server, server.port, columns, settings))


@contextlib.contextmanager
def tapped_database(
    columns: tuple[ColumnConfig, ...], **settings: Any
) -> Iterator[tuple[Database, Tap]]:
    """The same, where all that goes between proxy and server is recorded."""
    with _started() as (folder, server), Tap("127.0.0.1", server.port) as tap:
        yield Database(folder, server, _config(server, tap.port, columns, settings)), tap


@contextlib.contextmanager
def _started() -> Iterator[tuple[Path, Postgres]]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        try:
            yield folder, server
        finally:
            server.stop()


def _config(
    server: Postgres, port: int, columns: tuple[ColumnConfig, ...], settings: dict[str, Any]
) -> PostgresConfig:
    return PostgresConfig(
        listen=Address(),
        upstream=Address(port=port),
        upstream_tls=TlsClient(mode="disable"),
        database=server.database,
        catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
        columns=columns,
        **settings,
    )
