"""What does a client speak, gRPC or HTTP/1.1? Told from its first bytes, which stay in the socket."""

from __future__ import annotations

import asyncio
import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How HTTP/2 begins on a connection without TLS."""

HANDSHAKE, CLIENT_HELLO, ALPN = 22, 1, 16  # of TLS
MAX_RECORD = 5 + 16 * 1024


async def speaks_grpc(connection: socket.socket, *, tls: bool) -> bool:
    """Whether a client that has just connected wants gRPC; without TLS as soon as it can only be one of the two.

    With TLS it is the protocols that the client offers: every gRPC client offers `h2` and not `http/1.1`. Waits for
    as many bytes as it takes, so give it a deadline. Raises ConnectionError when the client goes first.
    """
    needed = 1
    while True:
        seen = await _peek(connection, needed)
        if not tls:
            if not PREFACE.startswith(seen[: len(PREFACE)]):
                return False
            if len(seen) >= len(PREFACE):
                return True
            needed = len(seen) + 1
        else:
            needed = _record_length(seen)
            if len(seen) >= needed:
                offered = offered_protocols(seen[:needed])
                return b"h2" in offered and b"http/1.1" not in offered


def offered_protocols(record: bytes) -> list[bytes]:
    """The protocols (ALPN) that the ClientHello in a TLS record offers; none if it has none or is malformed."""
    try:
        return _offered(record)
    except (IndexError, ValueError):
        return []


def _offered(record: bytes) -> list[bytes]:
    if record[0] != HANDSHAKE or record[5] != CLIENT_HELLO:
        return []
    at = 5 + 4 + 2 + 32  # record and handshake headers, version, random
    at += 1 + record[at]  # session
    at += 2 + _number(record, at)  # cipher suites
    at += 1 + record[at]  # compression
    end = at + 2 + _number(record, at)
    at += 2
    while at < end:
        kind, size = _number(record, at), _number(record, at + 2)
        at += 4
        if kind == ALPN:
            return _names(record[at + 2 : at + size])
        at += size
    return []


def _names(data: bytes) -> list[bytes]:
    names: list[bytes] = []
    at = 0
    while at < len(data):
        names.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return names


def _number(data: bytes, at: int) -> int:
    if at + 2 > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + 2], "big")


def _record_length(seen: bytes) -> int:
    if seen[0] != HANDSHAKE:
        return 1  # not TLS: what there is suffices to tell
    return 5 if len(seen) < 5 else min(5 + _number(seen, 3), MAX_RECORD)


async def _peek(connection: socket.socket, least: int) -> bytes:
    """What has come, once that is `least` bytes, without taking it."""
    # The socket counts as readable only from so many bytes on, so waiting for more costs nothing.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
    try:
        while True:
            await _readable(connection)
            try:
                seen = connection.recv(MAX_RECORD, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                continue
            if len(seen) >= least:
                return seen
            raise ConnectionResetError("the client has gone")
    finally:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def tell() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connection, tell)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
