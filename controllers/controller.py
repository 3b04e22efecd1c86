"""N workers that take keys from one queue, run the reconciler, and turn each outcome into the right re-queue."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias, cast

import msgspec

from controllers.context import BlockingContext, Context
from controllers.core.events import Recorder
from controllers.errors import SyncTimeout, TerminalError
from controllers.handlers import EnqueueRequests, Source
from controllers.reconcile import Outcome, Request, Result, outcome_of
from controllers.workqueue import QueueStatistics, WorkQueue
from informer import (
    Conflict,
    Fenced,
    NotFound,
    ObjectClient,
    Registration,
    ResourceType,
    SharedInformer,
    Unreachable,
    is_newer,
)
from informer.errors import ApiError, Forbidden, from_store
from kvstore.errors import KvError
from kvstore.histogram import Durations, Histogram

SYNC_TIMEOUT = 120.0  # controller-runtime's CacheSyncTimeout
CATCH_UP_TIMEOUT = 5.0  # how long a key waits for the caches to show what its last run wrote
THREAD_TIMEOUT = 2.0  # seconds that the thread of a run that was given up at the stop has to return
UNSEEN = 64  # so many keys may be waiting for the caches before those that no longer do are looked for
# A worker whose runs never wait for anything gives way to other tasks after this many runs or seconds.
RUNS_BETWEEN_YIELDS = 64
SECONDS_BETWEEN_YIELDS = 0.005
# Seconds: controller-runtime's buckets for runs.
# fmt: off
RUN_BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 1.75,
    2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0,
)
# fmt: on

AsyncReconciler: TypeAlias = Callable[[Context, Request], Awaitable[Result | None]]
BlockingReconciler: TypeAlias = Callable[[BlockingContext, Request], Result | None]
Reconciler: TypeAlias = AsyncReconciler | BlockingReconciler


class ControllerStatistics(msgspec.Struct, frozen=True):
    """What a controller has done. `outcomes` counts runs by how they ended, times are in seconds.

    `timeouts` are the errors that were the reconcile timeout, `conflicts` those that were a stale write, `panics` those
    that would have ended the program (SystemExit); reconcile_seconds: how long runs took. `catch_ups` is how often a
    key had to wait for the caches to show its own writes, `catch_up_timeouts` how often that took too long.
    """

    name: str
    workers: int
    active: int
    outcomes: Mapping[str, int]
    timeouts: int
    conflicts: int
    panics: int
    catch_ups: int
    catch_up_timeouts: int
    reconcile_seconds: Durations
    queue: QueueStatistics

    @property
    def reconciles(self) -> int:
        """How many runs have ended."""
        return sum(self.outcomes.values())


class Controller:
    """Watches kinds, maps their events to keys, and reconciles each key, never twice at the same time.

    reconcile: `async def` runs on the loop; a plain `def` runs in a thread, with a `BlockingContext`.
    sources: what to watch, and which keys an event concerns; the first one is the kind that is reconciled.
    reads: kinds that the reconciler may read from the cache although their events trigger nothing.
    namespace: the only one that the informers of kinds with namespaces have; None = all.
    recorder: records the events of its runs.
    see: waits until the cache of a kind shows what is in the store now; raises KvError.
    elected: set when this process may act; until then caches and queue are filled, and no key is run. None = at once.
    timeout: seconds a run may take; None = no limit. A thread cannot be stopped: its key stays taken until it returns.
    """

    def __init__(
        self,
        name: str,
        reconcile: Reconciler,
        *,
        sources: Sequence[Source],
        informers: Mapping[ResourceType, SharedInformer],
        client: ObjectClient,
        now: Callable[[], datetime],
        see: Callable[[ResourceType], Awaitable[None]],
        recorder: Recorder,
        run_prefix: str,
        namespace: str | None = None,
        workers: int = 1,
        queue: WorkQueue[Request] | None = None,
        timeout: float | None = None,
        elected: asyncio.Event | None = None,
        sync_timeout: float = SYNC_TIMEOUT,
        catch_up_timeout: float = CATCH_UP_TIMEOUT,
    ) -> None:
        if workers < 1:
            raise ValueError(f"controller {name!r}: workers must be at least 1, not {workers}")
        self.name = name
        self.queue: WorkQueue[Request] = WorkQueue() if queue is None else queue
        self.client = client
        self.now = now
        self.run_prefix = run_prefix
        self._see = see
        self.recorder = recorder
        self.namespace = namespace
        self.caches = {kind: informer.cache for kind, informer in informers.items()}
        self.synced = asyncio.Event()
        self.started = asyncio.Event()
        self._elected = elected
        self._standby: asyncio.Task[Literal[True]] | None = None
        self._sources = sources
        self._informers = informers
        self._workers = workers
        self._timeout = timeout
        self._sync_timeout = sync_timeout
        self._catch_up_timeout = catch_up_timeout
        self._reconcile: AsyncReconciler
        if _is_async(reconcile):
            self._reconcile = cast(AsyncReconciler, reconcile)
        else:
            self._blocking = cast(BlockingReconciler, reconcile)
            self._reconcile = self._run_in_thread
        self._stopping = False
        self._runs = 0
        # Keys whose last run wrote something that the caches had not shown when it ended: kind -> revision.
        self._unseen: dict[Request, dict[ResourceType, str]] = {}
        self._unseen_limit = UNSEEN
        # Keys whose last run made a write of which it is not known whether it took place, and to which kinds.
        self._undecided: dict[Request, set[ResourceType]] = {}
        self._active: dict[Request, None] = {}
        self._outcomes: Counter[Outcome] = Counter()
        self._timeouts = self._conflicts = self._panics = self._catch_ups = self._catch_up_timeouts = 0
        self._reconcile_seconds = Histogram(RUN_BOUNDS)

    async def run(self) -> None:
        """Work until `stop`: workers start once every handler has been given its initial list (`synced`) and this
        process is elected (`started`).

        Raises SyncTimeout if the caches do not fill in time. Cancelling it cancels the runs in progress.
        """
        registrations: list[Registration] = []
        try:
            for source in self._sources:
                handler = EnqueueRequests(self.queue, source.requests, source.predicate)
                registrations.append(self._informers[source.cls.TYPE].add_handler(handler, name=self.name))
            await self._wait_synced(registrations)
            self.synced.set()
            if self._elected is not None and not await self._stand_by(self._elected):
                return
            self.started.set()
            async with asyncio.TaskGroup() as group:
                for n in range(self._workers):
                    group.create_task(self._work(), name=f"{self.name}-worker-{n}")
        finally:
            for registration in registrations:
                registration.remove()

    async def _stand_by(self, elected: asyncio.Event) -> bool:
        """Wait to be elected; False if `stop` came first."""
        self._standby = waiting = asyncio.create_task(elected.wait())
        try:
            await waiting
        except asyncio.CancelledError:
            waiting.cancel()
            if not self._stopping or cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
        return not self._stopping

    def stop(self) -> None:
        """Take no more keys; `run` returns when the runs in progress have ended."""
        self._stopping = True
        if self._standby is not None:
            self._standby.cancel()
        self.queue.shut_down()

    def statistics(self) -> ControllerStatistics:
        """The controller at this moment."""
        return ControllerStatistics(
            name=self.name,
            workers=self._workers,
            active=len(self._active),
            outcomes={outcome.value: self._outcomes[outcome] for outcome in Outcome},
            timeouts=self._timeouts,
            conflicts=self._conflicts,
            panics=self._panics,
            catch_ups=self._catch_ups,
            catch_up_timeouts=self._catch_up_timeouts,
            reconcile_seconds=self._reconcile_seconds.read(),
            queue=self.queue.statistics(),
        )

    @property
    def active(self) -> list[Request]:
        """The keys being reconciled now."""
        return list(self._active)

    async def _wait_synced(self, registrations: Sequence[Registration]) -> None:
        try:
            async with asyncio.timeout(self._sync_timeout):
                for registration in registrations:
                    await registration.wait_synced()
                for informer in self._informers.values():
                    await informer.wait_synced()
        except TimeoutError:
            waiting = sorted(kind.kind for kind, informer in self._informers.items() if not informer.has_synced)
            raise SyncTimeout(
                f"controller {self.name!r}: no complete list of {', '.join(waiting) or 'its kinds'} "
                f"within {self._sync_timeout:g} s"
            ) from None

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        queue = self.queue
        runs, started = 0, loop.time()
        while not self._stopping:
            request = await queue.get()
            if request is None:
                return
            try:
                ended = await self._run(request, loop)
            finally:
                queue.done(request)
            runs += 1
            if runs >= RUNS_BETWEEN_YIELDS or ended - started > SECONDS_BETWEEN_YIELDS:
                await asyncio.sleep(0)
                runs, started = 0, loop.time()

    async def _run(self, request: Request, loop: asyncio.AbstractEventLoop) -> float:
        """Run the reconciler for a key; the loop's time when that ended."""
        context = Context(self, request, self._runs + 1)
        if self._unseen and request in self._unseen and not await self._catch_up(context, request):
            self._settle(request, Outcome.ERROR, None)
            return loop.time()
        self._runs += 1
        self._active[request] = None
        started = loop.time()
        deadline: asyncio.Timeout | None = None
        try:
            if self._undecided and request in self._undecided:
                await self._decide(request)
            if self._timeout is None:
                result = await self._reconcile(context, request)
            else:
                async with asyncio.timeout(self._timeout) as deadline:
                    result = await self._reconcile(context, request)
            outcome = outcome_of(result)
        except TerminalError as error:
            outcome, result = Outcome.TERMINAL, None
            context.log.error("reconcile_failed_terminally", error=str(error), retry=False)
        # One key's failure must not stop the others; it is logged and counted. SystemExit as well: raised in a task it
        # would end the loop with everything open. `Manager.stop` is the way to end the program.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            outcome, result = Outcome.ERROR, None
            self._report(context, error, timed_out=deadline is not None and deadline.expired())
        except asyncio.CancelledError as error:
            if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            # Something that the reconciler awaited was cancelled, not this worker.
            outcome, result = Outcome.ERROR, None
            self._report(context, error, timed_out=False)
        finally:
            ended = loop.time()
            self._reconcile_seconds.observe(ended - started)
            del self._active[request]
            if context.written:
                self._remember(request, context.written)
            if context.undecided:
                self._undecided.setdefault(request, set()).update(context.undecided)
        self._outcomes[outcome] += 1
        self._settle(request, outcome, result)
        return ended

    def _settle(self, request: Request, outcome: Outcome, result: Result | None) -> None:
        queue = self.queue
        match outcome:
            case Outcome.SUCCESS | Outcome.TERMINAL:
                queue.forget(request)
            case Outcome.REQUEUE_AFTER:
                assert result is not None
                assert result.requeue_after is not None
                queue.forget(request)
                queue.add_after(request, result.requeue_after, result.priority)
            case Outcome.REQUEUE | Outcome.ERROR:
                queue.add_rate_limited(request, None if result is None else result.priority)

    def _report(self, context: Context, error: BaseException, *, timed_out: bool) -> None:
        failures = self.queue.failures(context.request) + 1
        if timed_out:
            self._timeouts += 1
            context.log.error("reconcile_timed_out", seconds=self._timeout, failures=failures)
        elif isinstance(error, Fenced):
            context.log.warning("reconcile_fenced", error=str(error), failures=failures)
        elif isinstance(error, Conflict):
            # Somebody else wrote first: an ordinary race, and the retry reads the object anew.
            self._conflicts += 1
            context.log.info("reconcile_conflicted", error=str(error), failures=failures)
        elif isinstance(error, NotFound) and str(error) == self._missing(context.request):
            # Somebody deleted it first: as ordinary, and the retry finds it gone.
            context.log.info("reconcile_overtaken", error=str(error), failures=failures)
        elif isinstance(error, Forbidden) or (isinstance(error, ApiError) and error.retriable):
            # The store's answer says it all: a quota that is full, a server that is away.
            context.log.warning("reconcile_refused", error=str(error), failures=failures)
        else:
            self._panics += isinstance(error, SystemExit)
            context.log.error("reconcile_failed", error=repr(error), failures=failures, exc_info=error)

    def _missing(self, request: Request) -> str:
        """What a client says when the key's own object is not there."""
        return f'{self._sources[0].cls.TYPE.qualified} "{request.name}" not found'

    # ---- read your own writes --------------------------------------------------------------------------------------

    def _remember(self, request: Request, written: Mapping[ResourceType, str]) -> None:
        if unseen := self._not_seen(written):
            self._unseen[request] = unseen
            if len(self._unseen) > self._unseen_limit:
                # A key whose object is gone may never run again: predicates can leave deletions out.
                self._unseen = {key: each for key, each in self._unseen.items() if self._not_seen(each)}
                self._unseen_limit = 2 * len(self._unseen) + UNSEEN

    def _not_seen(self, written: Mapping[ResourceType, str]) -> dict[ResourceType, str]:
        # A kind that this controller does not watch has nothing to wait for.
        caches = self.caches
        return {kind: at for kind, at in written.items() if kind in caches and is_newer(at, caches[kind].revision)}

    async def _decide(self, request: Request) -> None:
        """Wait until the caches show whether the last run's writes took place. Raises Unreachable if they do not."""
        kinds = [kind for kind in self._undecided[request] if kind in self.caches]
        try:
            async with asyncio.timeout(self._catch_up_timeout):
                for kind in kinds:
                    await self._see(kind)
        except KvError as error:
            raise from_store(error) from error
        except TimeoutError as error:
            seconds = self._catch_up_timeout
            raise Unreachable(f"the caches do not show what is in the store after {seconds:g} s") from error
        del self._undecided[request]

    async def _catch_up(self, context: Context, request: Request) -> bool:
        """Wait until the caches show what the key's last run wrote; whether they do. To run on what was there before
        would do it all again."""
        behind = self._not_seen(self._unseen[request])
        if behind:
            self._catch_ups += 1
            try:
                async with asyncio.timeout(self._catch_up_timeout):
                    for kind, revision in behind.items():
                        await self.caches[kind].wait_for(revision)
            except TimeoutError:
                self._catch_up_timeouts += 1
                kinds = sorted(kind.kind for kind in self._not_seen(behind))
                context.log.warning("cache_behind_own_writes", kinds=kinds, seconds=self._catch_up_timeout)
                return False
        self._unseen.pop(request, None)
        return True

    # ---- plain `def` reconcilers -----------------------------------------------------------------------------------

    async def _run_in_thread(self, context: Context, request: Request) -> Result | None:
        loop = asyncio.get_running_loop()
        blocking = BlockingContext(context, loop)
        ended: asyncio.Future[tuple[Result | None, BaseException | None]] = loop.create_future()

        def settle(result: Result | None, error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result((result, error))

        def body() -> None:
            result: Result | None = None
            error: BaseException | None = None
            try:
                result = self._blocking(blocking, request)
            except BaseException as raised:  # noqa: BLE001 (raised again in the run's task)
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: the run was left behind
                loop.call_soon_threadsafe(settle, result, error)

        # Not a pool's thread: the interpreter waits for those at its exit, for as long as they take.
        threading.Thread(target=body, name=f"{self.name} {request}", daemon=True).start()
        try:
            # As a result, since a future takes no StopIteration, and to forget an error of a run given up is no fault.
            result, error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            # A thread cannot be stopped. Whatever it asks for from now on fails, and the key stays taken until it
            # has returned: two runs of one key must never overlap. At the stop none can follow: it is left behind.
            blocking.give_up()
            await asyncio.wait([ended], timeout=THREAD_TIMEOUT if self._stopping else None)
            raise
        if error is not None:
            raise error
        return result


def _is_async(reconcile: Reconciler) -> bool:
    return inspect.iscoroutinefunction(reconcile) or inspect.iscoroutinefunction(type(reconcile).__call__)
