"""A server whose watch streams do what a test says: for answers that no server of ours gives at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc

from kvstore.proto import messages as pb

WATCH = "/etcdserverpb.Watch/Watch"


class ScriptedServer:
    """`streams` gives each watch stream as it is opened. Unary calls are answered by `refusal`: (status, text)."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[ScriptedStream] = asyncio.Queue()
        self.refusal = (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        self.unary_calls: list[str] = []
        self.refuse_streams = False

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)


class ScriptedStream:
    """One stream: what the client asks, and what it is told."""

    def __init__(self, context: Any, requests: AsyncIterator[bytes]) -> None:
        self._context = context
        self._requests = requests
        self.metadata = dict(context.invocation_metadata())
        self.over: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()

    async def asked(self) -> pb.WatchRequest:
        return pb.WatchRequest.FromString(await anext(self._requests))

    async def asked_to_create(self) -> pb.WatchCreateRequest:
        request = await self.asked()
        assert request.WhichOneof("request_union") == "create_request"
        return request.create_request

    async def asked_to_cancel(self) -> int:
        request = await self.asked()
        assert request.WhichOneof("request_union") == "cancel_request"
        return request.cancel_request.watch_id

    async def tell(self, watch_id: int, revision: int, *events: int, **fields: Any) -> None:
        """A response; each event is a put of "k" at that revision."""
        response = pb.WatchResponse(header=pb.ResponseHeader(revision=revision), watch_id=watch_id, **fields)
        for each in events:
            response.events.add(kv=pb.KeyValue(key=b"k", value=bytes(100), mod_revision=each))
        await self._context.write(response.SerializeToString())

    async def created(self, watch_id: int, revision: int = 10) -> None:
        await self.tell(watch_id, revision, created=True)

    def end(self, status: grpc.StatusCode = grpc.StatusCode.OK, text: str = "") -> None:
        self.over.set_result((status, text))


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in the stubs
    def __init__(self, server: ScriptedServer) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        server = self._server
        path = details.method

        async def stream(requests: AsyncIterator[bytes], context: Any) -> None:
            if server.refuse_streams:
                await context.abort(*server.refusal)
            opened = ScriptedStream(context, requests)
            server.streams.put_nowait(opened)
            status, text = await opened.over
            if status is not grpc.StatusCode.OK:
                await context.abort(status, text)

        async def refuse(_: AsyncIterator[bytes], context: Any) -> None:
            server.unary_calls.append(path)
            await context.abort(*server.refusal)

        return grpc.stream_stream_rpc_method_handler(stream if path == WATCH else refuse)
