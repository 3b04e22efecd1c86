"""Faults and interruptions: a disk that fails or is full, callers that give up, a node that closes under load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import lmdb
import pytest

from kvstore.api import DeleteRange, Put, Range
from kvstore.backend import Backend
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Compacted, NoSpace, Stopped, Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.revision import pack

FAST = NodeOptions(fsync=False)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", FAST) as node:
        for number in range(30):
            await node.put(Put(b"k", b"%d" % number))
        yield node


def broken(error: Exception) -> Callable[..., None]:
    def job(*_: object) -> None:
        raise error

    return job


async def tasks_of_the_node_ended() -> bool:
    return not any(task.get_name().startswith("kvstore") for task in asyncio.all_tasks())


# ---- compaction ---------------------------------------------------------------------------------------------------


async def test_a_removal_that_fails_is_told_and_leaves_the_node_writing(node: Node) -> None:
    real = node._backend.delete
    node._backend.delete = broken(lmdb.DiskError("broken"))  # type: ignore[method-assign]
    outcomes = await asyncio.gather(node.compact(10, True), node.compact(20, True), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert node.compacted == 20
    await node.put(Put(b"k", b"after"))
    node._backend.delete = real  # type: ignore[method-assign]
    with pytest.raises(Compacted):  # asking for it again tries again
        await node.compact(20, physical=True)
    assert not node._store.compaction_unfinished
    assert len(list(node._backend.all_records())) == 13


async def test_a_compaction_whose_caller_gave_up_is_in_force_all_the_same(node: Node) -> None:
    caller = asyncio.ensure_future(node.compact(20))
    await asyncio.sleep(0)
    caller.cancel()
    await node.put(Put(b"k"))
    assert node.compacted == 20
    with pytest.raises(Compacted):
        node.range(Range(b"k", revision=19))
    with pytest.raises(Compacted):
        await node.compact(20, physical=True)
    assert not node._store.compaction_unfinished


async def test_closing_during_compactions_leaves_no_task(tmp_path: Path) -> None:
    async with Node.open(tmp_path, FAST) as node:
        for number in range(30):
            await node.put(Put(b"k", b"%d" % number))
        requests = [asyncio.ensure_future(node.compact(revision)) for revision in (5, 10, 15)]
        await requests[0]
    assert await tasks_of_the_node_ended()
    assert not any(isinstance(outcome, BaseException) for outcome in await asyncio.gather(*requests))
    async with Node.open(tmp_path, FAST) as node:
        assert node.compacted == 15


# ---- writing ------------------------------------------------------------------------------------------------------


async def test_no_writer_waits_forever_when_the_commit_task_dies(node: Node) -> None:
    node._backend.commit = broken(MemoryError("not an error of the disk"))  # type: ignore[method-assign]
    outcomes = await asyncio.gather(*(node.put(Put(b"%d" % n)) for n in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Stopped] * 5
    with pytest.raises(Stopped):
        await node.put(Put(b"late"))
    assert node.range(Range(b"\x00", b"\x00")).count == 1


async def test_an_exception_in_the_middle_of_a_write_takes_all_of_it_back(node: Node) -> None:
    lease, _ = await node.lease_grant(60)
    await node.put(Put(b"leased", b"", lease))

    def stage(txn: object) -> None:
        txn.put(Put(b"a"))  # type: ignore[attr-defined]
        txn.put(Put(b"leased"))  # type: ignore[attr-defined]
        txn.delete_range(DeleteRange(b"k"))  # type: ignore[attr-defined]
        raise RuntimeError("a bug")

    before = node.revision
    with pytest.raises(RuntimeError):
        await node._store.write(stage)
    assert (await node.put(Put(b"b"))).revision == before + 1
    assert node.range(Range(b"\x00", b"\x00")).count == 3
    assert node.lease_time_to_live(lease, keys=True)[2] == [b"leased"]
    node._store.index._check()


async def test_a_lease_that_runs_out_while_its_revocation_fails_still_ends(node: Node) -> None:
    started, let_go = threading.Event(), threading.Event()
    real = node._backend.commit

    def fail_late(batch: object) -> None:
        started.set()
        assert let_go.wait(10)
        raise lmdb.MapFullError("full")

    lease, _ = await node.lease_grant(10)
    now = asyncio.get_running_loop().time() + 11
    node._lessor._now = lambda: now
    node._backend.commit = fail_late  # type: ignore[method-assign]
    revoking = asyncio.ensure_future(node.lease_revoke(lease))
    await asyncio.to_thread(started.wait, 10)
    assert node._lessor._due() == [], "it is being revoked"
    let_go.set()
    with pytest.raises(NoSpace):
        await revoking
    node._backend.commit = real  # type: ignore[method-assign]
    now += 10
    assert node._lessor._due() == [lease]


# ---- opening and closing ------------------------------------------------------------------------------------------


async def test_a_full_disk_keeps_nobody_from_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node.open(tmp_path, FAST) as node:
        await node.put(Put(b"k", b"v"))
    with monkeypatch.context() as full:
        full.setattr(Backend, "commit", broken(lmdb.MapFullError("full")))
        async with Node.open(tmp_path, FAST) as node:
            assert node.range(Range(b"k")).count == 1
            with pytest.raises(NoSpace):
                await node.put(Put(b"k", b"w"))


async def test_a_node_that_cannot_open_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(Backend, "commit", broken(lmdb.DiskError("broken")))
        with pytest.raises(Unavailable, match="broken"):
            async with Node.open(tmp_path, FAST):
                raise AssertionError("opened")
    assert await tasks_of_the_node_ended()
    async with Node.open(tmp_path, FAST) as node:
        assert node.revision == 1


async def test_cancelling_the_close_does_not_cut_it_short(tmp_path: Path) -> None:
    started, let_go = threading.Event(), threading.Event()
    puts: list[asyncio.Future[object]] = []

    async def open_and_leave() -> None:
        async with Node.open(tmp_path, FAST) as node:
            real = node._backend.commit

            def slow(batch: object) -> None:
                started.set()
                assert let_go.wait(10)
                real(batch)  # type: ignore[arg-type]

            node._backend.commit = slow  # type: ignore[method-assign]
            puts.extend(asyncio.ensure_future(node.put(Put(b"%d" % number))) for number in range(3))
            await asyncio.sleep(0)

    leaving = asyncio.ensure_future(open_and_leave())
    await asyncio.to_thread(started.wait, 10)
    leaving.cancel()
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    assert not leaving.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await tasks_of_the_node_ended()
    assert len(await asyncio.gather(*puts)) == 3
    async with Node.open(tmp_path, FAST) as node:
        assert node.range(Range(b"\x00", b"\x00")).count == 3


async def test_after_the_node_closed_every_call_of_a_client_says_so(tmp_path: Path) -> None:
    async with Node.open(tmp_path, FAST) as node:
        client = EmbeddedClient(node)
        lease = (await client.lease_grant(60)).id
    for call in (
        client.get(b"k"),
        client.put(b"k", b""),
        client.lease_keep_alive(lease),
        client.status(),
        client.compact(1),
    ):
        with pytest.raises(Stopped):
            await call


async def test_a_database_that_cannot_be_read_is_a_typed_error(node: Node) -> None:
    node._backend._db.env.close()
    for read in (lambda: node._backend.get_many([pack(2, 0)]), lambda: node._backend.scan(1, 100)):
        with pytest.raises(Unavailable, match="cannot be read"):
            read()
    with pytest.raises(Unavailable, match="cannot be written"):
        await node.put(Put(b"k"))
