"""The work queue: a core without I/O that takes the time as an argument, and its asyncio shell.

The contract is client-go's `util/workqueue`: a key waits at most once, a key that is being processed is never given to
a second worker but put back when the first is done, delays and per-key backoff. Priorities are controller-runtime's: a
higher one goes first, of equal ones the earlier; a key has the highest that it was added with since it was last given
out, and keeps it when its worker adds it again. Two rules differ on purpose:

* an immediate `add` cancels the key's delayed one (client-go would run the key twice);
* an outside trigger does not raise a key's backoff: a failure counts only if the run began after the backoff was over.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import msgspec

from kvstore.histogram import Durations, Histogram

K = TypeVar("K", bound=Hashable)

BASE_DELAY = 0.005  # client-go's default controller limiter: 5 ms x 2^failures ...
MAX_DELAY = 1000.0  # ... capped at 1000 s
QPS = 10.0  # and over all keys 10 retries a second ...
BURST = 100  # ... after the first 100
# controller-runtime's priority of the initial list and of resyncs: after a restart, what changes must not wait behind
# everything that is there.
LOW_PRIORITY = -100
BOUNDS = tuple(1e-8 * 10**power for power in range(12))  # seconds: controller-runtime's buckets for queues


class QueueStatistics(msgspec.Struct, frozen=True):
    """What a queue is doing. Times are in seconds; `adds`, `gets`, `retries` and the two histograms only ever grow.

    depths: ready keys by priority. queued, worked: how long keys waited for a worker, and were held by one.
    oldest_seconds: how long the key that has waited longest for a worker has done so.
    """

    depth: int
    depths: Mapping[int, int]
    waiting: int
    processing: int
    adds: int
    gets: int
    retries: int
    queued: Durations
    worked: Durations
    oldest_seconds: float
    unfinished_seconds: float
    longest_running_seconds: float
    shutting_down: bool


class Bucket:
    """A token bucket that lends: `reserve` takes a token now and says how long to wait for it to be earned."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps = qps
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0

    def reserve(self, now: float) -> float:
        """Take a token; the delay in seconds until it is one's own, 0 while the burst lasts."""
        self._tokens = min(self._burst, self._tokens + (now - self._last) * self._qps)
        self._last = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._qps)


class QueueCore(Generic[K]):
    """The queue's rules: no clock, no tasks. `now` is any monotonic time in seconds.

    Memory is bounded by the number of distinct keys. `add`, `get`, `done`, `forget` are O(1), delays O(log waiting).
    """

    def __init__(
        self,
        *,
        base_delay: float = BASE_DELAY,
        max_delay: float = MAX_DELAY,
        qps: float | None = QPS,
        burst: int = BURST,
    ) -> None:
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._bucket = None if qps is None else Bucket(qps, burst)
        # Keys that need a run, and since when.
        self._dirty: dict[K, float] = {}
        # Keys that a worker holds, and since when.
        self._processing: dict[K, float] = {}
        # The dirty keys that no worker holds, by priority, in the order in which they are given out. Only levels that
        # have keys, and `_levels` has them in ascending order.
        self._ready: dict[int, OrderedDict[K, None]] = {}
        self._levels: list[int] = []
        # Priorities other than 0: of dirty and waiting keys, and what the keys that are being processed came with.
        self._priority: dict[K, int] = {}
        self._processed_at: dict[K, int] = {}
        # Keys to be added later, and when. Never a dirty one: it runs sooner anyway.
        self._waiting: dict[K, float] = {}
        # Every waiting key has the entry (its time, n, key); any other entry is stale and skipped.
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = 0
        # Keys that failed: how often in a row, and when their backoff is over.
        self._failures: dict[K, tuple[int, float]] = {}
        self._shut = False
        self._adds = self._gets = self._retries = 0
        self._queued, self._worked = Histogram(BOUNDS), Histogram(BOUNDS)

    def add(self, key: K, now: float, priority: int | None = None) -> None:
        """The key needs a run: now, or when the run it is in ends. Dropped after `shut_down`.

        priority: None is what the key's worker was given it with, 0 for a key that no worker has.
        """
        if self._shut:
            return
        if priority or self._priority or self._processed_at:
            self._raise(key, priority)
        if self._waiting:
            self._waiting.pop(key, None)
        if key not in self._dirty:
            self._mark(key, now)

    def add_after(self, key: K, delay: float, now: float, priority: int | None = None) -> None:
        """Add in `delay` seconds, unless the key is to run sooner. Of several delays the earliest wins."""
        if self._shut:
            return
        self._retries += 1
        if delay <= 0:
            self.add(key, now, priority)
            return
        self._raise(key, priority)
        ready = now + delay
        if key in self._dirty or self._waiting.get(key, ready + 1) <= ready:
            return
        self._waiting[key] = ready
        self._sequence += 1
        heapq.heappush(self._heap, (ready, self._sequence, key))
        if len(self._heap) > 2 * len(self._waiting) + 64:
            self._heap = [entry for entry in self._heap if self._waiting.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def add_rate_limited(self, key: K, now: float, priority: int | None = None) -> None:
        """Add after the key's backoff, or later if the overall bucket says so.

        The exponent rises only for the failure of a run that began after the last backoff was over; an earlier run was
        an outside trigger's, and the backoff goes on as it was.
        """
        if self._shut:
            return
        failures, over = self._failures.get(key, (0, now))
        started = self._processing.get(key)
        if over > now:
            self.add_after(key, over - now, now, priority)
            return
        if started is not None and (failures == 0 or started >= over):
            failures += 1
        delay = min(self._base_delay * 2.0 ** min(max(failures - 1, 0), 64), self._max_delay)
        if self._bucket is not None:
            delay = max(delay, self._bucket.reserve(now))
        self._failures[key] = (failures, now + delay)
        self.add_after(key, delay, now, priority)

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest backoff."""
        if self._failures:
            self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How many failures in a row count towards the key's backoff (client-go: `NumRequeues`)."""
        return self._failures.get(key, (0, 0.0))[0]

    def get(self, now: float) -> K | None:
        """The next key to process, or None if none is ready. The caller owes a `done`."""
        if self._heap:
            self._promote(now)
        if not self._levels:
            return None
        level = self._levels[-1]
        ready = self._ready[level]
        key, _ = ready.popitem(last=False)
        if not ready:
            self._levels.pop()
            del self._ready[level]
        if level:
            del self._priority[key]
            self._processed_at[key] = level
        self._queued.observe(now - self._dirty.pop(key))
        self._processing[key] = now
        self._gets += 1
        return key

    def done(self, key: K, now: float) -> None:
        """The worker has finished the key; if it was added meanwhile it is ready again."""
        self._worked.observe(now - self._processing.pop(key))
        if self._processed_at:
            self._processed_at.pop(key, None)
        if key in self._dirty:
            self._put(key)

    def next_ready(self) -> float | None:
        """When the next delayed key becomes ready; None without delayed keys."""
        while self._heap and self._waiting.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def shut_down(self) -> None:
        """Drop delayed keys and later adds; what is queued can still be got."""
        self._shut = True
        for key in self._waiting:
            self._priority.pop(key, None)
        self._waiting.clear()
        self._heap.clear()

    @property
    def shutting_down(self) -> bool:
        """Whether `shut_down` was called."""
        return self._shut

    @property
    def ready(self) -> bool:
        """Whether a key can be got now. O(1)."""
        return bool(self._levels)

    @property
    def drained(self) -> bool:
        """Shut down, nothing queued, nothing being processed."""
        return self._shut and not self._levels and not self._processing

    def __len__(self) -> int:
        return sum(map(len, self._ready.values()))

    def statistics(self, now: float) -> QueueStatistics:
        """The queue at this moment."""
        ages = [now - started for started in self._processing.values()]
        since = self._dirty.__getitem__
        return QueueStatistics(
            depth=len(self),
            depths={level: len(self._ready[level]) for level in reversed(self._levels)},
            waiting=len(self._waiting),
            processing=len(self._processing),
            adds=self._adds,
            gets=self._gets,
            retries=self._retries,
            queued=self._queued.read(),
            worked=self._worked.read(),
            # Without a loop of Python's: a scrape of a queue of 100,000 keys must not hold up the event loop.
            oldest_seconds=now - min((min(map(since, ready)) for ready in self._ready.values()), default=now),
            unfinished_seconds=sum(ages),
            longest_running_seconds=max(ages, default=0.0),
            shutting_down=self._shut,
        )

    def _mark(self, key: K, since: float) -> None:
        self._adds += 1
        self._dirty[key] = since
        if key not in self._processing:
            self._put(key)

    def _put(self, key: K) -> None:
        level = self._priority.get(key, 0) if self._priority else 0
        ready = self._ready.get(level)
        if ready is None:
            ready = self._ready[level] = OrderedDict()
            insort(self._levels, level)
        ready[key] = None

    def _raise(self, key: K, priority: int | None) -> None:
        """Note the priority of an add; a key that is ready moves up to it."""
        if priority is None:
            priority = self._processed_at.get(key, 0)
        dirty = key in self._dirty
        if dirty or key in self._waiting:
            present = self._priority.get(key, 0)
            if priority <= present:
                return
            if dirty and key not in self._processing:
                ready = self._ready[present]
                del ready[key]
                if not ready:
                    del self._ready[present]
                    self._levels.remove(present)
                self._set_priority(key, priority)
                self._put(key)
                return
        self._set_priority(key, priority)

    def _set_priority(self, key: K, priority: int) -> None:
        if priority:
            self._priority[key] = priority
        else:
            self._priority.pop(key, None)

    def _promote(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            ready, _, key = heapq.heappop(self._heap)
            if self._waiting.get(key) == ready:
                del self._waiting[key]
                self._mark(key, ready)

    def _check(self) -> None:
        queued = [key for ready in self._ready.values() for key in ready]
        assert len(set(queued)) == len(queued), "a key is queued twice"
        assert set(queued) == self._dirty.keys() - self._processing.keys(), "queued = dirty and not processing"
        assert self._levels == sorted(self._ready), "the levels are those that have keys, in order"
        assert all(self._ready.values()), "no level is empty"
        for level, ready in self._ready.items():
            assert all(self._priority.get(key, 0) == level for key in ready), "a key is where its priority says"
        assert self._priority.keys() <= self._dirty.keys() | self._waiting.keys(), "only what is to run has a priority"
        assert self._processed_at.keys() <= self._processing.keys(), "no priority of runs that ended is kept"
        assert not self._waiting.keys() & self._dirty.keys(), "a key that waits is not dirty"
        live = {(self._waiting.get(key), key) for ready, _, key in self._heap if self._waiting.get(key) == ready}
        assert live == {(ready, key) for key, ready in self._waiting.items()}, "every waiting key is in the heap"
        assert all(self._heap[(i - 1) // 2] <= self._heap[i] for i in range(1, len(self._heap))), "the heap is ordered"
        assert not (self._shut and self._waiting), "nothing waits after shut_down"


class WorkQueue(Generic[K]):
    """`QueueCore` on the running loop's clock, with an awaitable `get`. Belongs to one event loop; not thread-safe."""

    def __init__(
        self,
        *,
        base_delay: float = BASE_DELAY,
        max_delay: float = MAX_DELAY,
        qps: float | None = QPS,
        burst: int = BURST,
    ) -> None:
        self._core: QueueCore[K] = QueueCore(base_delay=base_delay, max_delay=max_delay, qps=qps, burst=burst)
        self._getters: deque[asyncio.Future[None]] = deque()
        self._drainers: list[asyncio.Future[None]] = []
        # The running loop's clock, once there was a call: to ask which loop runs costs more than the rest of an `add`.
        self._time: Callable[[], float] = self._first_time
        # Armed only while a getter waits; never later than the core's next ready time.
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: K, priority: int | None = None) -> None:
        """The key needs a run, now or when the run it is in ends. priority: see `QueueCore.add`."""
        self._core.add(key, self._time(), priority)
        if self._getters:
            self._wake_if_ready()

    def add_after(self, key: K, delay: float, priority: int | None = None) -> None:
        """Add in `delay` seconds, unless the key is to run sooner."""
        self._core.add_after(key, delay, self._time(), priority)
        if self._getters:
            self._wake_if_ready()
            self._arm()

    def add_rate_limited(self, key: K, priority: int | None = None) -> None:
        """Add after the key's backoff; see `QueueCore.add_rate_limited`. Call before `done`."""
        self._core.add_rate_limited(key, self._time(), priority)
        if self._getters:
            self._wake_if_ready()
            self._arm()

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest backoff."""
        self._core.forget(key)

    def failures(self, key: K) -> int:
        """How many failures in a row count towards the key's backoff."""
        return self._core.failures(key)

    async def get(self) -> K | None:
        """The next key, waiting for one; None once the queue is shut down and empty. The caller owes a `done`.

        Returns without yielding to the loop if a key is ready. Cancelling it takes no key.
        """
        core = self._core
        while True:
            key = core.get(self._time())
            if key is not None:
                if self._getters:
                    self._wake_if_ready()
                    self._arm()
                return key
            if core.shutting_down:
                return None
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            self._arm()
            try:
                await getter
            except asyncio.CancelledError:
                if not getter.cancelled():
                    self._wake()  # the wake-up was this one's: another getter must have it
                elif getter in self._getters:
                    self._getters.remove(getter)
                raise
            finally:
                if not self._getters:
                    self._disarm()

    def done(self, key: K) -> None:
        """The worker has finished the key; if it was added meanwhile it is ready again."""
        core = self._core
        core.done(key, self._time())
        if self._getters:
            self._wake_if_ready()
        if self._drainers and core.drained:
            self._end_drain()

    def shut_down(self) -> None:
        """Take no more keys: getters get what is queued, then None. Ends a `shut_down_with_drain` that waits."""
        self._core.shut_down()
        self._disarm()
        while self._getters:
            self._wake()
        self._end_drain()

    async def shut_down_with_drain(self) -> None:
        """`shut_down`, then wait until nothing is queued or processed. Needs workers; a later `shut_down` ends it."""
        self.shut_down()
        if not self._core.drained:
            drainer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drainers.append(drainer)
            await drainer

    @property
    def shutting_down(self) -> bool:
        """Whether a shutdown was asked for."""
        return self._core.shutting_down

    def __len__(self) -> int:
        return len(self._core)

    def statistics(self) -> QueueStatistics:
        """The queue at this moment."""
        return self._core.statistics(self._time())

    def _first_time(self) -> float:
        self._time = asyncio.get_running_loop().time
        return self._time()

    def _wake_if_ready(self) -> None:
        if self._core.ready:
            self._wake()

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _arm(self) -> None:
        ready = self._core.next_ready()
        if ready is None or (self._timer is not None and self._timer.when() <= ready):
            return
        self._disarm()
        self._timer = asyncio.get_running_loop().call_at(ready, self._ring)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._wake()

    def _end_drain(self) -> None:
        for drainer in self._drainers:
            if not drainer.done():
                drainer.set_result(None)
        self._drainers.clear()

    def _check(self) -> None:
        self._core._check()
        assert self._timer is None or self._getters, "the timer serves a getter"
