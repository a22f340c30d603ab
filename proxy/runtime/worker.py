"""One worker: an event loop with the listeners of both protocols, and the key service.

I/O module. Started by the supervisor with its listening sockets already bound; says each second on
its status pipe how it is; drains on SIGTERM, or when the supervisor is gone.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

import structlog
import uvloop

from proxy import native
from proxy.audit import forwarding, process
from proxy.audit.log import AuditLog
from proxy.audit.record import Happening
from proxy.config.load import digest, load_dump, policy_digest, rings_of
from proxy.config.model import Config
from proxy.config.secrets import resolve
from proxy.errors import AuditUnavailable, SealgateError
from proxy.keys.build import open_keys, prepare_memory
from proxy.postgres.listener import PostgresListener
from proxy.runtime import logs
from proxy.s3.gateway import S3Gateway

EXIT_CONFIG = 4  # the supervisor does not start such a worker again
_BEAT_SECONDS = 1.0

log = structlog.get_logger("worker")


class _Worker:
    """The servers of this process, and what it says of itself."""

    def __init__(
        self, path: str, config: Config, generation: int, status_fd: int, agent: str
    ) -> None:
        self._path = path
        self._agent = agent
        self._config = config
        self._status_fd = status_fd
        self._tried = generation
        self._problem: str | None = None
        self._servers: list[PostgresListener | S3Gateway] = []
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def serve(self, pg_fds: list[int], s3_fd: int) -> None:
        """Runs until SIGTERM or until the supervisor is gone; then drains and wipes."""
        config = self._config
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        loop.add_reader(sys.stdin.fileno(), _gone, loop, self._stop)
        audit = AuditLog(config.audit, "worker", digest(config)) if config.audit else None
        process.use(audit)
        self._keys = await open_keys(
            config.keys, config.policy, prewarm=rings_of(config), agent=self._agent, audit=audit
        )
        forwarders = forwarding.start(config.audit) if config.audit else []
        try:
            if config.postgres and pg_fds:
                socks = [_socket(fd) for fd in pg_fds]
                self._servers.append(PostgresListener(config.postgres, self._keys, socks=socks))
            if config.s3 and s3_fd >= 0:
                self._servers.append(
                    S3Gateway(config.s3, self._keys, resolve_secret=resolve, sock=_socket(s3_fd))
                )
            for server in self._servers:
                await server.start()
            await self._until_stopped()
            self._say(ready=False, draining=True)
            seconds = self._config.drain_seconds
            await asyncio.gather(*(server.drain(seconds) for server in self._servers))
        finally:
            await self._keys.close()
            for task in forwarders:
                task.cancel()
            await asyncio.gather(*forwarders, return_exceptions=True)

    async def _until_stopped(self) -> None:
        while not self._stop.is_set():
            health: dict[str, object] = {"keys": self._keys.health()}
            for server in self._servers:
                if isinstance(server, PostgresListener):
                    health["postgres"] = server.health()
            self._say(ready=True, health=health)
            waits = [asyncio.ensure_future(e.wait()) for e in (self._stop, self._reload)]
            await asyncio.wait(waits, timeout=_BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._reload.is_set():
                self._reload.clear()
                await self._take_over()

    async def _take_over(self) -> None:
        """The file again, in place of what runs; anything wrong with it, and nothing changes."""
        config, generation = load_dump(self._path)
        self._problem = None
        try:
            for server in self._servers:
                if isinstance(server, PostgresListener) and config.postgres is not None:
                    await server.reload(config.postgres)
                elif isinstance(server, S3Gateway):
                    server.reload_certificate()
        except SealgateError as error:
            self._problem = str(error)
            log.error("reload failed", reason=self._problem)
            self._note_config(config, "refused")
        else:
            self._config = config
            self._keys.set_policy(config.policy)
            self._note_config(config, "in force")
        self._tried = generation

    def _note_config(self, config: Config, result: str) -> None:
        fields = {"config": digest(config), "policy": policy_digest(config), "result": result}
        with contextlib.suppress(AuditUnavailable):  # the keys are wiped; nothing to refuse here
            self._keys.report(Happening("config.change", fields))

    def _say(self, **what: Any) -> None:
        _say(self._status_fd, what | {"tried": self._tried, "problem": self._problem})


def _gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The supervisor holds the other end of standard input: its end is ours."""
    if not os.read(sys.stdin.fileno(), 1):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


def _socket(fd: int) -> socket.socket:
    made = socket.socket(fileno=fd)
    made.setblocking(False)
    return made


def _say(fd: int, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(what, default=str).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--pg-fd", type=int, action="append", default=[])
    parser.add_argument("--s3-fd", type=int, default=-1)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--agent", required=True, help="path of the key agent's socket")
    options = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    try:
        config, generation = load_dump(options.config)
        logs.set_up(config.log, pid=os.getpid())
        native.harden_process()
        prepare_memory(config.keys)
        if os.environ.get("LD_BIND_NOW") != "1":
            log.warning("LD_BIND_NOW is not set: symbol binding may leave key bytes on the stack")
        worker = _Worker(options.config, config, generation, options.status_fd, options.agent)
        uvloop.run(worker.serve(options.pg_fd, options.s3_fd))
    except SealgateError as error:
        _say(options.status_fd, {"ready": False, "error": str(error)})
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
