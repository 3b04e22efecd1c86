"""Deployments from apply to Running, through a rolling update, at rest, and deleted with all that they own: store,
controllers and simulated nodes in one process, every write durable.

Shapes: one Deployment of 1,000, of 5,000 and of 10,000 replicas, and 1,000 Deployments of 5. Goals: 1,000 Pods Running
within 1.5 s and 200 MB, 5,000 within 5 s and 400 MB; what a Pod costs is the same whether there are 1,000 or 10,000.

The baseline of the start is the bare store doing as many durable writes of the same size with 64 in flight: what is
above it is the price of informers, controllers and nodes. The baseline of all else is the shape of 1,000. Seconds are
the wall's; what is judged for growth is processor time, which other work on the machine changes little. Each shape is
measured in a process of its own, one after the other, with the garbage collector set as `listwatch run` sets it.

    python -m benchmarks.workloads [SHAPE...]     such as 1x1000 1000x5
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.table import Row, quiet, show
from controllers import Manager
from controllers.apps.types import Deployment, ReplicaSet
from controllers.builtin import add_workloads
from controllers.core.types import Pod
from informer.cache import Stored
from informer.shared import Handler
from kvstore import EmbeddedClient, Node, Put
from kvstore.collector import collect_less

SHAPES = ("1x1000", "1x5000", "1x10000", "1000x5")
NODES = 10
IN_FLIGHT = 64
REST = 10.0  # seconds
WITHIN = 300.0
MOST = 1.25  # times what a Pod costs among 1,000
WANTED = {"1x1000": (1.5, 200), "1x5000": (5, 400)}  # seconds to Running, MB


class Spent(msgspec.Struct, frozen=True):
    """Seconds of the wall and of the processor, and revisions of the store."""

    seconds: float
    cpu: float
    writes: int


class Measured(msgspec.Struct, frozen=True):
    """What one process measured. resting: percent of a core. resident: MB at the most while all run."""

    start: Spent
    bare_seconds: float
    resident: float
    resting: float
    update: Spent
    deletion: Spent


def web(name: str, replicas: int) -> Deployment:
    labels = {"app": name}
    container = {"name": "web", "image": "nginx:1.25", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return Deployment(name=name, namespace="default", spec=spec)


class Incomplete(Handler):
    """The Deployments whose last rollout is not over."""

    def __init__(self, names: Sequence[str]) -> None:
        self.left = set(names)
        self.none = asyncio.Event()

    def expect(self, names: Sequence[str]) -> None:
        """All of them begin a rollout now."""
        self.left = set(names)
        self.none.clear()

    def on_add(self, new: Stored, initial: bool) -> None:
        self.on_update(new, new)

    def on_update(self, old: Stored, new: Stored) -> None:
        raw: dict[str, Any] = msgspec.json.decode(new.data)
        status, wanted = raw.get("status", {}), raw["spec"]["replicas"]
        seen = status.get("observedGeneration", 0) >= raw["metadata"]["generation"]
        counts = [status.get(field) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        if seen and counts == [wanted] * 3:
            self.left.discard(new.name)
            if not self.left:
                self.none.set()


class Gone(Handler):
    """Told of every deletion; set when these caches are empty."""

    def __init__(self, manager: Manager, *kinds: type[Any]) -> None:
        self._caches = [manager.informer(kind).cache for kind in kinds]
        self.all = asyncio.Event()
        for kind in kinds:
            manager.informer(kind).add_handler(self, name="gone")

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        if not any(len(cache) for cache in self._caches):
            self.all.set()


async def spent(node: Node, what: Callable[[], Awaitable[object]]) -> Spent:
    async with asyncio.timeout(WITHIN):
        revision, wall, cpu = node.revision, time.perf_counter(), time.process_time()
        await what()
        return Spent(time.perf_counter() - wall, time.process_time() - cpu, node.revision - revision)


async def live(directory: Path, count: int, replicas: int) -> Measured:
    names = [f"web-{number}" for number in range(count)]
    async with Node.open(directory / "life") as node:
        manager = Manager(client=EmbeddedClient(node))
        add_workloads(manager, nodes=NODES, pod_start_delay=0, pod_ready_delay=0, pod_delete_delay=0)
        async with manager:
            incomplete = Incomplete(names)
            manager.informer(Deployment).add_handler(incomplete, name="incomplete")
            client = manager.client

            async def start() -> None:
                for name in names:
                    await client.apply(web(name, replicas))
                await incomplete.none.wait()

            async def update() -> None:
                incomplete.expect(names)
                for name in names:
                    deployment = await client.get(Deployment, name, "default")
                    deployment.spec.template.spec.containers[0].image = "nginx:1.26"
                    await client.update(deployment)
                await incomplete.none.wait()

            gone = Gone(manager, Deployment, ReplicaSet, Pod)

            async def delete() -> None:
                for name in names:
                    await client.delete(Deployment, name, "default", propagation="background")
                await gone.all.wait()

            first = node.revision
            started = await spent(node, start)
            peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
            sizes = [len(event.record) for event in node._store.history(first + 1, 1 << 30)[0]]
            await asyncio.sleep(1)
            resting = await spent(node, lambda: asyncio.sleep(REST))
            updated = await spent(node, update)
            deleted = await spent(node, delete)
    bare_seconds = await bare(directory / "bare", started.writes, int(statistics.mean(sizes)))
    percent = 100 * resting.cpu / resting.seconds
    return Measured(started, bare_seconds, int(peak.split()[1]) / 1024, percent, updated, deleted)


async def bare(directory: Path, writes: int, size: int) -> float:
    """The same number of durable writes of that size on the store alone."""
    async with Node.open(directory) as node:
        numbers = iter(range(writes))

        async def writer() -> None:
            for number in numbers:
                await node.put(Put(b"/registry/core/pods/default/web-%06d" % (number % 1000), b"x" * size))

        start = time.perf_counter()
        await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - start


def parts(shape: str) -> tuple[int, int]:
    """Deployments, and replicas of each."""
    count, _, replicas = shape.partition("x")
    return int(count), int(replicas)


def measure(shape: str) -> Measured:
    command = [sys.executable, "-m", "benchmarks.workloads", "--measure", shape]
    ran = subprocess.run(command, stdout=subprocess.PIPE, timeout=4 * WITHIN, check=True)
    return msgspec.json.decode(ran.stdout, type=Measured)


def main(shapes: Sequence[str] = SHAPES) -> None:
    first: tuple[str, Measured] | None = None
    for shape in shapes:
        found = measure(shape)
        first = first or (shape, found)
        count, replicas = parts(shape)
        title = f"{count:,} Deployment{'s' if count > 1 else ''} of {replicas:,}"
        show(f"{title} ({found.start.writes:,} durable writes to Running)", rows(shape, found, *first))


def rows(shape: str, found: Measured, smallest: str, base: Measured) -> list[Row]:
    def each(name: str, of: Callable[[Measured], Spent]) -> list[Row]:
        mine = of(found).cpu / _pods(shape)
        ratio = mine / (of(base).cpu / _pods(smallest))
        # Small Deployments cost more each pod: a rollout of five pods has as many steps as one of five hundred.
        alike = shape != smallest and parts(shape)[0] == parts(smallest)[0]
        flat = (f"<= {MOST}", ratio <= MOST) if alike else ("", None)
        cost = Row(f"{name}: processor for a Pod", mine * 1e3, "ms", f"{smallest}'s", ratio, *flat)
        return [Row(f"{name}: wall", of(found).seconds, "s"), cost]

    seconds, memory = WANTED.get(shape, (None, None))
    start, cost = each("apply to Running", lambda it: it.start)
    ratio = found.start.seconds / found.bare_seconds
    return [
        Row(start.name, start.value, "s", "as many bare writes", ratio, *_at_most(start.value, seconds, "s")),
        cost,
        Row("resident at the most", found.resident, "MB", "", None, *_at_most(found.resident, memory, "MB")),
        Row("at rest: of a core", found.resting, "%", f"{smallest}'s", found.resting / max(base.resting, 0.01)),
        *each("rolling update", lambda it: it.update),
        *each("cascading deletion", lambda it: it.deletion),
    ]


def _at_most(value: float, goal: float | None, unit: str) -> tuple[str, bool | None]:
    return ("", None) if goal is None else (f"<= {goal:g} {unit}", value <= goal)


def _pods(shape: str) -> int:
    count, replicas = parts(shape)
    return count * replicas


if __name__ == "__main__":
    quiet()
    if "--measure" in sys.argv:
        collect_less()
        with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as name:
            print(msgspec.json.encode(asyncio.run(live(Path(name), *parts(sys.argv[-1])))).decode())
    else:
        main(sys.argv[1:] or SHAPES)
