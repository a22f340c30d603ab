"""Million column values per second on one core, by engine, with and without an equality tag.

    python benchmarks/bench_native.py [bytes per value]

Lists of `bytes` in and out, 100 000 to a batch, best of five. The last column opens values whose
nonce prefixes are all different, so that no message key is found in the cache.
"""

import sys
import time
from collections.abc import Callable, Sequence

from proxy import native
from proxy.crypto.column import Canonical, column_codec

BATCH = 100_000


def best(work: Callable[..., object], values: Sequence[bytes | None]) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        work(values)
        times.append(time.perf_counter() - begun)
    return len(values) / min(times) / 1e6


def main(size: int = 32) -> None:
    plains = [bytes(size)] * BATCH
    ring = native.key_random()
    print(f"{size}-byte values, M/s: {native.arena_report()['openssl']}")
    print("engine     equality  seal   open   open, keys not cached")
    for engine in native.engines():
        native.use_engine(engine)
        for equality in (False, True):

            def codec(equality: bool = equality) -> native.ColumnCodec:
                return column_codec([(ring, True)], "app.t.c", 25, equality, 0, 0, Canonical(), index=ring)

            made = codec()
            values = made.seal_many(plains)
            scattered = [codec().seal(plains[0]) for _ in range(2000)]
            figures = (
                best(made.seal_many, plains),
                best(made.open_many, values),
                best(made.open_many, scattered),
            )
            print(f"{engine:10} {equality!s:8} " + " ".join(f"{f:6.2f}" for f in figures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
