"""Joining two connections: what one side says the other hears."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import cast

CHUNK = 64 * 1024
CONNECT_RETRY = 0.01  # seconds
LINGER = 20.0
"""Seconds that a client has to take what was said before the server hung up."""


class Splices:
    """Connections that are joined to ones of our own to a Unix socket.

    What a slow reader has not taken holds its other side up, with at most asyncio's write buffer (64 KiB) and one
    chunk between them; the end of one direction is passed on alone; a side that breaks ends the other.
    """

    def __init__(self) -> None:
        self._sides: set[_Side] = set()
        self._buffer = bytearray(CHUNK)  # emptied before the next side reads into it

    async def join(self, connection: socket.socket, path: Path) -> None:
        """Join `connection`, which is ours from now on, to a new one to `path`. Returns once they are joined.

        Raises OSError when nobody listens there; then, and when it is cancelled, `connection` is closed.
        """
        loop = asyncio.get_running_loop()
        near, far = _Side(self._sides, self._buffer), _Side(self._sides, self._buffer)
        near.other, far.other = far, near
        try:
            connected = await _connected(path)
            try:
                await loop.connect_accepted_socket(lambda: far, connected)
            except BaseException:
                connected.close()
                raise
            await loop.connect_accepted_socket(lambda: near, connection)
        except BaseException:
            connection.close()
            if far.transport is not None:
                far.transport.abort()
            raise
        far.begin()
        near.begin()

    def __len__(self) -> int:
        return len(self._sides) // 2

    def abort(self) -> None:
        """Break all of them."""
        for side in list(self._sides):
            if side.transport is not None:
                side.transport.abort()


class _Side(asyncio.BufferedProtocol):
    """One of two joined connections. Reads nothing until `begin`."""

    other: _Side

    def __init__(self, sides: set[_Side], buffer: bytearray) -> None:
        self._sides = sides
        self._buffer = buffer
        self._ended = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        self._sides.add(self)

    def begin(self) -> None:
        if self.transport is None or self.other.transport is None:
            self._end()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        transport = self.other.transport
        if transport is not None:
            transport.write(bytes(memoryview(self._buffer)[:nbytes]))  # it may keep them, and the buffer is used again

    def eof_received(self) -> bool:
        self._ended = True
        transport = self.other.transport
        if transport is None or self.other._ended:
            self._end()
        else:
            transport.write_eof()
        return True  # what comes from the other side still goes out

    def pause_writing(self) -> None:
        transport = self.other.transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def resume_writing(self) -> None:
        transport = self.other.transport
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._sides.discard(self)
        self.transport = None
        transport = self.other.transport
        if transport is None:
            return
        if exc is None:
            transport.close()
            asyncio.get_running_loop().call_later(LINGER, transport.abort)
        else:
            transport.abort()

    def _end(self) -> None:
        for side in (self, self.other):
            if side.transport is not None:
                side.transport.close()


async def _connected(path: Path) -> socket.socket:
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        while True:
            try:
                connecting.connect(str(path))
            except BlockingIOError:  # the other side's queue is full; a Unix socket never tells when it has room
                await asyncio.sleep(CONNECT_RETRY)
            else:
                return connecting
    except BaseException:
        connecting.close()
        raise
