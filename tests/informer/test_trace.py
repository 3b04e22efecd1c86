"""Random lives of an informer on virtual time: each ends in the truth, and can be repeated to the byte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from informer.listwatch import Batch, Removed, _StoreWatch
from informer.reflector import TRANSITIONS, State
from kvstore import api
from tests.informer.trace import run

SEEDS = 240
A_TEST = 30


@pytest.mark.parametrize("first", range(0, SEEDS, A_TEST))
def test_every_life_ends_in_the_truth(first: int) -> None:
    changes: set[tuple[str, str]] = set()
    traces = [run(seed) for seed in range(first, first + A_TEST)]
    for trace in traces:
        changes |= {(line.split()[2], line.split()[3]) for line in trace.lines if line.split()[1] == "state"}
    possible = {(old.value, new.value) for (old, _), new in TRANSITIONS.items() if old is not new}
    # The lives end while it watches.
    assert changes == {pair for pair in possible if pair[1] != State.STOPPED.value} | {("watching", "stopped")}
    assert len({trace.digest() for trace in traces}) == A_TEST


def test_the_same_seed_gives_the_same_trace() -> None:
    """In one process, and in others whose hashes differ."""
    command = [sys.executable, "-m", "tests.informer.trace", "--seeds", "12", "--show"]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONHASHSEED": seed})
        for seed in ("1", "4242")
    ]
    here = b"".join(run(seed).text() + b"\n" for seed in range(12))
    told = [child.communicate(timeout=50)[0] for child in children]
    assert told[0].startswith(here)
    assert told[0] == told[1]


def test_a_lost_delete_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _StoreWatch._batch

    def without_deletes(self: _StoreWatch, response: api.WatchResponse) -> Batch:
        return [event for event in whole(self, response) if not isinstance(event, Removed)]

    monkeypatch.setattr(_StoreWatch, "_batch", without_deletes)
    with pytest.raises(AssertionError, match="the cache holds"):
        for seed in range(5):
            run(seed)
