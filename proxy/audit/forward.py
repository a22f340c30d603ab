"""How do lines get from the files to another place? In order, from a cursor, by one process. I/O module.

The files are the backlog: memory holds one batch, and whoever gets the lock goes on where the cursor
is. The cursor moves after a batch was taken, so a batch may come twice and none is left out.
"""

import asyncio
import fcntl
import json
import os
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

import structlog

from proxy import metrics
from proxy.audit import chain
from proxy.audit.chain import Entry
from proxy.audit.files import listed

_BATCH_LINES = 500
_BATCH_BYTES = 1 << 20
_IDLE_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 30.0
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_WRITER = re.compile(r"[0-9a-f]{32}")
_EVENT = re.compile(r"[a-z.]{1,64}")  # also of a later release

Batch = list[tuple[Entry, bytes]]
log = structlog.get_logger("audit")


def _sound(entry: Entry, line: bytes) -> bool:
    """Whether it has the form that is ours. What has not was altered, which is for `verify` to tell: no
    place could take it, and one such line must not keep all after it from getting there."""
    forms = ((_TIME, entry.time), (_WRITER, entry.writer), (_EVENT, entry.event))
    if not all(form.fullmatch(text) for form, text in forms):
        return False
    try:
        datetime.fromisoformat(entry.time)
    except ValueError:
        return False
    return entry.n < 1 << 63 and line.isascii()


class Place(Protocol):
    """Where lines go."""

    async def take(self, batch: Batch) -> None:
        """All of it is there; raises OSError or what its client raises if not."""

    async def close(self) -> None:
        """Idempotent."""


class Forwarder:
    """`run` until it is cancelled. `make` opens the place anew after a failure."""

    def __init__(self, directory: Path, name: str, make: Callable[[], Awaitable[Place]]) -> None:
        self._directory = directory
        self._name = name
        self._make = make
        self._cursor: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._place: Place | None = None

    async def run(self) -> None:
        held = await self._lock()
        try:
            self._cursor = self._load()
            delay = _IDLE_SECONDS
            while True:
                try:
                    busy = await self.step()
                    delay = _IDLE_SECONDS
                except Exception as error:  # whatever the place's client raises
                    log.warning("audit sink fails", sink=self._name, error=type(error).__name__)
                    await self._drop()
                    busy = False
                    delay = min(_MAX_BACKOFF_SECONDS, delay * 2)
                if not busy:
                    await asyncio.sleep(delay)
        finally:
            await self._drop()
            os.close(held)

    async def step(self) -> bool:
        """One batch; whether there was any."""
        batch, moved = await asyncio.to_thread(self._next)
        self._tell_lag()
        if not moved:
            return False
        if batch:
            if self._place is None:
                self._place = await self._make()
            await self._place.take(batch)
        self._cursor |= moved
        await asyncio.to_thread(self._save)
        self._tell_lag()
        return True

    def _next(self) -> tuple[Batch, dict[str, int]]:
        """The next lines that are whole, and where the cursor will be."""
        batch: Batch = []
        moved: dict[str, int] = {}
        self._sizes = {}
        room = _BATCH_BYTES
        for name in map(str, listed(self._directory)):
            path, at = self._directory / name, self._cursor.get(name, 0)
            try:
                self._sizes[name] = path.stat().st_size
                if self._sizes[name] <= at or room <= 0 or len(batch) >= _BATCH_LINES:
                    continue
                with open(path, "rb") as file:
                    file.seek(at)
                    for line in file:
                        if not line.endswith(b"\n") or room <= 0 or len(batch) >= _BATCH_LINES:
                            break
                        at += len(line)
                        room -= len(line)
                        moved[name] = at
                        entry = chain.parse(line[:-1])
                        if entry is not None and _sound(entry, line):
                            batch.append((entry, line[:-1]))
            except FileNotFoundError:
                continue  # taken away meanwhile
        return batch, moved

    def _tell_lag(self) -> None:
        lag = sum(size - self._cursor.get(name, 0) for name, size in self._sizes.items())
        metrics.audit_sink_lag_bytes.labels(self._name).set(lag)

    async def _lock(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f".forward-{self._name}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return handle
                except BlockingIOError:
                    await asyncio.sleep(_IDLE_SECONDS)
        except BaseException:
            os.close(handle)
            raise

    @property
    def _cursor_path(self) -> Path:
        return self._directory / f".cursor-{self._name}.json"

    def _load(self) -> dict[str, int]:
        try:
            found = json.loads(self._cursor_path.read_text())
            return {str(name): int(at) for name, at in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}  # from the beginning: lines come twice

    def _save(self) -> None:
        self._cursor = {n: at for n, at in self._cursor.items() if n in self._sizes}
        fresh = self._cursor_path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        # The key agent's user may write to the directory, too: nothing of its is followed.
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(self._cursor, file)
        os.replace(fresh, self._cursor_path)

    async def _drop(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            await place.close()
