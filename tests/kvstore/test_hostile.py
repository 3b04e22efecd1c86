"""Clients that mean no good get an error; the server lives, and a client that behaves notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message

from kvstore.client import connect
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.proto.messages import POOL
from kvstore.server import Server
from kvstore.server.http import HttpServer
from tests.kvstore.hostile import (
    bystander,
    idle,
    lease_flood,
    raw,
    resets,
    watch_flood,
)
from tests.kvstore.serve_process import serving

LONGEST_ROUND = 3.0  # seconds; a round is a write, a read and a watch's event, on a machine that tests share
KV, LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
MOST, LEAST = 2**63 - 1, -(2**63)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[str]:
    """`HOST:PORT` of a server process, which must be alive in the end."""
    async with serving(tmp_path / "node") as (process, endpoint):
        yield endpoint
        assert process.returncode is None
        async with connect(endpoint) as client:
            assert (await client.put(b"still", b"here")).header.revision > 1


@pytest.fixture
async def channel(endpoint: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        yield channel


async def code_of(channel: grpc.aio.Channel, path: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    """How a call ends that sends one message."""
    call: Any = channel.stream_stream(path, None, None)(iter([data]))
    async with asyncio.timeout(10):
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
        return await call.code(), await call.details()


# ---- messages -------------------------------------------------------------------------------------------------------


async def test_what_is_no_message_is_refused_by_every_method(channel: grpc.aio.Channel, server: Server) -> None:
    for path, route in server.routes.items():
        if not route.request.DESCRIPTOR.fields:
            continue  # any field is an unknown one, which is fine
        for data in (b"\xff\xff\xff", b"\x0a\x7f", b"\x07"):
            code, says = await code_of(channel, path, data)
            assert code == grpc.StatusCode.INTERNAL, (path, says)
            assert says.startswith("grpc: error unmarshalling request: ")


async def test_too_large_for_every_method(channel: grpc.aio.Channel, server: Server) -> None:
    for path in server.routes:
        for size in (
            (server.max_message + 1, 9_000_000) if path.endswith(("/Put", "/Watch")) else (server.max_message + 1,)
        ):
            code, says = await code_of(channel, path, bytes(size))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, (path, says)
            assert f"received message larger than max ({size} vs. " in says.replace("Received", "received")


@pytest.mark.parametrize(
    "messages",
    [
        [b"\0\0\0\0\x64abc"],  # shorter than it says
        [b"\0\xff\xff\xff\xffabc"],  # as long as can be said
        [b"\0\0"],  # cut in its length
        [b"\x01\0\0\0\x03abc"],  # compressed, with nothing that says how
        [b"\x07\0\0\0\x03abc"],  # flags that do not exist
        [b"\0\0\0\0\0" * 3],  # more messages than a unary method takes
    ],
)
@pytest.mark.parametrize("path", ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"])
async def test_frames_that_are_wrong(
    endpoint: str, channel: grpc.aio.Channel, path: str, messages: list[bytes]
) -> None:
    async with raw(endpoint) as connection, asyncio.timeout(10):
        connection.call(1, path, *messages)
        await connection.caught_up()
    good = pb.PutRequest(key=b"a").SerializeToString()
    assert (await code_of(channel, "/etcdserverpb.KV/Put", good))[0] == grpc.StatusCode.OK


async def test_what_is_no_http2_is_hung_up_on(endpoint: str) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0", bytes(100)):
        async with raw(endpoint, greet=False) as connection, asyncio.timeout(10):
            connection.say(said)
            await connection.ends(1)
            assert await connection.reader.read() == b""


async def test_header_blocks_that_are_wrong_end_their_connection(endpoint: str) -> None:
    async with raw(endpoint) as connection, asyncio.timeout(10):
        connection.say(b"\0\0\x04\x01\x04\0\0\0\x01\xff\xff\xff\xff")  # an index that no table has
        await connection.ends(1)


# ---- numbers --------------------------------------------------------------------------------------------------------

Q = grpc.StatusCode
A = b"a"


@pytest.mark.parametrize(
    ("path", "request_", "code"),
    [
        (KV + "Range", pb.RangeRequest(key=A, revision=MOST), Q.OUT_OF_RANGE),
        (KV + "Range", pb.RangeRequest(key=A, revision=LEAST, limit=LEAST), Q.OK),
        (KV + "Range", pb.RangeRequest(key=A, range_end=b"\0", limit=MOST), Q.OK),
        (KV + "Range", pb.RangeRequest(key=b"\xff" * 100_000, range_end=b"\0"), Q.OK),
        (KV + "Range", pb.RangeRequest(key=b"z", range_end=A), Q.OK),
        (KV + "Range", pb.RangeRequest(key=A, min_mod_revision=MOST, max_mod_revision=LEAST), Q.OK),
        (KV + "Range", pb.RangeRequest(key=A, sort_order=99), Q.INVALID_ARGUMENT),
        (KV + "Range", pb.RangeRequest(key=A, sort_target=-1), Q.INVALID_ARGUMENT),
        (KV + "RangeStream", pb.RangeRequest(key=A, range_end=b"\0", limit=MOST, revision=MOST), Q.OUT_OF_RANGE),
        (KV + "Put", pb.PutRequest(key=A, lease=MOST), Q.NOT_FOUND),
        (KV + "Put", pb.PutRequest(key=A, lease=LEAST), Q.NOT_FOUND),
        (KV + "Put", pb.PutRequest(key=bytes(1_572_865)), Q.INVALID_ARGUMENT),
        (KV + "Compact", pb.CompactionRequest(revision=MOST), Q.OUT_OF_RANGE),
        (KV + "Compact", pb.CompactionRequest(revision=LEAST, physical=True), Q.OUT_OF_RANGE),
        (KV + "Txn", pb.TxnRequest(compare=[pb.Compare(key=A)] * 129), Q.INVALID_ARGUMENT),
        (LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=MOST), Q.OUT_OF_RANGE),
        (LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=LEAST, ID=LEAST), Q.OK),
        (LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=9_000_000_000, ID=MOST), Q.OK),
        (LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=MOST), Q.NOT_FOUND),
        (LEASE + "LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=LEAST), Q.OK),
        (LEASE + "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=LEAST, keys=True), Q.OK),
        ("/etcdserverpb.Maintenance/HashKV", pb.HashKVRequest(revision=MOST), Q.OUT_OF_RANGE),
        ("/etcdserverpb.Maintenance/Alarm", pb.AlarmRequest(action=77, alarm=-5, memberID=2**64 - 1), Q.OK),
        ("/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderRequest(targetID=2**64 - 1), Q.FAILED_PRECONDITION),
        ("/etcdserverpb.Maintenance/Downgrade", pb.DowngradeRequest(version="9" * 5000 + ".1"), Q.INVALID_ARGUMENT),
        ("/etcdserverpb.Cluster/MemberRemove", pb.MemberRemoveRequest(ID=2**64 - 1), Q.NOT_FOUND),
        ("/etcdserverpb.Cluster/MemberAdd", pb.MemberAddRequest(peerURLs=["http://["]), Q.INVALID_ARGUMENT),
        ("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest(name="\0" * 1000), Q.FAILED_PRECONDITION),
        (
            "/etcdserverpb.Auth/UserChangePassword",
            pb.AuthUserChangePasswordRequest(name="x", hashedPassword="é"),
            Q.FAILED_PRECONDITION,
        ),
        ("/v3lockpb.Lock/Lock", pb.LockRequest(name=A, lease=LEAST), Q.UNKNOWN),
        ("/v3electionpb.Election/Proclaim", pb.ProclaimRequest(), Q.UNKNOWN),
    ],
)
async def test_absurd_numbers(channel: grpc.aio.Channel, path: str, request_: Message, code: grpc.StatusCode) -> None:
    assert (await code_of(channel, path, request_.SerializeToString()))[0] == code


async def test_transactions_nested_without_end(channel: grpc.aio.Channel) -> None:
    for depth, code in ((20, Q.OK), (90, Q.INTERNAL), (5000, Q.INTERNAL)):
        inner = b""
        for _ in range(depth):
            op = b"\x22" + _length(inner) + inner
            inner = b"\x12" + _length(op) + op
        assert (await code_of(channel, KV + "Txn", inner))[0] == code, depth


def _length(data: bytes) -> bytes:
    number, out = len(data), bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def test_every_method_is_described(server: Server) -> None:
    assert all(POOL.FindMethodByName(path[1:].replace("/", ".")) for path in server.routes)


# ---- many -----------------------------------------------------------------------------------------------------------


async def test_idle_and_half_open_connections(process: str) -> None:
    async with bystander(process) as experience:
        async with idle(process, 500):
            before = experience().rounds
            async with asyncio.timeout(20):
                while experience().rounds < before + 20:
                    await asyncio.sleep(0.01)
        assert experience().slowest < LONGEST_ROUND


async def test_calls_that_are_reset_at_once(process: str) -> None:
    async with bystander(process) as experience:
        await resets(process, 3000)
        assert experience().slowest < LONGEST_ROUND


async def test_a_crowd_of_calls_is_answered(process: str) -> None:
    async with grpc.aio.insecure_channel(process) as channel:
        put: Any = channel.unary_unary(KV + "Put", None, None)
        request = pb.PutRequest(key=b"crowd").SerializeToString()
        answers = await asyncio.gather(*(put(request) for _ in range(3000)))
        assert len({pb.PutResponse.FromString(answer).header.revision for answer in answers}) == 3000


async def test_a_flood_of_watches(process: str) -> None:
    async with bystander(process) as experience:
        async with watch_flood(process, 1000):
            before = experience().rounds
            async with asyncio.timeout(20):
                while experience().rounds < before + 10:
                    await asyncio.sleep(0.01)
        assert experience().slowest < LONGEST_ROUND


async def test_a_flood_of_leases(process: str) -> None:
    async with bystander(process) as experience:
        await lease_flood(process, 500)
        assert experience().slowest < LONGEST_ROUND


# ---- HTTP -----------------------------------------------------------------------------------------------------------


async def test_headers_that_come_slowly_or_not_at_all(node: Node, server: Server) -> None:
    async with HttpServer(node, server, client_urls=["http://127.0.0.1:0"], stop_grace=0.5) as http:
        endpoint = http.client_urls[0].removeprefix("http://")
        async with asyncio.TaskGroup() as slow:
            tasks = [slow.create_task(_slowly(endpoint)) for _ in range(200)]
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
                for _ in range(20):
                    async with session.get(f"http://{endpoint}/health") as response:
                        assert response.status == 200
            for task in tasks:
                task.cancel()


async def _slowly(endpoint: str) -> None:
    async with raw(endpoint, greet=False) as connection:
        connection.say(b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        while True:
            connection.say(b"a")
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", b"400"),
        (b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"\0\xff\xfe\r\n\r\n", b"400"),
    ],
)
async def test_http_that_is_none(node: Node, server: Server, said: bytes, status: bytes) -> None:
    async with HttpServer(node, server, client_urls=["http://127.0.0.1:0"], stop_grace=0.5) as http:
        endpoint = http.client_urls[0].removeprefix("http://")
        async with raw(endpoint, greet=False) as connection, asyncio.timeout(10):
            connection.say(said)
            assert (await connection.reader.readline()).split()[1] == status
