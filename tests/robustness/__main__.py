"""`python -m tests.robustness --kills 1000 --seed 1`: kill a server under load, again and again, and check everything.

Two processes share the kills. The first thing that is wrong ends the run, with the seed and number of kills that show
it again (not to the instant: real processes do not run twice alike).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.robustness.run import Report, one

PROCESSES = 2
KILLS_A_DIRECTORY = 25


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args()
    began = time.monotonic()
    rng = random.Random(arguments.seed)
    sizes = [KILLS_A_DIRECTORY] * (arguments.kills // KILLS_A_DIRECTORY)
    if rest := arguments.kills % KILLS_A_DIRECTORY:
        sizes.append(rest)
    total = Report()
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(one, rng.getrandbits(32), kills) for kills in sizes]
        try:
            for finished in as_completed(runs):
                total.add(finished.result())
                print(f"{total.killed} kills, {time.monotonic() - began:.0f} s", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for point, count in sorted(total.kills.items()):
        print(f"  {count:5}  {point}")
    print(
        f"{total.killed} kills in {time.monotonic() - began:.0f} s: {total.acknowledged} calls acknowledged, "
        f"{total.undecided} undecided, {total.revisions} revisions, {total.compactions} compactions; "
        f"watchers got {total.events} events, came back {total.resumed} times and were compacted away "
        f"{total.cut_off} times. Nothing was lost, nothing was told twice."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
