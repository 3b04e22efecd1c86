"""Locks and elections inside the server: the same script on ours and on a real etcd, then what only we promise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message

from kvstore.api import DeleteRange, Range
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.differential import ANSWERS, Answer, Operation, Side

LOCK, ELECTION, LEASE = "/v3lockpb.Lock/", "/v3electionpb.Election/", "/etcdserverpb.Lease/"
TIMEOUT = 10.0
M = TypeVar("M", bound=Message)


@pytest.fixture(scope="module")
def fresh_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of this module alone: the tests compare revisions."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as endpoint:
        yield endpoint


async def ask(side: Side, path: str, request: Message) -> Answer:
    async with asyncio.timeout(TIMEOUT):
        return await side.call(Operation(path, request))


async def got(side: Side, path: str, request: Message, kind: type[M]) -> M:
    answer = await ask(side, path, request)
    assert isinstance(answer, kind), answer
    return answer


async def waiting(side: Side, path: str, request: Message, prefix: bytes, keys: int) -> asyncio.Task[Answer]:
    """A call that is under way, once its key stands in the queue."""
    task = asyncio.create_task(side.call(Operation(path, request)))
    everything = pb.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0", count_only=True)
    async with asyncio.timeout(TIMEOUT):
        while True:
            answer = await side.call(Operation("/etcdserverpb.KV/Range", everything))
            assert isinstance(answer, pb.RangeResponse)
            if answer.count >= keys:
                return task
            assert not task.done(), task.result()


async def grant(side: Side, lease: int) -> None:
    await got(side, LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=600, ID=lease), pb.LeaseGrantResponse)


async def revoke(side: Side, lease: int) -> None:
    await got(side, LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=lease), ANSWERS[LEASE + "LeaseRevoke"])


def text(answer: Answer) -> str:
    if isinstance(answer, Message):
        answer.header.ClearField("cluster_id")  # type: ignore[attr-defined]
        answer.header.ClearField("member_id")  # type: ignore[attr-defined]
        answer.header.ClearField("raft_term")  # type: ignore[attr-defined]
        return str(answer)
    assert isinstance(answer, tuple)
    return f"{answer[0].name} {answer[1]}"


async def locks(side: Side) -> list[str]:
    said = []
    for lease in (0xA1, 0xB2, 0xC3):
        await grant(side, lease)
    first = pb.LockRequest(name=b"l", lease=0xA1)
    said.append(text(await ask(side, LOCK + "Lock", first)))
    said.append(text(await ask(side, LOCK + "Lock", first)))  # again: still its own
    second = await waiting(side, LOCK + "Lock", pb.LockRequest(name=b"l", lease=0xB2), b"l/", 2)
    third = await waiting(side, LOCK + "Lock", pb.LockRequest(name=b"l", lease=0xC3), b"l/", 3)
    said.append(text(await ask(side, LOCK + "Lock", pb.LockRequest(name=b"other", lease=0xB2))))
    said.append(text(await ask(side, LOCK + "Unlock", pb.UnlockRequest(key=b"l/a1"))))
    said.append(text(await second))
    assert not third.done()
    await revoke(side, 0xB2)
    said.append(text(await third))
    unlocks = (pb.UnlockRequest(key=b"l/c3"), pb.UnlockRequest(key=b"none"), pb.UnlockRequest())
    said += [text(await ask(side, LOCK + "Unlock", request)) for request in unlocks]
    said.append(text(await ask(side, LOCK + "Lock", pb.LockRequest(name=b"l", lease=999))))
    # A waiter whose own lease ends never gets the lock.
    said.append(text(await ask(side, LOCK + "Lock", first)))
    await grant(side, 0xD4)
    fourth = await waiting(side, LOCK + "Lock", pb.LockRequest(name=b"l", lease=0xD4), b"l/", 2)
    await revoke(side, 0xD4)
    assert not fourth.done()
    await ask(side, LOCK + "Unlock", pb.UnlockRequest(key=b"l/a1"))
    said.append(text(await fourth))
    return said


async def elections(side: Side) -> list[str]:
    said = []
    for lease in (0xE1, 0xE2):
        await grant(side, lease)
    for method, request in (
        ("Leader", pb.LeaderRequest(name=b"e")),
        ("Proclaim", pb.ProclaimRequest()),
        ("Resign", pb.ResignRequest()),
        ("Campaign", pb.CampaignRequest(name=b"e", lease=999)),
        ("Proclaim", pb.ProclaimRequest(leader=pb.LeaderKey(), value=b"x")),
        ("Proclaim", pb.ProclaimRequest(leader=pb.LeaderKey(name=b"e", key=b"e/e1", rev=5, lease=0xE1))),
        ("Resign", pb.ResignRequest(leader=pb.LeaderKey(name=b"e", key=b"e/e1", rev=5, lease=0xE1))),
    ):
        said.append(text(await ask(side, ELECTION + method, request)))
    path = ELECTION + "Campaign"
    elected = await got(side, path, pb.CampaignRequest(name=b"e", lease=0xE1, value=b"one"), pb.CampaignResponse)
    leader = elected.leader
    said.append(text(elected))
    said.append(text(await ask(side, path, pb.CampaignRequest(name=b"e", lease=0xE1, value=b"uno"))))
    second = await waiting(side, path, pb.CampaignRequest(name=b"e", lease=0xE2, value=b"two"), b"e/", 2)
    said.append(text(await ask(side, ELECTION + "Leader", pb.LeaderRequest(name=b"e"))))
    said.append(text(await ask(side, ELECTION + "Proclaim", pb.ProclaimRequest(leader=leader, value=b"eins"))))
    assert not second.done()
    resign = pb.ResignRequest(leader=leader)  # the second time it leads no more, which is no error
    said += [text(await ask(side, ELECTION + "Resign", resign)) for _ in range(2)]
    said.append(text(await second))
    said.append(text(await ask(side, ELECTION + "Proclaim", pb.ProclaimRequest(leader=leader, value=b"late"))))
    said.append(text(await ask(side, ELECTION + "Leader", pb.LeaderRequest(name=b"e"))))
    return said


async def observed(side: Side, endpoint: str) -> list[str]:
    """What an observer is told, from before there is a leader until after there was a second one."""
    for lease in (0xF1, 0xF2):
        await grant(side, lease)
    said = []
    async with grpc.aio.insecure_channel(endpoint) as channel, asyncio.timeout(TIMEOUT):
        stream = channel.unary_stream(ELECTION + "Observe", None, None)(pb.LeaderRequest(name=b"o").SerializeToString())

        async def tell() -> None:
            data = await stream.read()
            assert isinstance(data, bytes)
            said.append(text(pb.LeaderResponse.FromString(data)))

        first = await got(
            side,
            ELECTION + "Campaign",
            pb.CampaignRequest(name=b"o", lease=0xF1, value=b"one"),
            pb.CampaignResponse,
        )
        await tell()
        proclaim = pb.ProclaimRequest(leader=first.leader, value=b"two")
        await got(side, ELECTION + "Proclaim", proclaim, pb.ProclaimResponse)
        await tell()
        next_one = pb.CampaignRequest(name=b"o", lease=0xF2, value=b"three")
        second = await waiting(side, ELECTION + "Campaign", next_one, b"o/", 2)
        await got(side, ELECTION + "Resign", pb.ResignRequest(leader=first.leader), pb.ResignResponse)
        await second
        await tell()
        stream.cancel()
    return said


async def test_as_etcd_does(fresh_etcd: str, endpoint: str) -> None:
    transcripts = []
    for address in (fresh_etcd, endpoint):
        side = Side(address)
        transcripts.append([*await locks(side), *await elections(side), *await observed(side, address)])
        await side.close()
    for theirs, ours in zip(*transcripts, strict=True):
        assert ours == theirs


async def test_without_a_lease_the_server_makes_one(node: Node, endpoint: str) -> None:
    side = Side(endpoint)
    locked = await got(side, LOCK + "Lock", pb.LockRequest(name=b"l"), pb.LockResponse)
    (lease,) = node.leases()
    assert locked.key == b"l/%x" % lease
    assert node.lease_time_to_live(lease)[1] == 60
    await side.close()


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        (LOCK + "Lock", pb.LockRequest(name=b"q", lease=2)),
        (ELECTION + "Campaign", pb.CampaignRequest(name=b"q", lease=2)),
    ],
)
async def test_a_waiter_that_goes_leaves_the_queue(node: Node, endpoint: str, path: str, request_: Message) -> None:
    side = Side(endpoint)
    for lease in (1, 2):
        await node.lease_grant(600, lease)
    await ask(side, LOCK + "Lock", pb.LockRequest(name=b"q", lease=1))
    waiter = await waiting(side, path, request_, b"q/", 2)
    watch = node.watch_stream()
    watch.create(key=b"q/2")
    await watch.next()
    waiter.cancel()
    async with asyncio.timeout(TIMEOUT):
        (event,) = (await watch.next()).events
    assert event.key == b"q/2"
    watch.close()
    assert node.range(Range(b"q/", b"q0")).count == 1
    await side.close()


async def test_many_waiters_get_their_turn_in_order(node: Node, endpoint: str) -> None:
    side = Side(endpoint)
    turns: list[int] = []

    async def take(lease: int) -> None:
        held = await side.call(Operation(LOCK + "Lock", pb.LockRequest(name=b"m", lease=lease)))
        assert isinstance(held, pb.LockResponse)
        turns.append(lease)
        await node.delete_range(DeleteRange(held.key))

    for lease in range(1, 31):
        await node.lease_grant(600, lease)
    await ask(side, LOCK + "Lock", pb.LockRequest(name=b"m", lease=1))
    takers = []
    async with asyncio.timeout(TIMEOUT):
        for lease in range(2, 31):
            takers.append(asyncio.create_task(take(lease)))
            while node.range(Range(b"m/", b"m0")).count < lease:
                await asyncio.sleep(0)
        await node.delete_range(DeleteRange(b"m/1"))
        await asyncio.gather(*takers)
    assert turns == list(range(2, 31))
    await side.close()


async def test_stopping_ends_waiters(node: Node) -> None:
    async with Server(node, ["http://127.0.0.1:0"]) as server:
        side = Side(server.client_urls[0].removeprefix("http://"))
        for lease in (1, 2):
            await node.lease_grant(600, lease)
        await ask(side, LOCK + "Lock", pb.LockRequest(name=b"s", lease=1))
        waiter = await waiting(side, LOCK + "Lock", pb.LockRequest(name=b"s", lease=2), b"s/", 2)
        async with asyncio.timeout(TIMEOUT):
            await server.stop(grace=0.1)
            answer = await waiter
        assert isinstance(answer, tuple)
        assert answer[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await side.close()
