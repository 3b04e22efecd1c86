"""The reflector: the task that drives the list-watch state machine of `informer.machine` on a store.

A reflector keeps a sink (a cache) equal to a store: it lists once, then watches from the revision of the list on;
where the store can send both on one stream, it takes that. A lost connection resumes the watch after the last revision
seen; only when the store no longer has the history after that revision is there a new list.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import structlog

from informer.errors import ApiError, Expired, Silent, Unreachable
from informer.listwatch import AsksProgress, Batch, Bookmark, Item, KnowsHead, ListWatch, StreamingListWatch, WatchEvent
from informer.machine import (
    HEALTHY_AFTER,
    PAGE_SIZE,
    TRANSITIONS,
    Action,
    Apply,
    Backoff,
    Core,
    Disconnected,
    Events,
    Gone,
    IllegalTransitionError,
    Input,
    List,
    Listed,
    ListFailed,
    Opened,
    Reason,
    ReflectorStatistics,
    Refused,
    Replace,
    Sleep,
    State,
    Stop,
    Streamed,
    Transition,
    Watch,
    WatchList,
    reason_of,
    state_diagram,
)

_log = structlog.get_logger(__name__)

# Seconds; client-go ends every watch after 5 to 10 minutes, so that a dead one is not waited on for ever.
SILENCE = 300.0
# A batch is handled without giving way to other tasks; a long backlog of them must not be.
EVENTS_BETWEEN_YIELDS = 512

# The machine's names belong to the reflector's users as well.
__all__ = [
    "EVENTS_BETWEEN_YIELDS",
    "HEALTHY_AFTER",
    "PAGE_SIZE",
    "SILENCE",
    "TRANSITIONS",
    "Action",
    "Apply",
    "Backoff",
    "Core",
    "Disconnected",
    "Events",
    "Gone",
    "IllegalTransitionError",
    "InPieces",
    "Input",
    "List",
    "ListFailed",
    "Listed",
    "Opened",
    "Reason",
    "Reflector",
    "ReflectorStatistics",
    "Refused",
    "Replace",
    "Sink",
    "Sleep",
    "State",
    "Stop",
    "Streamed",
    "Transition",
    "Watch",
    "WatchList",
    "reason_of",
    "state_diagram",
]


class Sink(Protocol):
    """What a reflector fills, a `Cache` for one. Nothing here may fail; what the methods return is not looked at."""

    def replace(self, items: Sequence[Item], revision: str) -> object:
        """Hold just these items, which are the store's at `revision`."""

    def apply(self, events: Sequence[WatchEvent]) -> object:
        """Take these events, in order."""


@runtime_checkable
class InPieces(Protocol):
    """A `Sink` that takes a list as it comes, so that it is not gathered apart and the last step is a short one."""

    def replacement(self) -> Pieces:
        """Begin a list; one that was not finished is given up."""

    def apply(self, events: Sequence[WatchEvent]) -> object:
        """As in `Sink`."""


class Pieces(Protocol):
    """A list on its way into a sink, which holds what it held until `finish`."""

    def add(self, items: Sequence[Item]) -> object:
        """Take a part of the list."""

    def finish(self, revision: str) -> object:
        """Hold just the items that were added, which are the store's at `revision`."""


class _Gathered:
    """A list for a sink that takes it as a whole."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._items: list[Item] = []

    def add(self, items: Sequence[Item]) -> None:
        self._items += items

    def finish(self, revision: str) -> None:
        self._sink.replace(self._items, revision)


class Reflector:
    """Keeps `sink` equal to what `list_watch` shows, until cancelled.

    What a list holds becomes the sink's in one step, so nobody sees half of it; a sink that is `InPieces` prepares for
    that step while the list comes. If `list_watch` is a `StreamingListWatch`, the list comes on the watch.

    name: for the log. silence: seconds; each page of a list, the opening of a watch and every next batch on it must
    come within a time drawn from [silence, 2 * silence), whatever `list_watch` does on its own to find a dead
    connection. stream: False = always list in pages.
    on_transition: called at each change of state, from within the reflector's task; it must not raise.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        sink: Sink | InPieces,
        *,
        rng: random.Random,
        name: str = "",
        backoff: Backoff | None = None,
        page_size: int = PAGE_SIZE,
        silence: float = SILENCE,
        stream: bool = True,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self._list_watch = list_watch
        self._sink = sink
        self._rng = rng
        self._name = name
        self._silence = self._patience = silence
        self._streaming = list_watch if stream and isinstance(list_watch, StreamingListWatch) else None
        self._asks = list_watch if isinstance(list_watch, AsksProgress) else None
        self._core = Core(backoff or Backoff(rng), page_size=page_size, stream=self._streaming is not None)
        self._on_transition = on_transition
        self._pieces: Pieces | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def state(self) -> State:
        """What it is doing now."""
        return self._core.state

    def statistics(self) -> ReflectorStatistics:
        """What happened so far."""
        source = self._list_watch
        now = 0.0 if self._loop is None else self._loop.time()
        return self._core.statistics(now, source.head if isinstance(source, KnowsHead) else "")

    async def request_progress(self) -> bool:
        """Have the watch say at once how far the store has got; False if it cannot. See `AsksProgress`."""
        return self._asks is not None and self.state is State.WATCHING and await self._asks.request_progress()

    async def run(self) -> None:
        """List and watch until cancelled; it can be run once. Only an error that is not an `ApiError` ends it."""
        if self._loop is not None:
            raise RuntimeError("a reflector runs once")
        self._loop = asyncio.get_running_loop()
        todo = deque(self._core.start(self._loop.time()))
        try:
            while todo:
                match todo.popleft():
                    case Sleep(seconds):
                        self._pieces = None  # of a list that came to nothing
                        await asyncio.sleep(seconds)
                    case List(limit):
                        todo.extend(await self._list(limit))
                    case WatchList(revision):
                        todo.extend(await self._watch_list(revision))
                    case Watch(revision):
                        todo.extend(await self._watch(revision))
                    case Replace() | Apply() as action:
                        self._give_to_sink(action)
        finally:
            self._step(Stop())

    async def _list(self, limit: int) -> Iterable[Action]:
        pieces = self._begin()
        continue_ = revision = ""
        try:
            while True:
                async with self._deadline() as deadline:
                    page = await self._list_watch.list(limit=limit, continue_=continue_)
                if revision and page.revision != revision:
                    raise ApiError(f"a page is of revision {page.revision}, the first one of {revision}")
                if page.continue_ and page.continue_ == continue_:
                    raise ApiError("the list does not move on: a page asks to be followed by itself")
                await self._gather(page.items, pieces)
                revision, continue_ = page.revision, page.continue_
                if not continue_:
                    return self._step(Listed(revision))
        except Expired as error:
            return self._step(Gone(error))
        except ApiError as error:
            return self._step(ListFailed(error))
        except TimeoutError as error:
            return self._step(ListFailed(_silence(deadline, error)))

    async def _watch(self, revision: str) -> Iterable[Action]:
        try:
            async with self._deadline() as deadline, self._list_watch.watch(revision) as batches:
                self._step(Opened())
                await self._follow(batches, deadline)
            return self._step(Disconnected())
        except ApiError as error:
            return self._step(_lost(error))
        except TimeoutError as error:
            return self._step(Disconnected(_silence(deadline, error)))

    async def _watch_list(self, revision: str) -> Iterable[Action]:
        assert self._streaming is not None
        begun = False  # whether the initial state has come, and the rest is a watch like any other
        try:
            async with self._deadline() as deadline, self._streaming.watch_list(revision) as batches:
                actions = await self._initial(batches, deadline)
                begun = self._core.state is State.WATCHING
                if not begun:
                    return actions
                await self._follow(batches, deadline)
            return self._step(Disconnected())
        except ApiError as error:
            return self._step(_lost(error) if begun or not error.retriable else ListFailed(error))
        except TimeoutError as error:
            silent = _silence(deadline, error)
            return self._step(Disconnected(silent) if begun else ListFailed(silent))

    async def _initial(self, batches: AsyncIterator[Batch], deadline: asyncio.Timeout) -> Iterable[Action]:
        """Gather the initial state and give it to the sink; what is to be done instead if it is of no use."""
        pieces = self._begin()
        async for batch in batches:
            self._postpone(deadline)
            for place, event in enumerate(batch):
                if type(event) is Bookmark and event.initial_end:
                    await self._gather(batch[:place], pieces)
                    actions = self._step(Streamed(event.revision))
                    if self._core.state is not State.WATCHING:
                        return actions
                    for action in (*actions, *self._step(Events(batch[place + 1 :]))):
                        self._give_to_sink(action)
                    return ()
            await self._gather(batch, pieces)
        return self._step(ListFailed(Unreachable("the stream ended before the initial state was whole")))

    async def _follow(self, batches: AsyncIterator[Batch], deadline: asyncio.Timeout) -> None:
        """Give to the sink what comes, until it ends."""
        handled = 0
        self._postpone(deadline)
        async for batch in batches:
            self._postpone(deadline)
            for action in self._step(Events(batch)):
                self._give_to_sink(action)
            handled += len(batch)
            if handled >= EVENTS_BETWEEN_YIELDS:
                handled = 0
                await asyncio.sleep(0)

    def _begin(self) -> Pieces:
        self._pieces = self._sink.replacement() if isinstance(self._sink, InPieces) else _Gathered(self._sink)
        return self._pieces

    async def _gather(self, found: Sequence[WatchEvent], pieces: Pieces) -> None:
        """Add a part of a list, giving way to other tasks in between."""
        items: list[Item] = []
        for item in found:
            if type(item) is Item:
                items.append(item)
            elif type(item) is not Bookmark:
                raise ApiError(f"a deletion in a list: {item}")
        self._core.heard(len(found), self._now())
        for first in range(0, len(items), EVENTS_BETWEEN_YIELDS):
            pieces.add(items[first : first + EVENTS_BETWEEN_YIELDS])
            await asyncio.sleep(0)

    def _give_to_sink(self, action: Action) -> None:
        match action:
            case Apply(events):
                self._sink.apply(events)
            case Replace(revision):
                pieces, self._pieces = self._pieces, None
                assert pieces is not None
                pieces.finish(revision)

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def _deadline(self) -> asyncio.Timeout:
        self._patience = self._silence * (1.0 + self._rng.random())
        return asyncio.timeout(self._patience)

    def _postpone(self, deadline: asyncio.Timeout) -> None:
        deadline.reschedule(self._now() + self._patience)

    def _step(self, happened: Input) -> tuple[Action, ...]:
        core = self._core
        old, failures, now = core.state, core.failures, self._now()
        actions = core.step(happened, now)
        if core.state is not old or core.failures != failures:
            self._tell(old, happened, actions, core.last_error if core.failures != failures else "", now)
        return actions

    def _tell(self, old: State, happened: Input, actions: Sequence[Action], error: str, now: float) -> None:
        core = self._core
        new, reason = core.state, core.reason
        facts: dict[str, object] = {"state": new.value, "reason": reason.value, "revision": core.last_revision}
        if error:
            facts["error"] = error
        if wait := sum(action.seconds for action in actions if isinstance(action, Sleep)):
            facts["wait"] = round(wait, 3)
        if reason is Reason.STOPPED or (old is State.LISTING and new is State.WATCHING and not core.failures):
            log = _log.debug  # as in every life
        else:
            # Time mends the others; these ask for somebody's attention.
            log = _log.warning if reason in (Reason.REFUSED, Reason.STALE) else _log.info
        if new is old:
            log("reflector_retry", reflector=self._name, **facts)
            return
        log("reflector_transition", reflector=self._name, was=old.value, **facts)
        if self._on_transition is not None:
            self._on_transition(Transition(old, new, type(happened).__name__, reason, core.last_revision, error, now))


def _lost(error: ApiError) -> Input:
    if isinstance(error, Expired):
        return Gone(error)
    return Disconnected(error) if error.retriable else Refused(error)


def _silence(deadline: asyncio.Timeout, error: TimeoutError) -> Silent:
    """What it means that `deadline` has passed. Raises `error` if it was of something else."""
    if not deadline.expired():
        raise error
    return Silent("the store fell silent")
