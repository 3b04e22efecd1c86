"""A range in pieces through both clients: what they give together is the range at one revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from kvstore import api
from kvstore.client.embedded import STREAM_KEYS, EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.errors import Code, Compacted, KvError, Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.server.edge import Server
from tests.etcd_process import running_etcd

KEYS = 2 * STREAM_KEYS + 17
EVERYTHING = api.Range(key=b"k/", range_end=b"k0")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "data", NodeOptions(fsync=False)) as node:
        for start in range(0, KEYS, 100):
            puts = tuple(api.Put(b"k/%04d" % n, b"v%d" % n) for n in range(start, min(start + 100, KEYS)))
            await node.txn(api.Txn(success=puts))
        yield node


@pytest.fixture(params=["embedded", "remote"])
async def client(node: Node, request: pytest.FixtureRequest) -> AsyncIterator[EmbeddedClient | RemoteClient]:
    if request.param == "embedded":
        embedded = EmbeddedClient(node)
        yield embedded
        await embedded.close()
        return
    async with Server(node, ["http://127.0.0.1:0"]) as server, RemoteClient(server.client_urls) as remote:
        yield remote


@pytest.mark.parametrize("limit", [0, 1, STREAM_KEYS, KEYS, KEYS + 1])
async def test_the_pieces_are_the_range(client: EmbeddedClient | RemoteClient, limit: int) -> None:
    request = api.Range(key=b"k/", range_end=b"k0", limit=limit)
    whole = await client.range(request)
    pieces = [piece async for piece in client.range_stream(request)]
    assert [kv for piece in pieces for kv in piece.kvs] == whole.kvs
    assert (pieces[-1].header, pieces[-1].more, pieces[-1].count) == (whole.header, whole.more, whole.count)
    assert all(piece.header.revision == 0 for piece in pieces[:-1])
    assert len(pieces) > 1 or limit in (1, STREAM_KEYS)


async def test_a_range_of_nothing_is_one_empty_piece(client: EmbeddedClient | RemoteClient) -> None:
    (piece,) = [piece async for piece in client.range_stream(api.Range(key=b"nothing/", range_end=b"nothing0"))]
    assert (piece.kvs, piece.more, piece.count) == ([], False, 0)
    (piece,) = [piece async for piece in client.range_stream(api.Range(b"k/", b"k0", count_only=True))]
    assert (piece.kvs, piece.count, piece.header.revision) == (
        [],
        KEYS,
        (await client.range(EVERYTHING)).header.revision,
    )


async def test_writes_and_compactions_meanwhile(node: Node) -> None:
    client = EmbeddedClient(node)
    before = (await client.range(EVERYTHING)).kvs
    async with aclosing(client.range_stream(EVERYTHING)) as pieces:
        kvs = [*(await anext(pieces)).kvs]
        await client.delete(b"k/", b"k0")
        kvs += [kv async for piece in pieces for kv in piece.kvs]
    assert kvs == before
    await client.txn(success=[api.Put(b"k/%04d" % n, b"again") for n in range(STREAM_KEYS // 2)])
    for n in range(STREAM_KEYS):
        await client.put(b"k/x%04d" % n, b"")
    with pytest.raises(Compacted):
        async for _ in client.range_stream(EVERYTHING):
            await client.compact((await client.put(b"elsewhere", b"")).header.revision)
    await client.close()
    with pytest.raises(Unavailable):
        await anext(client.range_stream(EVERYTHING))


async def test_an_etcd_without_it_says_so(tmp_path: Path) -> None:
    with running_etcd(tmp_path) as address:
        async with RemoteClient([address]) as client:
            with pytest.raises(KvError) as caught:
                await anext(client.range_stream(EVERYTHING))
    assert caught.value.code is Code.UNIMPLEMENTED
