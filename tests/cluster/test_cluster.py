"""Three etcd members: the leader killed under load, a member paused, a member cut off, one after the other.

`python -m tests.cluster` is the long form.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.survival import FAULTS, survival
from tests.faults.leftovers import nothing_left


@pytest.mark.timeout(120)
async def test_informers_and_controllers_outlive_each_member(tmp_path: Path) -> None:
    async with nothing_left(), survival(tmp_path, seed=1) as it:
        for fault in FAULTS.values():
            await it.live_through(fault, keep=300)
        assert it.counts["resumes"] + it.counts["relists"] >= len(FAULTS)
        assert it.counts["resumes"] > 0
        assert it.counts["writes"] > 100
