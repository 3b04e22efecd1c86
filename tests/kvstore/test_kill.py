"""SIGKILL at random instants: nothing acknowledged is lost. `python -m tests.kvstore.kill` runs it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kvstore import kill


@pytest.mark.timeout(120)
def test_killed_at_any_instant_it_gives_back_what_it_acknowledged(tmp_path: Path) -> None:
    acknowledged = kill.run(rounds=8, seed=20, directory=tmp_path / "data")
    assert acknowledged.count > 8
    assert acknowledged.compacted > 0, "compactions took part"
