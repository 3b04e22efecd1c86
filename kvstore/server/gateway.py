"""The JSON gateway: the methods of the routes table as HTTP POSTs below `/v3/`, as etcd's gateway has them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import StreamReader, web
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kvstore.errors import Code, InvalidArgument, KvError, Stopped
from kvstore.proto.messages import POOL
from kvstore.server import jsonpb
from kvstore.server.calls import CallCounter
from kvstore.server.edge import Server
from kvstore.services import CALLER, Route, Stream, Unary, caller_from

PATHS = {
    "kv/range": "etcdserverpb.KV/Range",
    "kv/put": "etcdserverpb.KV/Put",
    "kv/deleterange": "etcdserverpb.KV/DeleteRange",
    "kv/txn": "etcdserverpb.KV/Txn",
    "kv/compaction": "etcdserverpb.KV/Compact",
    "watch": "etcdserverpb.Watch/Watch",
    "lease/grant": "etcdserverpb.Lease/LeaseGrant",
    "lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "kv/lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "lease/keepalive": "etcdserverpb.Lease/LeaseKeepAlive",
    "lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "kv/lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "kv/lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "cluster/member/add": "etcdserverpb.Cluster/MemberAdd",
    "cluster/member/remove": "etcdserverpb.Cluster/MemberRemove",
    "cluster/member/update": "etcdserverpb.Cluster/MemberUpdate",
    "cluster/member/list": "etcdserverpb.Cluster/MemberList",
    "cluster/member/promote": "etcdserverpb.Cluster/MemberPromote",
    "maintenance/alarm": "etcdserverpb.Maintenance/Alarm",
    "maintenance/status": "etcdserverpb.Maintenance/Status",
    "maintenance/defragment": "etcdserverpb.Maintenance/Defragment",
    "maintenance/hash": "etcdserverpb.Maintenance/Hash",
    "maintenance/hashkv": "etcdserverpb.Maintenance/HashKV",
    "maintenance/snapshot": "etcdserverpb.Maintenance/Snapshot",
    "maintenance/transfer-leadership": "etcdserverpb.Maintenance/MoveLeader",
    "maintenance/downgrade": "etcdserverpb.Maintenance/Downgrade",
    "auth/enable": "etcdserverpb.Auth/AuthEnable",
    "auth/disable": "etcdserverpb.Auth/AuthDisable",
    "auth/status": "etcdserverpb.Auth/AuthStatus",
    "auth/authenticate": "etcdserverpb.Auth/Authenticate",
    "auth/user/add": "etcdserverpb.Auth/UserAdd",
    "auth/user/get": "etcdserverpb.Auth/UserGet",
    "auth/user/list": "etcdserverpb.Auth/UserList",
    "auth/user/delete": "etcdserverpb.Auth/UserDelete",
    "auth/user/changepw": "etcdserverpb.Auth/UserChangePassword",
    "auth/user/grant": "etcdserverpb.Auth/UserGrantRole",
    "auth/user/revoke": "etcdserverpb.Auth/UserRevokeRole",
    "auth/role/add": "etcdserverpb.Auth/RoleAdd",
    "auth/role/get": "etcdserverpb.Auth/RoleGet",
    "auth/role/list": "etcdserverpb.Auth/RoleList",
    "auth/role/delete": "etcdserverpb.Auth/RoleDelete",
    "auth/role/grant": "etcdserverpb.Auth/RoleGrantPermission",
    "auth/role/revoke": "etcdserverpb.Auth/RoleRevokePermission",
    "lock/lock": "v3lockpb.Lock/Lock",
    "lock/unlock": "v3lockpb.Lock/Unlock",
    "election/campaign": "v3electionpb.Election/Campaign",
    "election/proclaim": "v3electionpb.Election/Proclaim",
    "election/leader": "v3electionpb.Election/Leader",
    "election/observe": "v3electionpb.Election/Observe",
    "election/resign": "v3electionpb.Election/Resign",
}
"""Path below `/v3/` -> gRPC method. What the routes table does not have is not found."""

HTTP_STATUS = {
    Code.CANCELLED: 408,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
"""gRPC status -> HTTP status, as the gateway in etcd 3.5 maps them."""

JSON_FACTOR = 2
"""JSON may be this much longer than the message it stands for: base64 takes a third more, names and spaces the rest."""

LARGE_ANSWER = 256 * 1024
"""Answers from this size on, in bytes, are turned into JSON on a thread, so that other clients need not wait."""


class Gateway:
    """Serves the routes over HTTP. `handle` is for every path below `/v3/`; `stop` ends the streams.

    A request's body, of a stream the first message, must be there within `body_timeout` seconds.
    """

    def __init__(self, server: Server, body_timeout: float) -> None:
        self._server = server
        self._body_timeout = body_timeout
        self._max_message = server.max_message
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        method = "/" + PATHS.get(request.match_info["path"], "")
        route = self._server.routes.get(method)
        if route is None:
            return web.Response(status=404, text="Not Found\n")
        if request.method != "POST":
            return web.Response(status=405, text="Method Not Allowed\n", headers={"Allow": "POST"})
        answer = GetMessageClass(POOL.FindMethodByName(method[1:].replace("/", ".")).output_type)
        counter = self._server.counters[method]
        # As in etcd, a certificate's common name counts over gRPC only.
        CALLER.set(caller_from(request.headers))
        if isinstance(route, Unary):
            return await self._unary(route, answer, counter, request)
        return await self._stream(route, answer, counter, request)

    def stop(self) -> None:
        """End open streams with Unavailable, as the gRPC server does, so that clients come back."""
        self._stopping = True
        for stream in self._streams:
            stream.cancel()

    async def _unary(
        self, route: Unary, answer: type[Message], counter: CallCounter, request: web.Request
    ) -> web.Response:
        try:
            with counter:
                message = self._decoded(route, counter, await self._body(request))
                data = await route.call(message)
                counter.sent(len(data))
        except web.HTTPRequestEntityTooLarge:
            return _error(_too_large(self._max_message))
        except KvError as error:
            return _error(error)
        return web.Response(body=await _encoded(answer, data), content_type="application/json")

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(self._body_timeout):
                return await request.read()
        except TimeoutError:
            raise _too_slow() from None

    async def _stream(
        self, route: Stream, answer: type[Message], counter: CallCounter, request: web.Request
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()

        async def send(data: bytes) -> None:
            counter.sent(len(data))
            if not response.prepared:
                await response.prepare(request)
            await response.write(b'{"result":' + await _encoded(answer, data) + b"}\n")

        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            with counter:
                if self._stopping:
                    raise Stopped
                await route.call(self._messages(route, counter, request.content), send)
        except KvError as error:
            failed = error
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            failed = Stopped()
        else:
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
            return response
        finally:
            self._streams.discard(task)
        if not response.prepared:
            return _error(failed)
        with contextlib.suppress(ConnectionError):  # the client may have gone as well
            await response.write(_stream_error(failed))
            await response.write_eof()
        return response

    async def _messages(self, route: Stream, counter: CallCounter, content: StreamReader) -> AsyncIterator[Message]:
        split = Splitter(self._max_message * JSON_FACTOR)
        deadline: float | None = asyncio.get_running_loop().time() + self._body_timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    chunk = await content.readany()
            except TimeoutError:
                raise _too_slow() from None
            if not chunk:
                break
            for each in split.feed(chunk):
                deadline = None  # how long the messages after the first may take is the client's affair
                yield self._decoded(route, counter, each)
        if split.rest.strip():
            yield self._decoded(route, counter, split.rest)  # cut short or malformed: it says which

    def _decoded(self, route: Route, counter: CallCounter, data: bytes) -> Message:
        message = jsonpb.decode(route.request, data)
        size = message.ByteSize()
        counter.received(size)
        if size > self._max_message:
            raise _too_large(self._max_message, size)
        return message


class Splitter:
    """Cuts a stream of JSON objects, one after the other, into the objects. O(n) in the bytes fed.

    Raises InvalidArgument for an object longer than `limit` bytes.
    """

    _MARKS = re.compile(rb'["{}]|\\.?', re.DOTALL)

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._seen = 0  # up to here the buffer was looked at
        self._depth = 0
        self._in_string = False

    @property
    def rest(self) -> bytes:
        """What no object has closed yet."""
        return bytes(self._buffer)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The objects that this chunk completes."""
        self._buffer += chunk
        found: list[bytes] = []
        start = 0
        end = len(self._buffer)
        marks = self._MARKS.finditer(self._buffer, self._seen)
        for mark in marks:
            text = mark[0]
            if text == b"\\":  # the escaped character is in the next chunk
                end = mark.start()
                break
            if text == b'"':
                self._in_string = not self._in_string
            elif not self._in_string and text == b"{":
                self._depth += 1
            elif not self._in_string and text == b"}":
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    found.append(bytes(self._buffer[start : mark.end()]))
                    start = mark.end()
        del marks  # it holds on to the buffer, which could not be cut
        del self._buffer[:start]
        self._seen = end - start
        if len(self._buffer) > self._limit:
            raise InvalidArgument(f"a message is longer than {self._limit} bytes")
        return found


async def _encoded(kind: type[Message], data: bytes) -> bytes:
    if len(data) < LARGE_ANSWER:
        return jsonpb.encode(kind.FromString(data))
    return await asyncio.to_thread(lambda: jsonpb.encode(kind.FromString(data)))


def _error(error: KvError) -> web.Response:
    body = {"error": error.message, "code": int(error.code), "message": error.message}
    return web.json_response(body, status=HTTP_STATUS[error.code])


def _stream_error(error: KvError) -> bytes:
    status = HTTP_STATUS[error.code]
    told = {"grpc_code": int(error.code), "http_code": status, "message": error.message}
    return msgspec.json.encode({"error": told | {"http_status": HTTPStatus(status).phrase}}) + b"\n"


def _too_slow() -> KvError:
    return KvError("the request's body took too long", code=Code.CANCELLED)


def _too_large(limit: int, size: int | None = None) -> KvError:
    told = "" if size is None else f" ({size} vs. {limit})"
    return KvError(f"grpc: received message larger than max{told}", code=Code.RESOURCE_EXHAUSTED)
