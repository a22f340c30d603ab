"""proxy/audit/table.py against a real server: a user that may only INSERT, and lines that come twice."""

from pathlib import Path

import psycopg
import pytest

from proxy.audit.forward import Forwarder
from proxy.audit.table import connect
from proxy.config.audit import AuditPostgres
from proxy.config.model import SecretRef
from tests.parts.audited import Clock, Log
from tests.parts.front import open_folder
from tests.parts.postgres import Postgres

pytestmark = pytest.mark.system
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "audit.md"


async def test_lines_become_rows_once_by_insert_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ddl = PAGE.read_text().partition("```sql\n")[2].partition("```")[0]
    with open_folder() as folder:
        server = Postgres(folder / "pg")
        server.start()
        try:
            base = f"127.0.0.1:{server.port}/{server.database}"
            own = f"postgresql://{server.user}:{server.password}@{base}"
            with psycopg.connect(own, autocommit=True) as admin:
                admin.execute("create role audit login password 'only-inserts'")
                admin.execute(ddl)  # type: ignore[call-overload]
            monkeypatch.setenv("AUDIT_DSN", f"postgresql://audit:only-inserts@{base}")
            config = AuditPostgres(dsn=SecretRef(env="AUDIT_DSN"))
            log = Log(tmp_path, 1, Clock())
            for i in range(700):
                log.say(i)
            for _ in range(2):  # the second one has no cursor
                forwarder = Forwarder(tmp_path, "postgres", lambda: connect(config))
                while await forwarder.step():
                    pass
                await forwarder._drop()
                (tmp_path / ".cursor-postgres.json").unlink()
            await log.stop("done")
            with psycopg.connect(own) as admin:
                found = admin.execute("select line from sealgate_audit order by n").fetchall()
            assert [line for (line,) in found] == _written(tmp_path)[:702]
        finally:
            server.stop()


def _written(folder: Path) -> list[str]:
    (path,) = folder.glob("*.jsonl")
    return path.read_text().splitlines()
