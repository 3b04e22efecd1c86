"""The disruption controller: what a budget's status says, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.types import Pod
from controllers.policy.eviction import BudgetExhausted, evict
from controllers.policy.types import PodDisruptionBudget
from informer.client import ObjectClient
from kvstore.api import Client
from tests.controllers.batch.jobs import job
from tests.controllers.cluster import Cluster, cluster, nginx
from tests.controllers.policy.budgets import budget, budget_status

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]
WEB = {"matchLabels": {"app": "nginx"}}
FAST: Raw = {"pod_start_delay": 0.1, "pod_ready_delay": 0.1, "pod_delete_delay": 0.1}


async def counted(it: Cluster, name: str = "web", **wanted: int) -> Raw:
    """Wait until the status says that; it."""

    async def says() -> bool:
        status = await budget_status(it.client, name)
        return all(status.get(field) == value for field, value in wanted.items())

    await it.until(says)
    return await budget_status(it.client, name)


def numbers(status: Raw) -> tuple[int, int, int, int]:
    return tuple(status[each] for each in ("expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"))


def lone_pod(name: str) -> Pod:
    return Pod.from_raw(
        {
            "metadata": {"name": name, "namespace": "default", "labels": {"app": "nginx"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        }
    )


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"minAvailable": 3}, (5, 3, 5, 2)),
        ({"minAvailable": "50%"}, (5, 3, 5, 2)),
        ({"maxUnavailable": 1}, (5, 4, 5, 1)),
        ({"maxUnavailable": "30%"}, (5, 3, 5, 2)),
        ({"maxUnavailable": 9}, (5, 0, 5, 5)),
        ({"minAvailable": 7}, (5, 7, 5, 0)),
        ({}, (0, 0, 5, 0)),
    ],
)
async def test_numbers_and_percentages_of_what_the_deployment_wants(
    store: Client, spec: Raw, wanted: tuple[int, int, int, int]
) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, **spec))
        await it.apply(nginx(replicas=5))
        await it.rolled_out()
        status = await counted(it, currentHealthy=5)
        assert numbers(status) == wanted
        assert status["observedGeneration"] == 1
        (told,) = status["conditions"]
        expected = ("True", "SufficientPods") if wanted[3] else ("False", "InsufficientPods")
        assert (told["type"], told["status"], told["reason"]) == ("DisruptionAllowed", *expected)


async def test_several_controllers_are_added_up_and_pods_without_one_are_not(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        for name, replicas in (("a", 2), ("b", 3)):
            made = nginx(name, replicas)
            made.raw["spec"]["template"]["metadata"]["labels"]["tier"] = "front"
            await it.apply(made)
        alone = lone_pod("alone")
        alone.metadata.labels = {"tier": "front"}
        await it.client.create(alone)
        await it.client.create(budget(selector={"matchLabels": {"tier": "front"}}, maxUnavailable=1))
        assert numbers(await counted(it, currentHealthy=6)) == (5, 4, 6, 2)


async def test_pods_without_a_controller_are_counted_for_a_number_of_them(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        for name in ("a", "b"):
            await it.client.create(lone_pod(name))
        await it.client.create(budget(selector=WEB, minAvailable=1))
        assert numbers(await counted(it, currentHealthy=2)) == (2, 1, 2, 1)


async def test_a_rollout_counts_for_the_deployment_not_for_its_replica_sets(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, minAvailable="100%"))
        await it.apply(nginx(replicas=4))
        await it.rolled_out()
        await it.set_image("nginx:1.16.1")
        await it.rolled_out()
        assert numbers(await counted(it, currentHealthy=4)) == (4, 4, 4, 0)


async def test_a_controller_without_a_scale_cannot_be_counted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        made = job(completions=1)
        made.raw["spec"]["template"]["metadata"]["labels"]["app"] = "nginx"
        await it.client.create(made)
        await it.until(lambda: some_ready(it))
        await it.client.create(budget(selector=WEB, maxUnavailable=1))

        async def failed() -> bool:
            return any(
                each["reason"] == "SyncFailed" for each in (await budget_status(it.client)).get("conditions", ())
            )

        await it.until(failed)
        status = await budget_status(it.client)
        assert status["disruptionsAllowed"] == 0
        assert "jobs.batch cannot be scaled" in status["conditions"][0]["message"]
        (pod,) = await it.pods()
        with pytest.raises(BudgetExhausted):
            await evict(it.client, pod)
        await it.until(lambda: told(it, "CalculateExpectedPodCountFailed"))


async def some_ready(it: Cluster) -> bool:
    return any(pod.ready for pod in await it.pods())


async def told(it: Cluster, reason: str) -> bool:
    return bool(await it.events(reason))


async def test_a_budget_that_counts_no_pods_allows_nothing_and_says_so(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(maxUnavailable=1))
        assert numbers(await counted(it, expectedPods=0)) == (0, 0, 0, 0)
        await it.until(lambda: told(it, "NoPods"))


async def test_an_eviction_is_followed_until_the_pod_is_replaced(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, maxUnavailable=1))
        await it.apply(nginx(replicas=3))
        await it.rolled_out()
        await counted(it, disruptionsAllowed=1)
        first, second, _ = await it.pods()
        await evict(it.client, first)
        with pytest.raises(BudgetExhausted):
            await evict(it.client, second)
        status = await counted(it, disruptionsAllowed=1)
        assert "disruptedPods" not in status
        assert first.name not in [pod.name for pod in await it.pods()]
        assert len(await it.pods()) == 3


async def test_a_granted_eviction_that_does_not_happen_is_given_back_after_two_minutes(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, maxUnavailable=1))
        await it.apply(nginx(replicas=3))
        await it.rolled_out()
        await counted(it, disruptionsAllowed=1)
        pod = (await it.pods())[0]

        class Dies(ObjectClient):
            """Of somebody who ends between the grant and the deletion."""

            async def update_status(self, obj: Any) -> Any:
                if isinstance(obj, Pod):
                    raise asyncio.CancelledError
                return await super().update_status(obj)

        with pytest.raises(asyncio.CancelledError):
            await evict(Dies(it.store, now=it.client.now), pod)
        granted = asyncio.get_running_loop().time()
        status = await counted(it, currentHealthy=2)
        assert (status["disruptionsAllowed"], list(status["disruptedPods"])) == (0, [pod.name])
        status = await counted(it, disruptionsAllowed=1)
        assert 119 <= asyncio.get_running_loop().time() - granted <= 122
        assert "disruptedPods" not in status
        await it.until(lambda: told(it, "NotDeleted"))


async def test_a_new_wish_counts_once_it_was_seen(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, maxUnavailable=1))
        await it.apply(nginx(replicas=3))
        await it.rolled_out()
        await counted(it, disruptionsAllowed=1)
        await it.client.patch(PodDisruptionBudget, "web", {"spec": {"maxUnavailable": 0}}, "default")
        # The status is of the old wish yet.
        with pytest.raises(BudgetExhausted, match="violate"):
            await evict(it.client, (await it.pods())[0])
        assert numbers(await counted(it, observedGeneration=2)) == (3, 3, 3, 0)


async def test_scaling_is_followed(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, minAvailable="50%"))
        await it.apply(nginx(replicas=2))
        await counted(it, currentHealthy=2)
        await it.scale(6)
        assert numbers(await counted(it, currentHealthy=6)) == (6, 3, 6, 3)
        await it.scale(1)
        assert numbers(await counted(it, currentHealthy=1)) == (1, 1, 1, 0)


async def test_two_budgets_for_a_pod_are_told_of(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        for name in ("web", "other"):
            await it.client.create(budget(name, selector=WEB, maxUnavailable=1))
        await it.apply(nginx(replicas=1))
        await it.until(lambda: told(it, "MultiplePodDisruptionBudgets"))
        for name in ("web", "other"):
            await counted(it, name, currentHealthy=1)


async def test_pods_are_listened_to_only_while_there_are_budgets(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.apply(nginx(replicas=1))
        await it.rolled_out()

        def listeners() -> list[str]:
            return [each.name for each in it.manager.informer(Pod).statistics().handlers]

        assert "disruption" not in listeners()
        await it.client.create(budget(selector=WEB, maxUnavailable=1))
        await counted(it, currentHealthy=1)
        assert "disruption" in listeners()
        await it.client.delete(PodDisruptionBudget, "web", "default")
        await it.until(lambda: gone(it))
        await asyncio.sleep(1)
        assert "disruption" not in listeners()


async def gone(it: Cluster) -> bool:
    return not await it.exists(PodDisruptionBudget, "web")


async def test_nothing_is_written_once_all_is_counted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(budget(selector=WEB, maxUnavailable=1))
        await it.apply(nginx(replicas=2))
        await it.rolled_out()
        await counted(it, currentHealthy=2)
        before = (await it.client.get(PodDisruptionBudget, "web", "default")).metadata.resource_version
        await asyncio.sleep(600)
        assert (await it.client.get(PodDisruptionBudget, "web", "default")).metadata.resource_version == before


async def test_a_pod_that_was_to_go_and_stays_is_no_target_after_two_minutes(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        for name in ("stale", "kubelets"):
            await it.client.create(lone_pod(name))
        await it.until(lambda: both_ready(it))
        began = asyncio.get_running_loop().time()
        for name, reason in (("stale", "EvictionByEvictionAPI"), ("kubelets", "TerminationByKubelet")):
            pod = await it.client.get(Pod, name, "default")
            stamp = it.client.now().strftime("%Y-%m-%dT%H:%M:%SZ")
            pod.raw["status"]["conditions"].append(
                {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": stamp}
            )
            await it.client.update_status(pod)

        async def withdrawn() -> bool:
            condition = (await it.client.get(Pod, "stale", "default")).condition("DisruptionTarget")
            return condition is not None and condition.status == "False"

        await it.until(withdrawn)
        assert 119 <= asyncio.get_running_loop().time() - began <= 182
        await asyncio.sleep(120)
        kept = (await it.client.get(Pod, "kubelets", "default")).condition("DisruptionTarget")
        assert kept is not None
        assert kept.status == "True"


async def both_ready(it: Cluster) -> bool:
    return [pod.ready for pod in await it.pods()] == [True, True]
