"""List-watches that each break one promise, in the ways that real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from informer.errors import ApiError, Expired, Unreachable
from informer.listwatch import Batch, Bookmark, Item, ListPage, Removed, StoreListWatch


class Broken:
    """Passes everything on; each class below changes one thing."""

    def __init__(self, inner: StoreListWatch) -> None:
        self.inner = inner

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return await self.inner.list(limit=limit, continue_=continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self.inner.watch(revision) as batches:
            yield self.changed(batches, revision)

    async def changed(self, batches: AsyncIterator[Batch], revision: str) -> AsyncIterator[Batch]:
        async for batch in batches:
            for each in self.batch(batch):
                yield each

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [batch]


class ForgetsTheLimit(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return await self.inner.list(limit=0)


class PagesOfNow(Broken):
    """Each page shows the present state."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.inner.list(limit=0)
        start = int(continue_ or 0)
        items = page.items[start : start + limit] if limit else page.items
        more = str(start + limit) if limit and start + limit < len(page.items) else ""
        return ListPage(items, page.revision, more)


class PagesOfNowThatPretend(PagesOfNow):
    """... and say that they are of the first one's revision."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        at, _, start = continue_.rpartition(":")
        page = await super().list(limit=limit, continue_=start)
        revision = at or page.revision
        return ListPage(page.items, revision, f"{revision}:{page.continue_}" if page.continue_ else "")


class DropsTheLastPage(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.inner.list(limit=limit, continue_=continue_)
        return ListPage(page.items, page.revision) if continue_ else page


class RevisionOfTheLastItem(Broken):
    """Takes the newest item's revision for the list's, as watchers of the official client did."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.inner.list(limit=limit, continue_=continue_)
        newest = max((int(item.revision) for item in page.items), default=1)
        return ListPage(page.items, str(newest), page.continue_)


class WholeKeys(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.inner.list(limit=limit, continue_=continue_)
        items = [Item("/registry/" + item.key, item.data, item.revision) for item in page.items]
        return ListPage(items, page.revision, page.continue_)


class TakesAnyToken(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        try:
            return await self.inner.list(limit=limit, continue_=continue_)
        except ApiError as error:
            if "continue token" in str(error):
                return ListPage([], "1")
            raise


class CrashesOnATokenOfAnother(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        if continue_ and not continue_.isprintable():
            raise KeyError(continue_)
        return await self.inner.list(limit=limit, continue_=continue_)


class MissesTheFirst(Broken):
    """Starts one revision too late."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        first = int(revision) + 1
        async with self.inner.watch(revision) as batches:
            yield self.after(batches, first)

    async def after(self, batches: AsyncIterator[Batch], first: int) -> AsyncIterator[Batch]:
        async for batch in batches:
            yield [event for event in batch if int(event.revision) > first]


class RepeatsTheLast(Broken):
    """Starts one revision too early."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self.inner.watch(str(max(int(revision) - 1, 0))) as batches:
            yield batches


class StartsFromNow(Broken):
    """Ignores the revision."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        now = (await self.inner.list(limit=1)).revision
        async with self.inner.watch(now) as batches:
            yield batches


class DropsDeletes(Broken):
    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[event for event in batch if not isinstance(event, Removed)]]


class DeletesWithAnOldRevision(Broken):
    """A deletion bears the revision of the last state, as prev_kv does."""

    def __init__(self, inner: StoreListWatch) -> None:
        super().__init__(inner)
        self._last: dict[str, str] = {}

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self._last = {item.key: item.revision for item in (await self.inner.list(limit=0)).items}
        async with super().watch(revision) as batches:
            yield batches

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[Removed(event.key, self._last[event.key]) if isinstance(event, Removed) else event for event in batch]]


class DeletesWithoutAName(Broken):
    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[Removed("", event.revision) if isinstance(event, Removed) else event for event in batch]]


class OneByOne(Broken):
    """Event by event, as aetcd gives them."""

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[event] for event in batch]


class Twice(Broken):
    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [batch, batch] if any(int(event.revision) % 50 == 0 for event in batch) else [batch]


class Backwards(Broken):
    """The newest of a batch first."""

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [batch[::-1]]


class NoBookmarks(Broken):
    """Drops progress, as aetcd and etcd3gw do."""

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[event for event in batch if not isinstance(event, Bookmark)]]


class EarlyBookmarks(Broken):
    """Tells how far the store is before it gives what led there, as etcd before 3.5.13 does when asked."""

    async def changed(self, batches: AsyncIterator[Batch], revision: str) -> AsyncIterator[Batch]:
        async for batch in batches:
            yield [*(Bookmark(event.revision) for event in batch[-1:]), *batch]


class BookmarksThatGoBack(Broken):
    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[Bookmark("1") if isinstance(event, Bookmark) else event for event in batch]]


class HangsOnCompaction(Broken):
    """Never looks at why a watch was cancelled, as etcd3gw."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        try:
            async with self.inner.watch(revision) as batches:
                yield batches
        except Expired:
            yield _never()


class CallsItUnreachable(Broken):
    """Cannot tell a compaction from a broken connection, so the reflector would resume for ever."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        try:
            async with self.inner.watch(revision) as batches:
                yield batches
        except Expired as error:
            raise Unreachable("stream closed") from error


class ExpiredPagesStartAgain(Broken):
    """Goes on with the newest state when the page's is gone, and does not say so."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        try:
            return await self.inner.list(limit=limit, continue_=continue_)
        except Expired:
            return await self.inner.list(limit=limit)


class WaitsForTheFuture(Broken):
    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        try:
            async with self.inner.watch(revision) as batches:
                yield batches
        except Unreachable as error:
            if "already seen" not in str(error):
                raise
            yield _never()


class HangsWhenLost(Broken):
    """No read deadline: a dead connection is waited on for ever."""

    async def changed(self, batches: AsyncIterator[Batch], revision: str) -> AsyncIterator[Batch]:
        try:
            async for batch in batches:
                yield batch
        except Unreachable:
            await asyncio.Event().wait()


class EndsWhenLost(Broken):
    """A lost connection looks like the end, as kr8s' generator does."""

    async def changed(self, batches: AsyncIterator[Batch], revision: str) -> AsyncIterator[Batch]:
        try:
            async for batch in batches:
                yield batch
        except Unreachable:
            return


class RaisesOSErrors(Broken):
    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        try:
            return await self.inner.list(limit=limit, continue_=continue_)
        except Unreachable as error:
            raise ConnectionResetError("reset by peer") from error


class LosesWhatIsCancelled(Broken):
    """Drops the batch that came as the read was cancelled."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self.inner.watch(revision) as batches:
            yield _Shielded(batches)


class _Shielded:
    def __init__(self, batches: AsyncIterator[Batch]) -> None:
        self._batches = batches
        self._reads: list[asyncio.Task[Batch]] = []

    def __aiter__(self) -> _Shielded:
        return self

    async def __anext__(self) -> Batch:
        for read in self._reads:
            if not read.done():
                await asyncio.wait([read])  # one that was cancelled goes on, and what it gets is for nobody
        read = asyncio.ensure_future(anext(self._batches))
        self._reads.append(read)
        return await asyncio.shield(read)


class LeavesWatchesOpen(Broken):
    """Does not cancel at the server, as etcd3gw."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        yield await self.inner.watch(revision).__aenter__()


class LeavesTasks(Broken):
    def __init__(self, inner: StoreListWatch) -> None:
        super().__init__(inner)
        self.tasks: list[asyncio.Task[bool]] = []

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self.tasks.append(asyncio.create_task(asyncio.Event().wait()))
        async with self.inner.watch(revision) as batches:
            yield batches


class OneWatchOnly(Broken):
    """A second watch takes the stream from the first, which then hears nothing."""

    def __init__(self, inner: StoreListWatch) -> None:
        super().__init__(inner)
        self._watches = 0

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self._watches = mine = self._watches + 1
        async with self.inner.watch(revision) as batches:
            yield self.while_newest(batches, mine)

    async def while_newest(self, batches: AsyncIterator[Batch], mine: int) -> AsyncIterator[Batch]:
        async for batch in batches:
            if mine != self._watches:
                await asyncio.Event().wait()
            yield batch


class Streaming(Broken):
    """What is wrong is in the stream that begins with what there is."""

    @asynccontextmanager
    async def watch_list(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self.inner.watch_list(revision) as batches:
            yield self.changed(batches, revision)


class StreamWithoutAnEnd(Streaming):
    """Never says that the initial state is whole: an informer would wait for ever."""

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [[event for event in batch if not isinstance(event, Bookmark)]]


class StreamThatEndsTwice(Streaming):
    def batch(self, batch: Batch) -> Sequence[Batch]:
        ends = any(isinstance(event, Bookmark) and event.initial_end for event in batch)
        return [[*batch, *batch]] if ends else [batch]


class StreamThatLeavesOut(Streaming):
    async def changed(self, batches: AsyncIterator[Batch], revision: str) -> AsyncIterator[Batch]:
        first = True
        async for batch in batches:
            yield batch[1:] if first else batch
            first = False


class StreamThatEndsInTheFuture(Streaming):
    """Says that its state is of a later revision than it is: what comes between is lost."""

    def batch(self, batch: Batch) -> Sequence[Batch]:
        return [
            [
                Bookmark(str(int(event.revision) + 1), True)
                if isinstance(event, Bookmark) and event.initial_end
                else event
                for event in batch
            ]
        ]


class StreamThatIsTooOld(Streaming):
    @asynccontextmanager
    async def watch_list(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self.inner.watch_list("") as batches:
            yield batches


async def _never() -> AsyncIterator[Batch]:
    await asyncio.Event().wait()
    yield []


BROKEN: list[tuple[type[Broken], str, str]] = [
    (ForgetsTheLimit, "pages_are_one_list", "a page of 7 items was given for a limit of 3"),
    (PagesOfNow, "pages_are_one_list", r"the pages of one list are of the revisions 8 and 1\d"),
    (PagesOfNowThatPretend, "pages_are_one_list", "a later page shows what happened after the first: a/3 at revision"),
    (DropsTheLastPage, "pages_are_one_list", "the pages together hold .*'a/5'.*, there were a/0 to a/6"),
    (DropsTheLastPage, "every_page_size_gives_the_same", "a list in pages of 1: a/2 at revision 4 is missing"),
    (RevisionOfTheLastItem, "lists_what_there_is", "a list after a write of revision 7 is of revision 5"),
    (WholeKeys, "lists_what_there_is", "a list: a/1 at revision 2 is missing; /registry/a/1 at revision 2 came"),
    (TakesAnyToken, "an_odd_continuation_is_refused", "'no such token' did not fail; ApiError was expected"),
    (CrashesOnATokenOfAnother, "an_odd_continuation_is_refused", "raised KeyError.*, which is no ApiError"),
    (MissesTheFirst, "nothing_is_lost_between_list_and_watch", "a/between at revision 4 is missing"),
    (RepeatsTheLast, "a_watch_resumes_after_any_revision", "a/0 at revision 2 .*(twice|missing|before|place)"),
    (StartsFromNow, "nothing_is_lost_between_list_and_watch", "a/between at revision 4 is missing"),
    (StartsFromNow, "a_store_that_is_behind_is_not_watched", "Unreachable was expected"),
    (DropsDeletes, "nothing_is_lost_between_list_and_watch", "the deletion of a/gone at revision 5 is missing"),
    (DropsDeletes, "a_delete_has_its_key_and_revision", "a deletion took more than"),
    (DeletesWithAnOldRevision, "a_delete_has_its_key_and_revision", "of revision 3 came with 2, that of the object's"),
    (DeletesWithoutAName, "a_delete_has_its_key_and_revision", "the deletion of a/1 came with the key ''"),
    (OneByOne, "a_revision_is_not_parted", "the events of revision 2 came in two batches"),
    (Twice, "events_come_in_order_and_once", r"a/\d at revision 50 came twice"),
    (Backwards, "events_come_in_order_and_once", r"a/\d at revision \d+ came before a/\d at revision \d+"),
    (NoBookmarks, "bookmarks_are_true", "a bookmark of revision 3 took more than"),
    (EarlyBookmarks, "bookmarks_are_true", "a bookmark of revision 4 came before the event of 4"),
    (BookmarksThatGoBack, "bookmarks_are_true", "a bookmark of revision 1 came after something of revision 2"),
    (HangsOnCompaction, "compacted_history_is_expired", "compacted at 5, took more than 0.4 s; Expired was expected"),
    (CallsItUnreachable, "compacted_history_is_expired", "raised Unreachable.*; Expired was expected"),
    (ExpiredPagesStartAgain, "an_expired_page_says_so", "which is compacted, did not fail; Expired was expected"),
    (WaitsForTheFuture, "a_store_that_is_behind_is_not_watched", "took more than 0.4 s; Unreachable was expected"),
    (HangsWhenLost, "a_lost_store_is_unreachable", "a watch whose store went away took more than 0.4 s; Unreachable"),
    (EndsWhenLost, "a_lost_store_is_unreachable", "a watch whose store went away ended as if all were well"),
    (RaisesOSErrors, "a_lost_store_is_unreachable", "raised ConnectionResetError.*, which is no ApiError"),
    (LosesWhatIsCancelled, "cancelling_loses_nothing", r"a/1 at revision \d+ is missing"),
    (LeavesWatchesOpen, "cancelling_leaves_nothing", r"\d+ watches are open at the store after all were left"),
    (LeavesTasks, "cancelling_leaves_nothing", "tasks were left behind, among them"),
    (OneWatchOnly, "watches_do_not_disturb_each_other", "the events up to revision 4 took more than"),
    (
        StreamWithoutAnEnd,
        "a_stream_begins_with_what_there_is",
        "a/299 at revision 303 came in the initial state",
    ),
    (StreamThatEndsTwice, "a_stream_begins_with_what_there_is", "the initial state ended twice"),
    (StreamThatLeavesOut, "a_stream_begins_with_what_there_is", "the initial state .*: a/000 at revision 2 is missing"),
    (StreamThatEndsInTheFuture, "a_stream_begins_with_what_there_is", "a/000 at revision"),
    (StreamThatIsTooOld, "a_stream_begins_with_what_there_is", "Unreachable was expected"),
]
