"""Random users, a random network, dying nodes, processes that end after any write and two of them for one office:
Deployments keep their promises at every revision."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.deployment import RevisionNotFound, replica_set_of, undo
from controllers.apps.types import Deployment, ReplicaSet
from controllers.simulation.client import NO_FAULTS
from kvstore.api import Client
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node, NodeOptions
from tests.controllers.cluster import Revision, history, nginx
from tests.simulation import invariants
from tests.simulation.life import Life, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, PROMPT_AMONG_LEADERS, check_prompt
from tests.virtual_time import VirtualTimeLoop

pytestmark = pytest.mark.virtual_time

STEPS = 15
WISHES = ("scale", "image", "pause", "resume", "delete pod", "undo")
IMAGES = ("nginx:1.14.2", "nginx:1.16.1", "nginx:1.17.0", "nginx:does-not-exist")
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}},
    {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    {"type": "Recreate"},
)


class Deployments(User):
    """A Deployment. actions: what users do besides."""

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = (*WISHES, *actions)

    async def begin(self) -> None:
        patience: dict[str, Any] = {"minReadySeconds": 3} if self.seed // len(STRATEGIES) % 2 else {}
        await self.client.create(nginx(strategy=STRATEGIES[self.seed % len(STRATEGIES)], **patience))

    async def act(self) -> None:
        rng = self.rng
        action = rng.choice(self.actions)
        match action:
            case "scale":
                replicas = rng.randint(0, 7)
                await self.change(lambda d: setattr(d.spec, "replicas", replicas))
            case "image":
                image = rng.choice(IMAGES)
                await self.change(lambda d: setattr(d.spec.template.spec.containers[0], "image", image))
            case "pause" | "resume":
                await self.change(lambda d: setattr(d.spec, "paused", action == "pause"))
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()
            case "undo":
                try:
                    rs = replica_set_of((await self.client.list(ReplicaSet, "default")).items)
                except RevisionNotFound:
                    return
                await self.change(lambda d: undo(d, rs))

    async def change(self, change: Callable[[Deployment], Any]) -> None:
        await self.it.change(Deployment, "nginx", change)

    async def settle(self) -> None:
        def wish(deployment: Deployment) -> None:
            deployment.spec.replicas = 4
            deployment.spec.paused = False
            deployment.spec.template.spec.containers[0].image = "nginx:final"

        await self.change(wish)

    async def settled(self) -> bool:
        deployment = await self.it.deployment()
        status = deployment.status
        counts = (status.replicas, status.updated_replicas, status.available_replicas, len(await self.it.pods()))
        return status.observed_generation == deployment.metadata.generation and counts == (4, 4, 4, 4)

    def end(self, revision: Revision) -> Any:
        return invariants.end_state(revision)


async def check(store: Client, life: Life, seconds: float = 2 * PROMPT) -> None:
    """seconds: in which pods are told of by their ReplicaSets, and these by the Deployment."""
    revisions, user = await history(store), life.user
    check_prompt(revisions, life.times, invariants.STATUSES, invariants.untrue_statuses, seconds)
    invariants.check_surge(revisions)
    invariants.check_availability(revisions, user.deleted)
    invariants.check_bindings(revisions)
    invariants.check_owned(revisions[-1])
    invariants.check_no_node_is_lost(revisions[-1])
    assert user.end(revisions[-1]) == await undisturbed(Deployments(user.seed))


@pytest.mark.parametrize("seed", range(2))
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    await check(store, await live(store, Deployments(seed), faults=NO_FAULTS, steps=STEPS))


@pytest.mark.parametrize("seed", seeds(2))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    life = await live(store, Deployments(seed), steps=STEPS)
    assert life.faults.total() > 5
    await check(store, life)


@pytest.mark.parametrize("seed", seeds(2))
async def test_promises_are_kept_when_nodes_die_and_two_run_for_one_office(store: Client, seed: int) -> None:
    user = Deployments(4 + seed, "kill node", "revive node")
    await check(store, await live(store, user, leaders=2, steps=STEPS), PROMPT_AMONG_LEADERS)


def test_the_same_seed_gives_the_same_history(tmp_path: Path) -> None:
    async def lived(directory: Path) -> list[tuple[int, list[str]]]:
        options = NodeOptions(fsync=False, inline_commits=True)
        async with Node.open(directory, options, rng=random.Random(0)) as node:
            store = EmbeddedClient(node)
            await live(store, Deployments(7), steps=STEPS)
            revisions = await history(store)
            await store.close()
        return [(each.number, each.changed) for each in revisions]

    histories = []
    for number in range(2):
        # A loop each: stamps are whole seconds, so what is decided by them depends on when a life begins.
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            histories.append(runner.run(lived(tmp_path / str(number))))
    assert histories[0] == histories[1]
