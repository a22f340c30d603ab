"""Memory of the proxy per connection, idle and busy, and whether a long run makes it grow.

Private memory (USS) of the worker, from smaps_rollup, so that shared pages do not count.
"""

import psycopg

from benchmarks import bench_postgres
from benchmarks.measure import process_tree
from benchmarks.stand import Stand

CONNECTIONS = 80
KIB = 1024


def private_bytes(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            total += sum(int(line.split()[1]) for line in f if line.startswith("Private_")) * KIB
    return total


def run(stand: Stand, statements: int = 200_000) -> tuple[str, dict[str, float]]:
    """The lines as text, and the figures in bytes. The table `wide_sealed` must be filled."""
    pids = process_tree(stand.proxy_pid)
    dsn = stand.dsn(stand.proxy_pg_port)
    with psycopg.connect(dsn) as warm:
        warm.execute("SELECT * FROM wide_sealed").fetchall()
    before = private_bytes(pids)
    connections = [psycopg.connect(dsn, autocommit=True) for _ in range(CONNECTIONS)]
    for c in connections:
        c.execute("SELECT 1")
    idle = (private_bytes(pids) - before) / CONNECTIONS
    for _ in range(3):
        for c in connections:
            c.execute("SELECT * FROM wide_sealed", prepare=True).fetchall()
    busy = (private_bytes(pids) - before) / CONNECTIONS
    for c in connections:
        c.close()
    settled = private_bytes(pids)
    rate = bench_postgres.pgbench(stand.proxy_pg_port, stand, ["-S"], 2)
    seconds = max(2, int(statements / rate))
    first = private_bytes(pids)
    bench_postgres.pgbench(stand.proxy_pg_port, stand, ["-S", "simple"], seconds)
    grown = private_bytes(pids) - first
    found = {"idle": idle, "busy": busy, "grown": float(grown)}
    text = (
        f"memory per connection: {idle / KIB:.0f} KiB idle, {busy / KIB:.0f} KiB after 1000-row "
        f"results\nafter {CONNECTIONS} connections were closed: "
        f"{(settled - before) / KIB:+.0f} KiB; over about {int(rate * seconds)} more statements: "
        f"{grown / KIB:+.0f} KiB"
    )
    return text, found
