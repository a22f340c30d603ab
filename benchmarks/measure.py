"""CPU and ratios: how every benchmark here counts.

CPU is what all threads of a process (and its children) were scheduled for, in nanoseconds, from
/proc/PID/task/*/schedstat: unlike ticks it has no 10 ms grain. Throughput ratios are taken within
one round, against the direct run of that round, and reported as median [min-max]: on a small shared
machine only ratios within a round compare.
"""

import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field


def process_tree(pid: int) -> list[int]:
    """`pid` and all its descendants that live now."""
    found = [pid]
    for parent in found:
        for task in _listdir(f"/proc/{parent}/task"):
            try:
                with open(f"/proc/{parent}/task/{task}/children") as f:
                    found += [int(c) for c in f.read().split() if int(c) not in found]
            except OSError:
                continue
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Seconds on a CPU since their start, summed over the threads of these processes."""
    total = 0
    for pid in pids:
        for task in _listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                    total += int(f.read().split()[0])
            except OSError:
                continue
    return total / 1e9


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as f:
                total += int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        except OSError:
            continue
    return total


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


@dataclass
class Series:
    """What the rounds of one workload against one target gave."""

    rates: list[float] = field(default_factory=list)  # units of work a second
    cpu: list[float] = field(default_factory=list)  # CPU seconds of the middle box a unit of work


def spread(values: list[float], digits: int = 2) -> str:
    """`median [min-max]`, or a dash where nothing was measured."""
    if not values:
        return "-"
    return (
        f"{statistics.median(values):.{digits}f} "
        f"[{min(values):.{digits}f}-{max(values):.{digits}f}]"
    )


def table(title: str, unit: str, per: float, results: dict[str, dict[str, Series]]) -> str:
    """Rows: workload x target, with the ratio to direct and CPU seconds per `per` units."""
    lines = [title, f"{'workload':28} {'target':12} {'of direct':>20} {unit:>26}"]
    for workload, targets in results.items():
        direct = targets["direct"].rates
        for target, series in targets.items():
            ratios = [r / d for r, d in zip(series.rates, direct, strict=True)]
            cpu = [c * per for c in series.cpu] if target != "direct" else []
            lines.append(f"{workload:28} {target:12} {spread(ratios):>20} {spread(cpu):>26}")
    return "\n".join(lines)
