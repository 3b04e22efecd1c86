"""A list of 20,000 keys, and a watch that replays 20,000 revisions, over gRPC, against a real etcd.

Both servers are processes of their own and are filled alike. The answers are received as bytes, so that this client,
the same for both, costs as little as it can.

    python -m benchmarks.list_and_replay
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

import grpc

from benchmarks.servers import channels, ours
from benchmarks.table import Row, show
from kvstore.proto import messages as pb
from tests.etcd_process import running_etcd

KEYS = 20_000
VALUE_BYTES = 512
FILL_IN_FLIGHT = 64
LISTS = 15
REPLAYS = 3
LIST_GOAL = 1.0
REPLAY_GOAL = 10.0
PREFIX, END = b"/bench/", b"/bench0"


async def fill(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary("/etcdserverpb.KV/Put", None, None)

    async def put(first: int) -> None:
        for n in range(first, KEYS, FILL_IN_FLIGHT):
            await call(pb.PutRequest(key=PREFIX + b"%08d" % n, value=bytes(VALUE_BYTES)).SerializeToString())

    await asyncio.gather(*(put(first) for first in range(FILL_IN_FLIGHT)))


async def list_seconds(channel: grpc.aio.Channel) -> float:
    """How long one Range of everything takes."""
    clock = asyncio.get_running_loop().time
    request = pb.RangeRequest(key=PREFIX, range_end=END).SerializeToString()
    began = clock()
    data = await channel.unary_unary("/etcdserverpb.KV/Range", None, None)(request)
    took = clock() - began
    assert pb.RangeResponse.FromString(data).count == KEYS
    return took


async def replay_seconds(channel: grpc.aio.Channel) -> float:
    """How long a watch from the first revision takes to give every event."""
    clock = asyncio.get_running_loop().time
    create = pb.WatchCreateRequest(key=PREFIX, range_end=END, start_revision=1)
    began = clock()
    stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)
    await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
    events = 0
    while events < KEYS:
        data = await stream.read()
        assert isinstance(data, bytes)
        events += len(pb.WatchResponse.FromString(data).events)
    took = clock() - began
    stream.cancel()
    return took


async def measure(endpoints: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """The best list and the best replay of each server, in seconds."""
    lists: dict[str, list[float]] = {name: [] for name in endpoints}
    replays: dict[str, list[float]] = {name: [] for name in endpoints}
    async with contextlib.AsyncExitStack() as stack:
        opened = {
            name: (await stack.enter_async_context(channels(endpoint, 1)))[0] for name, endpoint in endpoints.items()
        }
        for channel in opened.values():
            await fill(channel)
        for _ in range(LISTS):
            for name, channel in opened.items():
                lists[name].append(await list_seconds(channel))
        for _ in range(REPLAYS):
            for name, channel in opened.items():
                replays[name].append(await replay_seconds(channel))
    return {name: min(each) for name, each in lists.items()}, {name: min(each) for name, each in replays.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        with running_etcd(path, fsync=True) as etcd, ours(path) as (_, mine):
            lists, replays = asyncio.run(measure({"etcd": etcd, "ours": mine}))
    list_ratio = lists["etcd"] / lists["ours"]
    replay_ratio = replays["etcd"] / replays["ours"]
    show(
        f"{KEYS} keys of {VALUE_BYTES} bytes; the best of {LISTS} lists and {REPLAYS} replays, in turn",
        [
            Row("list, etcd 3.5.1", KEYS / lists["etcd"], "keys/s"),
            Row("list, ours", KEYS / lists["ours"], "keys/s", "etcd", list_ratio, ">= 1.0", list_ratio >= LIST_GOAL),
            Row("replay, etcd 3.5.1", KEYS / replays["etcd"], "events/s"),
            Row(
                "replay, ours",
                KEYS / replays["ours"],
                "events/s",
                "etcd",
                replay_ratio,
                ">= 10",
                replay_ratio >= REPLAY_GOAL,
            ),
        ],
    )


if __name__ == "__main__":
    main()
