"""The gRPC edge: starting, stopping, limits, and what raw clients meet."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from kvstore.client import RemoteClient, connect
from kvstore.errors import DataDirInUse, Stopped, Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import AddressInUse, InvalidListenURL, ListenError, ServeConfig, Server, serve
from kvstore.services import Unary
from tests.etcd_process import free_port
from tests.kvstore.hostile import END_STREAM, HEADERS, raw
from tests.kvstore.serve_process import serving

STOP_LIMIT = 5.0  # seconds


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint, options=(("grpc.max_receive_message_length", -1),)) as channel:
        yield channel


async def call(channel: grpc.aio.Channel, path: str, request: bytes) -> bytes:
    answer: bytes = await channel.unary_unary(path, None, None)(request)
    return answer


async def read(stream: grpc.aio.StreamStreamCall[bytes, bytes]) -> bytes:
    data = await stream.read()
    assert isinstance(data, bytes)
    return data


# ---- starting -------------------------------------------------------------------------------------------------------


async def test_an_occupied_port_is_one_clear_line(node: Node, server: Server) -> None:
    (url,) = server.client_urls
    with pytest.raises(AddressInUse) as caught:
        await Server(node, [url]).start()
    address = url.removeprefix("http://")
    assert str(caught.value) == f"cannot listen on {address}: the port is in use"


async def test_a_port_held_by_any_program_is_occupied(node: Node) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AddressInUse):
            await Server(node, [f"http://127.0.0.1:{other.getsockname()[1]}"]).start()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://127.0.0.1:2379", "https needs a --cert-file and a --key-file"),
        ("unix://127.0.0.1:2379", "expected http://HOST:PORT"),
        ("127.0.0.1:2379", "expected http://HOST:PORT"),
        ("http://127.0.0.1", "it has no port"),
        ("http://:2379", "it has no host"),
        ("http://127.0.0.1:99999", "Port out of range"),
        ("http://127.0.0.1:2379/v3", "more than a host and a port"),
        ("", "expected http://HOST:PORT"),
    ],
)
def test_bad_urls(node: Node, url: str, says: str) -> None:
    with pytest.raises(InvalidListenURL, match=says) as caught:
        Server(node, [url])
    assert "\n" not in str(caught.value)


async def test_a_host_that_is_not_here(node: Node) -> None:
    with pytest.raises(ListenError, match=r"^cannot listen on 192\.0\.2\.1:2379: "):
        await Server(node, ["http://192.0.2.1:2379"]).start()


async def test_several_urls_and_ipv6(node: Node) -> None:
    async with Server(node, ["http://127.0.0.1:0", "http://[::1]:0"]) as server:
        assert len(server.client_urls) == 2
        async with RemoteClient(server.client_urls) as client:
            assert client.endpoints == [url.removeprefix("http://") for url in server.client_urls]
            assert (await client.member_list()).members[0].client_urls == server.client_urls
        for url in server.client_urls:
            async with connect(f"etcd://{url.removeprefix('http://')}") as client:
                await client.put(b"a", b"1")


async def test_one_bad_url_of_two_leaves_nothing_listening(node: Node, server: Server) -> None:
    port = free_port()
    with pytest.raises(AddressInUse):
        await Server(node, [f"http://127.0.0.1:{port}", server.client_urls[0]]).start()
    async with Server(node, [f"http://127.0.0.1:{port}"]):
        pass


async def test_a_data_directory_in_use(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)):
        with pytest.raises(DataDirInUse) as caught:
            await serve(ServeConfig(tmp_path))
    assert str(tmp_path) in str(caught.value)
    async with serving(tmp_path) as (process, endpoint):
        with pytest.raises(DataDirInUse, match=str(process.pid)):
            await serve(ServeConfig(tmp_path))
        async with RemoteClient([endpoint]) as client:
            await client.put(b"a", b"1")


# ---- stopping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_process_under_open_watches(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(tmp_path) as (process, endpoint), RemoteClient([endpoint]) as client:
        revision = (await client.put(b"a", b"1")).header
        assert revision is not None
        async with client.watch(b"a") as watch, client.watch(b"", b"\0", start_revision=1) as busy:
            await anext(busy)
            began = time.monotonic()
            process.send_signal(number)
            for each in (watch, busy):
                with pytest.raises(Stopped, match=r"^etcdserver: server stopped$"):
                    await anext(each)
            _, err = await process.communicate()
            assert time.monotonic() - began < STOP_LIMIT
        assert (process.returncode, err) == (0, b"")
    async with serving(tmp_path) as (_, endpoint), RemoteClient([endpoint]) as client:
        kv = await client.get(b"a")
        assert kv is not None
        assert kv.mod_revision == revision.revision


async def test_a_client_that_does_not_read_cannot_hold_up_the_stop(
    node: Node, channel: grpc.aio.Channel, server: Server
) -> None:
    stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)
    await stream.write(watch_request(key=b"\0", range_end=b"\0", start_revision=1))
    async with RemoteClient(server.client_urls) as client:
        for number in range(40):
            await client.put(f"{number}".encode(), bytes(1_000_000))
    began = time.monotonic()
    await server.stop(grace=0.5)
    assert time.monotonic() - began < STOP_LIMIT
    stream.cancel()


async def test_health_and_lease_streams_end_unavailable_too(channel: grpc.aio.Channel, server: Server) -> None:
    health = channel.stream_stream("/grpc.health.v1.Health/Watch", None, None)(None)
    await health.write(b"")
    await health.done_writing()
    assert pb.HealthCheckResponse.FromString(await read(health)).status == pb.HealthCheckResponse.SERVING
    leases = channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive", None, None)(None)
    await leases.write(pb.LeaseKeepAliveRequest(ID=404).SerializeToString())
    assert pb.LeaseKeepAliveResponse.FromString(await read(leases)).TTL == 0
    await server.stop()
    for stream in (health, leases):
        assert await stream.code() == grpc.StatusCode.UNAVAILABLE


async def test_the_server_can_be_stopped_twice_and_started_anew(node: Node) -> None:
    server = Server(node, ["http://127.0.0.1:0"])
    await server.start()
    (url,) = server.client_urls
    await server.stop()
    await server.stop()
    async with Server(node, [url]), RemoteClient([url]) as client:
        await client.put(b"a", b"1")


# ---- what raw clients meet ------------------------------------------------------------------------------------------


def watch_request(**create: object) -> bytes:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(**create)).SerializeToString()  # type: ignore[arg-type]


async def test_health(channel: grpc.aio.Channel) -> None:
    answer = await call(channel, "/grpc.health.v1.Health/Check", b"")
    assert pb.HealthCheckResponse.FromString(answer).status == pb.HealthCheckResponse.SERVING
    named = pb.HealthCheckRequest(service="etcdserverpb.KV").SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "/grpc.health.v1.Health/Check", named)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/etcdserverpb.KV/Increment", "unknown method Increment for service etcdserverpb.KV"),
        ("/etcdserverpb.Nothing/Any", "unknown service etcdserverpb.Nothing"),
        ("/nonsense", "unknown service "),
    ],
)
async def test_unknown_methods_are_unimplemented(channel: grpc.aio.Channel, path: str, says: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, path, b"")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, says)


async def test_messages_over_the_limit_are_refused_in_etcds_words(channel: grpc.aio.Channel) -> None:
    for size in (2_097_153, 9_000_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "/etcdserverpb.KV/Put", bytes(size))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"eceived message larger than max ({size} vs. " in (caught.value.details() or "")
    just_fits = pb.PutRequest(key=b"k", value=bytes(1_500_000)).SerializeToString()
    assert pb.PutResponse.FromString(await call(channel, "/etcdserverpb.KV/Put", just_fits)).header.revision == 2


async def test_garbage_is_an_error_of_its_call_only(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "/etcdserverpb.KV/Put", b"\xff\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert (caught.value.details() or "").startswith("grpc: error unmarshalling request: ")
    stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)
    await stream.write(b"\xff\xff\xff")
    assert await stream.code() == grpc.StatusCode.INTERNAL
    await call(channel, "/etcdserverpb.KV/Put", pb.PutRequest(key=b"a").SerializeToString())


@pytest.mark.parametrize("message", [b"", b"\0\0\0", b"\0\0\0\0\x50ab"], ids=["none", "in its length", "in its text"])
async def test_a_call_whose_message_is_cut_ends_at_once(server: Server, endpoint: str, message: bytes) -> None:
    for path in (path for path, route in server.routes.items() if isinstance(route, Unary)):
        # A connection each, so that no header is told by its number alone.
        async with raw(endpoint) as connection, asyncio.timeout(10):
            connection.call(1, path, message)
            while (heard := await connection.heard())[2] != 1:
                pass
            kind, flags, _, trailers = heard
            assert (kind, flags & END_STREAM) == (HEADERS, END_STREAM)
            assert b"grpc-status\x012" in trailers, f"{path}: Unknown, as in etcd"
            assert b"unexpected EOF" in trailers


async def test_an_operation_without_a_request_is_refused(channel: grpc.aio.Channel) -> None:
    request = pb.TxnRequest(success=[pb.RequestOp()])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, "/etcdserverpb.KV/Txn", request.SerializeToString())
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "etcdserver: key not found"


class RawWatch:
    """A watch stream, message by message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stream = channel.stream_stream("/etcdserverpb.Watch/Watch", None, None)(None)

    async def create(self, **create: object) -> pb.WatchResponse:
        await self._stream.write(watch_request(**create))
        return await self.read()

    async def cancel(self, watch_id: int) -> None:
        request = pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))
        await self._stream.write(request.SerializeToString())

    async def progress(self) -> None:
        request = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
        await self._stream.write(request.SerializeToString())

    async def done_writing(self) -> None:
        await self._stream.done_writing()

    async def read(self) -> pb.WatchResponse:
        return pb.WatchResponse.FromString(await read(self._stream))

    def close(self) -> None:
        self._stream.cancel()


async def test_many_watches_on_one_stream(channel: grpc.aio.Channel, endpoint: str) -> None:
    watch = RawWatch(channel)
    ids = [(await watch.create(key=b"a", watch_id=asked)).watch_id for asked in (0, 0, 7, -5)]
    assert ids == [0, 1, 7, -5]
    again = await watch.create(key=b"a", watch_id=7)
    assert (again.created, again.canceled, again.watch_id) == (True, True, -1)
    assert again.cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"
    await watch.cancel(99)  # no such watch: no answer
    await watch.cancel(7)
    canceled = await watch.read()
    assert (canceled.canceled, canceled.watch_id, canceled.cancel_reason) == (True, 7, "")
    async with RemoteClient([endpoint]) as client:
        await client.put(b"a", b"1")
    assert {(await watch.read()).watch_id for _ in range(3)} == {0, 1, -5}
    await watch.progress()
    progress = await watch.read()
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, 2, 0)
    watch.close()


async def test_a_watch_outlives_the_clients_half_close(channel: grpc.aio.Channel, endpoint: str) -> None:
    watch = RawWatch(channel)
    await watch.create(key=b"a")
    await watch.done_writing()
    async with RemoteClient([endpoint]) as client:
        await client.put(b"a", b"1")
        assert len((await watch.read()).events) == 1
    watch.close()


@pytest.mark.parametrize("fragment", [False, True])
async def test_fragments(channel: grpc.aio.Channel, endpoint: str, fragment: bool) -> None:
    watch = RawWatch(channel)
    await watch.create(key=b"big", range_end=b"bih", fragment=fragment, prev_kv=True)
    async with RemoteClient([endpoint]) as client:
        for number in range(3):
            await client.put(f"big{number}".encode(), bytes(1_000_000))
        assert [len((await watch.read()).events) for _ in range(3)] == [1, 1, 1]
        await client.delete(b"big", b"bih")
    responses = [await watch.read()]
    while responses[-1].fragment:
        responses.append(await watch.read())
    assert [len(response.events) for response in responses] == ([2, 1] if fragment else [3])
    assert len({response.header.revision for response in responses}) == 1
    watch.close()


# ---- the client's connections ---------------------------------------------------------------------------------------


async def test_a_store_that_cannot_be_reached(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    async with RemoteClient([f"127.0.0.1:{port}" for port in ports]) as client:
        with pytest.raises(Unavailable) as caught:
            await client.get(b"a")
    text = str(caught.value)
    assert all(f"127.0.0.1:{port}" in text for port in ports)
    assert text.startswith("cannot connect to the store: tried 127.0.0.1:")
    assert text.endswith(" s")


async def test_an_endpoint_that_never_answers_costs_the_dial_timeout() -> None:
    with socket.socket() as silent:  # it accepts connections, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        async with RemoteClient([f"127.0.0.1:{port}"], dial_timeout=0.3) as client:
            with pytest.raises(Unavailable, match=rf"tried 127\.0\.0\.1:{port} for 0\.3 s"):
                await client.get(b"a")


@pytest.mark.parametrize("first", [0, 1])
async def test_the_next_endpoint_is_used_when_one_is_gone(endpoint: str, first: int) -> None:
    gone = f"127.0.0.1:{free_port()}"
    endpoints = [gone, endpoint] if first == 0 else [endpoint, gone]
    async with RemoteClient(endpoints) as client:
        await client.put(b"a", b"1")
        assert await client.get(b"a") is not None


async def test_reads_move_on_when_the_server_goes_away(tmp_path: Path, endpoint: str) -> None:
    async with serving(tmp_path / "other") as (process, other):
        # Of two, the client keeps to the one it chose; let it be the one that will be killed.
        async with RemoteClient([other]) as there:
            await there.put(b"where", b"other")
        async with RemoteClient([endpoint]) as here:
            await here.put(b"where", b"here")
        async with RemoteClient([endpoint, other]) as client:
            while (found := await client.get(b"where")) is None or found.value != b"other":
                client._rotate(client._endpoints[client._current])
            process.kill()
            await process.wait()
            found = await client.get(b"where")
            assert found is not None
            assert found.value == b"here"


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with RemoteClient([url]) as client:
        async with serving(tmp_path, url) as (process, _):
            await client.put(b"a", b"1")
            process.kill()
            await process.wait()
        with pytest.raises(Unavailable):
            await client.put(b"a", b"2")
        async with serving(tmp_path, url):
            async with asyncio.timeout(10):
                while True:
                    try:
                        kv = await client.get(b"a")
                        break
                    except Unavailable:
                        await asyncio.sleep(0.05)
            assert kv is not None
            assert kv.value == b"1"


@pytest.mark.parametrize("bad", ["", "127.0.0.1", "127.0.0.1:x", "ftp://127.0.0.1:1", "http://a:1/path"])
def test_malformed_endpoints(bad: str) -> None:
    with pytest.raises(ValueError, match="invalid endpoint"):
        RemoteClient([bad])


async def test_a_cancelled_call_is_cancelled(endpoint: str) -> None:
    async with RemoteClient([endpoint]) as client:
        await client.put(b"a", b"1")
        task = asyncio.create_task(client.get(b"a"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.get(b"a") is not None


@pytest.mark.parametrize("turns", [*range(0, 40, 4)])
async def test_a_watch_that_meets_a_stopping_server_is_told_to_come_back(node: Node, turns: int) -> None:
    server = Server(node, ["http://127.0.0.1:0"])
    await server.start()
    async with RemoteClient(server.client_urls, dial_timeout=1.0) as client:
        await client.put(b"a", b"1")

        async def watch() -> None:
            async with client.watch(b"a") as watch:
                await anext(watch)

        watching = asyncio.create_task(watch())
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.stop()
        with pytest.raises(Unavailable):
            await watching
