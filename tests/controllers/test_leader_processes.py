"""Leader election of real processes, on our server and on a real etcd."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controllers.stores import open_store
from kvstore.node import Node
from kvstore.server import Server
from tests.controllers.candidates import COUNTER, candidate, first_write, writer
from tests.etcd_process import running_etcd

LEASE = 5  # seconds; shorter ones are lost on a machine that has other work


@pytest.fixture(params=["listwatch", "etcd"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "etcd":
        with running_etcd(tmp_path) as address:
            yield f"etcd://{address}"
        return
    async with Node.open(tmp_path / "data") as node:
        serving = Server(node, ["http://127.0.0.1:0"])
        await serving.start()
        yield serving.client_urls[0].replace("http://", "etcd://")
        await serving.stop()


async def test_a_leader_that_slept_through_its_lease_writes_nothing_more_and_ends(server: str) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_store(server, connect_timeout=10))
        first = await stack.enter_async_context(candidate(server, "first", LEASE))
        await first.tells("leader")
        await first_write(client, "first", 0)
        second = await stack.enter_async_context(candidate(server, "second", LEASE))
        first.send(signal.SIGSTOP)
        last = (await client.status()).header.revision
        await second.tells("leader")
        taken_over = await first_write(client, "second", last)

        first.send(signal.SIGCONT)
        assert await first.ended() == 1
        assert "error: the leadership of default/counter was lost" in await first.errors()
        now = (await client.status()).header.revision
        await first_write(client, "second", now)  # it goes on
        authors = set()
        async with asyncio.timeout(20), client.watch(COUNTER, start_revision=taken_over) as watch:
            async for response in watch:
                authors |= {writer(event.kv.value) for event in response.events}
                if response.events and response.events[-1].kv.mod_revision >= now:
                    break
        assert authors == {"second"}


async def test_who_is_killed_is_followed_when_its_lease_ends(server: str) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(open_store(server, connect_timeout=10))
        first = await stack.enter_async_context(candidate(server, "first", LEASE))
        await first.tells("leader")
        await stack.enter_async_context(candidate(server, "second", LEASE))
        last = await first_write(client, "first", 0)
        first.send(signal.SIGKILL)
        began = loop.time()
        await first_write(client, "second", last)
        assert loop.time() - began < LEASE + 10
