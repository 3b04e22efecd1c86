"""One reflector and one cache, shared by any number of event handlers."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec
import structlog

from informer.cache import DEFAULT_INDEXERS, Cache, CacheStatistics, Change, Indexer, InformerStopped, Stored
from informer.listwatch import Item, ListWatch, WatchEvent
from informer.reflector import PAGE_SIZE, Backoff, Reflector, ReflectorStatistics, State, Transition

_log = structlog.get_logger(__name__)

QUEUE_LIMIT = 1024  # notifications kept one by one for a handler; client-go's buffers begin at this size
NOTIFICATIONS_BETWEEN_YIELDS = 256


class Handler:
    """What to do about changes: derive from it and override what is of interest, with `def` or `async def`.

    The methods of one handler are called one at a time, in the handler's own task. A `def` method must not block.
    """

    def on_add(self, new: Stored, initial: bool) -> Awaitable[None] | None:
        """An object appeared. `initial`: it was there before the handler was."""
        return None

    def on_update(self, old: Stored, new: Stored) -> Awaitable[None] | None:
        """An object changed."""
        return None

    def on_delete(self, old: Stored, final_state_known: bool) -> Awaitable[None] | None:
        """An object is gone; `old` is the last state seen. If the delete itself was missed and only found by a relist,
        `final_state_known` is False: there may have been later states."""
        return None


def coalesce(pending: tuple[Change, ...], change: Change) -> tuple[Change, ...]:
    """The notifications that stand for `pending` and then `change`, all of one object.

    Adds and updates become one, an add that is undone becomes nothing. A delete followed by an add stays two, for they
    are of two objects that had the same key; so there are never more than two.
    """
    if not pending or pending[-1].new is None:
        return (*pending, change)
    last = pending[-1]
    if change.new is not None:
        return (*pending[:-1], Change(last.old, change.new, initial=last.initial))
    if last.old is None:
        return pending[:-1]
    return (*pending[:-1], change)


class HandlerStatistics(msgspec.Struct, frozen=True):
    """Notifications of one handler: waiting for it, delivered, of those failed, and those spared by coalescing."""

    name: str
    synced: bool
    pending: int
    delivered: int
    failed: int
    coalesced: int


class InformerStatistics(msgspec.Struct, frozen=True):
    """Everything about one informer."""

    name: str
    synced: bool
    reflector: ReflectorStatistics
    cache: CacheStatistics
    handlers: list[HandlerStatistics]


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
    """A handler's place at an informer, with the notifications that wait for it.

    They wait one by one up to a limit. Beyond it those of the same object are made one (see `coalesce`) until the
    handler has caught up, so a slow handler costs no more memory than its objects do.
    """

    def __init__(self, handler: Handler, name: str, limit: int, leave: Callable[[Registration], None]) -> None:
        self._handler = handler
        self._name = name
        self._limit = limit
        self._leave = leave
        # None marks the end of the initial objects. Only one of the two queues has something in it.
        self._one_by_one: deque[Change | None] = deque()
        self._by_key: OrderedDict[str | None, tuple[Change, ...]] = OrderedDict()
        self._wakeup = asyncio.Event()
        self._synced = _Latch(f"the handler {name!r} had seen the initial objects")
        self._removed = False
        self._ended = False
        self._delivered = self._failed = self._coalesced = 0

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
            self._leave(self)
            self._end()

    def statistics(self) -> HandlerStatistics:
        """Counts since the start."""
        return HandlerStatistics(
            name=self._name,
            synced=self.has_synced,
            pending=sum(change is not None for change in self._one_by_one) + sum(map(len, self._by_key.values())),
            delivered=self._delivered,
            failed=self._failed,
            coalesced=self._coalesced,
        )

    # ---- for the informer

    def _put(self, changes: Sequence[Change]) -> None:
        if not self._by_key and len(self._one_by_one) + len(changes) <= self._limit:
            self._one_by_one.extend(changes)
        else:
            while self._one_by_one:
                self._put_by_key(self._one_by_one.popleft())
            for change in changes:
                self._put_by_key(change)
        self._wakeup.set()

    def _put_initial(self, changes: Iterable[Change]) -> None:
        """Queue what is there already, and the mark that ends it."""
        self._put([Change(change.old, change.new, initial=True) for change in changes])
        if self._by_key:
            self._put_by_key(None)
        else:
            self._one_by_one.append(None)

    def _put_by_key(self, change: Change | None) -> None:
        waiting = self._by_key
        if change is None:
            waiting[None] = ()
            return
        key = change.key
        before = waiting.get(key, ())
        after = coalesce(before, change)
        self._coalesced += len(before) + 1 - len(after)
        if after:
            waiting[key] = after
        else:
            del waiting[key]

    def _take(self) -> Sequence[Change | None]:
        """The next notifications: those of one object, or the mark, or nothing."""
        if self._one_by_one:
            return (self._one_by_one.popleft(),)
        if self._by_key:
            key, changes = self._by_key.popitem(last=False)
            return (None,) if key is None else changes
        return ()

    async def _run(self) -> None:
        """Deliver until `_end`, or cancelled."""
        done = 0
        while not self._ended:
            taken = self._take()
            if not taken:
                self._wakeup.clear()
                await self._wakeup.wait()
                continue
            for change in taken:
                if change is None:
                    self._synced.reach()
                elif not self._ended:
                    waits = self._call(change)
                    if waits is not None:
                        await self._finish(waits, change)
                    done += 1
            if done >= NOTIFICATIONS_BETWEEN_YIELDS:
                done = 0
                await asyncio.sleep(0)
        self._one_by_one.clear()
        self._by_key.clear()

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
        # One handler's failure must not reach the others; it is logged and counted. A `def` cannot be cancelled, so a
        # CancelledError is one too: it would end this handler's task without a word.
        except (Exception, asyncio.CancelledError):  # noqa: BLE001
            self._note_failure(change)
            return None
        return result if result is not None and inspect.isawaitable(result) else None

    async def _finish(self, waits: Awaitable[None], change: Change) -> None:
        try:
            await waits
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # It was not this task that was cancelled but something that the handler waited for.
            self._note_failure(change)
        except Exception:  # noqa: BLE001 (as above)
            self._note_failure(change)

    def _note_failure(self, change: Change) -> None:
        self._failed += 1
        _log.exception("a handler failed", handler=self._name, key=change.key)

    def _end(self) -> None:
        self._ended = True
        self._synced.give_up()
        self._wakeup.set()


class _FanOut:
    """The reflector's sink: the cache first, then every handler's queue."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.registrations: dict[Registration, None] = {}
        self.synced = _Latch("the first list was there")

    def replace(self, items: Sequence[Item], revision: str) -> None:
        changes = self.cache.replace(items, revision)
        if self.synced.reached:
            self._tell(changes)
            return
        self.synced.reach()
        for registration in self.registrations:
            registration._put_initial(changes)

    def leave(self, registration: Registration) -> None:
        self.registrations.pop(registration, None)

    def apply(self, events: Sequence[WatchEvent]) -> None:
        self._tell(self.cache.apply(events))

    def _tell(self, changes: Sequence[Change]) -> None:
        if changes:
            for registration in self.registrations:
                registration._put(changes)


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

    indexers: of the cache. queue_limit: notifications a handler may be behind before they coalesce by object.
    rng, backoff, page_size, on_transition: see `Reflector`.

    Use it as `async with informer:`, or give `run()` a task of your own.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        *,
        name: str = "",
        indexers: Mapping[str, Indexer] = DEFAULT_INDEXERS,
        rng: random.Random | None = None,
        queue_limit: int = QUEUE_LIMIT,
        backoff: Backoff | None = None,
        page_size: int = PAGE_SIZE,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self.name = name
        self._cache = Cache(indexers)
        self._fan_out = _FanOut(self._cache)
        self._reflector = Reflector(
            list_watch,
            self._fan_out,
            rng=rng or random.Random(),
            backoff=backoff,
            page_size=page_size,
            on_transition=on_transition,
        )
        self._queue_limit = queue_limit
        self._names = 0
        self._group: asyncio.TaskGroup | None = None
        self._task: asyncio.Task[None] | None = None
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

    def add_handler(self, handler: Handler, *, name: str = "") -> Registration:
        """Register a handler, before the informer runs or while it does. O(objects) in the latter case.

        name: for logs and statistics; by default its class and a number. Raises `InformerStopped` after the end.
        """
        if self._stopped:
            raise InformerStopped(f"the informer {self.name!r} has stopped")
        self._names += 1
        name = name or f"{type(handler).__name__}-{self._names}"
        registration = Registration(handler, name, self._queue_limit, self._fan_out.leave)
        self._fan_out.registrations[registration] = None
        if self.has_synced:
            registration._put_initial(Change(None, stored) for stored in self._cache.list())
        if self._group is not None:
            self._group.create_task(registration._run())
        return registration

    async def run(self) -> None:
        """Run until cancelled; once. When it ends, whoever waits for it gets `InformerStopped`."""
        if self._group is not None or self._stopped:
            raise RuntimeError("an informer runs once")
        try:
            async with asyncio.TaskGroup() as self._group:
                for registration in self._fan_out.registrations:
                    self._group.create_task(registration._run())
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

    def _end_handlers(self) -> None:
        for registration in self._fan_out.registrations:
            registration._end()

    def start(self) -> None:
        """Run in a task of its own, until `stop`."""
        if self._task is not None:
            raise RuntimeError("an informer runs once")
        self._task = asyncio.get_running_loop().create_task(self.run(), name=f"informer {self.name}")

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
        """Everything about it, now."""
        return InformerStatistics(
            name=self.name,
            synced=self.has_synced,
            reflector=self._reflector.statistics(),
            cache=self._cache.statistics(),
            handlers=[registration.statistics() for registration in self._fan_out.registrations],
        )
