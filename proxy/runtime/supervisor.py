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
from prometheus_client.multiprocess import mark_process_dead

from proxy.config.load import dump, load
from proxy.config.model import Address, Config
from proxy.errors import ConfigError
from proxy.postgres.addresses import bound
from proxy.runtime.agents import AgentKeeper, without_root_secrets
from proxy.runtime.reload import in_place, keep_addresses
from proxy.runtime.worker import EXIT_CONFIG

log = structlog.get_logger("supervisor")

_STALE_SECONDS = 10.0
_MAX_BACKOFF_SECONDS = 10.0
_RELOAD_SECONDS = 60.0
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
    ended: bool = False

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
        self.last_reload_successful = True
        self._config_file = self._hand_over(config, 1)
        self._generation = 1  # of the configuration that was last tried
        self._reloading = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._failed = 0
        self.agent = AgentKeeper(config, 1, self._on_agent_failed)
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
            self.agent.promote()
            self.agent.start()
            for _ in range(self._wanted):
                await self._start_worker(self._config_file)
            self._watch(self._announce(admin))
            await self._stopping.wait()
            await self._drain()
        finally:
            await self.agent.stop()  # after the workers: they may need a key while they drain
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
        return sum(w.ready for w in self.workers) >= self._wanted and self.agent.failed is None

    @property
    def _wanted(self) -> int:
        return self.config.workers or os.cpu_count() or 1

    def _hand_over(self, config: Config, generation: int) -> str:
        """Writes a configuration for workers, and gives its path.

        They get what was loaded and checked, so that one that dies comes back under it whatever has
        become of the operator's file.
        """
        path = os.path.join(self.metrics_dir, f"config-{generation}.json")
        self._overwrite(path, config, generation)
        return path

    def _overwrite(self, path: str, config: Config, generation: int) -> None:
        fresh = path + ".new"
        with open(fresh, "w", encoding="utf-8") as file:
            file.write(dump(config, generation))
        os.replace(fresh, path)

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

    def _on_agent_failed(self) -> None:
        """At the start that ends us. Later the workers go on with the keys they have, and readiness
        says so: an operator has to act, and then reload."""
        if not any(w.said.get("ready") for w in self.workers):
            self._failed = EXIT_CONFIG
            self._stopping.set()

    async def _start_worker(
        self, config_file: str, delay: float = 0.0, agent: AgentKeeper | None = None
    ) -> Worker:
        agent = agent or self.agent
        sockets = [(n, _twin(h)) for n, holders in self._holders.items() for h in holders]
        status_read, status_write = os.pipe()
        stdin_read, stdin_write = os.pipe()
        argv = [
            sys.executable, "-m", "proxy.runtime.worker", "--config", config_file,
            "--status-fd", str(status_write), "--agent", agent.path,
        ]  # fmt: skip
        for name, sock in sockets:
            argv += [{"postgres": "--pg-fd", "s3": "--s3-fd"}[name], str(sock.fileno())]
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin_read,
            pass_fds=[status_write, *(s.fileno() for _, s in sockets)],
            env={
                **without_root_secrets(agent.config),
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
        self._watch(self._mourn(worker, time.monotonic(), delay, config_file))
        return worker

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

    async def _mourn(self, worker: Worker, born: float, delay: float, config_file: str) -> None:
        code = await worker.process.wait()
        await asyncio.sleep(0)  # what it said last is read first
        worker.ended = True
        self.workers.remove(worker)
        mark_process_dead(worker.process.pid, self.metrics_dir)
        with suppress(OSError):
            os.close(worker.stdin)
        if worker.leaving or self._stopping.is_set():
            return
        if config_file != self._config_file:
            return  # of a reload that is under way: `_replace` sees that it ended
        if code == EXIT_CONFIG:
            log.error("worker cannot start", reason=worker.said.get("error", "see its log"))
            self._failed = EXIT_CONFIG
            self._stopping.set()
            return
        lived = time.monotonic() - born
        delay = 0.1 if lived > 30 else min(_MAX_BACKOFF_SECONDS, max(0.1, delay * 2))
        log.error("worker died", status=code, restart_in_seconds=delay)
        await asyncio.sleep(delay)
        if not self._stopping.is_set():
            await self._start_worker(self._config_file, delay)

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
        """The file as it is now, or, if anything is wrong with it, everything as it was."""
        async with self._reloading:
            try:
                config = load(self.path)
            except ConfigError as error:
                self.last_reload_successful = False
                log.error("reload refused, the old configuration stays", reason=str(error))
                return
            config, waiting = keep_addresses(self.config, config)
            if waiting:
                log.warning("these settings take effect at a restart only", settings=waiting)
            self._generation += 1
            if in_place(self.config, config):
                how, problem = "in place", await self._renew(config)
            else:
                how, problem = "new workers", await self._replace(config)
            self.last_reload_successful = problem is None
            if problem is None:
                log.info("reloaded", how=how)
            else:
                log.error("reload failed, the old configuration stays", reason=problem)

    async def _renew(self, config: Config) -> str | None:
        """The workers that run take `config`, or all go on as before: then the reason."""
        self._overwrite(self._config_file, config, self._generation)
        self.agent.tell(config, self._generation)
        problem = await self._tell()
        if problem is None:
            self.config = config
            return None
        self._generation += 1
        self._overwrite(self._config_file, self.config, self._generation)
        self.agent.tell(self.config, self._generation)
        await self._tell()
        return problem

    async def _tell(self) -> str | None:
        """Every worker reads its file again; what went wrong, if anything did."""
        told = [w for w in self.workers if not w.leaving]
        end = time.monotonic() + _RELOAD_SECONDS
        while any(not (w.ready or w.ended) for w in told) and time.monotonic() < end:
            await asyncio.sleep(0.02)  # one that is starting may have read the file before
        for worker in told:
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGHUP)
        while any(not w.ended and w.said.get("tried") != self._generation for w in told):
            if time.monotonic() > end:
                return "a worker did not answer in time"
            await asyncio.sleep(0.02)
        problems = [w.said.get("problem") for w in told if not w.ended]
        return next((str(p) for p in problems if p), None)

    async def _replace(self, config: Config) -> str | None:
        """New workers under `config`, then the old ones drain; or the old ones stay: the reason."""
        old, old_file = list(self.workers), self._config_file
        config_file = self._hand_over(config, self._generation)
        agent = self.agent
        same = (config.keys, config.audit) == (self.config.keys, self.config.audit)
        if same and agent.failed is None:
            agent.tell(config, self._generation)
        else:  # one of its own: the old one stays for the old workers
            try:
                agent = AgentKeeper(config, self._generation, lambda: None)
            except ConfigError as error:
                return str(error)
            agent.start()
            if problem := await agent.wait_ready(_RELOAD_SECONDS):
                await agent.stop()
                return problem
        new = [
            await self._start_worker(config_file, agent=agent)
            for _ in range(config.workers or os.cpu_count() or 1)
        ]
        end = time.monotonic() + _RELOAD_SECONDS
        while not all(w.ready for w in new):
            failed = [w for w in new if w.ended]
            if failed or time.monotonic() > end or self._stopping.is_set():
                for worker in new:
                    worker.leaving = True
                    with suppress(ProcessLookupError):
                        worker.process.terminate()
                said = failed[0].said.get("error") if failed else None
                if agent is self.agent:
                    agent.tell(self.config, self._generation)
                else:
                    await agent.stop()
                return str(said or "the new workers did not start; see their log")
            await asyncio.sleep(0.02)
        self.config, self._config_file = config, config_file
        if agent is not self.agent:
            agent.promote()
            self._watch(_retire(self.agent, old))
            self.agent = agent
        for worker in old:
            worker.leaving = True
            with suppress(ProcessLookupError):
                worker.process.terminate()
        with suppress(OSError):
            os.unlink(old_file)
        return None


async def _retire(agent: AgentKeeper, workers: list[Worker]) -> None:
    """The agent ends once those who use it have ended."""
    while not all(w.ended for w in workers):
        await asyncio.sleep(0.1)
    await agent.stop()


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
