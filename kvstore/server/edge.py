"""The services over gRPC: grpc.aio moves bytes, everything else is the services' own."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from kvstore.auth import Caller
from kvstore.errors import Code, KvError, Stopped
from kvstore.node import Node
from kvstore.proto.messages import POOL
from kvstore.server.calls import CallCounter, MethodStatistics
from kvstore.server.config import (
    MAX_REQUEST_OVERHEAD,
    AddressInUse,
    InvalidListenURL,
    ListenAddress,
    ListenError,
    parse_listen_url,
)
from kvstore.server.splice import Splices
from kvstore.server.tls import ServerTLS
from kvstore.services import CALLER, Route, Stream, Unary, caller_from, routes

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

MIN_PING_INTERVAL_MS = 5_000
"""etcd: clients that ping more often are cut off. gRPC's own default of 5 minutes would cut off kube-apiserver."""

KEEPALIVE_TIME_MS = 2 * 60 * 60 * 1000
KEEPALIVE_TIMEOUT_MS = 20_000
"""etcd: how often the server pings an idle client, and how long it waits for the answer."""

MAX_PENDING_CALLS = 20_000
"""Calls that may wait for the event loop, over all connections, at some 12 kB each. Beyond it gRPC ends calls of
anybody as Cancelled, which no client tries again; its own default of 1,000 is less than one busy client can send."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client has for TLS, and until its first HTTP/2 frame."""

HARD_RECEIVE_FACTOR = 4
"""gRPC itself refuses messages this many times over the limit, unread. Below that we refuse, in etcd's words."""

_STATUS = {code: status for status in grpc.StatusCode for code in Code if status.value[0] == code}


class Server:
    """A node on the network.

    `listen_client_urls` are `http://HOST:PORT`, or `https://HOST:PORT` with `tls`; after `start`, `client_urls` has
    the same with the ports in use. `advertise_client_urls` is what the member list shows instead, if given. Those of
    `shared_urls` are left to somebody else to listen on, who gives `take` the connections that are for gRPC.
    """

    def __init__(
        self,
        node: Node,
        listen_client_urls: Sequence[str],
        *,
        advertise_client_urls: Sequence[str] = (),
        max_concurrent_streams: int = 2**31 - 1,
        tls: ServerTLS | None = None,
        shared_urls: Sequence[str] = (),
    ) -> None:
        self._addresses = [parse_listen_url(url) for url in listen_client_urls]
        if not self._addresses:
            raise InvalidListenURL("no listen URL was given")
        for url, address in zip(listen_client_urls, self._addresses, strict=True):
            if address.tls and tls is None:
                raise InvalidListenURL(f"cannot listen on {url!r}: https needs a --cert-file and a --key-file")
        self._node = node
        self._tls = tls
        self.shared = {parse_listen_url(url) for url in shared_urls}
        self._directory: Path | None = None  # of the Unix sockets that stand for shared addresses
        self._splices = Splices()
        self._advertised = list(advertise_client_urls)
        self.max_message = node.options.max_request_bytes + MAX_REQUEST_OVERHEAD
        self._max_concurrent_streams = max_concurrent_streams
        self._server: grpc.aio.Server | None = None
        self._streams: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self.client_urls: list[str] = []
        self.http_urls: list[str] = []  # filled by `serve`
        self.routes = routes(node, self._advertised or self.client_urls, self.max_message)
        self.counters = {path: CallCounter(path, _type_of(path, route)) for path, route in self.routes.items()}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen and answer. Raises `ListenError` when an address cannot be used; then nothing listens."""
        credentials = None if self._tls is None else self._tls.grpc_credentials()
        for address in self._addresses:
            if address not in self.shared:
                await _check_free(address)
        server = grpc.aio.server(
            options=(
                # By default a second server binds the same port in silence and gets half of the clients.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self.max_message * HARD_RECEIVE_FACTOR),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", self._max_concurrent_streams),
                ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
                ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
                ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_TIMEOUT * 1000)),
            )
        )
        handlers = {path: self._handler(route, self.counters[path]) for path, route in self.routes.items()}
        server.add_generic_rpc_handlers((_Handlers(handlers),))
        try:
            for address in self._addresses:
                if address in self.shared:
                    _listen(server, address, f"unix:{self._path(address)}", credentials)
                    self.client_urls.append(address.url)
                else:
                    port = _listen(server, address, address.target, credentials)
                    self.client_urls.append(address._replace(port=port).url)
            await server.start()
        except BaseException:
            self.client_urls.clear()
            await server.stop(None)
            self._remove_directory()
            raise
        self._server = server

    async def stop(self, grace: float = 2.0) -> None:
        """Stop listening, end open streams with Unavailable, give other calls `grace` seconds to end. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping = True
        stopped = asyncio.ensure_future(server.stop(grace))
        # One turn of the loop: from then on gRPC accepts no new stream.
        await asyncio.sleep(0)
        ending = list(self._streams)
        for stream in ending:
            stream.cancel()
        await stopped
        # gRPC does not wait for the statuses that were on their way to clients that had just gone.
        if ending:
            await asyncio.wait(ending, timeout=grace)
        self._splices.abort()
        self._remove_directory()

    async def take(self, connection: socket.socket, address: ListenAddress) -> None:
        """Serve gRPC on a connection that came in at a shared address; it is this server's from now on.

        Returns once the server has it. Raises OSError when the server has stopped.
        """
        await self._splices.join(connection, self._path(address))

    def _path(self, address: ListenAddress) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="kvstore-"))
        return self._directory / f"{'s' if address.tls else 'p'}{self._addresses.index(address)}"

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None

    def statistics(self) -> list[MethodStatistics]:
        """The calls of every method since the start, over gRPC and the JSON gateway."""
        return [counter.statistics() for counter in self.counters.values()]

    def _caller(self, context: Context) -> Caller:
        headers: dict[str, str] = {}
        for name, value in context.invocation_metadata() or ():
            headers.setdefault(name, value)  # type: ignore[arg-type]  # bytes only under names that end in -bin
        common_name = b""
        if self._tls is not None and self._tls.client_cert_auth:
            common_name = next(iter(context.auth_context().get("x509_common_name", ())), b"")
        return caller_from(headers, common_name.decode(errors="replace"))

    def _handler(self, route: Route, counter: CallCounter) -> grpc.RpcMethodHandler[bytes, bytes]:
        if isinstance(route, Unary):
            # To gRPC these are streams of requests, too: only of those it tells that they ended before the message did.
            # A call of one message would never be answered then.
            return grpc.stream_unary_rpc_method_handler(self._unary(route, counter))
        return grpc.stream_stream_rpc_method_handler(self._stream(route, counter))

    def _unary(self, route: Unary, counter: CallCounter) -> Callable[[AsyncIterator[bytes], Context], Awaitable[bytes]]:
        call = route.call
        parse = route.request.FromString
        max_message = self.max_message
        auth = self._node.auth

        async def handler(_: AsyncIterator[bytes], context: Context) -> bytes:
            try:
                with counter:
                    data = await context.read()
                    if not isinstance(data, bytes):  # the end of the stream
                        raise KvError("unexpected EOF", code=Code.UNKNOWN)
                    counter.received(len(data))
                    if len(data) > max_message:
                        raise _too_large(data, max_message)
                    if auth.enabled:
                        CALLER.set(self._caller(context))
                    answer = await call(parse(data))
                    counter.sent(len(answer))
                    return answer
            except KvError as error:
                await _abort(context, error)
            except DecodeError as error:
                await _abort(context, _malformed(error))
            raise AssertionError("abort returned")

        return handler

    def _stream(
        self, route: Stream, counter: CallCounter
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def handler(requests: AsyncIterator[bytes], context: Context) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._streams.add(task)
            try:
                with counter:
                    if self._stopping:
                        raise Stopped

                    async def send(data: bytes) -> None:
                        counter.sent(len(data))
                        await context.write(data)

                    CALLER.set(self._caller(context))
                    await route.call(_parsed(requests, route.request, self.max_message, counter), send)
            except KvError as error:
                await _abort(context, error)
            except DecodeError as error:
                await _abort(context, _malformed(error))
            except asyncio.CancelledError:
                if not self._stopping:
                    raise
                # A clean end would tell the client that the watch is over for good; Unavailable makes it come back.
                task.uncancel()
                await _abort(context, Stopped())
            finally:
                self._streams.discard(task)

        return handler


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic only in the stubs
    """Finds the handler of a method, and refuses unknown ones in etcd's words."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers
        self._services = {path.rpartition("/")[0] for path in handlers}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handlers.get(details.method) or self._unknown(details.method)

    def _unknown(self, path: str) -> grpc.RpcMethodHandler[bytes, bytes]:
        service, _, method = path.rpartition("/")
        name = service.removeprefix("/")
        known = service in self._services
        message = f"unknown method {method} for service {name}" if known else f"unknown service {name}"

        async def refuse(_: AsyncIterator[bytes], context: Context) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

        return grpc.stream_stream_rpc_method_handler(refuse)


async def _abort(context: Context, error: KvError) -> None:
    await context.abort(_STATUS[error.code], error.message)


async def _parsed(
    requests: AsyncIterator[bytes], kind: type[Message], max_message: int, counter: CallCounter
) -> AsyncIterator[Message]:
    async for data in requests:
        counter.received(len(data))
        if len(data) > max_message:
            raise _too_large(data, max_message)
        yield kind.FromString(data)


def _too_large(data: bytes, max_message: int) -> KvError:
    return KvError(
        f"grpc: received message larger than max ({len(data)} vs. {max_message})", code=Code.RESOURCE_EXHAUSTED
    )


def _malformed(error: DecodeError) -> KvError:
    return KvError(f"grpc: error unmarshalling request: {error}", code=Code.INTERNAL)


async def _check_free(address: ListenAddress) -> None:
    # gRPC tells of a failed bind only in its log, and holds on to the addresses it did bind; so all are tried first.
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {address.target}: {error.strerror}") from error
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(where)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise AddressInUse(f"cannot listen on {address.target}: the port is in use") from error
                if family == socket.AF_INET6 and len(found) > 1:
                    continue  # a name with an IPv6 address on a machine without IPv6: the IPv4 one counts
                raise ListenError(f"cannot listen on {address.target}: {error.strerror}") from error


def _type_of(path: str, route: Route) -> str:
    if isinstance(route, Unary):
        return "unary"
    try:
        method = POOL.FindMethodByName(path[1:].replace("/", "."))
    except KeyError:  # reflection has several names and is described under one
        return "bidi_stream"
    return "bidi_stream" if method.client_streaming else "server_stream"


def _listen(
    server: grpc.aio.Server, address: ListenAddress, target: str, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if address.tls:
            assert credentials is not None
            return server.add_secure_port(target, credentials)
        return server.add_insecure_port(target)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address.target}: {error}") from error
