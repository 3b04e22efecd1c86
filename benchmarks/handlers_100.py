"""What 100 handlers on one informer cost, against one: durable puts on an embedded store until every handler has been
told of each; one process and one event loop do all of it.

    python -m benchmarks.handlers_100
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
from pathlib import Path

from benchmarks.informer_events import PREFIX, pod
from benchmarks.table import Row, quiet, show
from informer import Handler, SharedInformer, Stored, StoreListWatch
from kvstore.client import EmbeddedClient
from kvstore.node import Node

EVENTS = 10_000
OBJECTS = 1_000
IN_FLIGHT = 64
ROUNDS = 3
HANDLERS = (1, 100)


class Count(Handler):
    """Counts notifications and says when all have come."""

    def __init__(self) -> None:
        self.count = 0
        self.all = asyncio.Event()

    def on_add(self, new: Stored, initial: bool) -> None:
        self.on_update(new, new)

    def on_update(self, old: Stored, new: Stored) -> None:
        self.count += 1
        if self.count == EVENTS:
            self.all.set()


async def seconds(handlers: int, pods: list[tuple[bytes, bytes]]) -> float:
    """From the first put until the last handler has been told of the last one."""
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory)) as node:
            client = EmbeddedClient(node)
            # No coalescing, which would leave work out.
            informer = SharedInformer(StoreListWatch(client, PREFIX), rng=random.Random(1), queue_limit=EVENTS)
            counters = [Count() for _ in range(handlers)]
            registrations = [informer.add_handler(counter) for counter in counters]

            async def put(first: int) -> None:
                for n in range(first, EVENTS, IN_FLIGHT):
                    await client.put(*pods[n % OBJECTS])

            async with informer:
                for registration in registrations:
                    await registration.wait_synced()
                clock = asyncio.get_running_loop().time
                gc.collect()
                began = clock()
                async with asyncio.TaskGroup() as writers:
                    for first in range(IN_FLIGHT):
                        writers.create_task(put(first))
                for counter in counters:
                    await counter.all.wait()
                return clock() - began


def main() -> None:
    quiet()
    pods = [pod(n) for n in range(OBJECTS)]
    taken: dict[int, list[float]] = {handlers: [] for handlers in HANDLERS}
    for _ in range(ROUNDS):
        for handlers in HANDLERS:
            taken[handlers].append(asyncio.run(seconds(handlers, pods)))
    one, many = (statistics.median(taken[handlers]) for handlers in HANDLERS)
    each = (many - one) / (EVENTS * (HANDLERS[1] - HANDLERS[0]))
    show(
        f"{EVENTS} durable puts, {OBJECTS} objects, {IN_FLIGHT} in flight, told to every handler; median of {ROUNDS}",
        [
            Row("1 handler", EVENTS / one, "events/s"),
            Row("100 handlers", EVENTS / many, "events/s", "1 handler", one / many),
            Row("100 handlers", 100 * EVENTS / many, "told/s", "1 handler", 100 * one / many),
            Row("one handler more", 1e6 * each, "us/event", "an event with 1 handler", each * EVENTS / one),
        ],
    )


if __name__ == "__main__":
    main()
