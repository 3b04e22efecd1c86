"""How many puts a second reach an informer's handler, embedded: one process and one event loop do the durable puts, the
store, the watch, the cache with its indexes, and the handler.

The baseline, in the same run, is a bare watch on the same store that only decodes each object. A third line shows the
puts with nobody watching, which bounds both.

    python -m benchmarks.informer_events
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from benchmarks.table import quiet
from informer import Handler, SharedInformer, Stored, StoreListWatch
from kvstore.api import prefix_end
from kvstore.client import EmbeddedClient
from kvstore.node import Node

EVENTS = 40_000
OBJECTS = 5_000  # so most events are updates
IN_FLIGHT = 64
ROUNDS = 3
GOAL = 30_000
PREFIX = b"/registry/core/pods/"

AllSeen: TypeAlias = Callable[[], Awaitable[object]]


def pod(n: int) -> tuple[bytes, bytes]:
    """Key and JSON of a Pod like those of a Deployment, about 600 bytes."""
    name = f"web-5d4f8c7b9-{n:05d}"
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f8c7b9", "controller": True}
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": f"0b0f8c2e-1111-4222-8333-{n:012d}",
            "generation": 1,
            "creationTimestamp": "2024-01-01T00:00:00Z",
            "labels": {"app": "web", "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{**owner, "uid": f"0b0f8c2e-1111-4222-8333-{n // 50:012d}"}],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "web", "image": "nginx:1.25", "ports": [{"p": 80}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    return PREFIX + b"default/" + name.encode(), msgspec.json.encode(value)


class Count(Handler):
    """Counts notifications and says when all have come."""

    def __init__(self) -> None:
        self.count = 0
        self.all = asyncio.Event()

    def more(self, count: int = 1) -> None:
        self.count += count
        if self.count == EVENTS:
            self.all.set()

    def on_add(self, new: Stored, initial: bool) -> None:
        self.more()

    def on_update(self, old: Stored, new: Stored) -> None:
        self.more()


@asynccontextmanager
async def nobody(client: EmbeddedClient) -> AsyncIterator[AllSeen]:
    yield lambda: asyncio.sleep(0)


@asynccontextmanager
async def bare_watch(client: EmbeddedClient) -> AsyncIterator[AllSeen]:
    counter = Count()
    decode = msgspec.json.Decoder().decode

    async with client.watch(PREFIX, prefix_end(PREFIX)) as watch:

        async def read() -> None:
            async for response in watch:
                for event in response.events:
                    decode(event.kv.value)
                counter.more(len(response.events))

        reading = asyncio.create_task(read())
        yield counter.all.wait
        reading.cancel()
        await asyncio.wait([reading])


@asynccontextmanager
async def informer(client: EmbeddedClient) -> AsyncIterator[AllSeen]:
    counter = Count()
    shared = SharedInformer(StoreListWatch(client, PREFIX), rng=random.Random(1), queue_limit=EVENTS)
    registration = shared.add_handler(counter)
    async with shared:
        await registration.wait_synced()
        yield counter.all.wait
        assert len(shared.cache) == OBJECTS


async def events_a_second(
    watcher: Callable[[EmbeddedClient], AbstractAsyncContextManager[AllSeen]], pods: list[tuple[bytes, bytes]]
) -> float:
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory)) as node:
            client = EmbeddedClient(node)

            async def put(first: int) -> None:
                for n in range(first, EVENTS, IN_FLIGHT):
                    key, value = pods[n % OBJECTS]
                    await client.put(key, value)

            async with watcher(client) as all_seen:
                clock = asyncio.get_running_loop().time
                gc.collect()
                began = clock()
                async with asyncio.TaskGroup() as writers:
                    for first in range(IN_FLIGHT):
                        writers.create_task(put(first))
                await all_seen()
                return EVENTS / (clock() - began)


def main() -> None:
    quiet()
    pods = [pod(n) for n in range(OBJECTS)]
    watchers = {"no watcher": nobody, "bare watch, decode": bare_watch, "informer handler": informer}
    rates: dict[str, list[float]] = {name: [] for name in watchers}
    for _ in range(ROUNDS):
        for name, watcher in watchers.items():
            rates[name].append(asyncio.run(events_a_second(watcher, pods)))
    median = {name: statistics.median(measured) for name, measured in rates.items()}
    baseline = median["bare watch, decode"]
    size = len(pods[0][1])
    print(f"{EVENTS} durable puts of {size} bytes, {OBJECTS} objects, {IN_FLIGHT} in flight; median of {ROUNDS} rounds")
    print(f"{'':<22}{'events/s':>10}{'us/event':>10}{'ratio':>8}")
    for name, rate in median.items():
        print(f"{name:<22}{rate:>10,.0f}{1e6 / rate:>10.1f}{rate / baseline:>8.2f}")
    reached = "reached" if median["informer handler"] >= GOAL else "not reached"
    print(f"goal for the informer handler: {GOAL:,} events/s, {reached}")


if __name__ == "__main__":
    main()
