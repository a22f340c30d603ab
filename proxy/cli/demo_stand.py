"""What the demo stands on: real servers, a root key and `sealgate serve` between them. I/O module."""

import json
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import yaml

from proxy.errors import SealgateError
from proxy.runtime.embedded.postgres import Postgres
from proxy.runtime.embedded.seaweed import Seaweed
from proxy.runtime.embedded.softhsm import SoftHsm

ACCESS_KEY = "SEALGATEDEMO"
BUCKET = "documents"
_COMMAND = [sys.executable, "-m", "proxy.cli.main"]

COLUMNS = (
    ("name", "text", False),
    ("email", "text", True),
    ("born", "date", False),
    ("card", "text", False),
)


class Stand:
    """Each `start_…` makes one part; `stop` ends them all, last one first."""

    def __init__(self, folder: Path, pg_port: int = 0, s3_port: int = 0) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "pg")
        self.seaweed = Seaweed(folder / "weed")
        self.hsm: SoftHsm | None = None
        self.config = folder / "sealgate.yaml"
        self.secret = secrets.token_urlsafe(24)
        self.ports = {"postgres": pg_port, "s3": s3_port, "admin": 0}
        self._env: dict[str, str] = {}
        self._parts: list[Postgres | Seaweed] = []
        self._serve: subprocess.Popen[str] | None = None

    def start_postgres(self) -> None:
        self._parts.append(self.postgres)
        self.postgres.start()

    def start_seaweed(self) -> None:
        self._parts.append(self.seaweed)
        self.seaweed.start()

    def start_root(self) -> str:
        """Makes the root key and the ring `demo`; returns what the root is."""
        if SoftHsm.available():
            self.hsm = SoftHsm(self.folder / "hsm")
            self._env["DEMO_PIN"] = self.hsm.pin
            provider: dict[str, Any] = {
                "kind": "pkcs11",
                "module": self.hsm.module,
                "token_label": self.hsm.token_label,
                "pin": {"env": "DEMO_PIN"},
                "environment": self.hsm.env,
            }
            kind = "SoftHSM token, AES-256 root"
        else:
            self._env["DEMO_PASSPHRASE"] = secrets.token_urlsafe(24)
            provider = {
                "kind": "software",
                "file": str(self.folder / "root.sealed"),
                "passphrase": {"env": "DEMO_PASSPHRASE"},
            }
            kind = "SOFTWARE ROOT, no HSM (SoftHSM is not installed: apt-get install softhsm2)"
        self._env |= {
            "DEMO_PG_PASSWORD": self.postgres.password,
            "DEMO_SECRET": self.secret,
            "DEMO_ORIGIN_KEY": self.seaweed.access_key,
            "DEMO_ORIGIN_SECRET": self.seaweed.secret_key,
        }
        self.config.write_text(yaml.safe_dump(self._document(provider), sort_keys=False))
        self.command("keys", "init", "--config", str(self.config), "--all")
        return kind

    def start_proxy(self) -> None:
        """Returns when it is ready, its addresses in `ports`. SealgateError with its last log."""
        log = self.folder / "sealgate.log"
        with log.open("ab") as out:
            self._serve = subprocess.Popen(
                [*_COMMAND, "serve", "--config", str(self.config)],
                env={**os.environ, **self._env}, stdout=subprocess.PIPE, stderr=out, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._serve.stdout is not None
        line = _first_line(self._serve.stdout, 60)
        if not line:
            tail = log.read_text(errors="replace")[-1500:]
            raise SealgateError(f"the proxy did not start; its log ends:\n{tail}")
        said = json.loads(line)
        self.ports = {name: said[name][1] for name in self.ports}

    def command(self, *words: str) -> str:
        """What another `sealgate` command prints. SealgateError with what it said on a failure."""
        done = subprocess.run(
            [*_COMMAND, *words], env={**os.environ, **self._env}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SealgateError(f"sealgate {' '.join(words[:2])}: {done.stderr.strip()}")
        return done.stdout

    def stop(self) -> None:
        if self._serve is not None:
            self._serve.terminate()
            try:
                self._serve.wait(10)
            except subprocess.TimeoutExpired:
                self._serve.kill()
                self._serve.wait(5)
        for part in reversed(self._parts):
            part.stop()

    def dsn(self, proxied: bool) -> str:
        straight = self.postgres.dsn() + " sslmode=disable"
        if not proxied:
            return straight
        return straight.replace(f"port={self.postgres.port}", f"port={self.ports['postgres']}")

    def s3(self, proxied: bool) -> Any:
        """A boto3 client: through the proxy, or straight to the store."""
        import boto3
        from botocore.config import Config

        key, secret, endpoint = (
            (ACCESS_KEY, self.secret, self.s3_endpoint)
            if proxied
            else (self.seaweed.access_key, self.seaweed.secret_key, self.seaweed.endpoint)
        )
        return boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
        )  # fmt: skip

    @property
    def s3_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3']}"

    def _document(self, provider: dict[str, Any]) -> dict[str, Any]:
        return {
            "keys": {
                "provider": provider,
                "store": {"kind": "file", "path": str(self.folder / "rings")},
            },
            "postgres": {
                "listen": {"port": self.ports["postgres"]},
                "upstream": {"port": self.postgres.port},
                "upstream_tls": {"mode": "disable"},  # loopback
                "database": self.postgres.database,
                "catalog": {"user": self.postgres.user, "password": {"env": "DEMO_PG_PASSWORD"}},
                "columns": [
                    {"column": f"public.people.{n}", "type": t, "ring": "demo", "equality": e}
                    for n, t, e in COLUMNS
                ],
            },
            "s3": {
                "listen": {"port": self.ports["s3"]},
                "credentials": [
                    {"access_key": ACCESS_KEY, "secret": {"env": "DEMO_SECRET"}, "principal": "app"}
                ],
                "origins": [
                    {
                        "name": "store",
                        "endpoint": self.seaweed.endpoint,
                        "access_key": {"env": "DEMO_ORIGIN_KEY"},
                        "secret_key": {"env": "DEMO_ORIGIN_SECRET"},
                    }
                ],
                "buckets": [{"bucket": "*", "origin": "store", "ring": "demo"}],
            },
            "admin": {"listen": {"port": 0}},
        }


def _first_line(stream: IO[str], seconds: float) -> str:
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    return lines[0] if lines else ""
