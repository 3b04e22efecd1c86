"""grpc.health.v1.Health: as in etcd the server as a whole, named by the empty string, is all there is to ask about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from kvstore.errors import Code, KvError
from kvstore.proto import messages as pb

_SERVING = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVING).SerializeToString()
_UNKNOWN = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN).SerializeToString()


class HealthService:
    """SERVING for as long as anybody answers."""

    async def check(self, request: pb.HealthCheckRequest) -> bytes:
        """The state now. Raises NotFound for a service by name."""
        if request.service:
            raise KvError("unknown service", code=Code.NOT_FOUND)
        return _SERVING

    async def watch(
        self, requests: AsyncIterator[pb.HealthCheckRequest], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """The state now; a change can only be the end of the server, which ends the stream."""
        async for request in requests:
            await send(_UNKNOWN if request.service else _SERVING)
        await asyncio.get_running_loop().create_future()
