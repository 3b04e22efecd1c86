"""RangeStream: chunks whose merge is the Range, at one revision, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from kvstore.api import DeleteRange, Put, Txn
from kvstore.errors import Compacted
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.range_stream import RangeStreamService
from kvstore.services.wire import Headers

PATH = "/etcdserverpb.KV/RangeStream"
TIMEOUT = 20.0


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint, options=(("grpc.max_receive_message_length", -1),)) as channel:
        yield channel


async def chunks(channel: grpc.aio.Channel, request: pb.RangeRequest) -> list[pb.RangeResponse]:
    stream = channel.unary_stream(PATH, None, None)(request.SerializeToString())
    async with asyncio.timeout(TIMEOUT):
        return [pb.RangeStreamResponse.FromString(data).range_response async for data in stream]


async def plain(channel: grpc.aio.Channel, request: pb.RangeRequest) -> pb.RangeResponse:
    data: bytes = await channel.unary_unary("/etcdserverpb.KV/Range", None, None)(request.SerializeToString())
    return pb.RangeResponse.FromString(data)


def merged(parts: list[pb.RangeResponse]) -> pb.RangeResponse:
    whole = pb.RangeResponse()
    for part in parts:
        whole.MergeFrom(part)
    return whole


async def fill(node: Node, keys: int, size: int = 10) -> None:
    for start in range(0, keys, 10):
        puts = tuple(Put(b"k%06d" % number, bytes(size)) for number in range(start, min(start + 10, keys)))
        await node.txn(Txn(success=puts))


async def test_the_chunks_together_are_the_range(node: Node, channel: grpc.aio.Channel) -> None:
    rng = random.Random(1)
    for _ in range(400):
        key = b"k%03d" % rng.randrange(150)
        if rng.random() < 0.2:
            await node.delete_range(DeleteRange(key))
        else:
            await node.put(Put(key, rng.randbytes(rng.choice([0, 10, 3000]))))
    revision = node.revision
    for request in (
        pb.RangeRequest(key=b"\0", range_end=b"\0"),
        pb.RangeRequest(key=b"k050", range_end=b"k090"),
        pb.RangeRequest(key=b"k050", range_end=b"k090", limit=15),
        pb.RangeRequest(key=b"\0", range_end=b"\0", limit=10),
        pb.RangeRequest(key=b"\0", range_end=b"\0", limit=11),
        pb.RangeRequest(key=b"\0", range_end=b"\0", limit=-3),
        pb.RangeRequest(key=b"\0", range_end=b"\0", limit=1000),
        pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision - 100),
        pb.RangeRequest(key=b"\0", range_end=b"\0", revision=-1, sort_order=pb.RangeRequest.ASCEND),
        pb.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True, sort_target=pb.RangeRequest.VALUE),
        pb.RangeRequest(key=b"\0", range_end=b"\0", count_only=True),
        pb.RangeRequest(key=b"k001"),
        pb.RangeRequest(key=b"nothing"),
        pb.RangeRequest(key=b"z", range_end=b"a"),
    ):
        parts = await chunks(channel, request)
        if not request.sort_target:
            assert merged(parts) == await plain(channel, request), request
        assert not any(part.HasField("header") or part.more or part.count for part in parts[:-1])
        assert parts[-1].HasField("header")
        assert len(parts[0].kvs) <= 10


async def test_chunks_grow_to_the_size_of_a_request_and_no_further(node: Node, channel: grpc.aio.Channel) -> None:
    await fill(node, 3000, size=6000)
    parts = await chunks(channel, pb.RangeRequest(key=b"k", range_end=b"l"))
    sizes = [part.ByteSize() for part in parts]
    assert max(sizes) < 4 * node.options.max_request_bytes
    assert len(parts) < 30
    assert [len(part.kvs) for part in parts][:4] == [10, 20, 40, 80]
    assert sum(len(part.kvs) for part in parts) == parts[-1].count == 3000


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        (pb.RangeRequest(), "INVALID_ARGUMENT", "etcdserver: key is not provided"),
        (pb.RangeRequest(key=b"k", sort_order=9), "INVALID_ARGUMENT", "etcdserver: invalid sort option"),
        (pb.RangeRequest(key=b"k", sort_order=2), "UNIMPLEMENTED", "RangeStream does not support custom sort orders"),
        (
            pb.RangeRequest(key=b"k", sort_order=1, sort_target=1, min_mod_revision=1),
            "UNIMPLEMENTED",
            "RangeStream does not support custom sort orders",
        ),
        (
            pb.RangeRequest(key=b"k", max_create_revision=1),
            "UNIMPLEMENTED",
            "RangeStream does not support revision filters",
        ),
        (
            pb.RangeRequest(key=b"k", revision=99),
            "OUT_OF_RANGE",
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ],
)
async def test_refusals(channel: grpc.aio.Channel, request_: pb.RangeRequest, code: str, says: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chunks(channel, request_)
    assert (caught.value.code().name, caught.value.details()) == (code, says)


async def streamed(node: Node, request: pb.RangeRequest, between: Callable[[], Awaitable[object]]) -> pb.RangeResponse:
    """What the service sends, with something done after its first chunk."""
    parts: list[pb.RangeResponse] = []

    async def requests() -> AsyncIterator[pb.RangeRequest]:
        yield request

    async def send(data: bytes) -> None:
        parts.append(pb.RangeStreamResponse.FromString(data).range_response)
        if len(parts) == 1:
            await between()

    await RangeStreamService(node, Headers(node)).range_stream(requests(), send)
    assert len(parts) > 3
    return merged(parts)


async def test_writes_meanwhile_are_not_seen(node: Node, channel: grpc.aio.Channel) -> None:
    await fill(node, 400)
    request = pb.RangeRequest(key=b"k", range_end=b"l")
    expected = await plain(channel, request)

    async def write() -> None:
        await node.delete_range(DeleteRange(b"k000399"))
        await node.put(Put(b"k0000001", b"new"))
        await node.put(Put(b"k000200", b"changed"))

    assert await streamed(node, request, write) == expected


async def test_a_compaction_that_overtakes_it_ends_it(node: Node, channel: grpc.aio.Channel) -> None:
    await fill(node, 400)
    request = pb.RangeRequest(key=b"k", range_end=b"l")
    expected = await plain(channel, request)
    # At the revision that is read it takes nothing away.
    assert await streamed(node, request, lambda: node.compact(node.revision)) == expected

    async def overtake() -> None:
        await node.put(Put(b"k", b"1"))
        await node.compact(node.revision)

    with pytest.raises(Compacted):
        await streamed(node, request, overtake)


async def test_a_client_that_does_not_read_holds_nobody_up(node: Node, channel: grpc.aio.Channel) -> None:
    await fill(node, 400, size=100_000)
    request = pb.RangeRequest(key=b"k", range_end=b"l").SerializeToString()
    stream = channel.unary_stream(PATH, None, None)(request)
    async with asyncio.timeout(TIMEOUT):
        await stream.read()
        before = node.statistics().store
        for number in range(100):
            await node.put(Put(b"other", b"%d" % number))
        assert node.statistics().store.commits > before.commits
        received = 10
        while isinstance(data := await stream.read(), bytes):
            received += len(pb.RangeStreamResponse.FromString(data).range_response.kvs)
    assert received == 400
