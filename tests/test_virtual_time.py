"""The loop that the other tests trust."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from controllers.simulation import virtual_time
from tests.virtual_time import VirtualTimeLoop

T = TypeVar("T")


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def test_a_day_passes_at_once_and_timers_keep_their_order() -> None:
    async def main() -> list[tuple[str, float]]:
        loop, seen = asyncio.get_running_loop(), list[tuple[str, float]]()

        def note(name: str) -> None:
            seen.append((name, loop.time()))

        loop.call_later(86_400, note, "day")
        loop.call_later(1, note, "second")
        loop.call_later(3_600, note, "hour")
        await asyncio.sleep(100_000)
        return seen

    began = time.monotonic()
    assert run_virtual(main()) == [("second", 1), ("hour", 3_600), ("day", 86_400)]
    assert time.monotonic() - began < 10


def test_the_clock_stands_still_while_a_thread_works() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        release = threading.Event()
        threading.Timer(0.05, release.set).start()
        async with asyncio.timeout(0.001):
            assert await loop.run_in_executor(None, release.wait, 10)
        assert loop.time() == 0

    run_virtual(main())


def test_a_result_is_delivered_before_the_clock_moves_on() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for n in range(200):
            async with asyncio.timeout(1):
                assert await asyncio.to_thread(int, n) == n
        assert loop.time() == 0

    run_virtual(main())


def test_waiting_for_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_time, "STUCK_AFTER", 0.01)

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="stuck"):
        run_virtual(main())


def test_no_timer_runs_before_its_time() -> None:
    async def main() -> list[float]:
        loop, ran = asyncio.get_running_loop(), list[float]()
        loop.call_at(1.0, lambda: None)
        loop.call_at(1.0 + 1e-12, lambda: ran.append(loop.time()))
        await asyncio.sleep(2)
        return ran

    assert run_virtual(main()) == [1.0 + 1e-12]
