"""Several hosts: which one a connection goes to, and where it goes when that one fails."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.model import CatalogAccess, PostgresConfig, PostgresLimits, SecretRef
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system


def standby_of(primary: Postgres, folder: Path) -> Postgres:
    """A real hot standby, made by pg_basebackup and started."""
    tool = primary.tool("pg_basebackup")
    assert tool is not None
    folder.mkdir()
    if primary._uid is not None:
        os.chown(folder, primary._uid, primary._uid)
    where = f"host=127.0.0.1 port={primary.port} user={primary.user} password={primary.password}"
    subprocess.run(
        [tool, "-D", str(folder / "data"), "-d", where, "-X", "stream", "-c", "fast", "-R"],
        check=True, capture_output=True, timeout=60, cwd="/", **primary._as_user(),
    )  # fmt: skip
    with (folder / "data" / "postgresql.conf").open("a") as conf:
        conf.write(f"\nprimary_conninfo = '{where}'\n")
    made = Postgres(folder)
    made.start()
    return made


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its standby."""
    with open_folder() as folder:
        primary = Postgres(folder / "primary")
        primary.start()
        standby = standby_of(primary, folder / "standby")
        yield primary, standby
        standby.stop()
        primary.stop()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def hosts(postgres: Postgres, *ports: int, **more: Any) -> PostgresConfig:
    password = postgres.folder / "control-password"
    password.write_text(postgres.password)
    return config(
        postgres,
        upstream=tuple(f"127.0.0.1:{port}" for port in ports),
        catalog=CatalogAccess(user="app", password=SecretRef(file=str(password))),
        database="shop",
        **more,
    )


def port_of(c: psycopg.Connection) -> int:
    row = c.execute("SELECT inet_server_port()").fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("any", "standby"),
        ("primary", "primary"),
        ("read-write", "primary"),
        ("standby", "standby"),
        ("read-only", "standby"),
        ("prefer-standby", "standby"),
    ],
)
def test_attribute_chooses_among_standby_and_primary(pair, attribute, expected):
    primary, standby = pair
    settings = hosts(primary, standby.port, primary.port, target_session_attrs=attribute)
    with Listening(settings) as running, connect(primary, running.port) as c:
        assert port_of(c) == {"primary": primary.port, "standby": standby.port}[expected]


def test_a_primary_that_is_read_only_is_not_read_write(pair):
    primary, _ = pair
    settings = hosts(primary, primary.port, target_session_attrs="read-write")
    with Listening(settings) as running, connect(primary, primary.port) as admin:
        try:
            admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            admin.execute("SELECT pg_reload_conf()")
            time.sleep(0.3)
            with pytest.raises(psycopg.OperationalError, match="answers as read-write"):
                connect(primary, running.port)
        finally:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
            admin.execute("SELECT pg_reload_conf()")


def test_prefer_standby_takes_the_primary_where_there_is_no_standby(pair):
    primary, _ = pair
    settings = hosts(primary, unused_port(), primary.port, target_session_attrs="prefer-standby")
    with Listening(settings) as running, connect(primary, running.port) as c:
        assert port_of(c) == primary.port


def test_a_dead_host_is_passed_over_and_then_tried_last(pair):
    primary, standby = pair
    with Tap("127.0.0.1", standby.port) as silent:
        silent.stall()  # takes connections and says nothing
        settings = hosts(
            primary, unused_port(), silent.port, primary.port,
            limits=PostgresLimits(connect_timeout_seconds=0.6),
            target_session_attrs="primary",
        )  # fmt: skip
        with Listening(settings) as running:
            with connect(primary, running.port) as c:
                assert port_of(c) == primary.port
            start = time.monotonic()
            with connect(primary, running.port) as c:
                assert port_of(c) == primary.port
            assert time.monotonic() - start < 0.5, "hosts that failed are not waited for again"
            states = [h["state"] for h in running.listener.health()["hosts"]]
            assert states == ["down", "down", "up"]


def test_no_host_at_all_is_said_so(pair):
    primary, _ = pair
    for attribute, text in (("any", "could not connect"), ("primary", "no PostgreSQL server")):
        settings = hosts(primary, unused_port(), target_session_attrs=attribute)
        with (
            Listening(settings) as running,
            pytest.raises(psycopg.OperationalError, match=text) as caught,
        ):
            connect(primary, running.port)
        assert caught.value is not None


def test_random_balance_uses_both_hosts(pair):
    primary, standby = pair
    settings = hosts(primary, standby.port, primary.port, load_balance_hosts="random")
    seen = set()
    with Listening(settings) as running:
        for _ in range(40):
            with connect(primary, running.port) as c:
                seen.add(port_of(c))
            if len(seen) == 2:
                return
    pytest.fail(f"only {seen}")


def test_cancel_finds_the_host_of_its_session(pair):
    primary, standby = pair
    settings = hosts(primary, primary.port, standby.port, target_session_attrs="standby")
    with Listening(settings) as running, connect(primary, running.port) as c:
        threading.Timer(0.3, c.cancel_safe).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            c.execute("SELECT pg_sleep(20)")


def test_failover_to_a_promoted_standby():
    with open_folder() as folder:
        primary = Postgres(folder / "primary")
        primary.start()
        standby = standby_of(primary, folder / "standby")
        try:
            settings = hosts(
                primary, primary.port, standby.port,
                target_session_attrs="read-write", host_check_seconds=0.1,
            )  # fmt: skip
            with Listening(settings) as running:
                with connect(primary, running.port) as c:
                    assert port_of(c) == primary.port
                primary.stop()
                with pytest.raises(psycopg.OperationalError):
                    connect(primary, running.port)
                with connect(standby, standby.port) as admin:
                    admin.execute("SELECT pg_promote()")
                time.sleep(0.2)
                with connect(standby, running.port) as c:
                    assert port_of(c) == standby.port
                    c.execute("CREATE TABLE after_failover ()")
        finally:
            standby.stop()
            primary.stop()
