"""COPY of many rows with two protected columns: direct, through Sealgate, and pgcrypto in SQL.

psql copies from and to files, so that the client costs as little as it may. pgcrypto does what people
do without a proxy: COPY into a staging table, then pgp_sym_encrypt per value; far fewer rows, since
it takes 0.1 ms a value, and reported as rows a second all the same.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from benchmarks.measure import cpu_seconds, process_tree
from benchmarks.stand import Stand

COLUMNS = "id, a, b, c, n"
PGCRYPTO_ROWS = 10_000


def _psql(stand: Stand, port: int, command: str) -> float:
    """Seconds that psql took for one command."""
    start = time.perf_counter()
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", command, stand.dsn(port)],
        check=True, capture_output=True, env={**os.environ, "PGOPTIONS": ""},
    )  # fmt: skip
    return time.perf_counter() - start


def _write(path: Path, rows: int) -> None:
    with path.open("w") as f:
        for i in range(rows):
            f.write(f"{i}\ta{i:031d}\tb{i:031d}\tc{i:031d}\t{i % 1000}\n")
    path.chmod(0o644)


def run(stand: Stand, rounds: int = 3, rows: int = 1_000_000) -> tuple[str, dict[str, float]]:
    """The table as text; the figures: rows a second of each, and CPU seconds per million rows."""
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {"in": [], "out": []}
    pids = process_tree(stand.proxy_pid)
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        source, sink = folder / "in.txt", folder / "out.txt"
        _write(source, rows)
        targets = (("direct", stand.pg_port, "copy_clear"), ("sealgate", stand.proxy_pg_port,
                                                            "copy_sealed"))  # fmt: skip
        for _, port, name in targets:
            with psycopg.connect(stand.dsn(port), autocommit=True) as c:
                c.execute(f"DROP TABLE IF EXISTS {name}")
                c.execute(f"CREATE TABLE {name} (id int, a text, b text, c text, n int)")
        for _ in range(rounds):
            for label, port, name in targets:
                for way, command in (
                    ("in", f"\\copy {name} ({COLUMNS}) from {source}"),
                    ("out", f"\\copy {name} ({COLUMNS}) to {sink}"),
                ):
                    before = cpu_seconds(pids)
                    took = _psql(stand, port, command)
                    rates.setdefault(f"{way} {label}", []).append(rows / took)
                    if label == "sealgate":
                        cpu[way].append((cpu_seconds(pids) - before) / rows * 1e6)
                if label == "sealgate" and source.read_bytes() != sink.read_bytes():
                    raise RuntimeError("COPY OUT did not give back what COPY IN took")
                if label == "sealgate":
                    rates.setdefault("in floor", []).append(rows / _floor(stand, folder))
                with psycopg.connect(stand.dsn(port), autocommit=True) as c:
                    c.execute(f"TRUNCATE {name}")
        rates["in pgcrypto"] = [_pgcrypto(stand, folder) for _ in range(rounds)]
    found = {name: statistics.median(values) for name, values in rates.items()}
    found |= {f"cpu {way}": statistics.median(values) for way, values in cpu.items()}
    lines = [f"COPY of {rows} rows, two of five columns protected"]
    for way in ("in", "out"):
        ratio = [s / d for s, d in zip(rates[f"{way} sealgate"], rates[f"{way} direct"],
                                       strict=True)]  # fmt: skip
        lines.append(
            f"COPY {way.upper():4} {found[f'{way} sealgate']:10.0f} rows/s, "
            f"{statistics.median(ratio):.2f} [{min(ratio):.2f}-{max(ratio):.2f}] of direct, "
            f"{found[f'cpu {way}']:.2f} CPU s per million rows"
        )
    floor = [f / d for f, d in zip(rates["in floor"], rates["in direct"], strict=True)]
    lines.append(
        f"COPY IN of the same sealed bytes, without the proxy: {statistics.median(floor):.2f} "
        f"[{min(floor):.2f}-{max(floor):.2f}] of direct: what the server alone leaves"
    )
    lines.append(
        f"pgcrypto  {found['in pgcrypto']:10.0f} rows/s: Sealgate is "
        f"{found['in sealgate'] / found['in pgcrypto']:.0f} times faster"
    )
    return "\n".join(lines), found


def _floor(stand: Stand, folder: Path) -> float:
    """Seconds of a direct COPY into a table alike of the sealed bytes that copy_sealed holds now."""
    sealed = folder / "sealed.txt"
    _psql(stand, stand.pg_port, f"\\copy copy_sealed ({COLUMNS}) to {sealed}")
    with psycopg.connect(stand.dsn(stand.pg_port), autocommit=True) as c:
        c.execute("DROP TABLE IF EXISTS copy_floor")
        c.execute("CREATE TABLE copy_floor (LIKE copy_sealed)")
    took = _psql(stand, stand.pg_port, f"\\copy copy_floor ({COLUMNS}) from {sealed}")
    sealed.unlink()
    return took


def _pgcrypto(stand: Stand, folder: Path) -> float:
    """Rows a second of COPY into a staging table and pgp_sym_encrypt of two columns."""
    source = folder / "pgcrypto.txt"
    _write(source, PGCRYPTO_ROWS)
    with psycopg.connect(stand.dsn(stand.pg_port), autocommit=True) as c:
        c.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto")
        c.execute("DROP TABLE IF EXISTS copy_stage, copy_pgcrypto")
        c.execute("CREATE TABLE copy_stage (id int, a text, b text, c text, n int)")
        c.execute("CREATE TABLE copy_pgcrypto (id int, a bytea, b bytea, c text, n int)")
        took = _psql(stand, stand.pg_port, f"\\copy copy_stage ({COLUMNS}) from {source}")
        start = time.perf_counter()
        c.execute(
            "INSERT INTO copy_pgcrypto SELECT id, pgp_sym_encrypt(a, 'key'),"
            " pgp_sym_encrypt(b, 'key'), c, n FROM copy_stage"
        )
        return PGCRYPTO_ROWS / (took + time.perf_counter() - start)
