"""The queue against a plain description of client-go's contract, and its shell on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from controllers.workqueue import Bucket, QueueCore, WorkQueue

pytestmark = pytest.mark.virtual_time

KEYS = st.sampled_from("abcd")
PRIORITIES = st.sampled_from([None, None, 0, -100, 5])
BASE, CAP = 1.0, 20.0


class QueueMachine(RuleBasedStateMachine):
    """The contract, told per key: is it held by a worker, does it need a run, when is it due, how has it failed."""

    def __init__(self) -> None:
        super().__init__()
        self.core: QueueCore[str] = QueueCore(base_delay=BASE, max_delay=CAP, qps=None)
        self.now = 0.0
        self.held: dict[str, float] = {}
        self.wanted: set[str] = set()
        self.order: list[str] = []  # of the keys that are ready, by when they came; of equal priority the first goes
        self.priority: dict[str, int] = {}  # of what is wanted or due
        self.held_at: dict[str, int] = {}
        self.due: dict[str, float] = {}
        self.came_due: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self.backoff_over: dict[str, float] = {}
        self.shut = False

    def want(self, key: str) -> None:
        if key not in self.wanted:
            self.wanted.add(key)
            if key not in self.held:
                self.order.append(key)

    def want_later(self, key: str, delay: float) -> None:
        if key not in self.wanted:
            self.due[key] = min(self.due.get(key, self.now + delay), self.now + delay)

    def let_due_keys_in(self) -> None:
        for key in sorted((k for k in self.due if self.due[k] <= self.now), key=self.due.__getitem__):
            if key not in self.held:
                self.came_due[key] = self.due[key]
            del self.due[key]
            self.want(key)

    def raise_priority(self, key: str, priority: int | None) -> None:
        given = self.held_at.get(key, 0) if priority is None else priority
        present = self.priority.get(key)
        if present is None:
            self.priority[key] = given
        elif given > present:
            self.priority[key] = given
            if key in self.order:  # it goes behind those that have had this priority before it
                self.order.remove(key)
                self.order.append(key)

    @rule(key=KEYS, priority=PRIORITIES)
    def add(self, key: str, priority: int | None) -> None:
        self.core.add(key, self.now, priority)
        if not self.shut:
            self.raise_priority(key, priority)
            self.due.pop(key, None)
            self.want(key)

    @rule(key=KEYS, delay=st.sampled_from([-1, 0, 1, 2, 3, 8]), priority=PRIORITIES)
    def add_after(self, key: str, delay: int, priority: int | None) -> None:
        self.core.add_after(key, delay, self.now, priority)
        if self.shut:
            return
        self.raise_priority(key, priority)
        if delay <= 0:
            self.due.pop(key, None)
            self.want(key)
        else:
            self.want_later(key, delay)

    @rule(key=KEYS, priority=PRIORITIES)
    def add_rate_limited(self, key: str, priority: int | None) -> None:
        self.core.add_rate_limited(key, self.now, priority)
        if self.shut:
            return
        self.raise_priority(key, priority)
        over = self.backoff_over.get(key)
        if over is not None and over > self.now:
            self.want_later(key, over - self.now)
            return
        if key in self.held and (over is None or self.failures[key] == 0 or self.held[key] >= over):
            self.failures[key] += 1
        delay = min(BASE * 2 ** max(self.failures[key] - 1, 0), CAP)
        self.backoff_over[key] = self.now + delay
        self.want_later(key, delay)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.core.forget(key)
        self.failures.pop(key, None)
        self.backoff_over.pop(key, None)

    @rule()
    def get(self) -> None:
        self.let_due_keys_in()
        key = self.core.get(self.now)
        if key is None:
            assert not self.order
            return
        assert key not in self.held, "two workers on one key"
        highest = max(self.priority[each] for each in self.order)
        first = next(each for each in self.order if self.priority[each] == highest)
        # Keys that came due in the same instant have no order among themselves.
        instants = {self.came_due.get(key, -1), self.came_due.get(first, -2)}
        assert self.priority[key] == highest
        assert key == first or len(instants) == 1
        self.came_due.pop(key, None)
        self.order.remove(key)
        self.wanted.remove(key)
        self.held[key] = self.now
        self.held_at[key] = self.priority.pop(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.core.done(key, self.now)
        del self.held[key], self.held_at[key]
        if key in self.wanted:
            self.order.append(key)

    @rule(seconds=st.sampled_from([1, 2, 5]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.wanted) > 2)
    @rule()
    def shut_down(self) -> None:
        self.core.shut_down()
        self.shut = True
        for key in self.due:
            del self.priority[key]
        self.due.clear()

    @invariant()
    def agrees(self) -> None:
        self.core._check()
        statistics = self.core.statistics(self.now)
        assert statistics.depth == len(self.core) == len(self.order)
        assert statistics.depths == Counter(self.priority[key] for key in self.order)
        assert statistics.processing == len(self.held)
        assert statistics.waiting == len(self.due)
        assert statistics.shutting_down == self.shut
        assert statistics.longest_running_seconds == max((self.now - t for t in self.held.values()), default=0)
        assert statistics.unfinished_seconds == pytest.approx(sum(self.now - t for t in self.held.values()))
        assert statistics.adds == statistics.gets + len(self.wanted)
        assert self.core.next_ready() == min(self.due.values(), default=None)
        assert self.core.drained == (self.shut and not self.order and not self.held)
        for key in "abcd":
            assert self.core.failures(key) == self.failures[key]


QueueMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


def test_backoff_doubles_to_its_cap() -> None:
    core: QueueCore[str] = QueueCore(qps=None)
    now, delays = 0.0, []
    core.add("a", now)
    for _ in range(20):
        assert core.get(now) == "a"
        core.add_rate_limited("a", now)
        core.done("a", now)
        ready = core.next_ready()
        assert ready is not None
        delays.append(ready - now)
        now = ready
    assert delays == pytest.approx([min(0.005 * 2**n, 1000) for n in range(20)])


def test_outside_triggers_do_not_raise_the_backoff() -> None:
    core: QueueCore[str] = QueueCore(base_delay=10.0, qps=None)
    core.add("a", 0)
    core.get(0)
    core.add_rate_limited("a", 0)
    core.done("a", 0)
    for now in range(1, 10):
        core.add("a", now)
        assert core.get(now) == "a"
        core.add_rate_limited("a", now)
        core.done("a", now)
        assert core.next_ready() == 10
        assert core.failures("a") == 1
    assert core.get(10) == "a"
    core.add_rate_limited("a", 10)
    assert core.failures("a") == 2
    assert core.next_ready() == 30


def test_the_overall_bucket_spreads_retries() -> None:
    core: QueueCore[int] = QueueCore(base_delay=0.001, qps=10, burst=5)
    for key in range(8):
        core.add(key, 0)
        core.get(0)
        core.add_rate_limited(key, 0)
        core.done(key, 0)
    given = []
    while (ready := core.next_ready()) is not None:
        while (due := core.get(ready)) is not None:
            core.done(due, ready)
            given.append(round(ready, 6))
    assert given == [0.001] * 5 + [0.1, 0.2, 0.3]


def test_the_bucket_fills_up_again_but_not_beyond_its_burst() -> None:
    bucket = Bucket(qps=2, burst=3)
    assert [bucket.reserve(100) for _ in range(5)] == [0, 0, 0, 0.5, 1.0]
    assert [bucket.reserve(1000) for _ in range(4)] == [0, 0, 0, 0.5]


def test_stale_delays_do_not_pile_up() -> None:
    core: QueueCore[int] = QueueCore()
    for n in range(10_000):
        core.add_after(1, 1000.0 - n / 100, 0)
    assert len(core._heap) < 200
    core._check()


async def test_get_waits_for_an_add_and_for_a_delay() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[str] = WorkQueue()
    loop.call_later(3, queue.add, "a")
    assert (await queue.get(), loop.time()) == ("a", 3)
    queue.add_after("b", 5)
    queue.add_after("c", 4)
    assert (await queue.get(), loop.time()) == ("c", 7)
    assert (await queue.get(), loop.time()) == ("b", 8)
    queue._check()


async def test_a_delay_shortened_while_a_worker_waits() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 100)
    loop.call_later(1, queue.add_after, "a", 2)
    assert (await queue.get(), loop.time()) == ("a", 3)


async def test_every_waiting_worker_gets_its_key() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[int] = WorkQueue()
    got: list[tuple[int | None, float]] = []

    async def worker() -> None:
        got.append((await queue.get(), loop.time()))

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(worker())
        await asyncio.sleep(0)
        queue.add_after(1, 1)
        queue.add_after(2, 1)
        queue.add_after(3, 9)
        queue.add_after(4, 5)
    assert sorted(got) == [(1, 1), (2, 1), (3, 9), (4, 5)]


@pytest.mark.parametrize("wake", ["add", "delay"])
async def test_a_cancelled_getter_hands_its_wake_up_on(wake: str) -> None:
    queue: WorkQueue[str] = WorkQueue()
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    if wake == "add":
        queue.add("a")
    else:
        queue.add_after("a", 1)
        asyncio.get_running_loop().call_later(1, first.cancel)
        await asyncio.sleep(1)
    first.cancel()
    assert await second == "a"
    with pytest.raises(asyncio.CancelledError):
        await first
    queue._check()


async def test_cancelling_a_getter_takes_no_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    getter = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    getter.cancel()
    queue.add("a")
    with pytest.raises(asyncio.CancelledError):
        await getter
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue._check()


async def test_shut_down_gives_what_is_queued_then_none() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add_after("late", 1)
    held = await queue.get()
    queue.add("a")
    queue.add("b")
    queue.shut_down()
    queue.add("c")
    assert await queue.get() == "b"
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert held is not None
    queue.done(held)
    assert await queue.get() == "a"
    assert await waiting is None
    assert await queue.get() is None
    queue._check()


async def test_drain_waits_for_what_is_processed_and_a_shut_down_ends_the_wait() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "a"
    drain = asyncio.create_task(queue.shut_down_with_drain())
    assert await queue.get() == "b"
    queue.done("b")
    await asyncio.sleep(1)
    assert not drain.done()
    queue.done("a")
    await drain

    other: WorkQueue[str] = WorkQueue()
    other.add("a")
    await other.get()
    drain = asyncio.create_task(other.shut_down_with_drain())
    await asyncio.sleep(1)
    assert not drain.done()
    other.shut_down()
    await drain


async def test_many_workers_never_hold_one_key_together() -> None:
    rng = random.Random(7)
    queue: WorkQueue[int] = WorkQueue(base_delay=0.01, qps=None)
    held: set[int] = set()
    runs: Counter[int] = Counter()

    async def worker() -> None:
        while (key := await queue.get()) is not None:
            assert key not in held
            held.add(key)
            await asyncio.sleep(rng.random() / 10)
            runs[key] += 1
            if rng.random() < 0.3:
                queue.add_rate_limited(key)
            else:
                queue.forget(key)
            held.remove(key)
            queue.done(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(worker())
        for _ in range(500):
            queue.add(rng.randrange(12))
            await asyncio.sleep(rng.random() / 50)
        while queue.statistics().waiting:
            await asyncio.sleep(1)
        await queue.shut_down_with_drain()
    statistics = queue.statistics()
    assert statistics.gets == sum(runs.values()) == statistics.adds
    assert statistics.worked.sum > 0
    assert not held
    queue._check()


async def test_statistics_measure_waiting_and_work() -> None:
    loop = asyncio.get_running_loop()
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    await asyncio.sleep(2)
    await queue.get()
    await asyncio.sleep(3)
    statistics = queue.statistics()
    assert (statistics.queued.sum, statistics.longest_running_seconds) == (2, 3)
    queue.done("a")
    statistics = queue.statistics()
    assert (statistics.worked.sum, statistics.unfinished_seconds) == (3, 0)
    assert loop.time() == 5
