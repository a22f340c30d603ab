"""The tutorial runs as it stands, and shows what it says it shows."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from proxy.runtime.embedded.ports import free_port
from tests.parts.postgres import Postgres

pytestmark = [pytest.mark.system,
              pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")]  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "first-column.md"
MARK = "---end of block---"


def blocks(page: str) -> list[tuple[str, str | None]]:
    """(shell text, what it prints or None) of each sh block."""
    found: list[tuple[str, str | None]] = []
    for kind, text in re.findall(r"^```(sh|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if kind == "sh":
            found.append((text, None))
        else:
            found[-1] = (found[-1][0], text)
    return found


def test_the_tutorial_does_what_it_says() -> None:
    page = PAGE.read_text().replace("6432", str(free_port()))
    told = blocks(page)
    assert sum(shown is not None for _, shown in told) >= 5
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        server = Postgres(Path(folder) / "pg")
        server.start()
        bin_folder = Path(folder) / "bin"
        bin_folder.mkdir()
        command = bin_folder / "sealgate"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m proxy.cli.main "$@"\n')
        command.chmod(0o755)
        script = "set -e -o pipefail\n" + f"echo '{MARK}'\n".join(text for text, _ in told)
        try:
            done = subprocess.run(
                ["bash", "-m", "-c", script], cwd=folder, capture_output=True, text=True,
                timeout=100, check=False,
                env={
                    **os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}",
                    "PYTHONPATH": str(PAGE.parents[2]), "PGHOST": server.host,
                    "PGPORT": str(server.port), "PGUSER": server.user,
                    "PGPASSWORD": server.password, "PGDATABASE": server.database,
                },
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            printed = done.stdout.split(MARK + "\n")
            for (text, shown), got in zip(told, printed, strict=True):
                assert shown is None or got == shown, f"{text}\nprinted:\n{got}"
        finally:
            server.stop()
