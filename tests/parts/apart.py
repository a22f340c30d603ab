"""The listener of `listening.py` in a process of its own, for clients that hold the GIL while they wait.

Run as a module it reads its configuration and a folder for keys from standard input, prints the port,
and ends when its input ends.
"""

import subprocess
import sys
from pathlib import Path
from types import TracebackType

from proxy.config.model import PostgresConfig
from tests.parts.keyring import software_keys
from tests.parts.listening import Listening


class Apart:
    """`port` is where it listens; its log goes to `folder`/proxy.log."""

    def __init__(self, config: PostgresConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder

    def __enter__(self) -> "Apart":
        self.log = self._folder / "proxy.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.parts.apart"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{self._folder}\n{self._config.model_dump_json()}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("port "):
                self.port = int(line.split()[1])
                self.pid = self._process.pid
                return self
        raise AssertionError(f"the proxy did not start:\n{self.log.read_text()[-4000:]}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()


def main() -> None:
    folder = Path(sys.stdin.readline().strip())
    config = PostgresConfig.model_validate_json(sys.stdin.readline())
    with Listening(config, lambda: software_keys(folder)) as proxy:
        print(f"port {proxy.port}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
