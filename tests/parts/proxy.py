"""`sealgate serve` as a part for tests: a process of its own, with its log kept."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "proxy.cli.main"]


class Proxy:
    """Attributes once started: pid, pg_port, s3_port, admin_port."""

    def __init__(self, config: Path, env: dict[str, str]) -> None:
        self.config = config
        self.env = env
        self.log = config.parent / "sealgate.log"
        self._process: subprocess.Popen[str] | None = None

    def init_keys(self, ring: str | None) -> None:
        """The root key, and a ring below it."""
        words = ["keys", "init", "--config", str(self.config)]
        if ring:
            words += ["--ring", ring]
        self.run(*words)

    def run(self, *words: str) -> str:
        """Another command of the product, under the same environment. Fails on a status not 0."""
        done = subprocess.run(
            [*COMMAND, *words], env={**os.environ, **self.env}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
        return done.stdout

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--config", str(self.config)],
                env={**os.environ, **self.env}, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.pid = self._process.pid
        said = self._first_line(60)
        self.pg_port = said.get("postgres", [None, 0])[1]
        self.s3_port = said.get("s3", [None, 0])[1]
        self.admin_port = said["admin"][1]

    def _first_line(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        lines: list[str] = []
        out = self._process.stdout
        reader = threading.Thread(target=lambda: lines.append(out.readline()), daemon=True)
        reader.start()
        reader.join(seconds)
        if not lines or not lines[0]:
            self.stop()
            raise AssertionError(f"the proxy did not start:\n{self.log.read_text()[-4000:]}")
        return dict(json.loads(lines[0]))

    def fails_to_start(self, env: dict[str, str]) -> str:
        """Starts it where it must refuse; returns what it said."""
        done = subprocess.run(
            [*COMMAND, "serve", "--config", str(self.config)],
            env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode not in (0, None)
        return done.stdout + done.stderr

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    def status(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.admin_port}/status"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return dict(json.load(answer))

    def worker_pids(self) -> list[int]:
        return sorted(w["pid"] for w in self.status()["workers"])

    def assert_not_in_logs(self, text: str) -> None:
        time.sleep(0.05)
        assert text not in self.log.read_text(errors="replace")
