"""What does a writer see of the others? Their last lines, which it writes into its own chain.

So a file that is deleted or cut back is missed by every chain that saw more of it (timeline
entanglement, Maniatis and Baker 2002). I/O module; reads ends of files only.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from proxy.audit import chain
from proxy.audit.events import Field
from proxy.audit.files import FileName, last_line, listed

AT_START = 64  # so many files, the latest changed; those before are in the chains of these
SHORT_MAC = 16  # hexadecimal digits of a MAC that name a line


@dataclass(frozen=True, slots=True)
class Head:
    file: str
    n: int
    mac: str
    quiet: bool  # a checkpoint: it says nothing but what others said

    def field(self) -> list[str | int]:
        return [self.file, self.n, self.mac[:SHORT_MAC]]


class Witness:
    """Remembers what it has seen; `changed` gives what is new."""

    def __init__(self, directory: Path, own: str) -> None:
        self._directory = directory
        self._own = own  # writer
        self._sizes: dict[str, int] = {}

    def first(self) -> list[Head]:
        """The last lines that are there at the start."""
        found = [(self._stat(name), name) for name in self._latest()]
        self._sizes = {str(name): stat.st_size for stat, name in found if stat}
        newest = sorted((s.st_mtime_ns, str(n)) for s, n in found if s is not None)[-AT_START:]
        return self._heads([name for _, name in newest])

    def changed(self) -> list[Head]:
        """The last lines of files that have grown, or come, since this was asked before."""
        sizes = {str(n): s.st_size for n in self._latest() if (s := self._stat(n)) is not None}
        fresh = sorted(name for name, size in sizes.items() if self._sizes.get(name) != size)
        self._sizes = sizes
        return self._heads(fresh)

    def _latest(self) -> list[FileName]:
        latest: dict[str, FileName] = {}
        for name in listed(self._directory):
            if name.writer != self._own:
                kept = latest.get(name.writer)
                latest[name.writer] = name if kept is None or name.index > kept.index else kept
        return list(latest.values())

    def _stat(self, name: FileName) -> os.stat_result | None:
        try:
            return os.stat(self._directory / str(name), follow_symlinks=False)
        except OSError:
            return None

    def _heads(self, names: list[str]) -> list[Head]:
        found = []
        for name in names:
            try:
                line = last_line(self._directory / name)
            except OSError:
                continue
            entry = chain.parse(line) if line is not None else None
            if entry is not None:
                quiet = entry.event.startswith("checkpoint")
                found.append(Head(name, entry.n, entry.mac, quiet))
        return found


def as_field(heads: list[Head]) -> Field:
    return [head.field() for head in heads]
