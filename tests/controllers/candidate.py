"""`python -m tests.controllers.candidate STORE NAME LEASE_SECONDS`: a process that stands for an office.

While it leads it counts up in a ConfigMap. It tells what happens, one line each.
"""

from __future__ import annotations

import asyncio
import sys

from controllers import LeaderElection, Manager
from controllers.core.types import ConfigMap
from informer import ApiError

INTERVAL = 0.005  # seconds between writes, and so the resolution of what is measured


def tell(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    store, name, seconds = sys.argv[1:]
    lease = int(seconds)
    election = LeaderElection(
        "counter", identity=name, lease_seconds=lease, renew_deadline=lease * 2 / 3, retry_period=lease * 2 / 15
    )
    manager = Manager(store, leader_election=election)

    async def stand_by() -> None:
        tell("standby", name)

    async def lead() -> None:
        tell("leader", name)
        client, count = manager.client, 0
        while True:
            count += 1
            try:
                await client.apply(ConfigMap(name="counter", namespace="default", data={"by": name, "n": str(count)}))
            except ApiError as error:
                tell("refused", type(error).__name__)
            await asyncio.sleep(INTERVAL)

    manager.add_runnable(stand_by, leader_election=False)
    manager.add_runnable(lead)
    manager.run()


if __name__ == "__main__":
    main()
