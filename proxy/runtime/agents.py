"""Keeps one key agent alive: its socket, its user, its restarts. IO.

The sockets are bound here and handed to each agent in turn, so that workers that connect while there
is none wait in the backlog. Workers have one in a private directory; commands have the one that the
operator named. An agent that stops speaking is killed; one that ends is started again
at once, then with growing pauses; one that says that an operator must act is not, since each new
try could be the one that locks the token.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from proxy.config.hsm import Pkcs11Provider
from proxy.config.load import dump
from proxy.config.model import Config, SoftwareProvider
from proxy.errors import ConfigError
from proxy.keys.build import user_of
from proxy.runtime.agent import EXIT_CONFIG

log = structlog.get_logger("supervisor")

_MAX_BACKOFF_SECONDS = 5.0
_SILENT_SECONDS = 15.0  # longer than the token's slowest answer that is waited for
_STOP_SECONDS = 10.0


class AgentKeeper:
    """`path` is where workers connect. `failed` is why no agent runs any more, if so."""

    path: str

    def __init__(self, config: Config, generation: int, on_failed: Callable[[], None]) -> None:
        """Binds the sockets; that for commands is in its place after `promote` only. ConfigError
        where that, or the agent's user, is not possible."""
        self.config = config
        self.said: dict[str, Any] = {}
        self.failed: str | None = None
        self.restarts = 0
        self.ready = False  # since its last start
        self.pid = 0
        self._generation = generation
        self._on_failed = on_failed
        self._process: asyncio.subprocess.Process | None = None
        self._stdin = -1
        self._heard_at = 0.0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._as_user = _as_user(config)
        self._folder = tempfile.mkdtemp(prefix="sealgate-agent-")  # 0700
        self.path = os.path.join(self._folder, "keys.sock")
        self._listeners = [_bound(self.path)]
        self._door = config.keys.agent.socket
        self._door_inode = 0
        if self._door is not None:
            self._listeners.append(_bound(self._door + ".new"))

    def promote(self) -> None:
        """Commands find this agent from now on, in place of any before it."""
        if self._door is not None:
            os.rename(self._door + ".new", self._door)
            self._door_inode = os.stat(self._door).st_ino

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="agent-keeper")

    async def wait_ready(self, seconds: float) -> str | None:
        """None once the agent serves; else why it does not."""
        end = time.monotonic() + seconds
        while not self.ready:
            if self.failed is not None:
                return self.failed
            if time.monotonic() > end:
                return "the key agent did not start in time"
            await asyncio.sleep(0.01)
        return None

    def tell(self, config: Config, generation: int) -> None:
        """The agent, and those after it, decide by this configuration."""
        self.config, self._generation = config, generation
        self._hand_over()

    def shown(self) -> dict[str, Any]:
        """For the admin address."""
        return {
            "pid": self.pid,
            "restarts": self.restarts,
            "failed": self.failed,
            **self.said,
            "ready": self.ready,
        }

    async def stop(self) -> None:
        """The agent has ended and its socket is gone. Idempotent."""
        self._stopping = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self._process.kill()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for listener in self._listeners:
            listener.close()
        for path in self._paths():
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(self._folder)

    def _paths(self) -> list[str]:
        """The sockets that are ours to remove: another agent may have taken over the door."""
        paths = [self.path]
        if self._door is not None:
            paths.append(self._door + ".new")
            with suppress(OSError):
                if os.stat(self._door).st_ino == self._door_inode:
                    paths.append(self._door)
        return paths

    async def _keep(self) -> None:
        delay = 0.0
        while not self._stopping:
            born = time.monotonic()
            try:
                code = await self._run_once()
            except (OSError, ValueError) as error:  # no process; no JSON: as if it had died
                log.error("key agent was not started", reason=str(error))
                code = -1
            self.ready = False
            if self._stopping:
                return
            if code == EXIT_CONFIG:
                self.failed = str(self.said.get("error", "see the log of the key agent"))
                log.error("key agent cannot start", reason=self.failed)
                self._on_failed()
                return
            delay = 0.0 if time.monotonic() - born > 5 else min(_MAX_BACKOFF_SECONDS, delay + 0.5)
            log.error("key agent died", status=code, restart_in_seconds=delay)
            self.restarts += 1
            await asyncio.sleep(delay)

    async def _run_once(self) -> int:
        """One agent from start to end; its exit status."""
        status_read, status_write = os.pipe()
        stdin_read, self._stdin = os.pipe()
        fds = [listener.fileno() for listener in self._listeners]
        try:
            process = await self._spawned(stdin_read, status_write, fds)
        except BaseException:
            os.close(status_read)
            os.close(self._stdin)
            self._stdin = -1
            raise
        finally:
            os.close(status_write)
            os.close(stdin_read)
        self._process, self.pid, self._heard_at = process, process.pid, time.monotonic()
        os.set_blocking(self._stdin, False)
        self._hand_over()
        listening = asyncio.create_task(self._listen(status_read))
        ended = asyncio.create_task(process.wait())
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=1.0)
                silent = time.monotonic() - self._heard_at
                if not ended.done() and silent > _SILENT_SECONDS:
                    log.error("key agent is silent; it is killed", seconds=round(silent))
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGKILL)
                    self._heard_at = time.monotonic()
            await listening  # what it said last is read
        finally:
            listening.cancel()
            ended.cancel()
            os.close(self._stdin)
            self._stdin = -1
        return ended.result()

    async def _spawned(
        self, stdin: int, status: int, listeners: list[int]
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy.runtime.agent",
            "--supervisor-uid", str(os.geteuid()), "--status-fd", str(status),
            *(word for fd in listeners for word in ("--listen-fd", str(fd))), *self._as_user,
            stdin=stdin,
            pass_fds=[*listeners, status],
            env={**os.environ, "LD_BIND_NOW": "1"},  # lazy binding leaves key bytes on the stack
        )  # fmt: skip

    async def _listen(self, fd: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb")
        )
        try:
            while line := await reader.readline():
                self.said = json.loads(line)
                self._heard_at = time.monotonic()
                self.ready = bool(self.said.get("ready"))
        finally:
            transport.close()

    def _hand_over(self) -> None:
        if self._stdin < 0:
            return
        line = dump(self.config, self._generation).encode() + b"\n"
        with suppress(BrokenPipeError):
            _write_all(self._stdin, line)


def _as_user(config: Config) -> list[str]:
    """What makes the agent another user; a warning where it is not apart."""
    name = config.keys.agent.user
    if os.geteuid() != 0:
        if name is not None:
            log.warning("not root: the key agent runs as the same user as the workers", wanted=name)
        return []
    if name is None:
        log.warning("the key agent runs as root, as the workers do; set keys.agent.user")
        return []
    _, group, user = user_of(config.keys)
    if config.audit is not None:
        _let_in(Path(config.audit.path), group)
    return ["--user", user]


def _let_in(directory: Path, group: int) -> None:
    """The agent's group may add files to the audit directory, and take none of others away."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(directory, -1, group)
        directory.chmod(0o1770)  # sticky
    except OSError as error:
        raise ConfigError(f"audit.path: {directory}: {error.strerror}") from None


def without_root_secrets(config: Config) -> dict[str, str]:
    """The environment of a process that has no business with the PIN."""
    provider = config.keys.provider
    if isinstance(provider, SoftwareProvider):
        names = {provider.passphrase.env}
    elif isinstance(provider, Pkcs11Provider):
        names = {provider.pin.env}
    else:
        names = {member.pin.env for member in provider.members}
    return {k: v for k, v in os.environ.items() if k not in names}


def _bound(path: str) -> socket.socket:
    """A Unix socket of ours alone. What lies there is of a supervisor that was killed."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    old = os.umask(0o177)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        made.bind(path)
    except OSError as error:
        made.close()
        raise ConfigError(f"keys.agent.socket: {path}: {error.strerror}") from None
    finally:
        os.umask(old)
    return made


def _write_all(fd: int, data: bytes) -> None:
    """A configuration is larger than a pipe's buffer only if it has thousands of columns."""
    view = memoryview(data)
    end = time.monotonic() + 5
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            if time.monotonic() > end:
                raise BrokenPipeError from None
            time.sleep(0.005)
