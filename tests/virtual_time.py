"""An event loop whose clock jumps to the next timer when nothing else is left to do: hours of backoff in microseconds.

Mark a test module or test with `pytest.mark.virtual_time` (the hook is in `tests/conftest.py`), or use
`asyncio.Runner(loop_factory=VirtualTimeLoop)`. Work given to `run_in_executor` is real: the clock stands still until it
is done. Sockets are real too, so two ends talking over one see time jump between them: keep the store in-process.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STUCK_AFTER = 10.0  # real seconds with nothing ready, no timer and no thread at work


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self.loop.jobs:
            return super().select(None)  # the job's end wakes the loop
        if timeout is None:
            ready = super().select(STUCK_AFTER)
            if not ready:
                raise RuntimeError("stuck: nothing is ready, no timer is set, no thread is at work")
            return ready
        self.loop.advance(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` starts at 0 and moves only when every task waits for a timer."""

    def __init__(self) -> None:
        self._now = 0.0
        self.jobs = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="virtual-time")
        self.set_default_executor(self._pool)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        job = (executor or self._pool).submit(func, *args)
        self.jobs += 1
        future = asyncio.wrap_future(job, loop=self)
        # Added after wrap_future's own callback: the result is delivered before the clock may move again.
        job.add_done_callback(lambda _: self.is_closed() or self.call_soon_threadsafe(self._job_done))
        return future

    def _job_done(self) -> None:
        self.jobs -= 1
