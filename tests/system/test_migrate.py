"""`sealgate migrate` under load, killed at every step: no error at a client, no value lost, both ways."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml

from proxy.config.load import load
from tests.parts.front import open_folder
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.proxy import Proxy

pytestmark = pytest.mark.system

COLUMN = "public.people.email"
ROWS = 3000
SCHEMA = f"""
CREATE TABLE people (id int PRIMARY KEY, email varchar(80) NOT NULL, n int NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX people_email ON people (email);
CREATE INDEX people_n_email ON people (n, email);
INSERT INTO people SELECT i, 'u' || i || '@x', 0 FROM generate_series(1, {ROWS}) i
"""


@dataclass
class Stand:
    folder: Path
    server: Postgres
    config: Path
    env: dict[str, str]

    def migrate(self, *words: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "proxy.cli.main",
            "migrate",
            COLUMN,
            "-c",
            str(self.config),
        ]
        return subprocess.Popen(
            [*command, *words], env={**os.environ, **self.env},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def done(self, *words: str) -> str:
        process = self.migrate(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{words}: {out} {err}"
        return out

    def killed_at(self, phase: str, *words: str) -> bool:
        """SIGKILL as soon as the command says that it is there; whether it came so far."""
        process = self.migrate(*words)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(phase):
                time.sleep(random.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                process.wait(30)
                return True
        process.wait(30)
        return False


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        env = {"SG_PG": server.password, "SG_TEST_PASSPHRASE": "a passphrase of the tests"}
        os.environ.update(env)
        document = {
            "keys": {
                "provider": {
                    "kind": "software",
                    "file": str(folder / "root.sealed"),
                    "passphrase": {"env": "SG_TEST_PASSPHRASE"},
                },
                "store": {"kind": "file", "path": str(folder / "rings")},
                "allow_unlocked_memory": True,
            },
            "postgres": {
                "listen": "127.0.0.1:0",
                "upstream": f"127.0.0.1:{server.port}",
                "upstream_tls": {"mode": "disable"},
                "database": server.database,
                "catalog": {"user": server.user, "password": {"env": "SG_PG"}},
                "columns": [
                    {"column": COLUMN, "type": "varchar(80)", "ring": "app", "equality": True,
                     "state": "migrating"},
                ],
            },
        }  # fmt: skip
        config = folder / "sealgate.yaml"
        config.write_text(yaml.safe_dump(document))
        yield Stand(folder, server, config, env)
        server.stop()


@dataclass
class Load:
    """A client that owns the rows of one remainder, and knows what has to be in them."""

    dsn: str
    part: int
    stop: threading.Event
    prepared: bool
    errors: list[str] = field(default_factory=list)
    rounds: int = 0

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # what the test is about
            self.errors.append(f"{type(error).__name__}: {error}")

    def _run(self) -> None:
        mine = {i: f"u{i}@x" for i in range(self.part, ROWS + 1, 4) if i}
        top = 10_000_000 * (self.part + 1)
        with psycopg.connect(self.dsn, autocommit=True) as c:
            c.prepare_threshold = 0 if self.prepared else None
            cursor = c.cursor() if self.prepared else psycopg.ClientCursor(c)
            while not self.stop.is_set():
                self.rounds += 1
                time.sleep(0.003)  # leaves the two cores something for the others
                i = random.choice(list(mine))
                new = f"w{self.part}.{self.rounds}@x"
                if self.rounds % 5 == 0:
                    with c.transaction():
                        cursor.execute("SELECT email FROM people WHERE id = %s", [i])
                        assert cursor.fetchall() == [(mine[i],)]
                        cursor.execute(
                            "UPDATE people SET email = %s WHERE email = %s", [new, mine[i]]
                        )
                        assert cursor.rowcount == 1
                    mine[i] = new
                elif self.rounds % 5 == 1:
                    top += 1
                    cursor.execute(
                        "INSERT INTO people VALUES (%s, %s, 1) ON CONFLICT (email) DO NOTHING",
                        [top, new],
                    )
                    mine[top] = new
                elif self.rounds % 25 == 2:
                    top += 1
                    with cursor.copy("COPY people FROM STDIN") as copy:
                        copy.write_row((top, new, 2))
                    mine[top] = new
                elif self.rounds % 5 == 2:
                    cursor.execute(
                        "UPDATE people SET email = %s WHERE id = %s RETURNING *", [new, i]
                    )
                    assert cursor.fetchall()[0][:2] == (i, new)
                    mine[i] = new
                else:
                    cursor.execute("SELECT * FROM people WHERE email = %s", [mine[i]])
                    found = cursor.fetchall()
                    assert [row[:2] for row in found] == [(i, mine[i])], (i, mine[i], found)
                    assert len(found[0]) == 3
            for i, value in mine.items():
                cursor.execute("SELECT email FROM people WHERE id = %s", [i])
                assert cursor.fetchall() == [(value,)]


@pytest.fixture
def loaded(stand: Stand) -> Iterator[list[Load]]:
    with psycopg.connect(stand.server.dsn(), autocommit=True) as direct:
        direct.execute("DROP TABLE IF EXISTS people")
        for statement in SCHEMA.split(";"):
            direct.execute(statement)
    postgres = load(stand.config).postgres
    assert postgres is not None
    stop = threading.Event()
    with Listening(postgres, lambda: software_keys(stand.folder)) as proxy:
        dsn = stand.server.dsn().replace(f"port={stand.server.port}", f"port={proxy.port}")
        loads = [Load(dsn, part, stop, part % 2 == 0) for part in range(4)]
        threads = [threading.Thread(target=one.run) for one in loads]
        for thread in threads:
            thread.start()
        yield loads
        stop.set()
        for thread in threads:
            thread.join(120)
    assert [one.errors for one in loads] == [[]] * 4
    assert all(one.rounds > 50 for one in loads)


def columns(stand: Stand) -> dict[str, str]:
    with psycopg.connect(stand.server.dsn()) as direct:
        rows = direct.execute(
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        return dict(rows.fetchall())


def alive(loads: list[Load]) -> None:
    assert [one.errors for one in loads] == [[]] * 4


def test_a_column_is_sealed_and_opened_under_load_and_kills(
    stand: Stand, loaded: list[Load]
) -> None:
    time.sleep(1)
    for phase in ("prepare", "index", "fill", "compare", "switch"):
        assert stand.killed_at(phase, "--throttle", "20000"), phase
        alive(loaded)
    stand.done()
    alive(loaded)
    assert columns(stand)["email"] == "bytea"
    assert columns(stand)["email__clear"] == "character varying"
    time.sleep(1)
    for phase in ("fill", "switch"):
        stand.killed_at(phase, "--to", "plain")
        alive(loaded)
    stand.done("--to", "plain")
    alive(loaded)
    assert columns(stand)["email"] == "character varying"
    time.sleep(0.5)
    stand.done("--finish")
    alive(loaded)
    time.sleep(0.5)
    found = columns(stand)
    assert found == {"id": "integer", "n": "integer", "email": "bytea", "email__bx": "bytea"}
    with psycopg.connect(stand.server.dsn()) as direct:
        assert direct.execute(
            "SELECT count(*) FROM people WHERE get_byte(email, 0) <> 197"
        ).fetchone() == (0,)
        kept = direct.execute(
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'people' ORDER BY indexname"
        ).fetchall()
        assert "(email__bx)" in kept[0][0] and "UNIQUE" in kept[0][0]
        assert "(n, email__bx)" in kept[1][0]
        null = direct.execute(
            "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname = 'email'"
        )
        assert null.fetchone() == (True,)


def test_killed_workers_stop_no_switch_and_lose_no_value(stand: Stand) -> None:
    document = yaml.safe_load(stand.config.read_text()) | {
        "workers": 2, "admin": {"listen": {"host": "127.0.0.1", "port": 0}}
    }  # fmt: skip
    config = stand.folder / "two.yaml"
    config.write_text(yaml.safe_dump(document))
    with psycopg.connect(stand.server.dsn(), autocommit=True) as direct:
        direct.execute("DROP TABLE IF EXISTS people")
        for statement in SCHEMA.split(";"):
            direct.execute(statement)
    proxy = Proxy(config, stand.env)
    if not (stand.folder / "root.sealed").exists():
        proxy.init_keys("app")
    proxy.start()
    dsn = stand.server.dsn().replace(f"port={stand.server.port}", f"port={proxy.pg_port}")
    stop = threading.Event()
    errors: list[str] = []
    writer = threading.Thread(target=written_over_kills, args=(dsn, stop, errors))
    writer.start()
    try:
        for to in ("sealed", "plain"):
            process = stand.migrate("--to", to)
            while process.poll() is None:
                time.sleep(0.5 + random.random())
                for pid in proxy.worker_pids()[:1]:
                    os.kill(pid, signal.SIGKILL)
            out, err = process.communicate()
            assert process.returncode == 0, f"{out} {err}"
    finally:
        stop.set()
        writer.join(60)
        proxy.stop()
    assert errors == []
    assert columns(stand)["email"] == "character varying"


def written_over_kills(dsn: str, stop: threading.Event, errors: list[str]) -> None:
    """One row after the other, each value read back; a lost connection leaves the old or the new one."""
    known, rounds = {i: {f"u{i}@x"} for i in range(1, 200)}, 0
    while not stop.is_set():
        try:
            with psycopg.connect(dsn, autocommit=True) as c:
                c.prepare_threshold = 0
                while not stop.is_set():
                    rounds += 1
                    i, new = random.choice(list(known)), f"k{rounds}@x"
                    found = c.execute("SELECT email FROM people WHERE id = %s", [i]).fetchone()
                    if found is None or found[0] not in known[i]:
                        errors.append(f"{i}: {found} is none of {known[i]}")
                        return
                    known[i] = {found[0], new}
                    done = c.execute(
                        "UPDATE people SET email = %s WHERE email = %s", [new, found[0]]
                    )
                    if done.rowcount != 1:
                        errors.append(f"{i}: {found[0]} was not found")
                        return
                    known[i] = {new}
        except psycopg.OperationalError:
            time.sleep(0.05)
        except psycopg.Error as error:
            errors.append(f"{type(error).__name__}: {error}")
            return
