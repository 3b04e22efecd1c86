"""The manager: opens the store, shares informers, runs the controllers, and stops it all in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

import msgspec
import structlog

from controllers.catching_up import catch_up
from controllers.composite import Composite, DesiredFunction, FinalizeFunction
from controllers.controller import Controller, ControllerStatistics, Reconciler
from controllers.core.events import EventBroadcaster, EventStatistics
from controllers.errors import ControllerError, LeadershipLost, ManagerError
from controllers.handlers import MapFunction, Source, controller_owner, own_key
from controllers.leader import LeaderElection, LeaderElector, LeaderStatistics
from controllers.predicates import Predicate
from controllers.reconcile import Request
from controllers.settings import Settings
from controllers.stores import open_store
from controllers.workqueue import WorkQueue
from informer import (
    Admission,
    ApiError,
    Indexer,
    Informers,
    InformerStatistics,
    InformerStopped,
    ObjectClient,
    Resource,
    ResourceType,
    Selector,
    SharedInformer,
    Transform,
    crd_for,
)
from informer.selectors import SelectorLike
from kvstore.api import Client
from kvstore.client.fenced import FencedClient
from kvstore.errors import DataDirError, KvError

# What a cancelled task has to end. Only one that keeps its cancellation to itself takes longer; it is left behind.
CANCEL_TIMEOUT = 5.0
EVENTS_TIMEOUT = 1.0  # for the last Events to be written at the stop: nobody waits for more than their loss is worth

if TYPE_CHECKING:
    from controllers.endpoints import Endpoints

ReconcilerT = TypeVar("ReconcilerT", bound=Reconciler)
ParentT = TypeVar("ParentT", bound=Resource)
Runnable = Callable[[], Coroutine[Any, Any, None]]
Check = Callable[[], object]
"""A health check: it raises, or answers False, when something is wrong. It may be `async def`."""
BUILT_IN_CHECKS = {"healthz": ("ping", "event-loop"), "readyz": ("ping", "informers", "store")}

log = structlog.get_logger("controllers")


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


class ManagerStatistics(msgspec.Struct, frozen=True):
    """Controllers by name, informers by kind (`deployments.apps`, or the plural alone in the core group) and, as for
    kubectl, the part of it that they have (`pods -n default -l app=web`).

    requests: what its object clients asked of the store, see `ClientStatistics`; store: where that is.
    """

    controllers: Mapping[str, ControllerStatistics]
    informers: Mapping[str, InformerStatistics]
    leader: LeaderStatistics | None = None  # this process as a candidate
    requests: Mapping[str, Mapping[str, int]] = {}
    store: str = ""
    events: EventStatistics = EventStatistics(recorded=0, throttled=0, dropped=0, written=0, pending=0)


class ControllerOptions(TypedDict, total=False):
    """The options of `Manager.add_controller`, which says what they mean."""

    owns: Sequence[type[Resource]]
    watches: Mapping[type[Resource], MapFunction]
    reads: Sequence[type[Resource]]
    predicates: Mapping[type[Resource], Predicate]
    namespace: str | None
    selector: SelectorLike
    workers: int
    timeout: float | None
    leader_election: bool
    name: str
    queue: Callable[[], WorkQueue[Request]]


class _Definition(msgspec.Struct, frozen=True):
    name: str
    reconcile: Reconciler
    sources: tuple[Source, ...]
    reads: tuple[type[Resource], ...]
    namespace: str | None
    selector: Selector | None
    workers: int | None
    timeout: float | None
    leader_election: bool
    queue: Callable[[], WorkQueue[Request]] | None

    def kinds(self) -> list[type[Resource]]:
        return list(dict.fromkeys([*(source.cls for source in self.sources), *self.reads]))


class Manager:
    """Runs controllers against one store. `async with manager:` or `manager.run()`, once.

    store: as `open_store` reads it: `etcd://host:port,...`, a data directory, or None for the local default.
    client: any `kvstore` client instead; it stays the caller's to close.
    transform: what its caches keep of every object, see `informer.transforms`; None = all of it.
    now, rng: the wall clock and the randomness of everything below.
    settings: every number in it, see `controllers.settings`; None = as environment and file have them. What is given
        here by name wins over both:
    connect_timeout: seconds for which servers that cannot be reached at the start are tried again.
    stop_timeout: seconds that runs in progress have to end before they are cancelled.
    sync_timeout: seconds that the caches have to fill at the start.
    http: HOST:PORT where metrics, health and statistics are served, see `controllers.endpoints`; "" = nowhere.

    leader_election: the office that this process must hold to act, `NAME` or `NAMESPACE/NAME` for one with the
        settings' numbers; None = it acts at once. Until it is `elected` its
        caches and queues are filled, so that it can take over at once. What it writes through `client` and contexts is
        fenced: writes of a process that is not the leader raise `Fenced`, however late it learns of it. Losing the
        office stops the manager with LeadershipLost.

    A controller, an informer or a runnable that dies stops the manager: the body of `async with` is cancelled, and
    leaving it raises the error.
    """

    def __init__(
        self,
        store: str | None = None,
        *,
        client: Client | None = None,
        transform: Transform | None = None,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
        settings: Settings | None = None,
        connect_timeout: float | None = None,
        leader_election: LeaderElection | str | None = None,
        stop_timeout: float | None = None,
        sync_timeout: float | None = None,
        http: str | None = None,
    ) -> None:
        if store is not None and client is not None:
            raise ValueError("give a store or a client, not both")
        self._arguments: dict[str, Any] = {
            "connect_timeout": connect_timeout,
            "stop_timeout": stop_timeout,
            "sync_timeout": sync_timeout,
            "http": http,
        }
        self._settings = Settings.load(base=settings or Settings(), environ={}, **self._arguments)
        self._given_settings = settings
        self._hosts_settings: Settings | None = None
        self.store = store
        self._given_client = client
        self._transform = transform
        self._now = now
        self._rng = random.Random() if rng is None else rng
        self.events = EventBroadcaster(lambda: self.store_client, now=self._now, rng=self._rng)
        """Records Events in the name of components: `manager.events.recorder("backup").event(...)`."""
        self.leader_election = leader_election
        self.admission = Admission()
        """Hooks that are asked before its client or its reconcilers write: `@manager.admission.validate(Website)`."""
        self.elected = asyncio.Event()
        """Set while the manager may act: at once without leader election."""
        self._serve = False
        self._definitions: dict[str, _Definition] = {}
        self._indexes: dict[ResourceType, dict[str, Indexer]] = {}
        self._runnables: list[tuple[str, Runnable, bool]] = []
        self.healthz_checks: dict[str, Check] = {}
        self.readyz_checks: dict[str, Check] = {}

        self._entered = self._started = self._stopping = False
        self._resources = AsyncExitStack()
        self._store_client: Client | None = None
        self._store_name = ""
        self._endpoints: Endpoints | None = None
        self._client: ObjectClient | None = None
        self._unfenced: ObjectClient | None = None
        self._elector: LeaderElector | None = None
        self._leading: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._informers: Informers | None = None
        # Those that `informer` was asked for, and those of each controller.
        self._kept: dict[object, SharedInformer] = {}
        self._used: dict[str, list[SharedInformer]] = {}
        self._controllers: dict[str, Controller] = {}
        self._controller_tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # of controllers that are being removed
        self._runnable_tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._body: asyncio.Task[Any] | None = None
        self._failure: BaseException | None = None

    # ---- what to run -----------------------------------------------------------------------------------------------

    def reconciler(
        self, cls: type[Resource], **options: Unpack[ControllerOptions]
    ) -> Callable[[ReconcilerT], ReconcilerT]:
        """A decorator for `add_controller`: the function below it reconciles `cls`."""

        def register(reconcile: ReconcilerT) -> ReconcilerT:
            self.add_controller(cls, reconcile, **options)
            return reconcile

        return register

    def composite(
        self,
        cls: type[ParentT],
        *,
        children: Sequence[type[Resource]],
        finalize: FinalizeFunction[ParentT] | None = None,
        **options: Unpack[ControllerOptions],
    ) -> Callable[[DesiredFunction[ParentT]], DesiredFunction[ParentT]]:
        """A decorator: the function below it, `desired(parent, children) -> Desired`, says what is to be there.

        The runtime carries it out; see `controllers.composite`. children: the kinds that it may make.
        finalize: asked while a parent is being deleted, which then stays until it says so.
        """

        def register(desired: DesiredFunction[ParentT]) -> DesiredFunction[ParentT]:
            options["owns"] = [*children, *options.get("owns", ())]
            self.add_controller(cls, Composite(cls, children, desired, finalize), **options)
            return desired

        return register

    def add_controller(
        self,
        cls: type[Resource],
        reconcile: Reconciler,
        *,
        owns: Sequence[type[Resource]] = (),
        watches: Mapping[type[Resource], MapFunction] | None = None,
        reads: Sequence[type[Resource]] = (),
        predicates: Mapping[type[Resource], Predicate] | None = None,
        namespace: str | None = None,
        selector: SelectorLike = None,
        workers: int | None = None,
        timeout: float | None = None,
        leader_election: bool = True,
        name: str | None = None,
        queue: Callable[[], WorkQueue[Request]] | None = None,
    ) -> None:
        """Reconcile `cls`: an event on an object of it, or on what concerns it, leads to a run for its key.

        Before the manager is started or while it runs; then the controller starts at once, and its `started` tells when
        its caches are full.

        owns: kinds whose objects have a `cls` as their controller; an event on one runs for the owner.
        watches: kind -> function from an event's object (`Stored`) to the requests it concerns.
        reads: kinds that may be read from the cache besides.
        predicates: kind -> `predicate(old, new)`; its events count only where it says so (`generation_changed`, ...).
        namespace: see only the objects there, of every kind that has namespaces. selector: see only the objects of
            `cls` with such labels. Only these are cached; for this controller there are no others, and one that ceases
            to match is gone.
        workers: how many keys at the same time. timeout: seconds a run may take, 0 = no limit. Without them, and
            without a queue: as the settings have it.
        leader_election: False = it also acts in processes that are not the leader, and is not fenced.
        name: for logs and statistics; the kind in lower case unless given. queue: makes the work queue.
        """
        self._check_not_stopped()
        name = cls.TYPE.kind.lower() if name is None else name
        namespace = namespace or None
        if namespace is not None and not cls.TYPE.namespaced:
            raise ValueError(f"{cls.__name__} objects are in no namespace, {namespace!r} was asked for")
        if workers is not None and workers < 1:
            raise ValueError(f"controller {name!r}: workers must be at least 1, not {workers}")
        if name in self._definitions:
            raise ValueError(f"there is a controller {name!r} already: give this one another name=")
        predicates = predicates or {}
        sources = [Source(cls, own_key, predicates.get(cls))]
        sources += [Source(child, controller_owner(cls.TYPE), predicates.get(child)) for child in owns]
        sources += [Source(kind, function, predicates.get(kind)) for kind, function in (watches or {}).items()]
        if unknown := predicates.keys() - {source.cls for source in sources}:
            raise ValueError(f"predicates for kinds that are not watched: {', '.join(c.__name__ for c in unknown)}")
        wanted = None if selector is None else Selector.of(selector)
        definition = _Definition(
            name, reconcile, tuple(sources), tuple(reads), namespace, wanted, workers, timeout, leader_election, queue
        )
        self._definitions[name] = definition
        if self._started:
            try:
                self._launch(definition, define=True)
            except BaseException:
                del self._definitions[name]
                raise

    async def remove_controller(self, name: str) -> None:
        """Stop a controller while the manager runs, and forget it. Informers that only it used are stopped as well.

        Runs in progress have `stop_timeout` to end; so this is not for a controller's own reconciler. Raises KeyError
        if there is none of that name. Cancelling it cancels the runs.
        """
        controller = self._controllers.pop(name)
        task = self._controller_tasks[name]
        self._leaving.add(task)
        controller.stop()
        try:
            if not await _end({task}, self._settings.stop_timeout):
                log.warning(
                    "stop_timed_out",
                    seconds=self._settings.stop_timeout,
                    active={name: [r.key for r in controller.active]},
                )
        finally:
            await _cancel({task})
            self._leaving.discard(task)
            del self._definitions[name], self._controller_tasks[name]
            if self._informers is not None:
                for informer in self._used.pop(name):
                    await self._informers.release(informer)

    def add_index(self, cls: type[Resource], name: str, function: Indexer) -> None:
        """Let the caches of `cls` find objects by a function of them: `ctx.list(cls, index=(name, value))`.

        At any time. Raises ValueError if the kind has an index of that name by another function.
        """
        indexes = self._indexes.setdefault(cls.TYPE, {})
        if indexes.get(name, function) is not function:
            raise ValueError(f"{cls.__name__} has an index {name!r} of another function already")
        for informer in [] if self._informers is None else self._informers.of(cls.TYPE):
            informer.cache.add_indexer(name, function)
        indexes[name] = function

    def add_runnable(self, runnable: Runnable, name: str | None = None, *, leader_election: bool = True) -> None:
        """Run a coroutine function beside the controllers: from when their caches are full, cancelled at the stop.

        Before the manager is started or while it runs; then it starts at once. leader_election: True = only while this
        process is the leader.
        """
        self._check_not_stopped()
        name = name or str(getattr(runnable, "__name__", "runnable"))
        if self._started and (self.elected.is_set() or not leader_election):
            self._run_runnable(name, runnable)
        else:
            self._runnables.append((name, runnable, leader_election))

    def add_healthz_check(self, name: str, check: Check) -> None:
        """Ask it for `/healthz`, too: it raises, or answers False, when only a restart of the process would help."""
        self._add_check("healthz", self.healthz_checks, name, check)

    def add_readyz_check(self, name: str, check: Check) -> None:
        """Ask it for `/readyz`, too: it raises, or answers False, while the process cannot do its work."""
        self._add_check("readyz", self.readyz_checks, name, check)

    def _add_check(self, kind: str, checks: dict[str, Check], name: str, check: Check) -> None:
        if not name or name in checks or name in BUILT_IN_CHECKS[kind]:
            raise ValueError(f"there is a check {name!r} of {kind} already" if name else "a check needs a name")
        checks[name] = check

    def use_client(self, client: Client, settings: Settings) -> None:
        """Run as a guest: on this client instead of the store that the manager was made for, with these settings where
        it was made without, and with endpoints of its own only if it was made with some.

        The client stays the caller's to close.
        """
        self._check_not_started()
        self._given_client = client
        self._hosts_settings = msgspec.structs.replace(settings, http="")

    def _check_not_started(self) -> None:
        if self._entered:
            raise RuntimeError("the manager has been started: add to it before")

    def _check_not_stopped(self) -> None:
        if self._entered and not self._started:
            raise RuntimeError("the manager is being started: add to it before or after")
        if self._stopping:
            raise RuntimeError("the manager has been stopped")

    # ---- what there is while it runs -------------------------------------------------------------------------------

    @property
    def now(self) -> Callable[[], datetime]:
        """The wall clock that everything below uses."""
        return self._now

    @property
    def rng(self) -> random.Random:
        """The randomness that everything below uses."""
        return self._rng

    @property
    def settings(self) -> Settings:
        """What it goes by; environment and file are read at the start."""
        return self._settings

    @property
    def http_address(self) -> str:
        """HOST:PORT where metrics and health are served; "" where they are not."""
        return "" if self._endpoints is None else self._endpoints.address

    @property
    def is_open(self) -> bool:
        """Whether it has a store: from shortly after the start to the end."""
        return self._store_client is not None

    @property
    def controller_names(self) -> list[str]:
        """The names of the controllers that were added."""
        return [*self._definitions]

    @property
    def kinds(self) -> list[type[Resource]]:
        """The kinds that its controllers watch or read."""
        return list(dict.fromkeys(cls for definition in self._definitions.values() for cls in definition.kinds()))

    @property
    def client(self) -> ObjectClient:
        """Reads and writes objects. Only while the manager runs."""
        if self._client is None:
            raise RuntimeError("the manager is not running: use its client inside `async with manager:`")
        return self._client

    @property
    def _unfenced_client(self) -> ObjectClient:
        if self._unfenced is None:
            raise RuntimeError("the manager is not running")
        return self._unfenced

    @property
    def store_client(self) -> Client:
        """The store itself. Only while the manager runs."""
        if self._store_client is None:
            raise RuntimeError("the manager is not running: use its store inside `async with manager:`")
        return self._store_client

    @property
    def informers(self) -> Informers:
        """The informers of its controllers, for others to share. Only while the manager runs."""
        if self._informers is None:
            raise RuntimeError("the manager is not running: use its informers inside `async with manager:`")
        return self._informers

    def informer(
        self,
        cls: type[Resource],
        namespace: str | None = None,
        *,
        selector: SelectorLike = None,
    ) -> SharedInformer:
        """The one informer of a kind or a part of it, started if need be and kept until the manager stops.

        As `Informers.acquire`; use `informers` for one that can be given back. Only while the manager runs.
        """
        wanted = None if selector is None else Selector.of(selector)
        key = (cls.TYPE, namespace, wanted)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._acquire(cls, namespace, wanted)
        return found

    def _acquire(self, cls: type[Resource], namespace: str | None, selector: Selector | None) -> SharedInformer:
        informer = self.informers.acquire(cls, namespace, selector=selector, transform=self._transform)
        try:
            for name, function in self._indexes.get(cls.TYPE, {}).items():
                informer.cache.add_indexer(name, function)
        except BaseException:
            self._give_back([informer])
            raise
        return informer

    def _give_back(self, informers: Sequence[SharedInformer]) -> None:
        """Release them, without waiting for their end."""

        async def release() -> None:
            for informer in informers:
                await self.informers.release(informer)

        task = asyncio.create_task(release(), name="release informers")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def controller(self, name: str) -> Controller:
        """The controller of that name. Only while the manager runs."""
        return self._controllers[name]

    def statistics(self) -> ManagerStatistics:
        """The manager at this moment."""
        return ManagerStatistics(
            controllers={name: controller.statistics() for name, controller in self._controllers.items()},
            informers={} if self._informers is None else self._informers.statistics(),
            leader=None if self._elector is None else self._elector.statistics(),
            requests=self._requests(),
            store=self._store_name,
            events=self.events.statistics(),
        )

    def _requests(self) -> dict[str, dict[str, int]]:
        requests: dict[str, dict[str, int]] = {}
        for client in {self._client, self._unfenced} - {None}:
            assert client is not None
            for method, codes in client.statistics().requests.items():
                counts = requests.setdefault(method, {})
                for code, count in codes.items():
                    counts[code] = counts.get(code, 0) + count
        return requests

    # ---- start and stop --------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start; returns once every controller's caches are full and its workers run.

        With leader election it does not wait for the workers: `await manager.elected.wait()` does.
        """
        self._check_not_started()
        if self._hosts_settings is not None and self._given_settings is None:
            self._settings = Settings.load(base=self._hosts_settings, environ={}, **self._arguments)
        elif self._given_settings is None:
            self._settings = Settings.load(**self._arguments)
        self._entered = True
        self._body = asyncio.current_task()
        try:
            await self._open()
        except BaseException as error:
            await self._close()
            self._raise_failure(error)
            raise
        self._started = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        self._raise_failure(error)

    def stop(self) -> None:
        """Make `run` stop in order and return, as a signal does. For a runnable or a reconciler."""
        self._stop.set()

    async def wait_stopped(self) -> None:
        """Until `stop` is called."""
        await self._stop.wait()

    def run(self) -> None:
        """Run until SIGINT, SIGTERM or `stop`; a second signal does not wait for runs in progress.

        An embedded store also listens on 127.0.0.1:2379 meanwhile, for `listwatch get` in another terminal. An error
        is one line on stderr and exit code 1.
        """
        self._serve = True
        try:
            asyncio.run(self._run())
        except (ControllerError, ApiError, KvError, DataDirError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except asyncio.CancelledError:
            when = "before the runs in progress had ended" if self._started else "while starting"
            print(f"error: stopped {when}", file=sys.stderr)
            raise SystemExit(1) from None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def on_signal() -> None:
            if self._stop.is_set() or not self._started:
                task.cancel()
            self._stop.set()

        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, on_signal)
        try:
            async with self:
                log.info("manager_started", controllers=sorted(self._controllers))
                await self.wait_stopped()
                log.info("manager_stopping", seconds=self._settings.stop_timeout)
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def _open(self) -> None:
        settings = self._settings
        await self._serve_http()
        if self._given_client is not None:
            self._store_client = self._given_client
        else:
            opened = open_store(
                self.store or settings.store or None,
                serve=self._serve,
                rng=self._rng,
                connect_timeout=settings.connect_timeout,
            )
            self._store_client = await self._resources.enter_async_context(opened)
        self._store_name = ",".join(getattr(self._store_client, "endpoints", ())) or "local"
        self._client = self._unfenced = ObjectClient(
            self._store_client, now=self._now, rng=self._rng, admission=self.admission
        )
        if self.leader_election is not None:
            election = self.leader_election
            if isinstance(election, str):
                election = settings.election(election)
            elector = LeaderElector(self._store_client, election, now=self._now, rng=self._rng)
            fenced = FencedClient(self._store_client, lambda: elector.fence, elector.doubt)
            self._client = ObjectClient(fenced, now=self._now, rng=self._rng, admission=self.admission)
            self._elector = elector
        await self._define(self.kinds)
        self._informers = Informers(
            self._store_client,
            rng=self._rng,
            queue_limit=settings.handler_queue_limit,
            page_size=settings.list_page_size,
            on_failure=self._informer_failed,
        )
        self._run_prefix = f"{self._rng.getrandbits(32):08x}"
        self._recording = self._start("events", self.events.run())
        for definition in self._definitions.values():
            self._launch(definition)
        for controller in self._controllers.values():
            await controller.synced.wait()
        self._run_runnables(leader_election=False)
        if self._elector is not None:
            self._leading = self._start("leader election", self._lead(self._elector))
            return
        self.elected.set()
        for controller in self._controllers.values():
            await controller.started.wait()
        self._run_runnables(leader_election=True)

    async def _serve_http(self) -> None:
        if self._settings.http:
            from controllers.endpoints import Endpoints  # aiohttp is not needed otherwise

            self._endpoints = Endpoints([self], self._settings.http, self._settings)
            await self._resources.enter_async_context(self._endpoints)

    def _run_runnables(self, *, leader_election: bool) -> None:
        for name, runnable, when_elected in self._runnables:
            if when_elected is leader_election:
                self._run_runnable(name, runnable)

    def _run_runnable(self, name: str, runnable: Runnable) -> None:
        self._runnable_tasks.add(self._start(f"runnable {name}", runnable()))

    async def _lead(self, elector: LeaderElector) -> None:
        """Become the leader, act as such, and fail when it is over."""
        await elector.acquire()
        async with asyncio.TaskGroup() as group:
            group.create_task(elector.hold())
            await self._see_predecessor()
            self.elected.set()
            self._run_runnables(leader_election=True)

    async def _see_predecessor(self) -> None:
        """Wait until the caches show what the last leader wrote. No write of its can come any more: they are fenced."""
        seconds = self._settings.catch_up_timeout
        try:
            async with asyncio.timeout(seconds):
                for definition, informers in [(self._definitions[name], used) for name, used in self._used.items()]:
                    with contextlib.suppress(InformerStopped):  # its controller was removed meanwhile
                        for cls, informer in zip(definition.kinds(), informers, strict=True):
                            await catch_up(self.store_client, informer.cache, _prefix(cls.TYPE, definition.namespace))
        except (TimeoutError, KvError) as error:
            log.warning("caches_behind_the_last_leader", seconds=seconds, error=str(error) or "timed out")

    def _launch(self, definition: _Definition, *, define: bool = False) -> None:
        """Start a controller; `define` its kinds in the store before."""
        settings = self._settings
        namespace, name, primary = definition.namespace, definition.name, definition.sources[0].cls
        informers: dict[ResourceType, SharedInformer] = {}

        async def see(kind: ResourceType) -> None:
            await catch_up(self.store_client, informers[kind].cache, _prefix(kind, namespace))

        try:
            for cls in definition.kinds():
                informers[cls.TYPE] = self._acquire(
                    cls,
                    namespace if cls.TYPE.namespaced else None,
                    definition.selector if cls is primary else None,
                )
            controller = Controller(
                name,
                definition.reconcile,
                sources=definition.sources,
                informers=informers,
                client=(self.client if definition.leader_election else self._unfenced_client).with_field_manager(name),
                elected=self.elected if definition.leader_election else None,
                now=self._now,
                see=see,
                recorder=self.events.recorder(name),
                run_prefix=self._run_prefix,
                namespace=namespace,
                workers=definition.workers or settings.workers,
                queue=settings.queue() if definition.queue is None else definition.queue(),
                timeout=(settings.reconcile_timeout if definition.timeout is None else definition.timeout) or None,
                sync_timeout=settings.sync_timeout,
                catch_up_timeout=settings.catch_up_timeout,
            )

        except BaseException:
            self._give_back([*informers.values()])
            raise

        async def define_and_run() -> None:
            await self._define(definition.kinds())
            await controller.run()

        self._used[name] = [*informers.values()]
        self._controllers[name] = controller
        run = define_and_run() if define else controller.run()
        self._controller_tasks[name] = self._start(f"controller {name}", run)

    async def _define(self, kinds: Sequence[type[Resource]]) -> None:
        """Tell the store of the kinds that are users'."""
        for cls in kinds:
            if _is_custom(cls):
                await self._unfenced_client.apply(crd_for(cls))

    async def _close(self) -> None:
        """Controllers and runnables first, then the office is left, then informers, then the store: each has what it
        needs to end, and the next leader begins when this one has ended."""
        self._stopping = True
        tasks = {*self._runnable_tasks, *self._controller_tasks.values(), *self._leaving}
        try:
            for task in self._runnable_tasks:
                task.cancel()
            for controller in self._controllers.values():
                controller.stop()
            # A leader no more, what is in progress can write nothing: there is no point in waiting for it.
            patience = 0.0 if isinstance(self._failure, LeadershipLost) else self._settings.stop_timeout
            if not await _end(tasks, patience) and patience:
                active = {name: [r.key for r in c.active] for name, c in self._controllers.items() if c.active}
                log.warning("stop_timed_out", seconds=self._settings.stop_timeout, active=active)
            if self._recording is not None and not self._recording.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVENTS_TIMEOUT):
                        await self.events.flush()
        finally:
            await _cancel(tasks)
            if self._recording is not None:
                await _cancel({self._recording})
            if self._elector is not None:
                if self._leading is not None:
                    await _cancel({self._leading})
                self.elected.clear()
                await self._elector.release()
            if self._informers is not None:
                with contextlib.suppress(TimeoutError):  # a handler keeps its cancellation to itself
                    async with asyncio.timeout(CANCEL_TIMEOUT):
                        await self._informers.close()
                self._informers = None
            self._client = self._unfenced = self._store_client = None
            await self._resources.aclose()

    # ---- supervision -----------------------------------------------------------------------------------------------

    def _start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        name = task.get_name()
        error = None if task.cancelled() else task.exception()
        expected = self._stopping or task in self._leaving
        if expected:
            if error is not None:
                self._log_late(name, error)
        elif error is not None:
            self._fail(name, error)
        elif task.cancelled() or task not in self._runnable_tasks:
            self._fail(name, ManagerError(f"{name} ended unexpectedly"))
        self._runnable_tasks.discard(task)

    def _informer_failed(self, informer: SharedInformer, error: BaseException) -> None:
        name = f"informer {informer.name}"
        if self._stopping:
            self._log_late(name, error)
        else:
            self._fail(name, error)

    def _log_late(self, name: str, error: BaseException) -> None:
        log.error("failed_while_stopping", task=name, error=repr(error), exc_info=error)

    def _fail(self, name: str, error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if self._failure is None:
            self._failure = error
            log.error("manager_failed", task=name, error=repr(error))
            assert self._body is not None
            self._body.cancel()

    def _raise_failure(self, error: BaseException | None) -> None:
        """Raise what stopped the manager, unless somebody else has cancelled the body as well."""
        if self._failure is None:
            return
        assert self._body is not None
        if self._body.uncancel() > 0 and isinstance(error, asyncio.CancelledError):
            return
        raise self._failure


async def _end(tasks: set[asyncio.Task[None]], timeout: float) -> bool:
    """Wait for the tasks; whether all ended in time."""
    if not tasks:
        return True
    _, pending = await asyncio.wait(tasks, timeout=timeout)
    return not pending


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel what is left of the tasks, within bounds."""
    for _ in range(2):  # a runnable may have taken the first one for something else
        for task in tasks:
            task.cancel()
        if await _end(tasks, CANCEL_TIMEOUT):
            return


def _prefix(kind: ResourceType, namespace: str | None) -> bytes:
    return kind.prefix(namespace if kind.namespaced else None)


def _is_custom(cls: type[Resource]) -> bool:
    """Whether a kind is a user's, by Kubernetes' rule for groups: one with a dot that is not under k8s.io."""
    return "." in cls.TYPE.group and not cls.TYPE.group.endswith(".k8s.io")
