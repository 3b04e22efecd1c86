from __future__ import annotations

import asyncio
import random

import pytest

from informer import Conflict, NotFound, retry_on_conflict


class Busy:
    """Has other writers that are faster, so many times."""

    def __init__(self, conflicts: int) -> None:
        self.conflicts = conflicts
        self.times: list[float] = []

    async def write(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if len(self.times) <= self.conflicts:
            raise Conflict(f"attempt {len(self.times)}")
        return "written"


async def test_a_conflict_is_tried_again() -> None:
    busy = Busy(4)
    assert await retry_on_conflict(busy.write, rng=random.Random(1)) == "written"
    gaps = [after - before for before, after in zip(busy.times, busy.times[1:], strict=False)]
    assert len(gaps) == 4
    assert min(gaps) >= 0.009  # the clock's own resolution


async def test_the_last_conflict_is_raised() -> None:
    busy = Busy(9)
    with pytest.raises(Conflict, match="attempt 5"):
        await retry_on_conflict(busy.write)
    assert len(busy.times) == 5


async def test_other_errors_are_not_tried_again() -> None:
    calls = 0

    async def gone() -> None:
        nonlocal calls
        calls += 1
        raise NotFound("gone")

    with pytest.raises(NotFound):
        await retry_on_conflict(gone)
    assert calls == 1


async def test_the_delay_grows_by_the_factor() -> None:
    busy = Busy(2)
    await retry_on_conflict(busy.write, steps=3, delay=0.01, factor=5.0, jitter=0.0)
    first, second = busy.times[1] - busy.times[0], busy.times[2] - busy.times[1]
    assert first >= 0.009
    assert second >= 0.049


async def test_at_least_one_attempt() -> None:
    with pytest.raises(ValueError, match="steps"):
        await retry_on_conflict(Busy(0).write, steps=0)
