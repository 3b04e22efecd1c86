"""Many keys and many watchers, against a real etcd on the same data in the same run.

    python -m benchmarks.scale [--keys 1000000] [--watchers 10000]

Keys: each has five versions; then what a key costs in memory (after a restart, when it is what the data needs and not
what writing them left behind), how long a start takes until the first answer, and put, get and watch latency beside
those with a thousand keys. Watchers: all on one key, then each on a range of its own; the cost of an event is the
server's CPU time, and the wall time until the client, the same for both, has all of them. What grpcio itself costs is
shown by a server that writes as many ready-made responses and does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import grpc

from benchmarks.grpc_puts import cpu_seconds
from benchmarks.servers import channels, fan_out, ours
from benchmarks.table import Row, show
from kvstore.proto import messages as pb
from tests.etcd_process import running_etcd

VERSIONS = 5
FEW_KEYS = 1_000
VALUE = bytes(64)
PUTS_A_TXN = 128
WRITERS = 8
PROBES = 200  # for a latency
WATCH_STREAMS = 10
EVENTS_ON_ONE = 10  # puts that all watchers of one key see
EVENTS_ON_RANGES = 5_000  # puts that one watcher each sees
TIMEOUT = 120.0

Started: TypeAlias = AbstractContextManager[tuple[int, str]]


@dataclasses.dataclass
class Result:
    """Seconds, bytes a key, and microseconds an event."""

    few: dict[str, float] = dataclasses.field(default_factory=dict)
    many: dict[str, float] = dataclasses.field(default_factory=dict)
    fill: float = 0.0
    start: float = 0.0
    key_bytes: float = 0.0
    events: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)  # CPU, wall


@contextlib.contextmanager
def our_server(directory: Path) -> Iterator[tuple[int, str]]:
    """Our server's process id and address."""
    with ours(directory) as (process, address):
        yield process.pid, address


@contextlib.contextmanager
def etcd_server(directory: Path) -> Iterator[tuple[int, str]]:
    """The same of an etcd that flushes to disk, as ours does."""
    with running_etcd(directory, "--quota-backend-bytes=8589934592", fsync=True) as address:
        children = itertools.chain.from_iterable(
            each.read_text().split() for each in Path("/proc/self/task").glob("*/children")
        )
        marked = f"--listen-client-urls=http://{address}".encode()
        yield next(int(pid) for pid in children if marked in Path(f"/proc/{pid}/cmdline").read_bytes()), address


def own_memory(pid: int) -> int:
    """Bytes of memory that are the process's own, without the mapped database file."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise LookupError("RssAnon")


def key(number: int) -> bytes:
    return b"/registry/pods/default/%08d" % number


async def fill(address: str, first: int, last: int) -> None:
    """Five versions of each key, in transactions."""
    async with channels(address, WRITERS) as opened:

        async def write(channel: grpc.aio.Channel, starts: Iterator[int]) -> None:
            call = channel.unary_unary("/etcdserverpb.KV/Txn", None, None)
            for start in starts:
                numbers = range(start, min(start + PUTS_A_TXN, last))
                puts = [pb.RequestOp(request_put=pb.PutRequest(key=key(n), value=VALUE)) for n in numbers]
                request = pb.TxnRequest(success=puts).SerializeToString()
                for _ in range(VERSIONS):
                    await call(request)

        starts = iter(range(first, last, PUTS_A_TXN))
        await asyncio.gather(*(write(channel, starts) for channel in opened))


async def latencies(address: str, keys: int) -> dict[str, float]:
    """Medians of one call after the other, in milliseconds."""
    clock = time.perf_counter
    took: dict[str, list[float]] = {"put": [], "get": [], "watch": []}
    async with channels(address, 2) as (calling, watching):
        put = calling.unary_unary("/etcdserverpb.KV/Put", None, None)
        get = calling.unary_unary("/etcdserverpb.KV/Range", None, None)
        stream = await watch(watching, [pb.WatchCreateRequest(key=key(0), range_end=key(keys))])
        for number in range(PROBES):
            probed = key(number * (keys // PROBES))
            began = clock()
            await get(pb.RangeRequest(key=probed).SerializeToString())
            took["get"].append(clock() - began)
            began = clock()
            writing = asyncio.ensure_future(put(pb.PutRequest(key=probed, value=VALUE).SerializeToString()))
            await stream.read()
            took["watch"].append(clock() - began)
            await writing
            began = clock()
            await put(pb.PutRequest(key=b"/other", value=VALUE).SerializeToString())
            took["put"].append(clock() - began)
        stream.cancel()
    return {name: statistics.median(each) * 1e3 for name, each in took.items()}


async def watch(
    channel: grpc.aio.Channel, creates: list[pb.WatchCreateRequest]
) -> grpc.aio.StreamStreamCall[bytes, bytes]:
    """A stream with these watches, all of them answered."""
    stream: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(
        None
    )
    for create in creates:
        await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
        await stream.read()
    return stream


async def event_cost(
    pid: int, address: str, creates: list[pb.WatchCreateRequest], puts: list[bytes], events: int
) -> tuple[float, float]:
    """Microseconds of the server's CPU, and of wall time, for an event, the puts included."""
    async with channels(address, WATCH_STREAMS + 1) as opened:
        *watching, calling = opened
        streams = [await watch(each, creates[n::WATCH_STREAMS]) for n, each in enumerate(watching)]
        put = calling.unary_unary("/etcdserverpb.KV/Put", None, None)
        left = events
        all_read = asyncio.Event()

        async def read(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
            nonlocal left
            while True:
                data = await stream.read()
                assert isinstance(data, bytes)
                left -= len(pb.WatchResponse.FromString(data).events)
                if left <= 0:
                    all_read.set()

        reading = [asyncio.create_task(read(stream)) for stream in streams]
        before, began = cpu_seconds(pid), time.perf_counter()
        waiting = iter(puts)

        async def write() -> None:
            for each in waiting:
                await put(pb.PutRequest(key=each, value=VALUE).SerializeToString())

        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(write() for _ in range(WRITERS)))
            await all_read.wait()
        cost = (cpu_seconds(pid) - before) / events * 1e6, (time.perf_counter() - began) / events * 1e6
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for stream in streams:
            stream.cancel()
        assert left == 0, "more events than puts"
        return cost


def measure(serve: Callable[[Path], Started], directory: Path, keys: int, watchers: int) -> Result:
    """Everything, on one server."""
    directory.mkdir()
    result = Result()
    with serve(directory) as (pid, address):
        asyncio.run(fill(address, 0, FEW_KEYS))
        result.few = asyncio.run(latencies(address, FEW_KEYS))
    with serve(directory) as (pid, address):
        asyncio.run(latencies(address, FEW_KEYS))  # what a call needs of its own is there in both measurements
        empty = own_memory(pid)
        began = time.perf_counter()
        asyncio.run(fill(address, FEW_KEYS, keys))
        result.fill = (keys - FEW_KEYS) * VERSIONS / (time.perf_counter() - began)
    began = time.perf_counter()
    with serve(directory) as (pid, address):
        result.start = time.perf_counter() - began
        result.many = asyncio.run(latencies(address, keys))
        result.key_bytes = (own_memory(pid) - empty) / (keys - FEW_KEYS)
        same = [pb.WatchCreateRequest(key=key(0)) for _ in range(watchers)]
        cost = event_cost(pid, address, same, [key(0)] * EVENTS_ON_ONE, EVENTS_ON_ONE * watchers)
        result.events["on one key"] = asyncio.run(cost)
        ranges = [pb.WatchCreateRequest(key=key(n), range_end=key(n + 1)) for n in range(watchers)]
        puts = [key(n * 7919 % watchers) for n in range(EVENTS_ON_RANGES)]
        cost = event_cost(pid, address, ranges, puts, EVENTS_ON_RANGES)
        result.events["on ranges of their own"] = asyncio.run(cost)
    return result


def bare_event_cost(watchers: int) -> tuple[float, float]:
    """The cost of an event for all watchers of one key, for a server that only writes."""
    with fan_out() as (process, address):
        same = [pb.WatchCreateRequest() for _ in range(watchers)]
        puts = [key(0)] * EVENTS_ON_ONE
        return asyncio.run(event_cost(process.pid, address, same, puts, EVENTS_ON_ONE * watchers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--watchers", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="listwatch-scale-") as name:
        theirs = measure(etcd_server, Path(name) / "etcd", arguments.keys, arguments.watchers)
        mine = measure(our_server, Path(name) / "ours", arguments.keys, arguments.watchers)
    bare_cpu, bare_wall = bare_event_cost(arguments.watchers)
    rows: list[Row] = []

    def pair(what: str, their_value: float, our_value: float, unit: str) -> None:
        rows.append(Row(f"{what}, etcd", their_value, unit))
        rows.append(Row(f"{what}, ours", our_value, unit, "etcd", our_value / their_value))

    pair("memory a key", theirs.key_bytes, mine.key_bytes, "bytes")
    pair("start until the first answer", theirs.start, mine.start, "s")
    pair("filling", theirs.fill, mine.fill, "puts/s")
    for call in ("put", "get", "watch"):
        pair(f"{call} latency, {FEW_KEYS} keys", theirs.few[call], mine.few[call], "ms")
        pair(f"{call} latency, {arguments.keys} keys", theirs.many[call], mine.many[call], "ms")
    for where, (cpu, wall) in mine.events.items():
        their_cpu, their_wall = theirs.events[where]
        pair(f"CPU an event, {arguments.watchers} watchers {where}", their_cpu, cpu, "us")
        pair(f"time an event, {arguments.watchers} watchers {where}", their_wall, wall, "us")
    cpu, wall = mine.events["on one key"]
    bare = f"{arguments.watchers} watchers on one key, bare grpcio"
    rows.append(Row(f"CPU an event, {bare}", bare_cpu, "us"))
    rows.append(Row(f"time an event, {bare}", bare_wall, "us"))
    rows.append(Row("CPU an event, ours beside it", cpu, "us", "bare grpcio", cpu / bare_cpu))
    rows.append(Row("time an event, ours beside it", wall, "us", "bare grpcio", wall / bare_wall))
    show(f"{arguments.keys} keys of {VERSIONS} versions, values of {len(VALUE)} bytes", rows)


if __name__ == "__main__":
    main()
