"""The watch hub: every change reaches every watcher it concerns, in order, exactly once.

A watcher is in one of three states (etcd's words):

- SYNCED: it has everything up to the durable revision; a publish hands it new events at once.
- UNSYNCED: it is behind; `sync_pass` reads history for it, a bounded slice at a time, until it has caught up.
- VICTIM: events came while its stream's outbox was full. It holds that one batch until there is room; everything
  after it will be read from history.

The outbox of a stream is bounded in bytes, so a reader that stops reading costs that bound and no more. Many streams
share a bound, so each of them has a smaller one.
The hub does no I/O and owns no task but `run`, which calls `sync_pass` whenever there is something to do.
"""

from __future__ import annotations

import asyncio
import enum
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TypeVar

import msgspec

from kvstore.api import WatchFilter
from kvstore.errors import Compacted, Stopped
from kvstore.event import StoredEvent
from kvstore.matcher import Group, Matcher
from kvstore.revision import TOMBSTONE, ceiling
from kvstore.store import Store
from kvstore.turns import Turns

OUTBOX_BYTES = 4 << 20  # a stream takes more only while less than this is waiting
# What the outboxes of all streams share: with many streams the bound of each is its part of this, but no less than
# the smallest, so that a thousand readers that stopped cost no more than a few.
OUTBOXES_BYTES = 64 << 20
SMALLEST_OUTBOX = 16 << 10
# One response stays well under the 4 MiB that many gRPC clients accept by default (etcd#19441).
MAX_RESPONSE_BYTES = 1 << 20
MERGED_EVENTS = 256  # a response that waits takes more only while it has fewer: each time its list is made anew
HISTORY_SLICE_BYTES = 1 << 20  # how much history one pass reads, at most: a few milliseconds
WATCHERS_PER_PASS = 512  # as in etcd
PASS_PAUSE = 0.01  # seconds; when all of a pass have caught up, those who come within it share the next one
RESPONSES_A_TURN = 8  # of all streams, in one turn of the loop: a millisecond; a call takes some six turns
EVENT_OVERHEAD = 16  # bytes, about, around each record in a response
CONTROL_BYTES = 64  # what a response without events is counted as
PROGRESS_JITTER = 0.1  # of the interval, as in etcd: keeps streams from reporting all at once

EMPTY_RANGE = "mvcc: watcher range is empty"
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"

G = TypeVar("G", bound="Collection[Watcher]")


class Part:
    """Events of whole revisions for one response, their size in bytes, and their last revision.

    All watchers that want the same share it, and what it is on the wire.
    """

    __slots__ = ("_longer", "_wire", "events", "last", "prev_kv", "size")

    def __init__(self, events: list[StoredEvent], size: int, prev_kv: bool) -> None:
        self.events = events
        self.size = size
        self.last = events[-1].mod_revision
        self.prev_kv = prev_kv
        self._wire: bytes | None = None
        self._longer: tuple[Part, Part] | None = None  # the one that came next, and both as one

    def then(self, part: Part) -> Part:
        """Both as one; those who wait with the same are given the same."""
        if self._longer is None or self._longer[0] is not part:
            self._longer = part, Part([*self.events, *part.events], self.size + part.size, self.prev_kv)
        return self._longer[1]

    def wire(self) -> bytes:
        """The events as they stand in a WatchResponse."""
        if len(self.events) == 1:
            return self.events[0].wire(self.prev_kv)
        if self._wire is None:
            self._wire = b"".join([event.wire(self.prev_kv) for event in self.events])
        return self._wire


class State(enum.Enum):
    """Where a watcher stands; see the module's text."""

    SYNCED = "synced"
    UNSYNCED = "unsynced"
    VICTIM = "victim"


class Watcher:
    """One watch on a stream. `next_revision` is the first main revision that it has not been given.

    For a SYNCED watcher that is at least the durable revision + 1, and `next_revision` only tells how far in the
    future it wants to start.
    """

    __slots__ = (
        "held",
        "id",
        "key",
        "next_revision",
        "nodelete",
        "noput",
        "prev_kv",
        "progress_notify",
        "range_end",
        "state",
        "stream",
        "told",
    )

    def __init__(self, stream: WatchStream, watch_id: int, key: bytes, range_end: bytes, next_revision: int) -> None:
        self.stream = stream
        self.id = watch_id
        self.key = key
        self.range_end = range_end
        self.next_revision = next_revision
        self.prev_kv = False
        self.progress_notify = False
        self.noput = False
        self.nodelete = False
        self.state = State.SYNCED
        self.held: list[Part] = []  # what a victim has still to be given
        self.told = False  # whether events went out since the last progress tick


class StreamResponse:
    """One message to a watching client."""

    __slots__ = (
        "_part",
        "cancel_reason",
        "canceled",
        "compact_revision",
        "created",
        "revision",
        "size",
        "watch_id",
    )

    def __init__(
        self,
        watch_id: int,
        revision: int,
        *,
        created: bool = False,
        canceled: bool = False,
        compact_revision: int = 0,
        cancel_reason: str = "",
    ) -> None:
        self.watch_id = watch_id
        self.revision = revision
        self.created = created
        self.canceled = canceled
        self.compact_revision = compact_revision
        self.cancel_reason = cancel_reason
        self.size = CONTROL_BYTES
        self._part: Part | None = None

    def add(self, part: Part, revision: int) -> None:
        """Let events travel in this response, too."""
        self._part = part if self._part is None else self._part.then(part)
        self.size += part.size
        self.revision = revision

    @property
    def events(self) -> Sequence[StoredEvent]:
        """Its events, whole revisions."""
        return () if self._part is None else self._part.events

    @property
    def prev_kv(self) -> bool:
        """Whether its events show what they replaced."""
        return self._part is not None and self._part.prev_kv

    def wire(self) -> bytes:
        """The events as they stand in a WatchResponse."""
        return b"" if self._part is None else self._part.wire()


class HubStatistics(msgspec.Struct, frozen=True):
    """Watchers by state, and what waits for readers."""

    streams: int
    synced: int
    unsynced: int
    victims: int
    outbox_bytes: int
    pending_events: int
    delivered_events: int
    history_events: int


class WatchHub:
    """All watchers of a store."""

    def __init__(self, store: Store, *, progress_interval: float, outbox_bytes: int, rng: random.Random) -> None:
        self._store = store
        self._progress_interval = progress_interval
        self._outbox_bytes = outbox_bytes
        self._rng = rng
        self._synced: Matcher[Watcher] = Matcher()
        self._unsynced: dict[Watcher, None] = {}  # in the order of their turns
        self._victims: set[Watcher] = set()
        self._streams: set[WatchStream] = set()
        self._wake = asyncio.Event()
        self._turns = Turns(RESPONSES_A_TURN)
        self._all_served = False  # whether the last pass left nobody behind whose stream has room
        self._closed = False
        self._passes = self._delivered = self._from_history = 0
        self._set_share()

    def stream(self) -> WatchStream:
        """A new, empty stream of watches."""
        stream = WatchStream(self, self._outbox_bytes)
        self._streams.add(stream)
        self._set_share()
        return stream

    def _set_share(self) -> None:
        # Bytes that one stream may take up of what all outboxes share, and what a response may.
        self.share = max(SMALLEST_OUTBOX, OUTBOXES_BYTES // max(1, len(self._streams)))
        self.largest_response = min(MAX_RESPONSE_BYTES, self.share)

    # ---- live events ----------------------------------------------------------------------------------------------

    def publish(self, events: Sequence[StoredEvent], revision: int) -> None:
        """Hand the events of a commit, in order and whole revisions, to the synced watchers they concern."""
        # What is fewer is looked up in what is more: one delete may make a hundred thousand events.
        few = len(events) < self._synced.distinct
        concerned = self._matches(events) if few else _in_ranges(self._synced.groups(), events)
        # Who shares a range with few is served before the crowd is.
        smallest_first = sorted(concerned, key=lambda each: len(each[0]))
        for watcher, parts in self._deal(smallest_first):
            if left := watcher.stream._push_parts(watcher, parts):
                self._synced.remove(watcher, watcher.key, watcher.range_end)
                self._victims.add(watcher)
                watcher.state = State.VICTIM
                watcher.held = left
                watcher.next_revision = revision + 1

    def _matches(self, events: Sequence[StoredEvent]) -> Iterable[tuple[Group[Watcher], list[StoredEvent]]]:
        """The groups of synced watchers with the events that concern them, if any."""
        concerned: dict[Group[Watcher], list[StoredEvent]] = {}
        for event in events:
            for group in self._synced.match(event.key):
                mine = concerned.get(group)
                if mine is None:
                    concerned[group] = [event]
                else:
                    mine.append(event)
        return concerned.items()

    def _deal(
        self, concerned: Iterable[tuple[Collection[Watcher], list[StoredEvent]]]
    ) -> Iterator[tuple[Watcher, list[Part]]]:
        """What goes to which watcher of the events that concern its range. Those who want the same share the lists."""
        for group, mine in concerned:
            first = mine[0].mod_revision
            shared: dict[tuple[int, bool, bool, bool], list[Part]] = {}
            for watcher in list(group):
                start = max(watcher.next_revision, first)
                wish = start, watcher.prev_kv, watcher.noput, watcher.nodelete
                parts = shared.get(wish)
                if parts is None:
                    parts = shared[wish] = self._parts(_wanted(mine, watcher), watcher.prev_kv)
                if parts:
                    yield watcher, parts

    def _parts(self, events: list[StoredEvent], prev_kv: bool) -> list[Part]:
        """The events in parts that each fit a response, whole revisions."""
        if not events:
            return []
        if prev_kv:
            self._store.fill_prevs(events)
        parts: list[Part] = []
        begin = size = 0
        most = self.largest_response
        for at, event in enumerate(events):
            more = EVENT_OVERHEAD + len(event.record)
            if prev_kv and event.prev is not None:
                more += len(event.prev)
            if size + more > most and at and event.mod_revision != events[at - 1].mod_revision:
                parts.append(Part(events[begin:at], size, prev_kv))
                begin, size = at, 0
            size += more
        parts.append(Part(events[begin:] if begin else events, size, prev_kv))
        return parts

    # ---- catching up ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring unsynced watchers up to date as long as their streams have room, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.sync_pass():
                self._wake.set()  # there may be more: next turn, after the writers and readers that wait
                await asyncio.sleep(PASS_PAUSE if self._all_served else 0)

    def sync_pass(self) -> bool:
        """Read one slice of history for watchers that are behind. Says whether another pass may do more."""
        turn = []
        for watcher in self._unsynced:
            if watcher.stream.has_room:
                turn.append(watcher)
                if len(turn) == WATCHERS_PER_PASS:
                    break
        turn = [watcher for watcher in turn if not self._cancel_if_compacted(watcher)]
        if not turn:
            return False
        # The one furthest behind lets all of them catch up with the least reading; the one that waited longest, every
        # other time, keeps a crowd of newcomers from holding up the rest.
        self._passes += 1
        start = min(watcher.next_revision for watcher in turn) if self._passes & 1 else turn[0].next_revision
        # No more than an outbox takes: with many streams most of a longer slice would be read for nothing.
        events, reached = self._store.history(start, min(HISTORY_SLICE_BYTES, self.share))
        self._from_history += len(events)
        served = {watcher: reached + 1 for watcher in turn if start <= watcher.next_revision <= reached}
        ranges: dict[tuple[bytes, bytes], list[Watcher]] = {}
        for watcher in served:
            ranges.setdefault((watcher.key, watcher.range_end), []).append(watcher)
        for watcher, parts in self._deal(_in_ranges(((*each, group) for each, group in ranges.items()), events)):
            left = watcher.stream._push_parts(watcher, parts, self._store.revision)
            if left:
                served[watcher] = left[0].events[0].mod_revision
        for watcher, next_revision in served.items():
            watcher.next_revision = next_revision
            del self._unsynced[watcher]
            self._place(watcher)
        self._all_served = len(served) == len(turn) < WATCHERS_PER_PASS and not any(
            watcher.state is State.UNSYNCED and watcher.stream.has_room for watcher in served
        )
        return True

    def _place(self, watcher: Watcher) -> None:
        """Put a watcher where its next revision says: with the synced, or at the end of the queue of those behind."""
        if watcher.next_revision > self._store.revision:
            watcher.state = State.SYNCED
            self._synced.add(watcher, watcher.key, watcher.range_end)
            watcher.stream._answer_progress()
        else:
            watcher.state = State.UNSYNCED
            self._unsynced[watcher] = None
            self._wake.set()

    def _cancel_if_compacted(self, watcher: Watcher) -> bool:
        compacted = self._store.compacted
        if watcher.next_revision >= compacted:
            return False
        watcher.stream._drop(watcher)
        watcher.stream._push(StreamResponse(watcher.id, 0, canceled=True, compact_revision=compacted))
        watcher.stream._answer_progress()
        return True

    def compacted(self) -> None:
        """The store was compacted: watchers that are too far behind are told as soon as their stream has room."""
        self._wake.set()

    def _room(self, stream: WatchStream) -> None:
        """A stream that was full takes responses again."""
        for watcher in [each for each in stream.watchers.values() if each.state is State.VICTIM]:
            if not stream.has_room:
                return
            watcher.held = stream._push_parts(watcher, watcher.held)
            if not watcher.held:
                self._victims.remove(watcher)
                self._place(watcher)
        stream._answer_progress()
        self._wake.set()

    # ---- watchers and streams -------------------------------------------------------------------------------------

    def _forget(self, watcher: Watcher) -> None:
        if watcher.state is State.SYNCED:
            self._synced.remove(watcher, watcher.key, watcher.range_end)
        elif watcher.state is State.UNSYNCED:
            del self._unsynced[watcher]
        else:
            self._victims.remove(watcher)

    def close(self) -> None:
        """End every stream: its reader gets `Stopped`."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()

    def statistics(self) -> HubStatistics:
        """How many watchers are in which state, and what is queued for their readers."""
        return HubStatistics(
            streams=len(self._streams),
            synced=len(self._synced),
            unsynced=len(self._unsynced),
            victims=len(self._victims),
            outbox_bytes=sum(stream.outbox_bytes for stream in self._streams),
            pending_events=sum(len(response.events) for stream in self._streams for response in stream._outbox),
            delivered_events=self._delivered,
            history_events=self._from_history,
        )

    def _check(self) -> None:
        """Verify every invariant; for tests."""
        self._synced._check()
        watchers = [watcher for stream in self._streams for watcher in stream.watchers.values()]
        assert len(watchers) == len(self._synced) + len(self._unsynced) + len(self._victims)
        for watcher in watchers:
            assert (watcher.state is State.UNSYNCED) == (watcher in self._unsynced)
            assert (watcher.state is State.VICTIM) == (watcher in self._victims) == bool(watcher.held)
        for stream in self._streams:
            assert stream.outbox_bytes == sum(response.size for response in stream._outbox)


class WatchStream:
    """Watches that share one bounded outbox and one reader, as on one gRPC stream.

    What the calls answer comes out of `next()`, in order with the events.
    """

    def __init__(self, hub: WatchHub, outbox_bytes: int) -> None:
        self._hub = hub
        self._limit = outbox_bytes
        self.watchers: dict[int, Watcher] = {}
        self._outbox: deque[StreamResponse] = deque()
        self.outbox_bytes = 0
        self._was_full = False
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._open: dict[int, StreamResponse] = {}  # by watch id: the queued response that may still take events
        self._next_id = 0
        self._reader: asyncio.Future[None] | None = None
        self._in_line = False  # whether the reader waits for its turn, with something to read
        self._progress_wanted = False
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = hub._closed

    # ---- requests -------------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        key: bytes,
        range_end: bytes = b"",
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        filters: Sequence[WatchFilter] = (),
        watch_id: int = 0,
    ) -> None:
        """Begin a watch from `start_revision` (0 = from now). `watch_id` 0 lets the stream choose.

        The answer is a `created` response; one that is `canceled` too, with id -1, is a refusal.
        """
        key = key or b"\x00"
        store = self._hub._store
        refusal = ""
        if range_end and range_end != b"\x00" and range_end <= key:
            refusal = EMPTY_RANGE
        elif watch_id and watch_id in self.watchers:
            refusal = DUPLICATE_ID
        elif start_revision < 0:
            refusal = Compacted.message
        if refusal:
            self.refuse(refusal)
            return
        if not watch_id:
            while self._next_id in self.watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        watcher = Watcher(self, watch_id, key, range_end, start_revision or store.revision + 1)
        watcher.prev_kv = prev_kv
        watcher.noput = WatchFilter.NOPUT in filters
        watcher.nodelete = WatchFilter.NODELETE in filters
        watcher.progress_notify = progress_notify
        self.watchers[watch_id] = watcher
        self._push(StreamResponse(watch_id, store.revision, created=True))
        self._hub._place(watcher)
        if progress_notify and self._ticker is None:
            self._schedule_tick()

    def refuse(self, reason: str) -> None:
        """Answer a create with a refusal."""
        self._push(StreamResponse(-1, self._hub._store.revision, created=True, canceled=True, cancel_reason=reason))

    def cancel(self, watch_id: int) -> None:
        """End a watch; its last response is `canceled`. An id that is not in use gets no answer, as in etcd."""
        watcher = self.watchers.get(watch_id)
        if watcher is not None:
            self._drop(watcher)
            self._push(StreamResponse(watch_id, self._hub._store.revision, canceled=True))
            self._answer_progress()

    def request_progress(self) -> None:
        """Ask for a response with id -1 that says up to which revision every watcher of the stream has everything.

        It is answered once all of them are synced and the outbox has room; requests until then share that answer. A
        stream without watchers gets none, as in etcd.
        """
        self._progress_wanted = bool(self.watchers)
        self._answer_progress()

    # ---- the reader -----------------------------------------------------------------------------------------------

    async def next(self) -> StreamResponse:
        """The next response; one reader at a time. Cancelling loses nothing. Raises Stopped at the end."""
        turns = self._hub._turns
        # One that has more to read waits behind those that wait already; one that had nothing to read does not.
        if not self._closed and (not self._outbox or turns.crowded or not turns.take()):
            self._reader = asyncio.get_running_loop().create_future()
            if self._outbox:
                self._wait_in_line(self._reader)
            try:
                await self._reader
            finally:
                self._reader = None
                self._in_line = False
        if self._closed:
            raise Stopped()
        response = self._outbox.popleft()
        self.outbox_bytes -= response.size
        if self._open.get(response.watch_id) is response:
            del self._open[response.watch_id]
        if self._was_full and self.outbox_bytes <= min(self._limit, self._hub.share) // 2:
            self._was_full = False
            self._roomy.set()
            self._hub._room(self)
        return response

    async def room(self) -> None:
        """Wait until the outbox takes more, so that who asks without reading the answers is not listened to."""
        while not self.has_room and not self._closed:
            await self._roomy.wait()

    def close(self) -> None:
        """End the stream and its watches; a waiting reader gets `Stopped`. Idempotent."""
        self._closed = True
        for watcher in self.watchers.values():
            self._hub._forget(watcher)
        self.watchers.clear()
        self._outbox.clear()
        self._open.clear()
        self.outbox_bytes = 0
        self._roomy.set()
        self._hub._streams.discard(self)
        self._hub._set_share()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # ---- the outbox -----------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether the outbox takes more events. Asking when it does not lets the hub know when it does again.

        Once full it takes none until half of it was read: a slice of history is read for much more than one response.
        """
        if not self._was_full and self.outbox_bytes < self._limit and self.outbox_bytes < self._hub.share:
            return True
        self._was_full = True
        self._roomy.clear()
        return False

    def _push(self, response: StreamResponse) -> None:
        """Queue an answer. Events that come later stay behind it."""
        self._open.clear()
        self._append(response)

    def _push_parts(self, watcher: Watcher, parts: list[Part], revision: int = 0) -> list[Part]:
        """Queue parts as long as there is room; gives the rest. `revision` 0 = that of a part's last event."""
        for number, part in enumerate(parts):
            if not self.has_room:
                return parts[number:]
            self._push_events(watcher, part, revision or part.last)
        return []

    def _push_events(self, watcher: Watcher, part: Part, revision: int) -> None:
        hub = self._hub
        watcher.told = True
        hub._delivered += len(part.events)
        pending = self._open.get(watcher.id)
        if (
            pending is not None
            and pending.size + part.size <= hub.largest_response
            and len(pending.events) < MERGED_EVENTS
        ):
            pending.add(part, revision)
            self.outbox_bytes += part.size
            return
        response = self._open[watcher.id] = StreamResponse(watcher.id, revision)
        response.add(part, revision)
        self._append(response)

    def _append(self, response: StreamResponse) -> None:
        self._outbox.append(response)
        self.outbox_bytes += response.size
        reader = self._reader
        if reader is None or self._in_line or reader.done():
            return
        if self._hub._turns.take():
            reader.set_result(None)
        else:
            self._wait_in_line(reader)

    def _wait_in_line(self, reader: asyncio.Future[None]) -> None:
        self._in_line = True
        self._hub._turns.wait(reader)

    def _drop(self, watcher: Watcher) -> None:
        self._hub._forget(watcher)
        del self.watchers[watcher.id]
        if not self.watchers:
            self._progress_wanted = False

    # ---- progress -------------------------------------------------------------------------------------------------

    def _answer_progress(self) -> None:
        if self._progress_wanted and self.has_room and all(map(self._up_to_date, self.watchers.values())):
            self._progress_wanted = False
            self._push(StreamResponse(-1, self._hub._store.revision))

    def _up_to_date(self, watcher: Watcher) -> bool:
        # One that starts further in the future must not be told of a revision before its start.
        return watcher.state is State.SYNCED and watcher.next_revision <= self._hub._store.revision + 1

    def _schedule_tick(self) -> None:
        interval = self._hub._progress_interval * (1 + PROGRESS_JITTER * self._hub._rng.random())
        self._ticker = asyncio.get_running_loop().call_later(interval, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        notified = [watcher for watcher in self.watchers.values() if watcher.progress_notify]
        for watcher in notified:
            if not watcher.told and self._up_to_date(watcher) and self.has_room:
                self._push(StreamResponse(watcher.id, self._hub._store.revision))
            watcher.told = False
        if notified:
            self._schedule_tick()


def _wanted(events: list[StoredEvent], watcher: Watcher) -> list[StoredEvent]:
    """Those of a range's events, in order, that pass the watcher's filters and start revision."""
    first = ceiling(watcher.next_revision - 1)
    if events[0].revision < first:
        events = events[bisect_left(events, first, key=attrgetter("revision")) :]
    if watcher.noput or watcher.nodelete:
        return [event for event in events if not (watcher.nodelete if event.revision & TOMBSTONE else watcher.noput)]
    return events


def _in_ranges(
    ranges: Iterable[tuple[bytes, bytes, G]], events: Sequence[StoredEvent]
) -> Iterator[tuple[G, list[StoredEvent]]]:
    """The watchers of each range with the events in it, if any: one sort of all events, then two look-ups a range."""
    by_key = sorted(events, key=attrgetter("key"))
    keys = [event.key for event in by_key]
    for key, range_end, group in ranges:
        low = bisect_left(keys, key)
        high = len(keys) if range_end == b"\x00" else bisect_left(keys, range_end or key + b"\x00")
        if low < high:
            yield group, sorted(by_key[low:high], key=attrgetter("revision"))
