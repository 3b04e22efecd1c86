"""Alarms: what raises them, what they refuse, what ends them; beside a real etcd."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import pytest

from kvstore.alarms import Alarm, AlarmType
from kvstore.api import DeleteRange, Put, Range, Txn
from kvstore.errors import CorruptCluster, NoSpace
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import Server
from tests.etcd_process import running_etcd
from tests.kvstore.differential import Answer, Operation, Side, normal

ALARM, STATUS = "/etcdserverpb.Maintenance/Alarm", "/etcdserverpb.Maintenance/Status"
KV, LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
QUOTA = 2 << 20
SMALL = NodeOptions(fsync=False, quota_bytes=QUOTA)

Sides: TypeAlias = "tuple[Side, Side]"


@pytest.fixture
async def sides(tmp_path: Path, endpoint: str) -> AsyncIterator[Sides]:
    """A real etcd of this test alone, and ours."""
    (tmp_path / "etcd").mkdir()
    with running_etcd(tmp_path / "etcd") as etcd:
        pair = Side(etcd), Side(endpoint)
        yield pair
        for side in pair:
            await side.close()


async def member_of(side: Side) -> int:
    answer = await side.call(Operation(STATUS, pb.StatusRequest()))
    assert isinstance(answer, pb.StatusResponse)
    return answer.leader


def ops(*, put: bool = False, delete: bool = False) -> list[pb.RequestOp]:
    if put:
        return [pb.RequestOp(request_put=pb.PutRequest(key=b"a"))]
    if delete:
        return [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"a"))]
    return [pb.RequestOp(request_range=pb.RangeRequest(key=b"a"))]


EVERY_KIND = [
    Operation(KV + "Put", pb.PutRequest(key=b"a")),
    Operation(KV + "Put", pb.PutRequest()),
    Operation(KV + "Put", pb.PutRequest(key=b"a", lease=55)),
    Operation(KV + "Range", pb.RangeRequest(key=b"a")),
    Operation(KV + "Range", pb.RangeRequest(key=b"a", serializable=True)),
    Operation(KV + "Txn", pb.TxnRequest(success=ops())),
    Operation(KV + "Txn", pb.TxnRequest(success=ops(delete=True))),
    Operation(KV + "Txn", pb.TxnRequest(success=ops(put=True))),
    Operation(KV + "Txn", pb.TxnRequest(failure=ops(put=True))),
    Operation(KV + "DeleteRange", pb.DeleteRangeRequest(key=b"a")),
    Operation(LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=100, ID=9)),
    Operation(LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=8)),
    Operation(LEASE + "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=8)),
    Operation(KV + "Compact", pb.CompactionRequest(revision=2)),
    Operation(STATUS, pb.StatusRequest()),
    Operation(ALARM, pb.AlarmRequest()),
]


async def told(side: Side, operation: Operation) -> str:
    answer = await side.call(operation)
    return normal(operation.request, answer).replace(str(await member_of(side)), "ME")


@pytest.mark.parametrize("kind", [pb.AlarmRequest(alarm=1), pb.AlarmRequest(alarm=2)], ids=["NOSPACE", "CORRUPT"])
async def test_what_an_alarm_refuses(sides: Sides, kind: pb.AlarmRequest) -> None:
    transcripts = []
    for side in sides:
        me = await member_of(side)
        steps = (
            Operation(KV + "Put", pb.PutRequest(key=b"a", value=b"1")),
            Operation(LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=100, ID=8)),
            Operation(ALARM, pb.AlarmRequest(action=1, alarm=kind.alarm, memberID=me)),
            *EVERY_KIND,
            Operation(ALARM, pb.AlarmRequest(action=2, alarm=kind.alarm, memberID=me)),
            *EVERY_KIND,
        )
        shown = [f"{step.path} {step.request}".replace(str(me), "ME") for step in steps]
        transcripts.append([f"{what}\n{await told(side, step)}" for what, step in zip(shown, steps, strict=True)])
    for theirs, ours in zip(*transcripts, strict=True):
        assert theirs == ours
    refused = sum("database space exceeded" in each or "corrupt cluster" in each for each in transcripts[1])
    assert refused == (5 if kind.alarm == 1 else 9)


async def test_raising_and_ending_them(sides: Sides) -> None:
    def request(action: int, alarm: int = 0, member: int = 0) -> Operation:
        return Operation(ALARM, pb.AlarmRequest(action=action, alarm=alarm, memberID=member))

    transcripts = []
    for side in sides:
        me = await member_of(side)
        steps = [
            request(0),
            request(1),  # NONE cannot be raised
            request(1, 1),  # without a member
            request(1, 1),
            request(1, 1, me),
            request(1, 2, 77),
            request(0),
            request(0, 1),
            request(0, 2),
            request(0, 0, 12345),  # the member does not matter when they are listed
            Operation(STATUS, pb.StatusRequest()),
            request(2),
            request(2, 1, 5),
            request(2, 1),
            request(2, 1),
            request(2, 1, me),
            request(2, 2, 77),
            request(2, 9, 77),
            request(0),
        ]
        # etcd lists them in any order.
        transcripts.append(
            [sorted(each.strip() for each in re.split(r"alarms|[\[\],]", await told(side, step))) for step in steps]
        )
    assert transcripts[0] == transcripts[1]


# ---- a full store ---------------------------------------------------------------------------------------------------


async def fill(node: Node) -> int:
    """Put until there is no room; how many puts there was room for."""
    for number in range(10_000):
        try:
            await node.put(Put(b"k%04d" % (number % 20), bytes(10_000)))
        except NoSpace:
            return number
    raise AssertionError("the quota was never reached")


def raised(node: Node) -> list[Alarm]:
    return node.maintenance.alarms.raised()


async def test_the_quota_raises_nospace_and_only_an_operator_ends_it(tmp_path: Path) -> None:
    async with Node.open(tmp_path, SMALL) as node:
        await node.lease_grant(1000, 4)
        assert await fill(node) > 20
        alarm = Alarm(AlarmType.NOSPACE, node.member_id)
        assert raised(node) == [alarm]
        with pytest.raises(NoSpace):
            await node.lease_grant(100)
        assert len(node.range(Range(b"\0", b"\0")).rows) == 20
        assert await node.lease_keep_alive(4) == 1000
        await node.lease_revoke(4)
        assert (await node.delete_range(DeleteRange(b"k0000"))).deleted == 1
        await node.compact(node.revision, physical=True)
        with pytest.raises(NoSpace):  # there is room, but nobody said so
            await node.put(Put(b"a"))
    async with Node.open(tmp_path, SMALL) as node:
        assert raised(node) == [alarm]
        with pytest.raises(NoSpace):
            await node.txn(Txn(failure=(Put(b"a"),)))
        assert await node.maintenance.alarms.deactivate(alarm.type, alarm.member_id) == alarm
        await node.put(Put(b"a"))
    async with Node.open(tmp_path, SMALL) as node:
        assert raised(node) == []


async def test_disarmed_without_room_it_is_raised_again(tmp_path: Path) -> None:
    async with Node.open(tmp_path, SMALL) as node:
        await fill(node)
        await node.maintenance.alarms.deactivate(AlarmType.NOSPACE, node.member_id)
        with pytest.raises(NoSpace):
            await node.put(Put(b"a", bytes(20_000)))
        assert raised(node) == [Alarm(AlarmType.NOSPACE, node.member_id)]


async def test_where_it_is_allowed_room_ends_it(tmp_path: Path) -> None:
    options = NodeOptions(fsync=False, quota_bytes=QUOTA, auto_disarm=True)
    async with Node.open(tmp_path, options) as node:
        await fill(node)
        with pytest.raises(NoSpace):
            await node.put(Put(b"a"))
        assert raised(node)
        await node.compact(node.revision, physical=True)
        assert not raised(node)
        await node.put(Put(b"a"))
        # A write that is refused looks for room too.
        await node.maintenance.alarms.activate(AlarmType.NOSPACE, 7)
        await node.put(Put(b"a"))
        assert not raised(node)
        await node.maintenance.alarms.activate(AlarmType.CORRUPT, 7)
        with pytest.raises(CorruptCluster):
            await node.put(Put(b"a"))
        assert raised(node) == [Alarm(AlarmType.CORRUPT, 7)]


async def test_writers_that_come_together_raise_one_alarm(tmp_path: Path) -> None:
    async with Node.open(tmp_path, SMALL) as node, Server(node, ["http://127.0.0.1:0"]) as server:
        side = Side(server.client_urls[0].removeprefix("http://"))
        put = Operation(KV + "Put", pb.PutRequest(key=b"a", value=bytes(700_000)))
        # What is already on its way when the quota is passed still goes in: those of one commit are judged together.
        await asyncio.gather(*(side.call(put) for _ in range(20)))
        answers: list[Answer] = await asyncio.gather(*(side.call(put) for _ in range(20)))
        refused = [answer for answer in answers if isinstance(answer, tuple)]
        assert len(refused) == 20
        assert {text for _, text in refused} == {"etcdserver: mvcc: database space exceeded"}
        assert raised(node) == [Alarm(AlarmType.NOSPACE, node.member_id)]
        status = await side.call(Operation(STATUS, pb.StatusRequest()))
        assert isinstance(status, pb.StatusResponse)
        assert list(status.errors) == [f"memberID:{node.member_id} alarm:NOSPACE "]
        await side.close()
