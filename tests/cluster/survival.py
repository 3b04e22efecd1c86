"""Members of a cluster fail one after the other while it is written to; informers and controllers carry on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import structlog

from informer.errors import ApiError
from informer.listwatch import StoreListWatch
from informer.reflector import Backoff
from kvstore.client import RemoteClient
from kvstore.errors import KvError
from tests.cluster.load import PREFIX, History, Writer
from tests.cluster.members import EtcdCluster, Member, client_of, running_cluster
from tests.controllers.cluster import cluster, nginx
from tests.faults.judge import IllegalError
from tests.faults.watched import Watched

T = TypeVar("T")

WRITERS = 2
LEFT_WITHIN = 15.0  # seconds until an informer has left a member that is of no use, at the latest
PATIENCE = 30.0
COMPACT_EVERY = 0.4
KNOWN_WITHIN = 2.0
BEFORE, AFTER = 0.4, 0.6  # seconds of load

log = structlog.get_logger(__name__)


def watcher(client: RemoteClient, rng: random.Random) -> Watched:
    """An informer of what is written, on a client of its own."""
    return Watched(
        StoreListWatch(client, PREFIX, quiet_after=0.5, answer_within=1.0, list_within=2.0),
        rng,
        queue_limit=rng.choice([4, 10_000]),
        page_size=10,
        backoff=Backoff(rng, initial=0.05, maximum=0.5),
    )


async def check(watched: Watched, history: History) -> None:
    """It gets to the end of the history, and was told all of it."""
    truth, cache = history.truth, watched.informer.cache
    while True:
        end = await history.read()
        await cache.wait_for(str(end))
        # A write that nobody waited for any more may still be done: then the history has a new end.
        if int(cache.revision) > end:
            continue
        try:
            async with asyncio.timeout(KNOWN_WITHIN):
                await watched.know(truth.at(end))
        except TimeoutError:
            continue
        if int(cache.revision) == end:
            watched.verdict(truth)
            return


class Survival:
    """A cluster under load, with controllers at work and an informer that lives all the while."""

    def __init__(self, etcd: EtcdCluster, rng: random.Random, stack: AsyncExitStack) -> None:
        self.etcd = etcd
        self.rng = rng
        self._stack = stack
        self.counts: Counter[str] = Counter()
        self._images = 0

    async def begin(self) -> None:
        """Start what lives through all of it."""
        enter = self._stack.enter_async_context
        self._history = History(await enter(client_of(self.etcd)))
        self._writers = [
            Writer(await enter(client_of(self.etcd)), f"w{number}", random.Random(self.rng.random()))
            for number in range(WRITERS)
        ]
        self._always = await self._watched(self._stack)
        user, controllers = await enter(client_of(self.etcd)), await enter(client_of(self.etcd))
        delays: dict[str, Any] = {
            "pod_start_delay": 0.0,
            "pod_ready_delay": (0.05, 0.2),
            "pod_delete_delay": (0.0, 0.1),
        }
        self._it = await enter(cluster(user, client=controllers, **delays))
        await self._insist(lambda: self._it.apply(nginx()))
        await self._rolled_out()

    async def _watched(self, stack: AsyncExitStack, first: Member | None = None) -> Watched:
        client = await stack.enter_async_context(client_of(self.etcd, first))
        watched = watcher(client, random.Random(self.rng.random()))
        await stack.enter_async_context(watched.informer)
        await watched.informer.wait_synced()
        return watched

    async def live_through(
        self, fault: Callable[[EtcdCluster, Member], Fault], *, keep: int, victim: Member | None = None
    ) -> None:
        """A fault of a member (by default the leader) under load.

        keep: how many revisions compactions leave behind meanwhile.
        """
        async with AsyncExitStack() as stack, asyncio.timeout(2 * PATIENCE + LEFT_WITHIN):
            victim = victim or await self.etcd.leader()
            near = [await self._watched(stack, member) for member in self.etcd.members]
            exposed = near[self.etcd.members.index(victim)]
            async with loaded(self._writers, self._history, keep):
                await asyncio.sleep(BEFORE)
                rollout = asyncio.create_task(self._roll_out())
                async with fault(self.etcd, victim):
                    await self._leave(exposed)
                    await rollout
                await victim.ready()
                await asyncio.sleep(AFTER)
            async with asyncio.timeout(PATIENCE):
                for watched in (self._always, *near):
                    await check(watched, self._history)
            self.counts.update(self._history.check_kept(self._writers))
            for watched in near:
                did = watched.informer.statistics().reflector
                self.counts.update(events=did.events, resumes=did.resumes, relists=did.relists)
            self.counts["faults"] += 1

    async def _leave(self, exposed: Watched) -> None:
        """The informer on the member that failed goes on elsewhere, in bounded time."""
        revision = await self._history.read()
        async with asyncio.timeout(LEFT_WITHIN):
            await exposed.informer.cache.wait_for(str(revision))

    # ---- the controllers

    async def _roll_out(self) -> None:
        self._images += 1
        image = f"nginx:1.{self._images}"
        await self._insist(lambda: self._it.set_image(image))
        await self._rolled_out()
        pods = await self._insist(self._it.pods)
        images = {container.image for pod in pods for container in pod.spec.containers}
        if images != {image}:
            raise IllegalError(f"the pods run {images}, not {image}")

    async def _rolled_out(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._insist(lambda: self._it.rolled_out())

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except (KvError, ApiError) as error:
                log.info("the user tries again", error=str(error))
                await asyncio.sleep(0.05)


@asynccontextmanager
async def loaded(writers: list[Writer], history: History, keep: int) -> AsyncIterator[None]:
    """Writers write, and the history is compacted, while this lasts."""

    async def compact() -> None:
        while True:
            await asyncio.sleep(COMPACT_EVERY)
            with contextlib.suppress(TimeoutError):
                await history.compact(keep)

    tasks = [asyncio.create_task(each) for each in (*(writer.run() for writer in writers), compact())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


# ---- what happens to a member ---------------------------------------------------------------------------------------

Fault = contextlib.AbstractAsyncContextManager[None]


@asynccontextmanager
async def killed(etcd: EtcdCluster, victim: Member) -> AsyncIterator[None]:
    """Its process is killed, and started again in the end."""
    victim.kill()
    try:
        yield
    finally:
        victim.start()


@asynccontextmanager
async def paused(etcd: EtcdCluster, victim: Member) -> AsyncIterator[None]:
    """Its process stands still; its connections stay."""
    victim.pause()
    try:
        yield
    finally:
        victim.go_on()


@asynccontextmanager
async def cut_off(etcd: EtcdCluster, victim: Member) -> AsyncIterator[None]:
    """Nothing passes between it and its peers, but clients reach it."""
    etcd.cut_off(victim)
    try:
        yield
    finally:
        etcd.rejoin()


FAULTS: dict[str, Callable[[EtcdCluster, Member], Fault]] = {"killed": killed, "paused": paused, "cut off": cut_off}


@asynccontextmanager
async def survival(directory: Path, seed: int) -> AsyncIterator[Survival]:
    """A cluster of three to live through faults with."""
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(running_cluster(directory))
        it = Survival(etcd, random.Random(seed), stack)
        await it.begin()
        yield it
