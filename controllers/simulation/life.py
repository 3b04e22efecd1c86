"""One life of an operator on virtual time: users wish, faults strike, processes die, and everything is checked."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import difflib
import inspect
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.garbage import GarbageCollector
from controllers.core.types import Event, Lease
from controllers.errors import ControllerError
from controllers.kinds import BUILTIN_KINDS
from controllers.leader import LeaderElection
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from controllers.simulation.client import NO_FAULTS, Faults, SimulatedClient
from controllers.simulation.scenario import Process, Raw, Revision, Scenario
from controllers.simulation.trace import SimulationFailed, Trace
from controllers.simulation.user import User
from controllers.simulation.virtual_time import OneThreadLoop
from informer import ApiError, ObjectClient
from kvstore.api import Client, EventType, prefix_end
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import KvError
from kvstore.node import Node, NodeOptions

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
REGISTRY = b"/registry/"
OFFICE = "simulated"
# The chances that a step is a blow from outside rather than a user's doing.
CRASH, COMPACT, DEPOSE, SILENCE = 0.08, 0.06, 0.06, 0.04
RESTART = (0.1, 5.0)  # seconds until a process that died is started again
SILENT = (5.0, 30.0)  # seconds for which a leader's renewals do not get through
LOOK = 5.0  # seconds between looks at whether the end is reached
KILL_ROUNDS, KILL_PATIENCE = 20, 1.0
DIFFERENCE = 60  # lines of one that are told
# Without faults; more are a loop without end. With them a cache that is late can make a reconciler and the garbage
# collector work against each other until it is not late any more.
WRITES, RUNS = 1_000, 2_000
WHILE_FAULTY = 30  # times as many

T = TypeVar("T")

_process: contextvars.ContextVar[_Running | None] = contextvars.ContextVar("process", default=None)


@dataclasses.dataclass
class Statistics:
    """What happened in a life. virtual_seconds: how long it was."""

    virtual_seconds: float = 0.0
    revisions: int = 0
    runs: int = 0
    starts: int = 0
    operations: int = 0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)


def simulate(
    scenario: Callable[[Path], Scenario], seed: int, *, replay: str = "", trace: Trace | None = None
) -> Statistics:
    """Live one life: `simulate(MyScenario, seed=17)`. The same seed gives the same life, to the letter.

    First what users wished in the end is brought about without faults; the life itself has to end the same way. It
    fails with `SimulationFailed` too when a check of the scenario does, when a process writes a spec that is a user's
    or in an office that it does not hold, when objects outlive their owners, when there is no rest, or when something
    is left running. Not from a running loop. Reconcilers have to be `async`: a thread cannot be simulated.

    replay: the command that lives it again, for the failure. trace: to be filled; one of its own unless given.
    """
    trace = Trace() if trace is None else trace
    replay = replay or f"simulate({getattr(scenario, '__name__', 'scenario')}, seed={seed})"
    with tempfile.TemporaryDirectory(prefix="simulation-") as name, structlog.testing.capture_logs():
        try:
            return _simulate(scenario, seed, trace, Path(name))
        except (AssertionError, TimeoutError) as error:
            raise SimulationFailed(seed, str(error) or repr(error), trace, replay) from error


def _simulate(scenario: Callable[[Path], Scenario], seed: int, trace: Trace, directory: Path) -> Statistics:
    # Of the same name in both lives, for specs may have paths in them.
    outside, aside = directory / "outside", directory / "aside"
    outside.mkdir()
    life = _Life(scenario(outside), seed, trace)
    with asyncio.Runner(loop_factory=OneThreadLoop) as runner:
        wishes = runner.run(life.begin(directory / "life"))
        outside.rename(aside)
        outside.mkdir()
        model = _Life(scenario(outside), seed, Trace(), wishes)
        try:
            with asyncio.Runner(loop_factory=OneThreadLoop) as another:
                another.run(model.begin(directory / "model"))
                another.run(model.finish(None))
        except (AssertionError, TimeoutError) as error:
            trace.lines[:] = model.trace.lines
            raise AssertionError(f"without any fault: {error!s}") from error
        shutil.rmtree(outside)
        aside.rename(outside)
        runner.run(life.finish(model.end))
    return life.statistics


class _Running:
    """A process while it lives: its tasks are those that were started by it."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.crashed = False
        self.stop = asyncio.Event()

    def crash(self) -> None:
        """Nothing of it goes on, and nothing that it still tries reaches the store."""
        self.crashed = True
        self.process.client.dead = True
        for task in list(self.tasks):
            task.cancel()


class _Life:
    """wishes: what is to be brought about at once, without faults; None = a life with faults, to be compared later."""

    def __init__(self, scenario: Scenario, seed: int, trace: Trace, wishes: dict[str, Raw] | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.trace = trace
        self.disturbed = wishes is None
        self.wishes = wishes
        self.expected: Any = None
        self.wished = asyncio.Event()
        self.compared = asyncio.Event()
        self.news = asyncio.Event()
        self.end: Any = None
        self.statistics = Statistics()
        self.rng = random.Random(f"{seed}/steps")
        self.faults: Faults = scenario.faults if self.disturbed else NO_FAULTS
        self.running: dict[str, _Running] = {}
        self.starts: Counter[str] = Counter()
        self.objects: dict[str, Raw] = {}
        self.last = Revision(0, "", {}, ())
        self.authors: dict[int, str] = {}
        self.unchecked: list[Revision] = []
        self.written_at = 0.0
        self.compacted = 1
        self.is_calm = not self.disturbed
        self.calm = (0, 0)  # revisions and runs until then
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.finishing = asyncio.Event()
        # In the order of their start, as asyncio's own set of all tasks is not.
        self.tasks: dict[asyncio.Task[Any], None] = {}

    # ---- from start to end -----------------------------------------------------------------------------------------

    async def begin(self, directory: Path) -> dict[str, Raw]:
        """Live until the last fault, and tell what users wish then. The life stands still until `finish`."""
        self.main = asyncio.create_task(self._live_on(directory))
        wished = asyncio.create_task(self.wished.wait())
        await asyncio.wait([self.main, wished], return_when=asyncio.FIRST_COMPLETED)
        wished.cancel()
        await asyncio.wait([wished])
        if self.main.done():
            self.main.result()
        assert self.wishes is not None
        return self.wishes

    async def finish(self, expected: Any) -> None:
        """Live on until everything is as it is expected to be."""
        self.expected = expected
        self.compared.set()
        await self.main

    async def _live_on(self, directory: Path) -> None:
        self.outside = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        options = NodeOptions(fsync=False, inline_commits=True)
        async with Node.open(directory, options, rng=random.Random(f"{self.seed}/store")) as node:
            store = EmbeddedClient(node)
            self.store = store
            try:
                await self._live(store)
            finally:
                await store.close()
        left = [task for task in self.tasks if not task.done()]
        names = sorted(task.get_name() for task in left)
        assert not left, f"left running: {', '.join(names)}"
        self.statistics.virtual_seconds = loop.time()

    async def _live(self, store: Client) -> None:
        around = Manager(client=self._client("cluster", NO_FAULTS), now=_now, rng=random.Random(f"{self.seed}/cluster"))
        events = EventBroadcaster(lambda: around.store_client, now=_now, rng=around.rng)
        kinds = dict.fromkeys([*BUILTIN_KINDS, self.scenario.kind, *self.scenario.children])
        del kinds[Event]
        GarbageCollector(around, events, list(kinds)).register()
        around.add_runnable(events.run)
        self.scenario.surroundings(around)
        watching = asyncio.create_task(self._watch(store))
        checking = asyncio.create_task(self._check())
        supervisors: list[asyncio.Task[None]] = []
        try:
            async with around:
                names = [f"process-{n}" for n in range(1, self.scenario.processes + 1)]
                supervisors = [asyncio.create_task(self._supervise(name)) for name in names]
                story = asyncio.create_task(self._story(store))
                failed = asyncio.create_task(self.failed.wait())
                try:
                    await asyncio.wait([story, failed, watching, checking], return_when=asyncio.FIRST_COMPLETED)
                    self._raise()
                    for task in (watching, checking):
                        if task.done():
                            task.result()
                    story.result()
                finally:
                    failed.cancel()
                    story.cancel()
                    await asyncio.wait([failed, story])
                    self.finishing.set()
                    for each in list(self.running.values()):
                        each.stop.set()
                    await asyncio.wait(supervisors)
                self._raise()
        finally:
            for task in (watching, checking, *supervisors):
                task.cancel()
            await asyncio.wait([watching, checking])

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def _story(self, store: Client) -> None:
        scenario = self.scenario
        client = ObjectClient(self._client("user", NO_FAULTS), now=_now, rng=random.Random(f"{self.seed}/user"))
        user = User(client, random.Random(f"{self.seed}/wishes"), scenario.kind, scenario.children, scenario.spec)
        if self.disturbed:
            for _ in range(scenario.steps):
                await asyncio.sleep(self.rng.choice(scenario.pauses))
                await self._step(user, store)
            self.trace.add("world", "no more faults")
            self.faults = NO_FAULTS
            for running in self.running.values():
                running.process.client.faults = NO_FAULTS
                running.process.client.renews = True
            self.wishes = user.wishes
        else:
            assert self.wishes is not None
            user.wishes = self.wishes
        self.wished.set()
        await self.compared.wait()
        if self.disturbed:
            await asyncio.sleep(scenario.faults.latest)
            self.is_calm, self.calm = True, (self.statistics.revisions, self.statistics.runs)
        await self._end(user)

    async def _step(self, user: User, store: Client) -> None:
        self.statistics.operations += 1
        blow = self.rng.random()
        names = sorted(self.running)
        victim = self.running[self.rng.choice(names)] if names else None
        if victim is not None and blow < CRASH:
            self._crash(victim, "at rest")
        elif blow < CRASH + COMPACT:
            await self._compact(store)
        elif self.scenario.processes > 1 and blow < CRASH + COMPACT + DEPOSE:
            self.trace.add("world", "the Lease is deleted")
            await store.delete(Lease.TYPE.key("default", OFFICE))
            self.statistics.faults["depose"] += 1
        elif victim is not None and self.scenario.processes > 1 and blow < CRASH + COMPACT + DEPOSE + SILENCE:
            self._silence(victim)
        else:
            name = self.rng.choice(sorted(self.scenario.operations))
            self.trace.add("user", await self.scenario.operations[name](user))

    async def _compact(self, store: Client) -> None:
        if self.last.number > self.compacted:
            self.compacted = self.last.number
            self.statistics.faults["compact"] += 1
            self.trace.add("world", f"compact {self.compacted}")
            await store.compact(self.compacted)

    def _silence(self, victim: _Running) -> None:
        seconds = self.rng.uniform(*SILENT)
        client = victim.process.client
        self.trace.add("world", f"{victim.process.name} cannot renew for {seconds:.1f} s")
        self.statistics.faults["silence"] += 1
        client.renews = False
        asyncio.get_running_loop().call_later(seconds, setattr, client, "renews", True)

    # ---- the end ---------------------------------------------------------------------------------------------------

    async def _end(self, user: User) -> None:
        """Bring about what is wished, and see that everything comes to rest there."""
        loop = asyncio.get_running_loop()
        scenario = self.scenario
        deadline = loop.time() + scenario.patience
        while True:
            await asyncio.sleep(LOOK)
            quiet = loop.time() - self.written_at >= scenario.rest
            settled = await user.carry_out() and quiet
            if settled and (not self.disturbed or scenario.end_state(self.last) == self.expected):
                break
            if loop.time() > deadline:
                assert quiet, f"no rest: the last write was {loop.time() - self.written_at:.1f} s ago"
                assert settled, "what users wish is not there"
                difference = _difference(self.expected, scenario.end_state(self.last))
                raise AssertionError(f"another end than without faults:\n{difference}")
        runs = self.statistics.runs
        await asyncio.sleep(scenario.rest)
        runs = self.statistics.runs - runs
        allowed = scenario.runs * max(1, len(user.wishes))
        assert runs <= allowed, f"{runs} runs in {scenario.rest:g} s in which nothing happened, {allowed} are allowed"
        self._check_owners()
        self.end = scenario.end_state(self.last)
        self.trace.add("world", f"at rest, {len(self.last.objects)} objects at revision {self.last.number}")

    def _check_owners(self) -> None:
        uids = {obj["metadata"].get("uid") for obj in self.last.objects.values()}
        for key, obj in self.last.objects.items():
            owners = [each["uid"] for each in obj["metadata"].get("ownerReferences", ())]
            assert not owners or uids.intersection(owners), f"{key} has outlived its owners"

    # ---- processes -------------------------------------------------------------------------------------------------

    async def _supervise(self, name: str) -> None:
        """Keep a process running, as a kubelet does."""
        while True:
            running = self._make(name)
            context = contextvars.copy_context()
            context.run(_process.set, running)
            main = asyncio.get_running_loop().create_task(self._run(running), name=name, context=context)
            self.running[name] = running
            await asyncio.wait([main])
            await self._bury(running)
            self.running.pop(name)
            delay = self.rng.uniform(*RESTART)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self.finishing.wait()
            if self.finishing.is_set():
                return

    def _make(self, name: str) -> _Running:
        self.starts[name] += 1
        self.statistics.starts += 1
        life = f"{name}.{self.starts[name]}"
        election = LeaderElection(OFFICE, identity=life) if self.scenario.processes > 1 else None
        client = self._client(life, self.faults)
        rng = random.Random(f"{self.seed}/{life}")
        return _Running(Process(life, client, _now, rng, election))

    async def _run(self, running: _Running) -> None:
        name = running.process.name
        self.trace.add(name, "starts")
        try:
            manager = self.scenario.manager(running.process)
            self._follow(manager, running)
            async with manager:
                await running.stop.wait()
        except asyncio.CancelledError:
            if not running.crashed:
                raise
        except (ControllerError, ApiError, KvError) as error:
            if not running.crashed:
                self.trace.add(name, f"ends: {type(error).__name__}: {error}")
                running.process.client.dead = True
        except Exception as error:  # noqa: BLE001 (it ends the life)
            if not running.crashed:
                self._fail(error)

    async def _bury(self, running: _Running) -> None:
        for _ in range(KILL_ROUNDS):
            if not running.tasks:
                return
            if running.crashed or running.process.client.dead:
                for task in list(running.tasks):
                    task.cancel()
            await asyncio.wait(list(running.tasks), timeout=KILL_PATIENCE)
        if running.tasks:
            names = ", ".join(task.get_name() for task in running.tasks)
            self._fail(AssertionError(f"{running.process.name} has ended and left running: {names}"))

    def _crash(self, victim: _Running, when: str) -> None:
        self.statistics.faults["crash"] += 1
        self.trace.add("world", f"{victim.process.name} crashes {when}")
        victim.crash()

    def _follow(self, manager: Manager, running: _Running) -> None:
        """Tell of each run how it ended."""
        for name, definition in manager._definitions.items():
            followed = self._followed(running, name, definition.reconcile)
            manager._definitions[name] = msgspec.structs.replace(definition, reconcile=followed)

    def _followed(self, running: _Running, controller: str, reconcile: Any) -> Any:
        call = reconcile if inspect.iscoroutinefunction(reconcile) else type(reconcile).__call__
        if not inspect.iscoroutinefunction(call):
            raise TypeError(f"controller {controller!r}: only async reconcilers can be simulated")
        who = running.process.name

        async def follow(ctx: Context, request: Request) -> Result | None:
            self.statistics.runs += 1
            try:
                self._check_budget("runs", self.statistics.runs - self.calm[1], RUNS)
            except AssertionError as error:
                self._fail(error)
            try:
                result: Result | None = await reconcile(ctx, request)
            except Exception as error:
                self.trace.add(who, f"run {controller} {request}: {type(error).__name__}: {error}")
                raise
            self.trace.add(who, f"run {controller} {request}: {'done' if result is None else result}")
            return result

        return follow

    # ---- what the store says ---------------------------------------------------------------------------------------

    def _client(self, name: str, faults: Faults) -> SimulatedClient:
        def crash() -> None:
            running = _process.get()
            assert running is not None
            running.crash()

        rng = random.Random(f"{self.seed}/faults/{name}")
        return SimulatedClient(
            self.store, name, faults=faults, rng=rng, observer=self, outside=self.outside, crash=crash
        )

    def fault(self, who: str, name: str, what: str) -> None:
        self.statistics.faults[name] += 1
        if name != "slow":
            self.trace.add(who, f"fault {name}: {what}")

    def wrote(self, who: str, revision: int) -> None:
        self.authors[revision] = who

    async def _watch(self, store: Client) -> None:
        loop = asyncio.get_running_loop()
        async with store.watch(REGISTRY, prefix_end(REGISTRY), start_revision=1) as watch:
            async for response in watch:
                for event in response.events:
                    number, key = event.kv.mod_revision, event.kv.key.decode()
                    self.objects = dict(self.objects)
                    if event.type is EventType.DELETE:
                        self.objects.pop(key, None)
                    else:
                        self.objects[key] = msgspec.json.decode(event.kv.value)
                    again = self.unchecked and self.unchecked[-1].number == number
                    changed = [*self.unchecked.pop().changed, key] if again else [key]
                    self.unchecked.append(Revision(number, "", self.objects, changed))
                    if not key.startswith(Event.TYPE.prefix().decode()):
                        self.written_at = loop.time()
                    self.last = self.unchecked[-1]
                    self.news.set()

    async def _check(self) -> None:
        """Check each revision once its author is known, which is before the clock moves on."""
        before = self.last
        while True:
            await self.news.wait()
            await asyncio.sleep(0.0001)
            self.news.clear()
            ready, self.unchecked = self.unchecked, []
            for each in ready:
                revision = msgspec.structs.replace(each, author=self.authors.pop(each.number, "store"))
                self.statistics.revisions += 1
                self.trace.add(revision.author, f"revision {revision.number}: {_changes(before, revision)}")
                try:
                    self._check_revision(before, revision)
                    self.scenario.check(revision)
                except AssertionError as error:
                    raise AssertionError(f"revision {revision.number}: {error}") from error
                before = self.last = revision
            self.scenario.check_outside()
            self._check_budget("writes", self.statistics.revisions - self.calm[0], WRITES)

    def _check_budget(self, what: str, count: int, budget: int) -> None:
        budget *= 1 if self.is_calm else WHILE_FAULTY
        assert count <= budget, f"more than {budget} {what}: a loop without end"

    def _check_revision(self, before: Revision, revision: Revision) -> None:
        author = revision.author
        if not author.startswith("process-"):
            return
        prefixes = [cls.TYPE.prefix().decode() for cls in (self.scenario.kind, *self.scenario.children)]
        ours = [key for key in revision.changed if key.startswith(tuple(prefixes))]
        for key in ours:
            was, now = before.objects.get(key), revision.objects.get(key)
            if key.startswith(prefixes[0]) and was is not None and now is not None:
                assert was.get("spec") == now.get("spec"), f"{author} wrote the spec of {key}, which is a user's"
        if ours and self.scenario.processes > 1:
            office = before.objects.get(Lease.TYPE.key("default", OFFICE).decode(), {})
            holder = office.get("spec", {}).get("holderIdentity", "nobody")
            assert holder == author, f"{author} wrote {', '.join(ours)}, but the leader is {holder}"

    def _task(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
        **options: Any,
    ) -> asyncio.Task[T]:
        task = asyncio.Task(coroutine, loop=loop, **options)
        if asyncio.current_task(loop) is None:
            return task  # the runner's
        context: contextvars.Context | None = options.get("context")
        running = _process.get() if context is None else context.get(_process)
        for tasks in (self.tasks, *([] if running is None else [running.tasks])):
            tasks[task] = None
            task.add_done_callback(partial(tasks.pop))
        if running is not None and running.crashed:
            task.cancel()
        return task

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.failed.set()


def _now() -> datetime:
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


def _changes(before: Revision, revision: Revision) -> str:
    told = []
    for key in revision.changed:
        was, now = before.objects.get(key), revision.objects.get(key)
        name = key.removeprefix(REGISTRY.decode())
        if now is None:
            told.append(f"delete {name}")
        elif was is None:
            told.append(f"create {name}")
        else:
            fields = [field for field in sorted({*was, *now}) if was.get(field) != now.get(field)]
            told.append(f"update {name} ({', '.join(fields) or 'nothing'})")
    return ", ".join(told)


def _difference(expected: Any, found: Any) -> str:
    wanted, there = (json.dumps(each, indent=1, sort_keys=True, default=str).splitlines() for each in (expected, found))
    lines = [*difflib.unified_diff(wanted, there, "without faults", "with faults", lineterm="", n=2)]
    more = len(lines) - DIFFERENCE
    return "\n".join([*lines[:DIFFERENCE], *([f"... {more} more lines"] if more > 0 else [])])
