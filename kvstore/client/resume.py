"""A watch that outlives the connections and the servers that carry it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from kvstore import api
from kvstore.errors import Unavailable

FIRST_WAIT: Final = 0.05  # seconds; most losses are those of one member, and the next one answers at once
LONGEST_WAIT: Final = 5.0


class ResumingWatch:
    """`kvstore.api.Watch` that is opened again after the last revision seen, when its connection is lost.

    `open` makes a watch from a revision; `is_closed` says whether its client is closed. Every event comes once and in
    order. Iteration ends with `Compacted` when what comes next is gone, and with the other errors of a watch;
    `Unavailable` is raised by entering it, and when the client is closed. Between attempts it waits 0.05 s, doubling to
    5 s, each shortened at random by up to a half, so that the clients of a failed server do not come back as one.
    Cancelling a pending `__anext__` loses nothing.
    """

    def __init__(
        self,
        open: Callable[[int], api.Watch],  # noqa: A002  # what it does
        start_revision: int,
        *,
        is_closed: Callable[[], bool],
        rng: random.Random,
    ) -> None:
        self._open = open
        self._next_revision = start_revision
        self._is_closed = is_closed
        self._rng = rng
        self._watch: api.Watch | None = None
        self._reopening: asyncio.Task[api.Watch] | None = None  # it outlives the call that waits for it
        self._failures = 0
        self._created_revision = 0
        self._entered = self._left = False
        self._wants_progress = False

    @property
    def created_revision(self) -> int:
        """The store's revision when the watch was first registered."""
        return self._created_revision

    async def __aenter__(self) -> Self:
        self._watch = await self._open(self._next_revision).__aenter__()
        self._created_revision = self._watch.created_revision
        self._next_revision = self._next_revision or self._created_revision + 1
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        if self._reopening is not None:
            self._reopening.cancel()
            await asyncio.wait((self._reopening,))
            if not self._reopening.cancelled() and self._reopening.exception() is None:
                self._watch = self._reopening.result()
        await self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> api.WatchResponse:
        if not self._entered:
            raise RuntimeError("this watch is not entered: write `async with client.watch(...) as watch`")
        while True:
            if self._left:
                raise Unavailable("the watch was closed")
            try:
                response = await (await self._opened()).__anext__()
            except Unavailable:
                if self._left or self._is_closed():
                    raise
                await self._drop()
                continue
            self._failures = 0
            self._note(response)
            return response

    async def request_progress(self) -> None:
        """Ask for a progress response; it comes through the iteration, from the connection that is there then."""
        self._wants_progress = True
        if self._watch is not None:
            try:
                await self._watch.request_progress()
            except Unavailable:
                if self._left or self._is_closed():
                    raise  # else it is asked for again on the next connection

    def _note(self, response: api.WatchResponse) -> None:
        if response.events:
            self._next_revision = response.events[-1].kv.mod_revision + 1
            return
        if response.watch_id != -1:
            # Not from an answer to a request: etcd before 3.5.8 may give that ahead of events of older revisions.
            self._next_revision = max(self._next_revision, response.header.revision + 1)
        self._wants_progress = False

    async def _opened(self) -> api.Watch:
        if self._watch is None:
            if self._reopening is None:
                self._reopening = asyncio.create_task(self._reopen(), name="kvstore watch resuming")
            reopening = self._reopening
            await asyncio.wait((reopening,))
            if self._left:
                raise Unavailable("the watch was closed")
            self._reopening = None
            self._watch = reopening.result()
        return self._watch

    async def _reopen(self) -> api.Watch:
        while True:
            if self._failures:
                longest = min(FIRST_WAIT * 2.0 ** (self._failures - 1), LONGEST_WAIT)
                await asyncio.sleep(longest * self._rng.uniform(0.5, 1.0))
            self._failures = min(self._failures + 1, 32)
            try:
                watch = await self._open(self._next_revision).__aenter__()
            except Unavailable:
                if self._is_closed():
                    raise
                continue
            if self._wants_progress:
                await watch.request_progress()
            return watch

    async def _drop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.__aexit__(None, None, None)
