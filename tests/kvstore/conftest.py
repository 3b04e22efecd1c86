"""A node, our server on it, and a real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import running_etcd

pytest.register_assert_rewrite("kvstore.conformance")

PROGRESS_INTERVAL = 0.2  # seconds


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`HOST:PORT` of one real etcd for all tests of this process: keep to keys of your own, never count revisions."""
    interval = f"--experimental-watch-progress-notify-interval={int(PROGRESS_INTERVAL * 1000)}ms"
    with running_etcd(tmp_path_factory.mktemp("etcd"), interval) as endpoint:
        yield endpoint


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    options = NodeOptions(fsync=False, progress_interval=PROGRESS_INTERVAL)
    async with Node.open(tmp_path / "node", options) as node:
        yield node


@pytest.fixture
async def server(node: Node) -> AsyncIterator[Server]:
    async with Server(node, ["http://127.0.0.1:0"]) as server:
        yield server


@pytest.fixture
def endpoint(server: Server) -> str:
    """`HOST:PORT` of our server."""
    return server.client_urls[0].removeprefix("http://")
