"""TLS on both legs, with a real server and libpq: what is verified, what is refused, and how."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.config.model import (
    ClientCertificates,
    NamedCertificate,
    PostgresConfig,
    PostgresTls,
    TlsClient,
)
from tests.parts.certificates import Certificates
from tests.parts.front import config, connect, open_folder
from tests.parts.listening import Listening
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system
SSL_REQUEST = struct.pack("!II", 8, 80877103)


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
    yield server
    server.stop()


@pytest.fixture(scope="module")
def front(certs: Certificates) -> tuple[Path, Path]:
    return certs.server(label="front")


def server_tls(postgres: Postgres, certs: Certificates, **more: object) -> PostgresConfig:
    return config(postgres, upstream_tls=TlsClient(ca_file=str(certs.ca), **more))


def client_tls(front: tuple[Path, Path], **more: object) -> PostgresTls:
    return PostgresTls(cert_file=str(front[0]), key_file=str(front[1]), **more)  # type: ignore[arg-type]


def encrypted(c: psycopg.Connection) -> bool:
    row = c.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    return bool(row[0])


# ---- towards the server ------------------------------------------------------------------------
@pytest.mark.parametrize("negotiation", ["request", "direct"])
def test_server_leg_is_verified_and_encrypted(postgres, certs, negotiation):
    with (
        Listening(server_tls(postgres, certs, negotiation=negotiation)) as running,
        connect(postgres, running.port) as c,
    ):
        assert encrypted(c)


@pytest.mark.parametrize("negotiation", ["request", "direct"])
def test_server_of_another_authority_is_refused(postgres, certs, folder, negotiation):
    other = Certificates(folder / "other")
    tls = TlsClient(ca_file=str(other.ca), negotiation=negotiation)
    with (
        Listening(config(postgres, upstream_tls=tls)) as running,
        pytest.raises(psycopg.OperationalError, match="certificate is not valid") as caught,
    ):
        connect(postgres, running.port)
    assert "unable to get local issuer" in str(caught.value)


def test_server_under_another_name_is_refused_unless_only_the_authority_counts(postgres, certs):
    wrong = TlsClient(ca_file=str(certs.ca), server_name="db.example.com")
    with (
        Listening(config(postgres, upstream_tls=wrong)) as running,
        pytest.raises(psycopg.OperationalError, match="Hostname mismatch"),
    ):
        connect(postgres, running.port)
    lax = TlsClient(ca_file=str(certs.ca), server_name="db.example.com", mode="verify-ca")
    with (
        Listening(config(postgres, upstream_tls=lax)) as running,
        connect(postgres, running.port) as c,
    ):
        assert encrypted(c)


def test_server_that_declines_tls_is_refused(certs, folder):
    plain = Postgres(folder / "plain")
    plain.start()
    try:
        for negotiation in ("request", "direct"):
            settings = server_tls(plain, certs, negotiation=negotiation)
            with (
                Listening(settings) as running,
                pytest.raises(psycopg.OperationalError, match="TLS"),
            ):
                connect(plain, running.port)
    finally:
        plain.stop()


def test_server_that_asks_for_a_client_certificate_gets_ours(certs, folder):
    server = Postgres(folder / "mtls")
    server.start(tls=certs.server(label="mtls"))
    try:
        with connect(server, server.port) as c:
            c.execute("CREATE ROLE worker LOGIN")
            c.execute(f"ALTER SYSTEM SET ssl_ca_file = '{certs.ca}'")
            hba = Path(str(c.execute("SHOW hba_file").fetchone()[0]))  # type: ignore[index]
            hba.write_text("hostssl all worker all cert\n" + hba.read_text())
            c.execute("SELECT pg_reload_conf()")
        cert, key = certs.client("worker")
        mine = server_tls(server, certs, cert_file=str(cert), key_file=str(key))
        with (
            Listening(mine) as running,
            connect(server, running.port, user="worker", password=None) as c,
        ):
            assert c.execute("SELECT current_user").fetchone() == ("worker",)
        with (
            Listening(server_tls(server, certs)) as running,
            pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"),
        ):
            connect(server, running.port, user="worker", password=None)
    finally:
        server.stop()


# ---- towards clients ---------------------------------------------------------------------------
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_client_leg_is_encrypted_and_verified_by_libpq(postgres, certs, front, negotiation):
    with (
        Listening(config(postgres, tls=client_tls(front))) as running,
        connect(
            postgres, running.port, sslmode="verify-full", sslrootcert=str(certs.ca),
            sslnegotiation=negotiation, channel_binding="disable",
        ) as c,
    ):  # fmt: skip
        assert c.execute("SELECT 1").fetchone() == (1,)
        (connection,) = running.listener.connections
        assert connection.tls is not None
        assert connection.tls.selected_alpn_protocol() == "postgresql"


def test_many_rows_cross_two_tls_legs(postgres, certs, front):
    settings = server_tls(postgres, certs).model_copy(update={"tls": client_tls(front)})
    with (
        Listening(settings) as running,
        connect(
            postgres, running.port, sslmode="require", sslnegotiation="direct",
            channel_binding="disable",
        ) as c,
    ):  # fmt: skip
        sql = "SELECT i, repeat('x', 200) FROM generate_series(1, 50000) i"
        assert sum(row[0] for row in c.execute(sql)) == 50000 * 50001 // 2


def test_direct_tls_needs_alpn(postgres, front):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        Listening(config(postgres, tls=client_tls(front))) as running,
        socket.create_connection(("127.0.0.1", running.port)) as raw,
        context.wrap_socket(raw) as link,
    ):
        assert b"C08P01" in link.recv(4096)


def test_direct_tls_can_be_switched_off(postgres, front):
    with (
        Listening(config(postgres, tls=client_tls(front, direct=False))) as running,
        pytest.raises(psycopg.OperationalError),
    ):
        connect(postgres, running.port, sslmode="require", sslnegotiation="direct")


def test_clear_connections_are_refused_where_tls_is_required(postgres, front):
    with Listening(config(postgres, tls=client_tls(front, require=True))) as running:
        with pytest.raises(psycopg.OperationalError, match="encrypted connections only"):
            connect(postgres, running.port)
        with connect(postgres, running.port, sslmode="require", channel_binding="disable"):
            pass


def test_old_tls_versions_are_refused(postgres, front):
    with (
        Listening(config(postgres, tls=client_tls(front, min_version="1.3"))) as running,
        pytest.raises(psycopg.OperationalError, match="SSL"),
    ):
        connect(postgres, running.port, sslmode="require", ssl_max_protocol_version="TLSv1.2")


def test_certificate_is_chosen_by_server_name(postgres, certs, front):
    cert, key = certs.server("localhost", label="named")
    named = NamedCertificate(name="localhost", cert_file=str(cert), key_file=str(key))
    other = certs.server("elsewhere.example", label="elsewhere")
    with Listening(config(postgres, tls=client_tls(other, by_name=(named,)))) as running:
        settings = {"sslrootcert": str(certs.ca), "channel_binding": "disable"}
        with connect(postgres, running.port, sslmode="verify-full", **settings):
            pass
        with pytest.raises(psycopg.OperationalError, match="certificate"):
            connect(postgres, running.port, sslmode="verify-full", sslsni=0, **settings)


def test_bytes_before_the_handshake_are_refused(postgres, front):
    """CVE-2021-23214: what was sent in clear must not be read as if it came inside TLS."""
    with (
        Listening(config(postgres, tls=client_tls(front, direct=False))) as running,
        socket.create_connection(("127.0.0.1", running.port)) as link,
    ):
        link.sendall(SSL_REQUEST + b"Q\0\0\0\x0dSELECT 1\0")
        assert b"C08P01" in link.recv(4096)


def test_gss_encryption_is_declined_and_the_connection_goes_on(postgres, front):
    with (
        Listening(config(postgres, tls=client_tls(front))) as running,
        socket.create_connection(("127.0.0.1", running.port)) as link,
    ):
        link.sendall(struct.pack("!II", 8, 80877104))
        assert link.recv(1) == b"N"
        link.sendall(SSL_REQUEST)
        assert link.recv(1) == b"S"


def test_scram_plus_passes_where_both_legs_show_one_certificate(postgres, certs, folder):
    front = folder / "certs" / "postgres.pem", folder / "certs" / "postgres.key"
    settings = server_tls(postgres, certs).model_copy(update={"tls": client_tls(front)})
    with (
        Listening(settings) as running,
        connect(postgres, running.port, sslmode="require", channel_binding="require") as c,
    ):
        assert c.execute("SELECT 1").fetchone() == (1,)


# ---- certificates of clients -------------------------------------------------------------------
def mtls(certs: Certificates, **more: object) -> ClientCertificates:
    return ClientCertificates(ca_file=str(certs.ca), **more)  # type: ignore[arg-type]


def shown(pair: tuple[Path, Path]) -> dict[str, str]:
    return {
        "sslmode": "require", "sslcert": str(pair[0]), "sslkey": str(pair[1]),
        "channel_binding": "disable",
    }  # fmt: skip


def test_client_without_a_certificate_is_refused(postgres, certs, front):
    settings = config(postgres, tls=client_tls(front, clients=mtls(certs)))
    with Listening(settings) as running:
        with pytest.raises(psycopg.OperationalError, match="requires a valid client certificate"):
            connect(postgres, running.port, sslmode="require", channel_binding="disable")
        with connect(postgres, running.port, **shown(certs.client("app"))):
            pass


def test_client_certificate_of_another_name_is_refused(postgres, certs, front):
    settings = config(postgres, tls=client_tls(front, clients=mtls(certs)))
    with (
        Listening(settings) as running,
        pytest.raises(psycopg.OperationalError, match='failed for user "app"'),
    ):
        connect(postgres, running.port, **shown(certs.client("somebody")))


def test_client_certificate_may_be_mapped_to_roles_and_become_the_principal(postgres, certs, front):
    clients = mtls(certs, roles={"billing": ("app",)}, principal="certificate")
    settings = config(postgres, tls=client_tls(front, clients=clients))
    with (
        Listening(settings) as running,
        connect(postgres, running.port, **shown(certs.client("billing"))) as c,
    ):
        c.execute("SELECT 1")
        (connection,) = running.listener.connections
        assert (connection.session.principal.kind, connection.session.principal.name) == (
            "mtls",
            "billing",
        )


def test_client_certificate_of_another_authority_is_refused(postgres, certs, front, folder):
    foreign = Certificates(folder / "foreign").client("app")
    settings = config(postgres, tls=client_tls(front, clients=mtls(certs, required=False)))
    with Listening(settings) as running, pytest.raises(psycopg.OperationalError):
        connect(postgres, running.port, **shown(foreign))


def test_revoked_client_certificate_is_refused(postgres, certs, front):
    revoked, good = certs.client("app", label="revoked"), certs.client("app", label="good")
    clients = mtls(certs, crl_file=str(certs.revocations(revoked[0])))
    with Listening(config(postgres, tls=client_tls(front, clients=clients))) as running:
        with pytest.raises(psycopg.OperationalError):
            connect(postgres, running.port, **shown(revoked))
        with connect(postgres, running.port, **shown(good)):
            pass


def test_expired_client_certificate_is_refused(postgres, certs, front):
    settings = config(postgres, tls=client_tls(front, clients=mtls(certs, must_match_user=False)))
    with Listening(settings) as running, pytest.raises(psycopg.OperationalError):
        connect(postgres, running.port, **shown(certs.expired("app.example")))


# ---- unix sockets ------------------------------------------------------------------------------
def test_unix_sockets_on_both_legs(folder):
    server = Postgres(folder / "unix")
    server.start()
    try:
        sockets = folder / "sockets"
        sockets.mkdir()
        sockets.chmod(0o777)
        with connect(server, server.port) as c:
            c.execute(f"ALTER SYSTEM SET unix_socket_directories = '{sockets}'")
        auto = server.folder / "data" / "postgresql.auto.conf"
        kept = auto.read_text()
        server.stop()
        _start_with(server, kept)
        settings = config(
            server,
            listen=(f"unix:{sockets}/.s.PGSQL.7000", "127.0.0.1:0"),
            upstream=f"unix:{sockets}/.s.PGSQL.{server.port}",
            upstream_tls=TlsClient(),
        )
        with Listening(settings) as running:
            path, tcp = running.listener.addresses
            assert path == f"{sockets}/.s.PGSQL.7000"
            for host, port in ((str(sockets), 7000), ("127.0.0.1", tcp[1])):
                dsn = f"host={host} port={port} user=app password={server.password} dbname=shop"
                with psycopg.connect(dsn) as c:
                    assert c.execute("SELECT 1").fetchone() == (1,)
    finally:
        server.stop()


def _start_with(server: Postgres, auto_conf: str) -> None:
    """Starts it with these settings in place of the part's own."""
    configure = server._configure
    server._configure = lambda tls: (server._data / "postgresql.auto.conf").write_text(auto_conf)  # type: ignore[assignment,method-assign]
    try:
        server.start()
    finally:
        server._configure = configure  # type: ignore[method-assign]
