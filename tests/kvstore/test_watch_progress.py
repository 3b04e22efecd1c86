"""Who asks for progress is answered, and by then was given every event up to the revision of the answer."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from kvstore.api import DeleteRange, Put, WatchFilter
from kvstore.node import Node, NodeOptions
from kvstore.watch import State, WatchStream

OUTBOX = 2_000
VALUE = bytes(300)


class Reader:
    """Reads one stream, and knows for each watch what it was given."""

    def __init__(self, stream: WatchStream) -> None:
        self.stream = stream
        self.given: dict[int, list[int]] = {}
        self.ended: set[int] = set()

    async def answer(self) -> int:
        """The revision of the next answer to a request for progress."""
        async with asyncio.timeout(20):
            while True:
                response = await self.stream.next()
                if response.watch_id == -1:
                    return response.revision
                if response.created:
                    self.given[response.watch_id] = []
                if response.canceled:
                    self.ended.add(response.watch_id)
                self.given[response.watch_id] += [event.mod_revision for event in response.events]


def states(stream: WatchStream) -> set[State]:
    return {watcher.state for watcher in stream.watchers.values()}


@pytest.mark.parametrize("asked", ["before", "after"])
async def test_one_who_is_behind_is_answered_after_its_history(tmp_path: Path, asked: str) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        for _ in range(20):
            await node.put(Put(b"k", VALUE))
        reader = Reader(node.watch_stream())
        reader.stream.create(key=b"k", start_revision=2)
        assert states(reader.stream) == {State.UNSYNCED}
        if asked == "before":
            reader.stream.request_progress()
            await node.put(Put(b"k", VALUE))
        else:
            await node.put(Put(b"k", VALUE))
            reader.stream.request_progress()
        answered = await reader.answer()
        assert answered >= (21 if asked == "before" else 22)
        assert reader.given[0] == list(range(2, answered + 1))
        reader.stream.close()


async def test_victims_are_answered_after_all_that_they_missed(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False, outbox_bytes=OUTBOX)) as node:
        reader = Reader(node.watch_stream())
        for _ in range(5):
            reader.stream.create(key=b"k")
        first = node.revision + 1
        for _ in range(10):
            await node.put(Put(b"k", VALUE))
        assert State.VICTIM in states(reader.stream)
        for _ in range(3):
            reader.stream.request_progress()  # one answer is enough for all of them
        assert await reader.answer() == node.revision
        assert reader.given == {watch_id: list(range(first, node.revision + 1)) for watch_id in range(5)}
        assert not reader.stream.outbox_bytes
        reader.stream.request_progress()
        assert await reader.answer() == node.revision
        reader.stream.close()


@pytest.mark.parametrize("filters", [[WatchFilter.NOPUT], [WatchFilter.NODELETE], list(WatchFilter)])
@pytest.mark.parametrize("start", [0, 2])
async def test_what_filters_hold_back_counts_as_given(tmp_path: Path, filters: list[WatchFilter], start: int) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False)) as node:
        await node.put(Put(b"k"))
        reader = Reader(node.watch_stream())
        reader.stream.create(key=b"k", filters=filters, start_revision=start)
        deleted = (await node.delete_range(DeleteRange(b"k"))).revision
        put = (await node.put(Put(b"k"))).revision
        reader.stream.request_progress()
        assert await reader.answer() == put
        expected = [deleted] if WatchFilter.NODELETE not in filters else []
        if WatchFilter.NOPUT not in filters:
            expected += [2, put] if start else [put]
        assert reader.given[0] == expected
        reader.stream.close()


async def test_one_whose_history_is_gone_does_not_hold_up_its_neighbours(tmp_path: Path) -> None:
    async with Node.open(tmp_path, NodeOptions(fsync=False, outbox_bytes=OUTBOX)) as node:
        reader = Reader(node.watch_stream())
        for _ in range(3):
            reader.stream.create(key=b"k")
        for _ in range(30):
            await node.put(Put(b"k", VALUE))
        reader.stream.create(key=b"other")
        reader.stream.request_progress()
        await node.compact(node.revision)
        assert await reader.answer() == node.revision
        assert 3 not in reader.ended
        assert reader.ended, "some were too far behind"
        reader.stream.close()


@pytest.mark.parametrize("seed", range(15))
async def test_mixed_streams_under_load(tmp_path: Path, seed: int) -> None:
    """Every request has an answer that is no older than the request, and between the events where it belongs."""
    rng = random.Random(seed)
    keys = [b"a", b"b", b"c"]
    ranges = [(b"a", b""), (b"b", b""), (b"a", b"c"), (b"\0", b"\0")]
    async with Node.open(tmp_path, NodeOptions(fsync=False, outbox_bytes=rng.choice([500, OUTBOX, 1 << 20]))) as node:
        history: list[tuple[int, bytes, bool]] = []

        async def write(times: int) -> None:
            for _ in range(times):
                key = rng.choice(keys)
                if rng.random() < 0.3:
                    deleted = await node.delete_range(DeleteRange(key))
                    if deleted.deleted:
                        history.append((deleted.revision, key, True))
                else:
                    history.append(((await node.put(Put(key, VALUE))).revision, key, False))

        await write(20)
        reader = Reader(node.watch_stream())
        wanted: dict[int, tuple[int, bytes, bytes, list[WatchFilter]]] = {}
        for _ in range(8):
            for _ in range(rng.randrange(4)):
                key, end = rng.choice(ranges)
                filters = rng.choice([[], [], [WatchFilter.NOPUT], [WatchFilter.NODELETE]])
                start = rng.choice([0, max(2, node.revision - rng.randrange(25))])
                wanted[len(wanted)] = (start or node.revision + 1, key, end, filters)
                reader.stream.create(key=key, range_end=end, start_revision=start, filters=filters)
            writing = asyncio.create_task(write(rng.randrange(15)))
            if rng.random() < 0.5:
                await writing
            if not wanted:
                await writing
                continue
            at = node.revision
            reader.stream.request_progress()
            answered = await reader.answer()
            assert answered >= at
            await writing
            for watch_id, (first, key, end, filters) in wanted.items():
                assert reader.given[watch_id] == [
                    revision
                    for revision, changed, gone in history
                    if first <= revision <= answered
                    and (changed == key if not end else key <= changed and (end == b"\0" or changed < end))
                    and (WatchFilter.NODELETE if gone else WatchFilter.NOPUT) not in filters
                ]
        reader.stream.close()
