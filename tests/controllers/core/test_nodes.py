"""Simulated nodes: the life of a pod on them, heartbeats, a node that dies."""

from __future__ import annotations

import asyncio

import pytest

from controllers.core.stages import qos_class
from controllers.core.types import Lease, Node, Pod
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, history, nginx

pytestmark = pytest.mark.virtual_time


async def test_a_pod_goes_from_pending_over_running_to_ready(store: Client) -> None:
    async with cluster(store, pod_start_delay=2.0, pod_ready_delay=3.0) as it:
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        (pod,) = await it.pods()
        node = await it.client.get(Node, pod.spec.node_name)
        assert pod.status.host_ip == node.status.addresses[0].address
        assert pod.status.pod_ip
        (status,) = pod.status.container_statuses
        assert (status.image, status.ready, status.restart_count) == ("nginx:1.14.2", True, 0)
        ready, started = pod.condition("Ready"), pod.status.start_time
        assert ready is not None
        assert ready.last_transition_time is not None
        assert started is not None
        assert (ready.last_transition_time - started).total_seconds() == 3
        assert {each.type for each in pod.status.conditions} == {
            "PodScheduled",
            "PodReadyToStartContainers",
            "Initialized",
            "ContainersReady",
            "Ready",
        }
    steps: list[tuple[str, str | None]] = []
    for revision in await history(store):
        for raw in revision.of(Pod):
            conditions = {each["type"]: each["status"] for each in raw["status"].get("conditions", ())}
            step = (raw["status"]["phase"], conditions.get("Ready"))
            if step not in steps[-1:]:
                steps.append(step)
    assert steps == [("Pending", None), ("Running", "False"), ("Running", "True")]


async def test_addresses_are_all_different(store: Client) -> None:
    async with cluster(store, pod_start_delay=0, pod_ready_delay=0) as it:
        await it.apply(nginx(replicas=300))
        await it.rolled_out()
        assert len({pod.status.pod_ip for pod in await it.pods()}) == 300


async def test_an_image_that_cannot_be_had_keeps_the_pod_waiting_for_good(store: Client) -> None:
    async with cluster(store) as it:
        bad = nginx("bad", replicas=1, image="registry.example:5000/app:does-not-exist")
        annotated = nginx("annotated", replicas=1)
        annotated.raw["spec"]["template"]["metadata"]["annotations"] = {"listwatch.dev/simulate": "image-pull-error"}
        await it.apply(bad)
        await it.apply(annotated)

        async def waiting() -> bool:
            pods = await it.pods()
            return len(pods) == 2 and all(pod.status.container_statuses for pod in pods)

        await it.until(waiting)
        await asyncio.sleep(600)
        for pod in await it.pods():
            (status,) = pod.status.container_statuses
            assert status.state["waiting"]["reason"] == "ImagePullBackOff"
            assert pod.status.phase == "Pending"
            assert not pod.ready


async def test_a_deleted_pod_is_gone_after_the_delay_not_the_grace_period(store: Client) -> None:
    async with cluster(store, pod_delete_delay=4.0) as it:
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        (pod,) = await it.pods()
        began = asyncio.get_running_loop().time()
        await it.client.delete(Pod, pod.name, "default")
        assert (await it.client.get(Pod, pod.name, "default")).metadata.deletion_grace_period_seconds == 30

        async def gone() -> bool:
            return not await it.exists(Pod, pod.name)

        await it.until(gone)
        assert asyncio.get_running_loop().time() - began == pytest.approx(4.0, abs=0.1)


async def lost(it: Cluster, name: str) -> None:
    async def marked() -> bool:
        return not (await it.client.get(Node, name)).ready

    await it.until(marked)


async def test_a_dead_node_is_marked_and_its_pods_are_replaced_elsewhere(store: Client) -> None:
    async with cluster(store, node_grace=40.0, eviction_after=300.0) as it:
        await it.apply(nginx(replicas=6))
        await it.rolled_out()
        began = asyncio.get_running_loop().time()
        it.workloads.nodes.kill("node-2")
        await lost(it, "node-2")
        # The lease was up to ten seconds old when the node died.
        assert 30 <= asyncio.get_running_loop().time() - began <= 41
        await asyncio.sleep(1)
        node = await it.client.get(Node, "node-2")
        ready = node.condition("Ready")
        assert ready is not None
        assert (ready.status, ready.reason) == ("Unknown", "NodeStatusUnknown")
        assert {taint.effect for taint in node.spec.taints} == {"NoSchedule", "NoExecute"}
        pods = [pod for pod in await it.pods() if pod.spec.node_name == "node-2"]
        assert len(pods) == 2
        assert not any(pod.ready for pod in pods)
        assert (await it.deployment()).status.available_replicas == 4
        (event,) = await it.events("NodeNotReady")
        assert event.involved_object.name == "node-2"

        await it.rolled_out()
        assert asyncio.get_running_loop().time() - began >= 330
        assert {pod.spec.node_name for pod in await it.pods()} == {"node-1", "node-3"}
        assert it.workloads.node_lifecycle.statistics().evicted == 2


async def test_a_node_that_comes_back_in_time_keeps_its_pods(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx(replicas=6))
        await it.rolled_out()
        before = {pod.name for pod in await it.pods()}
        it.workloads.nodes.kill("node-2")
        await lost(it, "node-2")
        it.workloads.nodes.revive("node-2")

        async def welcome() -> bool:
            node = await it.client.get(Node, "node-2")
            return node.ready and not node.spec.taints

        await it.until(welcome)
        await it.rolled_out()
        assert {pod.name for pod in await it.pods()} == before


async def test_a_deleted_node_takes_its_pods_with_it(store: Client) -> None:
    async with cluster(store, eviction_after=1.0) as it:
        await it.apply(nginx(replicas=6))
        await it.rolled_out()
        await it.client.delete(Node, "node-2")

        async def replaced() -> bool:
            nodes = {pod.spec.node_name for pod in await it.pods() if pod.ready}
            return nodes == {"node-1", "node-3"} and len(await it.pods()) == 6

        await it.until(replaced)


async def test_heartbeats_are_one_write_a_node_each_quarter_of_the_grace_period(store: Client) -> None:
    async with cluster(store, nodes=3, node_grace=40.0):
        await asyncio.sleep(95)
    revisions = await history(store)
    keys = [key for revision in revisions for key in revision.changed]
    leases = Lease.TYPE.prefix().decode()
    assert sum(key.startswith(leases) for key in keys) == 3 * (1 + 9)
    # And nothing else is written while nothing happens.
    quiet = [key for revision in revisions[-20:] for key in revision.changed]
    assert all(key.startswith(leases) for key in quiet)


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
async def test_quality_of_service(resources: dict[str, dict[str, str]], expected: str) -> None:
    assert qos_class({"containers": [{"name": "a", "resources": resources}]}) == expected
