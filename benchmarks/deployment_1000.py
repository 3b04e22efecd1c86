"""One Deployment of 1,000 replicas, from apply to all of them available: store, controllers and simulated nodes in one
process, every write durable. The goal is 1.5 s and 200 MB resident.

The baseline, in the same run, is the bare store doing as many durable writes of the same size with 64 in flight: what
is above it is the price of informers, controllers and simulated nodes.

    python -m benchmarks.deployment_1000 [REPLICAS]
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.table import Row, quiet, show
from controllers import Manager
from controllers.apps.types import Deployment
from controllers.builtin import add_workloads
from kvstore import EmbeddedClient, Node, Put

REPLICAS = 1_000
NODES = 10
IN_FLIGHT = 64
ROUNDS = 3


class Round(msgspec.Struct):
    """What one process measured."""

    seconds: float
    writes: int
    bare_seconds: float
    resident_mb: float


def web(replicas: int) -> Deployment:
    labels = {"app": "web"}
    container = {"name": "web", "image": "nginx:1.25", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return Deployment(name="web", namespace="default", spec=spec)


async def rollout(directory: Path, replicas: int) -> tuple[float, int, float]:
    """Seconds until all are available, the writes that took, and the mean size of what they wrote."""
    async with Node.open(directory) as node:
        manager = Manager(client=EmbeddedClient(node))
        add_workloads(manager, nodes=NODES, pod_start_delay=0, pod_ready_delay=0)
        async with manager:
            deployments = manager.informer(Deployment).cache
            before = node.revision
            start = time.perf_counter()
            await manager.client.apply(web(replicas))
            while True:
                stored = deployments.get("default/web")
                status = {} if stored is None else Deployment.decode(stored.data, stored.revision).raw.get("status", {})
                if status.get("availableReplicas") == replicas:
                    break
                await deployments.wait_for(str(node.revision + 1))
            took = time.perf_counter() - start
            records = [len(event.record) for event in node._store.history(before + 1, 1 << 30)[0]]
    return took, len(records), statistics.mean(records)


async def bare(directory: Path, writes: int, size: int) -> float:
    """The same number of durable writes of that size on the store alone."""
    async with Node.open(directory) as node:
        numbers = iter(range(writes))

        async def writer() -> None:
            for number in numbers:
                await node.put(Put(b"/registry/core/pods/default/web-%06d" % (number % REPLICAS), b"x" * size))

        start = time.perf_counter()
        await asyncio.gather(*(writer() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - start


def one_round(replicas: int) -> Round:
    with tempfile.TemporaryDirectory(prefix="listwatch-bench-") as name:
        seconds, writes, size = asyncio.run(rollout(Path(name) / "rollout", replicas))
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        resident = int(peak.split()[1]) / 1024
        return Round(seconds, writes, asyncio.run(bare(Path(name) / "bare", writes, int(size))), resident)


def main(replicas: int = REPLICAS) -> None:
    """Each round in a process of its own, so that the memory is its own too."""
    rounds = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-m", "benchmarks.deployment_1000", str(replicas), "--round"]
        ran = subprocess.run(command, capture_output=True, timeout=120, check=True)
        rounds.append(msgspec.json.decode(ran.stdout, type=Round))
    seconds = statistics.median(each.seconds for each in rounds)
    resident = max(each.resident_mb for each in rounds)
    show(
        f"a Deployment of {replicas:,} replicas, apply to all available ({rounds[0].writes:,} durable writes)",
        [
            Row("bare store, as many writes", statistics.median(each.bare_seconds for each in rounds), "s"),
            Row(
                "store, controllers, nodes",
                seconds,
                "s",
                "bare store",
                statistics.median(each.seconds / each.bare_seconds for each in rounds),
                "<= 1.5 s",
                seconds <= 1.5,
            ),
            Row("resident at the most", resident, "MB", goal="<= 200 MB", reached=resident <= 200),
        ],
    )


if __name__ == "__main__":
    quiet()
    if "--round" in sys.argv:
        print(msgspec.json.encode(one_round(int(sys.argv[1]))).decode())
    else:
        main(*map(int, sys.argv[1:2]))
