"""Many lives of one scenario, in a process of a pool."""

from __future__ import annotations

from collections import Counter

from controllers.simulation import SimulationFailed, Trace, simulate
from tests.simulation.scenarios import SCENARIOS


def live(name: str, first: int, count: int, show: bool = False) -> tuple[Counter[str], str]:
    """Lives of one scenario: what happened in them, and the failure that ended them."""
    total: Counter[str] = Counter()
    for seed in range(first, first + count):
        trace = Trace()
        failure = ""
        try:
            replay = f"python -m tests.simulation {name} --first {seed} --seeds 1 --trace"
            lived = simulate(SCENARIOS[name], seed, replay=replay, trace=trace)
        except SimulationFailed as error:
            failure = f"{name}: {error}"
        if show:
            print("\n".join(trace.lines))
        if failure:
            return total, failure
        total.update(lived.faults)
        total.update(lives=1, runs=lived.runs, revisions=lived.revisions, starts=lived.starts)
    return total, ""
