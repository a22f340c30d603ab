"""What an operator's command leaves in the audit log: a line before it changes anything, and one after.

With `audit.on_failure: refuse`, a command whose first line cannot be written does nothing; with
`continue`, what it does stands in the structured log.
"""

import asyncio
import contextlib
import os
import pwd
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from proxy.audit.log import AuditLog
from proxy.audit.record import Happening
from proxy.audit.sink import LogSink, MemorySink, Sink
from proxy.config.load import digest, load
from proxy.config.model import Config
from proxy.errors import ConfigError, KeyUnavailable, SealgateError
from proxy.keys import auditing
from proxy.keys.build import prepare_memory, reach_root, store_of
from proxy.keys.providers.base import CapabilityMissing
from proxy.keys.ring import RingError
from proxy.keys.stores.base import StoreUnavailable

T = TypeVar("T")


def act(config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]) -> T:
    """The result of `work`, which is given where to write what it does."""
    return asyncio.run(acting(config, command, target, work))


class _NotYet(Exception):
    """The root or the audit ring is not there; nothing has been done."""


async def acting(
    config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]
) -> T:
    """As `act`, within a loop."""
    try:
        return await _acting(config, command, target, work)
    except _NotYet as error:
        assert error.__cause__ is not None
        raise error.__cause__ from None


async def _acting(
    config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]
) -> T:
    if config.audit is None:
        return await work(LogSink())
    prepare_memory(config.keys)
    provider = reach_root(config.keys)
    log = AuditLog(config.audit, "command", digest(config))
    said = {"principal": operator(), "command": command, "target": target}
    reason = "failed"
    try:
        try:
            await auditing.start(log, provider, store_of(config.keys))
        except (CapabilityMissing, ConfigError, StoreUnavailable) as error:
            raise _NotYet from error
        except KeyUnavailable as error:
            if config.audit.on_failure == "refuse":
                raise
            # A version has to be disabled also while the token is away.
            structlog.get_logger("audit").error("audit log has no key", error=str(error))
            return await work(LogSink())
        log.write(Happening("admin.begin", said))
        try:
            result = await work(log)
        except BaseException as error:
            text = str(error) if isinstance(error, SealgateError | RingError) else ""
            detail = f"{type(error).__name__}: {text}" if text else type(error).__name__
            log.write(Happening("admin.end", {**said, "result": "failed", "detail": detail}))
            raise
        log.write(Happening("admin.end", {**said, "result": "done"}))
        reason = "done"
        return result
    finally:
        await log.stop(reason)
        await provider.close()


def first_act(config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]) -> T:
    """As `act`, for a command that may make the root or the audit ring. If one is not there yet, what
    it does is written after it: where that cannot be either, it stands in the structured log."""

    async def run() -> T:
        with contextlib.suppress(_NotYet):
            return await _acting(config, command, target, work)
        lines = MemorySink()
        told = False

        async def written(sink: Sink) -> None:
            for line in lines.lines:
                sink.write(line)

        try:
            result = await work(lines)
            with contextlib.suppress(_NotYet):
                await _acting(config, command, target, written)
                told = True
            return result
        finally:
            if not told:
                await written(LogSink())

    return asyncio.run(run())


def in_ceremony(
    path: Path | None, command: str, target: str, work: Callable[[Sink], T], *, root: bool = False
) -> T:
    """`work`, a blocking act of a ceremony, as an operator's act under the configuration at `path`;
    without one there is no audit log but the structured one. `root`: the token has to hold it already,
    as that of a source does; that of a target is only to get it."""
    if path is None:
        return work(LogSink())

    async def run(sink: Sink) -> T:
        return work(sink)

    return (act if root else first_act)(load(path), command, target, run)


def operator() -> str:
    """Who runs this process, by the kernel; with sudo, also by whose word."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    by = os.environ.get("SUDO_USER")
    return f"operator:{name} (sudo {by})" if by else f"operator:{name}"
