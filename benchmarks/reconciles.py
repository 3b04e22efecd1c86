"""How many reconciles a second a controller manages: the queue, the workers, a context, the outcome, the counting.

Each round adds every key to the queue and waits until all have run. The baseline, in the same run, is the least that
could do the job: an asyncio.Queue, and workers that await a function with each key. A second pair reads the object
from the cache in each run, which decodes it.

    python -m benchmarks.reconciles
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.table import Row, quiet, show
from controllers import Context, Manager, Request, Result
from informer import Resource
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

OBJECTS = 10_000
WORKERS = 4
ROUNDS = 5
GOAL = 10_000


class Widget(Resource, group="example.com", version="v1"):
    class Spec:
        size: int = 1


class Countdown:
    """Says when every key has run."""

    def __init__(self) -> None:
        self.left = 0
        self.done = asyncio.Event()

    def begin(self) -> None:
        self.left = OBJECTS
        self.done.clear()

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


async def rate(countdown: Countdown, add: Callable[[Request], None], requests: list[Request]) -> float:
    clock = asyncio.get_running_loop().time
    gc.collect()
    countdown.begin()
    began = clock()
    for request in requests:
        add(request)
    await countdown.done.wait()
    return OBJECTS / (clock() - began)


async def bare_queue(run: Callable[[Request], Awaitable[None]], countdown: Countdown, requests: list[Request]) -> float:
    queue: asyncio.Queue[Request] = asyncio.Queue()

    async def work() -> None:
        while True:
            await run(await queue.get())
            queue.task_done()

    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    measured = await rate(countdown, queue.put_nowait, requests)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    return measured


async def measure(client: EmbeddedClient) -> dict[str, list[float]]:
    countdown = Countdown()
    manager = Manager(client=client)

    @manager.reconciler(Widget, name="nothing", workers=WORKERS)
    async def nothing(ctx: Context, request: Request) -> Result | None:
        countdown.count()
        return None

    @manager.reconciler(Widget, name="get", workers=WORKERS)
    async def get(ctx: Context, request: Request) -> Result | None:
        widget = ctx.get(Widget, request)
        assert widget is not None
        countdown.count()
        return None

    rates: dict[str, list[float]] = {}
    async with manager:
        create = manager.client.create
        for first in range(0, OBJECTS, 100):
            names = range(first, first + 100)
            await asyncio.gather(*(create(Widget(name=f"w{n}", namespace="default", spec={})) for n in names))
        cache = manager.informer(Widget).cache
        nothing_queue, get_queue = manager.controller("nothing").queue, manager.controller("get").queue
        while (
            len(cache) < OBJECTS or nothing_queue.statistics().gets < OBJECTS or get_queue.statistics().gets < OBJECTS
        ):
            await asyncio.sleep(0.01)
        requests = [Request(stored.namespace, stored.name) for stored in cache.list()]

        async def bare_nothing(request: Request) -> None:
            countdown.count()

        async def bare_get(request: Request) -> None:
            stored = cache.get(request.key)
            assert stored is not None
            Widget.decode(stored.data, stored.revision)
            countdown.count()

        contestants: dict[str, Callable[[], Awaitable[float]]] = {
            "asyncio.Queue, nothing": lambda: bare_queue(bare_nothing, countdown, requests),
            "controller, nothing": lambda: rate(countdown, nothing_queue.add, requests),
            "asyncio.Queue, get": lambda: bare_queue(bare_get, countdown, requests),
            "controller, get": lambda: rate(countdown, get_queue.add, requests),
        }
        for _ in range(ROUNDS):
            for name, contestant in contestants.items():
                rates.setdefault(name, []).append(await contestant())
    return rates


async def run() -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory), NodeOptions(fsync=False)) as node:
            return await measure(EmbeddedClient(node))


def main() -> None:
    quiet()
    median = {name: statistics.median(measured) for name, measured in asyncio.run(run()).items()}
    rows = []
    for kind in ("nothing", "get"):
        bare, found = median[f"asyncio.Queue, {kind}"], median[f"controller, {kind}"]
        rows.append(Row(f"asyncio.Queue, {kind}", bare, "runs/s"))
        rows.append(Row(f"controller, {kind}", found, "runs/s", "asyncio.Queue", found / bare))
    trivial = median["controller, nothing"]
    rows[1] = dataclasses.replace(rows[1], goal=f">= {GOAL:,}", reached=trivial >= GOAL)
    show(f"{OBJECTS:,} keys, {WORKERS} workers; median of {ROUNDS} rounds", rows)


if __name__ == "__main__":
    main()
