"""A ListWatch between a reflector and the real one: it counts calls, and fails, cuts and delays them when told to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from informer.errors import ApiError
from informer.listwatch import Batch, ListPage, ListWatch


class FaultyListWatch:
    def __init__(self, inner: ListWatch) -> None:
        self.inner = inner
        self.pages = 0
        self.limits: list[int] = []
        self.watches: list[str] = []
        self.fail_list: deque[ApiError] = deque()
        self.fail_watch: deque[ApiError] = deque()
        self.before_page: Callable[[int], Awaitable[None]] | None = None
        self.connected = asyncio.Event()  # cleared: opening a watch waits
        self.connected.set()
        self._cut: asyncio.Future[ApiError | None] | None = None

    async def list(self, *, limit: int, continue_: str = "") -> ListPage:
        self.pages += 1
        self.limits.append(limit)
        if self.before_page is not None:
            await self.before_page(self.pages)
        if self.fail_list:
            raise self.fail_list.popleft()
        return await self.inner.list(limit=limit, continue_=continue_)

    @asynccontextmanager
    async def watch(self, revision: str) -> AsyncIterator[AsyncIterator[Batch]]:
        self.watches.append(revision)
        await self.connected.wait()
        if self.fail_watch:
            raise self.fail_watch.popleft()
        async with self.inner.watch(revision) as batches:
            self._cut = asyncio.get_running_loop().create_future()
            try:
                yield _Cuttable(batches, self._cut)
            finally:
                self._cut.cancel()

    def cut(self, error: ApiError | None = None, *, stay_away: bool = False) -> None:
        """End the open watch: with `error`, or in good order. `stay_away`: no new one until `connected` is set."""
        assert self._cut is not None
        if stay_away:
            self.connected.clear()
        self._cut.set_result(error)


class _Cuttable:
    def __init__(self, batches: AsyncIterator[Batch], cut: asyncio.Future[ApiError | None]) -> None:
        self._batches = batches
        self._cut = cut

    def __aiter__(self) -> _Cuttable:
        return self

    async def __anext__(self) -> Batch:
        batch = asyncio.ensure_future(anext(self._batches))
        try:
            either: list[asyncio.Future[Any]] = [batch, self._cut]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if batch.done():
                return batch.result()
        finally:
            if not batch.done():
                batch.cancel()
                await asyncio.wait([batch])
        error = self._cut.result()
        if error is None:
            raise StopAsyncIteration
        raise error
