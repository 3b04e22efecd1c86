"""RangeStream of etcdserverpb.KV, as etcd has it since 3.7: a Range in pieces, for lists of any size."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from kvstore.api import SortOrder, SortTarget
from kvstore.errors import Code, KvError
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.record import key_of
from kvstore.services.requests import to_range
from kvstore.services.responses import from_range
from kvstore.services.wire import Headers, first, nested
from kvstore.store import RangeResult
from kvstore.txn import check_range

FIRST_CHUNK_KEYS = 10
# Of small keys a chunk of the size aimed at would hold many thousand, and the event loop for as long.
MAX_CHUNK_KEYS = 4096


class RangeStreamService:
    """Ranges in chunks of about the size of the largest request."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._header = headers.at
        self._chunk_bytes = node.options.max_request_bytes

    async def range_stream(
        self, requests: AsyncIterator[pb.RangeRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Send the range as it is when the call begins; the last chunk has the header, `more` and `count`.

        Waits while the client does not read. Raises InvalidArgument, Unimplemented for an order or a filter,
        FutureRevision, and Compacted, also when a compaction overtakes it.
        """
        request = to_range(await first(requests))
        check_range(request)
        if request.sort_order != SortOrder.NONE and not (
            request.sort_order == SortOrder.ASCEND and request.sort_target == SortTarget.KEY
        ):
            raise KvError("RangeStream does not support custom sort orders", code=Code.UNIMPLEMENTED)
        if (
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        ):
            raise KvError("RangeStream does not support revision filters", code=Code.UNIMPLEMENTED)
        counted = self._node.range(msgspec.structs.replace(request, count_only=True))
        if request.count_only:
            await send(self._encode(self._header(counted.revision), counted))
            return
        revision = request.revision if request.revision > 0 else counted.revision
        left = request.limit if request.limit > 0 else counted.count
        limit = FIRST_CHUNK_KEYS
        page = msgspec.structs.replace(request, revision=revision)
        while True:
            page = msgspec.structs.replace(page, limit=min(limit, left))
            rows, more = self._node.page(page)
            left -= len(rows)
            if not (more and left):
                break
            size = sum(map(len, rows))
            await send(self._encode(b"", RangeResult(0, rows, False, 0)))
            if size < self._chunk_bytes // 2:
                limit = min(limit * 2, MAX_CHUNK_KEYS)
            elif size > self._chunk_bytes * 2:
                limit = max(limit // 2, 1)
            page = msgspec.structs.replace(page, key=key_of(rows[-1]) + b"\x00")
        last = RangeResult(counted.revision, rows, more, counted.count)
        await send(self._encode(self._header(counted.revision), last))

    def _encode(self, header: bytes, result: RangeResult) -> bytes:
        return nested(b"\x0a", from_range(header, result))
