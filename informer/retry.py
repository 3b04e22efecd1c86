"""`retry_on_conflict`: read, change and write again, as long as other writers are faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from informer.errors import Conflict

T = TypeVar("T")

# client-go's retry.DefaultRetry.
STEPS = 5
DELAY = 0.010  # seconds
FACTOR = 1.0
JITTER = 0.1


async def retry_on_conflict(
    call: Callable[[], Awaitable[T]],
    *,
    steps: int = STEPS,
    delay: float = DELAY,
    factor: float = FACTOR,
    jitter: float = JITTER,
    rng: random.Random | None = None,
) -> T:
    """Await `call()` until it raises no `Conflict`, at most `steps` times; client-go's function of that name.

    `call` has to read the object anew each time: the version it had is what the conflict is about.

    delay: seconds after the first attempt, times `factor` after each further one, and up to `jitter` of itself longer.
    Raises the last `Conflict`, and at once whatever else `call` raises. Cancelling it cancels the attempt.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    rng = rng or random.Random()
    for left in reversed(range(steps)):
        try:
            return await call()
        except Conflict:
            if not left:
                raise
        await asyncio.sleep(delay * (1 + jitter * rng.random()))
        delay *= factor
    raise AssertionError("the last attempt returns or raises")
