"""Servers that others' clients talk to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import running_etcd


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with (
        Node.open(tmp_path / "node", NodeOptions(fsync=False, bcrypt_cost=4)) as node,
        Server(node, ["http://127.0.0.1:0"]) as server,
    ):
        yield server


@pytest.fixture
def port(server: Server) -> int:
    return int(server.client_urls[0].rpartition(":")[2])


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as endpoint:
        yield endpoint
