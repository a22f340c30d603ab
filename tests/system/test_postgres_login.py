"""The proxy authenticates clients itself, and logs in to a real server under its own credentials."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from proxy.config.model import (
    ClientCertificates,
    PostgresAuth,
    PostgresConfig,
    PostgresTls,
    PostgresUser,
    SecretRef,
    ServerLogin,
    TlsClient,
)
from proxy.postgres import server_login
from tests.parts.certificates import Certificates
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system

ALICE, SERVER = "only for the proxy: alice", "only for the server: service"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as path:
        yield path


@pytest.fixture(scope="module")
def certs(folder: Path) -> Certificates:
    return Certificates(folder / "certs")


@pytest.fixture(scope="module")
def postgres(folder: Path, certs: Certificates) -> Iterator[Postgres]:
    server = Postgres(folder / "pg")
    server.start(tls=certs.server(label="postgres"))
    with connect(server, server.port) as c:
        c.execute(f"CREATE ROLE service LOGIN PASSWORD '{SERVER}'")
        c.execute(f"CREATE ROLE stored LOGIN PASSWORD $${ALICE}$$")
        c.execute("SET password_encryption TO md5")
        c.execute(f"CREATE ROLE old LOGIN PASSWORD '{SERVER}'")
        c.execute(f"CREATE ROLE clear LOGIN PASSWORD '{SERVER}'")
        hba = Path(str(c.execute("SHOW hba_file").fetchone()[0]))  # type: ignore[index]
        rules = "host all old all md5\nhost all clear all password\nhost all open all trust\n"
        hba.write_text(rules + hba.read_text())
        c.execute("CREATE ROLE open LOGIN")
        c.execute("SELECT pg_reload_conf()")
        # the secret, as a DBA would take it from the server
        row = c.execute("SELECT rolpassword FROM pg_authid WHERE rolname = 'stored'").fetchone()
    (folder / "users").write_text(f'; clients of the proxy\n"alice" "{row[0]}"\n')  # type: ignore[index]
    (folder / "server-password").write_text(SERVER + "\n")
    yield server
    server.stop()


def front(certs: Certificates, **more: Any) -> PostgresTls:
    cert, key = certs.server(label="front")
    return PostgresTls(cert_file=str(cert), key_file=str(key), **more)


def scram(
    postgres: Postgres, folder: Path, *, user: str = "service", tls: Any = None, **auth: Any
) -> PostgresConfig:
    password = SecretRef(file=str(folder / "server-password"))
    return config(
        postgres,
        tls=tls,
        upstream_tls=TlsClient(ca_file=str(folder / "certs" / "ca.pem")),
        auth=PostgresAuth(
            **{
                "mode": "scram",
                "users_file": str(folder / "users"),
                "server": ServerLogin(user=user, password=password),
            }
            | auth
        ),
    )


def alice(postgres: Postgres, port: int, **more: Any) -> psycopg.Connection:
    return connect(postgres, port, **({"user": "alice", "password": ALICE} | more))


def test_client_and_server_have_credentials_of_their_own(postgres, folder):
    with (
        Listening(scram(postgres, folder)) as running,
        alice(postgres, running.port) as c,
    ):
        assert c.execute("SELECT session_user").fetchone() == ("service",)
        assert c.info.parameter_status("server_version") is not None
        (connection,) = running.listener.connections
        assert connection.session.principal.name == "alice"


def test_wrong_password_and_unknown_user_are_told_the_same_before_any_server(postgres, folder):
    with Tap("localhost", postgres.port) as tap:
        settings = scram(postgres, folder).model_copy(
            update={"upstream": config(postgres, upstream=f"127.0.0.1:{tap.port}").upstream}
        )
        with Listening(settings) as running:
            for user, password in (("alice", "wrong"), ("mallory", ALICE), ("app", "x")):
                with pytest.raises(psycopg.OperationalError) as caught:
                    alice(postgres, running.port, user=user, password=password)
                assert f'password authentication failed for user "{user}"' in str(caught.value)
        assert tap.connections == 0


def test_channel_binding_is_offered_required_and_verified(postgres, folder, certs):
    for mode in ("offer", "require"):
        with (
            Listening(scram(postgres, folder, tls=front(certs), channel_binding=mode)) as running,
            alice(
                postgres, running.port, sslmode="require", channel_binding="require"
            ) as c,
        ):  # fmt: skip
            assert c.execute("SELECT 1").fetchone() == (1,)
    with (
        Listening(scram(postgres, folder, tls=front(certs), channel_binding="require")) as running,
        pytest.raises(psycopg.OperationalError, match="channel binding is required"),
    ):
        alice(postgres, running.port)


def test_binding_holds_for_the_certificate_that_sni_chose(postgres, folder, certs):
    named = {"name": "localhost"} | dict(
        zip(("cert_file", "key_file"), map(str, certs.server(label="named")), strict=True)
    )
    tls = front(certs, by_name=(named,))
    with Listening(scram(postgres, folder, tls=tls)) as running:
        for sni in (0, 1):
            with alice(
                postgres, running.port, sslmode="require", sslsni=sni, channel_binding="require"
            ) as c:
                assert c.execute("SELECT 1").fetchone() == (1,)


def test_somebody_in_between_with_another_certificate_is_noticed(postgres, folder, certs):
    """TLS ends in front of the proxy, at who has a certificate of his own: the proof cannot hold."""
    with Listening(scram(postgres, folder, tls=front(certs))) as inner:
        middle = config(
            postgres,
            tls=front(certs, min_version="1.3").model_copy(
                update=dict(
                    zip(
                        ("cert_file", "key_file"),
                        map(str, certs.server(label="middle")),
                        strict=True,
                    )
                )
            ),
            upstream=f"localhost:{inner.port}",
            upstream_tls=TlsClient(ca_file=str(certs.ca)),
        )
        with Listening(middle) as outer, pytest.raises(psycopg.OperationalError):
            alice(postgres, outer.port, sslmode="require", channel_binding="require")


async def test_asyncpg_logs_in(postgres, folder):
    with Listening(scram(postgres, folder)) as running:
        c = await asyncpg.connect(
            host="127.0.0.1", port=running.port, user="alice", password=ALICE, database="shop"
        )
        try:
            assert await c.fetchval("SELECT $1::int", 7) == 7
        finally:
            await c.close()


def test_database_defaults_to_the_clients_own_name(postgres, folder):
    with Listening(scram(postgres, folder)) as running:
        with pytest.raises(psycopg.OperationalError, match='database "alice" does not exist'):
            alice(postgres, running.port, dbname="alice")
        with alice(postgres, running.port, dbname="postgres") as c:
            assert c.execute("SELECT current_database()").fetchone() == ("postgres",)


# ---- towards the server ------------------------------------------------------------------------
def test_server_that_refuses_our_credentials_tells_the_client_no_more_than_that(postgres, folder):
    with (
        Listening(scram(postgres, folder, user="stored")) as running,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        alice(postgres, running.port)
    assert "does not accept the proxy's credentials" in str(caught.value)
    assert "stored" not in str(caught.value)


@pytest.mark.parametrize(("role", "method"), [("old", "md5"), ("clear", "password")])
def test_weak_methods_only_inside_verified_tls_and_only_if_allowed(postgres, folder, role, method):
    with (
        Listening(scram(postgres, folder, user=role)) as running,
        pytest.raises(psycopg.OperationalError, match=f"asks for method {method}"),
    ):
        alice(postgres, running.port)
    allowed = scram(postgres, folder, user=role, server_methods=("scram-sha-256", method))
    with Listening(allowed) as running, alice(postgres, running.port) as c:
        assert c.execute("SELECT session_user").fetchone() == (role,)
    for mode in ("disable", "require"):
        unsafe = allowed.model_copy(update={"upstream_tls": TlsClient(mode=mode)})
        with (
            Listening(unsafe) as running,
            pytest.raises(psycopg.OperationalError, match="verified TLS"),
        ):
            alice(postgres, running.port)


def test_server_is_bound_to_its_channel_where_that_is_all_we_allow(postgres, folder):
    settings = scram(postgres, folder, server_methods=("scram-sha-256-plus",))
    with Listening(settings) as running, alice(postgres, running.port) as c:
        assert c.execute("SELECT 1").fetchone() == (1,)
    clear = settings.model_copy(update={"upstream_tls": TlsClient(mode="disable")})
    with (
        Listening(clear) as running,
        pytest.raises(psycopg.OperationalError, match="no SASL mechanism"),
    ):
        alice(postgres, running.port)


def test_users_have_servers_credentials_of_their_own(postgres, folder):
    users = (PostgresUser(user="alice", server=ServerLogin(user="open")),)
    with (
        Listening(scram(postgres, folder, users=users)) as running,
        alice(postgres, running.port) as c,
    ):
        assert c.execute("SELECT session_user").fetchone() == ("open",)


def test_server_that_lets_us_in_without_proof_is_not_believed(postgres, folder):
    """A server that knows no password sends AuthenticationOk in the middle of SCRAM."""

    async def liar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big") - 4)
        body = struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"
        writer.write(b"R" + struct.pack("!I", len(body) + 4) + body)
        await reader.readexactly(20)
        writer.write(b"R" + struct.pack("!II", 8, 0) + b"Z\0\0\0\5I")

    async def serve() -> int:
        nonlocal server
        server = await asyncio.start_server(liar, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    server: asyncio.Server | None = None
    base = scram(postgres, folder)
    with Listening(config(postgres)) as other:
        port = other.run(serve())
        settings = base.model_copy(
            update={
                "upstream": config(postgres, upstream=f"127.0.0.1:{port}").upstream,
                "upstream_tls": TlsClient(mode="disable"),
            }
        )
        with (
            Listening(settings) as running,
            pytest.raises(psycopg.OperationalError, match="did not prove"),
        ):
            alice(postgres, running.port)
        assert server is not None
        other._loop.call_soon_threadsafe(server.close)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_server_that_leaves_while_its_last_answer_is_looked_at_is_heard_to_the_end(
    postgres, folder, monkeypatch, tls
):
    answer = server_login.ServerLogin.answer

    def slow(self: server_login.ServerLogin, kind: int, payload: bytes) -> bytes | None:
        said = answer(self, kind, payload)
        if self.done:
            time.sleep(0.3)
        return said

    monkeypatch.setattr(server_login.ServerLogin, "answer", slow)
    settings = scram(postgres, folder)
    if not tls:
        settings = settings.model_copy(update={"upstream_tls": TlsClient(mode="disable")})
    with Listening(settings) as running:
        with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
            alice(postgres, running.port, dbname="nowhere")
        end = time.monotonic() + 5
        while running.listener.connections:
            assert time.monotonic() < end
            time.sleep(0.01)


# ---- certificates in place of passwords --------------------------------------------------------
def by_certificate(postgres, folder, certs, mode: str, **clients: Any) -> PostgresConfig:
    trusted = ClientCertificates(ca_file=str(certs.ca), **clients)
    return scram(postgres, folder, tls=front(certs, clients=trusted), mode=mode)


def shown(pair: tuple[Path, Path]) -> dict[str, str]:
    return {"sslmode": "require", "sslcert": str(pair[0]), "sslkey": str(pair[1])}


def test_certificate_alone_lets_in_whom_it_names(postgres, folder, certs):
    with Listening(by_certificate(postgres, folder, certs, "certificate")) as running:
        with alice(postgres, running.port, password="none", **shown(certs.client("alice"))) as c:
            assert c.execute("SELECT session_user").fetchone() == ("service",)
        for name, user in (("bob", "alice"), ("bob", "bob")):
            with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
                alice(postgres, running.port, user=user, **shown(certs.client(name)))


def test_certificate_or_password(postgres, folder, certs):
    settings = by_certificate(postgres, folder, certs, "certificate-or-scram", required=False)
    with Listening(settings) as running:
        with alice(postgres, running.port, password="none", **shown(certs.client("alice"))):
            pass
        with alice(postgres, running.port, sslmode="require"):
            pass
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            alice(postgres, running.port, sslmode="require", password="wrong")
