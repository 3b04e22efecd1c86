"""The proxy does to bytes what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.leftovers import nothing_left
from tests.faults.proxy import FaultProxy, To

MESSAGE = bytes(range(100))


class Ends:
    """Both ends of a connection through the proxy."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.proxy = proxy
        self.client_in, self.client_out = client
        self.server_in, self.server_out = server


@asynccontextmanager
async def connected() -> AsyncIterator[Ends]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait((reader, writer))

    async with nothing_left(), asyncio.timeout(10), await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        async with FaultProxy(host, port) as proxy:
            client = await asyncio.open_connection(*proxy.address.split(":"))
            ends = Ends(proxy, client, await accepted.get())
            try:
                ends.client_out.write(b"hello")
                assert await ends.server_in.readexactly(5) == b"hello"
                yield ends
            finally:
                ends.client_out.transport.abort()
                ends.server_out.transport.abort()
                while not accepted.empty():
                    accepted.get_nowait()[1].transport.abort()


async def test_cut() -> None:
    async with connected() as ends:
        ends.proxy.cut()
        assert await ends.client_in.read() == b""
        assert await ends.server_in.read() == b""


@pytest.mark.parametrize("to", [To.CLIENT, To.SERVER])
async def test_reset_reaches_one_end_as_a_reset(to: To) -> None:
    async with connected() as ends:
        ends.proxy.reset(to)
        struck, other = (ends.client_in, ends.server_in)[:: 1 if to is To.CLIENT else -1]
        with pytest.raises(ConnectionResetError):
            await struck.read()
        assert await other.read() == b""


async def test_half_close_leaves_the_other_direction() -> None:
    async with connected() as ends:
        ends.proxy.half_close(To.CLIENT)
        assert await ends.client_in.read() == b""
        ends.client_out.write(MESSAGE)
        assert await ends.server_in.readexactly(len(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("count", [1, 99])
async def test_cut_after(count: int) -> None:
    async with connected() as ends:
        ends.proxy.cut_after(count, To.SERVER)
        ends.client_out.write(MESSAGE)
        assert await ends.server_in.read() == MESSAGE[:count]


async def test_tear_keeps_the_end_of_a_piece() -> None:
    async with connected() as ends:
        ends.proxy.tear(7)
        ends.server_out.write(MESSAGE)
        assert await ends.client_in.read() == MESSAGE[:-7]


async def test_stall_in_one_direction_and_flow() -> None:
    async with connected() as ends:
        ends.proxy.stall(To.CLIENT)
        ends.server_out.write(MESSAGE)
        ends.client_out.write(b"there")
        assert await ends.server_in.readexactly(5) == b"there"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ends.client_in.read(1), 0.05)
        ends.proxy.flow()
        assert await ends.client_in.readexactly(len(MESSAGE)) == MESSAGE


async def test_delay_and_crumbs_change_no_byte() -> None:
    async with connected() as ends:
        began = asyncio.get_running_loop().time()
        ends.proxy.delay(0.05, To.SERVER)
        ends.proxy.crumble(3)
        ends.client_out.write(MESSAGE)
        assert len(await ends.server_in.read(len(MESSAGE))) <= len(MESSAGE)
        assert asyncio.get_running_loop().time() - began >= 0.05
        ends.server_out.write(MESSAGE)
        assert await ends.client_in.readexactly(len(MESSAGE)) == MESSAGE


async def test_new_connections_are_refused_or_swallowed() -> None:
    async with connected() as ends:
        address = ends.proxy.address.split(":")
        ends.proxy.refusing = True
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.read() == b""
        writer.transport.abort()
        ends.proxy.refusing = False
        ends.proxy.swallowing = True
        reader, writer = await asyncio.open_connection(*address)
        writer.write(MESSAGE)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.transport.abort()


async def test_only_the_connections_of_some_are_swallowed() -> None:
    async with connected() as ends:
        mine = ends.client_out.get_extra_info("sockname")[1]
        ends.proxy.name_client = lambda port: "me" if port == mine else "another"
        ends.proxy.swallow({"another"})
        ends.client_out.write(b"there")
        assert await ends.server_in.readexactly(5) == b"there"
        ends.proxy.swallow({"me"})
        ends.client_out.write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ends.server_in.read(1), 0.05)
