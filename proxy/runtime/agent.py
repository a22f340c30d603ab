"""The key agent: the one process with the root. An event loop, the provider, and the channel.

I/O module. Started by the supervisor with its socket bound; reads the configuration as one line of
its standard input, and again whenever the policy changes; says each second on its status pipe how it
is; ends on SIGTERM, when the supervisor is gone, or when a call of the HSM's module hangs for good:
a C call cannot be cancelled, but its process can.
"""

import argparse
import asyncio
import concurrent.futures.thread  # noqa: F401 - not to be looked for after `_become`
import json
import os
import pwd
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import uvloop

from proxy import native
from proxy.audit.log import AuditLog
from proxy.config.load import digest, read_dump
from proxy.config.model import Config
from proxy.errors import ConfigError, KeyUnavailable, SealgateError
from proxy.keys import auditing
from proxy.keys.agent.guard import Guard
from proxy.keys.agent.messages import Health
from proxy.keys.agent.server import AgentServer, Role, RoleOf
from proxy.keys.build import prepare_memory, provider_of, store_of
from proxy.keys.providers.base import CapabilityMissing, CredentialRefused, Provider
from proxy.keys.ring import Ring
from proxy.keys.stores.base import StoreUnavailable
from proxy.runtime import logs

EXIT_CONFIG = 4  # an operator must act: not started again
EXIT_HUNG = 5
EXIT_AGAIN = 6
_BEAT_SECONDS = 1.0

log = structlog.get_logger("agent")


class _Agent:
    def __init__(
        self, config: Config, generation: int, status_fd: int, audit_ring: Ring | None
    ) -> None:
        self._config = config
        self._audit_ring = audit_ring  # None: it is in the store, which we can read
        self._status_fd = status_fd
        self._tried = generation
        self._problem: str | None = None
        self._stop = asyncio.Event()
        self._pending = b""

    async def serve(self, listeners: list[socket.socket], supervisor_uid: int) -> None:
        """`listeners`: that of workers, then that of commands if there is one. Runs until it is
        told to stop; then the sessions are closed and all is wiped."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        os.set_blocking(sys.stdin.fileno(), False)
        loop.add_reader(sys.stdin.fileno(), self._told)
        keys = self._config.keys
        provider = provider_of(keys)
        config = self._config
        self._audit = AuditLog(config.audit, "agent", digest(config)) if config.audit else None
        server = AgentServer(
            provider,
            Guard(self._config),
            call_seconds=keys.agent.wait_seconds,
            audit=self._audit,
        )
        self._server = server
        try:
            # Before the token is asked: who connects meanwhile waits instead of failing.
            opening = asyncio.ensure_future(self._open(provider))
            roles: list[RoleOf] = [
                partial(worker_only, os.getppid(), supervisor_uid),
                partial(operator_only, supervisor_uid),
            ]
            for listener, role_of in zip(listeners, roles, strict=False):
                server.start(listener, role_of)
            await opening
            if self._audit is not None:
                await auditing.begin(self._audit, provider, self._audit_ring or store_of(keys))
            server.opened.set()
            looking: asyncio.Future[Health] | None = None
            while not self._stop.is_set():
                self._watch(provider)
                server.sweep()
                if looking is None or looking.done():  # not awaited: a beat waits for no token
                    looking = asyncio.ensure_future(server.health())
                self._say(
                    ready=True,
                    health=server.shown(),
                    connections=server.connections,
                    counts=dict(server.counts),
                )
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _BEAT_SECONDS)
        finally:
            server.close()
            if self._audit is not None:
                await self._audit.stop("closed")
            await provider.close()

    async def _open(self, provider: Provider) -> None:
        """A root that is merely away is not fatal: it is asked again with the first key."""
        try:
            await provider.open()
        except (CredentialRefused, CapabilityMissing, ConfigError):
            raise
        except KeyUnavailable as error:
            log.error("root is not available", provider=provider.name, error=str(error))

    def _watch(self, provider: Provider) -> None:
        since = provider.hung_since()
        if since is None or time.monotonic() - since < self._config.keys.agent.hang_seconds:
            return
        log.critical(
            "a call of the HSM's module hangs; the agent ends",
            seconds=round(time.monotonic() - since),
        )
        self._say(ready=False, error="a call of the HSM's module hangs")
        # Not sys.exit: that waits for the threads, and one of them will never end. The kernel
        # takes the arena's pages back zeroed.
        os._exit(EXIT_HUNG)

    def _told(self) -> None:
        """Lines of standard input: configurations. Its end is ours."""
        try:
            data = os.read(sys.stdin.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._stop.set()
            return
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._config, self._tried = read_dump(line.decode())
            self._server.guard = Guard(self._config)

    def _say(self, **what: Any) -> None:
        _say(self._status_fd, what | {"tried": self._tried, "problem": self._problem})


def worker_only(supervisor: int, supervisor_uid: int, pid: int, uid: int) -> Role | None:
    """A child of the supervisor, and of its user, is a worker. Both, since the supervisor may be the
    first process of a container, whose children are all that have lost their parents."""
    if uid != supervisor_uid:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            parent = int(file.read().rsplit(b")", 1)[1].split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return "worker" if parent == supervisor else None


def operator_only(supervisor_uid: int, pid: int, uid: int) -> Role | None:
    """Root, or who runs the supervisor."""
    return "operator" if uid in (0, supervisor_uid) else None


def _say(fd: int, what: dict[str, Any]) -> None:
    with suppress(OSError):
        os.write(fd, json.dumps(what, default=str).encode() + b"\n")


def _become(name: str) -> None:
    """For good: before the PIN is read, the module loaded or a connection taken. Here and not at
    exec, so that the user needs no right to read the interpreter."""
    found = pwd.getpwnam(name)
    os.setgroups(os.getgrouplist(name, found.pw_gid))
    os.setresgid(found.pw_gid, found.pw_gid, found.pw_gid)
    os.setresuid(found.pw_uid, found.pw_uid, found.pw_uid)
    os.environ["HOME"] = found.pw_dir


def _ring_for_audit(config: Config) -> Ring | None:
    """Before we become somebody who may not read the store. Nothing of it is secret."""
    if config.audit is None:
        return None
    return asyncio.run(auditing.ring_of(store_of(config.keys), config.audit.ring))


def _check_audit(config: Config, user: str) -> None:
    if config.audit is not None and not os.access(config.audit.path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(
            f"audit.path: {config.audit.path} cannot be reached by {user}, the key agent's user; "
            "let that user enter each directory above it"
        )


def _first_line(fd: int) -> str:
    """Byte by byte, since what follows belongs to the loop."""
    found = bytearray()
    while (byte := os.read(fd, 1)) not in (b"", b"\n"):
        found += byte
    return found.decode()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-fd", type=int, action="append", required=True)
    parser.add_argument("--supervisor-uid", type=int, required=True)
    parser.add_argument("--user", help="who to become before anything is read")
    parser.add_argument("--status-fd", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config, generation = read_dump(_first_line(sys.stdin.fileno()))
        logs.set_up(config.log, pid=os.getpid())
        audit_ring = None
        if options.user:
            audit_ring = _ring_for_audit(config)
            _become(options.user)
            _check_audit(config, options.user)
        native.harden_process()
        prepare_memory(config.keys)
        listeners = [socket.socket(fileno=fd) for fd in options.listen_fd]
        agent = _Agent(config, generation, options.status_fd, audit_ring)
        uvloop.run(agent.serve(listeners, options.supervisor_uid))
    except StoreUnavailable as error:  # it may come back: started again
        log.error("key agent waits for the ring store", error=str(error))
        sys.exit(EXIT_AGAIN)
    except SealgateError as error:
        _say(options.status_fd, {"ready": False, "error": str(error)})
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
