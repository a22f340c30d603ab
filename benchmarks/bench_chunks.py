"""How fast is a part sealed and opened on one core, beside `cryptography`'s Cobblestone-256?

    python benchmarks/bench_chunks.py [seconds per cell]

Both run in one process, alternating, best of five; a cell is GB of plaintext per second in
updates of the given size. "open" begins a new stream for every update, as a ranged GET does.
"""

import os
import sys
import time
from collections.abc import Callable

from cryptography.cobblestone import Cobblestone256Encryptor

from proxy import native

CHUNK, CONTEXT = 16384, b"bench"


def rate(work: Callable[[], object], size: int, seconds: float) -> float:
    work()
    rounds, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        work()
        rounds += 1
    return rounds * size / (time.perf_counter() - begun) / 1e9


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    native.arena_init(allow_unlocked=True)
    key, report = native.key_random(), native.arena_report()
    print(f"engine {report.get('engine')}, {report.get('openssl')}")
    print(f"{'update':>9} {'seal':>7} {'open':>7} {'cryptography seal':>18} {'ratio':>6}")
    for size in (CHUNK, 65536, 262144, 1048576):
        plain = os.urandom(size)
        sealer = native.PartSealer(key, CONTEXT)
        header, stream = sealer.header, sealer.update(plain)
        peer = Cobblestone256Encryptor(os.urandom(32), CONTEXT)
        room = bytearray(size + size // CHUNK * 16 + CHUNK + 16)

        def seal(sealer: native.PartSealer = sealer, plain: bytes = plain) -> None:
            sealer.update(plain)

        def open_(header: bytes = header, stream: bytes = stream) -> None:
            native.PartOpener(key, CONTEXT, header).update(stream)

        def other(
            peer: Cobblestone256Encryptor = peer, plain: bytes = plain, room: bytearray = room
        ) -> None:
            peer.update_into(plain, room)

        best = [0.0, 0.0, 0.0]
        for _ in range(5):
            for cell, work in enumerate((seal, open_, other)):
                best[cell] = max(best[cell], rate(work, size, seconds / 5))
        print(f"{size:9} {best[0]:7.2f} {best[1]:7.2f} {best[2]:18.2f} {best[0] / best[2]:6.2f}")


if __name__ == "__main__":
    main()
