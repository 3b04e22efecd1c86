"""One reflector and one cache, shared by any number of event handlers."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec
import structlog

from informer.cache import DEFAULT_INDEXERS, Cache, CacheStatistics, Change, Indexer, InformerStopped, Stored
from informer.errors import ApiError
from informer.listwatch import Item, ListWatch, WatchEvent
from informer.notifications import Notifications
from informer.reflector import PAGE_SIZE, Backoff, Reflector, ReflectorStatistics, State, Transition
from informer.selectors import SelectorLike
from informer.transforms import Transform

_log = structlog.get_logger(__name__)

QUEUE_LIMIT = 1024  # notifications kept one by one for a handler; client-go's buffers begin at this size
NOTIFICATIONS_BETWEEN_YIELDS = 256
BEHIND_AFTER = 1.0  # seconds; a handler whose queue is over its limit for that long is worth a line in the log
# Seconds until the store is asked how far it is for a reader that waits. Writes to the informer's own objects show
# sooner; one to others has to be asked for, as often as kube-apiserver does.
PROGRESS_AFTER = 0.02
PROGRESS_PERIOD = 0.1
RESYNC_JITTER = 0.1  # controller-runtime: 10 % either way, so that handlers do not all begin at once


class Handler:
    """What to do about changes: derive from it and override what is of interest, with `def` or `async def`.

    The methods of one handler are called one at a time, in the handler's own task. A `def` method must not block.
    """

    def on_add(self, new: Stored, initial: bool) -> Awaitable[None] | None:
        """An object appeared. `initial`: it was there before the handler was."""
        return None

    def on_update(self, old: Stored, new: Stored) -> Awaitable[None] | None:
        """An object changed; in a resync it did not, and `old` is `new`."""
        return None

    def on_delete(self, old: Stored, final_state_known: bool) -> Awaitable[None] | None:
        """An object is gone; `old` is the last state seen. If the delete itself was missed and only found by a relist,
        `final_state_known` is False: there may have been later states."""
        return None


class HandlerStatistics(msgspec.Struct, frozen=True):
    """One handler's notifications. Times are in seconds.

    pending: how many wait for it; high_water: the most there have been. oldest: for how long the oldest one waits that
    it has not done with. delivered: how many it was given, `failed` of which it failed with, `last_error` the latest.
    coalesced: how many it was spared. handling: for how long it was busy in all. resyncs: rounds of these.
    """

    name: str
    synced: bool
    pending: int
    high_water: int
    oldest: float
    delivered: int
    failed: int
    last_error: str
    coalesced: int
    handling: float
    resyncs: int


class InformerStatistics(msgspec.Struct, frozen=True):
    """Everything about one informer.

    lag: seconds for which it may have missed changes: 0 while it watches, else since it last heard from the store.
    """

    name: str
    synced: bool
    lag: float
    reflector: ReflectorStatistics
    cache: CacheStatistics
    handlers: list[HandlerStatistics]

    @property
    def pending(self) -> int:
        """Notifications that wait for any handler."""
        return sum(handler.pending for handler in self.handlers)


class _Latch:
    """Something that happens once, or can no more happen."""

    def __init__(self, what: str) -> None:
        self.reached = False
        self._what = what
        self._settled = asyncio.Event()

    def reach(self) -> None:
        if not self._settled.is_set():
            self.reached = True
            self._settled.set()

    def give_up(self) -> None:
        self._settled.set()

    async def wait(self) -> None:
        await self._settled.wait()
        if not self.reached:
            raise InformerStopped(f"stopped before {self._what}")


class Registration:
    """A handler's place at an informer, with the notifications that wait for it (see `Notifications`)."""

    def __init__(self, handler: Handler, name: str, informer: SharedInformer, resync: float | None) -> None:
        self._handler = handler
        self._name = name
        self._informer = informer
        self._resync = resync
        self._queue = Notifications(informer._queue_limit)
        self._in_hand: float | None = None  # when what is being handled came
        self._wakeup = asyncio.Event()
        self._synced = _Latch(f"the handler {name!r} had seen the initial objects")
        self._removed = False
        self._ended = False
        self._behind = False
        self._timer: asyncio.TimerHandle | None = None
        self._delivered = self._failed = self._resyncs = 0
        self._handling = 0.0
        self._last_error = ""

    @property
    def has_synced(self) -> bool:
        """Whether the handler has been told of every object that was there when it began."""
        return self._synced.reached

    async def wait_synced(self) -> None:
        """Wait for `has_synced`; raises `InformerStopped` if the informer stops or the handler is removed first."""
        await self._synced.wait()

    def remove(self) -> None:
        """Take the handler away: no notification begins after this. One that is being handled goes on. Idempotent."""
        if not self._removed:
            self._removed = True
            self._informer._fan_out.leave(self)
            self._end()

    def statistics(self) -> HandlerStatistics:
        """Counts since the start."""
        oldest = self._oldest()
        return HandlerStatistics(
            name=self._name,
            synced=self.has_synced,
            pending=self._queue.pending,
            high_water=self._queue.high_water,
            oldest=0.0 if oldest is None else self._informer._time() - oldest,
            delivered=self._delivered,
            failed=self._failed,
            last_error=self._last_error,
            coalesced=self._queue.coalesced,
            handling=self._handling,
            resyncs=self._resyncs,
        )

    def _oldest(self) -> float | None:
        return self._queue.oldest() if self._in_hand is None else self._in_hand

    # ---- for the informer

    def _put(self, changes: Sequence[Change]) -> None:
        now = self._informer._time()
        self._queue.put(changes, now)
        if self._queue.behind:
            self._tell_if_behind(now)
        self._wakeup.set()

    def _begin(self, there: Sequence[Stored]) -> None:
        """Queue what is there already, and the mark that ends it."""
        self._queue.begin(there, self._informer._time())
        self._wakeup.set()

    def _put_resync(self) -> None:
        """Queue an update without a change for each object, but for those of which something waits already."""
        if self._ended:
            return
        if self._synced.reached:
            waiting = self._queue.keys()
            self._put([Change(each, each) for each in self._informer.cache.list() if each.key not in waiting])
            self._resyncs += 1
        self._arm()

    def _arm(self) -> None:
        if self._resync is not None:
            wait = self._resync * self._informer._rng.uniform(1 - RESYNC_JITTER, 1 + RESYNC_JITTER)
            self._timer = asyncio.get_running_loop().call_later(wait, self._put_resync)

    def _tell_if_behind(self, now: float) -> None:
        oldest = self._oldest()
        if not self._behind and oldest is not None and now - oldest > BEHIND_AFTER:
            self._behind = True
            _log.warning(
                "handler_behind",
                informer=self._informer.name,
                handler=self._name,
                pending=self._queue.pending,
                seconds=now - oldest,
            )

    async def _run(self) -> None:
        """Deliver until `_end`, or cancelled."""
        clock = asyncio.get_running_loop().time
        done = 0
        if not self._ended:
            self._arm()
        try:
            while not self._ended:
                taken = self._queue.take()
                if taken is None:
                    await self._wait()
                    continue
                self._in_hand, changes = taken
                if not changes:
                    self._synced.reach()
                for change in changes:
                    if not self._ended:
                        began = clock()
                        waits = self._call(change)
                        if waits is not None:
                            await self._finish(waits, change)
                        self._handling += clock() - began
                        done += 1
                self._in_hand = None
                if done >= NOTIFICATIONS_BETWEEN_YIELDS:
                    done = 0
                    await asyncio.sleep(0)
        finally:
            self._in_hand = None
            self._queue.clear()

    async def _wait(self) -> None:
        """Wait for something to deliver."""
        if self._behind:
            self._behind = False
            _log.info("handler_caught_up", informer=self._informer.name, handler=self._name)
        self._wakeup.clear()
        await self._wakeup.wait()

    def _call(self, change: Change) -> Awaitable[None] | None:
        old, new = change.old, change.new
        self._delivered += 1
        try:
            if new is None:
                assert old is not None
                result = self._handler.on_delete(old, change.final_state_known)
            elif old is None:
                result = self._handler.on_add(new, change.initial)
            else:
                result = self._handler.on_update(old, new)
        # One handler's failure must not reach the others; it is logged and counted. SystemExit is one too, it would end
        # the loop. So is CancelledError: a `def` cannot be cancelled, and it would end this task without a word.
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001
            self._note_failure(change, error)
            return None
        return result if result is not None and inspect.isawaitable(result) else None

    async def _finish(self, waits: Awaitable[None], change: Change) -> None:
        try:
            await waits
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # It was not this task that was cancelled but something that the handler waited for.
            self._note_failure(change, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (as above)
            self._note_failure(change, error)

    def _note_failure(self, change: Change, error: BaseException) -> None:
        self._failed += 1
        self._last_error = f"{change.key}: {error!r}"
        _log.exception("handler_failed", informer=self._informer.name, handler=self._name, key=change.key)

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._synced.give_up()
        self._wakeup.set()


class _FanOut:
    """The reflector's sink: the cache first, then every handler's queue."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.registrations: dict[Registration, None] = {}
        self.synced = _Latch("the first list was there")

    def replacement(self) -> _Replacement:
        return _Replacement(self)

    def replaced(self, changes: Sequence[Change]) -> None:
        if self.synced.reached:
            self._tell(changes)
            return
        self.synced.reach()
        there = self.cache.list()  # shared by the handlers
        for registration in self.registrations:
            registration._begin(there)

    def leave(self, registration: Registration) -> None:
        self.registrations.pop(registration, None)

    def apply(self, events: Sequence[WatchEvent]) -> None:
        self._tell(self.cache.apply(events))

    def _tell(self, changes: Sequence[Change]) -> None:
        if changes:
            for registration in self.registrations:
                registration._put(changes)


class _Replacement:
    def __init__(self, fan_out: _FanOut) -> None:
        self._fan_out = fan_out
        self._cache = fan_out.cache.replacement()

    def add(self, items: Sequence[Item]) -> None:
        self._cache.add(items)

    def finish(self, revision: str) -> None:
        self._fan_out.replaced(self._cache.finish(revision))


class SharedInformer:
    """Keeps a cache of the objects that a `ListWatch` shows and tells handlers how it changes.

    What a handler may rely on:

    1. For each object it sees a sequence of states that is a part of the true one, in order: an add, updates, a
       delete, and so on. Some states may be left out. Nothing is said of the order between objects.
    2. When it is told, the cache is at that state or a later one.
    3. It first gets an add with `initial=True` for each object that is there, however late it was registered;
       `has_synced` is true once it has handled these.
    4. A delete is told even if the watch was cut while it happened, with the last state seen.
    5. An object that was deleted and made anew under the same key is a delete and an add.
    6. A handler that is slow or fails affects no other; a failed notification is not repeated.

    indexers, selector, transform: see `Cache`. queue_limit: notifications a handler may be behind before they coalesce
    by object. rng, backoff, page_size, on_transition: see `Reflector`.

    Use it as `async with informer:`, or give `run()` a task of your own.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        *,
        name: str = "",
        indexers: Mapping[str, Indexer] = DEFAULT_INDEXERS,
        selector: SelectorLike = None,
        transform: Transform | None = None,
        rng: random.Random | None = None,
        queue_limit: int = QUEUE_LIMIT,
        backoff: Backoff | None = None,
        page_size: int = PAGE_SIZE,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self.name = name
        self._rng = rng or random.Random()
        self._cache = Cache(indexers, selector=selector, transform=transform, on_wait=self._want_progress)
        self._fan_out = _FanOut(self._cache)
        self._reflector = Reflector(
            list_watch,
            self._fan_out,
            name=name,
            rng=self._rng,
            backoff=backoff,
            page_size=page_size,
            on_transition=on_transition,
        )
        self._queue_limit = queue_limit
        self._names = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def cache(self) -> Cache:
        """The objects."""
        return self._cache

    @property
    def state(self) -> State:
        """What the reflector is doing."""
        return self._reflector.state

    @property
    def has_synced(self) -> bool:
        """Whether the first list is in the cache."""
        return self._fan_out.synced.reached

    async def wait_synced(self) -> None:
        """Wait until the first list is in the cache; raises `InformerStopped` if it stops before."""
        await self._fan_out.synced.wait()

    def add_handler(self, handler: Handler, *, name: str = "", resync: float | None = None) -> Registration:
        """Register a handler, before the informer runs or while it does. O(objects) in the latter case.

        name: for logs and statistics; by default its class. A number is added where that is needed to tell it apart.
        resync: about how often, in seconds, to tell it of every object in the cache again, as an update whose `old` is
            its `new`. The store is not asked, and nothing is lost without it: it is for handlers that also depend on
            something they are not told of. Raises `InformerStopped` after the end.
        """
        if resync is not None and not resync > 0:
            raise ValueError(f"resync is a number of seconds, not {resync!r}; leave it out for none")
        if self._stopped:
            raise InformerStopped(f"the informer {self.name!r} has stopped")
        self._names += 1
        if not name or any(name == known._name for known in self._fan_out.registrations):
            name = f"{name or type(handler).__name__}-{self._names}"
        registration = Registration(handler, name, self, resync)
        self._fan_out.registrations[registration] = None
        if self.has_synced:
            registration._begin(self._cache.list())
        if self._group is not None:
            self._group.create_task(registration._run())
        return registration

    async def run(self) -> None:
        """Run until cancelled; once. When it ends, whoever waits for it gets `InformerStopped`."""
        if self._group is not None or self._stopped:
            raise RuntimeError("an informer runs once")
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._group:
                for registration in self._fan_out.registrations:
                    self._group.create_task(registration._run())
                if self._cache.waited_for_since is not None:
                    self._want_progress()
                try:
                    await self._reflector.run()
                finally:
                    # Cancelling their tasks does not end them all: a handler may have kept the cancellation to itself.
                    self._stopped = True
                    self._end_handlers()
        finally:
            self._end()

    def _end(self) -> None:
        self._stopped = True
        self._group = None
        self._cache.close()
        self._fan_out.synced.give_up()
        self._end_handlers()

    def _want_progress(self) -> None:
        if self._asking is None and self._group is not None and not self._stopped:
            self._asking = self._group.create_task(self._ask_for_progress())

    async def _ask_for_progress(self) -> None:
        """Ask the store how far it has got, for as long as a reader waits: what it waits for may be a write to others'
        objects, of which the watch would tell nothing before the next bookmark."""
        assert self._loop is not None
        wait = PROGRESS_AFTER
        try:
            while True:
                began = self._loop.time()
                await asyncio.sleep(wait)
                since = self._cache.waited_for_since
                if since is None:
                    return
                if since > began:  # it may be about to see its own write
                    wait = PROGRESS_AFTER
                    continue
                wait = PROGRESS_PERIOD
                try:
                    await self._reflector.request_progress()
                except ApiError as error:  # the reflector, which reads the watch, finds out for itself
                    _log.debug("progress_not_asked", informer=self.name, error=str(error))
        finally:
            self._asking = None

    def _end_handlers(self) -> None:
        for registration in self._fan_out.registrations:
            registration._end()

    def start(self) -> asyncio.Task[None]:
        """Run in a task of its own, until `stop`. What is returned ends by itself only with an error."""
        if self._task is not None:
            raise RuntimeError("an informer runs once")
        self._task = asyncio.get_running_loop().create_task(self.run(), name=f"informer {self.name}")
        return self._task

    async def stop(self) -> None:
        """End what `start` began, and raise the error it ended with if it was not this. Idempotent.

        Handlers are cancelled where they wait; notifications still queued are not delivered.
        """
        task = self._task
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        self._end()  # a task that was cancelled before its first step did nothing
        if not task.cancelled():
            task.result()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def statistics(self) -> InformerStatistics:
        """Everything about it, now. On the loop's thread."""
        reflector = self._reflector.statistics()
        return InformerStatistics(
            name=self.name,
            synced=self.has_synced,
            lag=0.0 if reflector.state is State.WATCHING else reflector.silent_for,
            reflector=reflector,
            cache=self._cache.statistics(),
            handlers=[registration.statistics() for registration in self._fan_out.registrations],
        )

    def _time(self) -> float:
        """The loop's clock; 0 before it runs."""
        return 0.0 if self._loop is None else self._loop.time()
