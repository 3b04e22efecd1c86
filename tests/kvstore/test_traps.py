"""What servers that imitate etcd get wrong: each of these traps has a test, here or where `ELSEWHERE` says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from kvstore import conformance
from kvstore.api import DeleteRange, Put, Range
from kvstore.client import RemoteClient
from kvstore.errors import Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from kvstore.server.edge import MIN_PING_INTERVAL_MS
from kvstore.watch import MAX_RESPONSE_BYTES
from tests.kvstore.hostile import GOAWAY, PING, frame, raw
from tests.robustness.server import serving

LOCAL = "http://127.0.0.1:0"

ELSEWHERE = {
    "1 the header of a read of the past has the current revision": (
        "conformance.py::_reads_of_the_past_carry_the_current_revision"
    ),
    "2 the count does not depend on the limit": "conformance.py::_limit_more_and_count",
    "3 a watch below the compaction: created, then cancelled without a revision": (
        "test_traps.py::test_a_watch_below_the_compaction_is_created_and_then_cancelled"
    ),
    "4 a tombstone at the compaction revision is kept": (
        "test_store.py::test_a_tombstone_at_the_compaction_revision_still_reaches_a_watch_from_there"
    ),
    "5 progress goes the way of events, and to nobody without watches": (
        "test_traps.py::test_progress_is_told_after_what_it_covers_and_only_when_asked_for"
    ),
    "6 id -1 never comes unasked": "test_traps.py::test_progress_is_told_after_what_it_covers_and_only_when_asked_for",
    "7 a half-closed watch goes on": "test_server.py::test_a_watch_outlives_the_clients_half_close",
    "8 a stopping server ends streams as Unavailable": (
        "test_server.py::test_a_client_that_does_not_read_cannot_hold_up_the_stop"
    ),
    "9 pings every 5 s are allowed": "test_traps.py::test_who_pings_too_often_is_cut_off",
    "10 a limit of 2 MiB on what is received, none on what is sent": (
        "test_server.py::test_messages_over_the_limit_are_refused_in_etcds_words"
    ),
    "11 keep-alive of an unknown lease: TTL 0; time to live: -1": "conformance.py::_an_unknown_lease",
    "12 the smallest TTL is 2": "test_client_suite.py::test_the_smallest_ttl_is_two_seconds",
    "13 headers inside a transaction": "test_traps.py::test_headers_inside_a_transaction",
    "14 comparing the value of a missing key is false": "conformance.py::_compares_of_a_missing_key",
    "15 a response has whole revisions": "conformance.py::_all_events_of_a_revision_come_together",
    "16 created comes before events": "test_traps.py::test_created_comes_before_events",
    "17 on disk before it is answered or told": (
        "test_store.py::test_nothing_is_readable_watchable_or_acknowledged_before_it_is_on_disk"
    ),
    "18 no revision is lost to a crash in a compaction": (
        "test_traps.py::test_a_server_that_dies_in_a_compaction_keeps_its_revision"
    ),
    "19 a negative start is refused": "test_client_suite.py::test_a_negative_start_is_refused",
    "20 who starts in the future hears nothing before": (
        "test_traps.py::test_who_starts_in_the_future_hears_nothing_before"
    ),
    "21 catching up is bounded by bytes, and writers go on meanwhile": (
        "test_traps.py::test_catching_up_is_bounded_by_bytes_and_writers_go_on"
    ),
    "22 the version is one that Kubernetes trusts": ("test_apiserver.py::test_what_it_asks_before_it_trusts_a_store"),
    "23 leases restart with their full TTL": "test_lease.py::test_a_restart_gives_every_lease_its_full_time_again",
    "24 prev_kv is there, whatever is compacted meanwhile": (
        "test_traps.py::test_prev_kv_is_there_whatever_is_compacted_meanwhile"
    ),
    "25 RangeStream": "test_range_stream.py::test_the_chunks_together_are_the_range",
}


@pytest.mark.parametrize("trap", ELSEWHERE, ids=lambda trap: trap.split()[0])
def test_every_trap_has_its_test(trap: str) -> None:
    file, _, name = ELSEWHERE[trap].partition("::")
    # What every client has to meet is in the checks that test_client_suite.py runs on ours and on a real etcd.
    here = Path(__file__).with_name(file)
    assert f"def {name}(" in (here if here.exists() else Path(conformance.__file__)).read_text()


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        yield channel


class Watching:
    """A raw watch stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)
        self.call = method()

    async def create(self, **fields: Any) -> None:
        create = pb.WatchCreateRequest(key=b"\0", range_end=b"\0", **fields)
        await self.call.write(pb.WatchRequest(create_request=create).SerializeToString())

    async def ask(self) -> None:
        await self.call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString())

    async def heard(self) -> pb.WatchResponse:
        async with asyncio.timeout(10):
            return pb.WatchResponse.FromString(await self.call.read())


async def put(channel: grpc.aio.Channel, value: bytes = b"") -> int:
    method: Any = channel.unary_unary("/etcdserverpb.KV/Put", None, None)
    answer = pb.PutResponse.FromString(await method(pb.PutRequest(key=b"a", value=value).SerializeToString()))
    return answer.header.revision


async def test_a_watch_below_the_compaction_is_created_and_then_cancelled(channel: grpc.aio.Channel) -> None:
    for _ in range(3):
        last = await put(channel)
    method: Any = channel.unary_unary("/etcdserverpb.KV/Compact", None, None)
    await method(pb.CompactionRequest(revision=last).SerializeToString())
    watching = Watching(channel)
    await watching.create(start_revision=last - 1)
    created, cancelled = await watching.heard(), await watching.heard()
    assert (created.created, created.canceled, created.header.revision, created.compact_revision) == (
        True,
        False,
        last,
        0,
    )
    assert (cancelled.created, cancelled.canceled, cancelled.compact_revision) == (False, True, last)
    assert (cancelled.header.revision, cancelled.cancel_reason) == (0, "")
    assert cancelled.header.member_id  # Go's client reads it without looking
    await watching.create(start_revision=last)
    assert (await watching.heard()).created
    assert [event.kv.mod_revision for event in (await watching.heard()).events] == [last]
    watching.call.cancel()


async def test_progress_is_told_after_what_it_covers_and_only_when_asked_for(channel: grpc.aio.Channel) -> None:
    watching = Watching(channel)
    await watching.ask()  # without a watch: no answer, neither now nor later
    await watching.create()
    assert (await watching.heard()).created
    for _ in range(20):
        revisions = [await put(channel) for _ in range(5)]
        await watching.ask()
        told: list[int] = []
        while (response := await watching.heard()).watch_id != -1:
            told += [event.kv.mod_revision for event in response.events]
        assert told == revisions
        assert not response.events
        assert response.header.revision == revisions[-1]
    watching.call.cancel()


async def test_created_comes_before_events(channel: grpc.aio.Channel) -> None:
    for _ in range(50):
        await put(channel)
    watching = Watching(channel)
    writing = asyncio.gather(*(put(channel) for _ in range(100)))
    for _ in range(50):
        await watching.create(start_revision=2)
    created: set[int] = set()
    last = dict.fromkeys(range(50), 1)
    await writing
    while len(created) < 50 or min(last.values()) < 151:
        response = await watching.heard()
        if response.created:
            created.add(response.watch_id)
        assert response.watch_id in created
        for event in response.events:
            assert event.kv.mod_revision == last[response.watch_id] + 1
            last[response.watch_id] += 1
    watching.call.cancel()


async def test_who_starts_in_the_future_hears_nothing_before(channel: grpc.aio.Channel) -> None:
    now = await put(channel)
    watching = Watching(channel)
    await watching.create(start_revision=now + 5)
    created = await watching.heard()
    assert (created.created, created.header.revision) == (True, now)
    await watching.ask()
    for _ in range(5):
        last = await put(channel)
    response = await watching.heard()
    if response.watch_id == -1:  # the question, answered when the answer means something
        assert response.header.revision >= now + 4
        response = await watching.heard()
    assert [event.kv.mod_revision for event in response.events] == [last]
    watching.call.cancel()


async def test_headers_inside_a_transaction(channel: grpc.aio.Channel) -> None:
    inner = pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"b"))])
    request = pb.TxnRequest(
        success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a")), pb.RequestOp(request_txn=inner)]
    )
    method: Any = channel.unary_unary("/etcdserverpb.KV/Txn", None, None)
    answer = pb.TxnResponse.FromString(await method(request.SerializeToString()))
    header = answer.responses[0].response_put.header
    assert (header.revision, header.cluster_id, header.member_id) == (answer.header.revision, 0, 0)
    nested = answer.responses[1].response_txn
    assert nested.HasField("header")
    assert nested.header == pb.ResponseHeader()


async def test_who_pings_too_often_is_cut_off(endpoint: str) -> None:
    assert MIN_PING_INTERVAL_MS == 5_000  # kube-apiserver pings every 30 s, gRPC alone would allow one in 5 minutes
    pings = 0
    async with raw(endpoint) as connection, asyncio.timeout(10):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while pings < 100:
                connection.say(frame(PING, 0, 0, b"%8d" % pings))
                pings += 1
                while (heard := await connection.heard())[0] not in (PING, GOAWAY):
                    pass
                if heard[0] == GOAWAY:
                    assert heard[3][8:] == b"too_many_pings"
                    break
    assert pings < 10


@pytest.mark.parametrize("point", ["after-compaction", "in-removal", "before-compaction-end"])
async def test_a_server_that_dies_in_a_compaction_keeps_its_revision(tmp_path: Path, point: str) -> None:
    """A compaction at the last revision, a deletion, leaves nothing of it: what is left must not say how far it was."""
    async with serving(tmp_path, failpoint=f"{point}:1") as (process, address), RemoteClient([address]) as client:
        for key in (b"a", b"b", b"c"):
            await client.put(key, bytes(1000))
        deleted = await client.delete(b"\0", range_end=b"\0")
        last = deleted.header.revision
        with pytest.raises(Unavailable):
            await client.compact(last, physical=True)
        assert await process.wait() == -signal.SIGKILL
    for _ in range(2):  # what goes on with the compaction, and what comes after it
        async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
            assert (node.revision, node.compacted) == (last, last)
            assert node.range(Range(b"\0", b"\0")).count == 0
            if node._compaction is not None:
                await node._compaction
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        assert (await node.put(Put(b"a"))).revision == last + 1


async def test_catching_up_is_bounded_by_bytes_and_writers_go_on(tmp_path: Path) -> None:
    size, revisions = 100_000, 400
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node, Server(node, [LOCAL]) as server:
        await asyncio.gather(*(node.put(Put(b"history", bytes(size))) for _ in range(revisions)))
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await node.put(Put(b"written", b"%d" % written))
                written += 1

        endpoint = server.client_urls[0].removeprefix("http://")
        unbounded = (("grpc.max_receive_message_length", -1),)
        async with grpc.aio.insecure_channel(endpoint, options=unbounded) as channel:
            watching = Watching(channel)
            writing = asyncio.create_task(write())
            await watching.create(start_revision=2)
            behind: list[int] = []  # how much was written before each response from history
            while True:
                response = await watching.heard()
                assert response.ByteSize() < MAX_RESPONSE_BYTES + size + 1000, "a response ends with a whole revision"
                old = [event for event in response.events if event.kv.mod_revision <= revisions + 1]
                if old:
                    behind.append(written)
                    if old[-1].kv.mod_revision == revisions + 1:
                        break
            writing.cancel()
            watching.call.cancel()
        assert len(behind) >= revisions * size // (MAX_RESPONSE_BYTES + size)
        alone = [len(list(pieces)) for _, pieces in itertools.groupby(behind)]
        assert max(alone) < len(behind) / 4, f"writers stood still during {max(alone)} of {len(behind)} responses"


@pytest.mark.parametrize("live", [True, False], ids=["waiting for its reader", "in history"])
async def test_prev_kv_is_there_whatever_is_compacted_meanwhile(tmp_path: Path, live: bool) -> None:
    size = 50_000
    async with (
        Node.open(tmp_path, NodeOptions(fsync=False, outbox_bytes=20 * size)) as node,
        Server(node, [LOCAL]) as server,
        grpc.aio.insecure_channel(server.client_urls[0].removeprefix("http://")) as channel,
    ):
        value: bytes | None = None
        replaced: dict[int, bytes | None] = {}  # by the revision that replaced it

        async def change(number: int) -> None:
            nonlocal value
            before, value = value, None if number % 7 == 0 else b"%d" % number + bytes(size)
            done = await (node.delete_range(DeleteRange(b"a")) if value is None else node.put(Put(b"a", value)))
            replaced[done.revision] = before

        for number in range(1, 11):
            await change(number)
        watching = Watching(channel)
        if live:
            await watching.create(prev_kv=True)
            assert (await watching.heard()).created
            first = node.revision + 1
        for number in range(11, 31):  # read by nobody, more than the server and the connection hold
            await change(number)
        await node.compact(node.revision - 5)
        if not live:
            first = node.compacted + 1
            await watching.create(prev_kv=True, start_revision=first)
            assert (await watching.heard()).created
        last = node.revision
        told: list[int] = []
        while not told or told[-1] < last:
            response = await watching.heard()
            if response.canceled:  # too far behind to be told everything
                assert response.compact_revision == node.compacted
                break
            for event in response.events:
                told.append(event.kv.mod_revision)
                assert (event.prev_kv.value or None) == replaced[told[-1]], told[-1]
        watching.call.cancel()
    assert told == list(range(first, first + len(told)))
    assert told[0] < node.compacted if live else told[-1] == last
