"""The store against the plainest description of it: a list of dictionaries, one a revision."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvstore.api import Compare, CompareResult, CompareTarget, DeleteRange, KeyValue, Put, Range, Txn
from kvstore.errors import Compacted, FutureRevision, Unavailable
from kvstore.node import Node, NodeOptions
from kvstore.record import decode
from kvstore.txn import in_range

KEYS = st.sampled_from([b"a", b"b", b"ba", b"c", b"d"])
ENDS = st.sampled_from([b"", b"b", b"bb", b"d", b"z", b"\x00"])
VALUES = st.binary(max_size=3)


class Live(NamedTuple):
    value: bytes
    create: int
    mod: int
    version: int


State = dict[bytes, Live]


class StoreModel(RuleBasedStateMachine):
    """Every operation is done twice; every state there ever was can be read back until it is compacted."""

    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="store-model-"))
        self.runner = asyncio.Runner()
        self.states: dict[int, State] = {1: {}}
        self.revision = 1
        self.compacted = -1
        self.open()

    def open(self) -> None:
        async def opened() -> None:
            self.stack = AsyncExitStack()
            options = NodeOptions(fsync=False)
            self.node = await self.stack.enter_async_context(Node.open(self.directory, options, rng=random.Random(1)))

        self.runner.run(opened())

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.stack.aclose())
            self.runner.close()
            shutil.rmtree(self.directory)

    # ---- the model ------------------------------------------------------------------------------------------------

    @property
    def now(self) -> State:
        return self.states[self.revision]

    def model_put(self, state: State, key: bytes, value: bytes) -> None:
        old = state.get(key)
        main = self.revision + 1
        state[key] = Live(value, old.create if old else main, main, old.version + 1 if old else 1)

    def advance(self, state: State) -> None:
        if state != self.now or any(live.mod > self.revision for live in state.values()):
            self.revision += 1
            self.states[self.revision] = state

    @staticmethod
    def selected(state: State, key: bytes, end: bytes) -> list[KeyValue]:
        return [
            KeyValue(each, live.value, live.create, live.mod, live.version)
            for each, live in sorted(state.items())
            if in_range(each, key, end)
        ]

    # ---- rules ----------------------------------------------------------------------------------------------------

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        before = self.selected(self.now, key, b"")
        result = self.runner.run(self.node.put(Put(key, value, prev_kv=True)))
        state = dict(self.now)
        self.model_put(state, key, value)
        self.advance(state)
        assert result.revision == self.revision
        assert [decode(result.prev)] if result.prev else before == []

    @rule(key=KEYS, end=ENDS)
    def delete(self, key: bytes, end: bytes) -> None:
        before = self.selected(self.now, key, end)
        result = self.runner.run(self.node.delete_range(DeleteRange(key, end, prev_kv=True)))
        self.advance({each: live for each, live in self.now.items() if not in_range(each, key, end)})
        assert (result.revision, result.deleted) == (self.revision, len(before))
        assert list(map(decode, result.prevs)) == before

    @rule(key=KEYS, value=VALUES, wrong=st.booleans(), other=KEYS)
    def compare_and_swap(self, key: bytes, value: bytes, wrong: bool, other: bytes) -> None:
        live = self.now.get(key)
        expected = (live.mod if live else 0) + wrong
        request = Txn(
            (Compare(key, CompareTarget.MOD, CompareResult.EQUAL, expected),),
            (Put(key, value), Range(key), *([] if other == key else [DeleteRange(other)])),
            (Range(key),),
        )
        result = self.runner.run(self.node.txn(request))
        assert result.succeeded is not wrong
        if not wrong:
            state = dict(self.now)
            self.model_put(state, key, value)
            if other != key:
                state.pop(other, None)
            self.advance(state)
        assert result.revision == self.revision

    @rule(keys=st.lists(KEYS, min_size=2, max_size=6), value=VALUES)
    def puts_in_flight_together(self, keys: list[bytes], value: bytes) -> None:
        async def together() -> list[int]:
            results = await asyncio.gather(*(self.node.put(Put(key, value)) for key in keys))
            return [result.revision for result in results]

        revisions = self.runner.run(together())
        for key, revision in zip(keys, revisions, strict=True):
            state = dict(self.now)
            self.model_put(state, key, value)
            self.advance(state)
            assert revision == self.revision

    @rule(back=st.integers(-1, 5), physical=st.booleans())
    def compact(self, back: int, physical: bool) -> None:
        target = self.revision - back
        if target > self.revision:
            with pytest.raises(FutureRevision):
                self.runner.run(self.node.compact(target))
        elif target <= self.compacted:
            with pytest.raises(Compacted):
                self.runner.run(self.node.compact(target))
        else:
            assert self.runner.run(self.node.compact(target, physical)) == self.revision
            self.compacted = target

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4), value=VALUES)
    def a_commit_fails(self, keys: list[bytes], value: bytes) -> None:
        """Nothing of a failed commit stays, neither of what gathered behind it; the store goes on."""
        backend = self.node._backend
        real = backend.commit

        def broken(batch: object) -> None:
            raise lmdb.DiskError("input/output error")

        async def failing() -> list[BaseException | object]:
            backend.commit = broken  # type: ignore[method-assign]
            first = asyncio.gather(*(self.node.put(Put(key, value)) for key in keys), return_exceptions=True)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            second = asyncio.gather(self.node.delete_range(DeleteRange(b"a", b"\x00")), return_exceptions=True)
            return [*await first, *await second]

        outcomes = self.runner.run(failing())
        backend.commit = real  # type: ignore[method-assign]
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes[:-1])
        if isinstance(outcomes[-1], BaseException):
            assert isinstance(outcomes[-1], Unavailable)
        else:
            assert not self.now, "only a deletion of nothing needs no commit"

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.stack.aclose())
        self.open()

    @rule(key=KEYS, end=ENDS, back=st.integers(0, 8), limit=st.integers(0, 3), count_only=st.booleans())
    def read(self, key: bytes, end: bytes, back: int, limit: int, count_only: bool) -> None:
        at = self.revision - back
        request = Range(key, end, revision=max(at, 0), limit=limit, count_only=count_only)
        if at > 0 and at < self.compacted:
            with pytest.raises(Compacted):
                self.node.range(request)
            return
        expected = self.selected(self.states[at] if at > 0 else self.now, key, end)
        result = self.node.range(request)
        assert result.revision == self.revision
        assert result.count == len(expected)
        if count_only:
            assert (result.rows, result.more) == ([], False)
        else:
            shown = expected[:limit] if limit else expected
            assert list(map(decode, result.rows)) == shown
            assert result.more == (len(shown) < len(expected))

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "node"):
            assert self.node.revision == self.revision
            assert self.node.compacted == self.compacted
            self.node._store.index._check()


StoreModel.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStoreModel = StoreModel.TestCase
