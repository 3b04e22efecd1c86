"""Random users and random faults, many seeds, virtual time: Deployments keep their promises at every revision."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.deployment import RevisionNotFound, replica_set_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.types import Pod
from informer.errors import NotFound
from kvstore.api import Client
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.controllers.cluster import Cluster, Revision, cluster, history, nginx
from tests.simulation import invariants
from tests.simulation.faults import FaultyClient
from tests.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

# More with SIMULATION_SEEDS=1000: each is another life.
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "10"))
WISHES = ("scale", "image", "pause", "resume", "delete pod", "undo")
IMAGES = ("nginx:1.14.2", "nginx:1.16.1", "nginx:1.17.0", "nginx:does-not-exist")
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}},
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    {"type": "Recreate"},
)


class User:
    """Does as a seed says. Reads and writes the store itself, without faults."""

    def __init__(self, it: Cluster, rng: random.Random) -> None:
        self.it = it
        self.rng = rng
        self.deleted: set[str] = set()

    async def act(self, actions: Sequence[str]) -> None:
        rng = self.rng
        action = rng.choice(actions)
        match action:
            case "scale":
                await self.change(lambda d: setattr(d.spec, "replicas", rng.randint(0, 7)))
            case "image":
                image = rng.choice(IMAGES)
                await self.change(lambda d: setattr(d.spec.template.spec.containers[0], "image", image))
            case "pause" | "resume":
                await self.change(lambda d: setattr(d.spec, "paused", action == "pause"))
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.it.workloads.nodes.kill(rng.choice(self.it.workloads.nodes.names[1:]))
            case "revive node":
                self.it.workloads.nodes.revive(rng.choice(self.it.workloads.nodes.names))
            case "undo":
                try:
                    rs = replica_set_of((await self.it.client.list(ReplicaSet, "default")).items)
                except RevisionNotFound:
                    return
                await self.change(lambda d: undo(d, rs))

    async def change(self, change: Any) -> None:
        await self.it.change(Deployment, "nginx", change)

    async def delete_pod(self) -> None:
        pods = [pod for pod in await self.it.pods() if not pod.deleting]
        if not pods:
            return
        pod = self.rng.choice(pods)
        self.deleted.add(pod.metadata.uid or "")
        try:
            await self.it.client.delete(Pod, pod.name, "default", uid=pod.metadata.uid)
        except NotFound:
            return


async def finish(it: Cluster) -> None:
    """Bring the Deployment to a known wish, and wait until it is met."""

    def wish(deployment: Deployment) -> None:
        deployment.spec.replicas = 4
        deployment.spec.paused = False
        deployment.spec.template.spec.containers[0].image = "nginx:final"

    for name in it.workloads.nodes.names:
        it.workloads.nodes.revive(name)
    await it.change(Deployment, "nginx", wish)
    await it.rolled_out()
    await asyncio.sleep(60)


async def simulate(store: Client, seed: int, *, actions: Sequence[str], rates: float) -> tuple[list[Revision], User]:
    """One life of a Deployment: what a user does, what the network does; at the end all faults are healed.

    rates: how often faults happen, 1 = as often as `FaultyClient` has them by default, 0 = never.
    """
    client = FaultyClient(store, random.Random(seed), rates)
    options: dict[str, Any] = {"pod_delete_delay": (0.1, 3.0), "node_grace": 8.0, "eviction_after": 4.0}
    async with cluster(store, client=client, seed=seed, **options) as it:
        user = User(it, random.Random(seed))
        await it.apply(nginx(strategy=STRATEGIES[seed % len(STRATEGIES)]))
        for _ in range(15):
            await asyncio.sleep(user.rng.choice([0.0, 0.1, 1.0, 5.0, 30.0]))
            await user.act(actions)
        client.heal()
        await finish(it)
        assert rates == 0 or sum(client.injected.values()) > 5, client.injected
        return await history(store), user


def check(revisions: list[Revision], user: User) -> None:
    invariants.check_surge(revisions)
    invariants.check_availability(revisions, user.deleted)
    invariants.check_bindings(revisions)
    invariants.check_owned(revisions[-1])
    # What every undisturbed run ends with, whatever happened on the way.
    assert invariants.end_state(revisions[-1]) == {
        "nginx": (
            ["nginx:final"] * 4,
            {"replicas": 4, "updatedReplicas": 4, "availableReplicas": 4, "unavailableReplicas": 0},
            {
                "Available": ("True", "MinimumReplicasAvailable"),
                "Progressing": ("True", "NewReplicaSetAvailable"),
            },
        )
    }


@pytest.mark.parametrize("seed", range(4))
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    check(*await simulate(store, seed, actions=WISHES, rates=0))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_promises_are_kept_whatever_users_and_the_network_do(store: Client, seed: int) -> None:
    check(*await simulate(store, seed, actions=WISHES, rates=1))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_promises_are_kept_when_nodes_die_too(store: Client, seed: int) -> None:
    check(*await simulate(store, seed, actions=(*WISHES, "kill node", "revive node"), rates=1))


def test_the_same_seed_gives_the_same_history(tmp_path: Path) -> None:
    async def life(directory: Path) -> list[tuple[int, list[str]]]:
        options = NodeOptions(fsync=False, inline_commits=True)
        async with Node.open(directory, options, rng=random.Random(0)) as node:
            store = EmbeddedClient(node)
            revisions, _ = await simulate(store, 7, actions=WISHES, rates=1)
            await store.close()
        return [(each.number, each.changed) for each in revisions]

    histories = []
    for number in range(2):
        # A loop each: stamps are whole seconds, so what is decided by them depends on when a life begins.
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            histories.append(runner.run(life(tmp_path / str(number))))
    assert histories[0] == histories[1]
