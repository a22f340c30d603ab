"""Where on disk is a writer's chain, and is a line whole or not there at all? I/O module.

One directory; a writer is one process from its start to its end and alone has its files:
`<day>-<role>-<writer>-<index>.jsonl`, with the index from 1 counting its files. A line that cannot
be written whole is taken off again, so that a full disk leaves no half lines behind.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(\d{8})-(worker|agent|command)-([0-9a-f]{32})-(\d{6})\.jsonl")
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileName:
    day: str  # YYYYMMDD, UTC
    role: str
    writer: str
    index: int

    def __str__(self) -> str:
        return f"{self.day}-{self.role}-{self.writer}-{self.index:06d}.jsonl"


def parse_name(name: str) -> FileName | None:
    """None: not a file of an audit log."""
    found = _NAME.fullmatch(name)
    return None if found is None else FileName(found[1], found[2], found[3], int(found[4]))


def listed(directory: Path) -> list[FileName]:
    """All files of the log, by day, then by name."""
    with contextlib.suppress(FileNotFoundError):
        names = (parse_name(entry.name) for entry in os.scandir(directory))
        return sorted((n for n in names if n is not None), key=str)
    return []


def lines_of(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Each line without its newline, and whether it had one."""
    with open(path, "rb") as file:
        for line in file:
            yield line.rstrip(b"\n"), line.endswith(b"\n")


def last_line(path: Path) -> bytes | None:
    """The last line that ends with a newline; None if there is none within 64 KiB of the end."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        whole, newline, _ = file.read().rpartition(b"\n")
    return whole.rpartition(b"\n")[2] if newline else None


class Files:
    """The file that a writer appends to. Raises OSError; then nothing was added."""

    def __init__(self, directory: Path, role: str, writer: str) -> None:
        self._directory = directory
        self._role = role
        self._writer = writer
        self._fd = -1
        self.name: FileName | None = None
        self.size = 0
        self._before: tuple[int, FileName | None, int] = (-1, None, 0)

    def begin(self, day: str) -> FileName:
        """The next file exists, empty, and its name is on the disk; the one before is synced."""
        name = FileName(day, self._role, self._writer, self.name.index + 1 if self.name else 1)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._fd >= 0:
            os.fdatasync(self._fd)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fresh = os.open(self._directory / str(name), flags, 0o600)
        try:
            _sync_directory(self._directory)
        except OSError:
            os.close(fresh)
            os.unlink(self._directory / str(name))
            raise
        self._before = (self._fd, self.name, self.size)
        self._fd, self.name, self.size = fresh, name, 0
        return name

    def keep(self) -> None:
        """The file that `begin` made has its first line: the one before is closed."""
        if self._before[0] >= 0:
            os.close(self._before[0])

    def undo(self) -> None:
        """The file that `begin` made could not be used: it is gone, and all is as before."""
        assert self.name is not None
        os.close(self._fd)
        with contextlib.suppress(OSError):
            os.unlink(self._directory / str(self.name))
        self._fd, self.name, self.size = self._before

    def append(self, line: bytes) -> None:
        done = 0
        try:
            while done < len(line):
                done += os.write(self._fd, line[done:])
        except OSError:
            if done:
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(line)

    def sync(self) -> None:
        """All that was appended is on the disk."""
        os.fdatasync(self._fd)

    def duplicate(self) -> int:
        """Another descriptor of the same file, for a thread to sync and close."""
        return os.dup(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
