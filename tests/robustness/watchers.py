"""Watchers of every kind that lose their server and their connection, come back, and must miss nothing."""

from __future__ import annotations

import asyncio
import random

from kvstore.api import Client, EventType, WatchFilter, WatchResponse, prefix_end
from kvstore.errors import Compacted, Unavailable
from tests.kvstore.validators import Change, Given, Watched, validate
from tests.robustness.history import History
from tests.robustness.traffic import KEYS

RANGES = [(b"\0", b"\0"), (b"b", prefix_end(b"b")), (b"b/", b"b0"), (b"c", b"\0"), *((key, b"") for key in KEYS)]
FILTERS: list[tuple[WatchFilter, ...]] = [(), (), (WatchFilter.NOPUT,), (WatchFilter.NODELETE,)]
OFFSETS = (-100, -30, -5, -1, 0, 1, 2, 5)
REST = 0.02  # seconds that a slow reader waits between responses
RETRY = 0.005


class Watcher:
    """One watcher over all lives of a server: a session ends, and the next begins, when history below it was compacted.

    `run` it with a client of each life; `finish` brings it up to a revision; `check` validates all its sessions.
    """

    def __init__(self, history: History, rng: random.Random) -> None:
        self._history = history
        self._rng = rng
        self._sessions: list[Watched] = []
        self._next = 0  # the revision to go on from
        self._slow = rng.random() < 0.3
        self._until = 0
        self.reached = 0
        self.resumed = 0
        self.compacted = 0

    async def run(self, client: Client) -> None:
        """Watch and come back until cancelled, or until `finish` is done."""
        while not self._done():
            try:
                await self._watch(client)
            except Unavailable:
                await asyncio.sleep(RETRY)
            except Compacted as error:
                self._cut_off(error.compact_revision)

    async def _watch(self, client: Client) -> None:
        rng = self._rng
        resuming = self._next > 0
        if not resuming:
            self._begin()
        watched = self._sessions[-1]
        filters = tuple(
            filter_
            for filter_, wanted in ((WatchFilter.NOPUT, watched.puts), (WatchFilter.NODELETE, watched.deletes))
            if not wanted
        )
        async with client.watch(
            watched.key,
            watched.range_end,
            start_revision=self._next,
            prev_kv=watched.prev_kv,
            progress_notify=self._until > 0 or rng.random() < 0.5,
            filters=filters,
        ) as watch:
            self.resumed += resuming
            if not self._next:
                self._next = watch.created_revision + 1
                self._sessions[-1] = watched = watched._replace(start=self._next)
            while not self._done():
                if rng.random() < 0.2:
                    await watch.request_progress()
                if self._slow:
                    await asyncio.sleep(REST)
                response = await anext(watch)
                watched.responses.append(_given(response))
                self._next = max(self._next, _reached(response) + 1)
                self.reached = self._next - 1

    def _cut_off(self, compacted: int) -> None:
        assert self._next < compacted <= max(self._history.compactions), f"told of a compaction at {compacted}"
        self._next = 0
        self.compacted += 1

    def _done(self) -> bool:
        return 0 < self._until <= self.reached

    def _begin(self) -> None:
        rng, history = self._rng, self._history
        offset = min(0, rng.choice(OFFSETS)) if self._until else rng.choice(OFFSETS)
        start = 0 if rng.random() < 0.3 else max(1, history.revision + offset)
        filters = rng.choice(FILTERS)
        key, range_end = rng.choice(RANGES)
        self._next = start
        self._sessions.append(
            Watched(
                key,
                range_end,
                start,
                puts=WatchFilter.NOPUT not in filters,
                deletes=WatchFilter.NODELETE not in filters,
                prev_kv=rng.random() < 0.5,
                responses=[],
            )
        )

    async def finish(self, client: Client, revision: int) -> None:
        """Go on without hurry or faults until everything up to `revision` was given."""
        self._slow = False
        self._until = revision
        await self.run(client)

    def check(self) -> int:
        """Validate every session; gives the number of events."""
        history = self._history
        for watched in self._sessions:
            last = watched is self._sessions[-1]
            validate(watched, history.changes, self.reached if last else 0, history.compactions)
        return sum(len(response.events) for watched in self._sessions for response in watched.responses)


def _reached(response: WatchResponse) -> int:
    # Later revisions may still be under way to a watch whose header says more than its events do.
    return response.events[-1].kv.mod_revision if response.events else response.header.revision


def _given(response: WatchResponse) -> Given:
    return Given(
        response.header.revision,
        [
            Change(
                event.kv.mod_revision,
                event.kv.key,
                None if event.type is EventType.DELETE else event.kv.value,
                event.prev_kv,
            )
            for event in response.events
        ],
    )
