"""A shared informer on the far side of a network that breaks, while the store is written to and compacted.

After every fault the cache has to become equal to the store at a revision, and what each handler was told has to be a
legal history of every object that ends there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from informer.cache import Stored
from informer.listwatch import StoreListWatch
from informer.reflector import Backoff, State
from informer.shared import SharedInformer
from kvstore import api
from kvstore.client.embedded import EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.node import Node, NodeOptions
from kvstore.server.edge import Server
from tests.faults.proxy import CuttingProxy
from tests.informer.recorder import Recorder, Transitions

PREFIX = b"/registry/core/pods/"
NAMES = [f"{namespace}/{n}" for namespace in "ab" for n in range(5)]


class SlowRecorder(Recorder):
    """Takes a while over each notification, so its queue coalesces."""

    async def on_update(self, old: Stored, new: Stored) -> None:  # type: ignore[override]
        await asyncio.sleep(0.002)
        super().on_update(old, new)


class Network:
    """A store, a proxy, and an informer whose only way to the store is through it."""

    def __init__(
        self,
        store: EmbeddedClient,
        proxy: CuttingProxy,
        remote: RemoteClient,
        rng: random.Random,
        quiet_after: float,
    ) -> None:
        self.store = store
        self.proxy = proxy
        self.rng = rng
        self.transitions = Transitions()
        self.informer = SharedInformer(
            StoreListWatch(remote, PREFIX, quiet_after=quiet_after, answer_within=0.15, list_within=0.3),
            name="pods",
            rng=rng,
            queue_limit=4,
            backoff=Backoff(rng, initial=0.005, maximum=0.05),
            page_size=3,
            on_transition=self.transitions,
        )
        self.recorders = [Recorder(), SlowRecorder()]
        for recorder in self.recorders:
            self.informer.add_handler(recorder)

    async def write(self, count: int) -> int:
        """Random puts and deletes; the last one is a put, so that the prefix has an event at the revision returned."""
        for n in range(count):
            name = PREFIX + self.rng.choice(NAMES).encode()
            if self.rng.random() < 0.35:
                await self.store.delete(name)
            else:
                uid = self.rng.randrange(3)
                await self.store.put(name, b'{"metadata":{"uid":"%d"},"n":%d}' % (uid, n))
        response = await self.store.put(PREFIX + b"a/last", b'{"n":%d}' % count)
        return response.header.revision

    async def check(self, revision: int) -> None:
        """The cache gets to `revision`, the last of its prefix, and equals the store; so do the handlers' beliefs."""
        async with asyncio.timeout(15):
            await self.informer.cache.wait_for(str(revision))
            cached = {stored.key: (stored.data, stored.revision) for stored in self.informer.cache.list()}
            kvs = (await self.store.range(api.Range(key=PREFIX, range_end=api.prefix_end(PREFIX)))).kvs
            assert cached == {kv.key[len(PREFIX) :].decode(): (kv.value, str(kv.mod_revision)) for kv in kvs}
            self.informer.cache._check()
            for recorder in self.recorders:
                await recorder.until_known({key: data for key, (data, _) in cached.items()})
                recorder.check()


@asynccontextmanager
async def network(directory: Path, seed: int, *, quiet_after: float = 0.1) -> AsyncIterator[Network]:
    rng = random.Random(seed)
    before = asyncio.all_tasks()
    async with Node.open(directory, NodeOptions(fsync=False), rng=rng) as node:
        async with Server(node, ["http://127.0.0.1:0"]) as server:
            port = int(server.client_urls[0].rpartition(":")[2])
            async with (
                CuttingProxy("127.0.0.1", port) as proxy,
                RemoteClient([proxy.address], rng=rng) as remote,
            ):
                net = Network(EmbeddedClient(node), proxy, remote, rng, quiet_after)
                async with net.informer:
                    yield net
                assert net.informer.state is State.STOPPED
        assert node.statistics().watch.streams == 0
    # gRPC keeps one poller task a loop; all else is gone.
    left = {task for task in asyncio.all_tasks() - before if "grpc" not in repr(task.get_coro())}
    assert left == set()


FAULTS: dict[str, Callable[[CuttingProxy, random.Random], None]] = {
    "cut": lambda proxy, rng: proxy.cut(),
    "reset": lambda proxy, rng: proxy.reset(),
    "half-close": lambda proxy, rng: proxy.half_close(),
    "cut mid-message": lambda proxy, rng: proxy.cut_after(rng.randrange(1, 400)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_broken_connection_is_resumed_without_a_list(tmp_path: Path, fault: str) -> None:
    async with network(tmp_path, seed=1) as net:
        await net.check(await net.write(20))
        FAULTS[fault](net.proxy, net.rng)
        revision = await net.write(40)
        async with asyncio.timeout(15):
            await net.transitions.until(State.RESUMING)
        await net.check(revision)
        statistics = net.informer.statistics().reflector
        assert (statistics.lists, statistics.duplicates) == (1, 0)
        assert statistics.resumes >= 1


async def test_a_silent_connection_is_found_and_resumed(tmp_path: Path) -> None:
    async with network(tmp_path, seed=2) as net:
        await net.check(await net.write(20))
        net.proxy.stall()
        revision = await net.write(20)
        async with asyncio.timeout(15):
            await net.transitions.until(State.RESUMING)
        assert "nothing heard on a watch for 0.25 s" in net.informer.statistics().reflector.last_error
        net.proxy.cut()
        await net.check(revision)
        assert net.informer.statistics().reflector.lists == 1


async def test_a_stall_that_ends_in_time_is_not_noticed(tmp_path: Path) -> None:
    async with network(tmp_path, seed=3, quiet_after=30.0) as net:
        await net.check(await net.write(20))
        net.proxy.stall()
        revision = await net.write(20)
        net.proxy.flow()
        await net.check(revision)
        assert State.RESUMING not in net.transitions.states


async def test_compaction_behind_a_broken_connection_relists(tmp_path: Path) -> None:
    async with network(tmp_path, seed=4) as net:
        await net.check(await net.write(30))
        known = dict(net.recorders[0].known)
        net.proxy.refusing = True
        net.proxy.cut()
        async with asyncio.timeout(15):
            await net.transitions.until(State.RESUMING)
        for name in known:
            await net.store.delete(PREFIX + name.encode())
        revision = await net.write(0)
        await net.store.compact(revision)
        net.proxy.refusing = False
        await net.check(revision)
        assert net.transitions.states[-2:] == [State.RELISTING, State.WATCHING]
        tombstones = {stored.key: stored for stored in net.recorders[0].tombstones}
        assert tombstones == {key: stored for key, stored in known.items() if key != "a/last"}


@pytest.mark.parametrize("seed", range(20))
async def test_any_mix_of_faults_ends_in_the_truth(tmp_path: Path, seed: int) -> None:
    async with network(tmp_path, seed) as net:
        rng = net.rng
        for _ in range(6):
            writing = asyncio.ensure_future(net.write(rng.randrange(1, 80)))
            for _ in range(rng.randrange(1, 4)):
                fault = rng.choice([*FAULTS, "stall", "compact", "refuse"])
                if fault == "stall":
                    net.proxy.stall()
                    if rng.random() < 0.5:
                        await asyncio.sleep(rng.random() * 0.3)  # shorter or longer than what the informer waits for
                        net.proxy.flow()
                    else:
                        net.proxy.cut()
                elif fault == "compact":
                    status = await net.store.status()
                    await net.store.put(b"/elsewhere", b"")
                    await net.store.compact(status.header.revision + 1)
                elif fault == "refuse":
                    net.proxy.refusing = True
                    net.proxy.cut()
                    await asyncio.sleep(rng.random() * 0.05)
                else:
                    FAULTS[fault](net.proxy, rng)
                await asyncio.sleep(rng.random() * 0.02)
            net.proxy.refusing = False
            await net.check(await writing)
        statistics = net.informer.statistics()
        assert statistics.reflector.duplicates == 0
        assert all(handler.failed == 0 for handler in statistics.handlers)
