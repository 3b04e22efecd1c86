"""v3electionpb.Election: etcd's elections, run inside the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from kvstore.api import DeleteRange, EventType, Put, Range, prefix_end
from kvstore.errors import KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.record import decode, key_of
from kvstore.services.recipes import (
    Withdrawals,
    as_unknown,
    changes,
    if_created_at,
    key_for,
    oldest,
    prefix_of,
    session,
    wait_for_turn,
)
from kvstore.services.wire import Headers, first, nested
from kvstore.store import RangeResult

NOT_LEADER = "election: not leader"
NO_LEADER = "election: no leader"
CLOSED_EARLY = "election: observe closed early"
NO_LEADER_KEY = '"leader" field must be provided'


class ElectionService:
    """Elections by name. Errors are Unknown, as etcd's, with the text of what went wrong."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._headers = headers
        self._withdrawals = Withdrawals(node)

    async def campaign(self, request: pb.CampaignRequest) -> bytes:
        """Wait to be elected with a value; the answer has the key to lead with. Cancelling leaves the queue."""
        with as_unknown():
            lease = await session(self._node, request.lease)
            key = key_for(request.name, lease)
            put = Put(key, request.value, lease=lease)
            result = await if_created_at(self._node, key, 0, (put,), (Range(key),))
            created = result.revision
            (mine,) = result.results
            try:
                if isinstance(mine, RangeResult):  # this lease stands for election already
                    kv = decode(mine.rows[0])
                    created = kv.create_revision
                    if (
                        kv.value != request.value
                        and not (await if_created_at(self._node, key, created, (put,))).succeeded
                    ):
                        raise KvError(NOT_LEADER)
                await wait_for_turn(self._node, request.name, created)
            except BaseException:
                await self._withdrawals.withdraw(key, created, DeleteRange(key))
                raise
            leader = pb.LeaderKey(name=request.name, key=key, rev=created, lease=lease)
            return self._headers.at(result.revision) + nested(b"\x12", leader.SerializeToString())

    async def proclaim(self, request: pb.ProclaimRequest) -> bytes:
        """Change the value that the leader shows."""
        leader = _leader_of(request)
        with as_unknown():
            put = Put(leader.key, request.value, lease=await session(self._node, leader.lease))
            result = await if_created_at(self._node, leader.key, leader.rev, (put,))
            if not result.succeeded:
                raise KvError(NOT_LEADER)
            return self._headers.at(result.revision)

    async def leader(self, request: pb.LeaderRequest) -> bytes:
        """Who leads."""
        with as_unknown():
            result = self._node.range(oldest(request.name))
            if not result.rows:
                raise KvError(NO_LEADER)
            return self._answer(result.revision, result.rows[0])

    async def observe(
        self, requests: AsyncIterator[pb.LeaderRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Tell who leads, every value the leader proclaims, and who comes after, until cancelled."""
        name = (await first(requests)).name
        with as_unknown():
            while True:
                revision, record = await self._next_leader(name)
                await send(self._answer(revision, record))
                async with aclosing(changes(self._node, key_of(record), b"", revision + 1)) as events:
                    async for event in events:
                        if event.type == EventType.DELETE:
                            break
                        await send(self._answer(event.mod_revision, event.record))

    async def resign(self, request: pb.ResignRequest) -> bytes:
        """Give up leading, or the wish to; nothing happens if the key is another's by now."""
        leader = _leader_of(request)
        with as_unknown():
            result = await if_created_at(self._node, leader.key, leader.rev, (DeleteRange(leader.key),))
            return self._headers.at(result.revision)

    async def _next_leader(self, name: bytes) -> tuple[int, bytes]:
        """The header's revision and the record of who leads, now or as soon as somebody does."""
        result = self._node.range(oldest(name))
        if result.rows:
            return result.revision, result.rows[0]
        prefix = prefix_of(name)
        async with aclosing(changes(self._node, prefix, prefix_end(prefix), result.revision)) as events:
            async for event in events:
                if event.type == EventType.PUT:
                    return event.mod_revision, event.record
        raise KvError(CLOSED_EARLY)

    def _answer(self, revision: int, record: bytes) -> bytes:
        return self._headers.at(revision) + nested(b"\x12", record)


def _leader_of(request: pb.ProclaimRequest | pb.ResignRequest) -> pb.LeaderKey:
    if not request.HasField("leader"):
        raise KvError(NO_LEADER_KEY)
    return request.leader
