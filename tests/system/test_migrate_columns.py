"""`sealgate migrate` over columns of all kinds: what comes back, what is refused, who is waited for."""

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from proxy.errors import ConfigError, IntegrityError
from proxy.postgres.hosts import Hosts
from proxy.postgres.jobs import switch
from proxy.postgres.jobs.migrate import Estimate, Migration
from proxy.postgres.jobs.standing import Standing
from proxy.postgres.site import Site
from tests.parts.front import open_folder
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system

THINGS = {
    "t": ("text", ["'ä'", "''", "NULL", "repeat('x', 20000)"]),
    "k": ("char(6)", ["'ab'", "NULL", "'abcdef'", "''"]),
    "d": ("numeric(12,2)", ["1.50", "-0.00", "NULL", "'NaN'"]),
    "f": ("float8", ["'-0'", "1e300", "NULL", "'Infinity'"]),
    "b": ("date", ["'2020-02-29'", "'9999-12-31'", "NULL", "'0001-01-01'"]),
    "j": ("jsonb", ["'{\"a\": [1, 2.50]}'", "'null'", "NULL", "'\"x\"'"]),
    "o": ("json", ["'{\"a\":  1}'", "NULL", "'[]'", "'1'"]),
    "y": ("bytea", ["'\\x00ff'", "''", "NULL", "'\\xc50101'"]),
    "a": ("text[]", ["ARRAY['a', NULL]", "'{}'", "NULL", "ARRAY['']"]),
}
PLACES = ("things", "linked", "viewed", "defaulted", "wrong", "snap", "dirty", "must")


@dataclass
class Stand:
    folder: Path
    server: Postgres
    config: PostgresConfig
    through: str

    def run(self, column: str, *, sealed: bool = True, finish: bool = False) -> Standing:
        async def work(job: Migration) -> Standing:
            return await job.run(sealed, finish)

        done: Standing = self.job(column, work)
        return done

    def job(self, column: str, work: Any) -> Any:
        async def main() -> Any:
            keys = await software_keys(self.folder)
            try:
                hosts = Hosts(self.config)
                site = Site(self.config, keys, hosts)
                found = site.snapshot.protected["public", *column.split(".")]  # type: ignore[index]
                return await work(Migration(site, hosts, found, 0, lambda filled: None))
            finally:
                await keys.close()

        return asyncio.run(main())

    def direct(self) -> psycopg.Connection:
        return psycopg.connect(self.server.dsn(), autocommit=True)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        os.environ["SG_TEST_PG"] = server.password
        columns = [
            ColumnConfig(
                column=f"public.{table}.c",
                type="text",
                ring="app",
                equality=True,
                state="migrating",
            )
            for table in PLACES[1:]
        ]
        columns += [
            ColumnConfig(column=f"public.things.{n}", type=t, ring="app", state="migrating")
            for n, (t, _) in THINGS.items()
        ]
        config = PostgresConfig(
            listen=Address(),
            upstream=Address(port=server.port),
            upstream_tls=TlsClient(mode="disable"),
            database=server.database,
            catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
            columns=tuple(columns),
        )
        with Listening(config, lambda: software_keys(folder)) as proxy:
            through = server.dsn().replace(f"port={server.port}", f"port={proxy.port}")
            yield Stand(folder, server, config, through)
        server.stop()


@pytest.fixture(autouse=True)
def nobody_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """So there is no lease to wait for: a second is enough."""
    monkeypatch.setattr(switch, "LEASE_SECONDS", 0.0)


def test_values_of_every_type_come_back_from_both_directions(stand: Stand) -> None:
    with stand.direct() as direct:
        declared = ", ".join(f"{n} {t}" for n, (t, _) in THINGS.items())
        direct.execute(f"CREATE TABLE things (id int PRIMARY KEY, {declared}, last int)")
        for i in range(4):
            values = ", ".join(v[i] for _, v in THINGS.values())
            direct.execute(f"INSERT INTO things VALUES ({i}, {values}, {i})")
        everything = "SELECT * FROM things ORDER BY id"
        wanted = direct.execute(everything).fetchall()
    with psycopg.connect(stand.through, autocommit=True) as client:
        assert repr(client.execute(everything).fetchall()) == repr(wanted)
        for n in THINGS:
            at = stand.run(f"things.{n}", finish=True)
            assert at.sealed
            assert not at.there
            assert repr(client.execute(everything).fetchall()) == repr(wanted), n
        named = f"SELECT id, {', '.join(THINGS)}, last FROM things ORDER BY id"
        for n in ("d", "a"):
            at = stand.run(f"things.{n}", sealed=False)
            assert not at.sealed
            assert repr(client.execute(named).fetchall()) == repr(wanted), n
            stand.run(f"things.{n}", sealed=False, finish=True)


@pytest.mark.parametrize(
    ("table", "definition", "said"),
    [
        ("linked", "CREATE TABLE linked (c text PRIMARY KEY)", "depends on the column"),
        (
            "viewed",
            "CREATE TABLE viewed (c text); CREATE VIEW w AS SELECT c FROM viewed",
            "depends on",
        ),
        ("defaulted", "CREATE TABLE defaulted (c text DEFAULT 'x')", "DEFAULT"),
        ("wrong", "CREATE TABLE wrong (c int)", "in the configuration"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_changes(
    stand: Stand, table: str, definition: str, said: str
) -> None:
    with stand.direct() as direct:
        direct.execute(definition)

        async def estimate(job: Migration) -> Estimate:
            return await job.estimate()

        assert any(said in text for text in stand.job(f"{table}.c", estimate).obstacles)
        with pytest.raises(ConfigError, match=said):
            stand.run(f"{table}.c")
        found = direct.execute(f"SELECT * FROM {table}").description
        assert [c.name for c in found or ()] == ["c"]


def test_an_old_snapshot_is_waited_for_and_never_reads_an_empty_value(stand: Stand) -> None:
    with stand.direct() as direct:
        direct.execute("CREATE TABLE snap (id int, c text)")
        direct.execute("INSERT INTO snap SELECT i, 'v' || i FROM generate_series(1, 50) i")
    with psycopg.connect(stand.through) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")  # its snapshot is from before anything is filled
        job = threading.Thread(target=stand.run, args=("snap.c",))
        job.start()
        job.join(6)
        assert job.is_alive()
        assert reader.execute("SELECT count(*) FROM snap WHERE c = 'v7'").fetchone() == (1,)
        assert reader.execute("SELECT c FROM snap WHERE id = 7").fetchone() == ("v7",)
        reader.rollback()
        job.join(60)
        assert reader.execute("SELECT c FROM snap WHERE id = 7").fetchone() == ("v7",)
        reader.rollback()
    with stand.direct() as direct:
        assert direct.execute("SELECT c IS NOT NULL, get_byte(c, 0) FROM snap LIMIT 1").fetchone() == (
            True, 197,
        )  # fmt: skip


def test_forms_that_differ_stop_it_before_the_switch(stand: Stand) -> None:
    with stand.direct() as direct:
        direct.execute("CREATE TABLE dirty (id int, c text)")
        direct.execute("INSERT INTO dirty VALUES (1, 'a'), (2, 'b')")

        async def half(job: Migration) -> None:
            async with job._connected() as (connection, watcher):
                from proxy.postgres.jobs.standing import standing

                at = await standing(connection, job._column)
                await job._filled(connection, await job._prepared(connection, watcher, at))

        stand.job("dirty.c", half)
        direct.execute(
            "UPDATE dirty SET c__sealing = (SELECT d.c__sealing FROM dirty d WHERE d.id = 2) WHERE id = 1"
        )
        with pytest.raises(IntegrityError, match="1 values differ"):
            stand.run("dirty.c")
        with psycopg.connect(stand.through, autocommit=True) as client:
            assert client.execute("SELECT * FROM dirty WHERE c = 'a'").fetchall() == [(1, "a")]

        async def abort(job: Migration) -> Standing:
            return await job.abort()

        assert not stand.job("dirty.c", abort).there
        found = direct.execute("SELECT * FROM dirty").description
        assert [c.name for c in found or ()] == ["id", "c"]


def test_not_null_is_set_without_reading_the_rows_under_the_lock(stand: Stand) -> None:
    with stand.direct() as direct:
        direct.execute("CREATE TABLE must (c text NOT NULL)")
        direct.execute("INSERT INTO must VALUES ('a'), ('b')")
        direct.execute(f"ALTER DATABASE {stand.server.database} SET log_min_messages = debug1")
        try:
            stand.run("must.c", finish=True)
        finally:
            direct.execute(f"ALTER DATABASE {stand.server.database} RESET log_min_messages")
        log = (stand.server.folder / "server.log").read_text(errors="replace")
        assert 'existing constraints on column "must.c" are sufficient' in log
        with pytest.raises(psycopg.errors.NotNullViolation):
            direct.execute("INSERT INTO must DEFAULT VALUES")
