"""A proxy's configuration with nothing protected, and libpq in front of it: for protocol tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from proxy.config.model import Address, CatalogAccess, PostgresConfig, TlsClient
from tests.parts.postgres import Postgres


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that the server's uid can reach (pytest's own are closed to it)."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


def config(postgres: Postgres, **more: Any) -> PostgresConfig:
    settings: dict[str, Any] = {
        "listen": Address(host="127.0.0.1"),
        "upstream": Address(host="localhost", port=postgres.port),
        "upstream_tls": TlsClient(mode="disable"),
        "database": "other",
        "catalog": CatalogAccess(user="app"),
    }
    return PostgresConfig(**(settings | more))


def connect(postgres: Postgres, port: int, **more: Any) -> psycopg.Connection:
    settings: dict[str, Any] = {
        "host": "localhost",
        "hostaddr": "127.0.0.1",
        "port": port,
        "user": postgres.user,
        "password": postgres.password,
        "dbname": "shop",
        "sslmode": "disable",
        "connect_timeout": 20,
    }
    return psycopg.connect(autocommit=True, **(settings | more))
