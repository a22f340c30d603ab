"""python -m tests.transparency: outside suites, directly and through the proxy, compared per test."""

import argparse
import sys
import time
from pathlib import Path

from tests.transparency.outcome import count
from tests.transparency.stand import compare
from tests.transparency.suites import SUITES

CACHE = Path("build") / "outside"


def main() -> int:
    parser = argparse.ArgumentParser(prog="./run transparency", description=__doc__)
    parser.add_argument("--suite", action="append", choices=sorted(SUITES), default=[])
    parser.add_argument("--source", action="append", default=[], metavar="NAME=DIR",
                        help="a checkout of a suite that no registry offers")  # fmt: skip
    parser.add_argument("--select", action="append", default=[], help="files of the suite")
    parser.add_argument("--bounded", action="store_true", help="the part that CI runs")
    parser.add_argument("--watched", action="store_true",
                        help="protect a column of another table of the same database")  # fmt: skip
    parser.add_argument("--again", type=int, default=2, help="repetitions of what differs")
    asked = parser.parse_args()
    sources = {k: Path(v) for k, _, v in (s.partition("=") for s in asked.source)}
    mode = "watched" if asked.watched else "proxied"
    failed = False
    for name in asked.suite or SUITES:
        suite = SUITES[name]
        try:
            folder = suite.fetch(CACHE.absolute(), sources.get(name))
        except FileNotFoundError as missing:
            print(f"{name}: skipped, {missing}")
            continue
        start = time.monotonic()
        select = asked.select or (suite.bounded if asked.bounded else ())
        result = compare(suite, folder, select, mode, asked.again)
        seconds = time.monotonic() - start
        for side, outcomes in result.outcomes.items():
            print(f"{name}: {side}: {count(outcomes)}")
        for test, (direct, proxied) in result.different.items():
            print(f"{name}: DIFFERENT: {test}: directly {direct}, through the proxy {proxied}")
        for test in result.unsteady:
            print(f"{name}: unsteady by itself: {test}")
        print(f"{name}: {len(result.different)} differ, {seconds:.0f} s", flush=True)
        failed |= bool(result.different)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
