"""A client whose writes happen only while somebody still holds an office: fencing by revision.

An office is a key that its holder created. Its create_revision is the fencing token: whoever takes the office later
creates the key anew and has a higher one. The store itself compares it, in the transaction of each write, so a holder
that slept through its own dismissal cannot write, whatever its clock says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from kvstore.api import (
    Client,
    CompactResponse,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResponse,
    KeyValue,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    MemberListResponse,
    Op,
    Put,
    PutResponse,
    Range,
    RangeResponse,
    StatusResponse,
    Txn,
    TxnResponse,
    Watch,
    WatchFilter,
)
from kvstore.errors import Fenced


class Fence(msgspec.Struct, frozen=True):
    """The key of an office and the revision at which its holder created it: the fencing token."""

    key: bytes
    create_revision: int

    def compare(self) -> Compare:
        """The condition under which the holder may write."""
        return Compare(self.key, CompareTarget.CREATE, CompareResult.EQUAL, self.create_revision)


class FencedClient:
    """Another client's reads as they are, and its writes under the condition of a fence.

    fence: what is held now, None if nothing is. A write without it, or after the office passed on, raises `Fenced` and
    has changed nothing. on_fenced: called when the store has refused a write so. Compactions and leases are not data
    and pass freely; closing is left to the client's owner.
    """

    def __init__(
        self, client: Client, fence: Callable[[], Fence | None], on_fenced: Callable[[], None] | None = None
    ) -> None:
        self._client = client
        self._fence = fence
        self._on_fenced = on_fenced

    async def get(self, key: bytes, *, revision: int = 0) -> KeyValue | None:
        """See `Client.get`."""
        return await self._client.get(key, revision=revision)

    async def range(self, request: Range) -> RangeResponse:
        """See `Client.range`."""
        return await self._client.range(request)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> PutResponse:
        """See `Client.put`. Raises Fenced."""
        answer = await self.txn(success=(Put(key, value, lease, prev_kv),))
        (put,) = answer.responses
        assert isinstance(put, PutResponse)
        return msgspec.structs.replace(put, header=answer.header)

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> DeleteRangeResponse:
        """See `Client.delete`. Raises Fenced."""
        answer = await self.txn(success=(DeleteRange(key, range_end, prev_kv),))
        (deleted,) = answer.responses
        assert isinstance(deleted, DeleteRangeResponse)
        return msgspec.structs.replace(deleted, header=answer.header)

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        """See `Client.txn`. Raises Fenced."""
        fence = self._fence()
        if fence is None:
            raise Fenced("not the leader: nothing was written")
        guarded = Txn(tuple(compare), tuple(success), tuple(failure))
        answer = await self._client.txn((fence.compare(),), (guarded,))
        if not answer.succeeded:
            if self._on_fenced is not None:
                self._on_fenced()
            raise Fenced(
                f"no longer the leader: {fence.key.decode(errors='replace')} is not that of revision "
                f"{fence.create_revision} any more; nothing was written"
            )
        (inner,) = answer.responses
        assert isinstance(inner, TxnResponse)
        return msgspec.structs.replace(inner, header=answer.header)

    async def compact(self, revision: int, *, physical: bool = False) -> CompactResponse:
        """See `Client.compact`."""
        return await self._client.compact(revision, physical=physical)

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
    ) -> Watch:
        """See `Client.watch`."""
        return self._client.watch(
            key,
            range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
            resume=resume,
        )

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> LeaseGrantResponse:
        """See `Client.lease_grant`."""
        return await self._client.lease_grant(ttl, lease_id)

    async def lease_revoke(self, lease_id: int) -> LeaseRevokeResponse:
        """See `Client.lease_revoke`."""
        return await self._client.lease_revoke(lease_id)

    async def lease_keep_alive(self, lease_id: int) -> LeaseKeepAliveResponse:
        """See `Client.lease_keep_alive`."""
        return await self._client.lease_keep_alive(lease_id)

    async def lease_time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseTimeToLiveResponse:
        """See `Client.lease_time_to_live`."""
        return await self._client.lease_time_to_live(lease_id, keys=keys)

    async def leases(self) -> LeaseLeasesResponse:
        """See `Client.leases`."""
        return await self._client.leases()

    async def status(self) -> StatusResponse:
        """See `Client.status`."""
        return await self._client.status()

    async def member_list(self) -> MemberListResponse:
        """See `Client.member_list`."""
        return await self._client.member_list()

    async def close(self) -> None:
        """Nothing: the client inside is its owner's to close."""
