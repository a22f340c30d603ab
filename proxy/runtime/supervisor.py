"""Starts the workers, restarts what dies, reloads, drains, and answers on the admin address. IO.

Holds no key and parses nothing of a client: it binds the listening sockets (SO_REUSEPORT, one for
each worker), hands them over, and listens to what the workers say of themselves.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from proxy.config.load import load
from proxy.config.model import Address, Config
from proxy.errors import ConfigError
from proxy.postgres.addresses import bound
from proxy.runtime.worker import EXIT_CONFIG

log = structlog.get_logger("supervisor")

_STALE_SECONDS = 10.0
_MAX_BACKOFF_SECONDS = 10.0
# glibc gives the buffer of each read back to the system and faults it in anew, page by page; kept,
# they are used again. At most this much stays with a worker that is idle.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(4 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(2 * 1024 * 1024),
}


@dataclass
class Worker:
    """One child: its process, and what it last said."""

    process: asyncio.subprocess.Process
    stdin: int  # our end: closing it tells the worker that we are gone
    said: dict[str, Any] = field(default_factory=dict)
    heard_at: float = 0.0
    leaving: bool = False

    @property
    def ready(self) -> bool:
        fresh = time.monotonic() - self.heard_at < _STALE_SECONDS
        return fresh and bool(self.said.get("ready")) and not self.leaving


class Supervisor:
    """`run()` returns the exit status of the whole."""

    def __init__(self, path: str, config: Config) -> None:
        self.path = path
        self.config = config
        self.workers: list[Worker] = []
        self.metrics_dir = tempfile.mkdtemp(prefix="sealgate-metrics-")
        self._holders: dict[str, list[socket.socket]] = {}
        self._stopping = asyncio.Event()
        self._failed = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        from proxy.runtime.admin import Admin

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        self._reserve()
        admin = Admin(self)
        try:
            await admin.start(self.config.admin.listen)
            for _ in range(self.config.workers or os.cpu_count() or 1):
                await self._start_worker()
            self._watch(self._announce(admin))
            await self._stopping.wait()
            await self._drain()
        finally:
            await admin.close()
            for holder in [h for holders in self._holders.values() for h in holders]:
                _release(holder)
            shutil.rmtree(self.metrics_dir, ignore_errors=True)
        return self._failed

    def addresses(self) -> dict[str, Any]:
        """Where clients reach each listener: [host, port], or a path; `_also` lists further ones."""
        said: dict[str, Any] = {}
        for name, holders in self._holders.items():
            said[name], *more = [_shown(s.getsockname()) for s in holders]
            if more:
                said[f"{name}_also"] = more
        return said

    @property
    def ready(self) -> bool:
        return bool(self.workers) and all(w.ready for w in self.workers if not w.leaving)

    def _reserve(self) -> None:
        """Binds each address without listening: the port is ours while workers come and go."""
        wanted: dict[str, tuple[Address, ...]] = {}
        if self.config.postgres is not None:
            wanted["postgres"] = self.config.postgres.listen
        if self.config.s3 is not None:
            wanted["s3"] = (self.config.s3.listen,)
        for name, addresses in wanted.items():
            holders = self._holders.setdefault(name, [])
            for address in addresses:
                try:
                    holders.append(bound(address))
                except ConfigError as error:
                    raise ConfigError(f"{name}.listen: {error}") from None

    async def _start_worker(self, delay: float = 0.0) -> None:
        if delay:
            await asyncio.sleep(delay)
        if self._stopping.is_set():
            return
        sockets = [(n, _twin(h)) for n, holders in self._holders.items() for h in holders]
        status_read, status_write = os.pipe()
        stdin_read, stdin_write = os.pipe()
        argv = [
            sys.executable, "-m", "proxy.runtime.worker", "--config", self.path,
            "--status-fd", str(status_write),
        ]  # fmt: skip
        for name, sock in sockets:
            argv += [{"postgres": "--pg-fd", "s3": "--s3-fd"}[name], str(sock.fileno())]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin_read,
            pass_fds=[status_write, *(s.fileno() for _, s in sockets)],
            env={
                **os.environ,
                "LD_BIND_NOW": "1",  # lazy binding leaves key bytes on the stack
                "PROMETHEUS_MULTIPROC_DIR": self.metrics_dir,
                **_MALLOC,
            },
        )
        os.close(status_write)
        os.close(stdin_read)
        for _, sock in sockets:
            if sock.family != socket.AF_UNIX:
                sock.close()
        worker = Worker(process, stdin_write)
        self.workers.append(worker)
        self._watch(self._listen(worker, status_read))
        self._watch(self._mourn(worker, time.monotonic(), delay))

    def _watch(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, worker: Worker, fd: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
        )
        try:
            while line := await reader.readline():
                worker.said = json.loads(line)
                worker.heard_at = time.monotonic()
        finally:
            transport.close()

    async def _mourn(self, worker: Worker, born: float, delay: float) -> None:
        code = await worker.process.wait()
        await asyncio.sleep(0)  # what it said last is read first
        self.workers.remove(worker)
        with suppress(OSError):
            os.close(worker.stdin)
        if worker.leaving or self._stopping.is_set():
            return
        if code == EXIT_CONFIG:
            log.error("worker cannot start", reason=worker.said.get("error", "see its log"))
            self._failed = EXIT_CONFIG
            self._stopping.set()
            return
        lived = time.monotonic() - born
        delay = 0.1 if lived > 30 else min(_MAX_BACKOFF_SECONDS, max(0.1, delay * 2))
        log.error("worker died", status=code, restart_in_seconds=delay)
        await self._start_worker(delay)

    async def _announce(self, admin: Any) -> None:
        """One line on standard output when everything is ready: for those who started us."""
        while not self.ready:
            if self._stopping.is_set():
                return
            await asyncio.sleep(0.02)
        addresses = self.addresses() | {"admin": list(admin.address)}
        print(json.dumps({"event": "ready", **addresses}), flush=True)
        log.info("ready", **addresses)

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            log.warning("second signal: not waiting")
            for worker in self.workers:
                with suppress(ProcessLookupError):
                    worker.process.kill()
            return
        log.info("draining", seconds=self.config.drain_seconds)
        self._stopping.set()

    async def _drain(self) -> None:
        for worker in self.workers:
            worker.leaving = True
            with suppress(ProcessLookupError):
                worker.process.terminate()
        waits = [asyncio.ensure_future(w.process.wait()) for w in self.workers]
        if waits:
            _, late = await asyncio.wait(waits, timeout=self.config.drain_seconds + 5)
            if late:
                log.warning("killing what does not drain", workers=len(late))
                for worker in self.workers:
                    with suppress(ProcessLookupError):
                        worker.process.kill()
                await asyncio.wait(late, timeout=5)

    def _on_reload(self) -> None:
        self._watch(self._reload())

    async def _reload(self) -> None:
        """New workers under the new file, then the old ones drain; on an error the old file stays."""
        from proxy.metrics import config_last_reload_successful as gauge

        try:
            config = load(self.path)
        except ConfigError as error:
            gauge.set(0)
            log.error("reload refused, the old configuration stays", reason=str(error))
            return
        old = list(self.workers)
        self.config = config
        for worker in old:
            worker.leaving = True
        for _ in range(config.workers or os.cpu_count() or 1):
            await self._start_worker()
        while not self.ready and not self._stopping.is_set():
            await asyncio.sleep(0.05)
        for worker in old:
            with suppress(ProcessLookupError):
                worker.process.terminate()
        gauge.set(1)
        log.info("reloaded")


def _shown(name: Any) -> Any:
    return name if isinstance(name, str) else [name[0], name[1]]


def _release(holder: socket.socket) -> None:
    path = holder.getsockname()
    holder.close()
    if isinstance(path, str):
        with suppress(OSError):
            os.unlink(path)


def _twin(holder: socket.socket) -> socket.socket:
    """Another socket on the same address, for one worker to listen on (a unix one is shared)."""
    if holder.family == socket.AF_UNIX:
        return holder
    made = socket.socket(holder.family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(holder.getsockname()[:2])
    return made
