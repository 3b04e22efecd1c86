"""etcdserverpb.Maintenance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.alarms import Alarm, AlarmType
from kvstore.errors import Code, KvError, TimedOut
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers, first, integer, nested
from kvstore.snapshot import blobs
from kvstore.version import CLUSTER_VERSION, SERVER_VERSION

READER_TIMEOUT = 60.0  # seconds in which a client takes a blob of a snapshot, or it has stopped reading


class MaintenanceService:
    """What an operator asks of one member."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._headers = headers

    async def status(self, _: pb.StatusRequest) -> bytes:
        """Sizes, version, who leads, and which alarms are raised."""
        node = self._node
        size, in_use = node.db_size()
        status = pb.StatusResponse(
            version=SERVER_VERSION,
            dbSize=size,
            dbSizeInUse=in_use,
            leader=node.member_id,
            # One member keeps no raft log: the revision grows with every write, which is what readers compare.
            raftIndex=node.revision,
            raftAppliedIndex=node.revision,
            raftTerm=node.raft_term,
            errors=map(str, node.maintenance.alarms.raised()),
        )
        return self._headers.now() + status.SerializeToString()

    async def alarm(self, request: pb.AlarmRequest) -> bytes:
        """List, raise or end alarms; the answer has those that the request was about."""
        alarms = self._node.maintenance.alarms
        found: list[Alarm] = []
        if request.alarm in AlarmType.__members__.values():
            kind = AlarmType(request.alarm)
            if request.action == pb.AlarmRequest.GET:
                found = alarms.raised(kind)
            elif request.action == pb.AlarmRequest.ACTIVATE and kind != AlarmType.NONE:
                found = [await alarms.activate(kind, request.memberID)]
            elif request.action == pb.AlarmRequest.DEACTIVATE:
                ended = await alarms.deactivate(kind, request.memberID)
                found = [] if ended is None else [ended]
        members = [pb.AlarmMember(memberID=alarm.member_id, alarm=alarm.type) for alarm in found]
        return self._headers.now() + pb.AlarmResponse(alarms=members).SerializeToString()

    async def defragment(self, _: pb.DefragmentRequest) -> bytes:
        """Make the file as small as what is in it; as in etcd, the answer has no header."""
        await self._node.maintenance.defragment()
        return b""

    async def hash(self, _: pb.HashRequest) -> bytes:
        """A hash of the whole database, free of meaning outside this member."""
        return self._headers.now() + integer(b"\x10", await self._node.maintenance.hash())

    async def hash_kv(self, request: pb.HashKVRequest) -> bytes:
        """The hash of the history, which any etcd with the same history has, too."""
        result = await self._node.maintenance.hash_kv(request.revision)
        return self._headers.now() + integer(b"\x10", result.hash) + integer(b"\x18", result.compact_revision)

    async def snapshot(
        self, requests: AsyncIterator[pb.SnapshotRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """etcd's database at one revision in blobs, then the SHA-256 of them all; as in etcd, without headers.

        Raises TimedOut for a client that has stopped reading.
        """
        await first(requests)
        async with self._node.maintenance.snapshot() as file:
            for blob, remaining in blobs(file):
                try:
                    async with asyncio.timeout(READER_TIMEOUT):
                        await send(integer(b"\x10", remaining) + nested(b"\x1a", blob))
                except TimeoutError:
                    raise TimedOut() from None

    async def move_leader(self, request: pb.MoveLeaderRequest) -> bytes:
        """The one member leads already. Raises FailedPrecondition for another one."""
        if request.targetID != self._node.member_id:
            raise KvError("etcdserver: bad leader transferee", code=Code.FAILED_PRECONDITION)
        return b""

    async def downgrade(self, request: pb.DowngradeRequest) -> bytes:
        """Whether the version before this one could take over: as etcd answers, though none can read our files.

        Raises InvalidArgument, FailedPrecondition, or Unimplemented for a downgrade that would have to be done.
        """
        if request.action == pb.DowngradeRequest.CANCEL:
            raise KvError("etcdserver: no inflight downgrade job", code=Code.FAILED_PRECONDITION)
        if request.action not in (pb.DowngradeRequest.VALIDATE, pb.DowngradeRequest.ENABLE):
            raise KvError("etcdserver: unknown method")
        major, minor, *_ = map(int, CLUSTER_VERSION.split("."))
        if _minor_version(request.version) != (major, minor - 1):
            raise KvError("etcdserver: invalid downgrade target version", code=Code.INVALID_ARGUMENT)
        if request.action == pb.DowngradeRequest.ENABLE:
            raise KvError("this server's data has no older format to go back to", code=Code.UNIMPLEMENTED)
        return self._headers.now() + nested(b"\x12", CLUSTER_VERSION.encode())


def _minor_version(text: str) -> tuple[int, int]:
    """(major, minor) of `3.4` or `3.4.1`. Raises InvalidArgument."""
    parts = text.split(".")
    if not (2 <= len(parts) <= 3 and all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts)):
        raise KvError("etcdserver: wrong downgrade target version format", code=Code.INVALID_ARGUMENT)
    return int(parts[0]), int(parts[1])
