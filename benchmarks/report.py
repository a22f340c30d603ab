"""`./run bench`: every claim of speed in one run, as ratios with spread, the marks beside.

Options: `--rounds N`, `--seconds N` a pgbench run, `--only native,plans,postgres,copy,memory,s3,s3-load`,
`--rows N` of COPY, `--json FILE`.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks import (
    bench_copy,
    bench_memory,
    bench_native,
    bench_plans,
    bench_postgres,
    bench_s3,
    bench_s3_load,
)
from benchmarks.measure import Series
from benchmarks.stand import Stand

Results = dict[str, dict[str, Series]]


def median_cpu(results: Results, workload: str, target: str) -> float | None:
    series = results.get(workload, {}).get(target)
    return statistics.median(series.cpu) if series and series.cpu else None


def marks(results: Results, figures: dict[str, float]) -> list[str]:
    """The marks, each with what this run gave; what was not run is said."""
    lines = []

    def mark(text: str, value: float | None, limit: float, low: bool) -> None:
        if value is None:
            lines.append(f"not measured  {text}")
            return
        met = value <= limit if low else value >= limit
        lines.append(f"{'met' if met else 'NOT MET':12}  {text}: {value:.2f}")

    def cpu_ratio(workload: str, peer: str) -> float | None:
        ours, theirs = (median_cpu(results, workload, t) for t in ("sealgate", peer))
        return ours / theirs if ours and theirs else None

    mark(
        "unprotected query, CPU of PgBouncer's <= 1.3",
        cpu_ratio("select-only prepared c=8", "pgbouncer"),
        1.3,
        True,
    )
    mark(
        "1000 rows with two protected columns, CPU of PgBouncer's in clear <= 1.0 "
        "(1.6 with libcrypto 3.0)",
        cpu_ratio("1000 rows, 2 protected", "pgbouncer"),
        1.0,
        True,
    )
    for workload in ("read by key, prepared", "search, prepared"):
        mark(f"{workload}, CPU of PgBouncer's <= 1.5", cpu_ratio(workload, "pgbouncer"), 1.5, True)
    mark("plan cache hit <= 2 us", figures.get("plan, L0 (the same text again)"), 2, True)

    def ratio(one: str, other: str) -> float | None:
        return figures[one] / figures[other] if one in figures and other in figures else None

    mark("COPY in of direct >= 0.5", ratio("in sealgate", "in direct"), 0.5, False)
    mark("COPY out of direct >= 0.5", ratio("out sealgate", "out direct"), 0.5, False)
    mark("COPY in, times pgcrypto >= 5", ratio("in sealgate", "in pgcrypto"), 5, False)
    mark(
        "GET 64 MiB, CPU of HAProxy's in clear <= 1.0", cpu_ratio("GET 64 MiB", "haproxy"), 1, True
    )
    for text, value, limit, low in bench_s3_load.marks(results, figures):
        if value is not None or any("c=16" in name for name in results):
            mark(text, value, limit, low)
    large = results.get("GET 64 MiB")
    if large:
        pairs = zip(large["sealgate"].rates, large["direct"].rates, strict=True)
        mark("GET 64 MiB of direct >= 0.6", statistics.median(r / d for r, d in pairs), 0.6, False)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--only", default="native,plans,postgres,copy,memory,s3")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    only = set(options.only.split(","))
    results: Results = {}
    figures: dict[str, float] = {}
    if "native" in only:
        bench_native.main()
    if "plans" in only:
        text, plans = bench_plans.run()
        print(text, end="\n\n", flush=True)
        figures |= plans
    if only & {"postgres", "copy", "memory", "s3"}:
        with tempfile.TemporaryDirectory() as tmp:
            folder = Path(tmp)
            folder.chmod(0o755)
            with Stand(folder) as stand:
                if "postgres" in only:
                    text, part = bench_postgres.run(stand, options.rounds, options.seconds)
                    print(text, end="\n\n", flush=True)
                    results |= part
                if "copy" in only:
                    text, copied = bench_copy.run(stand, min(options.rounds, 3), options.rows)
                    print(text, end="\n\n", flush=True)
                    figures |= copied
                if "memory" in only:
                    bench_postgres.fill(stand)
                    text, memory = bench_memory.run(stand)
                    print(text, end="\n\n", flush=True)
                    figures |= memory
                if "s3" in only:
                    text, part = bench_s3.run(stand, options.rounds)
                    print(text, end="\n\n", flush=True)
                    results |= part
    if "s3-load" in only:
        text, part, load = bench_s3_load.run(min(options.rounds, 3))
        print(text, end="\n\n", flush=True)
        results |= part
        figures |= load
    print("\n".join(marks(results, figures)))
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    w: {t: {"rates": s.rates, "cpu": s.cpu} for t, s in ts.items()}
                    for w, ts in results.items()
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
