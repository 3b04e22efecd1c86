"""Random users, a random network, dying nodes and a manager that ends after any write: no pod of a Job counts twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from typing import Any

import pytest

from controllers.batch.stock import final_condition
from controllers.batch.types import CronJob, Job
from controllers.core.types import Pod
from informer.errors import NotFound
from kvstore.api import Client, Compare, DeleteRangeResponse, Op, PutResponse, TxnResponse
from kvstore.errors import Unavailable
from tests.controllers.batch.jobs import cron_job, job
from tests.controllers.cluster import Cluster, Revision, cluster, history
from tests.simulation import batch_invariants as invariants
from tests.simulation.faults import FaultyClient
from tests.simulation.invariants import check_owned

pytestmark = pytest.mark.virtual_time

# More with SIMULATION_SEEDS=1000: each is another life.
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "3"))
CRASHES = 0.01  # of the writes
STEPS = 12
WISHES = ("delete pod", "parallelism", "suspend", "resume", "nothing")
COMPLETIONS = 6

INDEXED = {"completionMode": "Indexed"}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    INDEXED,
    {"podReplacementPolicy": "Failed"},
    {**INDEXED, "backoffLimitPerIndex": 100},
    {
        **INDEXED,
        "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]},
    },
)


class CrashingClient(FaultyClient):
    """Of a process that ends right after one of its writes took place: from then on nothing it does arrives."""

    def __init__(self, inner: Client, rng: random.Random, rate: float, crashes: float) -> None:
        super().__init__(inner, rng, rate)
        self.rng = rng
        self.crashes = crashes
        self.crashed = asyncio.Event()

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        if self.crashed.is_set():
            raise Unavailable
        answer = await super().txn(compare, success, failure)
        wrote = any(isinstance(each, PutResponse | DeleteRangeResponse) for each in answer.responses)
        if wrote and self.rng.random() < self.crashes:
            self.crashed.set()
        if self.crashed.is_set():
            raise Unavailable
        return answer


def the_job(seed: int) -> Job:
    spec = {"completions": COMPLETIONS, "parallelism": 3, "backoffLimit": 10_000, **KINDS[seed % len(KINDS)]}
    return job(run="1,8", code="0,0,1", **spec)


class User:
    """Does as a seed says. Reads and writes the store itself, without faults."""

    def __init__(self, it: Cluster, rng: random.Random) -> None:
        self.it = it
        self.rng = rng

    async def act(self, actions: Sequence[str]) -> None:
        rng, nodes = self.rng, self.it.workloads.nodes
        match rng.choice(actions):
            case "delete pod":
                pods = [pod for pod in await self.it.pods() if not pod.deleting]
                if pods:
                    pod = rng.choice(pods)
                    try:
                        await self.it.client.delete(Pod, pod.name, "default", uid=pod.metadata.uid)
                    except NotFound:
                        return
            case "parallelism":
                await self.wish({"parallelism": rng.randint(0, 4)})
            case "suspend":
                await self.wish({"suspend": True})
            case "resume":
                await self.wish({"suspend": False})
            case "kill node":
                nodes.kill(rng.choice(nodes.names[1:]))
            case "revive node":
                nodes.revive(rng.choice(nodes.names))

    async def wish(self, spec: dict[str, Any]) -> None:
        await self.it.client.patch(Job, "work", {"spec": spec}, "default")


async def live(store: Client, seed: int, *, actions: Sequence[str], rate: float, crashes: float) -> int:
    """One life of a Job and a CronJob; how often the manager ended early. At the end all faults are healed."""
    rng = random.Random(seed)
    options: dict[str, Any] = {"pod_delete_delay": (0.1, 3.0), "node_grace": 8.0, "eviction_after": 4.0}
    lives = steps = 0
    while True:
        last = steps >= STEPS
        # Of its own for each process: uids are drawn from it, and two pods must never have the same.
        own = seed * 1000 + lives
        client = CrashingClient(store, random.Random(own), 0 if last else rate, 0 if last else crashes)
        async with cluster(store, client=client, seed=own, **options) as it:
            if not lives:
                await it.client.create(the_job(seed))
                policy = ("Allow", "Forbid", "Replace")[seed % 3]
                await it.client.create(cron_job("* * * * *", run="1,90", code="0,0,1", concurrencyPolicy=policy))
            lives += 1
            user = User(it, rng)
            while steps < STEPS and not client.crashed.is_set():
                steps += 1
                try:
                    async with asyncio.timeout(rng.choice([0.0, 0.1, 1.0, 5.0, 30.0])):
                        await client.crashed.wait()
                except TimeoutError:
                    await user.act(actions)
            if client.crashed.is_set() and not last:
                continue
            if not last:
                client.heal()
                client.crashes = 0.0
            for name in it.workloads.nodes.names:
                it.workloads.nodes.revive(name)
            await user.wish({"parallelism": 3, "suspend": False})
            await it.client.patch(CronJob, "tick", {"spec": {"suspend": True}}, "default")
            await it.until(lambda: all_ended(it), 40_000)
            await asyncio.sleep(60)
            return lives - 1


async def all_ended(it: Cluster) -> bool:
    return all(final_condition(each.raw) is not None for each in (await it.client.list(Job, "default")).items)


def check(revisions: list[Revision]) -> None:
    invariants.check_counts(revisions)
    invariants.check_nothing_is_lost(revisions)
    invariants.check_indexes(revisions)
    invariants.check_active(revisions)
    invariants.check_ends(revisions)
    invariants.check_schedule(revisions)
    check_owned(revisions[-1])
    # What every undisturbed run ends with, whatever happened on the way.
    (ended,) = (each for each in revisions[-1].of(Job) if each["metadata"]["name"] == "work")
    condition = final_condition(ended)
    assert condition is not None
    assert (condition["type"], condition["reason"]) == ("Complete", "CompletionsReached")
    assert ended["status"]["succeeded"] == COMPLETIONS
    if ended["spec"]["completionMode"] == "Indexed":
        assert ended["status"]["completedIndexes"] == f"0-{COMPLETIONS - 1}"
    (cron,) = revisions[-1].of(CronJob)
    assert "active" not in cron.get("status", {})


@pytest.mark.parametrize("seed", range(2))
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    await live(store, seed, actions=WISHES, rate=0, crashes=0)
    check(await history(store))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    await live(store, seed, actions=WISHES, rate=1, crashes=CRASHES)
    check(await history(store))


@pytest.mark.parametrize("seed", range(2, SEEDS + 2))
async def test_promises_are_kept_when_nodes_die_too(store: Client, seed: int) -> None:
    await live(store, seed, actions=(*WISHES, "kill node", "revive node"), rate=1, crashes=CRASHES)
    check(await history(store))
