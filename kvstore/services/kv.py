"""etcdserverpb.KV."""

from __future__ import annotations

from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.requests import to_delete, to_put, to_range, to_txn
from kvstore.services.responses import from_delete, from_put, from_range, from_txn
from kvstore.services.wire import Headers


class KVService:
    """Reads and writes of keys."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._header = headers.at

    async def range(self, request: pb.RangeRequest) -> bytes:
        """Keys of an interval, at a revision."""
        result = self._node.range(to_range(request))
        return from_range(self._header(result.revision), result)

    async def put(self, request: pb.PutRequest) -> bytes:
        """Write a key."""
        result = await self._node.put(to_put(request))
        return from_put(self._header(result.revision), result)

    async def delete_range(self, request: pb.DeleteRangeRequest) -> bytes:
        """Delete the keys of an interval."""
        result = await self._node.delete_range(to_delete(request))
        return from_delete(self._header(result.revision), result)

    async def txn(self, request: pb.TxnRequest) -> bytes:
        """Compare, then do one of two lists of operations, as one revision."""
        result = await self._node.txn(to_txn(request))
        return from_txn(self._header(result.revision), result)

    async def compact(self, request: pb.CompactionRequest) -> bytes:
        """Forget the history before a revision."""
        return self._header(await self._node.compact(request.revision, request.physical))
