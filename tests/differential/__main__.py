"""python -m tests.differential [--seed N] [--pairs N] [--steps N]: a longer run by hand."""

import argparse
import sys
import time

from tests.differential.twins import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    start = time.monotonic()
    tally = run(asked.seed, asked.pairs, asked.steps)
    print(tally.report())
    for text in tally.divergences:
        print(text)
    print(
        f"seed {asked.seed}: {tally.total} statements, {len(tally.divergences)} divergences, "
        f"{time.monotonic() - start:.0f} s"
    )
    return int(bool(tally.divergences))


if __name__ == "__main__":
    sys.exit(main())
