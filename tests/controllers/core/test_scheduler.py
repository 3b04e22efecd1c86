"""The scheduler on a whole cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from controllers.core.scheduling import Cluster as SchedulersCluster
from controllers.core.scheduling import Filter, Plugin, PodInfo, Refusal, default_plugins
from controllers.core.scheduling.types import PriorityClass
from controllers.core.types import Node, Pod
from controllers.policy.types import PodDisruptionBudget
from informer.errors import Invalid
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, history, nginx

pytestmark = pytest.mark.virtual_time


def pod(name: str = "web", cpu: str = "100m", **spec: Any) -> Pod:
    container = {"name": "a", "image": "nginx:1", "resources": {"requests": {"cpu": cpu}}}
    return Pod.from_raw(
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [container], **spec}}
    )


async def scheduled(it: Cluster, name: str = "web") -> Pod:
    async def bound() -> bool:
        return bool((await it.client.get(Pod, name, "default")).spec.node_name)

    await it.until(bound)
    return await it.client.get(Pod, name, "default")


async def refused(it: Cluster, name: str = "web") -> str:
    async def told() -> bool:
        condition = (await it.client.get(Pod, name, "default")).condition("PodScheduled")
        return condition is not None and condition.status == "False"

    await it.until(told)
    found = await it.client.get(Pod, name, "default")
    condition = found.condition("PodScheduled")
    assert condition is not None
    assert condition.reason == "Unschedulable"
    assert found.status.phase == "Pending"
    return condition.message


async def test_pods_are_spread(store: Client) -> None:
    async with cluster(store, nodes=3) as it:
        await it.apply(nginx(replicas=9))
        await it.rolled_out()
        assert set(Counter(each.spec.node_name for each in await it.pods()).values()) == {3}


async def test_a_binding_is_one_write_of_node_and_condition(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(pod())
        found = await scheduled(it)
        condition = found.condition("PodScheduled")
        assert condition is not None
        assert condition.status == "True"
        assert found.metadata.generation == 1
        await asyncio.sleep(1)
        (event,) = await it.events("Scheduled")
        assert event.message == f"Successfully assigned default/web to {found.spec.node_name}"
    for revision in await history(store):
        for each in revision.of(Pod):
            bound = [
                c for c in each["status"].get("conditions", ()) if (c["type"], c["status"]) == ("PodScheduled", "True")
            ]
            assert bool(bound) == ("nodeName" in each["spec"])


async def test_a_pod_that_fits_nowhere_waits_until_there_is_room(store: Client) -> None:
    async with cluster(store, nodes=1) as it:
        await it.client.create(pod("large", cpu="63"))
        await scheduled(it, "large")
        await it.client.create(pod())
        await it.client.create(pod("more", cpu="2"))
        await scheduled(it)
        assert await refused(it, "more") == (
            "0/1 nodes are available: 1 Insufficient cpu. "
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
        await asyncio.sleep(60)
        version = (await it.client.get(Pod, "more", "default")).metadata.resource_version
        await asyncio.sleep(600)
        # It says so once, not again and again.
        assert (await it.client.get(Pod, "more", "default")).metadata.resource_version == version
        await it.client.delete(Pod, "large", "default")
        await scheduled(it, "more")


async def test_a_pod_without_any_node_gets_one_when_it_comes(store: Client) -> None:
    async with cluster(store, nodes=0) as it:
        await it.client.create(pod())
        assert await refused(it) == "no nodes available to schedule pods"
        fresh = Node(name="late")
        await it.client.create(fresh)
        stored = await it.client.get(Node, "late")
        stored.raw["status"] = {
            "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await it.client.update_status(stored)
        assert (await scheduled(it)).spec.node_name == "late"


async def test_selectors_taints_and_cordons_are_respected(store: Client) -> None:
    async with cluster(store, nodes=3) as it:
        await scheduled_on_ready_nodes(it)
        taint = [{"key": "team", "value": "db", "effect": "NoSchedule"}]
        await it.client.patch(Node, "node-1", {"spec": {"taints": taint}})
        await it.client.patch(Node, "node-2", {"spec": {"unschedulable": True}})
        await it.client.patch(Node, "node-3", {"metadata": {"labels": {"disk": "ssd"}}})
        await asyncio.sleep(1)
        await it.client.create(pod("a"))
        assert (await scheduled(it, "a")).spec.node_name == "node-3"
        await it.client.create(pod("b", nodeSelector={"disk": "hdd"}))
        assert "didn't match" in await refused(it, "b")
        tolerations = [{"key": "team", "operator": "Exists"}]
        await it.client.create(pod("c", tolerations=tolerations, nodeSelector={"kubernetes.io/hostname": "node-1"}))
        assert (await scheduled(it, "c")).spec.node_name == "node-1"
        await it.client.patch(
            Node, "node-2", {"metadata": {"labels": {"disk": "hdd"}}, "spec": {"unschedulable": None}}
        )
        assert (await scheduled(it, "b")).spec.node_name == "node-2"


async def scheduled_on_ready_nodes(it: Cluster) -> None:
    async def ready() -> bool:
        return sum(node.ready for node in (await it.client.list(Node)).items) == len(it.workloads.nodes.names)

    await it.until(ready)


async def test_pods_of_another_scheduler_are_left_to_it(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(pod("theirs", schedulerName="custom"))
        await it.client.create(pod("ours"))
        await scheduled(it, "ours")
        await asyncio.sleep(60)
        assert (await it.client.get(Pod, "theirs", "default")).spec.node_name == ""


# ---- gates, order, plug-ins -----------------------------------------------------------------------------------------


async def test_a_gated_pod_waits_for_its_gates_to_go(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(pod("gated", schedulingGates=[{"name": "example.com/quota"}]))
        await it.client.create(pod("free"))
        await scheduled(it, "free")
        found = await it.client.get(Pod, "gated", "default")
        condition = found.condition("PodScheduled")
        assert condition is not None
        assert (condition.status, condition.reason) == ("False", "SchedulingGated")
        assert condition.message == "Scheduling is blocked due to non-empty scheduling gates"
        with pytest.raises(Invalid, match="found new scheduling gate 'b'"):
            await it.client.patch(Pod, "gated", {"spec": {"schedulingGates": [{"name": "b"}]}}, "default")
        await asyncio.sleep(60)
        await it.client.patch(Pod, "gated", {"spec": {"schedulingGates": None}}, "default")
        assert (await scheduled(it, "gated")).spec.node_name


async def test_who_matters_more_is_tried_first(store: Client) -> None:
    async with cluster(store, nodes=0) as it:
        await it.client.create(PriorityClass(name="high", value=1000))
        for name, spec in (("a", {}), ("b", {"priorityClassName": "high"}), ("c", {})):
            await it.client.create(pod(name, cpu="1", **spec))
        for name in "abc":
            await refused(it, name)
        await it.client.create(Node(name="small"))
        node = await it.client.get(Node, "small")
        node.raw["status"] = {
            "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await it.client.update_status(node)
        await scheduled(it, "b")
        await asyncio.sleep(60)
        assert [(await it.client.get(Pod, name, "default")).spec.node_name for name in "ac"] == ["", ""]


class Avoid(Plugin):
    def filter(self, pod: PodInfo, cluster: SchedulersCluster) -> Filter | None:
        return lambda node: Refusal(("node(s) had an odd name",)) if node.name == pod.labels.get("avoid") else None


class Broken(Plugin):
    def filter(self, pod: PodInfo, cluster: SchedulersCluster) -> Filter | None:
        if "break" in pod.labels:
            raise RuntimeError("no")
        return None


async def test_a_users_plugin_decides_too(store: Client) -> None:
    async with cluster(store, nodes=1, scheduler_plugins=[*default_plugins(), Avoid(), Broken()]) as it:
        await scheduled_on_ready_nodes(it)
        labelled = {"a": {"avoid": "node-1"}, "b": {"break": "yes"}, "c": {}}
        for name, labels in labelled.items():
            made = pod(name)
            made.metadata.labels = labels
            await it.client.create(made)
        await scheduled(it, "c")
        assert "1 node(s) had an odd name" in await refused(it, "a")
        # One that fails does so for the pods that it fails for.
        assert await refused(it, "b") == "a plug-in failed: RuntimeError('no')"
        await it.client.patch(Pod, "a", {"metadata": {"labels": None}}, "default")
        await it.client.patch(Pod, "b", {"metadata": {"labels": None}}, "default")
        await scheduled(it, "a")
        await scheduled(it, "b")


# ---- preemption -----------------------------------------------------------------------------------------------------


async def with_classes(it: Cluster) -> None:
    await it.client.create(PriorityClass(name="high", value=1000))
    await it.client.create(PriorityClass(name="polite", value=2000, preemption_policy="Never"))


async def test_a_pod_that_matters_more_takes_the_place_of_others(store: Client) -> None:
    async with cluster(store, nodes=1, pod_delete_delay=3.0) as it:
        await with_classes(it)
        for name in ("one", "two"):
            await it.client.create(pod(name, cpu="31"))
            await scheduled(it, name)
        await it.client.create(pod("urgent", cpu="32", priorityClassName="high"))

        async def nominated() -> bool:
            return bool((await it.client.get(Pod, "urgent", "default")).status.nominated_node_name)

        await it.until(nominated)
        # One would not fit there now, the other would take the room that is kept.
        await it.client.create(pod("late", cpu="3"))
        await refused(it, "late")
        await scheduled(it, "urgent")
        left = {each.name for each in await it.pods()}
        assert len(left & {"one", "two"}) == 1
        await asyncio.sleep(1)
        (event,) = await it.events("Preempted")
        urgent = await it.client.get(Pod, "urgent", "default")
        assert event.message == f"Preempted by pod {urgent.metadata.uid} on node node-1"
        assert urgent.status.nominated_node_name == ""
        (victim,) = {"one", "two"} - left
        assert event.involved_object.name == victim
        assert it.workloads.scheduler.statistics().preempted == 1
    for revision in await history(store):
        for each in revision.of(Pod):
            if each["metadata"].get("deletionTimestamp"):
                (why,) = (c for c in each["status"]["conditions"] if c["type"] == "DisruptionTarget")
                assert (why["status"], why["reason"]) == ("True", "PreemptionByScheduler")
                assert why["message"] == "default-scheduler: preempting to accommodate a higher priority pod"


async def test_a_polite_pod_waits_however_much_it_matters(store: Client) -> None:
    async with cluster(store, nodes=1) as it:
        await with_classes(it)
        await it.client.create(pod("one", cpu="60"))
        await scheduled(it, "one")
        await it.client.create(pod("polite", cpu="32", priorityClassName="polite"))
        assert await refused(it, "polite") == (
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
        )
        await it.client.delete(Pod, "one", "default")
        await scheduled(it, "polite")


async def test_a_budget_decides_who_leaves(store: Client) -> None:
    async with cluster(store, nodes=2) as it:
        await with_classes(it)
        for name in ("one", "two"):
            made = pod(name, cpu="60")
            made.metadata.labels = {"app": name}
            await it.client.create(made)
            await scheduled(it, name)
        budget = PodDisruptionBudget.from_raw(
            {
                "metadata": {"name": "one", "namespace": "default"},
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "one"}}},
            }
        )
        await it.client.create(budget)
        await asyncio.sleep(5)
        await it.client.create(pod("urgent", cpu="32", priorityClassName="high"))
        await scheduled(it, "urgent")
        assert {each.name for each in await it.pods()} == {"one", "urgent"}


async def test_a_scheduler_that_starts_keeps_the_room_that_was_promised(store: Client) -> None:
    async with cluster(store, nodes=1, pod_delete_delay=20.0) as it:
        await with_classes(it)
        await it.client.create(pod("low", cpu="60"))
        await scheduled(it, "low")
        await it.client.create(pod("urgent", cpu="60", priorityClassName="high"))

        async def leaving() -> bool:
            return (await it.client.get(Pod, "low", "default")).deleting

        await it.until(leaving)
    async with cluster(store, nodes=1, pod_delete_delay=20.0, seed=2) as it:
        await it.client.create(pod("late", cpu="10"))
        await scheduled(it, "urgent")
        assert it.workloads.scheduler.statistics().preempted == 0
        assert (await it.client.get(Pod, "late", "default")).spec.node_name == ""
