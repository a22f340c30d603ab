"""Replication connections by policy: PostgreSQL's own tools work, SQL in disguise does not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.config.model import CatalogAccess, ColumnConfig, PostgresConfig, SecretRef
from proxy.postgres.replication import is_command
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        with connect(server, server.port) as c:
            c.execute("ALTER SYSTEM SET wal_level = logical")
        auto = server._data / "postgresql.auto.conf"
        kept = auto.read_text()
        server.stop()
        server._configure = lambda tls: auto.write_text(kept)  # type: ignore[assignment,method-assign]
        server.start()
        (server.folder / "password").write_text(server.password)
        yield server
        server.stop()


def allowed(postgres: Postgres, protected: bool = True) -> PostgresConfig:
    column = ColumnConfig(column="public.people.email", type="text", ring="app")
    return config(
        postgres,
        replication="allow",
        database="shop",
        catalog=CatalogAccess(
            user="app", password=SecretRef(file=str(postgres.folder / "password"))
        ),
        columns=(column,) if protected else (),
    )


def dsn(postgres: Postgres, port: int, more: str = "") -> str:
    return (
        f"host=127.0.0.1 port={port} user={postgres.user} password={postgres.password}"
        f" dbname=shop sslmode=disable {more}"
    )


def run(postgres: Postgres, tool: str, *words: str) -> str:
    path = postgres.tool(tool)
    assert path is not None
    done = subprocess.run(
        [path, *words], capture_output=True, text=True, timeout=20, check=False, cwd="/tmp"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_base_backup(postgres, tmp_path: Path):
    with Listening(allowed(postgres)) as running:
        run(
            postgres, "pg_basebackup", "-d", dsn(postgres, running.port), "-D",
            str(tmp_path / "copy"), "-c", "fast", "-X", "stream",
        )  # fmt: skip
    assert (tmp_path / "copy" / "PG_VERSION").exists()


def test_logical_decoding_streams_and_stops(postgres):
    with Listening(allowed(postgres)) as running, connect(postgres, postgres.port) as c:
        where = ("-d", dsn(postgres, running.port), "--slot", "s")
        run(postgres, "pg_recvlogical", *where, "--create-slot", "-P", "test_decoding")
        c.execute("CREATE TABLE IF NOT EXISTS events (n int)")
        c.execute("INSERT INTO events SELECT * FROM generate_series(1, 3000)")
        end = c.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        c.execute("INSERT INTO events VALUES (0)")  # something behind the end
        said = run(
            postgres, "pg_recvlogical", *where, "--start", "-f", "-", "--no-loop",
            "--endpos", str(end[0]),  # type: ignore[index]
        )  # fmt: skip
        assert said.count("table public.events: INSERT") == 3000
        run(postgres, "pg_recvlogical", *where, "--drop-slot")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO people VALUES ('canary@x.org')",
        "SELECT 1",
        "IDENTIFY_SYSTEM; INSERT INTO people VALUES ('canary@x.org')",
        "/* */ SHOW wal_level",
    ],
)
def test_other_statements_end_the_connection_before_the_server_sees_them(postgres, sql):
    with (
        Listening(allowed(postgres)) as running,
        psycopg.connect(
            dsn(postgres, running.port, "replication=database"),
            autocommit=True, cursor_factory=psycopg.ClientCursor,
        ) as c,
    ):  # fmt: skip
        assert c.execute("IDENTIFY_SYSTEM").fetchone() is not None
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="only replication commands"):
            c.execute(sql)
    with connect(postgres, postgres.port) as c:
        log = (postgres.folder / "server.log").read_text()
        assert "canary@x.org" not in log


def test_where_nothing_is_protected_sql_passes_too(postgres):
    with (
        Listening(allowed(postgres, protected=False)) as running,
        psycopg.connect(
            dsn(postgres, running.port, "replication=database"),
            autocommit=True, cursor_factory=psycopg.ClientCursor,
        ) as c,
    ):  # fmt: skip
        assert c.execute("SELECT 1").fetchone() == (1,)
        assert c.execute("SHOW wal_level").fetchone() == ("logical",)


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        (b"IDENTIFY_SYSTEM\0", True),
        (b" show data_directory_mode;\0", True),
        (b"START_REPLICATION SLOT \"a;b\" LOGICAL 0/0 (proto '1;2')\0", True),
        (b"SELECT pg_catalog.set_config('search_path', '', false);\0", True),
        (b"SELECT pg_catalog.set_config('search_path', 'x', false);\0", False),
        (b"SHOW x; SELECT 1\0", False),
        (b"SHOWN\0", False),
        (b"\0", False),
        (b"SHOW 'a\0", False),
        (b"SHOW a\0SELECT 1\0", False),
    ],
)
def test_what_a_replication_command_is(text: bytes, harmless: bool):
    assert is_command(text) is harmless
