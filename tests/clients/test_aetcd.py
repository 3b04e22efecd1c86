"""aetcd, unmodified, in one process with our package."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aetcd
import pytest

from kvstore.node import Node, NodeOptions
from kvstore.server import Server
from tests.etcd_process import free_port


@pytest.fixture
async def client(port: int) -> AsyncIterator[Any]:
    async with aetcd.Client(host="127.0.0.1", port=port, timeout=10) as client:
        yield client


async def test_keys(client: Any) -> None:
    await client.put(b"/a/1", b"one")
    await client.put(b"/a/2", b"two")
    await client.put(b"/b", b"other")
    got = await client.get(b"/a/1")
    assert (got.value, got.version) == (b"one", 1)
    assert await client.get(b"/none") is None
    assert [each.key for each in await client.get_prefix(b"/a/")] == [b"/a/1", b"/a/2"]
    assert [each.key for each in await client.get_prefix(b"/a/", sort_order="descend")] == [b"/a/2", b"/a/1"]
    assert [each.key for each in await client.get_range(b"/a/2", b"/c")] == [b"/a/2", b"/b"]
    assert len(list(await client.get_all())) == 3
    put = await client.put(b"/a/1", b"uno", prev_kv=True)
    assert put.prev_kv.value == b"one"
    assert (await client.delete(b"/b", prev_kv=True)).prev_kv.value == b"other"
    assert (await client.delete_prefix(b"/a/")).deleted == 2


async def test_transactions(client: Any) -> None:
    t = client.transactions
    await client.put(b"a", b"1")
    succeeded, answers = await client.transaction(
        compare=[t.value(b"a") == b"1", t.version(b"a") == 1, t.create(b"none") == 0],
        success=[t.put(b"a", b"2"), t.get(b"a")],
        failure=[t.delete(b"a")],
    )
    assert succeeded
    assert answers[1][0][0] == b"2"
    succeeded, answers = await client.transaction(
        compare=[t.mod(b"a") == 1], success=[], failure=[t.get(b"a"), t.delete(b"a")]
    )
    assert not succeeded
    assert answers[1].response_delete_range.deleted == 1
    await client.put(b"r", b"old")
    assert await client.replace(b"r", b"old", b"new")
    assert not await client.replace(b"r", b"old", b"newer")


async def test_leases_and_locks(client: Any) -> None:
    lease = await client.lease(300)
    await client.put(b"leased", b"1", lease=lease)
    assert await lease.keys() == [b"leased"]
    assert await lease.granted_ttl() == 300
    assert (await lease.refresh()).TTL == 300
    await lease.revoke()
    assert await client.get(b"leased") is None
    assert await lease.remaining_ttl() == -1
    with pytest.raises(aetcd.exceptions.DuplicateLeaseError):
        await client.lease(60, (await client.lease(60)).id)
    first, second = client.lock(b"the lock", ttl=60), client.lock(b"the lock", ttl=60)
    assert await first.acquire()
    assert not await second.acquire(timeout=0)
    waiting = asyncio.create_task(second.acquire(timeout=20))
    await first.release()
    assert await waiting
    assert await second.is_acquired()
    await second.release()


async def test_watches(client: Any) -> None:
    watch = await client.watch_prefix(b"/w/", prev_kv=True)
    deletions = await client.watch_prefix(b"/w/", kind=aetcd.rtypes.EventKind.DELETE)
    await client.put(b"/w/1", b"a")
    await client.put(b"/w/1", b"b")
    await client.delete(b"/w/1")
    seen = []
    async for event in watch:
        seen.append((event.kind, event.kv.key, event.kv.value))
        if len(seen) == 3:
            break
    assert seen == [("PUT", b"/w/1", b"a"), ("PUT", b"/w/1", b"b"), ("DELETE", b"/w/1", b"")]
    async for event in deletions:
        assert event.kind == "DELETE"
        break
    await watch.cancel()
    await deletions.cancel()


async def test_history_and_its_end(client: Any) -> None:
    first = (await client.put(b"h", b"1")).header.revision
    await client.put(b"h", b"2")
    watch = await client.watch(b"h", start_revision=first)
    values = []
    async for event in watch:
        values.append(event.kv.value)
        if len(values) == 2:
            break
    assert values == [b"1", b"2"]
    await watch.cancel()
    await client.compact(first + 1, physical=True)
    late = await client.watch(b"h", start_revision=first)
    with pytest.raises(aetcd.exceptions.RevisionCompactedError) as refused:
        async for _ in late:
            raise AssertionError("there is nothing to be told")
    assert refused.value.compacted_revision == first + 1


async def test_maintenance(client: Any, tmp_path: Path) -> None:
    status = await client.status()
    assert status.version.startswith("3.5.")
    assert status.leader.id == next(iter([member async for member in _members(client)])).id
    assert [alarm async for alarm in _alarms(client)] == []
    await client.defragment()
    assert await client.hash()
    with (tmp_path / "snapshot").open("wb") as file:
        await client.snapshot(file)
    assert (tmp_path / "snapshot").stat().st_size % 512 == 32


async def _members(client: Any) -> AsyncIterator[Any]:
    found = client.members()
    for member in await found if asyncio.iscoroutine(found) else [each async for each in found]:
        yield member


async def _alarms(client: Any) -> AsyncIterator[Any]:
    found = client.list_alarms()
    for alarm in await found if asyncio.iscoroutine(found) else [each async for each in found]:
        yield alarm


async def test_a_user(server: Server, port: int) -> None:
    node = server._node
    await node.auth.user_add("root", "pw")
    await node.auth.user_grant_role("root", "root")
    await node.auth.enable()
    async with aetcd.Client(host="127.0.0.1", port=port, username="root", password="pw") as client:
        await client.put(b"a", b"1")
        assert (await client.get(b"a")).value == b"1"
    async with aetcd.Client(host="127.0.0.1", port=port) as nobody:
        with pytest.raises(aetcd.exceptions.InvalidArgumentError):
            await nobody.get(b"a")


async def test_a_restart_ends_a_watch_and_a_new_one_misses_nothing(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with aetcd.Client(host="127.0.0.1", port=port) as client:
        async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node, Server(node, [url]):
            watch = await client.watch(b"k")
            last = (await client.put(b"k", b"1")).header.revision
            events = aiter(watch)
            assert (await anext(events)).kv.value == b"1"
        with pytest.raises(aetcd.exceptions.ConnectionFailedError):
            await anext(events)
        async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node, Server(node, [url]):
            async with asyncio.timeout(20):
                while True:
                    try:
                        await client.put(b"k", b"2")
                        break
                    except aetcd.exceptions.ConnectionFailedError:
                        await asyncio.sleep(0.1)
            events = aiter(await client.watch(b"k", start_revision=last + 1))
            assert (await anext(events)).kv.value == b"2"


BOTH = """
import asyncio, tempfile
from pathlib import Path
{imports}
from kvstore import Range
from kvstore.client import connect
from kvstore.node import Node, NodeOptions
from kvstore.server import Server

async def main():
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory) / "node", NodeOptions(fsync=False)) as node:
            async with Server(node, ["http://127.0.0.1:0"]) as server:
                url = server.client_urls[0]
                async with connect(url) as ours:
                    await ours.put(b"a", b"ours")
                    async with aetcd.Client(port=int(url.rpartition(":")[2]), host="127.0.0.1") as theirs:
                        print((await theirs.get(b"a")).value.decode())
                        await theirs.put(b"a", b"theirs")
                        print((await ours.range(Range(b"a"))).kvs[0].value.decode())

asyncio.run(main())
"""


@pytest.mark.parametrize("imports", ["import aetcd, kvstore.server", "import kvstore.server, aetcd"])
def test_both_packages_in_one_process(imports: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", BOTH.format(imports=imports)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "ours\ntheirs\n"), ran.stderr
