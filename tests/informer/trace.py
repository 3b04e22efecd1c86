"""The informer layer on virtual time: random writes, compactions and lost connections, and everything that happens
written down. The same seed gives the same trace, byte for byte.

    python -m tests.informer.trace --seeds 5000        # hunt: check that each ends in the truth, by a legal way
    python -m tests.informer.trace --seed 17 --show    # the trace of one
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from informer.cache import Stored
from informer.errors import ApiError, TooManyRequests, Unreachable
from informer.listwatch import Batch, ListPage, StoreListWatch
from informer.reflector import Backoff, State, Transition
from informer.shared import SharedInformer
from kvstore import api
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.informer.recorder import Recorder
from tests.virtual_time import VirtualTimeLoop

PREFIX = b"/registry/core/pods/"
KEYS = [f"{namespace}/{n}" for namespace in "ab" for n in range(4)]
STEPS = 40
PATIENCE = 600.0  # of virtual time: the longest backoff, several times


class Trace:
    """Lines with the virtual time."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, what: str) -> None:
        self.lines.append(f"{asyncio.get_running_loop().time():.9f} {what}")

    def text(self) -> bytes:
        return "\n".join(self.lines).encode()

    def digest(self) -> str:
        return hashlib.sha256(self.text()).hexdigest()


class Link:
    """A list-watch behind a connection that is slow, breaks, and sometimes answers with an error instead."""

    def __init__(self, inner: StoreListWatch, rng: random.Random, trace: Trace) -> None:
        self._inner = inner
        self._rng = rng
        self._trace = trace
        self.flaky = True
        self._cut: asyncio.Event = asyncio.Event()

    def cut(self) -> None:
        """Break what is open."""
        self._cut.set()
        self._cut = asyncio.Event()

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        self._trace(f"call list {limit} {continue_}")
        await self._travel()
        page = await self._inner.list(limit=limit, continue_=continue_)
        await self._travel()
        return page

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self._trace(f"call watch {revision}")
        await self._travel()
        async with self._inner.watch(revision) as batches:
            yield self._carry(batches)

    @asynccontextmanager
    async def watch_list(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self._trace(f"call watch_list {revision}")
        await self._travel()
        async with self._inner.watch_list(revision) as batches:
            yield self._carry(batches)

    async def _carry(self, batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        cut = self._cut
        while True:
            read = asyncio.ensure_future(anext(batches))
            broken = asyncio.ensure_future(cut.wait())
            try:
                await asyncio.wait([read, broken], return_when=asyncio.FIRST_COMPLETED)
                if cut.is_set():
                    error = self._rng.choice([None, Unreachable("cut"), Unreachable("cut"), TooManyRequests("later")])
                    if error is None:
                        return
                    raise error
                batch = read.result()
            finally:
                for task in (read, broken):
                    task.cancel()
                await asyncio.wait([read, broken])
                if not read.cancelled():
                    read.exception()
            await self._travel(breaks=0.02)
            yield batch

    async def _travel(self, breaks: float = 0.1) -> None:
        if self._rng.random() < 0.7:
            await asyncio.sleep(self._rng.random() * 0.05)
        if self.flaky and self._rng.random() < breaks:
            raise self._rng.choice([Unreachable("reset"), Unreachable("refused"), TooManyRequests("later"), _odd()])


def _odd() -> ApiError:
    return ApiError("odd")


class Plain:
    """The same without a stream that begins with what there is."""

    def __init__(self, link: Link) -> None:
        self.list = link.list
        self.watch = link.watch


class Watcher(Recorder):
    """Notes what it is told, and takes its time over some of it."""

    def __init__(self, name: str, trace: Trace, rng: random.Random, slowness: float) -> None:
        super().__init__()
        self._name = name
        self._trace = trace
        self._rng = rng
        self._slowness = slowness

    async def on_add(self, new: Stored, initial: bool) -> None:  # type: ignore[override]
        self._trace(f"{self._name} {'initial' if initial else 'add'} {new.key} {new.revision}")
        super().on_add(new, initial)
        await self._pause()

    async def on_update(self, old: Stored, new: Stored) -> None:  # type: ignore[override]
        self._trace(f"{self._name} update {new.key} {old.revision} {new.revision}")
        super().on_update(old, new)
        await self._pause()

    async def on_delete(self, old: Stored, final_state_known: bool) -> None:  # type: ignore[override]
        self._trace(f"{self._name} delete {old.key} {old.revision} {final_state_known}")
        super().on_delete(old, final_state_known)
        await self._pause()

    async def _pause(self) -> None:
        if self._slowness and self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.random() * self._slowness)


async def _write(client: EmbeddedClient, rng: random.Random, trace: Trace) -> int:
    """One change of the store."""
    keys = rng.sample(KEYS, rng.choice([1, 1, 1, 2, 4]))
    operations: list[api.Op] = []
    for key in keys:
        name = PREFIX + key.encode()
        if rng.random() < 0.35:
            operations.append(api.DeleteRange(name))
        else:
            data = b'{"metadata":{"uid":"%d"},"n":%d}' % (rng.randrange(2), rng.randrange(1000))
            operations.append(api.Put(name, data))
    revision = (await client.txn(success=operations)).header.revision
    trace(f"write {','.join(keys)} {revision}")
    return revision


async def _live(directory: Path, seed: int) -> Trace:
    rng = random.Random(seed)
    trace = Trace()
    options = NodeOptions(fsync=False, inline_commits=True)
    async with Node.open(directory, options, rng=random.Random(rng.random())) as node:
        client = EmbeddedClient(node)
        hand = EmbeddedClient(node)
        source = StoreListWatch(client, PREFIX, quiet_after=rng.choice([0.05, 1.0, 30.0]), answer_within=1.0)
        link = Link(source, random.Random(rng.random()), trace)
        for _ in range(rng.randrange(10)):
            await _write(hand, rng, trace)

        def told(transition: Transition) -> None:
            trace(
                f"state {transition.old.value} {transition.new.value} {transition.reason.value} {transition.revision}"
            )

        informer = SharedInformer(
            link if rng.random() < 0.5 else Plain(link),
            name="pods",
            rng=random.Random(rng.random()),
            queue_limit=rng.choice([2, 1024]),
            backoff=Backoff(random.Random(rng.random()), initial=0.05, maximum=2.0),
            page_size=rng.choice([1, 3, 500]),
            on_transition=told,
        )
        watchers = [
            Watcher(name, trace, random.Random(rng.random()), slowness)
            for name, slowness in (("quick", 0.0), ("slow", 0.2))
        ]
        for watcher in watchers:
            informer.add_handler(watcher, name=watcher._name)
        readers: list[asyncio.Task[None]] = []
        async with informer:
            for _ in range(STEPS):
                match rng.choice(["write", "write", "write", "burst", "cut", "compact", "elsewhere", "pause"]):
                    case "write":
                        await _write(hand, rng, trace)
                    case "burst":
                        for _ in range(rng.randrange(2, 12)):
                            await _write(hand, rng, trace)
                    case "cut":
                        trace("cut")
                        link.cut()
                    case "compact":
                        await _compact(hand, rng, trace)
                    case "elsewhere":
                        revision = (await hand.put(b"/elsewhere", b"")).header.revision
                        trace(f"elsewhere {revision}")
                        readers.append(asyncio.create_task(_wait(informer, revision, trace)))
                    case "pause":
                        await asyncio.sleep(rng.random() * rng.choice([0.01, 0.2, 3.0]))
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            link.flaky = False
            last = str((await hand.put(PREFIX + b"a/last", b"{}")).header.revision)
            trace(f"write a/last {last}")
            async with asyncio.timeout(PATIENCE):
                await informer.cache.wait_for(last)
                await asyncio.gather(*readers)
                await _check(informer, hand, watchers)
            _sum_up(informer, trace)
        assert informer.state is State.STOPPED
        assert node.statistics().watch.streams == 0, "a watch was left open"
        await client.close()
        await hand.close()
    return trace


async def _wait(informer: SharedInformer, revision: int, trace: Trace) -> None:
    """A reader that waits for what was written to others' objects, which no event will show."""
    await informer.cache.wait_for(str(revision))
    trace(f"reached {revision}")


async def _compact(client: EmbeddedClient, rng: random.Random, trace: Trace) -> None:
    head = (await client.status()).header.revision
    at = rng.randint(max(1, head - 5), head)
    try:
        await client.compact(at)
    except Exception as error:  # noqa: BLE001 (below the last compaction: part of the trace)
        trace(f"compact {at} {type(error).__name__}")
    else:
        trace(f"compact {at}")


async def _check(informer: SharedInformer, client: EmbeddedClient, watchers: list[Watcher]) -> None:
    kvs = (await client.range(api.Range(PREFIX, api.prefix_end(PREFIX)))).kvs
    there = {kv.key[len(PREFIX) :].decode(): (kv.value, str(kv.mod_revision)) for kv in kvs}
    cached = {stored.key: (stored.data, stored.revision) for stored in informer.cache.list()}
    assert cached == there, f"the cache holds {cached}, the store {there}"
    informer.cache._check()
    for watcher in watchers:
        await watcher.until_known({key: data for key, (data, _) in there.items()})
        watcher.check()


def _sum_up(informer: SharedInformer, trace: Trace) -> None:
    told = informer.statistics().reflector
    assert told.duplicates == 0
    assert told.behind == 0
    trace(
        f"end {told.last_revision} lists {told.lists} streamed {told.streamed} relists {told.relists}"
        f" watches {told.watches} resumes {told.resumes} failures {told.failures} last {told.last_error!r}"
    )


def run(seed: int) -> Trace:
    """The life that a seed stands for. Raises AssertionError, or TimeoutError, if it does not end in the truth."""
    with (
        structlog.testing.capture_logs(),
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
    ):
        return runner.run(_live(Path(directory) / "data", seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=1, help="how many lives, from --seed on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print the traces")
    options = parser.parse_args()
    together = hashlib.sha256()
    reached: dict[str, int] = {}
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            trace = run(seed)
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        together.update(trace.text())
        for line in trace.lines:
            _, what, *rest = line.split(" ")
            if what == "state":
                reached[" ".join(rest[:3])] = reached.get(" ".join(rest[:3]), 0) + 1
        if options.show:
            print(trace.text().decode())
    for change, count in sorted(reached.items()):
        print(f"{count:8} {change}")
    print(f"{options.seeds} seeds {together.hexdigest()}")


if __name__ == "__main__":
    main()
