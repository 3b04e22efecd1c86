"""`python -m tests.simulation --seeds 5000`: thousands of lives of each of our reconcilers, or of those that are named.

The first life that goes wrong ends the run with its trace; `--first SEED --seeds 1 --trace` lives it again, to the
letter, and shows all of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.simulation.scenarios import RIGHT, SCENARIOS
from tests.simulation.soak import live

AT_ONCE = 20  # seeds of one piece of work


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seeds", type=int, default=5000, help="how many lives of each")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="show all that happened, in this process")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.scenarios or list(RIGHT)
    if unknown := [name for name in names if name not in SCENARIOS]:
        parser.error(f"there is no {unknown[0]}: {', '.join(SCENARIOS)}")
    began = time.monotonic()
    total: Counter[str] = Counter()
    last = arguments.first + arguments.seeds
    pieces = [(n, first, min(AT_ONCE, last - first)) for first in range(arguments.first, last, AT_ONCE) for n in names]
    if arguments.trace:
        for piece in pieces:
            total, failure = live(*piece, show=True)
            if failure:
                print(failure, file=sys.stderr)
                return 1
        return 0
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for finished in as_completed([pool.submit(live, *piece) for piece in pieces]):
            lived, failure = finished.result()
            total.update(lived)
            if failure:
                pool.shutdown(cancel_futures=True)
                print(failure, file=sys.stderr)
                return 1
    lives, runs, revisions, starts = (total.pop(each, 0) for each in ("lives", "runs", "revisions", "starts"))
    for fault, count in sorted(total.items()):
        print(f"  {count:7}  {fault}")
    print(
        f"{lives} lives of {', '.join(names)} in {time.monotonic() - began:.0f} s: {revisions} revisions, {runs} runs, "
        f"{starts} starts of processes; all ended as without faults."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
