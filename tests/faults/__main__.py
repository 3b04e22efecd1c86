"""`python -m tests.faults --seeds 5000`: thousands of lives of informers behind a network that breaks.

Each seed is one life: random writes and compactions, random faults, and after each round of them everything is checked.
The first that goes wrong ends the run with its seed; `--first SEED --seeds 1` lives it again (the same writes and
faults; not to the instant, for sockets and threads are real), `--repeat 50` more often.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.faults.network import FAULTS, ROUNDS
from tests.faults.soak import SeedError, quiet, soak

PROCESSES = 2
AT_ONCE = 10  # seeds that live at the same time in one process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=1000, help="the first one")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of writes and faults in each life")
    parser.add_argument("--repeat", type=int, default=1, help="live all of it so many times")
    parser.add_argument("--guarded", action="store_true", help="with TLS and users whose tokens expire")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args()
    began = time.monotonic()
    starts = range(arguments.first, arguments.first + arguments.seeds, AT_ONCE)
    total: Counter[str] = Counter()
    lived = 0
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn"), initializer=quiet) as pool:
        runs = {}
        for start in [*starts] * arguments.repeat:
            count = min(AT_ONCE, arguments.first + arguments.seeds - start)
            runs[pool.submit(soak, start, count, arguments.rounds, guarded=arguments.guarded)] = count
        for finished in as_completed(runs):
            try:
                total.update(finished.result())
            except SeedError as error:
                pool.shutdown(cancel_futures=True)
                print(error, file=sys.stderr)
                return 1
            lived += runs[finished]
            if lived % 500 < runs[finished]:
                print(f"{lived} lives, {time.monotonic() - began:.0f} s", flush=True)
    for fault in FAULTS:
        print(f"  {total[fault]:7}  {fault}")
    print(
        f"{lived} lives in {time.monotonic() - began:.0f} s: {total['events']} events, {total['resumes']} resumes, "
        f"{total['relists']} relists, {total['failures']} failures got over. Every cache was right, every handler was "
        "told what happened, nothing was left over."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
