"""The scheduler on a whole cluster."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from controllers.core.types import Node, Pod
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
