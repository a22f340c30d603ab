"""A SQLAlchemy project (`clinic/`) with sensitive columns: its own test-suite, unchanged, direct and sealed.

The project knows nothing of the proxy. Its suite runs on a database with plain columns directly and on one
with protected columns through the proxy; every test ends the same way. Then what the server has is looked at.
"""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psycopg
import pytest

from proxy.config.model import (
    Address,
    CatalogAccess,
    ColumnConfig,
    PostgresConfig,
    SecretRef,
    TlsClient,
)
from tests.parts.apart import Apart
from tests.parts.postgres import Postgres
from tests.parts.tap import Tap

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).parent / "clinic" / "suite.py"
# table -> column -> declared type and what is asked for beside equality
COLUMNS: dict[str, dict[str, tuple[str, dict[str, object]]]] = {
    "staff": {"name": ("text", {}), "ward": ("varchar(20)", {})},
    "doctor": {"licence": ("varchar(20)", {})},
    "visit": {"note": ("text", {})},
    "patient": {
        "email": ("varchar(120)", {"transform": "lower"}), "name": ("text", {}),
        "born": ("date", {"order": True}), "balance": ("numeric(12,2)", {"order": True}),
        "seen": ("timestamptz", {"equality": False}), "profile": ("jsonb", {}),
        "allergies": ("text[]", {"equality": False}), "readings": ("int4[]", {}),
    },
}  # fmt: skip
ACCEPTED = ("equality-low-cardinality", "order-correlated")


def run_suite(folder: Path, url: str) -> dict[str, str]:
    """The outcome of every test: "passed", or what the failure said."""
    report = folder / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", report, SUITE],
        cwd=ROOT, env={**os.environ, "CLINIC_URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failed = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
        outcomes[case.attrib["name"]] = "passed" if failed is None else (failed.text or failed.tag)
    return outcomes


def test_a_sqlalchemy_project_runs_its_own_tests_with_sealed_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)  # the server runs as another user
    server = Postgres(tmp_path / "pg")
    server.start()
    monkeypatch.setenv("SG_TEST_PG", server.password)
    try:
        with psycopg.connect(server.dsn(), autocommit=True) as c:
            c.execute("CREATE DATABASE plain_clinic")
        with Tap("127.0.0.1", server.port) as tap:
            config = PostgresConfig(
                listen=Address(),
                upstream=Address(port=tap.port),
                upstream_tls=TlsClient(mode="disable"),
                database=server.database,
                catalog=CatalogAccess(user=server.user, password=SecretRef(env="SG_TEST_PG")),
                catalog_masking=True,
                columns=tuple(
                    ColumnConfig.model_validate(
                        {"column": f"public.{table}.{name}", "type": kind, "ring": "app",
                         "equality": True, "acknowledge": ACCEPTED} | more
                    )
                    for table, columns in COLUMNS.items()
                    for name, (kind, more) in columns.items()
                ),
            )  # fmt: skip
            login = f"postgresql+psycopg://{server.user}:{server.password}@127.0.0.1"
            direct = run_suite(tmp_path, f"{login}:{server.port}/plain_clinic")
            assert set(direct.values()) == {"passed"} and len(direct) >= 29, direct
            with Apart(config, tmp_path) as proxy:
                sealed = run_suite(tmp_path, f"{login}:{proxy.port}/{server.database}")
            differ = {name: text for name, text in sealed.items() if text != direct.get(name)}
            assert not differ, "\n".join(f"== {name}\n{text}" for name, text in differ.items())
            assert sealed.keys() == direct.keys()
            assert b"canary-" not in bytes(tap.to_server).lower()
            assert b"canary-" not in bytes(tap.to_client).lower()
        look_at_the_server(server.dsn())
    finally:
        server.stop()


def look_at_the_server(dsn: str) -> None:
    """Every protected column holds bytea that begins as a sealed value does (reference/format.md)."""
    with psycopg.connect(dsn) as c:
        for table, columns in COLUMNS.items():
            for name in columns:
                values = c.execute(
                    f"SELECT {name} FROM {table} WHERE {name} IS NOT NULL"
                ).fetchall()
                assert values, f"{table}.{name} holds nothing to look at"
                for (value,) in values:
                    assert isinstance(value, bytes) and value[0] == 0xC5, (
                        table,
                        name,
                        value,
                    )
                    assert b"canary" not in value.lower()
