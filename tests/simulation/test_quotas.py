"""Two Deployments and people who make pods want more than a quota has: at no moment is there more than it allows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from controllers.admission import StoreLookups, add_builtin_admission
from controllers.apps.types import Deployment
from controllers.core.limits import ResourceQuota
from controllers.core.types import Pod
from controllers.simulation.client import NO_FAULTS
from informer.admission import Admission
from informer.client import ObjectClient
from informer.errors import Forbidden
from kvstore.api import Client
from tests.controllers.cluster import Revision, history, nginx, virtual_now
from tests.simulation.life import Life, User, live, seeds, undisturbed

pytestmark = pytest.mark.virtual_time

PODS, CPU = 6, 700  # of all, and millicores of those that ask for 100 each
NAMES = ("a", "b")
ACTIONS = ("scale", "scale", "make", "delete pod", "kill node", "revive node")


def wish(name: str, replicas: int) -> Deployment:
    deployment = nginx(name, replicas)
    deployment.raw["spec"]["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    return deployment


class Greedy(User):
    """Wants as much as comes to mind."""

    def make_client(self, store: Client) -> ObjectClient:
        """As the command line's."""
        admission = Admission()
        add_builtin_admission(admission, StoreLookups(ObjectClient(store)))
        return ObjectClient(store, now=virtual_now, rng=self.rng, admission=admission)

    async def begin(self) -> None:
        self.made = 0
        quota = ResourceQuota(name="all", namespace="default")
        quota.raw["spec"] = {"hard": {"pods": PODS, "requests.cpu": f"{CPU}m"}}
        await self.client.create(quota)
        # One that no cache knows yet binds nobody, as in Kubernetes.
        await self.it.until(self.enforced)
        for name in NAMES:
            await self.client.create(wish(name, 2))

    async def enforced(self) -> bool:
        quota = await self.client.get(ResourceQuota, "all", "default")
        return "used" in quota.raw.get("status", {})

    async def act(self) -> None:
        match self.rng.choice(ACTIONS):
            case "scale":
                spec = {"spec": {"replicas": self.rng.randint(0, 8)}}
                await self.client.patch(Deployment, self.rng.choice(NAMES), spec, "default")
            case "make":
                self.made += 1
                pod = Pod(name=f"own-{self.made}", namespace="default", labels={"app": "own"})
                pod.raw["spec"] = wish("own", 1).raw["spec"]["template"]["spec"]
                with contextlib.suppress(Forbidden):
                    await self.client.create(pod)
            case "delete pod":
                await self.delete_pod()
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def settle(self) -> None:
        for pod in await self.it.pods(app="own"):
            await self.client.delete(Pod, pod.name, "default")
        for name, replicas in zip(NAMES, (4, 2), strict=True):
            await self.client.patch(Deployment, name, {"spec": {"replicas": replicas}}, "default")

    async def settled(self) -> bool:
        pods = await self.it.pods()
        ready = [pod for pod in pods if pod.ready]
        quota = await self.client.get(ResourceQuota, "all", "default")
        used = quota.raw.get("status", {}).get("used", {})
        return len(pods) == len(ready) == PODS and used == {"pods": "6", "requests.cpu": "600m"}

    def end(self, revision: Revision) -> Any:
        (quota,) = revision.of(ResourceQuota)
        return sorted(pod["metadata"]["labels"]["app"] for pod in revision.of(Pod)), quota["status"]


def check(revisions: Sequence[Revision]) -> None:
    most = 0
    for revision in revisions:
        pods = [pod for pod in revision.of(Pod) if pod["status"].get("phase") not in ("Succeeded", "Failed")]
        assert len(pods) <= PODS, f"revision {revision.number}: {len(pods)} pods"
        most = max(most, len(pods))
    assert most == PODS


async def check_life(store: Client, life: Life) -> None:
    revisions = await history(store)
    check(revisions)
    assert life.user.end(revisions[-1]) == await undisturbed(Greedy(life.user.seed))


@pytest.mark.parametrize("seed", range(1))
async def test_never_more_than_the_quota_allows(store: Client, seed: int) -> None:
    await check_life(store, await live(store, Greedy(seed), faults=NO_FAULTS))


@pytest.mark.parametrize("seed", seeds(2))
async def test_never_more_whatever_the_network_and_the_processes_do(store: Client, seed: int) -> None:
    await check_life(store, await live(store, Greedy(1 + seed), leaders=1 + seed % 2))
