"""Does one thing to every object of a bucket: in parallel, at a limited speed, resumable. IO.

Page by page: the journal moves on when all of a page is done. An object that fails is noted with its
reason and does not stop the rest; what concerns the whole job (no key, no origin) stops it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum

from proxy.errors import AccessDenied, IntegrityError, KeyUnavailable
from proxy.native import KeyGone, OpenFailed
from proxy.s3.jobs.engine import Engine, Entry
from proxy.s3.jobs.journal import Journal, Progress
from proxy.s3.s3error import OriginFailed, S3Error


class Did(Enum):
    """What became of one object."""

    DONE = "done"
    SKIPPED = "skipped"


Work = Callable[[Entry], Awaitable[tuple[Did, int]]]
"""The object's outcome and the plaintext bytes that passed."""


class Throttle:
    """At most `rate` bytes a second on average; 0: no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Returns when `count` bytes may pass."""
        if not self._rate:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self._rate
        await asyncio.sleep(max(0.0, self._free_at - count / self._rate - now))


async def run(
    engine: Engine,
    bucket: str,
    prefix: str,
    work: Work,
    journal: Journal,
    *,
    parallel: int = 8,
    throttle: Throttle | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Runs `work` on every object that the journal has not behind it."""
    progress, limit = journal.progress, throttle or Throttle(0)

    async def one(entry: Entry, slots: asyncio.Semaphore) -> None:
        async with slots:
            await limit.take(entry.stored_bytes)
            try:
                did, count = await work(entry)
            except (
                S3Error,
                OriginFailed,
                IntegrityError,
                OpenFailed,
                KeyGone,
                AccessDenied,
            ) as error:
                progress.fail(entry.key, f"{type(error).__name__}: {error}")
            except ConnectionError as error:
                progress.fail(entry.key, f"OriginFailed: {error}")
            else:
                progress.done += did is Did.DONE
                progress.skipped += did is Did.SKIPPED
                progress.bytes += count
            progress.seen += 1
            tell(progress)

    slots = asyncio.Semaphore(parallel)
    async for page in engine.pages(bucket, prefix, progress.marker):
        try:
            async with asyncio.TaskGroup() as group:
                for entry in page:
                    group.create_task(one(entry, slots))
        except* KeyUnavailable as errors:
            raise KeyUnavailable(str(errors.exceptions[0])) from None
        if page:
            progress.marker = page[-1].key
        journal.save()
    progress.finished = True
    journal.save()
    return progress
