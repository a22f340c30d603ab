"""`sealgate serve` before one PostgreSQL, with a software root: for tests of the processes."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.parts.front import connect
from tests.parts.postgres import Postgres
from tests.parts.proxy import Proxy


class Served:
    """`document` is the configuration; change it, `write()`, and `reload()`."""

    def __init__(self, folder: Path, postgres: Postgres, **more: Any) -> None:
        self.postgres = postgres
        self.document: dict[str, Any] = {
            "workers": 1,
            "keys": {
                "provider": {
                    "kind": "software",
                    "file": str(folder / "root.sealed"),
                    "passphrase": {"env": "SG_PASSPHRASE"},
                },
                "store": {"kind": "file", "path": str(folder / "rings")},
            },
            "postgres": {
                "listen": {"host": "127.0.0.1", "port": 0},
                "upstream": {"host": "127.0.0.1", "port": postgres.port},
                "upstream_tls": {"mode": "disable"},
                "database": postgres.database,
                "catalog": {"user": postgres.user, "password": {"env": "SG_PG_PASSWORD"}},
                "columns": [
                    {"column": "public.people.email", "type": "text", "ring": "app"},
                ],
            },
            "admin": {"listen": {"host": "127.0.0.1", "port": 0}},
            "drain_seconds": 5,
        } | more
        folder.mkdir(exist_ok=True)
        self.config = folder / "sealgate.yaml"
        self.write()
        env = {"SG_PASSPHRASE": "a passphrase of the tests", "SG_PG_PASSWORD": postgres.password}
        self.proxy = Proxy(self.config, env=env)

    def __enter__(self) -> Served:
        self.proxy.init_keys("app")
        self.proxy.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.proxy.stop()

    def write(self) -> None:
        self.config.write_text(yaml.safe_dump(self.document, sort_keys=False))

    def connect(self, **more: Any) -> Any:
        return connect(self.postgres, self.proxy.pg_port, **more)

    def postgres_direct(self) -> Any:
        return connect(self.postgres, self.postgres.port)

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.proxy.admin_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def status(self) -> list[dict[str, Any]]:
        return list(json.loads(self.get("/status"))["workers"])

    def reload(self, log_line: str = "reloaded") -> None:
        """SIGHUP, and waits for this line in the log."""
        before = self.proxy.log.read_text().count(f'"{log_line}')
        os.kill(self.proxy.pid, signal.SIGHUP)
        until(lambda: self.proxy.log.read_text().count(f'"{log_line}') > before)


def until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
