"""v3lockpb.Lock: etcd's mutex, run inside the server."""

from __future__ import annotations

from kvstore.api import DeleteRange, Put, Range
from kvstore.errors import KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.record import decode
from kvstore.services.recipes import Withdrawals, as_unknown, if_created_at, key_for, oldest, session, wait_for_turn
from kvstore.services.wire import Headers, nested
from kvstore.store import RangeResult


class LockService:
    """Locks by name. A lock is held until it is unlocked or its lease ends."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._headers = headers
        self._withdrawals = Withdrawals(node)

    async def lock(self, request: pb.LockRequest) -> bytes:
        """Wait for the lock; the answer has the key that holds it. The same lease gets the same lock again.

        Cancelling leaves the queue. Raises Unknown as etcd does, with the text of what went wrong.
        """
        with as_unknown():
            lease = await session(self._node, request.lease)
            key = key_for(request.name, lease)
            owner = oldest(request.name)
            result = await if_created_at(self._node, key, 0, (Put(key, lease=lease), owner), (Range(key), owner))
            mine, first = result.results
            created = result.revision
            if isinstance(mine, RangeResult):
                created = decode(mine.rows[0]).create_revision
            assert isinstance(first, RangeResult)
            if decode(first.rows[0]).create_revision == created:
                return self._answer(result.revision, key)
            try:
                await wait_for_turn(self._node, request.name, created)
            except BaseException:
                await self._withdrawals.withdraw(key, created, DeleteRange(key))
                raise
            held = self._node.range(Range(key))
            if not held.rows:
                raise KvError("mutex: session is expired")
            return self._answer(held.revision, key)

    async def unlock(self, request: pb.UnlockRequest) -> bytes:
        """Delete the key that holds a lock, or waits for it."""
        with as_unknown():
            return self._headers.at((await self._node.delete_range(DeleteRange(request.key))).revision)

    def _answer(self, revision: int, key: bytes) -> bytes:
        return self._headers.at(revision) + nested(b"\x12", key)
