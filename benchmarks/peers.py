"""PgBouncer and HAProxy as side-by-side peers, one thread each, on loopback, in clear."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_port(port: int, seconds: float = 10) -> None:
    """Returns when something accepts on the loopback port; TimeoutError otherwise."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port}")


class Peer:
    """A peer process: `port` to connect to, `pid` to count."""

    def __init__(self, argv: list[str], port: int, user: str | None = None) -> None:
        self.port = port
        self._process = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user
        )
        self.pid = self._process.pid
        wait_port(port)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()


def pgbouncer(
    folder: Path, host: str, port: int, user: str, password: str, database: str
) -> Peer | None:
    """PgBouncer in session mode before this server; None where it is not installed."""
    binary = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        return None
    listen = free_port()
    users = folder / "users.txt"
    users.write_text(f'"{user}" "{password}"\n')
    ini = folder / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n{database} = host={host} port={port} dbname={database}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = session\n"
        "max_client_conn = 200\ndefault_pool_size = 100\n"
        "ignore_startup_parameters = extra_float_digits\nlogfile = /dev/null\n"
    )
    run_as = None
    if os.geteuid() == 0:  # it refuses to run as root
        run_as = next((u for u in ("postgres", "nobody") if _known(u)), "nobody")
        for path in (folder, users, ini):
            shutil.chown(path, run_as)
    return Peer([binary, "-q", str(ini)], listen, run_as)


def haproxy(folder: Path, host: str, port: int, mode: str) -> Peer | None:
    """HAProxy, one thread, `mode` "tcp" or "http"; None where it is not installed."""
    binary = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if binary is None:
        return None
    listen = free_port()
    config = folder / f"haproxy-{mode}-{listen}.cfg"
    config.write_text(
        "global\n  nbthread 1\n  maxconn 1000\n"
        f"defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n"
        "  timeout server 300s\n"
        f"listen peer\n  bind 127.0.0.1:{listen}\n  server origin {host}:{port}\n"
    )
    return Peer([binary, "-db", "-f", str(config)], listen)


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
