"""Watchers of every kind on streams with tiny outboxes, read fast, slowly or not at all, against the whole history."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvstore.api import DeleteRange, EventType, KeyValue, Put, Txn, WatchFilter
from kvstore.event import StoredEvent
from kvstore.node import Node, NodeOptions
from kvstore.watch import State, StreamResponse, WatchStream
from tests.kvstore.validators import Change, Given, Watched, validate

KEYS = [b"a", b"b", b"ba", b"c"]
RANGES = [(b"a", b""), (b"b", b""), (b"a", b"c"), (b"b", b"z"), (b"b", b"\x00"), (b"\x00", b"\x00")]
FILTERS = [(), (WatchFilter.NOPUT,), (WatchFilter.NODELETE,)]


class WatchModel(RuleBasedStateMachine):
    """The hub's states are checked after each step, each watcher's guarantees at the end."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="watch-model-"))
        self.runner = asyncio.Runner()
        self.history: list[Change] = []
        self.live: dict[bytes, KeyValue] = {}
        self.compactions: set[int] = set()
        self.streams: list[WatchStream] = []
        self.watched: dict[tuple[int, int], Watched] = {}
        self.begun: set[tuple[int, int]] = (
            set()
        )  # whose `created` was read: progress of the stream before is not theirs
        self.ended: set[tuple[int, int]] = set()

        async def opened() -> None:
            self.stack = AsyncExitStack()
            options = NodeOptions(fsync=False, outbox_bytes=300)
            self.node = await self.stack.enter_async_context(Node.open(self.directory, options, rng=random.Random(1)))

        self.runner.run(opened())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.drain_everything()
            for name, watched in self.watched.items():
                validate(watched, self.history, 0 if name in self.ended else self.node.revision, self.compactions)
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.directory)

    # ---- the history ----------------------------------------------------------------------------------------------

    def note_put(self, revision: int, key: bytes, value: bytes) -> None:
        prev = self.live.get(key)
        self.history.append(Change(revision, key, value, prev))
        create, version = (prev.create_revision, prev.version + 1) if prev else (revision, 1)
        self.live[key] = KeyValue(key, value, create, revision, version)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=12), value=st.binary(max_size=40))
    def write(self, keys: list[bytes], value: bytes) -> None:
        async def together() -> list[int]:
            results = await asyncio.gather(*(self.node.put(Put(key, value)) for key in keys))
            return [result.revision for result in results]

        for key, revision in zip(keys, self.runner.run(together()), strict=True):
            self.note_put(revision, key, value)

    @rule(value=st.binary(max_size=20))
    def write_all_in_one_revision(self, value: bytes) -> None:
        result = self.runner.run(self.node.txn(Txn(success=tuple(Put(key, value) for key in KEYS))))
        for key in KEYS:
            self.note_put(result.revision, key, value)

    @rule(start=st.sampled_from(KEYS))
    def delete(self, start: bytes) -> None:
        result = self.runner.run(self.node.delete_range(DeleteRange(start, b"\x00")))
        for key in sorted(key for key in self.live if key >= start):
            self.history.append(Change(result.revision, key, None, self.live.pop(key)))

    @rule(back=st.integers(0, 6))
    def compact(self, back: int) -> None:
        target = self.node.revision - back
        if target > self.node.compacted:
            self.runner.run(self.node.compact(target))
            self.compactions.add(target)

    # ---- watchers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.streams) < 3)
    @rule()
    def open_stream(self) -> None:
        async def opened() -> None:
            self.streams.append(self.node.watch_stream())

        self.runner.run(opened())

    @precondition(lambda self: self.streams)
    @rule(
        stream=st.integers(0, 2),
        span=st.sampled_from(RANGES),
        back=st.integers(-3, 12),
        from_now=st.booleans(),
        prev_kv=st.booleans(),
        filters=st.sampled_from(FILTERS),
    )
    def watch(
        self,
        stream: int,
        span: tuple[bytes, bytes],
        back: int,
        from_now: bool,
        prev_kv: bool,
        filters: tuple[WatchFilter, ...],
    ) -> None:
        number = stream % len(self.streams)
        start = 0 if from_now else max(1, self.node.revision - back)
        watch_id = 1000 + len(self.watched)

        async def created() -> None:
            self.streams[number].create(
                key=span[0],
                range_end=span[1],
                start_revision=start,
                prev_kv=prev_kv,
                filters=filters,
                watch_id=watch_id,
            )

        self.runner.run(created())
        self.watched[number, watch_id] = Watched(
            *span,
            start or self.node.revision + 1,
            puts=WatchFilter.NOPUT not in filters,
            deletes=WatchFilter.NODELETE not in filters,
            prev_kv=prev_kv,
            responses=[],
        )

    @precondition(lambda self: self.watched)
    @rule(pick=st.integers(0, 30))
    def cancel(self, pick: int) -> None:
        number, watch_id = sorted(self.watched)[pick % len(self.watched)]

        async def cancelled() -> None:
            self.streams[number].cancel(watch_id)

        self.runner.run(cancelled())
        self.ended.add((number, watch_id))

    @precondition(lambda self: self.streams)
    @rule(stream=st.integers(0, 2))
    def request_progress(self, stream: int) -> None:
        number = stream % len(self.streams)

        async def asked() -> None:
            self.streams[number].request_progress()

        self.runner.run(asked())

    @precondition(lambda self: self.streams)
    @rule(stream=st.integers(0, 2), responses=st.integers(1, 6))
    def read_some(self, stream: int, responses: int) -> None:
        number = stream % len(self.streams)
        for _ in range(responses):
            if not self.streams[number]._outbox:
                return
            self.take(number)

    def take(self, number: int) -> None:
        response = self.runner.run(self.streams[number].next())
        name = number, response.watch_id
        if response.watch_id == -1:
            assert not response.created, "every watch of this test is accepted"
            for (on, watch_id), watched in self.watched.items():
                if on == number and (on, watch_id) in self.begun - self.ended:
                    watched.responses.append(Given(response.revision, []))
            return
        if response.canceled:
            if response.compact_revision:
                assert response.revision == 0
                assert 0 < response.compact_revision <= self.node.compacted  # as it was when the watch was ended
            self.ended.add(name)
        elif response.created:
            self.begun.add(name)
        else:
            self.watched[name].responses.append(Given(response.revision, list(map(_change, _shown(response)))))

    def drain_everything(self) -> None:
        async def settled() -> None:
            while self.node._hub.sync_pass():
                await asyncio.sleep(0)

        busy = True
        while busy:
            self.runner.run(settled())
            busy = False
            for number, stream in enumerate(self.streams):
                while stream._outbox:
                    self.take(number)
                    busy = True
        for watcher in (each for stream in self.streams for each in stream.watchers.values()):
            assert watcher.state is State.SYNCED, "with its reader reading, every watcher catches up"

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "node"):
            self.node._hub._check()
            limit = 300 + 1500  # one batch may come in while there is a little room
            assert all(stream.outbox_bytes <= limit + 64 * 30 for stream in self.streams)


def _shown(response: StreamResponse) -> list[tuple[StoredEvent, bool]]:
    return [(event, response.prev_kv) for event in response.events]


def _change(shown: tuple[StoredEvent, bool]) -> Change:
    event, prev_kv = shown
    value = event.value(prev_kv)
    return Change(
        value.kv.mod_revision,
        value.kv.key,
        None if value.type is EventType.DELETE else value.kv.value,
        value.prev_kv,
    )


WatchModel.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestWatchModel = WatchModel.TestCase
