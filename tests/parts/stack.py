"""Everything at once: PostgreSQL, SeaweedFS, a SoftHSM token and `sealgate serve` between them.

Both server legs run through a `Tap`, so that a test can look at, cut or stall what leaves here.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.parts.postgres import Postgres
from tests.parts.proxy import Proxy
from tests.parts.seaweed import Seaweed
from tests.parts.softhsm import SoftHsm
from tests.parts.tap import Tap

APP_KEY, APP_SECRET = "SEALGATEAPP", "sealgate-app-secret-0123456789"

PEOPLE = {
    "name": ("text", True),
    "email": ("text", True),
    "age": ("int4", False),
    "born": ("date", True),
    "seen": ("timestamptz", False),
    "balance": ("numeric(12,2)", True),
    "member": ("bool", False),
    "token": ("uuid", True),
    "photo": ("bytea", False),
}


class Stack:
    """`pg_port` and `s3_endpoint` are the proxy's; `postgres` and `seaweed` the real servers."""

    def __init__(
        self, folder: Path, software_root: bool = False, tapped: bool = True, **cache: float
    ) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "pg")
        self.seaweed = Seaweed(folder / "weed")
        self.software_root = software_root or not SoftHsm.available()
        self._cache = cache
        self._tapped = tapped
        self._parts: list[Any] = []
        self.create_ring = True
        self.before_serve: Callable[[], object] = lambda: None

    def __enter__(self) -> "Stack":
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self) -> None:
        for part in (self.postgres, self.seaweed):
            part.start()
            self._parts.append(part)
        self.pg_tap = Tap(self.postgres.host, self.postgres.port)
        self.s3_tap = Tap("127.0.0.1", self.seaweed.port)
        legs = (self.pg_tap, self.s3_tap) if self._tapped else (self.postgres, self.seaweed)
        self._pg_leg, self._s3_leg = (leg.port for leg in legs)
        self.config = self.folder / "sealgate.yaml"
        self.env = {
            "SG_PG_PASSWORD": self.postgres.password,
            "SG_APP_SECRET": APP_SECRET,
            "SG_ORIGIN_KEY": self.seaweed.access_key,
            "SG_ORIGIN_SECRET": self.seaweed.secret_key,
        }
        self.config.write_text(yaml.safe_dump(self._document(), sort_keys=False))
        self.proxy = Proxy(self.config, env=self.env)
        self.proxy.init_keys("app" if self.create_ring else None)
        self.before_serve()
        self.proxy.start()
        self._parts.append(self.proxy)
        self.pg_port = self.proxy.pg_port
        self.s3_endpoint = f"http://127.0.0.1:{self.proxy.s3_port}"
        self.admin = f"http://127.0.0.1:{self.proxy.admin_port}"

    def _stop(self) -> None:
        for part in reversed(self._parts):
            part.stop()
        for tap in (getattr(self, "pg_tap", None), getattr(self, "s3_tap", None)):
            if tap:
                tap.close()

    def _provider(self) -> dict[str, Any]:
        if self.software_root:
            self.env["SG_PASSPHRASE"] = "a passphrase of the tests"
            return {
                "kind": "software",
                "file": str(self.folder / "root.sealed"),
                "passphrase": {"env": "SG_PASSPHRASE"},
            }
        hsm = SoftHsm(self.folder / "hsm")
        self.env["SG_PIN"] = hsm.pin
        return {
            "kind": "pkcs11",
            "module": hsm.module,
            "token_label": hsm.token_label,
            "pin": {"env": "SG_PIN"},
            "environment": hsm.env,
        }

    def _document(self) -> dict[str, Any]:
        def column(table: str, name: str, kind: str, equality: bool) -> dict[str, Any]:
            return {
                "column": f"public.{table}.{name}",
                "type": kind,
                "ring": "app",
                "equality": equality,
                "acknowledge": ["equality-low-cardinality"] if equality else [],
            }

        columns = [column("people", n, t, e) for n, (t, e) in PEOPLE.items()]
        columns += [column("wide_sealed", n, "text", False) for n in "ab"]
        columns += [column("copy_sealed", n, "text", False) for n in "ab"]
        columns += [column("points", "code", "int4", True), column("points", "name", "text", False)]
        columns.append(
            column("orders", "email", "text", True)
            | {"domain": f"{self.postgres.database}.public.people.email"}
        )
        return {
            "workers": int(os.environ.get("SG_TEST_WORKERS", "1")),
            "keys": {
                "provider": self._provider(),
                "store": {"kind": "file", "path": str(self.folder / "rings")},
                "cache": self._cache,
            },
            "postgres": {
                "listen": {"host": "127.0.0.1", "port": 0},
                "upstream": {"host": "127.0.0.1", "port": self._pg_leg},
                "upstream_tls": {"mode": "disable"},
                "database": self.postgres.database,
                "catalog": {"user": self.postgres.user, "password": {"env": "SG_PG_PASSWORD"}},
                "columns": columns,
            },
            "s3": {
                "listen": {"host": "127.0.0.1", "port": 0},
                "credentials": [
                    {"access_key": APP_KEY, "secret": {"env": "SG_APP_SECRET"}, "principal": "app"}
                ],
                "origins": [
                    {
                        "name": "weed",
                        "endpoint": f"http://127.0.0.1:{self._s3_leg}",
                        "access_key": {"env": "SG_ORIGIN_KEY"},
                        "secret_key": {"env": "SG_ORIGIN_SECRET"},
                    }
                ],
                "buckets": [
                    {"bucket": "plain*", "origin": "weed", "state": "plain"},
                    {"bucket": "*", "origin": "weed", "state": "sealed", "ring": "app"},
                ],
            },
            "admin": {"listen": {"host": "127.0.0.1", "port": 0}},
        }

    def dsn(self, port: int | None = None, **more: str) -> str:
        """A libpq connection string: through the proxy, or straight to the server's port."""
        pairs = {
            "host": "127.0.0.1",
            "port": str(port or self.pg_port),
            "user": self.postgres.user,
            "password": self.postgres.password,
            "dbname": self.postgres.database,
            "sslmode": "disable",
        } | more
        return " ".join(f"{k}={v}" for k, v in pairs.items())
