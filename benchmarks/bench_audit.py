"""What does the audit log cost? A line, a denial that is synced, one that is counted, a cached use;
and how fast is a log verified.

    python -m benchmarks.bench_audit
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proxy.audit.record import KeyDecision
from tests.parts.audited import Clock, Log, verify

_DENY = ("postgres:eve", "column:a.b.c.d", "open", "app", "denied", 3)
_FETCH = KeyDecision("key.fetch", "postgres:app", "column:a.b.c.d", "open", "app", "allowed")


def micros(work: Callable[[int], object], times: int) -> float:
    began = time.perf_counter()
    for i in range(times):
        work(i)
    return (time.perf_counter() - began) / times * 1e6


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder), 1, Clock(), sync_milliseconds=10_000)
        counted = KeyDecision("key.deny", *_DENY)  # type: ignore[arg-type]
        print(f"a line, synced later        {micros(lambda _: log.write(_FETCH), 50_000):8.1f} us")
        print(f"a line, synced at once      {micros(log.say, 2_000):8.1f} us")
        print(
            f"a denial that was counted   {micros(lambda _: log.write(counted), 100_000):8.1f} us"
        )
        await log.stop("done")
        began = time.perf_counter()
        report = verify(Path(folder))
        took = time.perf_counter() - began
        size = _size(Path(folder))
        print(f"verified                    {report.lines / took:8.0f} lines/s")
        print(f"a line has                  {size / report.lines:8.0f} bytes")
        assert not report.findings


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.iterdir())


if __name__ == "__main__":
    asyncio.run(main())
