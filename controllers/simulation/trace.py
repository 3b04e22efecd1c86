"""What happened in a simulated life, and the failure that tells the end of it."""

from __future__ import annotations

import asyncio

SHOWN = 30  # lines of a failure's trace


class Trace:
    """Lines of `virtual time, who, what`. A life has some thousands of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, who: str, what: str) -> None:
        """Note it, at the loop's time."""
        self.lines.append(f"{asyncio.get_running_loop().time():10.3f}  {who:<8}  {what}")


class SimulationFailed(AssertionError):
    """A life went wrong: why, in which seed, the last lines of its trace (`trace` has all), how to live it again."""

    def __init__(self, seed: int, why: str, trace: Trace, replay: str) -> None:
        self.seed = seed
        self.why = why
        self.trace = trace
        shown = trace.lines[-SHOWN:]
        skipped = len(trace.lines) - len(shown)
        head = [f"  ... {skipped} lines before"] if skipped else []
        super().__init__("\n".join([f"seed {seed}: {why}", *head, *shown, f"again: {replay}"]))
