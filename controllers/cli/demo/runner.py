"""Runs the steps one after the other and reports on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from controllers.cli.errors import CliError
from informer.errors import ApiError
from kvstore.errors import KvError

TOTAL = 29.0  # seconds for all steps


class HasRevision(Protocol):
    """What steps work with."""

    @property
    def revision(self) -> int:
        """The store's."""


W = TypeVar("W", bound=HasRevision)

Tell = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step(Generic[W]):
    """`run` does it, tells details, and raises StepFailed if it did not work."""

    title: str
    run: Callable[[W, Tell], Awaitable[None]]


class StepFailed(CliError):
    """A step did not get where it should; the text says what was expected."""


class Outcome(msgspec.Struct, frozen=True):
    """How a step ended, after how many seconds and at which revision; `problem` is empty if it did what it should."""

    title: str
    seconds: float
    revision: int
    problem: str = ""


class Report(Protocol):
    """Whoever shows the demo."""

    def begin(self, number: int, title: str, revision: int) -> None:
        """A step begins."""

    def detail(self, text: str, revision: int) -> None:
        """Something is worth telling."""

    def end(self, outcome: Outcome) -> None:
        """The step is over."""


async def run_steps(
    steps: Sequence[Step[W]], world: W, report: Report, *, pause: float = 0.0, total: float | None = None
) -> list[Outcome]:
    """Run them until one fails; what became of each that ran. `pause`: seconds after each detail, for eyes.

    All of them together have `total` seconds, `TOTAL` unless given.
    """
    loop = asyncio.get_running_loop()
    total = TOTAL if total is None else total
    deadline = loop.time() + total
    outcomes: list[Outcome] = []

    async def tell(text: str) -> None:
        report.detail(text, world.revision)
        await asyncio.sleep(pause)

    for number, step in enumerate(steps, 1):
        began = loop.time()
        report.begin(number, step.title, world.revision)
        problem = ""
        try:
            async with asyncio.timeout_at(deadline):
                await step.run(world, tell)
        except StepFailed as error:
            problem = str(error)
        except TimeoutError:
            problem = f"the demo's {total:g} s were over"
        except (ApiError, KvError) as error:
            problem = f"{type(error).__name__}: {error}"
        outcomes.append(Outcome(step.title, loop.time() - began, world.revision, problem))
        report.end(outcomes[-1])
        if problem:
            break
    return outcomes


def verdict(steps: int, outcomes: Sequence[Outcome], seconds: float) -> str:
    """The last line."""
    last = outcomes[-1]
    if last.problem:
        return f"FAILED at step {len(outcomes)} of {steps}, {last.title}: {last.problem}"
    return f"all {steps} steps reached what they should, in {seconds:.1f} s"
