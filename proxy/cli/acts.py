"""What an operator's command leaves in the audit log: a line before it changes anything, and one after.

With `audit.on_failure: refuse`, a command whose first line cannot be written does nothing.
"""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.audit.log import AuditLog
from proxy.audit.record import Happening
from proxy.audit.sink import LogSink, MemorySink, Sink
from proxy.config.load import digest
from proxy.config.model import Config
from proxy.errors import SealgateError
from proxy.keys import auditing
from proxy.keys.build import prepare_memory, reach_root, store_of
from proxy.keys.ring import RingError

T = TypeVar("T")


def act(config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]) -> T:
    """The result of `work`, which is given where to write what it does."""
    return asyncio.run(acting(config, command, target, work))


async def acting(
    config: Config, command: str, target: str, work: Callable[[Sink], Awaitable[T]]
) -> T:
    """As `act`, within a loop."""
    if config.audit is None:
        return await work(LogSink())
    prepare_memory(config.keys)
    provider = reach_root(config.keys)
    log = AuditLog(config.audit, "command", digest(config))
    said = {"principal": operator(), "command": command, "target": target}
    reason = "failed"
    try:
        await auditing.start(log, provider, store_of(config.keys))
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
    """As `act`, for the command that makes the audit ring: what it does is written after it."""
    lines = MemorySink()

    async def first() -> T:
        return await work(lines)

    async def written(sink: Sink) -> None:
        for line in lines.lines:
            sink.write(line)

    result = asyncio.run(first())
    act(config, command, target, written)
    return result


def operator() -> str:
    """Who runs this process, by the kernel; with sudo, also by whose word."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    by = os.environ.get("SUDO_USER")
    return f"operator:{name} (sudo {by})" if by else f"operator:{name}"
