"""One server, the channel to it, and what gRPC's statuses mean when they come from there."""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import grpc

from kvstore.errors import BY_MESSAGE, KvError, Unavailable, from_status

Metadata: TypeAlias = tuple[tuple[str, str], ...]
StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
AnswersCall: TypeAlias = "grpc.aio.UnaryStreamCall[bytes, bytes]"

# A call with it is refused, and a stream ended, with Unavailable by a member of a cluster that has lost its leader, and
# so by one that is cut off from the others. etcd's own client asks for it on watches where told to, and on renewals of
# leases always.
REQUIRE_LEADER: Final = (("hasleader", "true"),)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # By default gRPC stops to ping after two pings between which nothing was sent: a watch only receives.
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC would wait up to two minutes before it tries a server again that has long been back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A channel of its own, not one shared with other clients in this process: closing one must not touch another.
    ("grpc.use_local_subchannel_pool", 1),
)

# What grpc.aio says when it sends on a stream whose connection has just gone.
_LOCAL_FAILURE: Final = "Internal error from Core"


class Endpoint:
    """One server, and the channel to it, opened when first used. Times are in seconds."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        *,
        dial_timeout: float,
        keepalive_time: float,
        keepalive_timeout: float,
    ) -> None:
        self.target = target
        self._credentials = credentials
        self._options = (
            *_OPTIONS,
            ("grpc.min_reconnect_backoff_ms", int(dial_timeout * 1000)),
            ("grpc.keepalive_time_ms", int(keepalive_time * 1000)),
            ("grpc.keepalive_timeout_ms", int(keepalive_timeout * 1000)),
            # Measured with grpcio 1.85: without this one, gRPC waits a minute for the answer to a probe.
            ("grpc.http2.ping_timeout_ms", int(keepalive_timeout * 1000)),
        )
        self._channel: grpc.aio.Channel | None = None
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._closed = False

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise client_closed()
        if self._channel is None:
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(self.target, options=self._options)
            else:
                self._channel = grpc.aio.secure_channel(self.target, self._credentials, options=self._options)
        return self._channel

    def ready(self) -> bool:
        """Whether the connection stands."""
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
        """One call."""
        call = self._unary.get(path)
        if call is None:
            call = self._unary[path] = self._open().unary_unary(path, None, None)
        return await call(request) if metadata is None else await call(request, metadata=metadata)

    def stream(self, path: str, metadata: Metadata = ()) -> StreamCall:
        """A call that streams in both directions."""
        return self._open().stream_stream(path, None, None)(None, metadata=metadata)

    def answers(self, path: str, request: bytes, metadata: Metadata = ()) -> AnswersCall:
        """A call with one request and many answers."""
        return self._open().unary_stream(path, None, None)(request, metadata=metadata)

    async def close(self) -> None:
        """End every call, for good."""
        self._closed = True
        channel, self._channel = self._channel, None
        self._unary.clear()
        if channel is not None:
            await channel.close(None)

    # ---- how calls end

    def failed(self, error: grpc.aio.AioRpcError) -> KvError:
        """The error that a failed call stands for."""
        return self._error(error.code(), error.details() or "")

    async def ended(self, stream: StreamCall | AnswersCall) -> KvError:
        """Why a stream ended."""
        code = await stream.code()
        if code == grpc.StatusCode.OK:
            return Unavailable(f"{self.target} ended the stream")
        return self._error(code, await stream.details() or "")

    def _error(self, code: grpc.StatusCode, details: str) -> KvError:
        if self._closed and code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE):
            return client_closed()
        if code == grpc.StatusCode.INTERNAL and details.startswith(_LOCAL_FAILURE):
            return Unavailable(f"lost the connection to {self.target} while sending")
        if code == grpc.StatusCode.CANCELLED and not details.startswith("etcdserver: "):
            code = grpc.StatusCode.UNAVAILABLE  # not by us: gRPC's word for a call that met a server about to stop
        if code == grpc.StatusCode.UNAVAILABLE and details not in BY_MESSAGE and not details.startswith("etcdserver: "):
            # gRPC's own words tell nothing about which server they are about.
            details = f"lost the connection to {self.target}: {details}"
        return from_status(code.value[0], details)

    def check_closed(self) -> None:
        """Raise Unavailable if a CancelledError is that of a closing client.

        Closing cancels the calls, and gRPC tells that in the same way as the cancellation of our caller.
        """
        task = asyncio.current_task()
        if self._closed and task is not None and not task.cancelling():
            raise client_closed() from None


async def received(stream: StreamCall | AnswersCall) -> bytes | None:
    """The next message; None at the end of the stream."""
    data = await stream.read()
    return data if isinstance(data, bytes) else None


def client_closed() -> Unavailable:
    """What calls of a closed client raise."""
    return Unavailable("the client is closed")


def parse_endpoint(endpoint: str, encrypted: bool) -> tuple[str, bool]:
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
