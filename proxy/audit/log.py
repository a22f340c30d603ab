"""The writing end of the audit log: what is written when, and what if it cannot be? I/O module.

Theory of operation. `write` takes a line from anywhere in the process, without a wait: it is in the
file when `write` returns, and on the disk too if the table (`events.py`) says so. What comes before
`start` has a key waits in memory. Repeats of a counted event are added up and written once per
`summary_seconds`: a client that is refused a thousand times a second costs one line a minute.

A line that cannot be written is lost and counted. With `on_failure: refuse` the caller gets
AuditUnavailable, `on_down` is called (keys are wiped, so that nothing opens from the cache either),
and `require` says no until a line could be written again; that line is `audit.gap`.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from proxy import __version__, metrics
from proxy.audit.chain import FORMAT, Chain
from proxy.audit.events import EVENTS, Durability, Field, checked
from proxy.audit.files import Files
from proxy.audit.record import Line
from proxy.audit.witness import Head, Witness, as_field
from proxy.config.audit import AuditConfig
from proxy.errors import AuditUnavailable
from proxy.native import ArenaFull, KeyHandle

_BEFORE_START = 10_000  # lines
_COUNTED = 4096  # different events that are counted at a time
_RETRY_SECONDS = 1.0
_TICK_SECONDS = 1.0
_QUIET_CHECKPOINTS = 6  # where only checkpoints are new, one in so many is written
_JUMP_SECONDS = 2.0
_FAILURES = (OSError, ArenaFull)  # a line was not written, and the chain is where it was

log = structlog.get_logger("audit")


@dataclass(frozen=True, slots=True)
class WriterKey:
    """Where a chain begins. `version_id`: of the ring version that the key comes from."""

    writer: bytes  # 16
    key: KeyHandle
    version_id: bytes  # 16


# The root's signature over (writer, n, MAC): its id and the signature.
Sign = Callable[[str, int, str], Awaitable[tuple[bytes, bytes]]]


class AuditLog:
    """A `Sink`. Single thread: the loop's; without a loop (commands) all is synced at once."""

    def __init__(
        self,
        config: AuditConfig,
        role: str,
        config_digest: str = "",
        *,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._config = config
        self._role = role
        self._digest = config_digest
        self.starting: asyncio.Task[None] | None = None  # waits for the key
        self._wall = wall
        self._boot = boot
        self._chain: Chain | None = None
        self._waiting: deque[tuple[str, str, dict[str, Field]]] = deque()
        self._counted: dict[tuple[object, ...], tuple[str, dict[str, Field], int]] = {}
        self._down = False
        self._retry_at = 0.0
        self._lost = 0
        self._sync: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._sign: Sign | None = None
        self._signed_at = self._quiet = 0
        self.on_down: Callable[[], None] = lambda: None

    # -- a sink --------------------------------------------------------------------------------

    def write(self, line: Line) -> None:
        fields = checked(line.event, line.fields())
        if EVENTS[line.event].counted:
            fields.pop("count", None)
            key = (line.event, *sorted((k, str(v)) for k, v in fields.items()))
            if key not in self._counted and len(self._counted) >= _COUNTED:
                key, fields = (line.event,), {"detail": "others, too many to list"}
            known = self._counted.get(key)
            if known is not None:
                self._counted[key] = (known[0], known[1], known[2] + 1)
                self.require()
                return
            self._counted[key] = (line.event, fields, 0)
        self._emit(line.event, fields)

    def require(self) -> None:
        if self._chain is None and self._config.on_failure == "refuse":
            raise AuditUnavailable("the audit log has not started")
        if self._down and not self._recovered() and self._config.on_failure == "refuse":
            raise AuditUnavailable("the audit log cannot be written")

    # -- life ----------------------------------------------------------------------------------

    def start(self, source: WriterKey, ring: str, sign: Sign | None) -> None:
        """The chain begins, with what has waited. Raises AuditUnavailable if no file can be
        written and the setting says `refuse`; then it has not begun, and may be started again."""
        lost = self._lost
        self._chain = Chain(source.key, source.writer)
        directory = Path(self._config.path)
        self._files = Files(directory, self._role, self._chain.writer)
        self._witness = Witness(directory, self._chain.writer)
        self._origin: dict[str, Field] = {
            "format": FORMAT,
            "role": self._role,
            "ring": ring,
            "version_id": source.version_id.hex(),
        }
        self._sign = sign
        self._offset = self._wall() - self._boot()
        metrics.audit_up.set(1)
        heads: list[Head] = []
        with contextlib.suppress(OSError):  # of the directory: the first line says so, too
            heads = self._witness.first()
        try:
            self._emit(
                "process.start",
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "release": __version__,
                    "config": self._digest,
                    "heads": as_field(heads),
                },
            )
            while self._waiting:
                when, event, fields = self._waiting[0]
                self._emit(event, fields, when)
                self._waiting.popleft()
            if self._lost and not self._down:  # while it waited
                self._emit("audit.gap", {"lost": self._lost})
                self._lost = 0
        except AuditUnavailable:
            self._end_chain()
            self._down, self._lost = False, lost
            raise

    def run(self) -> None:
        """Checkpoints, summaries and the watch on the clock go on until `stop`."""
        self._task = asyncio.create_task(self._tick_forever(), name="audit")

    async def stop(self, reason: str) -> None:
        """The last line is on the disk, and the key is gone. Idempotent."""
        for task in filter(None, (self.starting, self._task)):
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            except Exception as error:  # whatever it was, the key is wiped below
                log.error("audit log went on without its task", error=type(error).__name__)
        self.starting = self._task = None
        if self._chain is None:
            return
        with contextlib.suppress(AuditUnavailable):
            self.summarise()
            await self.sign()
            self._emit("process.stop", {"reason": reason})
        self._end_chain()

    def _end_chain(self) -> None:
        """The key is gone, and nothing of the file is under way."""
        if self._chain is not None:
            self._chain.wipe()
            self._chain = None
        if self._sync is not None:
            self._sync.cancel()
            self._sync = None
        self._files.close()

    @property
    def ring(self) -> str:
        """The ring that chains start from."""
        return self._config.ring

    def health(self) -> dict[str, object]:
        return {"up": not self._down, "lost": self._lost, "lines": self._chain and self._chain.n}

    # -- from time to time ---------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        c = self._config
        now = self._boot()
        summary, check, sign = (
            now + c.summary_seconds,
            now + c.checkpoint_seconds,
            now + c.sign_seconds,
        )
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            with contextlib.suppress(AuditUnavailable):
                self._recovered()
                self.watch_clock()
                now = self._boot()
                if now >= summary:
                    summary = now + c.summary_seconds
                    self.summarise()
                if now >= check:
                    check = now + c.checkpoint_seconds
                    self.checkpoint()
                if now >= sign:
                    sign = now + c.sign_seconds
                    await self.sign()

    def summarise(self) -> None:
        """What was counted is written, and counting begins anew."""
        counted, self._counted = self._counted, {}
        for event, fields, count in counted.values():
            if count:
                self._emit(event, {**fields, "count": count})

    def checkpoint(self) -> None:
        """The last lines of others that are new stand in this chain."""
        try:
            heads = self._witness.changed()
        except OSError as error:  # seen the next time
            log.warning("audit directory cannot be read", error=error.strerror)
            return
        self._quiet = 0 if any(not h.quiet for h in heads) else self._quiet + 1
        if heads and (self._quiet == 0 or self._quiet >= _QUIET_CHECKPOINTS):
            self._quiet = 0
            self._emit("checkpoint", {"heads": as_field(heads)})

    async def sign(self) -> None:
        """The root signs the last line, if there is one that is not signed yet."""
        chain = self._chain
        if self._sign is None or chain is None or chain.n <= self._signed_at:
            return
        n, mac = chain.n, chain.mac
        try:
            root, signature = await self._sign(chain.writer, n, mac)
        except Exception as error:
            log.warning("audit checkpoint was not signed", error=type(error).__name__)
            return
        self._emit(
            "checkpoint.signed",
            {"at": n, "at_mac": mac, "root": root.hex(), "signature": signature.hex()},
        )
        self._signed_at = chain.n

    def watch_clock(self) -> None:
        offset = self._wall() - self._boot()
        if abs(offset - self._offset) > _JUMP_SECONDS:
            jump, self._offset = offset - self._offset, offset
            self._emit("clock.jump", {"seconds": round(jump)})

    # -- lines ---------------------------------------------------------------------------------

    def _emit(self, event: str, fields: Mapping[str, Field], when: str | None = None) -> None:
        fields = checked(event, fields)
        when = when or self._now()
        if self._chain is None:
            if len(self._waiting) >= _BEFORE_START:
                self._miss()
                return
            self._waiting.append((when, event, fields))
            return
        if self._down and not self._recovered():
            self._miss()
            return
        try:
            self._append(when, event, fields)
            self._make_durable(EVENTS[event].durability)
        except _FAILURES as error:
            self._fail(error)

    def _append(self, when: str, event: str, fields: Mapping[str, Field]) -> None:
        day = when[:10].replace("-", "")
        name = self._files.name
        if name is None or name.day < day or self._files.size >= self._config.rotate_bytes:
            self._rotate(day)
        self._put(when, event, fields)

    def _rotate(self, day: str) -> None:
        before = self._files.name
        fresh = self._files.begin(day)
        previous = str(before) if before else ""
        try:
            fields = {"file": str(fresh), "previous": previous, **self._origin}
            self._put(self._now(), "file.open", checked("file.open", fields))
        except _FAILURES:
            self._files.undo()
            raise
        self._files.keep()  # before the sync: the chain has gone on to this file
        self._files.sync()

    def _put(self, when: str, event: str, fields: Mapping[str, Field]) -> None:
        chain = self._chain
        assert chain is not None
        line = chain.seal(when, event, fields)
        self._files.append(line)
        chain.advance(line)
        metrics.audit_lines_total.labels(event).inc()

    def _make_durable(self, durability: Durability) -> None:
        if durability is Durability.SYNCED:
            self._files.sync()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._files.sync()
            return
        if self._sync is None:
            self._sync = loop.call_later(self._config.sync_milliseconds / 1000, self._sync_soon)

    def _sync_soon(self) -> None:
        self._sync = None
        if self._chain is None:
            return
        try:
            fd = self._files.duplicate()
        except OSError as error:
            with contextlib.suppress(AuditUnavailable):
                self._fail(error)
            return
        asyncio.get_running_loop().run_in_executor(None, _sync_and_close, fd).add_done_callback(
            self._synced
        )

    def _synced(self, done: "asyncio.Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, OSError) and self._chain is not None:
            with contextlib.suppress(AuditUnavailable):
                self._fail(error)

    # -- when it cannot be written -------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        if not self._down:
            log.critical(
                "audit log cannot be written",
                error=getattr(error, "strerror", None) or str(error),
                on_failure=self._config.on_failure,
            )
        self._down = True
        self._retry_at = self._boot() + _RETRY_SECONDS
        metrics.audit_up.set(0)
        self._miss()

    def _miss(self) -> None:
        """One line is lost. Raises AuditUnavailable where that must not be."""
        self._lost += 1
        metrics.audit_lost_total.inc()
        if self._config.on_failure == "refuse":
            self.on_down()
            raise AuditUnavailable("the audit log cannot be written")

    def _recovered(self) -> bool:
        """Whether lines can be written, tried at most once a second."""
        if not self._down:
            return True
        if self._chain is None or self._boot() < self._retry_at:
            return False
        self._retry_at = self._boot() + _RETRY_SECONDS
        try:
            self._append(self._now(), "audit.gap", {"lost": self._lost})
            self._files.sync()
        except _FAILURES:
            return False
        log.error("audit log can be written again", lost=self._lost)
        self._down, self._lost = False, 0
        metrics.audit_up.set(1)
        return True

    def _now(self) -> str:
        at = datetime.fromtimestamp(self._wall(), UTC)
        return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _sync_and_close(fd: int) -> None:
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
