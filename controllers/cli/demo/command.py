"""`listwatch demo`."""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from controllers.cli.demo.lines import Lines
from controllers.cli.demo.runner import Outcome, Step, run_steps, verdict
from controllers.cli.demo.steps import STEPS
from controllers.cli.demo.world import World, open_world
from controllers.cli.logs import configure_logs
from controllers.cli.options import KubectlCommand, global_options

PAUSE = 0.45  # seconds after each detail, on a terminal
DAY_SECONDS = 120.0
LONGEST_DAY = 86_400.0


def _a_number(_: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:
    if seconds is not None and math.isnan(seconds):
        raise click.BadParameter("nan is no number of seconds", param=parameter)
    return seconds


@click.command(cls=KubectlCommand)
@click.option("--full", is_flag=True, help="Run a small shop through a day, in two minutes.")
@click.option(
    "--day-seconds",
    type=click.FloatRange(min=0, max=LONGEST_DAY),
    callback=_a_number,
    help="How long the day takes at least; 0 is as fast as it can be.  [default: 120]",
)
@global_options
def demo(full: bool, day_seconds: float | None) -> int:
    """Show a rollout, an undo and three faults, and check each step.

    Everything happens in this process and in a temporary directory; it ends by itself within 30 seconds, with exit
    code 1 if a step did not get where it should.

    With --full it is a shop of eight parts: customers come and go and autoscalers follow, a release goes wrong and is
    undone, a node dies, another is drained, jobs run at night. What is applied is examples/manifests/shop.
    """
    # Controllers that are cut off complain about it; here that is the plan.
    configure_logs("critical")
    if full:
        from controllers.cli.demo.day.command import run_day

        return run_day(DAY_SECONDS if day_seconds is None else day_seconds, terminal=sys.stdout.isatty())
    if day_seconds is not None:
        raise click.UsageError("--day-seconds goes with --full")
    return asyncio.run(run_demo(STEPS, terminal=sys.stdout.isatty()))


async def run_demo(steps: Sequence[Step[World]], *, terminal: bool) -> int:
    """Run the steps in a world of their own and show them; the exit code."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with tempfile.TemporaryDirectory(prefix="listwatch-demo-") as directory:
        async with open_world(Path(directory), visible=terminal) as world:
            outcomes = await _run(steps, world, terminal)
            summary = _summary(steps, outcomes, world, loop.time() - began)
    for line in summary:
        click.echo(line)
    return 1 if outcomes[-1].problem else 0


async def _run(steps: Sequence[Step[World]], world: World, terminal: bool) -> list[Outcome]:
    if not terminal:
        return await run_steps(steps, world, Lines(len(steps)))
    # A fifth of a second that only a terminal pays for.
    from rich.console import Console

    from controllers.cli.demo.live import Picture, shown_live

    picture = Picture(world, [step.title for step in steps])
    async with shown_live(picture, Console()):
        return await run_steps(steps, world, picture, pause=PAUSE)


def _summary(steps: Sequence[Step[World]], outcomes: Sequence[Outcome], world: World, seconds: float) -> list[str]:
    reflectors = [informer.reflector for informer in world.watchers().values()]
    counts = (
        f"{sum(each.events for each in reflectors)} events reached {len(reflectors)} informers, "
        f"{sum(each.resumes for each in reflectors)} times one resumed, "
        f"{sum(each.relists for each in reflectors)} times one listed again"
    )
    return ["", f"the store is at revision {world.revision}; {counts}", verdict(len(steps), outcomes, seconds)]
