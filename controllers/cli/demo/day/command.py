"""`listwatch demo --full`: the loop that the day runs on, and who shows it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from controllers.cli.demo.day.hours import HOURS
from controllers.cli.demo.day.shop import Shop, open_shop
from controllers.cli.demo.lines import Lines
from controllers.cli.demo.runner import Outcome, Step, run_steps, verdict
from controllers.simulation.virtual_time import TimeLapseLoop, VirtualTimeLoop

DAY = 86_400.0  # seconds
FRAME = 0.1  # real seconds between pictures


def run_day(seconds: float, *, terminal: bool, hours: Sequence[Step[Shop]] = HOURS) -> int:
    """Run the hours and show them; the exit code. seconds: real ones for the day, 0 for as few as it takes."""
    began = time.monotonic()
    speed = DAY / seconds if seconds else 0.0
    with (
        tempfile.TemporaryDirectory(prefix="listwatch-demo-") as directory,
        asyncio.Runner(loop_factory=lambda: TimeLapseLoop(speed) if speed else VirtualTimeLoop()) as runner,
    ):
        outcomes, revision = runner.run(_run(Path(directory), hours, FRAME * speed if terminal else 0.0))
    click.echo(f"\nthe store is at revision {revision}")
    click.echo(verdict(len(hours), outcomes, time.monotonic() - began))
    return 1 if outcomes[-1].problem else 0


async def _run(directory: Path, hours: Sequence[Step[Shop]], frame: float) -> tuple[list[Outcome], int]:
    """frame: seconds of the day between pictures; 0 for lines instead."""
    async with open_shop(directory) as shop:
        if not frame:
            return await run_steps(hours, shop, Lines(len(hours), timed=False), total=2 * DAY), shop.revision
        # A fifth of a second that only a terminal pays for.
        from rich.console import Console

        from controllers.cli.demo.day.picture import DayPicture
        from controllers.cli.demo.live import shown_live

        picture = DayPicture(shop, [step.title for step in hours])
        async with shown_live(picture, Console(), frame):
            return await run_steps(hours, shop, picture, total=2 * DAY), shop.revision
