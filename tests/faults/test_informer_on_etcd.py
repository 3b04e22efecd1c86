"""The same informer on a real etcd: what it relies on is what etcd does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from informer.listwatch import StoreListWatch
from informer.reflector import Backoff, State
from informer.shared import SharedInformer
from kvstore import api
from kvstore.client.remote import RemoteClient
from kvstore.errors import Code, KvError
from tests.etcd_process import running_etcd
from tests.faults.proxy import FaultProxy
from tests.informer.recorder import Recorder, Transitions

PREFIX = b"/registry/core/pods/"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # An etcd of that age gives reliable bookmarks only by itself.
    progress = "--experimental-watch-progress-notify-interval=200ms"
    with running_etcd(tmp_path_factory.mktemp("etcd"), progress) as address:
        yield address


async def test_that_it_streams_no_lists_is_understood_each_time(etcd: str) -> None:
    async def refused(client: RemoteClient) -> Code:
        with pytest.raises(KvError) as caught:
            await anext(client.range_stream(api.Range(PREFIX, api.prefix_end(PREFIX))))
        return caught.value.code

    for _ in range(10):
        async with RemoteClient([etcd]) as client:
            codes = await asyncio.gather(*(refused(client) for _ in range(20)))
            assert set(codes) == {Code.UNIMPLEMENTED}


async def test_resume_bookmark_and_relist(etcd: str) -> None:
    host, _, port = etcd.rpartition(":")
    transitions, recorder = Transitions(), Recorder()
    async with (
        asyncio.timeout(30),
        RemoteClient([etcd]) as store,
        FaultProxy(host, int(port)) as proxy,
        RemoteClient([proxy.address]) as remote,
    ):

        async def put(key: bytes) -> str:
            response = await store.put(key, b'{"metadata":{"uid":"1"}}')
            return str(response.header.revision)

        async def cut() -> None:
            before = transitions.states.count(State.RESUMING)
            proxy.refusing = True
            proxy.cut()
            await transitions.until(State.RESUMING, times=before + 1)

        for n in range(5):
            await put(PREFIX + b"a/%d" % n)
        informer = SharedInformer(
            StoreListWatch(remote, PREFIX, quiet_after=0.3, answer_within=2.0),
            rng=random.Random(1),
            backoff=Backoff(random.Random(1), initial=0.01, maximum=0.1),
            page_size=2,
            on_transition=transitions,
        )
        registration = informer.add_handler(recorder)
        async with informer:
            await registration.wait_synced()
            assert len(recorder.initial) == 5

            await cut()
            await store.delete(PREFIX + b"a/0")
            missed = await put(PREFIX + b"a/new")
            proxy.refusing = False
            await informer.cache.wait_for(missed)
            assert informer.statistics().reflector.lists == 1

            elsewhere = await put(b"/elsewhere")
            await informer.cache.wait_for(elsewhere)  # a bookmark: the prefix itself is quiet
            await cut()
            await store.compact(int(elsewhere))
            proxy.refusing = False
            await transitions.until(State.WATCHING, times=3)
            assert State.RELISTING not in transitions.states

            await cut()
            await store.delete(PREFIX + b"a/1")
            await store.compact(int(await put(PREFIX + b"a/2")))
            await store.compact(int(await put(b"/elsewhere")))
            proxy.refusing = False
            await transitions.until(State.RELISTING)
            await transitions.until(State.WATCHING, times=4)
            await recorder.until_known({stored.key: stored.data for stored in informer.cache.list()})
            assert sorted(recorder.known) == ["a/2", "a/3", "a/4", "a/new"]
            assert [stored.key for stored in recorder.tombstones] == ["a/1"]
            statistics = informer.statistics().reflector
            assert (statistics.lists, statistics.relists, statistics.duplicates) == (2, 1, 0)
            recorder.check()
            informer.cache._check()
