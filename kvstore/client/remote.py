"""The client of a server over gRPC: ours, or any etcd 3.4 or later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from kvstore import api
from kvstore.client import messages as convert
from kvstore.client.endpoint import (
    REQUIRE_LEADER,
    AnswersCall,
    Endpoint,
    Metadata,
    client_closed,
    parse_endpoint,
    received,
)
from kvstore.client.login import Credentials, Login, needs_login
from kvstore.client.resume import ResumingWatch
from kvstore.client.stream import WatchStream
from kvstore.client.tls import TLS
from kvstore.client.watch import RemoteWatch
from kvstore.errors import KvError, PermissionDenied, Unavailable
from kvstore.proto import messages as pb

Answer = TypeVar("Answer", bound=Message)
T = TypeVar("T")

DIAL_TIMEOUT: Final = 5.0
# As kube-apiserver's client does: a peer that vanished is noticed within 40 s.
KEEPALIVE_TIME: Final = 30.0
KEEPALIVE_TIMEOUT: Final = 10.0

WATCH_BUFFER_BYTES: Final = 4 << 20
ALL_WATCH_BUFFERS_BYTES: Final = 64 << 20
SMALLEST_WATCH_BUFFER_BYTES: Final = 4 << 10


class RemoteClient:
    """`kvstore.api.Client` over gRPC, on one of several endpoints.

    The first endpoint is chosen by `rng`; it is kept until a call meets Unavailable there (which is also what a member
    of a cluster says that has lost its leader) or a stream of watches is lost. Connecting takes at most `dial_timeout`
    seconds over all endpoints; when none can be connected to, a call raises `Unavailable`, saying which were tried and
    for how long.

    What is sent again by itself, as by etcd's own client:

    - reads (and transactions that only read, the status, the members) and renewals of leases that meet Unavailable: on
      the other endpoints, once each;
    - whatever was refused for its token, after logging in again: it was not done;
    - nothing else. A write is sent only over a connection that stands, and once: it may have been done whatever the
      error, and what happened to it is for the caller to find out.

    All watches of a client share one stream (one for each token), on which each has a buffer of its own of at most
    `watch_buffer_bytes`, 64 MiB over all of them; see `watch`.

    With `user` and `password` it logs in before its first call, and again when the server says that the token is no
    longer good. Watches that stand are not ended by that. Every call may raise `AuthFailed`.

    Endpoints are `HOST:PORT`, `http://` or `etcd://` and that, or `https://` or `etcds://` for TLS. `tls` has the
    files for it; with it endpoints without a scheme are TLS too.

    While calls or watches are under way, a connection on which nothing was heard for `keepalive_time` seconds is
    probed, and given up when `keepalive_timeout` seconds later there is still no answer: they raise `Unavailable`.
    Servers refuse probes more frequent than every 5 s (etcd's and this one's default).

    There are no other timeouts: wrap calls in `asyncio.timeout`. Belongs to the event loop of its first call.
    Raises `ValueError` for an endpoint that is malformed, or a TLS file that cannot be read.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        rng: random.Random | None = None,
        dial_timeout: float = DIAL_TIMEOUT,
        keepalive_time: float = KEEPALIVE_TIME,
        keepalive_timeout: float = KEEPALIVE_TIMEOUT,
        watch_buffer_bytes: int = WATCH_BUFFER_BYTES,
        user: str | None = None,
        password: str = "",
        tls: TLS | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("no endpoint was given")
        targets = [parse_endpoint(endpoint, tls is not None) for endpoint in endpoints]
        credentials = (tls or TLS()).credentials() if any(encrypted for _, encrypted in targets) else None
        self._endpoints = [
            Endpoint(
                target,
                credentials if encrypted else None,
                dial_timeout=dial_timeout,
                keepalive_time=keepalive_time,
                keepalive_timeout=keepalive_timeout,
            )
            for target, encrypted in targets
        ]
        self._rng = rng or random.Random()
        self._current = self._rng.randrange(len(self._endpoints))
        self._dial_timeout = dial_timeout
        self._watch_buffer_bytes = watch_buffer_bytes
        self._login = None if user is None else Login(Credentials(user, password), self._authenticate)
        self._watches: set[RemoteWatch] = set()
        self._streams: dict[Metadata, WatchStream] = {}
        self._lone_streams: set[WatchStream] = set()
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
        # A member without a leader would let it wait for seconds.
        leader = () if request.serializable else REQUIRE_LEADER
        return convert.range_response(await self._read("/etcdserverpb.KV/Range", message, pb.RangeResponse, leader))

    async def range_stream(self, request: api.Range) -> AsyncGenerator[api.RangeResponse, None]:
        """A range in key order and in pieces, all of one revision; the last has the header, `more` and `count`.

        etcd has it since 3.7; one that does not raises `KvError` with the code UNIMPLEMENTED.
        """
        message = convert.range_request(request).SerializeToString()

        async def begin(metadata: Metadata) -> tuple[Endpoint, AnswersCall, bytes]:
            return await self._begin_stream("/etcdserverpb.KV/RangeStream", message, metadata)

        cancellations = _cancellations()
        endpoint, stream, first = await self._logged_in(begin)
        data: bytes | None = first
        try:
            while data is not None:
                yield convert.range_response(pb.RangeStreamResponse.FromString(data).range_response)
                data = await received(stream)
            if await stream.code() != grpc.StatusCode.OK:
                raise await endpoint.ended(stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise endpoint.failed(error) from None
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
        resume: bool = False,
    ) -> api.Watch:
        """A watch on [key, range_end), registered when entered.

        A lost connection ends it with `Unavailable`, for callers that keep track of revisions. With `resume` it goes on
        by itself after the last revision seen, on any endpoint, until what comes next is compacted (`Compacted`).

        A watch that is not read holds up no other one. What does not fit its buffer is not kept but read again, from
        the store's history, when there is room; that may end with `Compacted`, too.
        """

        def create(revision: int) -> RemoteWatch:
            request = pb.WatchCreateRequest(
                key=key,
                range_end=range_end,
                start_revision=revision,
                prev_kv=prev_kv,
                progress_notify=progress_notify,
                filters=filters,
            )
            return RemoteWatch(self, request)

        if not resume:
            return create(start_revision)
        return ResumingWatch(create, start_revision, is_closed=lambda: self._closed, rng=self._rng)

    @property
    def _buffer_share(self) -> int:
        """Bytes that one watch may have in its buffer."""
        share = ALL_WATCH_BUFFERS_BYTES // max(1, len(self._watches))
        return min(self._watch_buffer_bytes, max(share, SMALLEST_WATCH_BUFFER_BYTES))

    async def _watch_stream(self, metadata: Metadata, *, alone: bool) -> WatchStream:
        """The stream of the watches that were authenticated in the same way; a new one for a watch to be `alone`."""
        if alone or metadata not in self._streams:
            endpoint = await self._connected()
            if alone:
                stream = WatchStream(endpoint, metadata, self._stream_ended)
                self._lone_streams.add(stream)
                return stream
            if metadata not in self._streams:  # still
                self._streams[metadata] = WatchStream(endpoint, metadata, self._stream_ended)
        return self._streams[metadata]

    def _stream_ended(self, stream: WatchStream, error: KvError | None) -> None:
        self._lone_streams.discard(stream)
        for metadata in [each for each, other in self._streams.items() if other is stream]:
            del self._streams[metadata]
        if isinstance(error, Unavailable):
            self._rotate(stream.endpoint)

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
        """Renew a lease once. Being renewed twice does it no harm, so this is tried on the other endpoints, too."""
        request = pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()

        async def everywhere(metadata: Metadata) -> pb.LeaseKeepAliveResponse:
            return await self._on_any(lambda endpoint: self._keep_alive(endpoint, request, metadata))

        answer = await self._logged_in(everywhere)
        return api.LeaseKeepAliveResponse(convert.header(answer.header), answer.ID, answer.TTL)

    async def _keep_alive(self, endpoint: Endpoint, request: bytes, metadata: Metadata) -> pb.LeaseKeepAliveResponse:
        stream = endpoint.stream("/etcdserverpb.Lease/LeaseKeepAlive", (*REQUIRE_LEADER, *metadata))
        cancellations = _cancellations()
        try:
            await stream.write(request)
            data = await received(stream)
            if data is None:
                raise await endpoint.ended(stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise endpoint.failed(error) from None
        except asyncio.CancelledError:
            endpoint.check_closed()
            raise
        finally:
            stream.cancel()
        return pb.LeaseKeepAliveResponse.FromString(data)

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
                data = await received(stream)
            if await stream.code() != grpc.StatusCode.OK:
                raise await endpoint.ended(stream)
        except grpc.aio.AioRpcError as error:
            _check_cancelled(cancellations)
            raise endpoint.failed(error) from None
        finally:
            stream.cancel()

    async def _begin_snapshot(self, metadata: Metadata) -> tuple[Endpoint, AnswersCall, bytes]:
        request = pb.SnapshotRequest().SerializeToString()
        return await self._begin_stream("/etcdserverpb.Maintenance/Snapshot", request, metadata)

    async def _begin_stream(self, path: str, request: bytes, metadata: Metadata) -> tuple[Endpoint, AnswersCall, bytes]:
        """Make a call that has one request and many answers, and wait for the first."""
        cancellations = _cancellations()
        endpoint = await self._connected()
        # The request goes with the call: when a server refuses before a later one is sent, gRPC forgets why.
        stream = endpoint.answers(path, request, metadata)
        try:
            data = await received(stream)
            if data is None:
                raise await endpoint.ended(stream)
        except BaseException as error:
            stream.cancel()
            if isinstance(error, grpc.aio.AioRpcError):
                _check_cancelled(cancellations)
                raise endpoint.failed(error) from None
            raise
        return endpoint, stream, data

    async def close(self) -> None:
        """Close every connection; calls under way and open watches raise `Unavailable`. Idempotent."""
        self._closed = True
        for stream in [*self._streams.values(), *self._lone_streams]:
            await stream.close(client_closed())
        for endpoint in self._endpoints:
            await endpoint.close()

    # ---- how calls are made

    async def _write(self, path: str, request: Message, answer: type[Answer]) -> Answer:
        if self._login is None:
            return await self._write_with(None, path, request, answer)
        return await self._logged_in(lambda metadata: self._write_with(metadata, path, request, answer))

    async def _write_with(self, metadata: Metadata | None, path: str, request: Message, answer: type[Answer]) -> Answer:
        endpoint = await self._connected()
        try:
            return await self._call(endpoint, path, request, answer, (*REQUIRE_LEADER, *(metadata or ())))
        except Unavailable:
            self._rotate(endpoint)  # for the next call; this one may have been done
            raise

    async def _read(self, path: str, request: Message, answer: type[Answer], leader: Metadata = ()) -> Answer:
        if self._login is None:
            return await self._read_with(leader or None, path, request, answer)
        return await self._logged_in(lambda metadata: self._read_with((*leader, *metadata), path, request, answer))

    async def _read_with(self, metadata: Metadata | None, path: str, request: Message, answer: type[Answer]) -> Answer:
        return await self._on_any(lambda endpoint: self._call(endpoint, path, request, answer, metadata))

    async def _on_any(self, call: Callable[[Endpoint], Awaitable[T]]) -> T:
        """Make a call that may be made twice: on each endpoint, until one answers."""
        tried = 0
        while True:
            endpoint = await self._connected()
            tried += 1
            try:
                return await call(endpoint)
            except Unavailable:
                if self._closed or tried >= len(self._endpoints):
                    raise
                self._rotate(endpoint)

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
        endpoint: Endpoint,
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
            raise endpoint.failed(error) from None
        except asyncio.CancelledError:
            endpoint.check_closed()
            raise
        return answer.FromString(data)

    async def _connected(self) -> Endpoint:
        """An endpoint whose connection stands: the current one, or else the first that can be connected to."""
        if self._closed:
            raise client_closed()
        if (endpoint := self._endpoints[self._current]).ready():
            return endpoint
        loop = asyncio.get_running_loop()
        began = loop.time()
        # Each is waited for a while, in turn: one that accepts connections and says nothing must leave time for others,
        # and one that is only far away goes on connecting meanwhile.
        a_while = self._dial_timeout / (2 * len(self._endpoints))
        refused: set[str] = set()
        while len(refused) < len(self._endpoints) and loop.time() - began < self._dial_timeout:
            endpoint = self._endpoints[self._current]
            try:
                async with asyncio.timeout(a_while):
                    if await endpoint.dial():
                        return endpoint
                refused.add(endpoint.target)
            except TimeoutError:
                refused.discard(endpoint.target)
            if self._closed:
                raise client_closed()
            self._rotate(endpoint)
        tried = ", ".join(self.endpoints)
        raise Unavailable(f"cannot connect to the store: tried {tried} for {loop.time() - began:.1f} s")

    def _rotate(self, failed: Endpoint) -> None:
        if self._endpoints[self._current] is failed:
            self._current = (self._current + 1) % len(self._endpoints)


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


def _metadata(token: str) -> Metadata:
    return (("token", token),) if token else ()
