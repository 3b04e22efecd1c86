from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[EmbeddedClient]:
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()
