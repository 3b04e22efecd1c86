"""Simulated lives: reconcilers that are right end well in all of them, and each mistake is caught in one of a few."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from controllers.simulation import Scenario, SimulationFailed, Trace, simulate
from tests.simulation.scenarios import BROKEN, RIGHT

# More with SIMULATION_SEEDS=1000, or `python -m tests.simulation`.
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "10"))
TRIES = 40


@pytest.mark.parametrize("name", RIGHT)
def test_lives_end_as_without_faults(name: str) -> None:
    faults, seeds = 0, SEEDS // 3 if name.endswith("backup") else SEEDS  # copies are made on a real disk
    for seed in range(seeds):
        replay = f"python -m tests.simulation {name} --first {seed} --seeds 1 --trace"
        faults += sum(simulate(RIGHT[name], seed, replay=replay).faults.values())
    assert faults > 5 * seeds


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_caught(name: str) -> None:
    scenario, why = BROKEN[name]
    for seed in range(TRIES):
        failure = failed(scenario, seed)
        if failure is not None and re.search(why, failure.why):
            assert len(str(failure).splitlines()) < 100
            assert str(failure).endswith(f"again: simulate({scenario.__name__}, seed={seed})")
            return
    pytest.fail(f"{name} was not caught in {TRIES} lives")


def failed(scenario: type[Scenario], seed: int) -> SimulationFailed | None:
    try:
        simulate(scenario, seed)
    except SimulationFailed as failure:
        return failure
    return None


def test_a_life_can_be_lived_again_to_the_letter() -> None:
    command = [sys.executable, "-m", "tests.simulation", "elected-parts", "--first", "9", "--seeds", "1", "--trace"]
    told = [
        subprocess.run(
            command, capture_output=True, check=True, timeout=50, env={**os.environ, "PYTHONHASHSEED": number}
        ).stdout
        for number in ("1", "2")
    ]
    assert told[0] == told[1]
    assert told[0].count(b"\n") > 50


def test_many_lives_in_processes() -> None:
    command = [sys.executable, "-m", "tests.simulation", "parts", "--seeds", "3", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    assert "3 lives of parts" in done.stdout


def test_other_seeds_are_other_lives() -> None:
    traces = []
    for seed in (1, 2):
        trace = Trace()
        simulate(RIGHT["parts"], seed, trace=trace)
        traces.append(trace.lines)
    assert traces[0] != traces[1]
