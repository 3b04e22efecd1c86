"""The JSON gateway: the same answers as a real etcd's, streams, hostile input, and a client of others."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import etcd3gw
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from kvstore.api import Put
from kvstore.errors import Code, InvalidArgument
from kvstore.node import Node
from kvstore.proto import messages as pb
from kvstore.server import Server, jsonpb
from kvstore.server.gateway import HTTP_STATUS, PATHS, Splitter
from kvstore.server.http import HttpServer

PREFIXES = itertools.count()
VOLATILE = {"header", "create_revision", "mod_revision", "ID", "leases"}


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
async def http(node: Node, server: Server) -> AsyncIterator[HttpServer]:
    async with HttpServer(node, server, client_urls=["http://127.0.0.1:0"], stop_grace=0.5) as http:
        yield http


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


@pytest.fixture
def url(http: HttpServer) -> str:
    return http.client_urls[0]


async def post(session: aiohttp.ClientSession, url: str, path: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    encoded = data.encode() if isinstance(data, str) else data
    async with session.post(f"{url}/v3/{path}", data=io.BytesIO(encoded)) as response:
        text = await response.text()
        return response.status, json.loads(text) if response.content_type == "application/json" else text


def steady(value: Any) -> Any:
    """Without what differs from server to server."""
    if isinstance(value, dict):
        return {name: steady(each) for name, each in value.items() if name not in VOLATILE}
    return [steady(each) for each in value] if isinstance(value, list) else value


# ---- like etcd's ----------------------------------------------------------------------------------------------------


async def test_the_same_answers_as_etcd(etcd: str, url: str, session: aiohttp.ClientSession) -> None:
    a, b = f"/gw/{next(PREFIXES)}/a", f"/gw/{next(PREFIXES)}/b"
    steps: list[tuple[str, Any]] = [
        ("kv/put", {"key": b64(a), "value": b64("one")}),
        ("kv/put", {"key": b64(a), "value": b64("two"), "prev_kv": True, "no_such_field": {"x": [1]}}),
        ("kv/put", {"key": b64(a), "value": b64("three"), "prevKv": True}),
        ("kv/put", {}),
        ("kv/put", ""),
        ("kv/put", {"key": b64(b), "lease": "4711"}),
        ("kv/range", {"key": b64(a)}),
        ("kv/range", {"key": b64(a), "range_end": b64(a + "z"), "limit": "1", "sort_order": "DESCEND"}),
        ("kv/range", {"key": b64(a), "revision": 99999999}),
        ("kv/range", {"key": b64(a), "revision": "99999999"}),
        ("kv/range", {"key": b64(a), "count_only": True}),
        ("kv/range", {"key": b64(b)}),
        (
            "kv/txn",
            {
                "compare": [{"key": b64(a), "target": "VERSION", "result": "EQUAL", "version": "3"}],
                "success": [
                    {"requestRange": {"key": b64(a)}},
                    {"request_put": {"key": b64(b), "value": b64("new")}},
                    {"request_txn": {"failure": [], "success": [{"request_range": {"key": b64(b)}}]}},
                ],
            },
        ),
        ("kv/txn", {"success": [{"request_put": {"key": b64(b)}}, {"request_put": {"key": b64(b)}}]}),
        ("kv/txn", {}),
        ("kv/deleterange", {"key": b64(a), "range_end": b64(b + "0"), "prev_kv": True}),
        ("kv/compaction", {"revision": "99999999"}),
        ("lease/grant", {"TTL": "60", "ID": 0}),
        ("lease/grant", {"TTL": "9000000001"}),
        ("lease/timetolive", {"ID": "77"}),
        ("kv/lease/timetolive", {"ID": "77", "keys": True}),
        ("lease/revoke", {"ID": "77"}),
        ("kv/lease/revoke", {"ID": "77"}),
        ("lease/leases", {}),
        ("kv/lease/leases", ""),
        ("lease/keepalive", {"ID": "77"}),
        ("maintenance/alarm", {}),
        ("no/such/path", {}),
    ]
    for path, body in steps:
        mine = await post(session, url, path, body)
        theirs = await post(session, f"http://{etcd}", path, body)
        assert steady(list(mine)) == steady(list(theirs)), (path, body)


MALFORMED = (
    "nonsense",
    "[1]",
    '"text"',
    '{"key":5}',
    '{"key":"!!!"}',
    '{"key":"a"}',
    '{"lease":"x"}',
    '{"key":"YQ==","lease":{}}',
    '{"prev_kv":"yes"}',
    "{",
    '{"key":"YQ=="',
    b"\xff\xfe",
    '{"lease":"9223372036854775808"}',
    '{"lease":1.5}',
    "[" * 5000,
)


@pytest.mark.parametrize("body", MALFORMED)
async def test_what_cannot_be_understood(
    etcd: str, node: Node, url: str, session: aiohttp.ClientSession, body: str | bytes
) -> None:
    before = node.revision
    status, answer = await post(session, url, "kv/put", body)
    assert (status, answer["code"]) == (400, 3)
    assert answer["error"] == answer["message"]
    theirs, _ = await post(session, f"http://{etcd}", "kv/put", body)
    assert theirs == status
    assert node.revision == before


async def test_errors_name_the_field(url: str, session: aiohttp.ClientSession) -> None:
    body = {"success": [{"request_put": {"key": b64("a")}}, {"request_put": {"key": "not base64"}}]}
    _, answer = await post(session, url, "kv/txn", body)
    assert answer["message"] == 'TxnRequest.success.request_put.key: expected base64, got "not base64"'
    _, answer = await post(session, url, "kv/range", {"sort_order": "SIDEWAYS"})
    assert answer["message"] == ('RangeRequest.sort_order: expected one of NONE, ASCEND, DESCEND, got "SIDEWAYS"')


async def test_other_methods_than_post(etcd: str, url: str, session: aiohttp.ClientSession) -> None:
    for base in (url, f"http://{etcd}"):
        async with session.get(f"{base}/v3/kv/range") as response:
            assert (response.status, await response.text()) == (405, "Method Not Allowed\n")


def test_every_path_is_a_method_of_ours() -> None:
    for method in PATHS.values():
        assert pb.POOL.FindMethodByName(method.replace("/", ".")) is not None


def test_every_status_has_an_http_status() -> None:
    assert HTTP_STATUS.keys() == set(Code)


def test_every_method_has_a_path(server: Server) -> None:
    without = {path for path in server.routes if path[1:] not in PATHS.values()}
    assert all(path.startswith(("/grpc.", "/etcdserverpb.KV/RangeStream")) for path in without), without


# ---- limits ---------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_too_large(node: Node, url: str, session: aiohttp.ClientSession) -> None:
    before = node.revision
    value = "A" * 3_000_000  # 2.25 MB once decoded
    status, answer = await post(session, url, "kv/put", {"key": b64("a"), "value": value})
    assert (status, answer["code"]) == (429, 8)
    assert answer["message"].startswith("grpc: received message larger than max (")
    status, answer = await post(session, url, "kv/put", {"key": b64("a"), "value": "A" * 10_000_000})
    assert (status, answer["code"]) == (429, 8)
    status, answer = await post(session, url, "kv/put", {"key": b64("a"), "value": "A" * 2_200_000})
    assert (status, answer["message"]) == (400, "etcdserver: request is too large")
    assert node.revision == before


async def test_messages_too_deep_in_each_other(url: str, session: aiohttp.ClientSession) -> None:
    body = '{"success":[{"request_txn":' * 200 + "{}" + "}]}" * 200
    status, answer = await post(session, url, "kv/txn", body)
    assert (status, answer["message"]) == (400, "more than 100 messages inside each other")


async def test_a_large_answer(node: Node, url: str, session: aiohttp.ClientSession) -> None:
    for number in range(400):
        await node.put(Put(b"/large/%03d" % number, b"x" * 1000))
    status, answer = await post(session, url, "kv/range", {"key": b64("/large/"), "range_end": b64("/large0")})
    assert status == 200
    assert answer["count"] == "400"
    assert [base64.b64decode(kv["key"]) for kv in answer["kvs"]] == [b"/large/%03d" % number for number in range(400)]


# ---- streams --------------------------------------------------------------------------------------------------------


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    async for line in response.content:
        yield json.loads(line)


async def test_a_watch_goes_on_after_its_requests_have_ended(
    node: Node, url: str, session: aiohttp.ClientSession
) -> None:
    body = json.dumps({"create_request": {"key": b64("a"), "prev_kv": True}})
    async with session.post(f"{url}/v3/watch", data=body) as response:
        read = lines(response)
        created = (await anext(read))["result"]
        assert created["created"] is True
        assert created["header"]["revision"] == str(node.revision)
        for value in (b"1", b"2"):
            await node.put(Put(b"a", value))
        events: list[Any] = []
        while len(events) < 2:
            events += (await anext(read))["result"]["events"]
        assert [event["kv"]["value"] for event in events] == [b64("1"), b64("2")]
        assert "type" not in events[0]
        assert events[1]["prev_kv"]["value"] == b64("1")
        assert node.statistics().watch.streams == 1
    await until(lambda: node.statistics().watch.streams == 0)


async def test_requests_while_the_stream_goes_on(node: Node, url: str, session: aiohttp.ClientSession) -> None:
    asked: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def requests() -> AsyncIterator[bytes]:
        while (data := await asked.get()) is not None:
            yield data

    text = json.dumps({"create_request": {"key": b64('quote " and } brace'), "watch_id": "7"}}).encode()
    await asked.put(text[:20])
    await asked.put(text[20:] + b'\n{"progress_request":{}}')
    async with session.post(f"{url}/v3/watch", data=requests()) as response:
        read = lines(response)
        assert (await anext(read))["result"]["created"] is True
        progress = (await anext(read))["result"]
        assert progress["watch_id"] == "-1"
        await asked.put(b'{"cancel_request":{"watch_id":7}}')
        assert (await anext(read))["result"]["canceled"] is True
        await asked.put(None)


async def test_keep_alive_answers_each_request_and_ends(node: Node, url: str, session: aiohttp.ClientSession) -> None:
    lease, ttl = await node.lease_grant(60)
    body = json.dumps({"ID": str(lease)}) + json.dumps({"ID": "12345"})
    async with session.post(f"{url}/v3/lease/keepalive", data=body) as response:
        answers = [line["result"] async for line in lines(response)]
    assert [(answer["ID"], answer.get("TTL")) for answer in answers] == [(str(lease), str(ttl)), ("12345", None)]


async def test_a_stream_with_nonsense(url: str, session: aiohttp.ClientSession) -> None:
    status, answer = await post(session, url, "lease/keepalive", "nonsense")
    assert (status, answer["code"]) == (400, 3)
    async with session.post(f"{url}/v3/lease/keepalive", data='{"ID":"5"}{"ID":') as response:
        first, second = [line async for line in lines(response)]
    assert first["result"]["ID"] == "5"
    assert (second["error"]["grpc_code"], second["error"]["http_code"]) == (3, 400)
    endless = b"{" * 100_000

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield endless

    async with session.post(f"{url}/v3/watch", data=requests()) as response:
        assert "longer than" in (await response.json())["message"]


async def test_a_stopped_server_ends_streams_with_unavailable(
    http: HttpServer, node: Node, url: str, session: aiohttp.ClientSession
) -> None:
    async with session.post(f"{url}/v3/watch", data=json.dumps({"create_request": {"key": b64("a")}})) as response:
        read = lines(response)
        await anext(read)
        stopping = asyncio.create_task(http.stop())
        ended = await anext(read)
        assert ended["error"] == {
            "grpc_code": 14,
            "http_code": 503,
            "message": "etcdserver: server stopped",
            "http_status": "Service Unavailable",
        }
        with pytest.raises(StopAsyncIteration):
            await anext(read)
        await stopping


async def test_a_stream_that_only_the_server_sends(node: Node, url: str, session: aiohttp.ClientSession) -> None:
    await node.put(Put(b"a", b"1"))
    async with session.post(f"{url}/v3/maintenance/snapshot", data="{}") as response:
        blobs = [base64.b64decode(line["result"]["blob"]) async for line in lines(response)]
    data = b"".join(blobs)
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


async def test_a_user_needs_a_token(http: HttpServer, url: str, session: aiohttp.ClientSession) -> None:
    for path, body in (
        ("auth/user/add", {"name": "root", "password": "secret"}),
        ("auth/role/add", {"name": "root"}),
        ("auth/user/grant", {"user": "root", "role": "root"}),
        ("auth/enable", {}),
    ):
        assert (await post(session, url, path, body))[0] == 200, path
    refused = await post(session, url, "kv/range", {"key": b64("a")})
    assert (refused[0], refused[1]["message"]) == (400, "etcdserver: user name is empty")
    status, answer = await post(session, url, "auth/authenticate", {"name": "root", "password": "wrong"})
    assert (status, answer["code"]) == (400, 3)
    _, answer = await post(session, url, "auth/authenticate", {"name": "root", "password": "secret"})
    for token in (answer["token"], f"Bearer {answer['token']}"):
        headers = {"Authorization": token}
        data = json.dumps({"key": b64("a")}).encode()
        async with session.post(f"{url}/v3/kv/range", data=data, headers=headers) as response:
            assert response.status == 200
    async with session.post(f"{url}/v3/kv/range", data=data, headers={"Authorization": "x.1"}) as response:
        assert (response.status, (await response.json())["code"]) == (401, 16)
    assert (await post(session, url, "kv/range", {"key": b64("a")}))[
        0
    ] == 400  # the next one on the connection has none
    for path in ("health", "readyz"):  # a load balancer has no user
        async with session.get(f"{url}/{path}") as response:
            assert response.status == 200


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# ---- JSON -----------------------------------------------------------------------------------------------------------

KEY_VALUES = st.builds(
    pb.KeyValue,
    key=st.binary(max_size=8),
    value=st.binary(max_size=8),
    create_revision=st.integers(-(2**63), 2**63 - 1),
    version=st.integers(0, 3),
)
MESSAGES = st.one_of(
    KEY_VALUES,
    st.builds(pb.RangeResponse, kvs=st.lists(KEY_VALUES, max_size=3), more=st.booleans(), count=st.integers(0, 5)),
    st.builds(pb.RangeRequest, key=st.binary(max_size=4), sort_order=st.integers(0, 2), keys_only=st.booleans()),
    st.builds(pb.StatusResponse, version=st.text(max_size=5), errors=st.lists(st.text(max_size=5), max_size=3)),
    st.builds(pb.HashKVResponse, hash=st.integers(0, 2**32 - 1)),
    st.builds(pb.WatchCreateRequest, filters=st.lists(st.integers(0, 1), max_size=3)),
    st.builds(pb.Compare, version=st.just(0), target=st.integers(0, 4)),
)


@given(MESSAGES)
def test_json_agrees_with_protobufs_own(message: Any) -> None:
    written = jsonpb.encode(message)
    assert json.loads(written) == json_format.MessageToDict(message, preserving_proto_field_name=True)
    assert jsonpb.decode(type(message), written) == message
    camel = json_format.MessageToJson(message).encode()
    assert jsonpb.decode(type(message), camel) == message


TEXTS = st.text(max_size=6)


@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.just({"{": "}"}), max_size=3), max_size=5), st.data())
def test_objects_are_cut_apart_wherever_the_chunks_end(objects: list[Any], data: st.DataObject) -> None:
    stream = b" \n".join(json.dumps(each).encode() for each in objects)
    split = Splitter(1000)
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += split.feed(stream[:size])
        stream = stream[size:]
    assert list(map(json.loads, found)) == objects
    assert not split.rest.strip()


def test_an_object_has_a_limit() -> None:
    split = Splitter(10)
    assert split.feed(b'{"a":1}{"b":2}{"') == [b'{"a":1}', b'{"b":2}']
    with pytest.raises(InvalidArgument):
        split.feed(b"cccccccccc")


# ---- a client of others ---------------------------------------------------------------------------------------------


async def test_etcd3gw(url: str) -> None:
    await asyncio.to_thread(use_etcd3gw, int(url.rpartition(":")[2]))


def use_etcd3gw(port: int) -> None:
    client = etcd3gw.client(host="127.0.0.1", port=port, timeout=10)
    try:
        assert client.get_url("/kv/put").endswith("/v3/kv/put")  # it chose the path by /version
        assert client.status()["version"].startswith("3.5.")
        assert [member["name"] for member in client.members()] == ["default"]
        assert client.put("/gw/a", "1")
        assert client.get("/gw/a") == [b"1"]
        assert client.create("/gw/b", "2")
        assert not client.create("/gw/b", "3")
        assert client.replace("/gw/b", "2", "4")
        assert not client.replace("/gw/b", "2", "5")
        assert [kv[0] for kv in client.get_prefix("/gw/")] == [b"1", b"4"]
        assert len(client.get_all()) == 2
        events, cancel = client.watch("/gw/w")
        assert client.put("/gw/w", "5")
        event = next(events)
        assert (event["kv"]["key"], event["kv"]["value"]) == (b"/gw/w", b"5")
        cancel()
        lease = client.lease(ttl=60)
        assert client.put("/gw/l", "6", lease=lease)
        assert lease.keys() == [b"/gw/l"]
        assert 0 < lease.ttl() <= 60
        assert lease.refresh() == 60
        assert lease.revoke()
        assert client.get("/gw/l") == []
        with client.lock("one", ttl=30) as lock:
            assert lock.is_acquired()
        with pytest.raises(etcd3gw.exceptions.WatchTimedOut):
            client.watch_once("/gw/none", timeout=0.2)
    finally:
        client.session.close()
