"""List-watches with one mistake each, of the kind that informers have been shipped with: the judge must see each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from informer.errors import Expired, Unreachable
from informer.listwatch import Batch, Bookmark, ListPage, ListWatch, is_newer


class _Broken:
    """The real one; the mistakes derive from it."""

    def __init__(self, real: ListWatch) -> None:
        self.real = real
        self.watches = 0

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        return await self.real.list(limit=limit, continue_=continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self.watches += 1
        async with self.real.watch(self.start(revision)) as batches:
            yield self.batches(batches)

    def start(self, revision: str) -> str:
        return revision

    def batches(self, real: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        return real


class ResumesTooLate(_Broken):
    """Takes the revision to resume after for the one to resume from, and adds 1 once too often."""

    def start(self, revision: str) -> str:
        return str(int(revision) + (self.watches > 1))


class ResumesTooEarly(_Broken):
    """Resumes with what it has seen already."""

    def start(self, revision: str) -> str:
        return str(int(revision) - 3 * (self.watches > 1))


class TrustsTheLastItem(_Broken):
    """Watches from the revision of the last item of a list, not from that of the list."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.real.list(limit=0)
        return msgspec.structs.replace(page, revision=page.items[-1].revision) if page.items else page


class TrustsTheNewestItem(_Broken):
    """The same with the newest item: it is wrong only when what happened last was a delete, or elsewhere."""

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.real.list(limit=0)
        newest = ""
        for item in page.items:
            newest = item.revision if is_newer(item.revision, newest) else newest
        return msgspec.structs.replace(page, revision=newest) if newest else page


class SwallowsCompaction(_Broken):
    """When the history is gone it watches on from now, without a list."""

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        try:
            async with self.real.watch(revision) as batches:
                yield batches
        except Expired:
            now = (await self.real.list(limit=1)).revision
            async with self.real.watch(now) as batches:
                yield batches


class RelistsTheOld(_Broken):
    """Gives what the first list had, as one that is served from a stale copy."""

    old: ListPage | None = None

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        page = await self.real.list(limit=0)
        self.old = self.old or page
        return msgspec.structs.replace(page, items=self.old.items)


class PartsARevision(_Broken):
    """Takes the first event of a transaction for the whole of it, so that a watch which breaks there lost the rest."""

    async def batches(self, real: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in real:
            for number, (event, following) in enumerate(itertools.pairwise(batch)):
                if event.revision == following.revision:
                    yield batch[: number + 1]
                    raise Unreachable("broken in the middle of a transaction")
            yield batch


class TrustsProgressAhead(_Broken):
    """Takes an event for a sign that later ones were delivered too."""

    async def batches(self, real: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in real:
            yield batch
            yield [Bookmark(str(int(batch[-1].revision) + 2))]


class LosesDeletes(_Broken):
    """Leaves out the deletes of a resumed watch."""

    async def batches(self, real: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
        async for batch in real:
            kept = [event for event in batch if hasattr(event, "data") or isinstance(event, Bookmark)]
            yield kept if self.watches > 1 and kept else [Bookmark(batch[-1].revision)] if self.watches > 1 else batch


MISTAKES: list[Callable[[ListWatch], ListWatch]] = [
    ResumesTooLate,
    ResumesTooEarly,
    TrustsTheLastItem,
    TrustsTheNewestItem,
    SwallowsCompaction,
    RelistsTheOld,
    PartsARevision,
    TrustsProgressAhead,
    LosesDeletes,
]
