"""Many lives of informers, some at a time."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import structlog

from tests.faults.leftovers import nothing_left
from tests.faults.network import ROUNDS, Guard, live


class SeedError(AssertionError):
    """A life went wrong; the text says how to see it again."""


async def lives(
    directory: Path, seeds: Iterable[int], *, rounds: int = ROUNDS, guard: Guard | None = None
) -> Counter[str]:
    """Live the lives of these seeds, all at once, each with a store of its own below `directory`.

    What was done to them and what they did, added up. Raises `SeedError` for the first that goes wrong.
    """
    total: Counter[str] = Counter()

    async def one(seed: int) -> None:
        try:
            total.update(await live(directory / str(seed), seed, rounds=rounds, guard=guard))
        except Exception as error:
            again = f"python -m tests.faults --first {seed} --seeds 1 --rounds {rounds}"
            if guard is not None:
                again += " --guarded"
            raise SeedError(f"seed {seed}: {error!r}; again: {again}") from error

    async with asyncio.TaskGroup() as group:
        for seed in seeds:
            group.create_task(one(seed))
    return total


def soak(first: int, count: int, rounds: int, *, guarded: bool = False) -> Counter[str]:
    """`lives` in a loop and a directory of their own, of which nothing may be left."""

    async def run() -> Counter[str]:
        with tempfile.TemporaryDirectory(prefix="faults-") as directory:
            guard = Guard(Path(directory)) if guarded else None
            async with nothing_left():
                return await lives(Path(directory), range(first, first + count), rounds=rounds, guard=guard)

    try:
        return asyncio.run(run())
    except BaseExceptionGroup as group:
        # Across the border of a process goes the text of what went wrong first.
        first_error: BaseException = group
        while isinstance(first_error, BaseExceptionGroup):
            first_error = first_error.exceptions[0]
        raise SeedError(str(first_error)) from None


def quiet() -> None:
    """The informers' log of every fault is not what anybody wants to read in a long run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
