"""Clients that mean no good, over real sockets; `python -m tests.kvstore.hostile [CONNECTIONS]` is the long form.

The long form holds 10,000 idle connections, then floods the server with watches, leases and resets, and prints how a
client that behaves fared meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from kvstore.client import connect
from kvstore.proto import messages as pb
from tests.kvstore.serve_process import serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, END_HEADERS = 1, 4
CANCEL = (8).to_bytes(4, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call_headers(path: str) -> bytes:
    """The header block of a gRPC call."""
    return b"".join(
        _field(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
    )


class Raw(NamedTuple):
    """A connection on which anything can be said."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    def call(self, stream: int, path: str, *data: bytes) -> None:
        """Begin a call, with DATA frames; the last one ends it."""
        self.say(frame(HEADERS, END_HEADERS, stream, call_headers(path)))
        for number, each in enumerate(data, 1):
            self.say(frame(DATA, END_STREAM if number == len(data) else 0, stream, each))

    async def heard(self) -> tuple[int, int, int, bytes]:
        """The next frame: kind, flags, stream, payload."""
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload

    async def caught_up(self) -> None:
        """Return when the server has read all that was said, or has hung up."""
        self.say(frame(PING, 0, 0, b"rollcall"))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while (await self.heard())[3] != b"rollcall":
                pass

    async def ends(self, stream: int) -> int:
        """The kind of the frame that ends a stream, or the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, flags, of, _ = await self.heard()
                if kind == GOAWAY or (of == stream and (kind == RST_STREAM or flags & END_STREAM)):
                    return kind
        return GOAWAY


@contextlib.asynccontextmanager
async def raw(endpoint: str, *, greet: bool = True) -> AsyncIterator[Raw]:
    """A connection; unless it is to say nothing, HTTP/2 is begun on it."""
    host, _, port = endpoint.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = Raw(reader, writer)
    try:
        if greet:
            connection.say(PREFACE, frame(SETTINGS, 0, 0))
        yield connection
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Experience(NamedTuple):
    """What a client that behaves has gone through."""

    rounds: int
    slowest: float  # seconds


@contextlib.asynccontextmanager
async def bystander(endpoint: str) -> AsyncIterator[Callable[[], Experience]]:
    """A client that writes, reads and watches all the while; any error of its is raised when the block is left."""
    loop = asyncio.get_running_loop()
    rounds = 0
    slowest = 0.0
    leaving = False

    async def live() -> None:
        nonlocal rounds, slowest
        async with connect(endpoint) as client, client.watch(b"bystander") as watch:
            responses = aiter(watch)
            while not leaving:
                began = loop.time()
                async with asyncio.timeout(20):
                    revision = (await client.put(b"bystander", b"%d" % rounds)).header.revision
                    found = await client.get(b"bystander")
                    assert found is not None
                    assert found.mod_revision == revision
                    while True:
                        response = await anext(responses)
                        if response.events:
                            break
                    assert [event.kv.mod_revision for event in response.events] == [revision]
                rounds += 1
                slowest = max(slowest, loop.time() - began)
                await asyncio.sleep(0.01)

    task = asyncio.create_task(live())
    try:
        while not rounds and not task.done():
            await asyncio.sleep(0.01)
        yield lambda: Experience(rounds, slowest)
    finally:
        leaving = True
        await task


# ---- what they do ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def idle(endpoint: str, connections: int) -> AsyncIterator[None]:
    """Many connections: some say nothing, some stop in the middle of a greeting, of a header or of a message."""
    path = "/etcdserverpb.KV/Range"
    halves: list[tuple[bytes, ...]] = [
        (),
        (PREFACE[:11],),
        (PREFACE, frame(SETTINGS, 0, 0)),
        (PREFACE, frame(SETTINGS, 0, 0), frame(HEADERS, 0, 1, call_headers(path)[:20])),
        (PREFACE, frame(SETTINGS, 0, 0), frame(HEADERS, END_HEADERS, 1, call_headers(path)), b"\0\0\x50\0\0\0"),
    ]
    async with contextlib.AsyncExitStack() as stack:
        for number in range(connections):
            connection = await stack.enter_async_context(raw(endpoint, greet=False))
            connection.say(*halves[number % len(halves)])
        yield


async def resets(endpoint: str, streams: int) -> None:
    """Calls that are begun and given up at once, as fast as the connection takes them."""
    begun = 0
    while begun < streams:
        async with raw(endpoint) as connection:
            with contextlib.suppress(ConnectionError):  # to hang up is the server's right
                for number in range(1, 2 * min(1000, streams - begun) + 1, 2):
                    begun += 1
                    connection.call(number, "/etcdserverpb.Watch/Watch", b"\0\0\0\0\x02\x0a\0")
                    connection.say(frame(RST_STREAM, 0, number, CANCEL))
                    await connection.writer.drain()
                await connection.caught_up()


@contextlib.asynccontextmanager
async def watch_flood(endpoint: str, watches: int) -> AsyncIterator[None]:
    """A stream on which watches are asked for and no answer is read, and then many streams with one watch each."""
    create = pb.WatchRequest(
        create_request=pb.WatchCreateRequest(key=b"\0", range_end=b"\0", progress_notify=True, start_revision=1)
    ).SerializeToString()
    async with grpc.aio.insecure_channel(endpoint) as channel:
        method: Any = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)
        one = method()
        writing = asyncio.create_task(_write_all(one, create, watches))
        many = [method() for _ in range(watches // 10)]
        try:
            for call in many:
                await call.write(create)
            for call in many:
                assert pb.WatchResponse.FromString(await call.read()).created
            yield
        finally:
            writing.cancel()
            for call in [one, *many]:
                call.cancel()
            await asyncio.wait([writing])


async def _write_all(call: Any, message: bytes, times: int) -> None:
    for _ in range(times):
        await call.write(message)


async def lease_flood(endpoint: str, leases: int) -> None:
    """Leases as short as can be, each with a key, granted as fast as the server does it, and left to expire."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        grant: Any = channel.unary_unary("/etcdserverpb.Lease/LeaseGrant", None, None)
        put: Any = channel.unary_unary("/etcdserverpb.KV/Put", None, None)

        async def one(number: int) -> None:
            answer = pb.LeaseGrantResponse.FromString(await grant(pb.LeaseGrantRequest(TTL=1).SerializeToString()))
            await put(pb.PutRequest(key=b"flood/%d" % number, lease=answer.ID).SerializeToString())

        for first in range(0, leases, 500):
            await asyncio.gather(*(one(number) for number in range(first, min(first + 500, leases))))
        count: Any = channel.unary_unary("/etcdserverpb.Lease/LeaseLeases", None, None)
        async with asyncio.timeout(60):
            while pb.LeaseLeasesResponse.FromString(await count(b"")).leases:
                await asyncio.sleep(0.2)
        left = pb.RangeRequest(key=b"flood/", range_end=b"flood0", count_only=True).SerializeToString()
        read: Any = channel.unary_unary("/etcdserverpb.KV/Range", None, None)
        assert pb.RangeResponse.FromString(await read(left)).count == 0


async def _sit(endpoint: str, connections: int) -> None:
    async with idle(endpoint, connections):
        await asyncio.sleep(5)


async def _watch(endpoint: str, watches: int) -> None:
    async with watch_flood(endpoint, watches):
        await asyncio.sleep(5)


async def _nothing(endpoint: str, seconds: int) -> None:
    await asyncio.sleep(seconds)


ATTACKS: dict[str, Callable[[str, int], Coroutine[Any, Any, None]]] = {
    "seconds of nothing": _nothing,
    "idle connections": _sit,
    "resets": resets,
    "unread watches, a tenth of them on streams of their own": _watch,
    "leases that expire": lease_flood,
}


async def main(connections: int) -> None:
    """All of it, on a server process, each from a process of its own: what the bystander waits for is the server."""
    amounts = (3, connections, 20_000, 20_000, 20_000)
    with tempfile.TemporaryDirectory(prefix="kvstore-hostile-") as directory:
        async with serving(Path(directory) / "node") as (process, endpoint):
            for (name, _), amount in zip(ATTACKS.items(), amounts, strict=True):
                async with bystander(endpoint) as experience:
                    attack = await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "tests.kvstore.hostile", "attack", name, endpoint, str(amount)
                    )
                    assert await attack.wait() == 0
                    rounds, slowest = experience()
                print(
                    f"{amount} {name}: {rounds} rounds of a bystander, the slowest {slowest * 1000:.0f} ms", flush=True
                )
            status = Path(f"/proc/{process.pid}/status").read_text()
            print(next(line for line in status.splitlines() if line.startswith("VmRSS")))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if sys.argv[1:2] == ["attack"]:
        asyncio.run(ATTACKS[sys.argv[2]](sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
