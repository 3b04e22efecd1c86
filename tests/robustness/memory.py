"""A client that opens many watches and does not read: what that costs the server, and what the client gets at last.

`python -m tests.robustness.memory` lets 1,000,000 events of 512 B pass 1,000 watches that nobody reads, first on one
stream, then on ten, then on a thousand; each watch has a key of its own. Then the client reads, and every watch must
be given every event of its key in order.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import grpc

from kvstore.api import Put
from kvstore.client import RemoteClient
from kvstore.proto import messages as pb
from tests.robustness.server import serving

VALUE_BYTES = 512
PUTS_A_TXN = 50
WRITERS = 8
GOAL = 300 << 20
SAMPLE_EVERY = 0.2  # seconds

Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


@dataclasses.dataclass
class Measured:
    """Bytes of resident memory: at the start, the most above it while nobody read, and while all was read.

    Of that `file` is the part of the database file that is mapped in: the system's cache of it, which other processes
    get back when they need the memory.
    """

    start: int
    unread: int
    reading: int
    file: int
    seconds: float


def resident(pid: int) -> tuple[int, int]:
    """Resident memory of a process in bytes, and how much of it is mapped from files."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) << 10, int(fields["RssFile"].split()[0]) << 10


async def measure(directory: Path, *, watches: int, streams: int, events: int) -> Measured:
    """Raises AssertionError when a watch is not given what it must be."""
    clock = asyncio.get_running_loop().time
    began = clock()
    async with serving(directory) as (server, address), _channel(address) as channel:
        opened = [await _open(channel, watches // streams, number, streams) for number in range(streams)]
        start, _ = resident(server.pid)
        samples: list[tuple[int, int]] = []
        sampling = asyncio.create_task(_sample(server.pid, samples))
        try:
            await _write(address, watches, events)
            samples.append(resident(server.pid))
            unread = max(total for total, _ in samples) - start
            samples.clear()
            await asyncio.gather(*(_read(stream, watches // streams, events // watches) for stream in opened))
            samples.append(resident(server.pid))
        finally:
            sampling.cancel()
            await asyncio.wait([sampling])
        most, file = max(samples)
        return Measured(start, unread, most - start, file, clock() - began)


@contextlib.asynccontextmanager
async def _channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    options = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield channel


async def _open(channel: grpc.aio.Channel, watches: int, number: int, streams: int) -> Stream:
    """A stream with its share of the watches, of which only the first answer is read."""
    stream: Stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)
    for key in range(number, watches * streams, streams):
        create = pb.WatchCreateRequest(key=_key(key), watch_id=key + 1)
        await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
    for _ in range(watches):
        data = await stream.read()
        assert isinstance(data, bytes)
        assert pb.WatchResponse.FromString(data).created
    return stream


async def _write(address: str, watches: int, events: int) -> None:
    """Put each key in turn; the value says which put of its key it is. Each writer has keys of its own."""
    async with RemoteClient([address]) as client:

        async def writer(first: int) -> None:
            keys = range(first, watches, WRITERS)
            assert len(keys) >= PUTS_A_TXN, "a transaction may put a key only once"
            puts = ((_key(key), _value(count)) for count in range(events // watches) for key in keys)
            while batch := [Put(key, value) for key, value in itertools.islice(puts, PUTS_A_TXN)]:
                await client.txn(success=batch)

        await asyncio.gather(*(writer(first) for first in range(WRITERS)))


async def _read(stream: Stream, watches: int, events: int) -> None:
    """Every watch of the stream is given each event of its key once, in order."""
    counts: dict[int, int] = {}
    revisions: dict[int, int] = {}
    left = watches * events
    while left:
        data = await stream.read()
        assert isinstance(data, bytes), "the stream ended"
        response = pb.WatchResponse.FromString(data)
        watch = response.watch_id
        for event in response.events:
            kv = event.kv
            count = counts.get(watch, 0)
            assert kv.key == _key(watch - 1), "an event of another key"
            assert kv.mod_revision > revisions.get(watch, 0), "out of order"
            assert kv.value == _value(count), f"watch {watch}: expected put {count}, got {kv.value[:10]!r}"
            counts[watch], revisions[watch] = count + 1, kv.mod_revision
        left -= len(response.events)
    stream.cancel()
    assert len(counts) == watches
    assert set(counts.values()) == {events}


def _key(number: int) -> bytes:
    return b"%06d" % number


def _value(count: int) -> bytes:
    return b"%010d" % count + bytes(VALUE_BYTES - 10)


async def _sample(pid: int, samples: list[tuple[int, int]]) -> None:
    while True:
        samples.append(resident(pid))
        await asyncio.sleep(SAMPLE_EVERY)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watches", type=int, default=1000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 10, 1000])
    arguments = parser.parse_args()
    failed = False
    for streams in arguments.streams:
        with tempfile.TemporaryDirectory(prefix="listwatch-memory-") as name:
            run = measure(Path(name) / "data", watches=arguments.watches, streams=streams, events=arguments.events)
            result = asyncio.run(run)
        reached = result.unread < GOAL
        failed |= not reached
        print(
            f"{arguments.watches} watches on {streams} streams, {arguments.events} events of {VALUE_BYTES} B: "
            f"{result.start >> 20} MiB at the start, {result.unread >> 20} MiB above it while nobody reads "
            f"(goal < {GOAL >> 20}: {'reached' if reached else 'not reached'}), {result.reading >> 20} MiB while "
            f"all is read, {result.file >> 20} MiB of it the mapped database file; {result.seconds:.0f} s",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
