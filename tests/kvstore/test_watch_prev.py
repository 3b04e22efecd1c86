"""What an event replaced is there for every watcher above the compacted revision, also while what is below it goes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kvstore.api import DeleteRange, Event, EventType, Put, Range, Txn
from kvstore.errors import Compacted
from kvstore.node import Node, NodeOptions
from kvstore.store import COMPACTION_STEP_KEYS
from kvstore.watch import State, WatchStream

KEYS = [b"k%d" % number for number in range(6)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with Node.open(tmp_path / "node", NodeOptions(fsync=False)) as node:
        yield node


async def read(stream: WatchStream, count: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            response = await stream.next()
            assert not response.canceled
            events += [event.value(response.prev_kv) for event in response.events]
    return events


def check(events: list[Event], live: dict[bytes, bytes]) -> None:
    """Every event shows the value that its revision found, beginning with these."""
    before: dict[bytes, bytes] = {}
    revision = 0
    for event in events:
        key = event.kv.key
        if event.kv.mod_revision != revision:
            revision, before = event.kv.mod_revision, dict(live)
        shown = None if event.prev_kv is None else event.prev_kv.value
        assert shown == before.get(key), (revision, key)
        if event.type == EventType.PUT:
            live[key] = event.kv.value
        else:
            del live[key]


async def write_some(node: Node, rng: random.Random, writes: int) -> None:
    for number in range(writes):
        key = rng.choice(KEYS)
        kind = rng.random()
        if kind < 0.2:
            await node.delete_range(DeleteRange(key))
        elif kind < 0.4:
            other = rng.choice([each for each in KEYS if each != key])
            value = b"%d" % number
            # One revision in which a key comes and goes, as etcd lets nested transactions do.
            nested = Txn(success=(Put(key, value),)), Txn(success=(DeleteRange(key),))
            await node.txn(Txn(success=(Put(other, value), *nested)))
        else:
            await node.put(Put(key, b"%d" % number))


async def state_at(node: Node, revision: int) -> dict[bytes, bytes]:
    """From the events since the beginning, before any of them is compacted away."""
    live: dict[bytes, bytes] = {}
    stream = node.watch_stream()
    stream.create(key=b"\0", range_end=b"\0", start_revision=1)
    stream.request_progress()
    done = False
    while not done:
        response = await stream.next()
        done = response.watch_id == -1
        for event in (each.value(False) for each in response.events):
            if event.kv.mod_revision > revision:
                break
            if event.type == EventType.PUT:
                live[event.kv.key] = event.kv.value
            else:
                live.pop(event.kv.key, None)
    stream.close()
    return live


@pytest.mark.parametrize("seed", range(20))
async def test_from_the_revision_after_the_compacted_one(node: Node, seed: int) -> None:
    rng = random.Random(seed)
    await write_some(node, rng, 30)
    compacted = rng.randrange(2, node.revision + 1)
    live = await state_at(node, compacted)
    last = node.revision
    waiting = node.watch_stream()  # is not given a pass before all of it is gone
    waiting.create(key=b"\0", range_end=b"\0", start_revision=compacted + 1, prev_kv=True)
    await node.compact(compacted, physical=True)
    later = node.watch_stream()
    later.create(key=b"\0", range_end=b"\0", start_revision=compacted + 1, prev_kv=True)
    following = node.watch_stream()
    following.create(key=b"\0", range_end=b"\0", prev_kv=True)
    await write_some(node, rng, 10)
    for stream in (waiting, later):
        stream.request_progress()
        events: list[Event] = []
        while (response := await stream.next()).watch_id != -1:
            events += [event.value(response.prev_kv) for event in response.events]
        assert {event.kv.mod_revision for event in events} == set(range(compacted + 1, node.revision + 1))
        check(events, dict(live))
    seen = [event for event in events if event.kv.mod_revision > last]
    assert await read(following, len(seen)) == seen
    for stream in (waiting, later, following):
        stream.close()


@pytest.mark.parametrize("state", list(State))
async def test_at_the_boundary_while_the_compaction_removes_it(tmp_path: Path, state: State) -> None:
    """The newest revision that is compacted is what the first event after it replaced, in each key."""
    keys = [b"k%05d" % number for number in range(3 * COMPACTION_STEP_KEYS)]
    options = NodeOptions(fsync=False, outbox_bytes=1 << 10 if state is State.VICTIM else 4 << 20, max_txn_ops=10_000)
    async with Node.open(tmp_path, options) as node:
        for value in (b"1", b"2"):
            await node.txn(Txn(success=tuple(Put(key, value) for key in keys)))
        compacted = node.revision
        stream = node.watch_stream()
        if state is not State.UNSYNCED:
            stream.create(key=b"\0", range_end=b"\0", prev_kv=True)
            assert (await stream.next()).created
        if state is State.VICTIM:
            await asyncio.gather(*(node.put(Put(b"other", bytes(2000))) for _ in range(3)))
        putting = asyncio.create_task(node.txn(Txn(success=tuple(Put(key, b"3") for key in keys))))
        await asyncio.sleep(0)
        compacting = asyncio.create_task(node.compact(compacted, physical=True))
        await putting
        if state is State.UNSYNCED:
            while node.compacted != compacted:
                await asyncio.sleep(0)
            assert not compacting.done()
            stream.create(key=b"\0", range_end=b"\0", start_revision=compacted + 1, prev_kv=True)
        if state is State.VICTIM:
            assert next(iter(stream.watchers.values())).state is State.VICTIM
            await compacting
        events = [event for event in await read(stream, len(keys)) if event.kv.key != b"other"]
        while len(events) < len(keys):
            events += [event for event in await read(stream, 1) if event.kv.key != b"other"]
        check(events, dict.fromkeys(keys, b"2"))
        await compacting
        stream.close()
        with pytest.raises(Compacted):
            node.range(Range(keys[0], revision=compacted - 1))
