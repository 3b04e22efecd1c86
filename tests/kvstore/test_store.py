"""The commit pipeline's promises, and the reads whose rules are easy to get wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.api import Compare, CompareResult, CompareTarget, DeleteRange, Put, Range, SortOrder, SortTarget, Txn
from kvstore.backend import Commit
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Stopped
from kvstore.node import Node, NodeOptions
from kvstore.record import decode


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        yield node


class HeldCommits:
    """Lets a test hold the disk: a commit waits until it is let go."""

    def __init__(self, node: Node) -> None:
        self._backend = node._backend
        self._real = node._backend.commit
        self.started = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self._backend.commit = self._commit  # type: ignore[method-assign]

    def _commit(self, batch: Commit) -> None:
        self.started.release()
        assert self.let_go.acquire(timeout=10)
        self._real(batch)

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=10)

    def restore(self) -> None:
        self._backend.commit = self._real  # type: ignore[method-assign]
        for _ in range(100):
            self.let_go.release()


async def test_nothing_is_readable_watchable_or_acknowledged_before_it_is_on_disk(node: Node) -> None:
    client = EmbeddedClient(node)
    disk = HeldCommits(node)
    async with client.watch(b"k") as watch:
        event = asyncio.ensure_future(watch.__anext__())
        put = asyncio.ensure_future(node.put(Put(b"k", b"1")))
        await disk.wait_started()
        assert (put.done(), event.done(), node.revision) == (False, False, 1)
        assert node.range(Range(b"k")).count == 0
        assert node.range(Range(b"k")).revision == 1
        disk.restore()
        assert (await put).revision == 2
        assert node.range(Range(b"k")).count == 1
        assert (await event).events[0].kv.value == b"1"


async def test_writes_that_come_during_a_commit_share_the_next_one(node: Node) -> None:
    disk = HeldCommits(node)
    first = asyncio.ensure_future(node.put(Put(b"first")))
    await disk.wait_started()
    commits = node.statistics().store.commits
    later = [asyncio.ensure_future(node.put(Put(b"k%d" % number))) for number in range(50)]
    await asyncio.sleep(0)
    disk.restore()
    results = await asyncio.gather(first, *later)
    assert [result.revision for result in results] == list(range(2, 53))
    assert node.statistics().store.commits == commits + 2


async def test_a_compare_sees_what_is_staged_and_its_answer_waits_for_it(node: Node) -> None:
    disk = HeldCommits(node)
    put = asyncio.ensure_future(node.put(Put(b"k", b"1")))
    await disk.wait_started()
    refused = asyncio.ensure_future(
        node.txn(
            Txn(
                (Compare(b"k", CompareTarget.CREATE, CompareResult.EQUAL, 0),),
                (Put(b"k", b"2"),),
                (Range(b"k"), DeleteRange(b"none")),
            )
        )
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not refused.done(), "it would tell of a write that is not on disk"
    disk.restore()
    result = await refused
    assert not result.succeeded
    assert result.revision == (await put).revision == 2


async def test_leaving_commits_what_was_staged_and_refuses_what_comes_later(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        puts = [asyncio.ensure_future(node.put(Put(b"k%d" % number))) for number in range(10)]
        await asyncio.sleep(0)
    assert [(await put).revision for put in puts] == list(range(2, 12))
    with pytest.raises(Stopped):
        await node.put(Put(b"late"))
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        assert node.revision == 11


async def test_a_caller_that_gives_up_leaves_the_store_sound(node: Node) -> None:
    disk = HeldCommits(node)
    given_up = asyncio.ensure_future(node.put(Put(b"a")))
    await disk.wait_started()
    given_up.cancel()
    disk.restore()
    assert (await node.put(Put(b"b"))).revision == 3
    node._store.index._check()


async def test_a_failing_operation_inside_a_transaction_leaves_nothing(node: Node) -> None:
    await node.put(Put(b"k", b"1"))
    before = node.revision
    with pytest.raises(Exception, match="lease not found"):
        await node.txn(Txn(success=(Put(b"a", b"1"), Put(b"b", b"1", lease=404))))
    assert node.revision == before
    assert node.range(Range(b"\x00", b"\x00")).count == 1
    assert (await node.put(Put(b"c"))).revision == before + 1
    node._store.index._check()


@pytest.mark.parametrize(
    ("order", "target", "expected"),
    [
        (SortOrder.NONE, SortTarget.KEY, [b"a", b"b", b"c"]),
        (SortOrder.DESCEND, SortTarget.KEY, [b"c", b"b", b"a"]),
        (SortOrder.ASCEND, SortTarget.MOD, [b"c", b"a", b"b"]),
        (SortOrder.NONE, SortTarget.MOD, [b"c", b"a", b"b"]),
        (SortOrder.DESCEND, SortTarget.CREATE, [b"c", b"b", b"a"]),
        (SortOrder.ASCEND, SortTarget.VALUE, [b"b", b"c", b"a"]),
        (SortOrder.DESCEND, SortTarget.VERSION, [b"b", b"a", b"c"]),
    ],
)
async def test_sorting(node: Node, order: int, target: int, expected: list[bytes]) -> None:
    for key, value in [
        (b"a", b"z"),
        (b"b", b"x"),
        (b"c", b"y"),
        (b"a", b"9"),
        (b"b", b"0"),
        (b"b", b"1"),
        (b"a", b"z"),
    ]:
        await node.put(Put(key, value))
    await node.put(Put(b"b", b"1"))
    rows = node.range(Range(b"a", b"z", sort_order=order, sort_target=target)).rows
    assert [decode(row).key for row in rows] == expected


async def test_bounds_filter_before_the_limit_and_never_change_the_count(node: Node) -> None:
    for number in range(5):
        await node.put(Put(b"k%d" % number))
    result = node.range(Range(b"k", b"l", min_mod_revision=3, max_mod_revision=5, limit=2))
    assert [decode(row).mod_revision for row in result.rows] == [3, 4]
    assert (result.count, result.more) == (5, True)


async def test_a_count_is_of_its_revision_whatever_is_on_its_way_to_the_disk(node: Node) -> None:
    for key in (b"a", b"b", b"c", b"d", b"z"):
        await node.put(Put(key))
    await node.delete_range(DeleteRange(b"d"))
    disk = HeldCommits(node)
    committing = asyncio.ensure_future(node.put(Put(b"new")))
    await disk.wait_started()
    changes = [node.put(Put(b"a")), node.put(Put(b"d")), node.put(Put(b"new")), node.delete_range(DeleteRange(b"b"))]
    gathering = [asyncio.ensure_future(change) for change in changes]
    await asyncio.sleep(0)
    spans = [(b"a", b"p"), (b"a", b"\x00"), (b"b", b"c"), (b"d", b""), (b"new", b""), (b"p", b"zz")]
    durable = node.revision
    for limit, count_only in ((1, False), (0, False), (0, True)):
        counts = [node.range(Range(*span, limit=limit, count_only=count_only)).count for span in spans]
        assert counts == [3, 4, 1, 0, 0, 1]
    revisions = [*range(durable, durable + 6), 0]
    ranges = [Range(b"a", b"p", limit=1, revision=revision) for revision in revisions]
    inside = asyncio.ensure_future(node.txn(Txn(success=(Put(b"e"), *ranges))))
    await asyncio.sleep(0)
    disk.restore()
    await asyncio.gather(committing, *gathering)
    #                                                     new  a  d  new  -b  e
    assert [result.count for result in (await inside).results[1:]] == [3, 4, 4, 5, 5, 4, 5]  # type: ignore[union-attr]


async def test_keys_only_keeps_everything_but_the_value(node: Node) -> None:
    lease, _ = await node.lease_grant(60)
    await node.put(Put(b"k", b"value", lease=lease))
    kv = decode(node.range(Range(b"k", keys_only=True)).rows[0])
    assert (kv.value, kv.mod_revision, kv.version, kv.lease) == (b"", 2, 1, lease)


async def test_a_tombstone_at_the_compaction_revision_still_reaches_a_watch_from_there(node: Node) -> None:
    await node.put(Put(b"k"))
    deleted = await node.delete_range(DeleteRange(b"k"))
    await node.compact(deleted.revision, physical=True)
    client = EmbeddedClient(node)
    async with client.watch(b"k", start_revision=deleted.revision) as watch:
        assert (await watch.__anext__()).events[0].kv.mod_revision == deleted.revision


async def test_an_unfinished_compaction_goes_on_after_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        for _ in range(50):
            await node.put(Put(b"k", bytes(5000)))
        await node._store.compact(node.revision)  # scheduled; nothing removed
        full = len(list(node._backend.all_records()))
    async with Node.open(directory, NodeOptions(fsync=False)) as node:
        assert node.compacted == node.revision == 51
        assert node._compaction is not None
        await node._compaction
        assert (full, len(list(node._backend.all_records()))) == (50, 1)
        assert not node._store.compaction_unfinished


async def test_who_asks_without_reading_is_listened_to_no_further(tmp_path: Path) -> None:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False, outbox_bytes=500)) as node:
        stream = node.watch_stream()
        asked = 0

        async def ask() -> None:
            nonlocal asked
            for _ in range(100):
                await stream.room()
                stream.create(key=b"k")
                asked += 1

        asking = asyncio.ensure_future(ask())
        await asyncio.sleep(0)
        assert asked < 10
        for number in range(100):
            response = await stream.next()
            assert (response.created, response.watch_id) == (True, number)
        await asking
        stream.close()
