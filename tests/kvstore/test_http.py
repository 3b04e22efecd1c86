"""HTTP beside gRPC: version, health and its checks, starting and stopping."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from kvstore.alarms import AlarmType
from kvstore.api import Put
from kvstore.client import RemoteClient
from kvstore.errors import Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.proto import messages as pb
from kvstore.server import AddressInUse, InvalidListenURL, ListenError, ServeConfig, Server, serve
from kvstore.server.http import HttpServer
from kvstore.services import Unary

LOCAL = "http://127.0.0.1:0"


@pytest.fixture
async def http(node: Node, server: Server) -> AsyncIterator[HttpServer]:
    async with HttpServer(node, server, client_urls=[LOCAL], metrics_urls=[LOCAL], stop_grace=0.5) as http:
        yield http


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def get(session: aiohttp.ClientSession, url: str, method: str = "GET") -> tuple[int, str]:
    async with session.request(method, url) as response:
        return response.status, await response.text()


async def get_json(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as response:
        return response.status, await response.json(content_type=None)


# ---- version and health ---------------------------------------------------------------------------------------------


async def test_version_has_etcds_fields(etcd: str, http: HttpServer, session: aiohttp.ClientSession) -> None:
    status, mine = await get_json(session, http.client_urls[0] + "/version")
    _, theirs = await get_json(session, f"http://{etcd}/version")
    assert status == 200
    assert mine.keys() == theirs.keys()
    assert mine["etcdcluster"] == theirs["etcdcluster"]
    assert tuple(map(int, mine["etcdserver"].split("."))) >= (3, 5, 13)  # what Kubernetes asks for


@pytest.mark.parametrize("query", ["", "?exclude=NOSPACE", "?serializable=true", "?exclude=NOSPACE&exclude=CORRUPT"])
async def test_health_is_etcds(etcd: str, http: HttpServer, session: aiohttp.ClientSession, query: str) -> None:
    mine = await get_json(session, f"{http.client_urls[0]}/health{query}")
    assert mine == await get_json(session, f"http://{etcd}/health{query}") == (200, {"health": "true", "reason": ""})


@pytest.mark.parametrize("path", ["health", "livez", "readyz", "livez/serializable_read", "metrics", "version"])
async def test_only_get_is_for_looking(http: HttpServer, session: aiohttp.ClientSession, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        status, _ = await get(session, f"{http.client_urls[0]}/{path}", method)
        assert status == 405


LIVE = "[+]serializable_read ok\n"
READY = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("livez", "ok\n"),
        ("readyz", "ok\n"),
        ("livez?verbose", LIVE + "ok\n"),
        ("readyz?verbose", READY + "ok\n"),
        ("readyz?exclude=data_corruption&exclude=non_learner&verbose",
         "[+]data_corruption excluded: ok\n[+]serializable_read ok\n[+]linearizable_read ok\n"
         "[+]non_learner excluded: ok\nok\n"),
        ("livez/serializable_read", "ok\n"),
        ("readyz/linearizable_read?verbose", "[+]linearizable_read ok\nok\n"),
        ("readyz/data_corruption", "ok\n"),
        ("readyz/non_learner", "ok\n"),
    ],
)  # fmt: skip
async def test_checks(http: HttpServer, session: aiohttp.ClientSession, path: str, says: str) -> None:
    assert await get(session, f"{http.client_urls[0]}/{path}") == (200, says)
    assert await get(session, f"{http.metrics_urls[0]}/{path}") == (200, says)


@pytest.mark.parametrize("path", ["livez/linearizable_read", "readyz/nothing", "", "v2/keys"])
async def test_what_is_not_there(http: HttpServer, session: aiohttp.ClientSession, path: str) -> None:
    assert (await get(session, f"{http.client_urls[0]}/{path}"))[0] == 404


async def test_a_metrics_url_has_no_data(node: Node, http: HttpServer, session: aiohttp.ClientSession) -> None:
    (url,) = http.metrics_urls
    assert (await get(session, f"{url}/metrics"))[0] == 200
    assert (await get(session, f"{url}/version"))[0] == 404
    assert (await get(session, f"{url}/v3/kv/range", "POST"))[0] == 404


async def test_a_store_that_cannot_commit_is_not_ready(
    node: Node, http: HttpServer, session: aiohttp.ClientSession
) -> None:
    (url,) = http.client_urls
    node._store.stop()
    with pytest.raises(Unavailable):
        await node.put(Put(b"a", b"2"))
    status, body = await get_json(session, f"{url}/health")
    assert (status, body) == (503, {"health": "false", "reason": "QGET ERROR:etcdserver: server stopped"})
    assert (await get_json(session, f"{url}/health?serializable=true"))[0] == 200
    assert await get(session, f"{url}/readyz") == (
        503,
        "[+]data_corruption ok\n[+]serializable_read ok\n"
        "[-]linearizable_read failed: QGET ERROR:etcdserver: server stopped\n[+]non_learner ok\n"
        "readyz check failed\n",
    )
    assert (await get(session, f"{url}/readyz?exclude=linearizable_read"))[0] == 200
    assert (await get(session, f"{url}/livez"))[0] == 200  # reads go on


async def test_alarms(node: Node, http: HttpServer, session: aiohttp.ClientSession) -> None:
    (url,) = http.client_urls
    await node.maintenance.alarms.activate(AlarmType.NOSPACE, node.member_id)
    assert await get_json(session, f"{url}/health") == (503, {"health": "false", "reason": "ALARM NOSPACE"})
    assert (await get_json(session, f"{url}/health?exclude=NOSPACE"))[0] == 200
    assert (await get(session, f"{url}/readyz"))[0] == 200  # reads and deletes are welcome
    await node.maintenance.alarms.activate(AlarmType.CORRUPT, node.member_id)
    assert (await get_json(session, f"{url}/health?exclude=NOSPACE"))[1]["reason"] == "ALARM CORRUPT"
    status, text = await get(session, f"{url}/readyz")
    assert status == 503
    assert "[-]data_corruption failed: alarm activated: CORRUPT\n" in text


async def test_health_checks_change_nothing(node: Node, http: HttpServer, session: aiohttp.ClientSession) -> None:
    before = await node.put(Put(b"\0", b"the smallest key"))
    for path in ("health", "readyz", "livez"):
        assert (await get(session, f"{http.client_urls[0]}/{path}"))[0] == 200
    assert node.revision == before.revision


# ---- starting and stopping ------------------------------------------------------------------------------------------


async def test_an_occupied_port(node: Node, server: Server) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        http = HttpServer(node, server, client_urls=[LOCAL], metrics_urls=[f"http://127.0.0.1:{port}"])
        with pytest.raises(AddressInUse, match=f"^cannot listen on 127.0.0.1:{port}: the port is in use$"):
            await http.start()
        assert http.client_urls == []


async def test_an_address_that_is_not_ours(node: Node, server: Server) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:1"):
        await HttpServer(node, server, client_urls=["http://192.0.2.1:1"]).start()
    with pytest.raises(InvalidListenURL, match="https needs a --cert-file"):
        HttpServer(node, server, metrics_urls=["https://127.0.0.1:0"])


async def test_connections_that_say_nothing_do_not_delay_the_stop(http: HttpServer) -> None:
    host, _, port = http.client_urls[0].removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    for _, writer in idle[:10]:
        writer.write(b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Le")
        await writer.drain()
    began = loop.time()
    await http.stop()
    assert loop.time() - began < 5
    for reader, writer in idle:
        assert await reader.read() == b""
        writer.close()


MALFORMED = (
    b"nonsense\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_requests(http: HttpServer, session: aiohttp.ClientSession, data: bytes) -> None:
    host, _, port = http.client_urls[0].removeprefix("http://").rpartition(":")
    with capture_logs() as said:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        answer = await reader.readline()
        assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer
        writer.close()
        assert (await get(session, f"{http.client_urls[0]}/health"))[0] == 200
    assert all(line["log_level"] == "debug" and "\n" not in line["error"] for line in said), said


async def test_a_mistake_of_ours_is_told_and_costs_one_answer(
    server: Server, http: HttpServer, session: aiohttp.ClientSession
) -> None:
    async def broken(_: Any) -> bytes:
        raise RuntimeError("a mistake")

    server.routes["/etcdserverpb.KV/Range"] = Unary(pb.RangeRequest, broken)
    with capture_logs() as said:
        assert (await get(session, f"{http.client_urls[0]}/v3/kv/range", "POST"))[0] == 500
    (line,) = said
    assert line["event"] == "http_request_failed"
    assert str(line["exc_info"][1]) == "a mistake"
    assert (await get(session, f"{http.client_urls[0]}/health"))[0] == 200


async def test_serve_has_http_only_when_asked(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    config = ServeConfig(
        tmp_path,
        (LOCAL,),
        listen_client_http_urls=(LOCAL,),
        listen_metrics_urls=(LOCAL,),
        node=NodeOptions(fsync=False),
    )
    ready: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(config, ready.set_result))
    first: list[asyncio.Future[Any]] = [serving, ready]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    try:
        server = ready.result()
        assert len(server.http_urls) == 2
        for url in server.http_urls:
            assert (await get(session, f"{url}/readyz"))[0] == 200
        async with RemoteClient(server.client_urls) as client:
            await client.put(b"a", b"1")
    finally:
        serving.cancel()
        await asyncio.wait([serving])
    code = "import sys, kvstore.server, kvstore.server.settings; print('aiohttp' in sys.modules, 'yaml' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.split() == [b"False", b"False"]
