"""Where do wrapped rings live on one host? One JSON document per ring in a directory.

I/O module; the calls run in a thread. Writers are kept apart by `flock` on `.lock`; a document is
replaced by rename after fsync of the file, and the directory is synced after it, so that a crash
leaves the old document or the new one. Readers need no lock. 0600 files in a 0700 directory, not
because anything is secret (keys are wrapped) but because whoever can write here can take keys away.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from proxy.keys import ring as rings
from proxy.keys.ring import Ring, RingError
from proxy.keys.stores.base import RingStore, StoreConflict, StoreUnavailable

_SUFFIX = ".ring.json"
_MAX_BYTES = 4 * 1024 * 1024


class FileRingStore(RingStore):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._directory = Path(path)

    async def get(self, name: str) -> Ring | None:
        return await asyncio.to_thread(self._read, rings.check_name(name))

    async def put(self, ring: Ring, expected: int) -> None:
        await asyncio.to_thread(self._write, ring, expected)

    async def names(self) -> list[str]:
        return await asyncio.to_thread(self._list)

    async def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"

    def _read(self, name: str) -> Ring | None:
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            if not self._directory.is_dir():
                # An unmounted volume must not look like "no such ring".
                raise StoreUnavailable(f"ring store {self._directory} is not there") from None
            return None
        except OSError as error:
            raise StoreUnavailable(f"ring store {path}: {error.strerror}") from None
        if len(raw) > _MAX_BYTES:
            raise StoreUnavailable(f"ring store {path}: larger than {_MAX_BYTES} bytes")
        try:
            ring = rings.from_document(json.loads(raw))
        except (RingError, ValueError, RecursionError) as error:
            raise StoreUnavailable(f"ring store {path}: {error}") from None
        if ring.name != name:
            raise StoreUnavailable(f"ring store {path}: is the document of ring {ring.name}")
        return ring

    def _write(self, ring: Ring, expected: int) -> None:
        path = self._path(ring.name)
        body = json.dumps(rings.to_document(ring), indent=1).encode() + b"\n"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                current = self._read(ring.name)
                stored = 0 if current is None else current.generation
                if stored != expected or ring.generation != expected + 1:
                    raise StoreConflict(
                        f"ring {ring.name} is at generation {stored}, not at {expected}"
                    )
                write_atomically(path, body)
        except OSError as error:
            raise StoreUnavailable(f"ring store {path}: {error.strerror}") from None

    def _list(self) -> list[str]:
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(f"ring store {self._directory}: {error.strerror}") from None
        return sorted(n.removesuffix(_SUFFIX) for n in found if n.endswith(_SUFFIX))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def write_atomically(path: Path, body: bytes, *, replace: bool = True) -> None:
    """`path` holds `body`, durably, mode 0600, or is as it was before.

    With `replace=False` an existing file raises FileExistsError.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.rename(temporary, path)
        else:
            os.link(temporary, path)  # unlike rename, link fails on an existing name
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """The names in it, and what they stand for, outlive a crash."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_directory(path: Path) -> None:
    """`path` is a directory, made with its parents, mode 0700 and durably, if it was not there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)
