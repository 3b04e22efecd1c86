"""The client of a server over gRPC: ours, or any etcd 3.4 or later."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message

from kvstore import api
from kvstore.client import messages as convert
from kvstore.client.login import Credentials, Login, needs_login
from kvstore.client.tls import TLS
from kvstore.errors import (
    BY_MESSAGE,
    Compacted,
    KvError,
    PermissionDenied,
    Unavailable,
    WatchCanceled,
    from_status,
)
from kvstore.proto import messages as pb

Answer = TypeVar("Answer", bound=Message)
T = TypeVar("T")
Metadata: TypeAlias = tuple[tuple[str, str], ...]
StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

DIAL_TIMEOUT: Final = 5.0

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # As kube-apiserver's client does: a peer that vanished is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC would wait up to two minutes before it tries a server again that has long been back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A channel of its own, not one shared with other clients in this process: closing one must not touch another.
    ("grpc.use_local_subchannel_pool", 1),
)

# What grpc.aio says when it sends on a stream whose connection has just gone.
_LOCAL_FAILURE: Final = "Internal error from Core"
_REQUIRE_LEADER: Final = (("hasleader", "true"),)
_STATUS_TEXT: Final = re.compile(r"rpc error: code = \w+ desc = (.*)")


class RemoteClient:
    """`kvstore.api.Client` over gRPC, on one of several endpoints.

    The first endpoint is chosen by `rng`; it is kept until it fails. A read that meets Unavailable is tried on the
    other endpoints. A write is sent only over a connection that stands, and once: what happened to it after that is
    for the caller to find out. When no endpoint can be connected to within `dial_timeout` seconds, or every one has
    refused, a call raises `Unavailable`, saying which were tried and for how long.

    With `user` and `password` it logs in before its first call, and again when the server says that the token is no
    longer good; what was refused for that reason is then sent once more. Every call may raise `AuthFailed`.

    Endpoints are `HOST:PORT`, `http://` or `etcd://` and that, or `https://` or `etcds://` for TLS. `tls` has the
    files for it; with it endpoints without a scheme are TLS too.

    There are no other timeouts: wrap calls in `asyncio.timeout`. Belongs to the event loop of its first call.
    Raises `ValueError` for an endpoint that is malformed, or a TLS file that cannot be read.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        rng: random.Random | None = None,
        dial_timeout: float = DIAL_TIMEOUT,
        user: str | None = None,
        password: str = "",
        tls: TLS | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("no endpoint was given")
        targets = [_target(endpoint, tls is not None) for endpoint in endpoints]
        credentials = (tls or TLS()).credentials() if any(encrypted for _, encrypted in targets) else None
        self._endpoints = [
            _Endpoint(target, dial_timeout, credentials if encrypted else None) for target, encrypted in targets
        ]
        self._current = (rng or random.Random()).randrange(len(self._endpoints))
        self._dial_timeout = dial_timeout
        self._login = None if user is None else Login(Credentials(user, password), self._authenticate)
        self._closed = False

    @property
    def endpoints(self) -> list[str]:
        """`HOST:PORT` of every endpoint."""
        return [endpoint.target for endpoint in self._endpoints]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- KV

    async def get(self, key: bytes, *, revision: int = 0) -> api.KeyValue | None:
        """The key at a revision (0 = now), or None."""
        response = await self.range(api.Range(key, revision=revision))
        return response.kvs[0] if response.kvs else None

    async def range(self, request: api.Range) -> api.RangeResponse:
        """Read keys."""
        message = convert.range_request(request)
        return convert.range_response(await self._read("/etcdserverpb.KV/Range", message, pb.RangeResponse))

    async def range_stream(self, request: api.Range) -> AsyncGenerator[api.RangeResponse, None]:
        """A range in key order and in pieces, all of one revision; the last has the header, `more` and `count`.

        etcd has it since 3.7; one that does not raises `KvError` with the code UNIMPLEMENTED.
        """
        message = convert.range_request(request).SerializeToString()

        async def begin(metadata: Metadata) -> tuple[_Endpoint, StreamCall, bytes]:
            return await self._begin_stream("/etcdserverpb.KV/RangeStream", message, metadata)

        cancellations = _cancellations()
        endpoint, stream, first = await self._logged_in(begin)
        data: bytes | None = first
        try:
            while data is not None:
                yield convert.range_response(pb.RangeStreamResponse.FromString(data).range_response)
                data = await _received(stream)
            if await stream.code() != grpc.StatusCode.OK:
                raise await self._ended(endpoint, stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise self._failed(endpoint, error) from None
        finally:
            stream.cancel()

    async def put(self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> api.PutResponse:
        """Write a key."""
        message = pb.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
        return convert.put_response(await self._write("/etcdserverpb.KV/Put", message, pb.PutResponse))

    async def delete(self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> api.DeleteRangeResponse:
        """Delete the keys of [key, range_end)."""
        message = pb.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
        answer = await self._write("/etcdserverpb.KV/DeleteRange", message, pb.DeleteRangeResponse)
        return convert.delete_response(answer)

    async def txn(
        self,
        compare: Sequence[api.Compare] = (),
        success: Sequence[api.Op] = (),
        failure: Sequence[api.Op] = (),
    ) -> api.TxnResponse:
        """If every compare holds do `success`, else `failure`."""
        message = convert.txn_request(compare, success, failure)
        only_reads = all(isinstance(op, api.Range) for op in (*success, *failure))
        call = self._read if only_reads else self._write
        return convert.txn_response(await call("/etcdserverpb.KV/Txn", message, pb.TxnResponse))

    async def compact(self, revision: int, *, physical: bool = False) -> api.CompactResponse:
        """Forget the history before a revision."""
        message = pb.CompactionRequest(revision=revision, physical=physical)
        answer = await self._write("/etcdserverpb.KV/Compact", message, pb.CompactionResponse)
        return api.CompactResponse(convert.header(answer.header))

    # ---- Watch

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        filters: Sequence[api.WatchFilter] = (),
    ) -> RemoteWatch:
        """A watch on [key, range_end), registered when entered."""
        create = pb.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
        )
        return RemoteWatch(self, create)

    # ---- Lease

    async def lease_grant(self, ttl: int, lease_id: int = 0) -> api.LeaseGrantResponse:
        """A new lease of `ttl` seconds."""
        message = pb.LeaseGrantRequest(TTL=ttl, ID=lease_id)
        answer = await self._write("/etcdserverpb.Lease/LeaseGrant", message, pb.LeaseGrantResponse)
        return api.LeaseGrantResponse(convert.header(answer.header), answer.ID, answer.TTL)

    async def lease_revoke(self, lease_id: int) -> api.LeaseRevokeResponse:
        """End a lease and delete its keys."""
        message = pb.LeaseRevokeRequest(ID=lease_id)
        answer = await self._write("/etcdserverpb.Lease/LeaseRevoke", message, pb.LeaseRevokeResponse)
        return api.LeaseRevokeResponse(convert.header(answer.header))

    async def lease_keep_alive(self, lease_id: int) -> api.LeaseKeepAliveResponse:
        """Renew a lease once."""
        return await self._logged_in(lambda metadata: self._keep_alive(lease_id, metadata))

    async def _keep_alive(self, lease_id: int, metadata: Metadata) -> api.LeaseKeepAliveResponse:
        endpoint = await self._connected()
        stream = endpoint.stream("/etcdserverpb.Lease/LeaseKeepAlive", metadata)
        cancellations = _cancellations()
        try:
            await stream.write(pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())
            data = await _received(stream)
            if data is None:
                raise await self._ended(endpoint, stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise self._failed(endpoint, error) from None
        except asyncio.CancelledError:
            self._check_closed()
            raise
        finally:
            stream.cancel()
        answer = pb.LeaseKeepAliveResponse.FromString(data)
        return api.LeaseKeepAliveResponse(convert.header(answer.header), answer.ID, answer.TTL)

    async def lease_time_to_live(self, lease_id: int, *, keys: bool = False) -> api.LeaseTimeToLiveResponse:
        """What is left of a lease."""
        message = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        answer = await self._read("/etcdserverpb.Lease/LeaseTimeToLive", message, pb.LeaseTimeToLiveResponse)
        return api.LeaseTimeToLiveResponse(
            convert.header(answer.header), answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)
        )

    async def leases(self) -> api.LeaseLeasesResponse:
        """Every lease."""
        answer = await self._read("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse)
        return api.LeaseLeasesResponse(convert.header(answer.header), [lease.ID for lease in answer.leases])

    # ---- Maintenance and Cluster

    async def status(self) -> api.StatusResponse:
        """About the member that answers."""
        answer = await self._read("/etcdserverpb.Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        return api.StatusResponse(
            convert.header(answer.header),
            answer.version,
            answer.dbSize,
            answer.dbSizeInUse,
            answer.leader,
            answer.raftIndex,
            answer.raftTerm,
            answer.raftAppliedIndex,
            list(answer.errors),
            answer.isLearner,
        )

    async def member_list(self) -> api.MemberListResponse:
        """The members of the cluster."""
        message = pb.MemberListRequest(linearizable=True)
        answer = await self._read("/etcdserverpb.Cluster/MemberList", message, pb.MemberListResponse)
        members = [
            api.Member(member.ID, member.name, list(member.peerURLs), list(member.clientURLs), member.isLearner)
            for member in answer.members
        ]
        return api.MemberListResponse(convert.header(answer.header), members)

    async def snapshot(self) -> AsyncGenerator[bytes, None]:
        """A snapshot in pieces, as `kvstore.snapshot.save` takes it; of an etcd it is etcd's own format."""
        cancellations = _cancellations()
        endpoint, stream, first = await self._logged_in(self._begin_snapshot)
        data: bytes | None = first
        try:
            while data is not None:
                yield pb.SnapshotResponse.FromString(data).blob
                data = await _received(stream)
            if await stream.code() != grpc.StatusCode.OK:
                raise await self._ended(endpoint, stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise self._failed(endpoint, error) from None
        finally:
            stream.cancel()

    async def _begin_snapshot(self, metadata: Metadata) -> tuple[_Endpoint, StreamCall, bytes]:
        request = pb.SnapshotRequest().SerializeToString()
        return await self._begin_stream("/etcdserverpb.Maintenance/Snapshot", request, metadata)

    async def _begin_stream(self, path: str, request: bytes, metadata: Metadata) -> tuple[_Endpoint, StreamCall, bytes]:
        """Make a call that has one request and many answers, and wait for the first."""
        cancellations = _cancellations()
        endpoint = await self._connected()
        stream = endpoint.stream(path, metadata)
        try:
            # A server that refuses at once may end the call before the request is sent; only the end says why.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.write(request)
                await stream.done_writing()
            _check_cancelled(cancellations)
            data = await _received(stream)
            if data is None:
                raise await self._ended(endpoint, stream)
        except BaseException as error:
            stream.cancel()
            if isinstance(error, grpc.aio.AioRpcError):
                _check_cancelled(cancellations)
                raise self._failed(endpoint, error) from None
            raise
        return endpoint, stream, data

    async def close(self) -> None:
        """Close every connection; calls under way and open watches raise `Unavailable`. Idempotent."""
        self._closed = True
        for endpoint in self._endpoints:
            await endpoint.close()

    # ---- how calls are made

    async def _write(self, path: str, request: Message, answer: type[Answer]) -> Answer:
        if self._login is None:
            return await self._call(await self._connected(), path, request, answer)

        async def call(metadata: Metadata) -> Answer:
            return await self._call(await self._connected(), path, request, answer, metadata)

        return await self._logged_in(call)

    async def _read(self, path: str, request: Message, answer: type[Answer]) -> Answer:
        if self._login is None:
            return await self._read_with(None, path, request, answer)
        return await self._logged_in(lambda metadata: self._read_with(metadata, path, request, answer))

    async def _read_with(self, metadata: Metadata | None, path: str, request: Message, answer: type[Answer]) -> Answer:
        for _ in self._endpoints[1:]:
            endpoint = await self._connected()
            try:
                return await self._call(endpoint, path, request, answer, metadata)
            except Unavailable:
                if self._closed:
                    raise
                self._rotate(endpoint)
        return await self._call(await self._connected(), path, request, answer, metadata)

    async def _authenticate(self, credentials: Credentials) -> str:
        message = pb.AuthenticateRequest(name=credentials.user, password=credentials.password)
        answer = await self._read_with(None, "/etcdserverpb.Auth/Authenticate", message, pb.AuthenticateResponse)
        return answer.token

    async def _logged_in(self, call: Callable[[Metadata], Awaitable[T]], *, watch: bool = False) -> T:
        """Make a call with the token. What is refused because of the token was not done, so it is made again."""
        login = self._login
        if login is None:
            return await call(())
        token = await login.token()
        try:
            return await call(_metadata(token))
        except PermissionDenied:
            # etcd 3.5 says so of a watch whose token has expired, too: another call tells, and renews it.
            if not watch:
                raise
            message = pb.AuthUserGetRequest(name=login.user)
            await self._read("/etcdserverpb.Auth/UserGet", message, pb.AuthUserGetResponse)
            if await login.token() == token:
                raise
        except KvError as error:
            if not needs_login(error):
                raise
            await login.token(instead_of=token)
        return await call(_metadata(await login.token()))

    async def _call(
        self,
        endpoint: _Endpoint,
        path: str,
        request: Message,
        answer: type[Answer],
        metadata: Metadata | None = None,
    ) -> Answer:
        cancellations = _cancellations()
        try:
            data = await endpoint.unary(path, request.SerializeToString(), metadata)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise self._failed(endpoint, error) from None
        except asyncio.CancelledError:
            self._check_closed()
            raise
        return answer.FromString(data)

    async def _connected(self) -> _Endpoint:
        """An endpoint whose connection stands: the current one, or else the first that can be connected to."""
        if self._closed:
            raise _client_closed()
        if (endpoint := self._endpoints[self._current]).ready():
            return endpoint
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused: list[str] = []
        try:
            async with asyncio.timeout(self._dial_timeout):
                for _ in self._endpoints:
                    endpoint = self._endpoints[self._current]
                    if await endpoint.dial():
                        return endpoint
                    refused.append(endpoint.target)
                    self._rotate(endpoint)
        except TimeoutError:
            refused.append(endpoint.target)
        if self._closed:
            raise _client_closed()
        tried = ", ".join(refused)
        raise Unavailable(f"cannot connect to the store: tried {tried} for {loop.time() - began:.1f} s")

    def _rotate(self, failed: _Endpoint) -> None:
        if self._endpoints[self._current] is failed:
            self._current = (self._current + 1) % len(self._endpoints)

    def _failed(self, endpoint: _Endpoint, error: grpc.aio.AioRpcError) -> KvError:
        return self._error(endpoint, error.code(), error.details() or "")

    async def _ended(self, endpoint: _Endpoint, stream: StreamCall) -> KvError:
        code = await stream.code()
        if code == grpc.StatusCode.OK:
            return Unavailable(f"{endpoint.target} ended the stream")
        return self._error(endpoint, code, await stream.details() or "")

    def _error(self, endpoint: _Endpoint, code: grpc.StatusCode, details: str) -> KvError:
        if self._closed and code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
            return _client_closed()
        if code == grpc.StatusCode.INTERNAL and details.startswith(_LOCAL_FAILURE):
            return Unavailable(f"lost the connection to {endpoint.target} while sending")
        if code == grpc.StatusCode.CANCELLED and not details.startswith("etcdserver: "):
            code = grpc.StatusCode.UNAVAILABLE  # not by us: gRPC's word for a call that met a server about to stop
        if code == grpc.StatusCode.UNAVAILABLE and details not in BY_MESSAGE and not details.startswith("etcdserver: "):
            # gRPC's own words tell nothing about which server they are about.
            details = f"lost the connection to {endpoint.target}: {details}"
        return from_status(code.value[0], details)

    def _check_closed(self) -> None:
        # Closing the client cancels its calls, and gRPC tells that in the same way as the cancellation of our caller.
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise _client_closed() from None


class RemoteWatch:
    """`kvstore.api.Watch` on a stream of its own. Made by `RemoteClient.watch`."""

    def __init__(self, client: RemoteClient, create: pb.WatchCreateRequest) -> None:
        self._client = client
        self._create = create
        self._stream: StreamCall | None = None
        self._reading: asyncio.Task[bytes | None] | None = None
        self._created_revision = 0

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was registered."""
        return self._created_revision

    async def __aenter__(self) -> Self:
        await self._client._logged_in(self._begin, watch=True)
        return self

    async def _begin(self, metadata: Metadata) -> None:
        self._endpoint = await self._client._connected()
        self._stream = self._endpoint.stream("/etcdserverpb.Watch/Watch", (*_REQUIRE_LEADER, *metadata))
        try:
            await self._send(pb.WatchRequest(create_request=self._create))
            created = await self._next()
        except BaseException:
            await self._close()
            raise
        self._created_revision = created.header.revision

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> api.WatchResponse:
        return convert.watch_response(await self._next())

    async def request_progress(self) -> None:
        """Ask for a progress response; it comes through the iteration."""
        await self._send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    async def _send(self, request: pb.WatchRequest) -> None:
        if self._stream is None:
            raise RuntimeError("this watch is not entered")
        cancellations = _cancellations()
        try:
            await self._stream.write(request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise self._client._failed(self._endpoint, error) from None
        except asyncio.InvalidStateError:
            raise await self._client._ended(self._endpoint, self._stream) from None
        except asyncio.CancelledError:
            self._client._check_closed()
            raise

    async def _next(self) -> pb.WatchResponse:
        if self._stream is None:
            raise RuntimeError("this watch is not entered")
        # gRPC ends the whole stream when a read is cancelled, so the read is a task that outlives our caller's.
        if self._reading is None:
            self._reading = asyncio.create_task(_received(self._stream))
        await asyncio.wait((self._reading,))
        reading, self._reading = self._reading, None
        try:
            data = reading.result()
            if data is None:
                raise await self._client._ended(self._endpoint, self._stream)
        except grpc.aio.AioRpcError as error:
            raise self._client._failed(self._endpoint, error) from None
        except asyncio.CancelledError:
            self._client._check_closed()
            raise
        response = pb.WatchResponse.FromString(data)
        if response.canceled:
            raise _canceled(response)
        return response

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        reading, self._reading = self._reading, None
        if stream is not None:
            stream.cancel()
        if reading is not None:
            reading.cancel()
            await asyncio.wait((reading,))
            if not reading.cancelled():
                reading.exception()


class _Endpoint:
    """One server, and the channel to it, opened when first used."""

    def __init__(self, target: str, dial_timeout: float, credentials: grpc.ChannelCredentials | None) -> None:
        self.target = target
        self._dial_timeout = dial_timeout
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            options = (*_OPTIONS, ("grpc.min_reconnect_backoff_ms", int(self._dial_timeout * 1000)))
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.target, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self.target, self._credentials, options=options)
        return self._channel

    def ready(self) -> bool:
        return self._channel is not None and self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def dial(self) -> bool:
        """Wait until the connection stands (True) or was refused (False)."""
        channel = self._open()
        while True:
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return True
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                return False
            await channel.wait_for_state_change(state)

    async def unary(self, path: str, request: bytes, metadata: Metadata | None = None) -> bytes:
        call = self._unary.get(path)
        if call is None:
            call = self._unary[path] = self._open().unary_unary(path, None, None)
        return await call(request) if metadata is None else await call(request, metadata=metadata)

    def stream(self, path: str, metadata: Metadata = ()) -> StreamCall:
        return self._open().stream_stream(path, None, None)(None, metadata=metadata)

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        self._unary.clear()
        if channel is not None:
            await channel.close(None)


def _cancellations() -> int:
    """How often the current task was asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _check_cancelled(before: int) -> None:
    """Raise CancelledError if our task was cancelled since `before`.

    When a call fails at the moment in which it is cancelled, grpc.aio tells only of the failure.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError from None


async def _received(stream: StreamCall) -> bytes | None:
    """The next message; None at the end of the stream."""
    data = await stream.read()
    return data if isinstance(data, bytes) else None


def _target(endpoint: str, encrypted: bool) -> tuple[str, bool]:
    """An endpoint as gRPC takes it, and whether it is TLS; without a scheme that is `encrypted`."""
    text = endpoint.strip()
    if "://" not in text:
        text = f"{'https' if encrypted else 'http'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"invalid endpoint {endpoint!r}: {error}") from None
    known = parts.scheme in ("http", "https", "etcd", "etcds")
    if not known or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise ValueError(f"invalid endpoint {endpoint!r}: expected HOST:PORT, such as 127.0.0.1:2379")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme in ("https", "etcds")


def _canceled(response: pb.WatchResponse) -> KvError:
    if response.compact_revision:
        return Compacted(response.compact_revision)
    reason = response.cancel_reason
    if reason in BY_MESSAGE:
        return BY_MESSAGE[reason]()
    status = _STATUS_TEXT.fullmatch(reason)  # the reason is the text of a gRPC error when permission is refused
    if status is not None and status[1] in BY_MESSAGE:
        return BY_MESSAGE[status[1]]()
    return WatchCanceled(reason or None)


def _metadata(token: str) -> Metadata:
    return (("token", token),) if token else ()


def _client_closed() -> Unavailable:
    return Unavailable("the client is closed")
