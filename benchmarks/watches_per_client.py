"""What an event costs a client that has 1, 100 or 1,000 watches: its CPU time, and how late it learns of a put.

The server is a process of its own; every watch has a key of its own, and each put concerns one of them. The baseline,
in the same run, is a client of its own (so a stream and a connection of its own) for each watch, up to 100 of them.

    python -m benchmarks.watches_per_client
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.table import Row, show
from kvstore.client import RemoteClient
from tests.kvstore.serve_process import serving

WATCHES = (1, 100, 1_000)
MOST_CLIENTS = 100
EVENTS = 5_000
IN_FLIGHT = 16
PROBES = 500


class Watched:
    """Watches key 0, 1, 2 ... and says when the event of a put has come."""

    def __init__(self) -> None:
        self.count = 0
        self.wanted = 0
        self.seen: dict[bytes, asyncio.Future[float]] = {}
        self.all = asyncio.Event()

    async def consume(self, client: RemoteClient, key: bytes, stack: AsyncExitStack, ready: asyncio.Semaphore) -> None:
        async with ready:
            watch = await stack.enter_async_context(client.watch(key))
        asyncio.current_task().set_name("watching")  # type: ignore[union-attr]
        async for response in watch:
            for event in response.events:
                self.count += 1
                if (waiting := self.seen.pop(event.kv.key, None)) is not None:
                    waiting.set_result(time.perf_counter())
            if self.count == self.wanted:
                self.all.set()


async def put_many(client: RemoteClient, keys: list[bytes]) -> None:
    turns = iter(range(EVENTS))

    async def some() -> None:
        for turn in turns:
            await client.put(keys[turn % len(keys)], b"x" * 100)

    await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))


async def measure(endpoint: str, count: int, clients: int) -> tuple[float, float, float, float]:
    """Seconds until all watches stand, CPU s an event, and the median and 99th percentile of put to event in s."""
    keys = [b"%d" % number for number in range(count)]
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(RemoteClient([endpoint]))
        watchers = [await stack.enter_async_context(RemoteClient([endpoint])) for _ in range(clients)]
        for client in (writer, *watchers):
            await client.get(b"0")
        cpu = time.process_time()
        await put_many(writer, keys)
        puts_alone = time.process_time() - cpu

        watched = Watched()
        opening = asyncio.Semaphore(1_000)
        began = time.perf_counter()
        tasks = [
            loop.create_task(watched.consume(watchers[number % clients], key, stack, opening))
            for number, key in enumerate(keys)
        ]
        while any(task.get_name() != "watching" for task in tasks):
            await asyncio.sleep(0.001)
        opened = time.perf_counter() - began

        watched.wanted = EVENTS
        cpu = time.process_time()
        await put_many(writer, keys)
        await watched.all.wait()
        each = (time.process_time() - cpu - puts_alone) / EVENTS

        delays = []
        for turn in range(PROBES):
            key = keys[turn % count]
            seen = watched.seen[key] = loop.create_future()
            began = time.perf_counter()
            await writer.put(key, b"probe")
            delays.append(await seen - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    delays.sort()
    return opened, each, statistics.median(delays), delays[len(delays) * 99 // 100]


async def run() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with serving(Path(directory) / "data") as (process, endpoint):
            for count in WATCHES:
                baseline = await measure(endpoint, count, min(count, MOST_CLIENTS)) if count > 1 else None
                ours = await measure(endpoint, count, 1)
                names = ("until all watches stand", "CPU an event", "put to event, median", "put to event, p99")
                scales = ((1e3, "ms"), (1e6, "µs"), (1e3, "ms"), (1e3, "ms"))
                rows = []
                for number, (name, (scale, unit)) in enumerate(zip(names, scales, strict=True)):
                    value = ours[number] * scale
                    if baseline is None:
                        rows.append(Row(name, value, unit))
                    else:
                        other = f"{min(count, MOST_CLIENTS)} clients ({baseline[number] * scale:.2f} {unit})"
                        rows.append(Row(name, value, unit, other, ours[number] / baseline[number]))
                show(f"{count} watches on one client", rows)
            process.kill()


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()
