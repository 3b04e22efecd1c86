"""A TCP proxy that breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class CuttingProxy:
    """Passes bytes between its own port and `target` until told otherwise. Use as `async with`; `address` is HOST:PORT.

    Faults act on the connections that are open; new ones are made as usual unless `refusing`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._connections: set[_Connection] = set()
        self.refusing = False
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.refusing = True
        tasks = [connection.task for connection in self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def open(self) -> int:
        return len(self._connections)

    def cut(self) -> None:
        """Close both ends."""
        for connection in list(self._connections):
            connection.task.cancel()

    def reset(self) -> None:
        """Close both ends with a TCP reset: what is under way is lost."""
        for connection in list(self._connections):
            connection.reset = True
            connection.task.cancel()

    def cut_after(self, count: int) -> None:
        """Let the client have `count` more bytes, most likely the beginning of a message, then close both ends."""
        for connection in self._connections:
            connection.left = count

    def half_close(self) -> None:
        """Tell the client that nothing more will come, and go on in the other direction."""
        for connection in self._connections:
            connection.to_client.write_eof()
            connection.mute = True

    def stall(self) -> None:
        """Pass nothing more on, in either direction, and say nothing: the cable is cut but nobody has noticed."""
        for connection in self._connections:
            connection.flowing.clear()

    def flow(self) -> None:
        """End a stall; what was held back arrives late, in order."""
        for connection in self._connections:
            connection.flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        connection = _Connection(task, writer)
        self._connections.add(connection)
        try:
            await connection.pump(reader, self._target)
        finally:
            self._connections.discard(connection)


class _Connection:
    def __init__(self, task: asyncio.Task[None], to_client: asyncio.StreamWriter) -> None:
        self.task = task
        self.to_client = to_client
        self.reset = False
        self.mute = False
        self.left: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def pump(self, from_client: asyncio.StreamReader, target: tuple[str, int]) -> None:
        writers = [self.to_client]
        try:
            from_server, to_server = await asyncio.open_connection(*target)
            writers.append(to_server)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forward(from_client, to_server))
                directions.create_task(self._back(from_server))
        except* (OSError, _Over):
            pass  # either end went away: so does the other
        except* asyncio.CancelledError:
            pass  # a fault, or the end of the proxy: `_serve` is a task of its own, nobody waits for more of it
        finally:
            for writer in writers:
                if self.reset and not writer.transport.is_closing():
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(CHUNK):
            await self.flowing.wait()
            sink.write(data)
            await sink.drain()
        raise _Over

    async def _back(self, source: asyncio.StreamReader) -> None:
        while data := await source.read(CHUNK):
            await self.flowing.wait()
            if self.mute:
                continue
            if self.left is not None:
                data = data[: self.left]
                self.left -= len(data)
            self.to_client.write(data)
            await self.to_client.drain()
            if self.left == 0:
                raise _Over
        raise _Over


class _Over(Exception):
    """One end has closed."""
