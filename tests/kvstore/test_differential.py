"""A short differential run; `python -m tests.kvstore.differential` goes on for as long as you like."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.client import RemoteClient
from tests.etcd_process import running_etcd
from tests.kvstore.differential import DifferenceError, compare, run


@pytest.mark.parametrize("seed", [11])
async def test_our_server_answers_as_etcd_does(tmp_path: Path, seed: int) -> None:
    await run(tmp_path, operations=1500, seed=seed)


async def test_a_difference_is_found(tmp_path: Path, endpoint: str) -> None:
    """The comparison itself works: an etcd that has a revision more than ours differs."""
    with running_etcd(tmp_path) as etcd:
        async with RemoteClient([etcd]) as client:
            await client.put(b"more", b"")
        with pytest.raises(DifferenceError, match=r"operation \d+ of seed 2"):
            await compare(etcd, endpoint, operations=200, seed=2)
