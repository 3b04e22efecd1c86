"""From the start of an informer on 100,000 objects until it is in step: each is in the cache, indexed, and was told to
the handler. Embedded and over gRPC.

The baselines, in the same run, are a bare list of the same objects through the same client in pages of the same size,
and that list with each object decoded and kept, as clients do that have no informer.

    python -m benchmarks.informer_list
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from benchmarks.informer_events import PREFIX, pod
from benchmarks.informer_stream import remote, seconds
from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from informer import Handler, SharedInformer, Stored, StoreListWatch
from informer.reflector import PAGE_SIZE
from kvstore.api import Client, KeyValue, Put, Range, prefix_end
from kvstore.client import EmbeddedClient
from kvstore.node import Node

OBJECTS = 100_000
A_TXN = 100
ROUNDS = 3
BARE, DECODED, INFORMER = "bare list", "list, each decoded and kept", "informer in step"


class Count(Handler):
    def __init__(self) -> None:
        self.count = 0

    def on_add(self, new: Stored, initial: bool) -> None:
        self.count += 1


async def fill(client: Client, objects: int = OBJECTS) -> None:
    for first in range(0, objects, A_TXN):
        await client.txn(success=[Put(*pod(n)) for n in range(first, first + A_TXN)])


async def bare(client: Client, use: Callable[[KeyValue], object]) -> None:
    """Every page at the revision of the first; what `use` makes of each object is kept."""
    kept = []
    key, end, revision = PREFIX, prefix_end(PREFIX), 0
    while True:
        response = await client.range(Range(key=key, range_end=end, limit=PAGE_SIZE, revision=revision))
        kept += [use(kv) for kv in response.kvs]
        if not response.more:
            break
        revision = revision or response.header.revision
        key = response.kvs[-1].key + b"\0"
    assert len(kept) == OBJECTS


async def informer(client: Client) -> None:
    counter = Count()
    shared = SharedInformer(StoreListWatch(client, PREFIX), rng=random.Random(1))
    registration = shared.add_handler(counter)
    async with shared:
        await registration.wait_synced()
        assert counter.count == len(shared.cache) == OBJECTS


async def measure(client: Client) -> dict[str, float]:
    """Seconds, the median of the rounds."""
    await fill(client)
    decode = msgspec.json.Decoder().decode
    ways: dict[str, Callable[[], Awaitable[None]]] = {
        BARE: lambda: bare(client, lambda kv: kv),
        DECODED: lambda: bare(client, lambda kv: decode(kv.value)),
        INFORMER: lambda: informer(client),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            took[name].append(await seconds(way))
    return {name: statistics.median(each) for name, each in took.items()}


async def embedded_seconds(directory: Path) -> dict[str, float]:
    async with Node.open(directory) as node:
        return await measure(EmbeddedClient(node))


async def grpc_seconds(address: str) -> dict[str, float]:
    async with remote(address) as client:
        return await measure(client)


def main() -> None:
    quiet()
    with tempfile.TemporaryDirectory() as directory:
        measured = {"embedded": asyncio.run(embedded_seconds(Path(directory) / "embedded"))}
        with ours(Path(directory)) as (_, address):
            measured["gRPC"] = asyncio.run(grpc_seconds(address))
    rows = []
    for where, took in measured.items():
        rows.append(Row(f"{where}, {BARE}", took[BARE], "s"))
        rows += [
            Row(f"{where}, {name}", took[name], "s", "the bare list", took[name] / took[BARE])
            for name in (DECODED, INFORMER)
        ]
    size = len(pod(0)[1])
    show(f"{OBJECTS} objects of {size} bytes in pages of {PAGE_SIZE}; median of {ROUNDS} rounds, in turn", rows)


if __name__ == "__main__":
    main()
