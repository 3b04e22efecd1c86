"""Several evictors at once, whose calls get lost, and a disruption controller that sees late and ends after any write:
nobody takes a pod that the budget has not given."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, ClassVar

import pytest

from controllers.apps.types import Deployment
from controllers.core.types import Pod
from controllers.policy.eviction import BudgetExhausted, evict
from controllers.policy.types import PodDisruptionBudget
from controllers.simulation.client import NO_FAULTS
from informer.client import ObjectClient
from informer.errors import Conflict, NotFound, Unreachable
from kvstore.api import Client
from tests.controllers.cluster import Revision, history, nginx, virtual_now
from tests.simulation.faults import FaultyClient
from tests.simulation.invariants import check_owned
from tests.simulation.life import Life, User, live, seeds, undisturbed
from tests.simulation.promptness import PROMPT, PROMPT_AMONG_LEADERS, check_prompt

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]

REPLICAS = 6
BUDGETS: tuple[Raw, ...] = (
    {"maxUnavailable": 1},
    {"minAvailable": 4},
    {"maxUnavailable": "34%", "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    {"minAvailable": "60%", "unhealthyPodEvictionPolicy": "IfHealthyBudget"},
)
BUDGET_KEY = PodDisruptionBudget.TYPE.key("default", "web").decode()
POD_PREFIX = Pod.TYPE.prefix("default").decode()
EVICTIONS = ("evict", "evict", "evict all")
LOSSES = ("delete pod", "scale", "image", "budget", "kill node", "revive node")


class Evictors(User):
    """A Deployment with a budget, and evictors who do not know of each other. actions: what users do besides."""

    # A network that is slow for long must not pass for a node that is lost.
    options: ClassVar[Raw] = {**User.options, "node_grace": 600.0}

    def __init__(self, seed: int, *actions: str, faults: float = 0.0) -> None:
        super().__init__(seed)
        self.actions = (*EVICTIONS, *actions)
        self.faults = faults
        self.outcomes: Counter[str] = Counter()

    async def begin(self) -> None:
        await self.client.create(self.budget())
        await self.client.create(nginx("web", REPLICAS))

    def budget(self) -> PodDisruptionBudget:
        spec = {"selector": {"matchLabels": {"app": "web"}}, **BUDGETS[self.seed % len(BUDGETS)]}
        return PodDisruptionBudget.from_raw({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})

    async def act(self) -> None:
        match self.rng.choice(self.actions):
            case "evict":
                await self.evict(self.rng.randint(1, 3))
            case "evict all":
                await self.evict(REPLICAS)
            case "delete pod":
                await self.delete_pod()
            case "scale":
                await self.it.scale(self.rng.randint(2, 8), "web")
            case "image":
                await self.it.set_image(self.rng.choice(["nginx:1", "nginx:2"]), "web")
            case "budget":
                await self.wish(self.rng.choice(BUDGETS))
            case "kill node":
                self.kill_node()
            case "revive node":
                self.revive_node()

    async def evict(self, count: int) -> None:
        """Evict so many pods at once; two evictors may choose the same."""
        pods = await self.it.pods(app="web")
        async with asyncio.TaskGroup() as group:
            for _ in range(min(count, len(pods))):
                group.create_task(self.one(self.rng.choice(pods), self.rng.randrange(2**32)))

    async def one(self, pod: Pod, seed: int) -> None:
        """An evictor of its own, with a network of its own."""
        store = FaultyClient(self.it.store, random.Random(seed), self.faults)
        client = ObjectClient(store, now=virtual_now, rng=random.Random(seed + 1))
        try:
            await evict(client, pod)
        except BudgetExhausted:
            self.outcomes["refused"] += 1
        except (NotFound, Conflict, Unreachable) as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes["done"] += 1

    async def wish(self, spec: Raw) -> None:
        none = dict.fromkeys(("minAvailable", "maxUnavailable", "unhealthyPodEvictionPolicy"))
        await self.client.patch(PodDisruptionBudget, "web", {"spec": {**none, **spec}}, "default")

    async def settle(self) -> None:
        await self.wish(BUDGETS[self.seed % len(BUDGETS)])
        await self.it.scale(REPLICAS, "web")
        await self.it.set_image("nginx:1.14.2", "web")

    async def settled(self) -> bool:
        deployment, pods = await self.it.deployment("web"), await self.it.pods(app="web")
        budget = await self.client.get(PodDisruptionBudget, "web", "default")
        return (
            deployment.status.observed_generation == deployment.metadata.generation
            and deployment.status.available_replicas == deployment.status.updated_replicas == REPLICAS
            and len(pods) == REPLICAS
            and budget.status.observed_generation == budget.metadata.generation
            and budget.status.current_healthy == REPLICAS
            and not budget.status.disrupted_pods
        )

    def end(self, revision: Revision) -> Any:
        (deployment,) = revision.of(Deployment)
        (budget,) = revision.of(PodDisruptionBudget)
        status = {field: value for field, value in budget["status"].items() if field != "observedGeneration"}
        told = [(each["status"], each["reason"]) for each in status.pop("conditions")]
        return budget["spec"], status, told, deployment["status"]["availableReplicas"], len(list(revision.of(Pod)))


class EvictorsAmongLosses(Evictors):
    """The same where nodes are lost, in earnest and by mistake."""

    options: ClassVar[Raw] = User.options


# ---- promises -------------------------------------------------------------------------------------------------------


def check_grants(revisions: list[Revision], life: Life) -> dict[str, list[int]]:
    """A status never allows more than it has counted, and each eviction takes exactly one of what was allowed.

    The revisions at which each name was granted.
    """
    grants: dict[str, list[int]] = {}
    before: Raw | None = None
    for revision in revisions:
        if BUDGET_KEY not in revision.changed:
            continue
        budget = revision.objects.get(BUDGET_KEY)
        if before is not None and budget is not None and budget.get("status") != before.get("status"):
            status, old = budget["status"], before.get("status") or {}
            if revision.number in life.authors:
                spare = max(0, status["currentHealthy"] - status["desiredHealthy"])
                assert status["disruptionsAllowed"] in (0, spare), revision.number
            else:
                assert budget["spec"] == before["spec"], revision.number
                assert old["observedGeneration"] == before["metadata"]["generation"], revision.number
                assert old["disruptionsAllowed"] >= 1, revision.number
                assert status["disruptionsAllowed"] == old["disruptionsAllowed"] - 1, revision.number
                named, known = status["disruptedPods"], old.get("disruptedPods") or {}
                # The same pod in the same second leaves no trace of which it was.
                for name in [name for name in named if named[name] != known.get(name)] or list(named):
                    grants.setdefault(name, []).append(revision.number)
        before = budget
    return grants


def check_evicted(revisions: list[Revision], life: Life, grants: dict[str, list[int]]) -> int:
    """A pod that an eviction takes while it runs was granted before, or was not ready and the budget let it go.

    How many were taken.
    """
    taken = 0
    objects: dict[str, Raw] = {}
    born: dict[str, int] = {}
    for revision in revisions:
        for key in revision.changed:
            if not key.startswith(POD_PREFIX):
                continue
            pod, old = revision.objects.get(key), objects.get(key)
            if pod is None:
                born.pop(key, None)
                continue
            born.setdefault(key, revision.number)
            if old is None or old["metadata"]["uid"] != pod["metadata"]["uid"]:
                continue
            if revision.number in life.authors or is_target(old) or not is_target(pod):
                continue
            taken += 1
            if old["metadata"].get("deletionTimestamp") or old["status"]["phase"] != "Running":
                continue
            granted = any(born[key] <= number for number in grants.get(pod["metadata"]["name"], ()))
            assert granted or (not is_ready(old) and lets_unhealthy_go(revisions, revision)), (revision.number, key)
        objects = revision.objects
    return taken


def lets_unhealthy_go(revisions: list[Revision], revision: Revision) -> bool:
    """Whether the budget, now or when the evictor may have read it, has no need of pods that are not ready."""
    place = revision.number - revisions[0].number
    for each in revisions[max(0, place - 200) : place + 1]:
        budget = each.objects.get(BUDGET_KEY)
        status = (budget or {}).get("status") or {}
        if budget is not None and budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
            return True
        if status.get("currentHealthy", 0) >= status.get("desiredHealthy", 0) > 0:
            return True
    return False


def check_enough_left(revisions: list[Revision], life: Life) -> None:
    """Where pods are lost to evictions alone: so many healthy ones as the budget wants are left by each of them, those
    that are granted and still there not counted."""
    before: Raw | None = None
    for revision in revisions:
        budget = revision.objects.get(BUDGET_KEY)
        if BUDGET_KEY in revision.changed and budget is not None:
            granted = before is not None and budget.get("status") != before.get("status")
            if granted and revision.number not in life.authors:
                named = budget["status"]["disruptedPods"]
                left = [
                    pod
                    for pod in revision.of(Pod)
                    if is_ready(pod)
                    and not pod["metadata"].get("deletionTimestamp")
                    and pod["metadata"]["name"] not in named
                ]
                assert len(left) >= budget["status"]["desiredHealthy"] > 0, revision.number
            before = budget


def untrue_status(revision: Revision) -> dict[tuple[str], int]:
    """The budget, if it does not tell how many pods are healthy, but for those that were granted, and how many."""
    budget = revision.objects.get(BUDGET_KEY)
    if budget is None:
        return {}
    status = budget.get("status") or {}
    granted = status.get("disruptedPods") or {}
    healthy = sum(
        is_ready(pod) and not pod["metadata"].get("deletionTimestamp") and pod["metadata"]["name"] not in granted
        for pod in revision.of(Pod)
    )
    return {} if status.get("currentHealthy", 0) == healthy else {("web",): healthy}


def is_target(pod: Raw) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(
        each["type"] == "DisruptionTarget" and each["status"] == "True" and each["reason"] == "EvictionByEvictionAPI"
        for each in conditions
    )


def is_ready(pod: Raw) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def check(store: Client, life: Life, *, evictions_only: bool) -> int:
    revisions = await history(store)
    grants = check_grants(revisions, life)
    taken = check_evicted(revisions, life, grants)
    if evictions_only:
        check_enough_left(revisions, life)
    check_owned(revisions[-1])
    user = life.user
    assert isinstance(user, Evictors)
    seconds = PROMPT if user.seed % 2 else PROMPT_AMONG_LEADERS
    check_prompt(revisions, life.times, (Pod, PodDisruptionBudget), untrue_status, seconds)
    assert user.end(revisions[-1]) == await undisturbed(Evictors(user.seed))
    return taken


@pytest.mark.parametrize("seed", range(1))
async def test_evictors_at_once_leave_enough_pods(store: Client, seed: int) -> None:
    life = await live(store, Evictors(seed), faults=NO_FAULTS)
    assert await check(store, life, evictions_only=True) > 0


@pytest.mark.parametrize("seed", seeds(1))
async def test_enough_pods_are_left_whatever_the_network_and_the_processes_do(store: Client, seed: int) -> None:
    life = await live(store, Evictors(seed, faults=2.0), leaders=2 - seed % 2, steps=20)
    await check(store, life, evictions_only=True)


@pytest.mark.parametrize("seed", seeds(1))
async def test_no_pod_is_taken_that_was_not_granted_when_others_are_lost_too(store: Client, seed: int) -> None:
    life = await live(store, EvictorsAmongLosses(seed, *LOSSES, faults=2.0), leaders=2 - seed % 2, steps=20)
    await check(store, life, evictions_only=False)
