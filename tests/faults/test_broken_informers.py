"""The test of the test: informers that are wrong are found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import informer.notifications
from informer.cache import Change
from informer.listwatch import ListWatch
from tests.faults.broken import MISTAKES
from tests.faults.judge import IllegalError
from tests.faults.network import live

SEEDS = 20  # at most: not every life has what a mistake needs, a compaction while it is cut off for one
PATIENCE = 1.0


async def found_out(directory: Path, wrap: Callable[[ListWatch], ListWatch] = lambda real: real) -> bool:
    for seed in range(SEEDS):
        try:
            await live(directory / str(seed), seed, wrap=wrap, patience=PATIENCE)
        except (IllegalError, TimeoutError):
            return True
    return False


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_list_watch_with_a_mistake(tmp_path: Path, mistake: Callable[[ListWatch], ListWatch]) -> None:
    assert await found_out(tmp_path, mistake)


def one_object(pending: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    """As `coalesce`, but an object that is made anew is taken for the old one."""
    if not pending:
        return (change,)
    old = pending[0].old
    return () if old is None and change.new is None else (Change(old, change.new, initial=pending[0].initial),)


def forgetful(pending: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    """As `coalesce`, but only the last change is kept as it is."""
    return (change,)


@pytest.mark.parametrize("mistake", [one_object, forgetful])
async def test_coalescing_with_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., tuple[Change, ...]]
) -> None:
    monkeypatch.setattr(informer.notifications, "coalesce", mistake)
    assert await found_out(tmp_path)
