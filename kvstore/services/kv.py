"""etcdserverpb.KV."""

from __future__ import annotations

from kvstore.api import Op
from kvstore.auth import Caller, Guard
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.requests import to_delete, to_put, to_range, to_txn
from kvstore.services.responses import from_delete, from_put, from_range, from_txn
from kvstore.services.wire import Headers


class KVService:
    """Reads and writes of keys. With a caller given, it is checked that the caller may."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._header = headers.at

    async def range(self, request: pb.RangeRequest, caller: Caller | None = None) -> bytes:
        """Keys of an interval, at a revision."""
        op = to_range(request)
        result = self._node.range(op, self._guard(caller, op))
        return from_range(self._header(result.revision), result)

    async def put(self, request: pb.PutRequest, caller: Caller | None = None) -> bytes:
        """Write a key."""
        op = to_put(request)
        result = await self._node.put(op, self._guard(caller, op))
        return from_put(self._header(result.revision), result)

    async def delete_range(self, request: pb.DeleteRangeRequest, caller: Caller | None = None) -> bytes:
        """Delete the keys of an interval."""
        op = to_delete(request)
        result = await self._node.delete_range(op, self._guard(caller, op))
        return from_delete(self._header(result.revision), result)

    async def txn(self, request: pb.TxnRequest, caller: Caller | None = None) -> bytes:
        """Compare, then do one of two lists of operations, as one revision."""
        op = to_txn(request)
        result = await self._node.txn(op, self._guard(caller, op))
        return from_txn(self._header(result.revision), result)

    async def compact(self, request: pb.CompactionRequest) -> bytes:
        """Forget the history before a revision."""
        return self._header(await self._node.compact(request.revision, request.physical))

    def _guard(self, caller: Caller | None, op: Op) -> Guard | None:
        return None if caller is None else self._node.auth.guard(caller, op)
