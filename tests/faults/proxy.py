"""A TCP proxy that breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024


class To(enum.Flag):
    """Which way bytes travel: a fault strikes those on their way to the client, to the server, or both."""

    CLIENT = 1
    SERVER = 2
    BOTH = 3


class FaultProxy:
    """Passes bytes between its own port and `target` until told otherwise. Use as `async with`; `address` is HOST:PORT.

    Faults act on the connections that are open; new ones are made as usual unless `refusing` (they are closed at once)
    or `swallowing` (they are accepted, and nothing comes of them: a cable that is cut). `target` may be moved.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.name_client: Callable[[int], str] = lambda port: ""  # who connects from a port, for `swallow`
        self._swallowed: set[str] = set()
        self._connections: set[_Connection] = set()
        self.refusing = False
        self.swallowing = False
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

    def reset(self, to: To = To.BOTH) -> None:
        """Close both ends, those of `to` with a TCP reset: what is under way to them is lost."""
        for connection in list(self._connections):
            connection.reset = to
            connection.task.cancel()

    def cut_after(self, count: int, to: To = To.CLIENT) -> None:
        """Let `count` more bytes through, most likely the beginning of a message, then close both ends."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.left = count

    def tear(self, missing: int, to: To = To.CLIENT) -> None:
        """Keep the last `missing` bytes of the next piece that is sent, and close both ends: gRPC sends whole frames,
        so the last one has a part missing. At least one byte gets through, if the piece has two."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.missing = missing

    def half_close(self, to: To = To.CLIENT) -> None:
        """Tell one end that nothing more will come, and go on in the other direction."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.half_close()

    def stall(self, to: To = To.BOTH) -> None:
        """Pass nothing more on, and say nothing: the cable is cut but nobody has noticed."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.flowing.clear()

    def flow(self) -> None:
        """End stalls and delays; what was held back arrives late, in order."""
        for connection in self._connections:
            for way in connection.ways(To.BOTH):
                way.flowing.set()
                way.delay = 0.0
                way.piece = CHUNK

    def swallow(self, clients: set[str]) -> None:
        """Stall the connections of these clients (see `name_client`), those that are open and new ones; no others."""
        self._swallowed = clients
        for connection in self._connections:
            if clients and self.name_client(connection.port) in clients:
                for way in connection.ways(To.BOTH):
                    way.flowing.clear()

    def delay(self, seconds: float, to: To = To.BOTH) -> None:
        """From now on every piece of data waits for so long before it goes on, until `flow`."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.delay = seconds

    def crumble(self, piece: int, to: To = To.BOTH) -> None:
        """From now on data goes on in pieces of at most so many bytes, until `flow`: no message arrives whole."""
        for connection in self._connections:
            for way in connection.ways(to):
                way.piece = piece

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.refusing:
            writer.transport.abort()
            return
        self.accepted += 1
        connection = _Connection(task, writer)
        if self.swallowing or (self._swallowed and self.name_client(connection.port) in self._swallowed):
            for way in connection.ways(To.BOTH):
                way.flowing.clear()
        self._connections.add(connection)
        try:
            await connection.pump(reader, self.target)
        finally:
            self._connections.discard(connection)


class _Connection:
    def __init__(self, task: asyncio.Task[None], to_client: asyncio.StreamWriter) -> None:
        self.task = task
        self.port: int = to_client.get_extra_info("peername")[1]
        self.reset = To(0)
        self._ways = {To.CLIENT: _Way(), To.SERVER: _Way()}
        self._ways[To.CLIENT].sink = to_client

    def ways(self, to: To) -> list[_Way]:
        return [way for side, way in self._ways.items() if side in to]

    async def pump(self, from_client: asyncio.StreamReader, target: tuple[str, int]) -> None:
        try:
            from_server, self._ways[To.SERVER].sink = await asyncio.open_connection(*target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ways[To.SERVER].carry(from_client))
                both.create_task(self._ways[To.CLIENT].carry(from_server))
        except* (OSError, _Over):
            pass  # either end went away: so does the other
        except* asyncio.CancelledError:
            pass  # a fault, or the end of the proxy: `_serve` is a task of its own, nobody waits for more of it
        finally:
            for side, way in self._ways.items():
                if way.sink is not None:
                    if side in self.reset and not way.sink.transport.is_closing():
                        linger = struct.pack("ii", 1, 0)
                        way.sink.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    way.sink.transport.abort()


class _Way:
    """One direction of a connection, and what is wrong with it."""

    def __init__(self) -> None:
        self.sink: asyncio.StreamWriter | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.delay = 0.0
        self.piece = CHUNK
        self.left: int | None = None
        self.missing = 0
        self._mute = False

    def half_close(self) -> None:
        if self.sink is not None and not self._mute and not self.sink.transport.is_closing():
            self._mute = True
            self.sink.write_eof()

    async def carry(self, source: asyncio.StreamReader) -> None:
        assert self.sink is not None
        while data := await source.read(CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            while data:
                await self.flowing.wait()
                piece, data = data[: self.piece], data[self.piece :]
                if self._mute:
                    continue
                last = self.missing > 0 or (self.left is not None and len(piece) >= self.left)
                if self.missing:
                    piece = piece[: max(1, len(piece) - self.missing)]
                elif self.left is not None:
                    piece = piece[: self.left]
                    self.left -= len(piece)
                self.sink.write(piece)
                await self.sink.drain()
                if last:
                    raise _Over
                if data:
                    await asyncio.sleep(0)
        raise _Over


class _Over(Exception):
    """One end has closed."""
