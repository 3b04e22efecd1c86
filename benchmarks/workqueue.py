"""How many operations a second the work queue does, and how many the least that could stand in for it: an
asyncio.Queue, and a deque with a set that keeps a key from being queued twice. Neither of these holds a key back while
a worker has it, knows delays, backoff, priorities, or measures anything.

One operation is one call (put, get, task_done; append, popleft). Every contestant gets the same keys, in the same run.

    python -m benchmarks.workqueue
"""

from __future__ import annotations

import asyncio
import gc
import statistics
from collections import deque
from collections.abc import Awaitable, Callable

from benchmarks.table import Row, show
from controllers import Request, WorkQueue

KEYS = 20_000
ROUNDS = 7
LEVELS = (-100, 0, 100)
GOAL = 10_000  # reconciles a second, each of them an add, a get and a done

Contestant = Callable[[list[Request]], Awaitable[int]]


async def asyncio_queue(keys: list[Request]) -> int:
    queue: asyncio.Queue[Request] = asyncio.Queue()
    for key in keys:
        queue.put_nowait(key)
    for _ in keys:
        await queue.get()
        queue.task_done()
    return 3 * len(keys)


async def deque_and_set(keys: list[Request]) -> int:
    waiting: deque[Request] = deque()
    known: set[Request] = set()
    for key in keys:
        if key not in known:
            known.add(key)
            waiting.append(key)
    while waiting:
        known.discard(waiting.popleft())
    return 2 * len(keys)


async def added(keys: list[Request]) -> int:
    queue: WorkQueue[Request] = WorkQueue()
    for key in keys:
        queue.add(key)
    return await _work(queue, keys) + len(keys)


async def added_twice(keys: list[Request]) -> int:
    """Every second add finds its key queued already."""
    queue: WorkQueue[Request] = WorkQueue()
    for key in keys:
        queue.add(key)
        queue.add(key)
    return await _work(queue, keys) + 2 * len(keys)


async def with_priorities(keys: list[Request]) -> int:
    queue: WorkQueue[Request] = WorkQueue()
    for n, key in enumerate(keys):
        queue.add(key, LEVELS[n % len(LEVELS)])
    return await _work(queue, keys) + len(keys)


async def raised(keys: list[Request]) -> int:
    """Each key moves from the initial list's priority to a change's before it is got."""
    queue: WorkQueue[Request] = WorkQueue()
    for key in keys:
        queue.add(key, LEVELS[0])
    for key in keys:
        queue.add(key, 0)
    return await _work(queue, keys) + 2 * len(keys)


async def delayed(keys: list[Request]) -> int:
    """All are due by the time they are asked for."""
    queue: WorkQueue[Request] = WorkQueue()
    for key in keys:
        queue.add_after(key, 1e-6)
    return await _work(queue, keys) + len(keys)


async def failing(keys: list[Request]) -> int:
    """Each key is got, fails, and is back after its backoff; without the bucket of ten a second, which would wait."""
    queue: WorkQueue[Request] = WorkQueue(base_delay=1e-6, qps=None)
    for key in keys:
        queue.add(key)
    for _ in keys:
        key = await _next(queue)
        queue.add_rate_limited(key)
        queue.done(key)
    for _ in keys:
        key = await _next(queue)
        queue.forget(key)
        queue.done(key)
    return 7 * len(keys)


async def _next(queue: WorkQueue[Request]) -> Request:
    key = await queue.get()
    assert key is not None
    return key


async def _work(queue: WorkQueue[Request], keys: list[Request]) -> int:
    for _ in keys:
        queue.done(await _next(queue))
    assert not len(queue)
    return 2 * len(keys)


CONTESTANTS: dict[str, Contestant] = {
    "asyncio.Queue": asyncio_queue,
    "deque and set": deque_and_set,
    "add, get, done": added,
    "add twice, get, done": added_twice,
    "add with three priorities, get, done": with_priorities,
    "add low, raise, get, done": raised,
    "add_after, get, done": delayed,
    "add_rate_limited (add, get, fail, done, get, forget, done)": failing,
}
BASELINE = next(iter(CONTESTANTS))


async def measure() -> dict[str, list[float]]:
    """Operations a second."""
    keys = [Request("default", f"w{n}") for n in range(KEYS)]
    clock = asyncio.get_running_loop().time
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(ROUNDS):
        for name, contestant in CONTESTANTS.items():
            gc.collect()
            began = clock()
            operations = await contestant(keys)
            rates[name].append(operations / (clock() - began))
    return rates


def main() -> None:
    median = {name: statistics.median(measured) for name, measured in asyncio.run(measure()).items()}
    rows = [Row(name, found, "op/s", BASELINE, found / median[BASELINE]) for name, found in median.items()]
    cycles = median["add, get, done"] / 3
    rows.append(Row("keys through the queue", cycles, "keys/s", goal=f">= {GOAL:,}", reached=cycles >= GOAL))
    show(f"{KEYS:,} keys; median of {ROUNDS} rounds", rows)


if __name__ == "__main__":
    main()
