"""Deletes of very many keys: cheap for each key, taken back whole, and leases that end together end in passes."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from pathlib import Path

import lmdb
import pytest

from kvstore.api import DeleteRange, Put, Range, Txn
from kvstore.backend import Commit
from kvstore.errors import NoSpace
from kvstore.event import StoredEvent
from kvstore.lease import MAX_KEYS_A_TURN
from kvstore.matcher import Group
from kvstore.node import Node, NodeOptions
from kvstore.revision import pack
from kvstore.watch import Watcher, _in_ranges

EVERYTHING = DeleteRange(b"\0", b"\0")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False, inline_commits=True)) as node:
        yield node


async def put_many(node: Node, first: int, count: int, lease: int = 0) -> None:
    for begin in range(first, first + count, 100):
        puts = [Put(b"k%06d" % number, b"v", lease=lease) for number in range(begin, min(begin + 100, first + count))]
        await node.txn(Txn((), tuple(puts)))


@pytest.mark.parametrize("leased", [False, True])
async def test_what_is_staged_for_a_large_delete_is_nothing_for_the_garbage_collector(node: Node, leased: bool) -> None:
    lease, _ = await node.lease_grant(600)
    await put_many(node, 0, 20_000, lease if leased else 0)
    made: list[int] = []
    real = node._backend.commit

    def commit(batch: Commit) -> None:
        made.append(gc.get_count()[0])
        real(batch)
        made.append(gc.get_count()[0])

    node._backend.commit = commit  # type: ignore[method-assign]
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        if leased:
            await node.lease_revoke(lease)
        else:
            await node.delete_range(EVERYTHING)
    finally:
        gc.enable()
    assert node.range(Range(b"\0", b"\0")).count == 0
    assert [count - before < 200 for count in made] == [True, True], (before, made)


async def test_a_large_delete_that_cannot_be_stored_is_taken_back_whole(node: Node) -> None:
    leases = [(await node.lease_grant(600))[0] for _ in range(2)]
    await put_many(node, 0, 300)
    for number, lease in enumerate(leases):
        await put_many(node, 1000 * (number + 1), 200, lease)
    held = [node.lease_time_to_live(lease, keys=True)[2] for lease in leases]
    rows = node.range(Range(b"\0", b"\0"))
    real = node._backend.commit

    def full(batch: Commit) -> None:
        raise lmdb.MapFullError("full")

    node._backend.commit = full  # type: ignore[method-assign]
    ways = (
        lambda: node.delete_range(EVERYTHING),
        lambda: node.lease_revoke(leases[0]),
        lambda: node.txn(Txn((), (Put(b"a", b"", lease=leases[1]), DeleteRange(b"k", b"l"), Put(b"z")))),
    )
    for way in ways:
        with pytest.raises(NoSpace):
            await way()
        assert node.range(Range(b"\0", b"\0")) == rows
        assert [node.lease_time_to_live(lease, keys=True)[2] for lease in leases] == held
        assert sorted(node.leases()) == sorted(leases)
        assert node.statistics().store.staged_revision == node.revision
        node._store.index._check()
    node._backend.commit = real  # type: ignore[method-assign]
    await node.lease_revoke(leases[0])
    assert node.range(Range(b"\0", b"\0")).count == 500
    assert (await node.delete_range(EVERYTHING)).deleted == 500
    assert node.lease_time_to_live(leases[1], keys=True)[2] == []
    node._store.index._check()


async def test_a_delete_gives_what_the_same_transaction_put(node: Node) -> None:
    await node.put(Put(b"a", b"old"))
    inner = Txn((), (DeleteRange(b"a", b"c", prev_kv=True),))
    result = await node.txn(Txn((), (Txn((), (Put(b"a", b"new"), Put(b"b", b"new"))), inner)))
    assert result.revision == 3
    assert [b"new" in row for row in result.results[1].results[0].prevs] == [True, True]  # type: ignore[union-attr]
    assert node.range(Range(b"\0", b"\0")).count == 0


@pytest.mark.virtual_time
async def test_leases_that_end_together_end_in_passes_bounded_by_their_keys(node: Node) -> None:
    leases = [(await node.lease_grant(5))[0] for _ in range(40)]
    for number, lease in enumerate(leases):
        await put_many(node, 1000 * number, 1000, lease)
    before = node.revision
    commits: list[list[int]] = []
    real = node._backend.commit

    def commit(batch: Commit) -> None:
        commits.append(sorted({revision >> 33 for revision in batch.revisions}))
        assert len(batch.revisions) <= MAX_KEYS_A_TURN + 1000
        real(batch)

    node._backend.commit = commit  # type: ignore[method-assign]
    await asyncio.sleep(7)
    assert node.range(Range(b"\0", b"\0")).count == 0
    assert [each for revisions in commits for each in revisions] == list(range(before + 1, before + 41))
    assert len(commits) >= 40_000 // (MAX_KEYS_A_TURN + 1000)


def test_many_events_find_the_same_watchers_as_each_of_them_alone() -> None:
    rng = random.Random(3)
    names = [b"%c%c" % (rng.choice(b"abc"), rng.choice(b"abc\xff\x00")) for _ in range(40)]
    for _ in range(100):
        ranges = {(rng.choice(names), rng.choice([b"", b"\0", *names])) for _ in range(rng.randrange(1, 12))}
        groups: dict[tuple[bytes, bytes], Group[Watcher]] = {each: Group() for each in ranges}
        events = [StoredEvent(pack(2 + n // 3, n % 3), rng.choice(names), b"", 0) for n in range(rng.randrange(1, 30))]
        found = {id(group): mine for group, mine in _in_ranges([(*each, g) for each, g in groups.items()], events)}
        for (key, end), group in groups.items():
            concerned = [
                event
                for event in events
                if (event.key == key if not end else event.key >= key and (end == b"\0" or event.key < end))
            ]
            assert found.get(id(group), []) == concerned
