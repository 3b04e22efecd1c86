"""etcdserverpb.Lease."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.auth import Caller
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.services.wire import Headers, integer, nested


class LeaseService:
    """Time-limited ownership of keys."""

    def __init__(self, node: Node, headers: Headers) -> None:
        self._node = node
        self._headers = headers

    async def grant(self, request: pb.LeaseGrantRequest) -> bytes:
        """A new lease."""
        lease_id, ttl = await self._node.lease_grant(request.TTL, request.ID)
        return self._headers.now() + integer(b"\x10", lease_id) + integer(b"\x18", ttl)

    async def revoke(self, request: pb.LeaseRevokeRequest, caller: Caller | None = None) -> bytes:
        """End a lease and delete its keys. With a caller given, it is checked that the caller may write these."""
        guard = None if caller is None else self._node.auth.lease_guard(caller, request.ID)
        await self._node.lease_revoke(request.ID, guard)
        return self._headers.now()

    async def keep_alive(
        self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Renew the lease of each request, one answer each, in order; TTL 0 = gone. Ends with the requests."""
        async for request in requests:
            header = self._headers.now()
            ttl = await self._node.lease_keep_alive(request.ID)
            await send(header + integer(b"\x10", request.ID) + integer(b"\x18", ttl))

    async def time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> bytes:
        """What is left of a lease."""
        ttl, granted, keys = self._node.lease_time_to_live(request.ID, request.keys)
        return b"".join(
            (
                self._headers.now(),
                integer(b"\x10", request.ID),
                integer(b"\x18", ttl),
                integer(b"\x20", granted),
                *(nested(b"\x2a", key) for key in keys),
            )
        )

    async def leases(self, _: pb.LeaseLeasesRequest) -> bytes:
        """Every lease, the one that ends first first."""
        statuses = (nested(b"\x12", integer(b"\x08", lease_id)) for lease_id in self._node.leases())
        return self._headers.now() + b"".join(statuses)
