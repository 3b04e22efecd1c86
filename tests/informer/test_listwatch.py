from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from informer.errors import ApiError, Expired, StoreFull, TooManyRequests, Unreachable, Unsupported, from_store
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed, StoreListWatch, WatchEvent, is_newer
from informer.shared import SharedInformer
from kvstore import api, errors
from kvstore.client.embedded import STREAM_KEYS, EmbeddedClient
from kvstore.client.remote import RemoteClient
from kvstore.errors import WatchCanceled
from kvstore.node import Node, NodeOptions
from tests.etcd_process import running_etcd

PREFIX = b"/registry/core/pods/"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as address:
        yield address


async def pages(source: StoreListWatch, limit: int) -> list[ListPage]:
    found = [await source.list(limit=limit)]
    while found[-1].continue_:
        found.append(await source.list(limit=limit, continue_=found[-1].continue_))
    return found


async def fill(client: EmbeddedClient, *names: str) -> int:
    head = 0
    for name in names:
        response = await client.put(PREFIX + name.encode(), b"of " + name.encode())
        head = response.header.revision
    return head


async def take(source: StoreListWatch, revision: str, count: int) -> list[WatchEvent]:
    events: list[WatchEvent] = []
    async with asyncio.timeout(10), source.watch(revision) as batches:
        async for batch in batches:
            events += batch
            if len(events) >= count:
                break
    return events


@given(st.integers(0, 10**25), st.integers(0, 10**25))
def test_revisions_compare_as_numbers_of_any_length(a: int, b: int) -> None:
    assert is_newer(str(a), str(b)) is (a > b)
    assert is_newer(str(a), "")
    assert not is_newer("", str(a))


async def test_pages_are_all_of_the_first_ones_revision(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1", "a/2", "b/1", "b/2", "b/3")
    await client.put(b"/registry/core/podsandmore/a/1", b"no")
    source = StoreListWatch(client, PREFIX)
    first = await source.list(limit=2)
    await fill(client, "a/0", "b/2", "c/9")
    await client.delete(PREFIX + b"b/3")
    second = await source.list(limit=2, continue_=first.continue_)
    third = await source.list(limit=2, continue_=second.continue_)
    assert [item.key for page in (first, second, third) for item in page.items] == ["a/1", "a/2", "b/1", "b/2", "b/3"]
    assert first.items[0] == Item("a/1", b"of a/1", "2")
    assert {page.revision for page in (first, second, third)} == {str(head + 1)}
    assert third.continue_ == ""


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5])
async def test_every_page_size_lists_the_same(client: EmbeddedClient, limit: int) -> None:
    names = ["a/1", "a/2", "b/1", "b/2"]
    await fill(client, *names)
    found = await pages(StoreListWatch(client, PREFIX), limit)
    assert [item.key for page in found for item in page.items] == names
    assert len(found) == (1 if limit in (0, 4, 5) else 4 if limit == 1 else 2)


async def test_a_namespace_narrows_the_list_but_not_the_keys(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1", "ab/1", "b/1")
    source = StoreListWatch(client, PREFIX, "a")
    assert [item.key for item in (await source.list(limit=0)).items] == ["a/1"]
    await fill(client, "ab/2", "a/2")
    assert await take(source, str(head), 1) == [Item("a/2", b"of a/2", str(head + 2))]


class Widgets:
    def prefix(self, namespace: str | None = None) -> bytes:
        return b"/registry/example.com/widgets/" + (namespace.encode() + b"/" if namespace else b"")


async def test_a_resource_type_tells_the_prefix(client: EmbeddedClient) -> None:
    await client.put(b"/registry/example.com/widgets/a/w", b"{}")
    await client.put(b"/registry/example.com/widgets/b/w", b"{}")
    for namespace, keys in ((None, ["a/w", "b/w"]), ("b", ["b/w"])):
        source = StoreListWatch(client, Widgets(), namespace)
        assert [item.key for item in (await source.list(limit=0)).items] == keys


async def test_everything_can_be_watched_and_stray_keys_stay_apart(client: EmbeddedClient) -> None:
    source = StoreListWatch(client, b"")
    await client.put(b"\xff\x00", b"1")
    await client.put(b"\xfe\x00", b"2")
    (page,) = await pages(source, 0)
    assert len({item.key for item in page.items}) == 2
    assert page.items[1].key.encode("utf-8", "surrogateescape") == b"\xff\x00"


async def test_a_watch_goes_on_where_the_list_ended(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1")
    source = StoreListWatch(client, PREFIX)
    page = await source.list(limit=10)
    assert page.revision == str(head)
    await client.txn(success=[api.Put(PREFIX + b"a/2", b"x"), api.DeleteRange(PREFIX + b"a/1")])
    await fill(client, "a/3")
    assert await take(source, page.revision, 3) == [
        Item("a/2", b"x", str(head + 1)),
        Removed("a/1", str(head + 1)),
        Item("a/3", b"of a/3", str(head + 2)),
    ]


async def test_a_quiet_watch_asks_for_progress(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1")
    await client.put(b"/elsewhere", b"1")
    source = StoreListWatch(client, PREFIX, quiet_after=0.01)
    assert await take(source, str(head), 1) == [Bookmark(str(head + 1))]


async def test_a_compacted_start_is_told_when_the_watch_is_opened(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1", "a/2", "a/3")
    await client.compact(head)
    source = StoreListWatch(client, PREFIX)
    with pytest.raises(Expired) as caught:
        async with source.watch(str(head - 2)):
            raise AssertionError("it was opened")
    assert caught.value.compact_revision == head
    async with source.watch(str(head - 1)) as batches:
        assert await anext(batches) == [Item("a/3", b"of a/3", str(head))]


async def test_a_store_that_is_behind_is_not_watched(client: EmbeddedClient) -> None:
    # Restored from a backup, or a member that lags: such a watch would be silent until the store has caught up.
    head = await fill(client, "a/1")
    source = StoreListWatch(client, PREFIX)
    with pytest.raises(Unreachable, match=f"the store is at revision {head}, {head + 1} was already seen"):
        await take(source, str(head + 1), 1)
    await fill(client, "a/2")
    async with source.watch(str(head + 1)):
        pass


async def test_a_page_of_compacted_history_is_expired(client: EmbeddedClient) -> None:
    await fill(client, "a/1", "a/2")
    source = StoreListWatch(client, PREFIX)
    first = await source.list(limit=1)
    await client.compact(await fill(client, "a/3"))
    with pytest.raises(Expired):
        await source.list(limit=1, continue_=first.continue_)


@pytest.mark.parametrize("token", ["x", "####", "YWJj", "OjE="])
async def test_a_malformed_continue_token_is_refused(client: EmbeddedClient, token: str) -> None:
    with pytest.raises(ApiError, match="continue token"):
        await StoreListWatch(client, PREFIX).list(limit=1, continue_=token)


async def test_a_closed_client_is_unreachable(client: EmbeddedClient) -> None:
    source = StoreListWatch(client, PREFIX)
    async with source.watch("1") as batches:
        await client.close()
        with pytest.raises(Unreachable):
            await anext(batches)
    with pytest.raises(Unreachable):
        await source.list(limit=0)
    with pytest.raises(Unreachable):
        async with source.watch("1"):
            raise AssertionError("it was opened")


class Silent:
    """A client like the embedded one, until it is told to fall silent, as a peer behind a dead connection does."""

    def __init__(self, client: EmbeddedClient) -> None:
        self._client = client
        self.silent = False
        self.progress_requests = 0
        self.refuses = ""

    async def _answer(self) -> None:
        if self.silent:
            await asyncio.Event().wait()

    async def range(self, request: api.Range) -> api.RangeResponse:
        await self._answer()
        return await self._client.range(request)

    async def status(self) -> api.StatusResponse:
        await self._answer()
        return await self._client.status()

    def watch(self, key: bytes, range_end: bytes = b"", **options: Any) -> SilentWatch:
        return SilentWatch(self, self._client.watch(key, range_end, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class SilentWatch:
    def __init__(self, client: Silent, inner: api.Watch) -> None:
        self._client = client
        self._inner = inner

    @property
    def created_revision(self) -> int:
        return self._inner.created_revision

    async def __aenter__(self) -> Self:
        await self._client._answer()
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._inner.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> api.WatchResponse:
        if self._client.refuses:
            raise WatchCanceled(self._client.refuses)
        await self._client._answer()
        return await self._inner.__anext__()

    async def request_progress(self) -> None:
        self._client.progress_requests += 1
        await self._inner.request_progress()


def silent_source(client: EmbeddedClient) -> tuple[Silent, StoreListWatch]:
    silent = Silent(client)
    source: api.Client = silent  # the rest is forwarded by __getattr__
    return silent, StoreListWatch(source, PREFIX, quiet_after=0.01, answer_within=0.02, list_within=0.04)


async def test_a_silent_peer_is_found_on_every_call(client: EmbeddedClient) -> None:
    silent, source = silent_source(client)
    async with asyncio.timeout(10), source.watch("1") as batches:
        assert await anext(batches) == [Bookmark("1")]
        silent.silent = True
        with pytest.raises(Unreachable, match=r"nothing heard on a watch for 0\.03 s"):
            await anext(batches)
        assert silent.progress_requests > 2  # asked again before it is given up
    with pytest.raises(Unreachable, match=r"no answer to a list within 0\.04 s"):
        await source.list(limit=0)
    with pytest.raises(Unreachable, match=r"no answer to a watch within 0\.02 s"):
        async with source.watch("1"):
            raise AssertionError("it was opened")


class Shy(Silent):
    """As an etcd from 3.5.8 on: no progress on a watch whose start is still to come."""

    def watch(self, key: bytes, range_end: bytes = b"", **options: Any) -> ShyWatch:
        return ShyWatch(self, self._client.watch(key, range_end, **options), options["start_revision"])


class ShyWatch(SilentWatch):
    def __init__(self, client: Silent, inner: api.Watch, start: int) -> None:
        super().__init__(client, inner)
        self._start = start

    async def request_progress(self) -> None:
        if (await self._client.status()).header.revision >= self._start:
            await super().request_progress()


async def test_a_store_in_which_nothing_happens_is_not_taken_for_dead(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1")
    shy = Shy(client)
    store: api.Client = shy
    source = StoreListWatch(store, PREFIX, quiet_after=0.01, answer_within=0.02)
    async with asyncio.timeout(10), source.watch(str(head)) as batches:
        assert [await anext(batches) for _ in range(3)] == [[]] * 3
        await client.put(b"/elsewhere", b"1")
        assert await anext(batches) == [Bookmark(str(head + 1))]
        shy.silent = True
        with pytest.raises(Unreachable, match=r"nothing heard on a watch"):
            await anext(batches)


async def test_a_refusal_is_neither_unreachable_nor_expired(client: EmbeddedClient) -> None:
    silent, source = silent_source(client)
    silent.refuses = "permission denied"
    async with source.watch("1") as batches:
        with pytest.raises(ApiError, match="permission denied") as caught:
            await anext(batches)
    assert type(caught.value) is ApiError


async def test_cancelling_a_pending_batch_loses_nothing(client: EmbeddedClient) -> None:
    source = StoreListWatch(client, PREFIX)
    seen: list[WatchEvent] = []
    expected: Sequence[str] = [f"a/{n}" for n in range(50)]
    async with source.watch("1") as batches:
        for name in expected:
            pending = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0)
            await fill(client, name)
            pending.cancel()
            await asyncio.wait([pending])
            if not pending.cancelled():
                seen += pending.result()
        while len(seen) < len(expected):
            async with asyncio.timeout(10):
                seen += await anext(batches)
    assert [event.key for event in seen if isinstance(event, Item)] == expected


# ---- the initial state on the watch


async def initial(source: StoreListWatch, revision: str = "") -> tuple[list[Batch], str]:
    """The batches of the initial state, and the revision that they are of."""
    found: list[Batch] = []
    async with asyncio.timeout(10), source.watch_list(revision) as batches:
        async for batch in batches:
            match batch:
                case [Bookmark(end, True)]:
                    return found, end
            found.append(batch)
    raise AssertionError("it ended")


async def test_a_stream_gives_all_there_is_in_bounded_batches(client: EmbeddedClient) -> None:
    head = await fill(client, *(f"a/{n:04}" for n in range(2 * STREAM_KEYS + 5)))
    await client.put(b"/elsewhere", b"")
    source = StoreListWatch(client, PREFIX)
    batches, revision = await initial(source)
    assert revision == str(head + 1) == source.head
    assert [len(batch) for batch in batches] == [STREAM_KEYS, STREAM_KEYS, 5]
    assert [each for batch in batches for each in batch] == (await source.list(limit=0)).items


async def test_a_compaction_overtakes_a_stream(client: EmbeddedClient) -> None:
    await fill(client, *(f"a/{n:04}" for n in range(STREAM_KEYS + 5)))
    async with StoreListWatch(client, PREFIX).watch_list() as batches:
        await anext(batches)
        await client.compact(await fill(client, "a/0001"))
        with pytest.raises(Expired):
            await anext(batches)


async def test_a_cancelled_stream_does_not_look_whole(client: EmbeddedClient) -> None:
    await fill(client, *(f"a/{n:04}" for n in range(STREAM_KEYS + 5)))
    async with StoreListWatch(client, PREFIX).watch_list() as batches:
        await anext(batches)
        pending = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        pending.cancel()
        await asyncio.wait([pending])
        if pending.cancelled():
            with pytest.raises(Unreachable, match="before it was whole"):
                await anext(batches)


async def test_a_stream_older_than_what_was_seen_is_refused(client: EmbeddedClient) -> None:
    head = await fill(client, "a/1")
    source = StoreListWatch(client, PREFIX)
    assert (await initial(source, str(head)))[1] == str(head)
    with pytest.raises(Unreachable, match=f"the store is at revision {head}, {head + 1} was already seen"):
        await initial(source, str(head + 1))


async def test_a_store_without_streams_is_asked_once(etcd: str) -> None:
    async with RemoteClient([etcd]) as remote:
        source = StoreListWatch(remote, PREFIX)
        with pytest.raises(Unsupported):
            await initial(source)
    with pytest.raises(Unsupported):  # the client is closed: nothing was asked
        await initial(source)


async def test_an_informer_on_a_store_without_streams_lists_in_pages(etcd: str) -> None:
    async with RemoteClient([etcd]) as remote:
        for name in (b"a/1", b"a/2", b"a/3"):
            await remote.put(PREFIX + name, b"{}")
        informer = SharedInformer(StoreListWatch(remote, PREFIX), page_size=2)
        async with informer:
            await informer.wait_synced()
            told = informer.statistics().reflector
            assert (told.lists, told.streamed, told.pages, told.failures) == (1, 0, 2, 0)


# ---- which store answers


class Imposter:
    """A client of whose answers a part comes from another store."""

    def __init__(self, client: EmbeddedClient, other: EmbeddedClient) -> None:
        self._client = client
        self.other = other
        self.switched = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.other if self.switched else self._client, name)


async def test_another_cluster_is_not_taken_for_the_one_that_was_listed(client: EmbeddedClient, tmp_path: Path) -> None:
    """Its revisions count another history, even where they are higher."""
    head = await fill(client, "a/1", "a/2")
    async with Node.open(tmp_path / "other", NodeOptions(fsync=False), rng=random.Random(99)) as node:
        other = EmbeddedClient(node)
        await fill(other, "a/1", "b/1", "b/2", "b/3", "b/4")
        both = Imposter(client, other)
        store: api.Client = both  # all of it is forwarded by __getattr__
        source = StoreListWatch(store, PREFIX)
        page = await source.list(limit=1)
        both.switched = True
        with pytest.raises(Expired, match="another cluster answers"):
            await source.list(limit=1, continue_=page.continue_)
        with pytest.raises(Expired, match="another cluster answers"):
            await take(source, str(head), 1)
        # Only a list can tell what there is now.
        assert [item.key for item in (await source.list(limit=0)).items] == ["a/1", "b/1", "b/2", "b/3", "b/4"]
        await other.close()


async def test_a_list_is_read_by_quorum_and_at_one_revision(client: EmbeddedClient) -> None:
    """client-go's first list may be of any age; an etcd has no cache that would make that cheaper."""
    asked: list[api.Range] = []

    class Asked(Imposter):
        async def range(self, request: api.Range) -> api.RangeResponse:
            asked.append(request)
            return await client.range(request)

    head = await fill(client, "a/1", "a/2", "a/3")
    store: api.Client = Asked(client, client)
    await pages(StoreListWatch(store, PREFIX), 2)
    assert [(each.serializable, each.revision, each.limit) for each in asked] == [(False, 0, 2), (False, head, 2)]


@pytest.mark.parametrize(
    ("version", "ordered"),
    [("3.5.1", False), ("3.5.12", False), ("3.5.13", True), ("3.6.0-rc.1", True), ("3.4.30", False), ("3.4.31", True),
     ("4.0.0", True), ("", False), ("unknown", False)],
)  # fmt: skip
async def test_progress_that_was_asked_for_is_believed_of_a_store_that_orders_it(
    client: EmbeddedClient, version: str, ordered: bool
) -> None:
    class Versioned(Imposter):
        async def status(self) -> api.StatusResponse:
            return msgspec.structs.replace(await client.status(), version=version)

    head = await fill(client, "a/1")
    store: api.Client = Versioned(client, client)
    async with StoreListWatch(store, PREFIX, quiet_after=0.001).watch(str(head)) as batches:
        assert await anext(batches) == ([Bookmark(str(head))] if ordered else [])


async def test_the_head_of_the_store_is_known_from_every_answer(client: EmbeddedClient) -> None:
    source = StoreListWatch(client, PREFIX)
    assert source.head == ""
    head = await fill(client, "a/1", "a/2")
    await source.list(limit=1)
    assert source.head == str(head)
    head = await fill(client, "a/3")
    async with source.watch(str(head - 1)) as batches:
        assert source.head == str(head)
        await fill(client, "a/4")
        while source.head != str(head + 1):
            await anext(batches)


def test_what_an_overloaded_store_says_is_no_refusal() -> None:
    error = from_store(errors.TooManyRequests())
    assert isinstance(error, TooManyRequests)
    assert error.retriable
    assert isinstance(from_store(errors.NoSpace()), StoreFull)
    assert isinstance(from_store(errors.KvError("unknown method", code=errors.Code.UNIMPLEMENTED)), Unsupported)
