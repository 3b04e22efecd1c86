"""The demo as plain lines, for pipes."""

from __future__ import annotations

import click

from controllers.cli.demo.runner import Outcome


class Lines:
    """One line for each thing that happens, with the revision of the store. timed: steps tell how long they took."""

    def __init__(self, total: int, *, timed: bool = True) -> None:
        self._total = total
        self._timed = timed

    def begin(self, number: int, title: str, revision: int) -> None:
        """A heading."""
        click.echo(f"[{number}/{self._total}] {title} (revision {revision})")

    def detail(self, text: str, revision: int) -> None:
        """A line of its own."""
        click.echo(f"      {text} (revision {revision})")

    def end(self, outcome: Outcome) -> None:
        """Whether it worked."""
        told = f"FAILED: {outcome.problem}" if outcome.problem else "ok"
        after = f" after {outcome.seconds:.1f} s" if self._timed else ""
        click.echo(f"      {told}{after} (revision {outcome.revision})")
