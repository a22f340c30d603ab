"""Does the supervisor answer on its admin address, restart, reload and drain?"""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import psycopg
import pytest

from tests.parts.stack import Stack

pytestmark = pytest.mark.system


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def until(true: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_serve_from_ready_to_drained(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    with Stack(tmp_path, tapped=False) as stack:
        assert get(f"{stack.admin}/healthz") == "ok\n"
        assert json.loads(get(f"{stack.admin}/readyz"))["ready"] is True
        assert "sealgate_pg_client_connections" in get(f"{stack.admin}/metrics")

        (first,) = stack.proxy.worker_pids()
        os.kill(first, signal.SIGKILL)
        until(lambda: stack.proxy.worker_pids() not in ([], [first]))
        until(lambda: json.loads(get(f"{stack.admin}/status"))["workers"][0].get("ready"))

        (second,) = stack.proxy.worker_pids()
        # what workers cannot take over in place (tests/system/test_supervisor.py has what they can)
        stack.config.write_text(stack.config.read_text() + "log: {level: warning}\n")
        os.kill(stack.proxy.pid, signal.SIGHUP)
        until(lambda: len(p := stack.proxy.worker_pids()) == 1 and p != [second])
        with psycopg.connect(stack.dsn()) as c:
            assert c.execute("SELECT 1").fetchone() == (1,)
