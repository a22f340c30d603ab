"""S3 under load: sizes from 1 KiB to 1 GiB, one and sixteen at a time, ranges, lists; and memory.

Targets of one interleaved run: direct (a real SeaweedFS), HAProxy, Sealgate, `rclone serve s3` over
crypt; apart from them Amazon's encryption client for Python, which has no box in the middle. CPU is that
of the box in the middle. The client's own CPU stands beside it: where that is small, the client is not
what limits.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers, s3_peers
from benchmarks.measure import Series, cpu_seconds, process_tree, spread
from benchmarks.s3_client import Target, Zeros, parallel
from benchmarks.s3_memory import (
    BASE_BYTES,
    MIB,
    PER_TRANSFER_BYTES,
    LoadStand,
    listing,
    transfers,
)

KIB, GIB = 1 << 10, 1 << 30
SIZES = {
    "1 KiB": (KIB, 320),
    "64 KiB": (64 * KIB, 160),
    "1 MiB": (MIB, 64),
    "64 MiB": (64 * MIB, 4),
}
PART = 64 * MIB
WIDTHS = (1, 16)
RANGES = 160
Results = dict[str, dict[str, Series]]


class _Run:
    """Targets, and what was measured: CPU a GiB, or a request where a body has 64 KiB or less."""

    def __init__(self, targets: list[Target], rounds: int) -> None:
        self.targets, self.rounds = targets, rounds
        self.small: Results = {}
        self.large: Results = {}
        self.client_cpu: dict[str, list[float]] = {}

    def measure(
        self, name: str, units: float, small: bool, work: Callable[[Target], object]
    ) -> None:
        """`units`: requests where `small`, else GiB. A target that fails is left out, and said."""
        row = (self.small if small else self.large).setdefault(name, {})
        alive = list(self.targets)
        for number in range(self.rounds + 1):  # the first warms up
            for target in list(alive):
                pids = process_tree(target.pid) if target.pid else []
                cpu, own, start = cpu_seconds(pids), time.process_time(), time.perf_counter()
                try:
                    work(target)
                except (RuntimeError, OSError) as error:
                    print(f"{name}: {target.name} left out: {error}", flush=True)
                    alive.remove(target)
                    row.pop(target.name, None)
                    continue
                took = time.perf_counter() - start
                print(f"{name} {target.name}: {took:.2f} s", file=sys.stderr, flush=True)
                if number:
                    series = row.setdefault(target.name, Series())
                    series.rates.append(units / took)
                    series.cpu.append((cpu_seconds(pids) - cpu) / units)
                    if target.name == "sealgate":
                        spent = (time.process_time() - own) / units
                        self.client_cpu.setdefault(name, []).append(spent)

    def sizes(self) -> None:
        for label, (size, times) in SIZES.items():
            body = Zeros(size)
            for width in WIDTHS:
                each = max(1, times // width)
                count = each * width
                small = size <= 64 * KIB
                units = count if small else count * size / GIB

                def put(
                    t: Target, w: int = width, e: int = each, s: int = size, b: Zeros = body
                ) -> None:
                    heads = [[t.head("PUT", "put_object", f"{s}-{n}", s)] * e for n in range(w)]
                    parallel(t, heads, b, s, -1)

                def get(t: Target, w: int = width, e: int = each, s: int = size) -> None:
                    heads = [[t.head("GET", "get_object", f"{s}-{n}")] * e for n in range(w)]
                    parallel(t, heads, None, 0, s)

                self.measure(f"PUT {label} c={width}", units, small, put)
                self.measure(f"GET {label} c={width}", units, small, get)

    def multipart(self) -> None:
        """One object of 1 GiB in 16 parts, up and down; then ranges of it."""
        body = Zeros(PART)
        numbers = range(1, GIB // PART + 1)
        for width in WIDTHS:

            def put(t: Target, w: int = width) -> None:
                place = {"Bucket": t.bucket, "Key": "gib"}
                place["UploadId"] = t.client.create_multipart_upload(**place)["UploadId"]
                heads = [
                    t.head(
                        "PUT", "upload_part", "gib", PART, UploadId=place["UploadId"], PartNumber=n
                    )
                    for n in numbers
                ]
                split = [heads[n::w] for n in range(w)]
                tags = parallel(t, split, body, PART, -1)
                named = [
                    {"PartNumber": n, "ETag": tags[(n - 1) % w][(n - 1) // w]} for n in numbers
                ]
                t.client.complete_multipart_upload(**place, MultipartUpload={"Parts": named})

            def get(t: Target, w: int = width) -> None:
                step = GIB // w
                extra = [f"Range: bytes={n * step}-{(n + 1) * step - 1}\r\n" for n in range(w)]
                heads = [
                    [t.head("GET", "get_object", "gib", extra=e if w > 1 else "")] for e in extra
                ]
                parallel(t, heads, None, 0, step)

            self.measure(f"PUT 1 GiB multipart c={width}", 1, False, put)
            self.measure(f"GET 1 GiB multipart c={width}", 1, False, get)
        for width in WIDTHS:
            each = RANGES // width

            def ranges(t: Target, w: int = width, e: int = each) -> None:
                chance = random.Random(w)

                def some() -> bytes:
                    at = chance.randrange(GIB - 64 * KIB)
                    extra = f"Range: bytes={at}-{at + 64 * KIB - 1}\r\n"
                    return t.head("GET", "get_object", "gib", extra=extra)

                parallel(t, [[some() for _ in range(e)] for _ in range(w)], None, 0, 64 * KIB)

            self.measure(f"64 KiB ranges of 1 GiB c={width}", each * width, True, ranges)

    def lists(self) -> None:
        def one(t: Target) -> None:
            for _ in range(20):
                t.client.list_objects_v2(Bucket=t.bucket)

        self.measure("list a small bucket", 20, True, one)


def _table(title: str, unit: str, per: float, run: _Run, results: Results) -> str:
    lines = [
        title,
        f"{'workload':28} {'target':10} {'of direct':>20} {unit:>26} {'client CPU':>12}",
    ]
    for workload, targets in results.items():
        direct = targets["direct"].rates
        for name, series in targets.items():
            ratios = [r / d for r, d in zip(series.rates, direct, strict=True)]
            cpu = [c * per for c in series.cpu] if name != "direct" else []
            own = statistics.median(run.client_cpu[workload]) * per if name == "sealgate" else None
            shown = "" if own is None else f"{own:.2f}"
            lines.append(
                f"{workload:28} {name:10} {spread(ratios):>20} {spread(cpu):>26} {shown:>12}"
            )
    return "\n".join(lines)


def run(
    rounds: int = 3, transfer_count: int = 50, transfer_bytes: int = GIB, keys: int = 100_000
) -> tuple[str, Results, dict[str, float]]:
    """The report, the series behind it, and the figures that marks ask for."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        folder.chmod(0o755)
        stand = LoadStand(folder)
        boxes: list[peers.Peer] = []
        try:
            direct, sealed = stand.direct("load"), stand.target("load-sealed")
            origin = (stand.weed.access_key, stand.weed.secret_key)
            for target in (direct, sealed):
                target.client.create_bucket(Bucket=target.bucket)
            targets = [direct]
            if balancer := peers.haproxy(folder, "127.0.0.1", stand.weed.port, "http"):
                boxes.append(balancer)
                where = (stand.weed.endpoint, origin, "load")
                targets.append(Target("haproxy", balancer.port, balancer.pid, *where))
                targets[-1].client = direct.client
            targets.append(sealed)
            direct.client.create_bucket(Bucket="load-rclone")
            if crypt := s3_peers.rclone(folder, stand.weed.endpoint, origin, "load-rclone"):
                boxes.append(crypt)
                where = (f"http://127.0.0.1:{crypt.port}", ("any", "any"), "inner")
                targets.append(Target("rclone", crypt.port, crypt.pid, *where, signed=False))
                targets[-1].client.create_bucket(Bucket="inner")
            work = _Run(targets, rounds)
            work.sizes()
            work.multipart()
            work.lists()
            parts = [
                _table("S3, small", "CPU s / 1000 requests", 1000, work, work.small),
                _table("S3, large", "CPU s / GiB", 1, work, work.large),
                _library(stand, work, figures),
            ]
        finally:
            for box in boxes:
                box.__exit__(None, None, None)
            stand.close()
    parts.append(memory_and_listing(transfer_count, transfer_bytes, keys, figures))
    return "\n\n".join(parts), {**work.small, **work.large}, figures


def memory_and_listing(count: int, size: int, keys: int, figures: dict[str, float]) -> str:
    """On a stand of its own, so that nothing before it counts."""
    lines = []
    with tempfile.TemporaryDirectory() as tmp:
        Path(tmp).chmod(0o755)
        stand = LoadStand(Path(tmp))
        try:
            limit = BASE_BYTES + count * PER_TRANSFER_BYTES
            for verb, (before, peak, cpu) in transfers(stand, count, size).items():
                figures[f"memory {verb}"] = peak / limit
                lines.append(
                    f"{verb} of {count} x {size / GIB:g} GiB at once: {before / MIB:.0f} MiB before, "
                    f"{peak / MIB:.0f} at most (stated: {limit / MIB:.0f}), {cpu:.1f} s of CPU"
                )
            figures["listing"], cpu = listing(stand, keys, 3)
            lines.append(
                f"listing {keys} objects: {figures['listing']:.2f} of the direct time, "
                f"{cpu:.2f} s of CPU"
            )
        finally:
            stand.close()
    return "\n".join(lines)


def _library(stand: LoadStand, run: _Run, figures: dict[str, float]) -> str:
    """Amazon's client on 64 MiB and 1 KiB, beside what the proxy took."""
    keys = (stand.weed.access_key, stand.weed.secret_key)
    stand.direct("library").client.create_bucket(Bucket="library")
    lines = [
        "amazon-s3-encryption-client-python, CPU of its process; what plain boto3 takes is apart"
    ]
    for label, size, times, unit, word in (
        ("64 MiB", 64 * MIB, 6, 64 * MIB / GIB, "s/GiB"),
        ("1 KiB", KIB, 200, 1e-3, "s/1000"),
    ):
        took = s3_peers.library(stand.weed.endpoint, keys, "library", size, times)
        if not took:
            return "amazon-s3-encryption-client-python: can't be installed here"
        for verb in ("put", "get"):
            whole, plain = (took[f"{w} {verb}"] / unit for w in ("sealed", "plain"))
            rows = {**run.small, **run.large}[f"{verb.upper()} {label} c=1"]
            ours = statistics.median(rows["sealgate"].cpu) * (1000 if size == KIB else 1)
            figures[f"library {verb} {label}"] = (whole - plain) / ours
            lines.append(
                f"{verb.upper()} {label}: {whole:.2f} {word}, plain boto3 {plain:.2f}; "
                f"beyond boto3 {(whole - plain) / ours:.1f} times Sealgate's {ours:.2f}, "
                f"whole {whole / ours:.1f} times"
            )
    return "\n".join(lines)


def marks(
    results: Results, figures: dict[str, float]
) -> list[tuple[str, float | None, float, bool]]:
    """Text, value, limit, and whether low is good."""

    def of_direct(workload: str) -> float | None:
        row = results.get(workload, {})
        if "sealgate" not in row:
            return None
        pairs = zip(row["sealgate"].rates, row["direct"].rates, strict=True)
        return statistics.median(r / d for r, d in pairs)

    def of_rclone(workload: str) -> float | None:
        row = results.get(workload, {})
        if "rclone" not in row or "sealgate" not in row:
            return None
        return statistics.median(row["rclone"].cpu) / statistics.median(row["sealgate"].cpu)

    found: list[tuple[str, float | None, float, bool]] = []
    for width in WIDTHS:
        for verb, limit in (("GET", 0.75), ("PUT", 0.7)):
            name = f"{verb} 64 MiB c={width}"
            found.append((f"{name} of direct >= {limit}", of_direct(name), limit, False))
            found.append((f"{name}, rclone's CPU >= 2 times", of_rclone(name), 2, False))
            name = f"{verb} 1 KiB c={width}"
            found.append((f"{name} of direct >= 0.5", of_direct(name), 0.5, False))
    for verb in ("get", "put"):
        value = figures.get(f"library {verb} 64 MiB")
        found.append(
            (f"{verb.upper()} 64 MiB, the library's CPU beyond boto3 >= 5 times", value, 5, False)
        )
    for verb in ("PUT", "GET"):
        text = f"memory of parallel {verb}s, of the stated"
        found.append((f"{text} <= 1", figures.get(f"memory {verb}"), 1, True))
    found.append(("listing of direct <= 1.3", figures.get("listing"), 1.3, True))
    return found
