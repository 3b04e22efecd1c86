"""An event loop whose clock jumps to the next timer when nothing else is left to do: hours of backoff in microseconds.

Use `asyncio.Runner(loop_factory=VirtualTimeLoop)`. Work given to `run_in_executor` is real: the clock stands still
until it is done. Sockets are real too, so two ends talking over one see time jump between them: keep the store
in-process.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
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
        pause = self.loop.pause_before(timeout)
        ready = super().select(pause) if pause > 0 else []
        if not ready:
            self.loop.advance(timeout)
        return ready


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

    @property
    def _clock_resolution(self) -> float:
        # asyncio runs timers that are due in less than this. With more, who then looks at the clock and waits again
        # would do so for ever; with none, a timer that is due now would not run.
        return math.ulp(self._now)

    @_clock_resolution.setter
    def _clock_resolution(self, value: float) -> None:
        """What asyncio makes of the real clock does not count."""

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._now

    def pause_before(self, seconds: float) -> float:
        """Real seconds to wait before the clock moves on by so many."""
        return 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock on, at least by the least that a float can show: rounding must not stop it for ever."""
        self._now = max(self._now + seconds, math.nextafter(self._now, math.inf))

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As asyncio's; the clock stands still until it is done."""
        job = (executor or self._pool).submit(func, *args)
        self.jobs += 1
        future = asyncio.wrap_future(job, loop=self)
        # Added after wrap_future's own callback: the result is delivered before the clock may move again.
        job.add_done_callback(lambda _: self.is_closed() or self.call_soon_threadsafe(self._job_done))
        return future

    def _job_done(self) -> None:
        self.jobs -= 1


class TimeLapseLoop(VirtualTimeLoop):
    """As `VirtualTimeLoop`, but no faster than `speed` times real time, so that people can look on.

    Work takes none of its time, so nothing that goes by the clock comes too late on a slow machine: the film is longer.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._began = time.monotonic()
        super().__init__()

    def pause_before(self, seconds: float) -> float:
        """What is left until the film may be there."""
        return self._began + (self.time() + seconds) / self.speed - time.monotonic()


class OneThreadLoop(VirtualTimeLoop):
    """As `VirtualTimeLoop`, but what others do in threads happens at once: the same steps in the same order always."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Call it now; the future has the result when its caller looks."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 (raised again where it is awaited)
            future.set_exception(error)
        return future
