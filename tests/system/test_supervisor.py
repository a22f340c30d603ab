"""Reload without a dropped connection, workers that die, cancel through any worker, readiness."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography import x509

from tests.parts.certificates import Certificates
from tests.parts.front import open_folder
from tests.parts.postgres import Postgres
from tests.parts.served import Served, until

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "pg")
    server.start()
    yield server
    server.stop()


def test_policy_certificates_and_limits_change_under_open_connections(postgres, folder):
    certs = Certificates(folder / "certs")
    cert, key = certs.server(label="front")
    served = Served(folder / "live", postgres)
    served.document["postgres"]["tls"] = {"cert_file": str(cert), "key_file": str(key)}
    served.write()

    def shown() -> int:
        with served.connect(sslmode="require", channel_binding="disable"):
            pass
        pem = ssl_certificate(served.proxy.pg_port)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    with served, served.connect() as c:
        c.execute("DROP TABLE IF EXISTS people")
        c.execute("CREATE TABLE people (email text)")
        c.execute("INSERT INTO people VALUES ('a@x.org')")
        pids, before = served.proxy.worker_pids(), shown()
        certs.server(label="front")  # the same files, another certificate
        served.document["policy"] = [
            {"principals": ["postgres:app"], "resources": ["column:*"], "actions": ["seal"]}
        ]
        served.document["postgres"]["limits"] = {"statement_timeout_seconds": 0.3}
        served.write()
        served.reload()
        assert served.proxy.worker_pids() == pids
        assert shown() != before
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            c.execute("SELECT email FROM people")
        with pytest.raises(psycopg.errors.QueryCanceled):
            c.execute("SELECT pg_sleep(10)")
        served.document["policy"] = []
        served.document["postgres"]["limits"] = {}
        served.write()
        served.reload()
        assert c.execute("SELECT email FROM people").fetchone() == ("a@x.org",)
        assert served.metric("sealgate_config_last_reload_successful") == 1


def ssl_certificate(port: int) -> str:
    """The certificate that direct TLS shows."""
    import socket

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw) as link,
    ):
        der = link.getpeercert(True)
        assert der is not None
        return ssl.DER_cert_to_PEM_cert(der)


def test_a_bad_reload_of_any_kind_leaves_everything_as_it_was(postgres, folder):
    served = Served(folder / "bad", postgres)
    good = dict(served.document)
    with served, served.connect() as c:
        pids = served.proxy.worker_pids()
        bad: list[tuple[str, Any]] = [
            ("reload refused", {"postgres": good["postgres"] | {"upstraem": 1}}),
            (
                "reload failed, the old",
                {"postgres": good["postgres"] | {"tls": {"cert_file": "/no", "key_file": "/no"}}},
            ),
            (
                "reload failed, the old",
                {"keys": good["keys"] | {"provider": good["keys"]["provider"] | {"file": "/no"}}},
            ),
        ]
        for line, change in bad:
            served.document = good | change
            served.write()
            served.reload(line)
            assert served.proxy.worker_pids() == pids
            assert c.execute("SELECT 1").fetchone() == (1,)
            with served.connect() as other:
                assert other.execute("SELECT 2").fetchone() == (2,)
            assert served.metric("sealgate_config_last_reload_successful") == 0
        # a worker that dies now comes back, whatever stands in the file
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: served.proxy.worker_pids() not in ([], pids))
        until(lambda: can_connect(served))


def can_connect(served: Served) -> bool:
    with contextlib.suppress(psycopg.OperationalError), served.connect():
        return True
    return False


def test_changed_addresses_are_said_to_need_a_restart(postgres, folder):
    served = Served(folder / "address", postgres)
    with served:
        served.document["postgres"]["listen"] = {"host": "127.0.0.1", "port": 1}
        served.write()
        served.reload("these settings take effect at a restart only")
        until(lambda: '"reloaded"' in served.proxy.log.read_text())
        assert "postgres.listen" in served.proxy.log.read_text()
        with served.connect() as c:
            assert c.execute("SELECT 1").fetchone() == (1,)


def test_new_columns_come_with_new_workers_while_transactions_end_in_peace(postgres, folder):
    served = Served(folder / "columns", postgres)
    with served, served.connect() as c:
        pids = served.proxy.worker_pids()
        c.execute("BEGIN")
        c.execute("SELECT 1")
        served.document["postgres"]["columns"].append(
            {"column": "public.later.secret", "type": "text", "ring": "app"}
        )
        served.write()
        served.reload()
        assert c.execute("SELECT 2").fetchone() == (2,)
        with served.connect() as other:
            other.execute("DROP TABLE IF EXISTS later")
            other.execute("CREATE TABLE later (secret text)")
        with served.postgres_direct() as direct:
            kind = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attname = 'secret'"
            assert direct.execute(kind).fetchone() == ("bytea",)
        c.execute("COMMIT")
        until(lambda: not set(pids) & set(served.proxy.worker_pids()))


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_cancel_reaches_its_session_through_any_of_two_workers(postgres, folder, tls):
    served = Served(folder / f"two-{tls}", postgres, workers=2)
    if tls:
        cert, key = Certificates(folder / "certs-two").server()
        served.document["postgres"]["tls"] = {"cert_file": str(cert), "key_file": str(key)}
        served.write()
    how = {"sslmode": "require" if tls else "disable", "channel_binding": "disable"}
    with served, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(served.connect(**how)) for _ in range(8)]
        until(lambda: all(w["health"]["postgres"]["connections"] for w in served.status()))
        for c in sessions:
            threading.Timer(0.1, c.cancel_safe).start()
            start = time.monotonic()
            with pytest.raises(psycopg.errors.QueryCanceled):
                c.execute("SELECT pg_sleep(20)")
            assert time.monotonic() - start < 10
            assert c.execute("SELECT 1").fetchone() == (1,)


def test_two_workers_share_a_unix_socket_that_goes_away_with_them(postgres, folder):
    served = Served(folder / "unix", postgres, workers=2)
    path = folder / "unix" / ".s.PGSQL.7001"
    path.touch()  # not a socket: nothing of ours, so it is not taken away
    served.document["postgres"]["listen"] = [
        "127.0.0.1:0", {"unix": str(path), "unix_mode": "0700"}
    ]  # fmt: skip
    served.write()
    served.proxy.init_keys("app")
    assert "7001" in served.proxy.fails_to_start({**served.proxy.env})
    path.unlink()
    with served:
        where = (
            f"host={folder / 'unix'} port=7001 user=app password={postgres.password} dbname=shop"
        )
        for _ in range(8):
            with psycopg.connect(where) as c:
                assert c.execute("SELECT 1").fetchone() == (1,)
        assert path.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_readiness_shows_the_server_and_the_keys(postgres, folder):
    with Served(folder / "ready", postgres) as served:
        with served.connect() as c:
            c.execute("SELECT 1")
        until(
            lambda: (
                served.status()[0]["health"]["postgres"]["hosts"]
                == [{"host": f"127.0.0.1:{postgres.port}", "state": "up"}]
            )
        )
        assert served.status()[0]["health"]["keys"]["up"] is True
        assert served.metric("sealgate_pg_upstream_up") == 1
        assert served.metric("sealgate_pg_bytes_total") > 0


def test_sigterm_lets_a_transaction_end_and_refuses_new_clients(postgres, folder):
    served = Served(folder / "drain", postgres)
    with served, served.connect() as c, served.connect() as idle:
        c.execute("BEGIN")
        c.execute("SELECT 1")
        idle.execute("SELECT 1")
        os.kill(served.proxy.pid, signal.SIGTERM)
        until(lambda: not can_connect(served))
        assert c.execute("SELECT 2").fetchone() == (2,)
        with pytest.raises(psycopg.errors.AdminShutdown):
            idle.execute("SELECT 1")
        c.execute("COMMIT")
