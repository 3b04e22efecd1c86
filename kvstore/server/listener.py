"""Accepting connections ourselves: each is a socket before it is anything else."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from kvstore.server.config import AddressInUse, ListenAddress, ListenError

BACKLOG = 1024
RETRY = 1.0
"""Seconds until the next attempt when the process has no file descriptor left for a connection."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = structlog.get_logger("kvstore")


class Listener:
    """Listens on one address; `accepted` is called with each connection's socket, which is non-blocking, and owns it.

    A name may have several addresses: all are listened on, on the same port.
    """

    def __init__(self, address: ListenAddress, accepted: Callable[[socket.socket], None]) -> None:
        self._address = address
        self._accepted = accepted
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self.port = address.port

    async def start(self) -> None:
        """Listen. Raises `ListenError` when the address cannot be used; then nothing listens."""
        loop = asyncio.get_running_loop()
        host, port, target = self._address.host, self._address.port, self._address.target
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, kind, protocol, _, where in found:
                try:
                    listening = socket.socket(family, kind, protocol)
                except OSError:
                    if family == socket.AF_INET6 and len(found) > 1:
                        continue  # a machine without IPv6: the name's other address counts
                    raise
                self._sockets.append(listening)
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listening.setblocking(False)
                listening.bind((where[0], self.port, *where[2:]))
                listening.listen(BACKLOG)
                self.port = listening.getsockname()[1]
        except OSError as error:
            self.stop()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(f"cannot listen on {target}: the port is in use") from error
            raise ListenError(f"cannot listen on {target}: {error.strerror or error}") from error
        for listening in self._sockets:
            loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more. Idempotent."""
        loop = asyncio.get_running_loop()
        for retry in self._retries:
            retry.cancel()
        self._retries.clear()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.warning("accept_failed", address=self._address.target, error=error.strerror)
                self._pause(listening)
                return
            connection.setblocking(False)
            self._accepted(connection)

    def _pause(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            self._retries.discard(retry)
            loop.add_reader(listening, self._accept, listening)

        loop.remove_reader(listening)
        retry = loop.call_later(RETRY, again)
        self._retries.add(retry)
