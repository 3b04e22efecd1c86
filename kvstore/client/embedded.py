"""The in-process client: calls the node directly; no protobuf, no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import Final, Self

import msgspec

from kvstore.api import (
    CompactResponse,
    Compare,
    DeleteRange,
    DeleteRangeResponse,
    Header,
    KeyValue,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    Member,
    MemberListResponse,
    Op,
    OpResponse,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    StatusResponse,
    Txn,
    TxnResponse,
    WatchFilter,
    WatchResponse,
)
from kvstore.errors import Compacted, Stopped, Unavailable, WatchCanceled
from kvstore.node import Node, NodeStatistics
from kvstore.record import decode
from kvstore.snapshot import blobs
from kvstore.store import DeleteResult, OpResult, PutResult, RangeResult
from kvstore.version import SERVER_VERSION
from kvstore.watch import StreamResponse, WatchStream

STREAM_KEYS: Final = 256  # keys of one piece of a streamed range; the event loop is held for as long
_NO_HEADER: Final = Header(0, 0, 0, 0)


class EmbeddedClient:
    """`kvstore.api.Client` on a node of this process. Closing it leaves the node open."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._watches: set[EmbeddedWatch] = set()
        self._closed = False

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """The key at a revision (0 = now), or None."""
        self._check_open()
        rows = self._node.range(Range(key, revision=revision)).rows
        return decode(rows[0]) if rows else None

    async def range(self, request: Range) -> RangeResponse:
        """Read keys."""
        self._check_open()
        result = self._node.range(request)
        return RangeResponse(self._header(result.revision), list(map(decode, result.rows)), result.more, result.count)

    async def range_stream(self, request: Range) -> AsyncGenerator[RangeResponse, None]:
        """A range in key order and in pieces, all of one revision; the last has the header, `more` and `count`.

        Between pieces others have their turn, so a compaction may overtake it: it raises Compacted then.
        """
        self._check_open()
        counted = self._node.range(msgspec.structs.replace(request, count_only=True))
        if request.count_only:
            yield RangeResponse(self._header(counted.revision), [], False, counted.count)
            return
        revision = request.revision if request.revision > 0 else counted.revision
        left = request.limit if request.limit > 0 else counted.count
        page = msgspec.structs.replace(request, revision=revision)
        while True:
            page = msgspec.structs.replace(page, limit=min(STREAM_KEYS, left) or 1)
            rows, more = self._node.page(page)
            left -= len(rows)
            kvs = list(map(decode, rows))
            if not (more and left):
                yield RangeResponse(self._header(counted.revision), kvs, more, counted.count)
                return
            yield RangeResponse(_NO_HEADER, kvs, False, 0)
            await asyncio.sleep(0)
            self._check_open()
            page = msgspec.structs.replace(page, key=kvs[-1].key + b"\x00")

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        """Write a key."""
        self._check_open()
        result = await self._node.put(Put(key, value, lease, prev_kv))
        return PutResponse(self._header(result.revision), decode(result.prev) if result.prev else None)

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> DeleteRangeResponse:
        """Delete keys."""
        self._check_open()
        result = await self._node.delete_range(DeleteRange(key, range_end, prev_kv))
        return DeleteRangeResponse(self._header(result.revision), result.deleted, list(map(decode, result.prevs)))

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        """Run a transaction."""
        self._check_open()
        result = await self._node.txn(Txn(tuple(compare), tuple(success), tuple(failure)))
        responses = [self._response(each) for each in result.results]
        return TxnResponse(self._header(result.revision), result.succeeded, responses)

    async def compact(self, revision: int, *, physical: bool = False) -> CompactResponse:
        """Drop history below a revision."""
        self._check_open()
        return CompactResponse(self._header(await self._node.compact(revision, physical)))

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        filters: Sequence[WatchFilter] = (),
        resume: bool = False,
    ) -> EmbeddedWatch:
        """A watch, not yet registered. `resume` changes nothing: there is no connection to lose."""
        self._check_open()
        return EmbeddedWatch(self, key, range_end, start_revision, prev_kv, progress_notify, filters)

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        """A new lease."""
        self._check_open()
        granted, seconds = await self._node.lease_grant(ttl, lease_id)
        return LeaseGrantResponse(self._node.header(), granted, seconds)

    async def lease_revoke(self, lease_id: int) -> LeaseRevokeResponse:
        """End a lease and delete its keys."""
        self._check_open()
        await self._node.lease_revoke(lease_id)
        return LeaseRevokeResponse(self._node.header())

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        """Renew a lease once."""
        self._check_open()
        return LeaseKeepAliveResponse(self._node.header(), lease_id, await self._node.lease_keep_alive(lease_id))

    async def lease_time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseTimeToLiveResponse:
        """What a lease has left."""
        self._check_open()
        ttl, granted, attached = self._node.lease_time_to_live(lease_id, keys)
        return LeaseTimeToLiveResponse(self._node.header(), lease_id, ttl, granted, attached)

    async def leases(self) -> LeaseLeasesResponse:
        """All leases."""
        self._check_open()
        return LeaseLeasesResponse(self._node.header(), self._node.leases())

    def statistics(self) -> NodeStatistics:
        """The numbers of the store, its watchers and leases now."""
        return self._node.statistics()

    async def status(self) -> StatusResponse:
        """Version and sizes."""
        self._check_open()
        node = self._node
        size, in_use = node.db_size()
        return StatusResponse(
            header=node.header(),
            version=SERVER_VERSION,
            db_size=size,
            db_size_in_use=in_use,
            leader=node.member_id,
            raft_index=node.revision,
            raft_term=node.raft_term,
            raft_applied_index=node.revision,
            errors=list(map(str, node.maintenance.alarms.raised())),
        )

    async def member_list(self) -> MemberListResponse:
        """The one member; it has no URL."""
        self._check_open()
        node = self._node
        header = Header(node.cluster_id, node.member_id, 0, node.raft_term)  # etcd's has no revision either
        return MemberListResponse(header, [Member(node.member_id, node.name, [], [])])

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """A snapshot in pieces, as `kvstore.snapshot.save` takes it. Raises TooManyRequests, NoSpace or Unavailable."""
        self._check_open()
        async with self._node.maintenance.snapshot() as file:
            for blob, _ in blobs(file):
                yield blob

    async def close(self) -> None:
        """End this client's watches with `Unavailable`. Idempotent."""
        self._closed = True
        for watch in list(self._watches):
            watch._end()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the client is closed")
        if self._node.closed:
            raise Stopped()

    def _header(self, revision: int) -> Header:
        return self._node.header(revision)

    def _response(self, result: OpResult) -> OpResponse:
        header = Header(0, 0, result.revision, 0)  # inner headers carry the revision alone, as etcd's
        if isinstance(result, RangeResult):
            return RangeResponse(header, list(map(decode, result.rows)), result.more, result.count)
        if isinstance(result, PutResult):
            return PutResponse(header, decode(result.prev) if result.prev else None)
        if isinstance(result, DeleteResult):
            return DeleteRangeResponse(header, result.deleted, list(map(decode, result.prevs)))
        return TxnResponse(header, result.succeeded, [self._response(each) for each in result.results])


class EmbeddedWatch:
    """`kvstore.api.Watch` on a node of this process."""

    def __init__(
        self,
        client: EmbeddedClient,
        key: bytes,
        range_end: bytes,
        start_revision: int,
        prev_kv: bool,
        progress_notify: bool,
        filters: Sequence[WatchFilter],
    ) -> None:
        self._client = client
        self._request = (key, range_end, start_revision, prev_kv, progress_notify, filters)
        self._stream: WatchStream | None = None
        self._created_revision = 0

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was registered."""
        return self._created_revision

    async def __aenter__(self) -> Self:
        key, range_end, start_revision, prev_kv, progress_notify, filters = self._request
        self._stream = stream = self._client._node.watch_stream()
        self._client._watches.add(self)
        try:
            stream.create(
                key=key,
                range_end=range_end,
                start_revision=start_revision,
                prev_kv=prev_kv,
                progress_notify=progress_notify,
                filters=filters,
            )
            self._created_revision = self._checked(await stream.next()).revision
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __aiter__(self) -> AsyncIterator[WatchResponse]:
        return self

    async def __anext__(self) -> WatchResponse:
        response = self._checked(await self._opened().next())
        events = [event.value(response.prev_kv) for event in response.events]
        return WatchResponse(self._client._header(response.revision), response.watch_id, events)

    async def request_progress(self) -> None:
        """Ask for a progress response."""
        self._opened().request_progress()

    def _opened(self) -> WatchStream:
        if self._stream is None:
            raise RuntimeError("enter the watch first: `async with client.watch(...) as watch`")
        return self._stream

    def _checked(self, response: StreamResponse) -> StreamResponse:
        if response.compact_revision:
            raise Compacted(response.compact_revision)
        if response.canceled:
            if response.cancel_reason == Compacted.message:
                raise Compacted(max(self._client._node.compacted, 0))
            raise WatchCanceled(response.cancel_reason)
        return response

    def _end(self) -> None:
        self._client._watches.discard(self)
        if self._stream is not None:
            self._stream.close()
