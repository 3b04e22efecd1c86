"""The list-watch state machine, without I/O: it is given what happened and when, and answers what to do next."""

from __future__ import annotations

import enum
import random
from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from informer.errors import ApiError, Expired, Silent, TooManyRequests, Unreachable, Unsupported
from informer.listwatch import Bookmark, WatchEvent, is_newer

PAGE_SIZE = 500  # client-go's pager
HEALTHY_AFTER = 1.0  # seconds; client-go: a watch that ends sooner and without an event is a failure


class State(enum.Enum):
    """What a reflector is doing."""

    LISTING = "listing"  # the first list
    WATCHING = "watching"
    RESUMING = "resuming"  # the watch was lost; it is opened again after the last revision seen
    RELISTING = "relisting"  # the history after that revision is gone; only a list can catch up
    STOPPED = "stopped"


class Reason(enum.Enum):
    """Why a reflector went from one state to another, or has to try again. Closed: fit for the label of a metric."""

    LISTED = "listed"  # everything there is has come
    OPENED = "opened"  # the watch goes on
    ENDED = "ended"  # the store ended the watch in good order
    UNREACHABLE = "unreachable"  # the connection broke, or the store is behind what was seen
    SILENT = "silent"  # nothing was heard in time
    OVERLOADED = "overloaded"  # the store asks to be spared for a while
    EXPIRED = "expired"  # the history is compacted
    REFUSED = "refused"  # the store says no
    UNSUPPORTED = "unsupported"  # the store cannot stream a list
    STALE = "stale"  # the list was older than what was seen
    STOPPED = "stopped"  # by its owner


# ---- inputs ---------------------------------------------------------------------------------------------------------


class Listed(msgspec.Struct, frozen=True):
    """The whole list has come."""

    revision: str


class Streamed(msgspec.Struct, frozen=True):
    """The whole initial state has come on a watch, which goes on."""

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
    """The store does not accept the watch, with or without the initial state, and says why."""

    error: ApiError


class Stop(msgspec.Struct, frozen=True):
    """The reflector's owner ends it."""


Input: TypeAlias = Listed | Streamed | ListFailed | Opened | Events | Disconnected | Gone | Refused | Stop


# ---- actions --------------------------------------------------------------------------------------------------------


class Sleep(msgspec.Struct, frozen=True):
    """Wait before the next action."""

    seconds: float


class List(msgspec.Struct, frozen=True):
    """List everything, in pages of `limit` items; 0 = in one answer, which cannot expire halfway."""

    limit: int


class WatchList(msgspec.Struct, frozen=True):
    """Open a watch that begins with everything there is, at `revision` ("" = any) or later."""

    revision: str


class Watch(msgspec.Struct, frozen=True):
    """Open a watch for what comes after `revision`."""

    revision: str


class Replace(msgspec.Struct, frozen=True):
    """Make the sink hold just what was listed, which is of `revision`."""

    revision: str


class Apply(msgspec.Struct, frozen=True):
    """Give the sink these events."""

    events: Sequence[WatchEvent]


Action: TypeAlias = Sleep | List | WatchList | Watch | Replace | Apply


TRANSITIONS: dict[tuple[State, type[Input]], State] = {
    (State.LISTING, Listed): State.WATCHING,
    (State.LISTING, Streamed): State.WATCHING,
    (State.LISTING, ListFailed): State.LISTING,
    (State.LISTING, Gone): State.LISTING,
    (State.LISTING, Refused): State.LISTING,
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
    (State.RELISTING, Streamed): State.WATCHING,
    (State.RELISTING, ListFailed): State.RELISTING,
    (State.RELISTING, Gone): State.RELISTING,
    (State.RELISTING, Refused): State.RELISTING,
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
    """A change of state at `time` (the loop's clock), with the last revision seen, and the error that made it, if any.

    input: the name of the machine's input; `reason` says why in a word.
    """

    old: State
    new: State
    input: str
    reason: Reason
    revision: str
    error: str
    time: float


class ReflectorStatistics(msgspec.Struct, frozen=True):
    """Counts since the start. Times are of the loop's clock, in seconds.

    since, seconds_in_state: when the state began, and how long it has lasted.
    last_heard, silent_for: when the store last sent anything on a list or watch, and how long ago that is.
    last_revision: the last one seen. store_revision: the newest that any answer has shown. behind: how many revisions
    the one is behind the other; some of them may be of other objects.
    lists: lists that were completed, relists among them; streamed: those that came on a watch. listing: objects of a
    list under way. pages: answers to lists. stale_lists: lists thrown away because they were older than what had been
    seen.
    watches: watches opened, resumes among them. duplicates: events thrown away because they came a second time.
    resume_reasons, relist_reasons: why a watch had to be opened again, why only a list could help.
    failures, failure_reasons: of any kind; last_error is the latest one, at last_failure.
    """

    state: State
    since: float
    seconds_in_state: float
    last_revision: str
    store_revision: str
    behind: int
    last_heard: float
    silent_for: float
    lists: int
    streamed: int
    listing: int
    pages: int
    relists: int
    stale_lists: int
    watches: int
    resumes: int
    events: int
    bookmarks: int
    duplicates: int
    failures: int
    resume_reasons: dict[Reason, int]
    relist_reasons: dict[Reason, int]
    failure_reasons: dict[Reason, int]
    last_error: str
    last_failure: float


def reason_of(error: ApiError) -> Reason:
    """The kind of an error, as far as a reflector treats it differently."""
    match error:
        case Silent():
            return Reason.SILENT
        case TooManyRequests():
            return Reason.OVERLOADED
        case Expired():
            return Reason.EXPIRED
        case Unsupported():
            return Reason.UNSUPPORTED
        case _:
            return Reason.UNREACHABLE if error.retriable else Reason.REFUSED


class Core:
    """The machine: `start` it, then tell it what happened with `step`; both answer what to do, in order.

    It promises that the sink never goes back in time: a list older than the last revision seen is refused and asked
    for again, and an event that was seen is not applied again.

    stream: whether to ask for the initial state on the watch, as long as the store has not said that it cannot.
    """

    def __init__(self, backoff: Backoff, *, page_size: int = PAGE_SIZE, stream: bool = False) -> None:
        self.state = State.LISTING
        self.last_revision = ""  # resume after this; events and bookmarks move it, and it never goes back
        self.reason = Reason.LISTED  # of the latest step
        self.failures = 0
        self.last_error = ""
        self._backoff = backoff
        self._page_size = page_size
        self._stream = stream
        # How the list under way is made: in pages although it could be streamed; in one answer.
        self._paged = False
        self._whole = False
        # Some etcd 3.5 versions send a bookmark ahead of an older event, so only events tell what is a duplicate.
        self._last_event = ""
        self._opened_at: float | None = None
        self._got_event = False
        self._healthy_since_list = False
        self._since = 0.0
        self._last_heard = 0.0
        self._last_failure = 0.0
        self._lists = self._streamed = self._relists = self._stale_lists = self._watches = self._resumes = 0
        self._pages = self._listing = self._events = self._bookmarks = self._duplicates = 0
        self._resume_reasons: Counter[Reason] = Counter()
        self._relist_reasons: Counter[Reason] = Counter()
        self._failure_reasons: Counter[Reason] = Counter()

    def start(self, now: float) -> tuple[Action, ...]:
        """The first actions."""
        self._since = self._last_heard = now
        return (self._list(),)

    def heard(self, items: int, now: float) -> None:
        """A part of a list has come: so many objects."""
        self._last_heard = now
        self._pages += 1
        self._listing += items

    def step(self, happened: Input, now: float) -> tuple[Action, ...]:
        """Take an input; raises `IllegalTransitionError` when it cannot happen in this state."""
        old = self.state
        if (old, type(happened)) not in TRANSITIONS:
            raise IllegalTransitionError(f"{type(happened).__name__} while {old.name}")
        self.reason = _reason_for(happened)
        if isinstance(happened, Listed | Streamed) and is_newer(self.last_revision, happened.revision):
            self._stale_lists += 1
            self.reason = Reason.STALE
            happened = ListFailed(
                Unreachable(f"the list is of revision {happened.revision}, {self.last_revision} was already seen")
            )
        new = TRANSITIONS[old, type(happened)]
        if new is not old:
            self.state = new
            self._since = now
            if new is State.RESUMING:
                self._resume_reasons[self.reason] += 1
            elif new is State.RELISTING:
                self._relist_reasons[self.reason] += 1
        match happened:
            case Events(events):
                return self._on_events(events, now)
            case Opened():
                self._opened(now)
                self._resumes += old is State.RESUMING
                return ()
            case Listed(revision):
                self._listed(revision, old, now)
                return Replace(revision), Watch(revision)
            case Streamed(revision):
                self._listed(revision, old, now)
                self._streamed += 1
                self._opened(now)
                return (Replace(revision),)
            case ListFailed(error):
                self._listing = 0
                return Sleep(self._failed(error, now)), self._list()
            case Disconnected(error):
                return self._on_disconnected(error, now)
            case Gone(error):
                return self._on_gone(error, old, now)
            case Refused(error):
                return self._on_refused(error, old, now)
            case Stop():
                return ()

    def _list(self) -> List | WatchList:
        if self._whole:
            return List(0)
        if self._stream and not self._paged:
            return WatchList(self.last_revision)
        return List(self._page_size)

    def _listed(self, revision: str, old: State, now: float) -> None:
        self._lists += 1
        self._relists += old is State.RELISTING
        self._listing = 0
        self._last_heard = now
        self._paged = self._whole = False
        self._healthy_since_list = False
        self.last_revision = self._last_event = revision

    def _opened(self, now: float) -> None:
        self._watches += 1
        self._opened_at = self._last_heard = now
        self._got_event = False

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
        if self._close_watch(now) and self.reason is not Reason.OVERLOADED:
            # It worked until now, so one quick attempt costs the store little and often closes the gap at once.
            if error is not None:
                self._note(error, now)
            return (Watch(self.last_revision),)
        return Sleep(self._failed(error, now)), Watch(self.last_revision)

    def _on_gone(self, error: ApiError, old: State, now: float) -> tuple[Action, ...]:
        self._close_watch(now)
        self._listing = 0
        if old is State.LISTING or old is State.RELISTING:
            # A page outlived the history it is from; as client-go's pager does, take the whole list in one answer.
            if not self._whole:
                self._note(error, now)
                self._whole = True
                return (self._list(),)
        elif self._healthy_since_list:
            self._note(error, now)
            return (self._list(),)
        return Sleep(self._failed(error, now)), self._list()

    def _on_refused(self, error: ApiError, old: State, now: float) -> tuple[Action, ...]:
        self._listing = 0
        if old is State.WATCHING or old is State.RESUMING:
            self._close_watch(now)
            return Sleep(self._failed(error, now)), self._list()
        # Only a list on a stream can be refused here, and there is another way to it, as client-go takes it.
        if isinstance(error, Unsupported):
            self._stream = False
        else:
            self._paged = True
            self._note(error, now)
        return (self._list(),)

    def _close_watch(self, now: float) -> bool:
        """Forget the watch that was open, if any; whether it had been of use."""
        opened_at, self._opened_at = self._opened_at, None
        healthy = opened_at is not None and (self._got_event or now - opened_at >= HEALTHY_AFTER)
        self._healthy_since_list = self._healthy_since_list or healthy
        return healthy

    def _note(self, error: ApiError, now: float) -> None:
        self.failures += 1
        self._failure_reasons[self.reason] += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self._last_failure = now

    def _failed(self, error: ApiError | None, now: float) -> float:
        self._note(error or Unreachable("the watch ended as soon as it was opened"), now)
        return self._backoff.after_failure(now)

    def statistics(self, now: float, head: str = "") -> ReflectorStatistics:
        """What happened until `now`; `head` is how far the store is known to have got."""
        last = self.last_revision
        store = head if is_newer(head, last) else last
        return ReflectorStatistics(
            state=self.state,
            since=self._since,
            seconds_in_state=now - self._since,
            last_revision=last,
            store_revision=store,
            behind=_number(store) - _number(last),
            last_heard=self._last_heard,
            silent_for=now - self._last_heard,
            lists=self._lists,
            streamed=self._streamed,
            listing=self._listing,
            pages=self._pages,
            relists=self._relists,
            stale_lists=self._stale_lists,
            watches=self._watches,
            resumes=self._resumes,
            events=self._events,
            bookmarks=self._bookmarks,
            duplicates=self._duplicates,
            failures=self.failures,
            resume_reasons=dict(self._resume_reasons),
            relist_reasons=dict(self._relist_reasons),
            failure_reasons=dict(self._failure_reasons),
            last_error=self.last_error,
            last_failure=self._last_failure,
        )


def _number(revision: str) -> int:
    return int(revision) if revision.isdecimal() else 0


def _reason_for(happened: Input) -> Reason:
    match happened:
        case Opened() | Events():
            return Reason.OPENED
        case Listed() | Streamed():
            return Reason.LISTED
        case ListFailed(error) | Gone(error) | Refused(error):
            return reason_of(error)
        case Disconnected(lost):
            return Reason.ENDED if lost is None else reason_of(lost)
        case Stop():
            return Reason.STOPPED


def state_diagram() -> str:
    """The transition table as a Mermaid state diagram; the one in the documentation is made by it."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (old, kind), new in TRANSITIONS.items():
        arrows.setdefault((old, new), []).append(kind.__name__)
    lines = ["stateDiagram-v2", f"    [*] --> {State.LISTING.name}"]
    lines += [f"    {old.name} --> {new.name}: {', '.join(kinds)}" for (old, new), kinds in arrows.items()]
    lines.append(f"    {State.STOPPED.name} --> [*]")
    return "\n".join(lines)
