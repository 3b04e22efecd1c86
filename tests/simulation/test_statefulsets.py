"""Random users, a random network, dying nodes and processes that end after any write: a StatefulSet keeps its order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.apps.history import REVISION_HASH
from controllers.apps.statefulset.types import StatefulSet
from controllers.core.types import Pod
from controllers.simulation.client import NO_FAULTS
from kvstore.api import Client
from tests.controllers.apps.statefulsets import claim, web
from tests.controllers.cluster import Revision, history
from tests.simulation import statefulset_invariants as invariants
from tests.simulation.invariants import check_owned, is_ready
from tests.simulation.life import Life, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, PROMPT_AMONG_LEADERS, check_prompt

pytestmark = pytest.mark.virtual_time

WISHES = ("scale", "scale", "bounce", "image", "canary", "partition", "delete pod", "nothing")
BROKEN = "nginx:does-not-exist"
IMAGES = ("nginx:1.24", "nginx:1.25", "nginx:1.26", BROKEN)
REPLICAS = 3
FINAL = "nginx:final"

GO_WITH_PODS = {"whenScaled": "Delete", "whenDeleted": "Retain"}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"persistentVolumeClaimRetentionPolicy": GO_WITH_PODS},
    {"minReadySeconds": 2, "ordinals": {"start": 3}},
    {"podManagementPolicy": "Parallel"},
    {"volumeClaimTemplates": [claim("www"), claim("log")], "revisionHistoryLimit": 1},
    {"podManagementPolicy": "Parallel", "persistentVolumeClaimRetentionPolicy": GO_WITH_PODS},
)


class StatefulSets(User):
    """One StatefulSet. actions: what the user does besides."""

    def __init__(self, seed: int, *actions: str) -> None:
        super().__init__(seed)
        self.actions = (*WISHES, *actions)

    async def begin(self) -> None:
        await self.client.create(web(REPLICAS, **KINDS[self.seed % len(KINDS)]))

    async def act(self) -> None:
        rng = self.rng
        match rng.choice(self.actions):
            case "scale":
                await self.wish(replicas=rng.randint(0, 5))
            case "bounce":
                await self.wish(replicas=rng.randint(0, 2))
                await asyncio.sleep(rng.uniform(0, 4))
                await self.wish(replicas=rng.randint(3, 5))
            case "image":
                await self.wish(image=rng.choice(IMAGES))
            case "canary":
                await self.wish(image=rng.choice(IMAGES), partition=rng.randint(1, 3))
            case "partition":
                await self.wish(partition=rng.randint(0, 4))
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def wish(
        self, *, replicas: int | None = None, image: str | None = None, partition: int | None = None
    ) -> None:
        def change(sts: StatefulSet) -> None:
            if replicas is not None:
                sts.spec.replicas = replicas
            if image is not None:
                sts.spec.template.spec.containers[0].image = image
            if partition is not None:
                sts.raw["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = partition

        await self.it.change(StatefulSet, "web", change)

    async def settle(self) -> None:
        await self.wish(replicas=REPLICAS, image=FINAL, partition=0)

    async def settled(self) -> bool:
        await self.delete_broken()
        sts = await self.client.get(StatefulSet, "web", "default")
        status, pods = sts.status, await self.it.pods(app="web")
        counts = (status.replicas, status.updated_replicas, status.available_replicas, len(pods))
        return status.observed_generation == sts.metadata.generation and counts == (REPLICAS,) * 4

    async def delete_broken(self) -> None:
        """What only a user can do: a pod of a revision that never becomes ready holds up what would replace it."""
        for pod in await self.it.pods(app="web"):
            if not pod.deleting and pod.spec.containers[0].image == BROKEN:
                self.deleted.add(pod.metadata.uid or "")
                await self.client.delete(Pod, pod.name, "default", uid=pod.metadata.uid)

    def end(self, revision: Revision) -> Any:
        (sts,) = revision.of(StatefulSet)
        (state,) = invariants.states([revision])
        pods = [
            (pod["metadata"]["name"], pod["metadata"]["labels"][REVISION_HASH], is_ready(pod), pod["spec"]["volumes"])
            for _, pod in sorted(state.pods.items())
        ]
        used = {each["persistentVolumeClaim"]["claimName"] for pod in pods for each in pod[3]}
        owners = {name: state.claims[name]["metadata"].get("ownerReferences", []) for name in used}
        status = {field: value for field, value in sts["status"].items() if field != "observedGeneration"}
        return pods, owners, status


async def check(store: Client, life: Life, seconds: float = PROMPT) -> None:
    revisions = await history(store)
    check_prompt(revisions, life.times, invariants.STATUSES, invariants.untrue_statuses, seconds)
    states = invariants.states(revisions)
    steps = list(invariants.steps(states, life.authors, life.user.deleted))
    assert len(steps) >= REPLICAS
    invariants.check_identity(states)
    invariants.check_claims(states, steps)
    invariants.check_revisions(states)
    invariants.check_partition(steps)
    if "podManagementPolicy" not in KINDS[life.user.seed % len(KINDS)]:
        invariants.check_order(steps)
    check_owned(revisions[-1])
    assert life.user.end(revisions[-1]) == await undisturbed(StatefulSets(life.user.seed))


@pytest.mark.parametrize("seed", seeds(1))
async def test_promises_are_kept_whatever_users_do(store: Client, seed: int) -> None:
    await check(store, await live(store, StatefulSets(2 + seed), faults=NO_FAULTS))


@pytest.mark.parametrize("seed", seeds(2))
async def test_promises_are_kept_whatever_the_network_and_the_process_do(store: Client, seed: int) -> None:
    await check(store, await live(store, StatefulSets(seed)))


@pytest.mark.parametrize("seed", seeds(3))
async def test_promises_are_kept_when_nodes_die_and_two_run_for_one_office(store: Client, seed: int) -> None:
    user = StatefulSets(3 + seed, "kill node", "revive node")
    await check(store, await live(store, user, leaders=2), PROMPT_AMONG_LEADERS)
