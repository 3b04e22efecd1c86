"""A reader that waits for a revision which was written to other objects is not kept until the next bookmark."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

import informer.listwatch
from informer.errors import ApiError, Unreachable
from informer.listwatch import ListPage, StoreListWatch
from informer.shared import PROGRESS_AFTER, PROGRESS_PERIOD, SharedInformer
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.etcd_process import running_etcd
from tests.informer import subjects
from tests.informer.subjects import StoreSubject
from tests.virtual_time import VirtualTimeLoop

PREFIX = b"/registry/core/pods/"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as address:
        yield address


@asynccontextmanager
async def started(subject: StoreSubject) -> AsyncIterator[SharedInformer]:
    source = subject.list_watch
    assert isinstance(source, StoreListWatch)
    source._quiet_after = 600.0  # no bookmark comes by itself within the test
    async with SharedInformer(source, rng=random.Random(1)) as informer:
        await informer.wait_synced()
        yield informer


async def see_what_is_written_elsewhere(subject: StoreSubject) -> None:
    async with started(subject) as informer:
        for _ in range(3):
            revision = await subject.write_elsewhere()
            async with asyncio.timeout(10):
                await informer.cache.wait_for(revision)
        assert informer.statistics().reflector.bookmarks >= 3
        assert informer.statistics().reflector.resumes == 0


@pytest.mark.parametrize("store", [subjects.embedded, subjects.served])
async def test_a_write_to_other_objects_is_seen_soon(
    tmp_path: Path, store: type[AbstractAsyncContextManager[StoreSubject]]
) -> None:
    async with store(tmp_path, PREFIX) as subject:  # type: ignore[call-arg]
        await see_what_is_written_elsewhere(subject)


async def test_a_real_etcd_that_can_be_trusted_is_asked(etcd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # This one is older, and answers as later ones do as long as the watch is not behind.
    monkeypatch.setattr(informer.listwatch, "orders_progress", lambda version: True)
    async with subjects.etcd(etcd, PREFIX) as subject:
        await see_what_is_written_elsewhere(subject)


async def test_a_real_etcd_that_cannot_be_trusted_is_not_asked(etcd: str) -> None:
    async with subjects.etcd(etcd, PREFIX) as subject, started(subject) as informer:
        revision = await subject.write_elsewhere()
        waiting = asyncio.create_task(informer.cache.wait_for(revision))
        assert isinstance(subject.list_watch, StoreListWatch)
        assert not await subject.list_watch.request_progress()
        own = await subject.write({"default/a": b"{}"})
        async with asyncio.timeout(10):
            await waiting
            await informer.cache.wait_for(own)
        assert informer.statistics().reflector.bookmarks == 0


class Counting(StoreListWatch):
    """Notes when it is asked, and fails when told to."""

    def __init__(self, client: EmbeddedClient) -> None:
        super().__init__(client, PREFIX, quiet_after=600.0)
        self.asked: list[float] = []
        self.failures: list[ApiError] = []

    async def request_progress(self) -> bool:
        self.asked.append(asyncio.get_running_loop().time())
        if self.failures:
            raise self.failures.pop()
        return await super().request_progress()


@asynccontextmanager
async def counted() -> AsyncIterator[tuple[EmbeddedClient, Counting, SharedInformer]]:
    with tempfile.TemporaryDirectory() as directory:
        async with Node.open(Path(directory), NodeOptions(fsync=False, inline_commits=True)) as node:
            client = EmbeddedClient(node)
            source = Counting(client)
            async with SharedInformer(source, rng=random.Random(1)) as informer:
                await informer.wait_synced()
                yield client, source, informer
            assert not source._open
            await client.close()


def test_how_often_the_store_is_asked() -> None:
    async def ask() -> None:
        clock = asyncio.get_running_loop().time
        async with counted() as (client, source, informer):
            # Nobody waits: it is not asked. Own writes show without it.
            for _ in range(3):
                revision = (await client.put(PREFIX + b"a", b"{}")).header.revision
                await informer.cache.wait_for(str(revision))
            await asyncio.sleep(60)
            assert source.asked == []
            # One that waits for what was written elsewhere has it at the first question; a question may fail.
            source.failures = [Unreachable("try again")]
            began = clock()
            revision = (await client.put(b"/elsewhere", b"")).header.revision
            await informer.cache.wait_for(str(revision))
            assert source.asked == pytest.approx([began + PROGRESS_AFTER, began + PROGRESS_AFTER + PROGRESS_PERIOD])
            await asyncio.sleep(60)
            assert len(source.asked) == 2
            # What does not come is asked for until it is given up.
            source.asked.clear()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await informer.cache.wait_for(str(revision + 100))
            assert len(source.asked) == pytest.approx(10 / PROGRESS_PERIOD, abs=1)
            await asyncio.sleep(60)
            assert len(source.asked) == pytest.approx(10 / PROGRESS_PERIOD, abs=1)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(ask())


def test_who_waits_from_before_the_start_is_served_as_well() -> None:
    async def wait() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with Node.open(Path(directory), NodeOptions(fsync=False, inline_commits=True)) as node:
                client = EmbeddedClient(node)
                informer = SharedInformer(StoreListWatch(client, PREFIX), rng=random.Random(1))
                waiting = asyncio.create_task(informer.cache.wait_for("3"))
                await asyncio.sleep(0)
                async with informer, asyncio.timeout(1):
                    await informer.wait_synced()
                    for _ in range(2):
                        await client.put(b"/elsewhere", b"")
                    await waiting
                await client.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(wait())


async def test_a_list_watch_without_progress_is_left_alone(client: EmbeddedClient) -> None:
    inner = StoreListWatch(client, PREFIX)

    class Plain:
        async def list(self, *, limit: int, continue_: str = "") -> ListPage:
            return await inner.list(limit=limit, continue_=continue_)

        watch = staticmethod(inner.watch)

    async with SharedInformer(Plain(), rng=random.Random(1)) as informer:
        await informer.wait_synced()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5 * PROGRESS_AFTER):
                await informer.cache.wait_for("100")
        assert informer.statistics().reflector.failures == 0
