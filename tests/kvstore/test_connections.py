"""HTTP clients that are slow, silent or many; and the port that gRPC and HTTP share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from kvstore.api import Put, Range
from kvstore.client import TLS, RemoteClient
from kvstore.errors import PermissionDenied, Unavailable
from kvstore.node import Node
from kvstore.permissions import Permission, PermissionType
from kvstore.server import InvalidListenURL, ServeConfig, Server, ServerTLS, edge
from kvstore.server.connections import HttpLimits
from kvstore.server.http import HttpServer
from kvstore.server.sniff import offered_protocols
from kvstore.server.splice import Splices
from tests.etcd_process import ETCDCTL, free_port
from tests.kvstore.certificates import Authority
from tests.kvstore.hostile import PREFACE, SETTINGS, Raw, bystander, call_headers, frame, raw

SHORT = HttpLimits(handshake=0.2, headers=0.2, body=0.2, idle=0.2)
PATIENT = HttpLimits()
REQUEST = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@asynccontextmanager
async def http(node: Node, server: Server, limits: HttpLimits) -> AsyncIterator[str]:
    """`HOST:PORT` of HTTP under such limits."""
    async with HttpServer(node, server, client_urls=["http://127.0.0.1:0"], stop_grace=0.5, limits=limits) as started:
        yield started.client_urls[0].removeprefix("http://")


async def answered(connection: Raw) -> int:
    """The status of the answer to one request."""
    connection.say(REQUEST)
    head = await connection.reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    await connection.reader.readexactly(int(length[1]))
    return int(head.split()[1])


async def rest(connection: Raw) -> bytes:
    """All that still comes until the server hangs up."""
    try:
        return await connection.reader.read()
    except ConnectionResetError:
        return b""


# ---- slow clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", b""),
        (b"GET /version HTT", b"HTTP/1.1 408 "),
        (b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"HTTP/1.1 408 "),
        (b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 408 "),
    ],
)
async def test_who_is_too_slow_is_told_and_hung_up_on(node: Node, server: Server, said: bytes, told: bytes) -> None:
    async with http(node, server, SHORT) as endpoint, raw(endpoint, greet=False) as connection:
        began = asyncio.get_running_loop().time()
        connection.say(said)
        assert (await connection.reader.readline())[: len(told) or None].startswith(told)
        assert asyncio.get_running_loop().time() - began < 5


async def test_headers_that_trickle_in(node: Node, server: Server) -> None:
    async with http(node, server, SHORT) as endpoint, raw(endpoint, greet=False) as connection:
        assert await answered(connection) == 200
        connection.say(b"GET /version HTTP/1.1\r\nX-Slow: ")

        async def trickle() -> None:
            while True:
                connection.say(b"a")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await rest(connection)).startswith(b"HTTP/1.1 408 ")
        trickling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await trickling


async def test_an_idle_connection_is_closed_in_silence_and_a_used_one_is_not(node: Node, server: Server) -> None:
    limits = dataclasses.replace(SHORT, idle=0.5)
    async with (
        http(node, server, limits) as endpoint,
        raw(endpoint, greet=False) as idle,
        raw(endpoint, greet=False) as used,
    ):
        assert await answered(idle) == 200
        gone = asyncio.create_task(rest(idle))
        while not gone.done():
            assert await answered(used) == 200
            await asyncio.sleep(0.05)
        assert await gone == b""
        assert await answered(used) == 200


async def test_a_request_that_takes_long_has_no_deadline(node: Node, server: Server) -> None:
    body = b'{"create_request":{"key":"YQ=="}}'
    async with http(node, server, SHORT) as endpoint, raw(endpoint, greet=False) as connection:
        head = b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.say(head, body)
        await connection.reader.readuntil(b'"created":true')
        await asyncio.sleep(3 * SHORT.idle)  # as long as every deadline, and longer
        await node.put(Put(b"a", b"1"))
        await connection.reader.readuntil(b'"events"')


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(node: Node, server: Server) -> None:
    large = 4
    for number in range(large):
        await node.put(Put(b"large/%d" % number, bytes(1 << 20)))
    body = b'{"key":"AA==","range_end":"AA=="}'
    request = b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with http(node, server, SHORT) as endpoint, raw(endpoint, greet=False) as connection:
        connection.say(request)
        got = 0
        while got < large << 20:  # base64 makes it a third more
            got += len(await connection.reader.read(256 * 1024))
            await asyncio.sleep(0.03)  # over the deadline in all
    async with http(node, server, SHORT) as endpoint, raw(endpoint, greet=False) as connection:
        connection.say(request)
        await connection.reader.readuntil(b"\r\n\r\n")
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3 * SHORT.idle)
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await rest(connection)) < large << 20, "who takes nothing is cut off"


async def test_a_tls_handshake_that_never_ends(
    node: Node, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "HANDSHAKE_TIMEOUT", 0.2)
    authority = Authority(tmp_path)
    tls = ServerTLS(*authority.server())
    async with (
        Server(node, ["https://127.0.0.1:0"], tls=tls) as secure,
        HttpServer(node, server, client_urls=["https://127.0.0.1:0"], tls=tls, limits=SHORT) as started,
    ):
        for url in (*secure.client_urls, *started.client_urls):
            endpoint = url.removeprefix("https://")
            for said in (b"", b"\x16\x03\x01"):
                async with raw(endpoint, greet=False) as connection:
                    connection.say(said)
                    assert await rest(connection) == b""
    assert not [task for task in asyncio.all_tasks() if "_greet" in repr(task)]


# ---- too many -------------------------------------------------------------------------------------------------------


async def test_the_one_that_has_waited_longest_makes_room(node: Node, server: Server) -> None:
    limits = dataclasses.replace(PATIENT, connections=10)
    async with http(node, server, limits) as endpoint, contextlib.AsyncExitStack() as stack:
        watching = await stack.enter_async_context(raw(endpoint, greet=False))
        body = b'{"create_request":{"key":"YQ=="}}'
        watching.say(b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await watching.reader.readuntil(b'"created":true')
        idle = [await stack.enter_async_context(raw(endpoint, greet=False)) for _ in range(9)]
        for connection in idle:
            assert await answered(connection) == 200
        assert await answered(idle[0]) == 200  # so the second has waited longest
        late = await stack.enter_async_context(raw(endpoint, greet=False))
        assert await answered(late) == 200
        assert await rest(idle[1]) == b""
        for connection in (idle[0], *idle[2:]):
            assert await answered(connection) == 200
        await node.put(Put(b"a", b"1"))
        await watching.reader.readuntil(b'"events"')


async def test_a_crowd_that_says_nothing_keeps_nobody_out(node: Node, server: Server) -> None:
    limits = dataclasses.replace(PATIENT, connections=50)
    async with http(node, server, limits) as endpoint, contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(raw(endpoint, greet=False))
        async with aiohttp.ClientSession() as session:
            for _ in range(5):
                async with session.get(f"http://{endpoint}/health") as response:
                    assert response.status == 200


async def test_when_all_are_busy_the_newest_is_refused(node: Node, server: Server) -> None:
    limits = dataclasses.replace(PATIENT, connections=3)
    body = b'{"create_request":{"key":"YQ=="}}'
    async with http(node, server, limits) as endpoint, contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(raw(endpoint, greet=False))
            connection.say(b"POST /v3/watch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await connection.reader.readuntil(b'"created":true')
        async with raw(endpoint, greet=False) as refused:
            assert await rest(refused) == b""


# ---- one port for both ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def shared(node: Node, tls: ServerTLS | None = None, limits: HttpLimits = PATIENT) -> AsyncIterator[str]:
    """`HOST:PORT` of a port that serves gRPC and HTTP."""
    endpoint = f"127.0.0.1:{free_port()}"
    url = f"http{'s' if tls else ''}://{endpoint}"
    async with (
        Server(node, [url], tls=tls, shared_urls=[url]) as server,
        HttpServer(node, server, client_urls=[url], tls=tls, stop_grace=0.5, limits=limits) as both,
    ):
        assert server.client_urls == both.client_urls == [url]
        yield endpoint


def test_which_urls_are_shared() -> None:
    one, two, any_ = "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:0"
    config = ServeConfig(Path(), (one, two, any_), listen_client_http_urls=("http://127.0.0.1:1/", any_))
    assert config.shared_urls == (one,)
    with pytest.raises(InvalidListenURL):
        _ = ServeConfig(Path(), ("nonsense",)).shared_urls


async def test_grpc_and_http_on_one_port(node: Node) -> None:
    async with (
        shared(node) as endpoint,
        RemoteClient([endpoint]) as client,
        client.watch(b"a") as watch,
        aiohttp.ClientSession() as session,
    ):
        await client.put(b"a", b"1")
        assert (await anext(watch)).events[0].kv.value == b"1"
        async with session.get(f"http://{endpoint}/metrics") as response:
            assert "process_resident_memory_bytes" in await response.text()
        async with session.post(f"http://{endpoint}/v3/kv/put", json={"key": "YQ==", "value": "Mg=="}) as response:
            assert response.status == 200
        assert (await anext(watch)).events[0].kv.value == b"2"
        assert (await client.member_list()).members[0].client_urls == [f"http://{endpoint}"]
        large = [await client.put(b"large/%d" % number, bytes(1 << 20)) for number in range(10)]
        answer = await client.range(Range(b"large/", b"large0"))
        assert [kv.mod_revision for kv in answer.kvs] == [each.header.revision for each in large]


async def test_a_port_that_is_stopped_ends_its_streams_as_unavailable(node: Node) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with shared(node) as endpoint:
            client = await stack.enter_async_context(RemoteClient([endpoint]))
            await client.put(b"a", b"1")
            async with raw(endpoint) as idle:
                await idle.caught_up()
        with pytest.raises(Unavailable):
            async with asyncio.timeout(20):
                await client.put(b"a", b"1")


@pytest.mark.parametrize("said", [b"", PREFACE[:11], b"G"])
async def test_who_does_not_say_what_it_speaks(node: Node, said: bytes) -> None:
    async with shared(node, limits=SHORT) as endpoint, bystander(endpoint):
        async with raw(endpoint, greet=False) as connection:
            connection.say(said)
            assert (await rest(connection))[:12] in (b"", b"HTTP/1.1 408")
        async with raw(endpoint, greet=False) as connection:
            connection.say(said)
            connection.writer.write_eof()
            assert await rest(connection) == b""


async def test_many_idle_connections_on_a_shared_port(node: Node) -> None:
    async with shared(node) as endpoint, contextlib.AsyncExitStack() as stack, bystander(endpoint) as experience:
        for _ in range(150):
            connection = await stack.enter_async_context(raw(endpoint))
            connection.say(frame(0x1, 0x4, 1, call_headers("/etcdserverpb.KV/Range")))
            await connection.caught_up()
        rounds = experience().rounds
        while experience().rounds < rounds + 3:
            await asyncio.sleep(0.01)


async def test_greetings_in_pieces(node: Node) -> None:
    async with shared(node) as endpoint, raw(endpoint, greet=False) as connection:
        for byte in PREFACE + frame(SETTINGS, 0, 0):
            connection.say(bytes([byte]))
            await connection.writer.drain()
            await asyncio.sleep(0.001)
        assert (await connection.heard())[0] == SETTINGS
    async with shared(node) as endpoint, raw(endpoint, greet=False) as connection:
        for byte in REQUEST[:-1]:
            connection.say(bytes([byte]))
            await asyncio.sleep(0.001)
        connection.say(b"\n")
        assert (await connection.reader.readline()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("http_offers", [None, ["http/1.1"], ["h2", "http/1.1"]])
async def test_tls_on_a_shared_port(node: Node, tmp_path: Path, http_offers: list[str] | None) -> None:
    authority = Authority(tmp_path)
    for name in ("root", "alice"):
        await node.auth.user_add(name, no_password=True)
    await node.auth.user_grant_role("root", "root")
    await node.auth.role_add("a")
    await node.auth.role_grant_permission("a", Permission(PermissionType.READWRITE, b"a"))
    await node.auth.user_grant_role("alice", "a")
    await node.auth.enable()
    tls = ServerTLS(*authority.server(), authority.file, client_cert_auth=True)
    alice = authority.client("alice")
    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(*alice)
    if http_offers is not None:
        context.set_alpn_protocols(http_offers)
    async with (
        shared(node, tls) as endpoint,
        RemoteClient([f"https://{endpoint}"], tls=TLS(authority.file, *alice)) as client,
        aiohttp.ClientSession() as session,
    ):
        await client.put(b"a", b"1")  # the certificate's common name is the user
        with pytest.raises(PermissionDenied):
            await client.put(b"b", b"1")
        async with session.get(f"https://{endpoint}/metrics", ssl=context) as response:
            assert response.status == 200
        for said in (b"GET / HTTP/1.1\r\n\r\n", PREFACE, b"\x16\x03\x01\0\x05\x01\0\0\x01\0", b"\x16\x03\x01\xff\xff"):
            async with raw(endpoint, greet=False) as connection:
                connection.say(said)
                connection.writer.write_eof()
                await rest(connection)
        process = await asyncio.create_subprocess_exec(
            str(ETCDCTL),
            f"--endpoints=https://{endpoint}",
            f"--cacert={authority.file}",
            f"--cert={alice[0]}",
            f"--key={alice[1]}",
            "get",
            "a",
            stdout=asyncio.subprocess.PIPE,
        )
        assert (await process.communicate())[0] == b"a\n1\n"


async def test_etcdctl_reads_the_memory_from_the_client_port(node: Node, etcd: str) -> None:
    shown = []
    async with shared(node) as endpoint:
        for each in (endpoint, etcd):
            process = await asyncio.create_subprocess_exec(
                *(str(ETCDCTL), f"--endpoints={each}", "check", "datascale", "--load=s", "--auto-compact"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await process.communicate()
            lines = [line for line in said.decode().splitlines() if "%" not in line]
            # Ours is this process, whose memory may have shrunk meanwhile.
            shown.append((process.returncode, [re.sub(r"-?[0-9.]+ MB|revision \d+", "N", line) for line in lines]))
    assert shown[0] == shown[1]
    assert shown[0][0] == 0
    assert shown[0][1][-1] == "PASS: Approximate system memory used : N."


def hello(*protocols: str) -> bytes:
    """What a client that offers these says first."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


def test_what_a_client_offers() -> None:
    assert offered_protocols(hello()) == []
    assert offered_protocols(hello("h2")) == [b"h2"]
    assert offered_protocols(hello("h2", "http/1.1")) == [b"h2", b"http/1.1"]
    whole = hello("h2")
    for end in range(len(whole)):
        assert offered_protocols(whole[:end]) in ([], [b"h2"], [b"h"], [b""])
    for at in range(len(whole)):
        for byte in (0, 1, 127, 255):
            offered_protocols(whole[:at] + bytes([byte]) + whole[at + 1 :])


# ---- joined connections ---------------------------------------------------------------------------------------------


class Joined:
    """A client, joined to a listener on a Unix socket."""

    def __init__(self, client: Raw, behind: Raw, splices: Splices) -> None:
        self.client, self.behind, self.splices = client, behind, splices


@pytest.fixture
async def joined(tmp_path: Path) -> AsyncIterator[Joined]:
    path = tmp_path / "s"
    splices = Splices()
    loop = asyncio.get_running_loop()
    behind: asyncio.Future[Raw] = loop.create_future()

    async def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind.set_result(Raw(reader, writer))

    server = await asyncio.start_unix_server(came, path)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    await splices.join(ours, path)
    client = Raw(reader, writer)
    yield Joined(client, await behind, splices)
    splices.abort()
    for each in (client, await behind):
        if not each.writer.transport.is_closing():
            each.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await each.writer.wait_closed()
    server.close()
    await server.wait_closed()
    while len(splices):
        await asyncio.sleep(0)


async def test_each_direction_ends_alone(joined: Joined) -> None:
    joined.client.say(b"question")
    joined.client.writer.write_eof()
    assert await joined.behind.reader.read() == b"question"
    joined.behind.say(b"answer")
    joined.behind.writer.write_eof()
    assert await joined.client.reader.read() == b"answer"
    while len(joined.splices):
        await asyncio.sleep(0)


async def test_what_was_said_before_the_server_hung_up_arrives(joined: Joined) -> None:
    joined.behind.say(bytes(1 << 20))
    joined.behind.writer.close()
    assert len(await joined.client.reader.read()) == 1 << 20


async def test_a_side_that_breaks_ends_the_other(joined: Joined) -> None:
    joined.client.say(b"x")
    await joined.behind.reader.readexactly(1)
    joined.client.writer.transport.abort()
    assert await rest(joined.behind) == b""
    joined.behind.say(b"nobody hears this")
    while len(joined.splices):
        await asyncio.sleep(0)


@pytest.mark.parametrize("down", [True, False])
async def test_a_slow_reader_holds_up_the_other_side(joined: Joined, down: bool) -> None:
    speaks, hears = (joined.behind, joined.client) if down else (joined.client, joined.behind)
    hears.writer.transport.pause_reading()  # type: ignore[attr-defined]
    total = 32 << 20
    speaks.say(bytes(total))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await speaks.writer.drain()
    assert speaks.writer.transport.get_write_buffer_size() > total - (8 << 20), "the kernel's buffers, and ours"
    hears.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert len(await hears.reader.readexactly(total)) == total


async def test_nobody_listens(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(OSError, match="No such file"):
            await Splices().join(ours, tmp_path / "none")
        assert ours.fileno() == -1
