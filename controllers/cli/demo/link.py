"""A TCP link that can go down, so that the demo breaks real connections."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class Link:
    """Listens on a port of its own and passes bytes to `target`. `async with`; `address` is HOST:PORT.

    When it goes down its connections break; new ones are not answered until it is up again, as with a cable that is
    out.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._up = asyncio.Event()
        self._up.set()
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._break()
        await self._server.wait_closed()

    async def down(self) -> int:
        """Break every connection and answer no new one; how many broke."""
        self._up.clear()
        return await self._break()

    def up(self) -> None:
        """Pass bytes on again."""
        self._up.set()

    async def _break(self) -> int:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        if connections:
            await asyncio.wait(connections)
        return len(connections)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio's, for a coroutine function, complains when it is cancelled.
        connection = asyncio.create_task(self._connect(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._up.wait()
            from_target, to_target = await asyncio.open_connection(*self._target)
            writers.append(to_target)
            await _first_to_end(_pass_on(reader, to_target), _pass_on(from_target, writer))
        except OSError:
            return  # one end is gone: so is the other
        finally:
            for each in writers:
                each.transport.abort()


async def _first_to_end(*directions: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(direction) for direction in directions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
