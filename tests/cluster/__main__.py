"""`python -m tests.cluster --faults 60`: members of a three-member etcd fail, one after the other, under load.

Any member is killed, paused or cut off from its peers; compactions keep much of the history, little, or nothing. After
each fault every informer was told all that the store's history has and nothing twice, every acknowledged write is in
it, and a rollout that began with the fault is complete.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.cluster.survival import FAULTS, survival
from tests.faults.leftovers import nothing_left
from tests.faults.soak import quiet

KEEP = (0, 300, 100_000)


async def run(faults: int, seed: int) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory:
        async with nothing_left(), survival(Path(directory), seed) as it:
            for number in range(faults):
                name = rng.choice([*FAULTS])
                keep = rng.choice(KEEP)
                victim = rng.choice([None, *it.etcd.members])
                who = "the leader" if victim is None else victim.name
                print(f"{number}: {who} is {name}, {keep} revisions are kept", flush=True)
                await it.live_through(FAULTS[name], keep=keep, victim=victim)
    did = it.counts
    print(
        f"{did['faults']} faults in {time.monotonic() - began:.0f} s: {did['writes']} writes acknowledged, "
        f"{did['undecided']} undecided; informers were told of {did['events']} events, resumed {did['resumes']} times "
        f"and listed again {did['relists']} times. Nothing was lost, nothing was told twice, every rollout finished."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    quiet()
    try:
        asyncio.run(run(arguments.faults, arguments.seed))
    except Exception as error:
        error.add_note(f"again: python -m tests.cluster --faults {arguments.faults} --seed {arguments.seed}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
