"""How many events a second get from a store to an informer's handler, embedded and over gRPC.

The events are in the store already and a watch from before them replays them, so that no writer takes a share of the
time (`informer_events` has the writers too). The baseline, in the same run, is a bare watch of the same client that
only decodes each object; over gRPC there is also a stream without our client, that parses and decodes.

    python -m benchmarks.informer_stream
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

import grpc
import msgspec

from benchmarks.informer_events import PREFIX, pod
from benchmarks.servers import ours
from benchmarks.table import Row, quiet, show
from informer import Handler, ListPage, SharedInformer, Stored, StoreListWatch
from informer.listwatch import Batch
from kvstore.api import Client, Put, prefix_end
from kvstore.client import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node
from kvstore.proto import messages as pb

OBJECTS = 5_000
EVENTS = 100_000
A_TXN = 50  # so events come as they do from a busy cluster: several a message
ROUNDS = 3


class FromBefore:
    """A `ListWatch` whose list was made before the events: it is empty, and all of them come on the watch."""

    def __init__(self, client: Client, revision: int) -> None:
        self._list_watch = StoreListWatch(client, PREFIX)
        self._revision = str(revision)

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return ListPage([], self._revision)

    def watch(self, revision: str) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        return self._list_watch.watch(revision)


class Count(Handler):
    """Counts notifications and says when all have come."""

    def __init__(self) -> None:
        self.count = 0
        self.all = asyncio.Event()

    def more(self) -> None:
        self.count += 1
        if self.count == EVENTS:
            self.all.set()

    def on_add(self, new: Stored, initial: bool) -> None:
        self.more()

    def on_update(self, old: Stored, new: Stored) -> None:
        self.more()


async def fill(client: Client) -> int:
    """Write the events; the revision before them."""
    revision = (await client.put(b"/before", b"")).header.revision
    pods = [pod(n) for n in range(OBJECTS)]
    for first in range(0, EVENTS, A_TXN):
        await client.txn(success=[Put(*pods[n % OBJECTS]) for n in range(first, first + A_TXN)])
    return revision


async def bare(client: Client, revision: int) -> None:
    """A watch of the client; each object is decoded."""
    decode = msgspec.json.Decoder().decode
    seen = 0
    async with client.watch(PREFIX, prefix_end(PREFIX), start_revision=revision + 1) as watch:
        async for response in watch:
            for event in response.events:
                decode(event.kv.value)
            seen += len(response.events)
            if seen == EVENTS:
                return


async def informer(client: Client, revision: int) -> None:
    counter = Count()
    shared = SharedInformer(FromBefore(client, revision), rng=random.Random(1), queue_limit=EVENTS)
    shared.add_handler(counter)
    async with shared:
        await counter.all.wait()
        assert len(shared.cache) == OBJECTS


async def raw_stream(address: str, revision: int) -> None:
    """A gRPC stream without our client: each message is parsed, each object decoded."""
    decode = msgspec.json.Decoder().decode
    create = pb.WatchCreateRequest(key=PREFIX, range_end=prefix_end(PREFIX), start_revision=revision + 1)
    seen = 0
    async with grpc.aio.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
        stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)
        await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
        while seen < EVENTS:
            data = await stream.read()
            assert isinstance(data, bytes)
            events = pb.WatchResponse.FromString(data).events
            for event in events:
                decode(event.kv.value)
            seen += len(events)
        stream.cancel()


async def seconds(work: Callable[[], Awaitable[None]]) -> float:
    clock = asyncio.get_running_loop().time
    gc.collect()
    began = clock()
    await work()
    return clock() - began


async def rates(ways: dict[str, Callable[[], Awaitable[None]]]) -> dict[str, float]:
    """Events a second of each way, the median of the rounds."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            took[name].append(await seconds(way))
    return {name: EVENTS / statistics.median(each) for name, each in took.items()}


@asynccontextmanager
async def remote(address: str) -> AsyncIterator[RemoteClient]:
    client = RemoteClient([address])
    try:
        yield client
    finally:
        await client.close()


async def embedded_rates(directory: Path) -> dict[str, float]:
    async with Node.open(directory) as node:
        client = EmbeddedClient(node)
        revision = await fill(client)
        return await rates({"bare": lambda: bare(client, revision), "informer": lambda: informer(client, revision)})


async def grpc_rates(address: str) -> dict[str, float]:
    async with remote(address) as client:
        revision = await fill(client)
        return await rates(
            {
                "raw": lambda: raw_stream(address, revision),
                "bare": lambda: bare(client, revision),
                "informer": lambda: informer(client, revision),
            }
        )


def main() -> None:
    quiet()
    with tempfile.TemporaryDirectory() as directory:
        embedded = asyncio.run(embedded_rates(Path(directory) / "embedded"))
        with ours(Path(directory)) as (_, address):
            remote = asyncio.run(grpc_rates(address))
    size = len(pod(0)[1])
    show(
        f"a replay of {EVENTS} events of {OBJECTS} objects of {size} bytes; median of {ROUNDS} rounds, in turn",
        [
            Row("embedded, bare watch, decode", embedded["bare"], "events/s"),
            Row(
                "embedded, informer to handler",
                embedded["informer"],
                "events/s",
                "the bare watch",
                embedded["informer"] / embedded["bare"],
            ),
            Row("gRPC, bare stream, parse, decode", remote["raw"], "events/s"),
            Row("gRPC, watch of our client, decode", remote["bare"], "events/s"),
            Row(
                "gRPC, informer to handler",
                remote["informer"],
                "events/s",
                "the bare stream",
                remote["informer"] / remote["raw"],
            ),
        ],
    )


if __name__ == "__main__":
    main()
