"""PostgreSQL: direct, PgBouncer, HAProxy and Sealgate in one run, ratios and CPU per query.

Workloads, 8 clients: pgbench's select-only, prepared, on an unprotected table; a point SELECT by
key that reads a protected column, and one that searches by a protected column, prepared and with
literals in the simple protocol; 1000 rows of five 32-byte texts, prepared. Direct and the peers have
the same tables in clear.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import psycopg

from benchmarks import peers
from benchmarks.measure import Series, cpu_seconds, process_tree, table
from benchmarks.stand import Stand

WIDE_ROWS = 1000
WIDE_SQL = "SELECT a, b, c, d, e FROM {table};\n"


POINTS = 10_000
POINT_SQL = {
    "read": "\\set id random(1, 10000)\nSELECT name FROM {table} WHERE id = :id;\n",
    "search": "\\set id random(1, 10000)\nSELECT id FROM {table} WHERE code = :id;\n",
}


def pgbench(port: int, stand: Stand, script: list[str], seconds: int, clients: int = 8) -> float:
    """Transactions a second of one run, on one thread; `script` ends in the mode where it is not
    prepared."""
    out = subprocess.run(
        [
            stand.pgbench,
            "-n",
            "-M",
            "simple" if "simple" in script else "prepared",
            "-c",
            str(clients),
            "-j",
            "1",
            "-T",
            str(seconds),
            *(word for word in script if word != "simple"),
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            stand.pg_user,
            stand.pg_database,
        ],
        env={**os.environ, "PGPASSWORD": stand.pg_password},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"tps = ([0-9.]+)", out)
    if found is None:
        raise RuntimeError(f"pgbench said: {out}")
    return float(found[1])


def fill(stand: Stand) -> None:
    """Makes and fills every table of the workloads, in clear and protected."""
    env = {**os.environ, "PGPASSWORD": stand.pg_password}
    subprocess.run(
        [
            stand.pgbench,
            "-i",
            "-q",
            "-s",
            "10",
            "-h",
            "127.0.0.1",
            "-p",
            str(stand.pg_port),
            "-U",
            stand.pg_user,
            stand.pg_database,
        ],
        env=env,
        check=True,
        capture_output=True,
    )
    for port, name in ((stand.pg_port, "wide_clear"), (stand.proxy_pg_port, "wide_sealed")):
        with psycopg.connect(stand.dsn(port), autocommit=True) as c:
            c.execute(f"DROP TABLE IF EXISTS {name}")
            c.execute(f"CREATE TABLE {name} (a text, b text, c text, d text, e text)")
            with c.cursor() as cur:
                cur.executemany(
                    f"INSERT INTO {name} (a, b, c, d, e) VALUES (%s, %s, %s, %s, %s)",
                    [tuple(f"{k}{i:031d}" for k in "abcde") for i in range(WIDE_ROWS)],
                )
    for port, name in ((stand.pg_port, "points_clear"), (stand.proxy_pg_port, "points")):
        with psycopg.connect(stand.dsn(port), autocommit=True) as c:
            c.execute(f"DROP TABLE IF EXISTS {name}")
            c.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, code int UNIQUE, name text)")
            with c.transaction(), c.cursor() as cur:
                cur.executemany(
                    f"INSERT INTO {name} (id, code, name) VALUES (%s, %s, %s)",
                    [(i, i, f"{i:032d}") for i in range(1, POINTS + 1)],
                )
    with psycopg.connect(stand.dsn(stand.pg_port), autocommit=True) as c:
        c.execute("ANALYZE points_clear, points")


def prepare(stand: Stand, folder: Path) -> dict[str, dict[str, list[str]]]:
    """Fills the tables; returns workload -> target kind -> pgbench's script arguments."""
    fill(stand)

    def script(name: str, sql: str) -> list[str]:
        path = folder / f"{name}.sql"
        path.write_text(sql)
        path.chmod(0o644)
        return ["-f", str(path)]

    def both(label: str, sql: str, clear: str, sealed: str, *mode: str) -> dict[str, list[str]]:
        peer, ours = (script(f"{label}-{t}", sql.format(table=t)) for t in (clear, sealed))
        return {"peer": [*peer, *mode], "sealgate": [*ours, *mode]}

    points = {
        f"{label} by key, {mode}" if label == "read" else f"{label}, {mode}": both(
            f"{label}-{mode}", sql, "points_clear", "points", *([mode] if mode == "simple" else [])
        )
        for mode in ("prepared", "simple")
        for label, sql in POINT_SQL.items()
    }
    return {
        "select-only prepared c=8": {"peer": ["-S"], "sealgate": ["-S"]},
        **points,
        "1000 rows, 2 protected": both("wide", WIDE_SQL, "wide_clear", "wide_sealed"),
    }


def run(
    stand: Stand, rounds: int = 5, seconds: int = 3
) -> tuple[str, dict[str, dict[str, Series]]]:
    """The table as text, and the series behind it."""
    results: dict[str, dict[str, Series]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        folder.chmod(0o755)
        workloads = prepare(stand, folder)
        targets: list[tuple[str, int, int]] = [("direct", stand.pg_port, 0)]
        bouncer = peers.pgbouncer(
            folder, "127.0.0.1", stand.pg_port, stand.pg_user, stand.pg_password, stand.pg_database
        )
        balancer = peers.haproxy(folder, "127.0.0.1", stand.pg_port, "tcp")
        targets += [
            (n, p.port, p.pid) for n, p in (("pgbouncer", bouncer), ("haproxy", balancer)) if p
        ]
        targets.append(("sealgate", stand.proxy_pg_port, stand.proxy_pid))
        try:
            for workload, scripts in workloads.items():
                results[workload] = {name: Series() for name, _, _ in targets}
                for _ in range(rounds):
                    for name, port, pid in targets:
                        script = scripts["sealgate" if name == "sealgate" else "peer"]
                        pids = process_tree(pid) if pid else []
                        before = cpu_seconds(pids)
                        tps = pgbench(port, stand, script, seconds)
                        series = results[workload][name]
                        series.rates.append(tps)
                        series.cpu.append((cpu_seconds(pids) - before) / (tps * seconds))
        finally:
            for peer in (bouncer, balancer):
                if peer:
                    peer.__exit__(None, None, None)
    return table("PostgreSQL", "CPU s / 100 000 queries", 1e5, results), results
