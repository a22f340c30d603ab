"""`sealgate postgres verify` and `reseal` over a table that clients go on writing."""

import asyncio
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    FileStore,
    KeysConfig,
    PostgresConfig,
    SecretRef,
    SoftwareProvider,
    TlsClient,
)
from proxy.keys.build import open_keys, rotate_ring
from proxy.postgres.hosts import Hosts
from proxy.postgres.jobs.columns import ColumnJob, Estimate, Progress, head
from proxy.postgres.site import Site
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def stack():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, 0o755)
        server = Postgres(folder / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
            columns=(
                ColumnConfig(column="public.users.email", type="text", ring="app", equality=True),
            ),
        )
        yield folder, server, config
        server.stop()


def key_config(folder: Path) -> KeysConfig:
    return KeysConfig(
        provider=SoftwareProvider(
            kind="software",
            file=str(folder / "root.sealed"),
            passphrase=SecretRef(env="SG_TEST_PASSPHRASE"),
        ),
        store=FileStore(kind="file", path=str(folder / "rings")),
        allow_unlocked_memory=True,
    )


def killed(folder: Path, config: PostgresConfig, server: Postgres) -> None:
    """A process that seals anew, with SIGKILL when some rows are done."""

    def work() -> None:
        asyncio.run(run(folder, config, True, 300))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    until = time.monotonic() + 30
    while len(heads(server)) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert process.is_alive()
    process.kill()
    process.join(20)


async def estimate(folder: Path, config: PostgresConfig) -> Estimate:
    keys = await open_keys(key_config(folder), ())
    try:
        hosts = Hosts(config)
        site = Site(config, keys, hosts)
        column = site.snapshot.protected["public", "users", "email"]
        return await ColumnJob(site, hosts, column).estimate()
    finally:
        await keys.close()


async def run(folder: Path, config: PostgresConfig, write: bool, rate: float = 0) -> Progress:
    keys = await open_keys(key_config(folder), ())
    try:
        hosts = Hosts(config)
        site = Site(config, keys, hosts)
        job = ColumnJob(site, hosts, site.snapshot.protected["public", "users", "email"], rate)
        return await (job.reseal if write else job.verify)(lambda _: None)
    finally:
        await keys.close()


async def test_a_rotated_ring_is_sealed_anew_under_writers_and_damage_is_named(stack):
    folder, server, config = stack
    with Listening(config, lambda: software_keys(folder)) as proxy:
        dsn = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
        with psycopg.connect(dsn, autocommit=True) as c:
            c.execute("CREATE TABLE users (id int PRIMARY KEY, email text)")
            rows = [(i, f"u{i}@x") for i in range(1200)]
            c.cursor().executemany("INSERT INTO users VALUES (%s, %s)", rows)
    old = heads(server)
    await rotate_ring(key_config(folder), "app")
    with Listening(config, lambda: software_keys(folder)) as proxy:
        dsn = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
        stop = threading.Event()
        assert (await estimate(folder, config)).stale == 1
        killed(folder, config, server)
        assert 0 < (await estimate(folder, config)).stale < 1

        def write() -> None:
            with psycopg.connect(dsn, autocommit=True) as c:
                number = 0
                while not stop.is_set():
                    number += 1
                    c.execute("UPDATE users SET email = %s WHERE id = 7", [f"w{number}@x"])

        writer = threading.Thread(target=write)
        writer.start()
        try:
            progress = await run(folder, config, True)
        finally:
            stop.set()
            writer.join(20)
        assert progress.rows >= 1199 and not progress.damaged  # a row that is moved may be met twice
        assert progress.resealed <= 1200
        assert not (old & heads(server))
        again = await run(folder, config, True)
        assert again.resealed == 0
        assert (await estimate(folder, config)).stale == 0
        with psycopg.connect(dsn, autocommit=True) as c:
            found = c.execute("SELECT id FROM users WHERE email = 'u42@x'").fetchall()
            assert found == [(42,)]
    with psycopg.connect(server.dsn(), autocommit=True) as direct:
        direct.execute(
            "UPDATE users SET email = set_byte(email, 60, 255 - get_byte(email, 60)) WHERE id = 99"
        )
    progress = await run(folder, config, False)
    assert progress.rows == 1200
    assert [place["key"] for place in progress.damaged] == ["99"]


def heads(server: Postgres) -> set[bytes]:
    """The key ids that values are under."""
    with psycopg.connect(server.dsn()) as direct:
        return {head(row[0])[-8:] for row in direct.execute("SELECT email FROM users")}
