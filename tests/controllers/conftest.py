"""`store` is a real store for tests on either clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedClient]:
    """An embedded store that does the same steps in the same order every time."""
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False, inline_commits=True)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()
