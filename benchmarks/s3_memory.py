"""What the proxy holds at most during many large transfers at once, and how long large listings take."""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import cpu_seconds, process_tree, rss_bytes
from benchmarks.s3_client import Target, Zeros, parallel
from benchmarks.s3_discard import DiscardingOrigin
from proxy.crypto.parts import CHUNK_BYTES
from proxy.s3.wire import READ_BYTES, WRITE_HIGH_BYTES
from tests.parts.proxy import Proxy
from tests.parts.seaweed import Seaweed
from tests.system.test_s3_two_proxies import proxy_before

MIB = 1 << 20
# What docs/reference/s3.md states. Held for a transfer, at most: what waits for the slower side
# (WRITE_HIGH_BYTES, and the one read that went over it); the piece behind which a GET stays; one in the
# hands of the cipher; a chunk on either side that is not whole yet. The rest, a ninth, is requests, tasks
# and what the allocator loses.
_BUFFERS = WRITE_HIGH_BYTES + 3 * READ_BYTES + 2 * CHUNK_BYTES
PER_TRANSFER_BYTES = 2 * MIB
assert _BUFFERS < PER_TRANSFER_BYTES
# One worker, its supervisor and its key agent, as they begin.
BASE_BYTES = 288 * MIB
KEYS = ("APP", "app-secret")


class LoadStand:
    """SeaweedFS, a discarding origin behind buckets `discard-*`, and a proxy of one worker."""

    def __init__(self, folder: Path) -> None:
        self.weed = Seaweed(folder / "weed")
        self.discard = DiscardingOrigin()
        self.weed.start()
        try:
            self._start_proxy(folder)
        except BaseException:
            self.weed.stop()
            self.discard.close()
            raise

    def _start_proxy(self, folder: Path) -> None:
        self.proxy: Proxy = proxy_before(self.weed, folder / "p", folder)
        document = yaml.safe_load(self.proxy.config.read_text())
        s3 = document["s3"]
        s3["origins"].append(
            {**s3["origins"][0], "name": "null", "endpoint": self.discard.endpoint}
        )
        s3["buckets"].insert(0, {"bucket": "discard-*", "origin": "null", "ring": "app"})
        self.proxy.config.write_text(yaml.safe_dump(document))
        self.proxy.init_keys("app")
        self.proxy.start()
        self.endpoint = f"http://127.0.0.1:{self.proxy.s3_port}"

    def target(self, bucket: str) -> Target:
        """Through the proxy."""
        return Target("sealgate", self.proxy.s3_port, self.proxy.pid, self.endpoint, KEYS, bucket)

    def direct(self, bucket: str) -> Target:
        """To SeaweedFS itself."""
        keys = (self.weed.access_key, self.weed.secret_key)
        return Target("direct", self.weed.port, 0, self.weed.endpoint, keys, bucket)

    def close(self) -> None:
        self.proxy.stop()
        self.weed.stop()
        self.discard.close()


class Peak:
    """Highest resident memory of a process tree while the block runs."""

    def __init__(self, pid: int) -> None:
        self._pids = process_tree(pid)
        self._done = threading.Event()
        self.before = self.peak = rss_bytes(self._pids)

    def __enter__(self) -> "Peak":
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *what: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, rss_bytes(self._pids))
            if self._done.wait(0.02):
                return


def transfers(
    stand: LoadStand, count: int, size: int, pause: float = 0.0
) -> dict[str, tuple[int, int, float]]:
    """PUT and GET of `count` objects of `size` at once: memory before, at most, CPU seconds.

    The GETs are of one object in SeaweedFS; the PUTs go to the discarding origin. For the first `pause`
    seconds whoever takes the bytes does not, so that all that may be held is held at the same time.
    """
    stand.discard.pause_seconds = pause
    body, kept, gone = Zeros(64 * MIB), stand.target("kept"), stand.target("discard-all")
    kept.client.create_bucket(Bucket="kept")
    parallel(kept, [[kept.head("PUT", "put_object", "large", size)]], body, size, 0)
    parallel(kept, [[kept.head("GET", "get_object", "large")]], None, 0, size)
    found = {}
    pids = process_tree(stand.proxy.pid)
    for verb, target in (("PUT", gone), ("GET", kept)):
        if verb == "PUT":
            heads = [[target.head("PUT", "put_object", f"k{n}", size)] for n in range(count)]
        else:
            heads = [[target.head("GET", "get_object", "large")]] * count
        cpu = cpu_seconds(pids)
        with Peak(stand.proxy.pid) as seen:
            if verb == "PUT":
                parallel(target, heads, body, size, 0)
            else:
                parallel(target, heads, None, 0, size, pause)
        found[verb] = (seen.before, seen.peak, cpu_seconds(pids) - cpu)
    return found


def fill(stand: LoadStand, bucket: str, count: int) -> int:
    """Puts `count` sealed objects straight to the origin; returns their plaintext size.

    All are the bytes of one that was sealed through the proxy: a listing looks at sizes alone.
    """
    size, sealed, direct = 1000, stand.target(bucket), stand.direct(bucket)
    sealed.client.create_bucket(Bucket=bucket)
    sealed.client.put_object(Bucket=bucket, Key="00000000", Body=bytes(size))
    stored = direct.client.get_object(Bucket=bucket, Key="00000000")
    body = stored["Body"].read()

    def some(first: int) -> None:
        for n in range(first, count, 8):
            direct.client.put_object(
                Bucket=bucket, Key=f"{n:08}", Body=body, Metadata=stored["Metadata"]
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(some, range(8)))
    return size


def list_all(target: Target, bucket: str) -> tuple[float, set[int], int]:
    """Seconds for all pages, the sizes seen, and how many keys. The answer is parsed afterwards."""
    start, pages = time.perf_counter(), []
    for page in target.client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        pages.append(page.get("Contents", []))
    seconds = time.perf_counter() - start
    found: list[Any] = [o for page in pages for o in page]
    return seconds, {o["Size"] for o in found}, len(found)


def listing(stand: LoadStand, count: int, rounds: int) -> tuple[float, float]:
    """Median ratio of the sealed listing's time to the direct one's, and its CPU seconds."""
    size = fill(stand, "many", count)
    sealed, direct = stand.target("many"), stand.direct("many")
    pids, ratios, cpus = process_tree(stand.proxy.pid), [], []
    for _ in range(rounds):
        plain_seconds, _, plain_count = list_all(direct, "many")
        cpu = cpu_seconds(pids)
        seconds, sizes, got = list_all(sealed, "many")
        cpus.append(cpu_seconds(pids) - cpu)
        if (sizes, got) != ({size}, count) or plain_count != count:
            raise RuntimeError(f"{got} of {count} listed, sizes {sizes}")
        ratios.append(seconds / plain_seconds)
    return statistics.median(ratios), statistics.median(cpus)
