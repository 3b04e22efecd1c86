"""Random users and random faults, many seeds, virtual time: Deployments keep their promises at every revision."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from controllers.apps.deployment import RevisionNotFound, replica_set_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.types import Pod
from informer.errors import NotFound
from kvstore.api import Client
from tests.controllers.cluster import Cluster, Revision, cluster, history, nginx
from tests.simulation import invariants
from tests.simulation.faults import FaultyClient

pytestmark = pytest.mark.virtual_time

import os

N = int(os.environ.get("N", "12"))
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
        self.done: list[str] = []
        self.deleted: set[str] = set()

    async def act(self) -> None:
        rng = self.rng
        action = rng.choice(["scale", "image", "pause", "resume", "delete pod", "undo"])
        self.done.append(action)
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

    await it.change(Deployment, "nginx", wish)
    await it.rolled_out()
    await asyncio.sleep(60)


async def simulate(
    store: Client, seed: int, *, faults: bool, actions: int
) -> tuple[list[Revision], User, FaultyClient]:
    rng = random.Random(seed)
    client = FaultyClient(store, random.Random(seed))
    if not faults:
        client.heal()
    async with cluster(store, client=client, seed=seed, pod_delete_delay=(0.1, 3.0)) as it:
        user = User(it, rng)
        strategy = STRATEGIES[seed % len(STRATEGIES)]
        await it.apply(nginx(strategy=strategy))
        for _ in range(actions):
            await asyncio.sleep(rng.choice([0.0, 0.1, 1.0, 5.0, 30.0]))
            await user.act()
        client.heal()
        await finish(it)
        return await history(store), user, client


@pytest.mark.parametrize("seed", range(N))
async def test_promises_are_kept_whatever_users_and_the_network_do(store: Client, seed: int) -> None:
    revisions, user, client = await simulate(store, seed, faults=True, actions=15)
    assert len(user.done) == 15
    assert sum(client.injected.values()) > 5, client.injected
    invariants.check_surge(revisions)
    invariants.check_availability(revisions, user.deleted)
    invariants.check_bindings(revisions)
    invariants.check_owned(revisions[-1])
    end = invariants.end_state(revisions[-1])
    ((images, counts, conditions, _),) = end.values()
    assert images == ["nginx:final"] * 4
    assert counts == {"replicas": 4, "updatedReplicas": 4, "availableReplicas": 4}
    assert conditions["Available"] == ("True", "MinimumReplicasAvailable")
    assert conditions["Progressing"] == ("True", "NewReplicaSetAvailable")
