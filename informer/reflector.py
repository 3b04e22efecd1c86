"""The list-watch state machine, and the task that drives it.

A reflector keeps a sink (a cache) equal to a store: it lists once, then watches from the revision of the list on. A
lost connection resumes the watch after the last revision seen; only when the store no longer has the history after
that revision is there a new list. `Core` is the machine: it is given what happened and when, and answers what to do
next; it does no I/O. `Reflector` does the I/O.
"""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import msgspec

from informer.errors import ApiError, Expired, Unreachable
from informer.listwatch import Bookmark, Item, ListWatch, WatchEvent, is_newer

PAGE_SIZE = 500  # client-go's pager
HEALTHY_AFTER = 1.0  # seconds; client-go: a watch that ends sooner and without an event is a failure
# A batch is handled without giving way to other tasks; a long backlog of them must not be.
EVENTS_BETWEEN_YIELDS = 512


class State(enum.Enum):
    """What a reflector is doing."""

    LISTING = "listing"  # the first list
    WATCHING = "watching"
    RESUMING = "resuming"  # the watch was lost; it is opened again after the last revision seen
    RELISTING = "relisting"  # the history after that revision is gone; only a list can catch up
    STOPPED = "stopped"


# ---- inputs ---------------------------------------------------------------------------------------------------------


class Listed(msgspec.Struct, frozen=True):
    """The whole list has come."""

    items: list[Item]
    revision: str


class ListFailed(msgspec.Struct, frozen=True):
    """There is no list: the store is unreachable, refused, or answered with a state older than one already seen."""

    error: ApiError


class Opened(msgspec.Struct, frozen=True):
    """The store has accepted the watch."""


class Events(msgspec.Struct, frozen=True):
    """A batch has come on the watch."""

    events: Sequence[WatchEvent]


class Disconnected(msgspec.Struct, frozen=True):
    """The watch ended or could not be opened, for a reason that says nothing about the history."""

    error: ApiError | None = None


class Gone(msgspec.Struct, frozen=True):
    """What was asked for is no longer in the store's history (etcd: compacted, Kubernetes: 410 Gone)."""

    error: ApiError


class Refused(msgspec.Struct, frozen=True):
    """The store does not accept the watch, and says why."""

    error: ApiError


class Stop(msgspec.Struct, frozen=True):
    """The reflector's owner ends it."""


Input: TypeAlias = Listed | ListFailed | Opened | Events | Disconnected | Gone | Refused | Stop


# ---- actions --------------------------------------------------------------------------------------------------------


class Sleep(msgspec.Struct, frozen=True):
    """Wait before the next action."""

    seconds: float


class List(msgspec.Struct, frozen=True):
    """List everything, in pages of `limit` items; 0 = in one answer, which cannot expire halfway."""

    limit: int


class Watch(msgspec.Struct, frozen=True):
    """Open a watch for what comes after `revision`."""

    revision: str


class Replace(msgspec.Struct, frozen=True):
    """Make the sink hold just these items."""

    items: list[Item]
    revision: str


class Apply(msgspec.Struct, frozen=True):
    """Give the sink these events."""

    events: Sequence[WatchEvent]


Action: TypeAlias = Sleep | List | Watch | Replace | Apply


TRANSITIONS: dict[tuple[State, type[Input]], State] = {
    (State.LISTING, Listed): State.WATCHING,
    (State.LISTING, ListFailed): State.LISTING,
    (State.LISTING, Gone): State.LISTING,
    (State.WATCHING, Opened): State.WATCHING,
    (State.WATCHING, Events): State.WATCHING,
    (State.WATCHING, Disconnected): State.RESUMING,
    (State.WATCHING, Gone): State.RELISTING,
    (State.WATCHING, Refused): State.RELISTING,
    (State.RESUMING, Opened): State.WATCHING,
    (State.RESUMING, Disconnected): State.RESUMING,
    (State.RESUMING, Gone): State.RELISTING,
    (State.RESUMING, Refused): State.RELISTING,
    (State.RELISTING, Listed): State.WATCHING,
    (State.RELISTING, ListFailed): State.RELISTING,
    (State.RELISTING, Gone): State.RELISTING,
    (State.LISTING, Stop): State.STOPPED,
    (State.WATCHING, Stop): State.STOPPED,
    (State.RESUMING, Stop): State.STOPPED,
    (State.RELISTING, Stop): State.STOPPED,
}


class IllegalTransitionError(RuntimeError):
    """An input that cannot happen in the state the machine is in: a bug in whoever drives it."""


class Backoff:
    """How long to wait after a failure: exponential, jittered, forgotten after a healthy stretch.

    The figures are client-go's: 0.8 s doubling to 30 s, each wait stretched by up to its own length so that many
    clients of one failed server spread out, the start again after 2 minutes without a failure. Seconds throughout.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        initial: float = 0.8,
        factor: float = 2.0,
        maximum: float = 30.0,
        reset_after: float = 120.0,
    ) -> None:
        self._rng = rng
        self._initial = initial
        self._factor = factor
        self._maximum = maximum
        self._reset_after = reset_after
        self._next = initial
        self._retry_at = float("-inf")

    def after_failure(self, now: float) -> float:
        """The wait after a failure that happened at `now`: in [x, 2x), where x grows with each."""
        if now - self._retry_at > self._reset_after:
            self._next = self._initial
        base = self._next
        self._next = min(base * self._factor, self._maximum)
        wait = base * (1.0 + self._rng.random())
        self._retry_at = now + wait
        return wait


class Transition(msgspec.Struct, frozen=True):
    """A change of state at `time` (the loop's clock), with the last revision seen."""

    old: State
    new: State
    input: str
    revision: str
    time: float


class ReflectorStatistics(msgspec.Struct, frozen=True):
    """Counts since the start. Times are of the loop's clock.

    lists: lists that were completed, relists among them. stale_lists: lists thrown away because they were older than
    what had been seen. watches: watches opened, resumes among them. duplicates: events thrown away because they came
    a second time. failures: failures of any kind; last_error is the latest one.
    """

    state: State
    since: float
    last_revision: str
    last_heard: float
    lists: int
    relists: int
    stale_lists: int
    watches: int
    resumes: int
    events: int
    bookmarks: int
    duplicates: int
    failures: int
    last_error: str


class Core:
    """The machine: `start` it, then tell it what happened with `step`; both answer what to do, in order.

    It promises that the sink never goes back in time: a list older than the last revision seen is refused and asked
    for again, and an event that was seen is not applied again.
    """

    def __init__(self, backoff: Backoff, *, page_size: int = PAGE_SIZE) -> None:
        self.state = State.LISTING
        self.last_revision = ""  # resume after this; events and bookmarks move it, and it never goes back
        self._backoff = backoff
        self._page_size = page_size
        self._limit = page_size
        # Some etcd 3.5 versions send a bookmark ahead of an older event, so only events tell what is a duplicate.
        self._last_event = ""
        self._opened_at: float | None = None
        self._got_event = False
        self._healthy_since_list = False
        self._since = 0.0
        self._last_heard = 0.0
        self._lists = self._relists = self._stale_lists = self._watches = self._resumes = 0
        self._events = self._bookmarks = self._duplicates = self._failures = 0
        self._last_error = ""

    def start(self, now: float) -> tuple[Action, ...]:
        """The first actions."""
        self._since = self._last_heard = now
        return (List(self._limit),)

    def step(self, happened: Input, now: float) -> tuple[Action, ...]:
        """Take an input; raises `IllegalTransitionError` when it cannot happen in this state."""
        if isinstance(happened, Listed) and is_newer(self.last_revision, happened.revision):
            self._stale_lists += 1
            happened = ListFailed(
                Unreachable(f"the list is of revision {happened.revision}, {self.last_revision} was already seen")
            )
        old = self.state
        new = TRANSITIONS.get((old, type(happened)))
        if new is None:
            raise IllegalTransitionError(f"{type(happened).__name__} while {old.name}")
        if new is not old:
            self.state = new
            self._since = now
        match happened:
            case Events(events):
                return self._on_events(events, now)
            case Opened():
                self._watches += 1
                self._resumes += old is State.RESUMING
                self._opened_at = self._last_heard = now
                self._got_event = False
                return ()
            case Listed(items, revision):
                self._lists += 1
                self._relists += old is State.RELISTING
                self._last_heard = now
                self._limit = self._page_size
                self._healthy_since_list = False
                self.last_revision = self._last_event = revision
                return Replace(items, revision), Watch(revision)
            case ListFailed(error):
                return Sleep(self._failed(error, now)), List(self._limit)
            case Disconnected(error):
                return self._on_disconnected(error, now)
            case Gone(error):
                return self._on_gone(error, old, now)
            case Refused(error):
                self._close_watch(now)
                return Sleep(self._failed(error, now)), List(self._limit)
            case Stop():
                return ()

    def _on_events(self, events: Sequence[WatchEvent], now: float) -> tuple[Action, ...]:
        self._last_heard = now
        if not events:
            return ()
        # Events are in order, so the first of a batch tells whether any of it can be a duplicate.
        if not is_newer(events[0].revision, self._last_event):
            seen = self._last_event
            fresh = [e for e in events if isinstance(e, Bookmark) or is_newer(e.revision, seen)]
            self._duplicates += len(events) - len(fresh)
            events = fresh
        bookmarks = sum(1 for e in events if type(e) is Bookmark)
        self._bookmarks += bookmarks
        self._events += len(events) - bookmarks
        if len(events) > bookmarks:
            self._got_event = True
        for event in reversed(events):
            if is_newer(event.revision, self.last_revision):
                self.last_revision = event.revision
            if type(event) is not Bookmark:
                self._last_event = event.revision
                break
        return (Apply(events),) if events else ()

    def _on_disconnected(self, error: ApiError | None, now: float) -> tuple[Action, ...]:
        if self._close_watch(now):
            # It worked until now, so one quick attempt costs the store little and often closes the gap at once.
            if error is not None:
                self._note(error)
            return (Watch(self.last_revision),)
        return Sleep(self._failed(error, now)), Watch(self.last_revision)

    def _on_gone(self, error: ApiError, old: State, now: float) -> tuple[Action, ...]:
        self._close_watch(now)
        if old is State.LISTING or old is State.RELISTING:
            # A page outlived the history it is from; as client-go's pager does, take the whole list in one answer.
            if self._limit:
                self._note(error)
                self._limit = 0
                return (List(0),)
        elif self._healthy_since_list:
            self._note(error)
            return (List(self._limit),)
        return Sleep(self._failed(error, now)), List(self._limit)

    def _close_watch(self, now: float) -> bool:
        """Forget the watch that was open, if any; whether it had been of use."""
        opened_at, self._opened_at = self._opened_at, None
        healthy = opened_at is not None and (self._got_event or now - opened_at >= HEALTHY_AFTER)
        self._healthy_since_list = self._healthy_since_list or healthy
        return healthy

    def _note(self, error: ApiError) -> None:
        self._failures += 1
        self._last_error = f"{type(error).__name__}: {error}"

    def _failed(self, error: ApiError | None, now: float) -> float:
        self._note(error or Unreachable("the watch ended as soon as it was opened"))
        return self._backoff.after_failure(now)

    def statistics(self) -> ReflectorStatistics:
        """What happened so far."""
        return ReflectorStatistics(
            state=self.state,
            since=self._since,
            last_revision=self.last_revision,
            last_heard=self._last_heard,
            lists=self._lists,
            relists=self._relists,
            stale_lists=self._stale_lists,
            watches=self._watches,
            resumes=self._resumes,
            events=self._events,
            bookmarks=self._bookmarks,
            duplicates=self._duplicates,
            failures=self._failures,
            last_error=self._last_error,
        )


class Sink(Protocol):
    """What a reflector fills, a `Cache` for one. Neither method may fail; what they return is not looked at."""

    def replace(self, items: Sequence[Item], revision: str) -> object:
        """Hold just these items, which are the store's at `revision`."""

    def apply(self, events: Sequence[WatchEvent]) -> object:
        """Take these events, in order."""


class Reflector:
    """Keeps `sink` equal to what `list_watch` shows, until cancelled.

    on_transition: called at each change of state, from within the reflector's task; it must not raise.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        sink: Sink,
        *,
        rng: random.Random,
        backoff: Backoff | None = None,
        page_size: int = PAGE_SIZE,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self._list_watch = list_watch
        self._sink = sink
        self._core = Core(backoff or Backoff(rng), page_size=page_size)
        self._on_transition = on_transition
        self._ran = False

    @property
    def state(self) -> State:
        """What it is doing now."""
        return self._core.state

    def statistics(self) -> ReflectorStatistics:
        """What happened so far."""
        return self._core.statistics()

    async def run(self) -> None:
        """List and watch until cancelled; it can be run once. Only an error that is not an `ApiError` ends it."""
        if self._ran:
            raise RuntimeError("a reflector runs once")
        self._ran = True
        actions = self._core.start(asyncio.get_running_loop().time())
        try:
            while True:
                for action in actions:
                    match action:
                        case Sleep(seconds):
                            await asyncio.sleep(seconds)
                        case List(limit):
                            happened = await self._list(limit)
                        case Watch(revision):
                            happened = await self._watch(revision)
                        case _:
                            self._give_to_sink(action)
                actions = self._step(happened)
        finally:
            self._step(Stop())

    async def _list(self, limit: int) -> Input:
        items: list[Item] = []
        continue_ = ""
        try:
            while True:
                page = await self._list_watch.list(limit=limit, continue_=continue_)
                items += page.items
                continue_ = page.continue_
                if not continue_:
                    return Listed(items, page.revision)
        except Expired as error:
            return Gone(error)
        except ApiError as error:
            return ListFailed(error)

    async def _watch(self, revision: str) -> Input:
        handled = 0
        try:
            async with self._list_watch.watch(revision) as batches:
                self._step(Opened())
                async for batch in batches:
                    for action in self._step(Events(batch)):
                        self._give_to_sink(action)
                    handled += len(batch)
                    if handled >= EVENTS_BETWEEN_YIELDS:
                        handled = 0
                        await asyncio.sleep(0)
            return Disconnected()
        except Expired as error:
            return Gone(error)
        except Unreachable as error:
            return Disconnected(error)
        except ApiError as error:
            return Refused(error)

    def _give_to_sink(self, action: Action) -> None:
        match action:
            case Apply(events):
                self._sink.apply(events)
            case Replace(items, revision):
                self._sink.replace(items, revision)

    def _step(self, happened: Input) -> tuple[Action, ...]:
        core = self._core
        old = core.state
        now = asyncio.get_running_loop().time()
        actions = core.step(happened, now)
        if core.state is not old and self._on_transition is not None:
            self._on_transition(Transition(old, core.state, type(happened).__name__, core.last_revision, now))
        return actions


def state_diagram() -> str:
    """The transition table as a Mermaid state diagram; the one in the documentation is made by it."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (old, kind), new in TRANSITIONS.items():
        arrows.setdefault((old, new), []).append(kind.__name__)
    lines = ["stateDiagram-v2", f"    [*] --> {State.LISTING.name}"]
    lines += [f"    {old.name} --> {new.name}: {', '.join(kinds)}" for (old, new), kinds in arrows.items()]
    lines.append(f"    {State.STOPPED.name} --> [*]")
    return "\n".join(lines)
