"""The calls that Kubernetes' API server makes, in exactly its shapes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from kvstore.proto import messages as pb

KV = "/etcdserverpb.KV/"
PREFIX, END = b"/registry/pods/", b"/registry/pods0"
LEADER = (("hasleader", "true"),)
Answer = TypeVar("Answer", bound=Message)


class ApiServer:
    """Its client: plain calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def call(self, path: str, request: Message, answer: type[Answer]) -> Answer:
        method: Any = self.channel.unary_unary(path, None, None)
        return answer.FromString(await method(request.SerializeToString()))

    async def txn(self, key: bytes, revision: int, then: pb.RequestOp, *other: pb.RequestOp) -> pb.TxnResponse:
        compare = pb.Compare(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=key, mod_revision=revision)
        return await self.call(
            KV + "Txn", pb.TxnRequest(compare=[compare], success=[then], failure=other), pb.TxnResponse
        )

    async def create(self, key: bytes, value: bytes, lease: int = 0) -> pb.TxnResponse:
        return await self.txn(key, 0, put(key, value, lease))

    async def range(self, **fields: Any) -> pb.RangeResponse:
        return await self.call(KV + "Range", pb.RangeRequest(**fields), pb.RangeResponse)


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def get(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def delete(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


@pytest.fixture
async def api(endpoint: str) -> AsyncIterator[ApiServer]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        yield ApiServer(channel)


@pytest.fixture
async def real(etcd: str) -> AsyncIterator[ApiServer]:
    async with grpc.aio.insecure_channel(etcd) as channel:
        yield ApiServer(channel)


async def test_create_update_delete(api: ApiServer) -> None:
    key = PREFIX + b"default/a"
    created = await api.create(key, b"1")
    assert created.succeeded
    revision = created.header.revision
    assert not (await api.create(key, b"other")).succeeded
    assert not (await api.create(key, b"other")).responses  # there is no else
    updated = await api.txn(key, revision, put(key, b"2"), get(key))
    assert updated.succeeded
    stale = await api.txn(key, revision, put(key, b"3"), get(key))
    (kv,) = stale.responses[0].response_range.kvs
    assert (stale.succeeded, kv.value, kv.mod_revision) == (False, b"2", updated.header.revision)
    assert stale.header.revision == updated.header.revision
    refused = await api.txn(key, revision, delete(key), get(key))
    assert refused.responses[0].response_range.kvs[0].value == b"2"
    deleted = await api.txn(key, updated.header.revision, delete(key), get(key))
    assert deleted.succeeded
    assert deleted.responses[0].response_delete_range.deleted == 1
    assert deleted.header.revision == updated.header.revision + 1
    gone = await api.txn(key, updated.header.revision, delete(key), get(key))
    assert not gone.responses[0].response_range.kvs


async def test_lists_in_pages(api: ApiServer) -> None:
    for number in range(25):
        await api.create(PREFIX + b"default/%02d" % number, b"x")
    key, revision, pages, keys = PREFIX, 0, [], []
    while True:
        page = await api.range(key=key, range_end=END, limit=10, revision=revision)
        revision = revision or page.header.revision
        pages.append((len(page.kvs), page.count, page.more))
        keys += [kv.key for kv in page.kvs]
        if not page.more:
            break
        key = page.kvs[-1].key + b"\0"
        await api.create(PREFIX + b"default/late-%d" % len(pages), b"x")  # not in the list, which is of one revision
    assert pages == [(10, 25, True), (10, 15, True), (5, 5, False)]
    assert len(set(keys)) == 25
    later = await api.range(key=PREFIX, range_end=END, limit=1, revision=revision)
    assert later.header.revision > revision
    count = await api.range(key=PREFIX, range_end=END, count_only=True)
    assert (count.count, len(count.kvs), count.more) == (27, 0, False)
    names = await api.range(key=PREFIX, range_end=END, keys_only=True)
    assert {kv.value for kv in names.kvs} == {b""}
    assert (await api.range(key=b"/registry/health")).count == 0


async def test_the_list_as_a_stream(api: ApiServer) -> None:
    for number in range(40):
        await api.create(PREFIX + b"default/%02d" % number, b"x")
    request = pb.RangeRequest(key=PREFIX, range_end=END)
    plain = await api.range(key=PREFIX, range_end=END)
    method: Any = api.channel.unary_stream(KV + "RangeStream", None, None)
    chunks = [
        pb.RangeStreamResponse.FromString(chunk).range_response async for chunk in method(request.SerializeToString())
    ]
    assert len(chunks) > 1
    assert [kv for chunk in chunks for kv in chunk.kvs] == list(plain.kvs)
    assert (chunks[-1].header, chunks[-1].count, chunks[-1].more) == (plain.header, 40, False)


async def test_a_watch_from_a_list(api: ApiServer) -> None:
    key = PREFIX + b"default/a"
    first = (await api.create(key, b"1")).header.revision
    method: Any = api.channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)
    stream = method(metadata=LEADER)
    create = pb.WatchCreateRequest(
        key=PREFIX, range_end=END, start_revision=first + 1, prev_kv=True, progress_notify=True
    )
    await stream.write(pb.WatchRequest(create_request=create).SerializeToString())

    async def heard() -> pb.WatchResponse:
        async with asyncio.timeout(10):
            return pb.WatchResponse.FromString(await stream.read())

    async def heard_events() -> list[pb.Event]:
        while True:
            response = await heard()
            assert not response.canceled
            if response.events:
                return list(response.events)

    created = await heard()
    assert (created.created, created.watch_id, created.header.revision) == (True, 0, first)
    second = (await api.txn(key, first, put(key, b"2"), get(key))).header.revision
    (event,) = await heard_events()
    assert (event.kv.value, event.prev_kv.value, event.kv.mod_revision) == (b"2", b"1", second)
    third = (await api.txn(key, second, delete(key), get(key))).header.revision
    (event,) = await heard_events()
    assert (event.type, event.prev_kv.value, event.kv.mod_revision) == (pb.Event.DELETE, b"2", third)
    # A consistent read from the cache: the store's revision, then progress until the cache has reached it.
    other = (await api.create(b"/registry/other", b"x")).header.revision
    wanted = (await api.range(key=PREFIX, range_end=END, limit=1)).header.revision
    assert wanted == other
    await stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString())
    while (progress := await heard()).watch_id != -1:
        assert not progress.events
    assert progress.header.revision >= wanted
    # Left alone it is told by itself.
    while (progress := await heard()).watch_id == -1:
        pass
    assert not progress.events
    assert progress.header.revision >= wanted
    stream.cancel()


async def test_the_compaction_loop(api: ApiServer) -> None:
    key = b"compact_rev_key"

    async def turn(time: int, revision: int) -> tuple[int, int, int]:
        """(time, revision at that time, what the key said before), as every API server does it by itself."""
        compare = pb.Compare(target=pb.Compare.VERSION, result=pb.Compare.EQUAL, key=key, version=time)
        request = pb.TxnRequest(compare=[compare], success=[put(key, b"%d" % revision)], failure=[get(key)])
        answer = await api.call(KV + "Txn", request, pb.TxnResponse)
        if not answer.succeeded:
            (kv,) = answer.responses[0].response_range.kvs
            return kv.version, answer.header.revision, int(kv.value)
        if revision:
            compaction = pb.CompactionRequest(revision=revision)
            await api.call(KV + "Compact", compaction, pb.CompactionResponse)
        return time + 1, answer.header.revision, revision

    time, first, _ = await turn(0, 0)
    for number in range(5):
        await api.create(PREFIX + b"%d" % number, b"x")
    assert time == 1
    time, second, compacted = await turn(time, first)
    assert (time, compacted) == (2, first)
    # Another API server, which was late, learns where things stand.
    assert await turn(1, first) == (2, second, first)
    await api.range(key=PREFIX, range_end=END, revision=first)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.range(key=PREFIX, range_end=END, revision=first - 1)
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert refused.value.details() == "etcdserver: mvcc: required revision has been compacted"


async def test_compactions_are_watched_on_a_stream_of_its_own(api: ApiServer) -> None:
    """So that snapshots of its cache from before are let go of. Every resource's cache has its stream, too."""
    key = b"compact_rev_key"
    await api.create(key, b"1")
    now = await api.range(key=key)
    method: Any = api.channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)
    plain = pb.WatchCreateRequest(key=key, start_revision=now.header.revision)
    cache = pb.WatchCreateRequest(
        key=PREFIX, range_end=END, start_revision=now.header.revision + 1, prev_kv=True, progress_notify=True
    )
    streams = [(method(metadata=LEADER), plain), (method(metadata=(*LEADER, ("source", "cache"))), cache)]
    for stream, create in streams:
        await stream.write(pb.WatchRequest(create_request=create).SerializeToString())
        created = pb.WatchResponse.FromString(await stream.read())
        assert (created.created, created.canceled, created.watch_id) == (True, False, 0)
    await api.txn(key, now.kvs[0].mod_revision, put(key, b"7"), get(key))
    values: list[bytes] = []
    async with asyncio.timeout(10):
        while len(values) < 2:
            values += [event.kv.value for event in pb.WatchResponse.FromString(await streams[0][0].read()).events]
    assert values == [b"1", b"7"]
    for stream, _ in streams:
        stream.cancel()


async def test_a_resource_version_that_is_not_there_yet(api: ApiServer) -> None:
    now = (await api.create(PREFIX + b"a", b"1")).header.revision
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.range(key=PREFIX, range_end=END, limit=10_000, revision=now + 1)
    assert refused.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert refused.value.details() == "etcdserver: mvcc: required revision is a future revision"
    at = await api.range(key=PREFIX + b"a", limit=1, revision=now)
    assert [kv.mod_revision for kv in at.kvs] == [now]


async def test_objects_that_share_a_lease(api: ApiServer) -> None:
    grant = pb.LeaseGrantRequest(TTL=2)
    lease = await api.call("/etcdserverpb.Lease/LeaseGrant", grant, pb.LeaseGrantResponse)
    for number in range(10):
        assert (await api.create(b"/registry/events/%d" % number, b"x", lease.ID)).succeeded
    events = {"key": b"/registry/events/", "range_end": b"/registry/events0"}
    listed = await api.range(**events)
    assert {kv.lease for kv in listed.kvs} == {lease.ID}
    async with asyncio.timeout(10):
        while (await api.range(**events, count_only=True)).count:
            await asyncio.sleep(0.1)
    # All of them in one revision.
    assert (await api.range(**events)).header.revision == listed.header.revision + 1


async def test_what_it_asks_before_it_trusts_a_store(api: ApiServer) -> None:
    status = await api.call("/etcdserverpb.Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
    assert tuple(map(int, status.version.split("."))) >= (3, 5, 13)
    assert status.dbSize > 0


async def test_the_shapes_of_the_answers_are_etcds(api: ApiServer, real: ApiServer) -> None:
    shapes = []
    for side, key in ((api, b"/shape/a"), (real, b"/shape/a")):
        created = await side.create(key, b"1")
        conflict = await side.txn(key, 1, put(key, b"2"), get(key))
        page = await side.range(key=b"/shape/", range_end=b"/shape0", limit=10)
        shapes.append([fields_of(each) for each in (created, conflict, page)])
    assert shapes[0] == shapes[1]


def fields_of(message: Any) -> Any:
    """Which fields are set, all the way down."""
    if isinstance(message, Message):
        return {field.name: fields_of(value) for field, value in message.ListFields()}
    if hasattr(message, "append"):
        return [fields_of(each) for each in message]
    return None
