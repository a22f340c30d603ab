"""How far is a job, and what went wrong? A small file that survives a kill, replaced whole each time.

`marker` is the last key of the last page that is done: a job that starts again goes on behind it, and
does at most one page twice, which every job here may.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from proxy.errors import ConfigError

_KEPT_FAILURES = 10_000


@dataclass
class Progress:
    """Counts so far; `failed` maps keys to reasons."""

    job: str
    marker: str = ""
    finished: bool = False
    seen: int = 0
    done: int = 0
    skipped: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    failures: int = 0

    def fail(self, key: str, reason: str) -> None:
        self.failures += 1
        if len(self.failed) < _KEPT_FAILURES:
            self.failed[key] = reason


class Journal:
    """`path` None: nothing is kept."""

    def __init__(self, path: Path | None, job: str) -> None:
        self._path = path
        self.progress = Progress(job)
        if path is not None and path.exists():
            try:
                found = Progress(**json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: not a journal: {error}") from None
            if found.job != job:
                raise ConfigError(f"{path} belongs to another job: {found.job}")
            self.progress = found

    def save(self) -> None:
        """On the disk before this returns."""
        if self._path is None:
            return
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("w") as file:
            json.dump(asdict(self.progress), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
