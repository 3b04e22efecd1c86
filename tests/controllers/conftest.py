"""Tests marked `virtual_time` run on a loop whose clock jumps; `store` is a real store that goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.virtual_time import VirtualTimeLoop


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: run on an event loop whose clock jumps to the next timer")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedClient]:
    """An embedded store that does the same steps in the same order every time."""
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False, inline_commits=True)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()
