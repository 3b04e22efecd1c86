"""HTTP connections within bounds: of number, and of time for everything that a client has to do.

aiohttp keeps what says nothing for an hour, and has no bound for their number nor deadline for headers alone.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class HttpLimits:
    """How many connections there may be, and seconds for what a client does on one.

    `handshake` is for TLS, and for the first byte on a port that gRPC shares; `headers` from the connection, or from
    the first byte of a later request, to the end of its headers; `body` for the whole body, of a stream for its first
    message; `idle` between two requests, and for a client that takes nothing of an answer.
    """

    connections: int = 4096
    handshake: float = 10.0
    headers: float = 10.0
    body: float = 30.0
    idle: float = 60.0


class Connections:
    """The connections of one HTTP server. Over the limit, the one that has waited longest for a request is closed."""

    def __init__(self, limits: HttpLimits) -> None:
        self.limits = limits
        self._all: dict[object, Callable[[], object]] = {}
        self._waiting: dict[object, None] = {}  # in the order in which they began to wait
        self._at: dict[asyncio.BaseTransport, _Connection] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, who: object, drop: Callable[[], object]) -> None:
        """One more, which waits; `drop` is called when its place is needed, at once if all others are busy."""
        while len(self._all) >= self.limits.connections and self._waiting:
            longest = next(iter(self._waiting))
            dropped = self._all[longest]
            self.leave(longest)
            dropped()
        if len(self._all) >= self.limits.connections:
            drop()
            return
        self._all[who] = drop
        self._waiting[who] = None

    def leave(self, who: object) -> None:
        """One less."""
        self._all.pop(who, None)
        self._waiting.pop(who, None)

    def protocol(self, inner: asyncio.Protocol, greeting: object) -> asyncio.Protocol:
        """What to put between a transport and aiohttp's protocol. It takes the place of `greeting`."""
        return _Connection(self, inner, greeting)

    @asynccontextmanager
    async def busy(self, transport: asyncio.BaseTransport | None) -> AsyncIterator[None]:
        """While a request is answered its client has no deadline, and keeps its place."""
        connection = None if transport is None else self._at.get(transport)
        if connection is None:  # it has just gone
            yield
            return
        self._waiting.pop(connection, None)
        connection.expect(None)
        try:
            yield
        finally:
            if connection in self._all:
                self._waiting[connection] = None
                connection.expect(self.limits.idle)

    def made(self, connection: _Connection, transport: asyncio.Transport, greeting: object) -> None:
        """A connection is open."""
        self.leave(greeting)
        self._at[transport] = connection
        self.enter(connection, transport.abort)

    def lost(self, connection: _Connection, transport: asyncio.Transport) -> None:
        """A connection is gone."""
        self._at.pop(transport, None)
        self.leave(connection)


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and holds the client to its deadlines."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol, greeting: object) -> None:
        self._connections = connections
        self._inner = inner
        self._greeting = greeting
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._allowed = 0.0
        self._is_waiting = True
        self._has_begun = False  # a request whose headers are not all there
        self._unsent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(transport)
        self._connections.made(self, self._transport, self._greeting)
        self.expect(self._connections.limits.headers)

    def data_received(self, data: bytes) -> None:
        if self._is_waiting and not self._has_begun:
            self._has_begun = True
            if self._allowed != self._connections.limits.headers:
                self._set(self._connections.limits.headers)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set(None)
        self._connections.lost(self, self._transport)
        self._inner.connection_lost(exc)

    def expect(self, seconds: float | None) -> None:
        """Wait so long for a request; nothing: there is one, which is being answered."""
        self._is_waiting = seconds is not None
        self._has_begun = False
        self._unsent = self._transport.get_write_buffer_size()
        self._set(seconds)

    def _set(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._allowed = seconds or 0.0
        self._deadline = None if seconds is None else self._loop.call_later(seconds, self._late)

    def _late(self) -> None:
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent != self._unsent:  # the client still takes the last answer
            self._unsent = unsent
            self._set(self._connections.limits.idle)
            return
        if self._has_begun and not unsent:
            self._transport.write(TOO_SLOW)
            self._transport.close()
            self._set(self._connections.limits.handshake)  # for the client to take it
            self._has_begun = False
        else:
            self._transport.abort()
