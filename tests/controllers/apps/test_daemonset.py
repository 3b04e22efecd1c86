"""The DaemonSet controller: which nodes have which pods, over time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from controllers.apps.daemonset.controller import DaemonSetController
from controllers.apps.daemonset.types import TEMPLATE_GENERATION, DaemonSet
from controllers.apps.history import find_revision, revisions_of, undo
from controllers.apps.types import ControllerRevision
from controllers.core.limits import ResourceQuota
from controllers.core.types import Event, Node, Pod
from controllers.manager import Manager
from controllers.owners import set_controller_reference
from informer.client import ObjectClient
from informer.errors import Invalid
from informer.resources import Resource
from kvstore.api import Client
from tests.controllers.apps.daemonsets import Raw, daemon_set, rolling, surging, taint
from tests.controllers.cluster import Cluster, cluster, history, virtual_now

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0.1, "pod_ready_delay": 0.5, "pod_delete_delay": 0.2}
NODES = ["node-1", "node-2", "node-3"]


@asynccontextmanager
async def running(store: Client, **options: Any) -> AsyncIterator[Cluster]:
    """A cluster of three nodes that are all there."""
    async with cluster(store, **{**FAST, **options}) as it:

        async def ready() -> bool:
            return sum(node.ready for node in (await it.client.list(Node)).items) == len(NODES)

        await it.until(ready)
        yield it


async def get(it: Cluster, name: str = "agent") -> DaemonSet:
    return await it.client.get(DaemonSet, name, "default")


async def status(it: Cluster, name: str = "agent") -> Raw:
    return dict((await get(it, name)).raw["status"])


async def on_nodes(it: Cluster, **labels: str) -> dict[str, list[str]]:
    """Node -> the images of the pods on it that are not being deleted."""
    found: dict[str, list[str]] = {}
    for pod in await it.pods(**labels):
        if not pod.deleting:
            found.setdefault(pod.spec.node_name, []).append(pod.raw["spec"]["containers"][0]["image"])
    return dict(sorted(found.items()))


async def settled(it: Cluster, name: str = "agent") -> Raw:
    """Wait until all is as wanted: a new and available pod on each node that takes one, and no other."""

    async def done() -> bool:
        ds = await get(it, name)
        found = ds.raw.get("status", {})
        wanted = found.get("desiredNumberScheduled")
        fields = ("currentNumberScheduled", "updatedNumberScheduled", "numberAvailable")
        if found.get("observedGeneration") != ds.metadata.generation or found["numberMisscheduled"]:
            return False
        pods = await it.pods(app=name)
        serving = sum(pod.ready and not pod.deleting for pod in pods)
        return [found.get(field, 0) for field in fields] == [wanted] * 3 and len(pods) == wanted == serving

    await it.until(done)
    return await status(it, name)


async def told(it: Cluster, reason: str) -> list[str]:
    await asyncio.sleep(1)
    return [event.message for event in (await it.client.list(Event, "default")).items if event.reason == reason]


async def set_image(it: Cluster, image: str, **spec: Any) -> None:
    def change(ds: DaemonSet) -> None:
        ds.raw["spec"]["template"]["spec"]["containers"][0]["image"] = image
        ds.raw["spec"].update(spec)

    await it.change(DaemonSet, "agent", change)


async def change_node(it: Cluster, name: str, *, taints: list[str] | None = None, **labels: str | None) -> None:
    patch: Raw = {"metadata": {"labels": labels}}
    if taints is not None:
        patch["spec"] = {"taints": [taint(each) for each in taints]}
    await it.client.patch(Node, name, patch)


async def revisions(it: Cluster) -> list[ControllerRevision]:
    return revisions_of(await get(it), (await it.client.list(ControllerRevision, "default")).items)


async def numbers(it: Cluster, first: int, image: str) -> list[tuple[int, int, int]]:
    """From a revision of the store on, of each: (old, new, available) pods that are not being deleted."""
    found = []
    for revision in await history(it.store):
        if revision.number > first:
            pods = [pod for pod in revision.of(Pod) if "deletionTimestamp" not in pod["metadata"]]
            new = sum(pod["spec"]["containers"][0]["image"] == image for pod in pods)
            ready = {("Ready", "True")}
            available = sum(
                bool({(c["type"], c["status"]) for c in p["status"].get("conditions", ())} & ready) for p in pods
            )
            found.append((len(pods) - new, new, available))
    return found


# ---- pods follow nodes -----------------------------------------------------------------------------------------------


async def test_every_node_gets_a_pod_which_the_scheduler_binds(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        assert await settled(it) == {
            "currentNumberScheduled": 3,
            "numberMisscheduled": 0,
            "desiredNumberScheduled": 3,
            "numberReady": 3,
            "observedGeneration": 1,
            "updatedNumberScheduled": 3,
            "numberAvailable": 3,
        }
        assert await on_nodes(it) == {name: ["agent:1"] for name in NODES}
        pods = await it.pods()
        (revision,) = await revisions(it)
        for pod in pods:
            assert pod.name.startswith("agent-")
            assert pod.metadata.labels == {
                "app": "agent",
                "controller-revision-hash": revision.metadata.labels["controller-revision-hash"],
                "pod-template-generation": "1",
            }
            assert pod.condition("PodScheduled") is not None
        assert sorted(await told(it, "SuccessfulCreate")) == sorted(f"Created pod: {pod.name}" for pod in pods)
        assert len(await told(it, "Scheduled")) == 3
        (event,) = [
            each for each in (await it.client.list(Event, "default")).items if each.message.endswith(pods[0].name)
        ]
        assert (event.source.component, event.involved_object.kind) == ("daemonset-controller", "DaemonSet")


async def test_a_node_that_joins_gets_a_pod_and_one_that_leaves_is_not_missed(store: Client) -> None:
    async with running(store, node_grace=8, eviction_after=4) as it:
        await it.client.create(daemon_set())
        await settled(it)
        late = Node(name="late")
        await it.client.create(late)
        (pod,) = await appeared(it, "late")
        assert pod.spec.node_name == ""
        assert (await status(it))["desiredNumberScheduled"] == 4
        await it.client.delete(Node, "late")
        await it.client.delete(Node, "node-3")
        await settled(it)
        assert list(await on_nodes(it)) == ["node-1", "node-2"]


async def appeared(it: Cluster, node: str) -> list[Pod]:
    """Wait until there is a pod for the node, and its DaemonSet has told."""
    found: list[Pod] = []

    async def done() -> bool:
        found[:] = [
            pod for pod in await it.pods() if f'"{node}"' in str(pod.raw["spec"].get("affinity")).replace("'", '"')
        ]
        return bool(found) and (await status(it)).get("currentNumberScheduled", 0) == len(await it.pods())

    await it.until(done)
    return found


async def test_labels_decide_and_their_changes_move_pods(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(pod={"nodeSelector": {"disk": "ssd"}}))
        assert (await settled(it))["desiredNumberScheduled"] == 0
        await change_node(it, "node-2", disk="ssd")
        await change_node(it, "node-3", disk="ssd")
        await it.until(lambda: has(it, "node-2", "node-3"))
        await change_node(it, "node-2", disk="hdd")
        await change_node(it, "node-3", disk=None)
        await it.until(lambda: has(it))
        assert (await settled(it))["desiredNumberScheduled"] == 0


async def has(it: Cluster, *nodes: str) -> bool:
    return list(await on_nodes(it)) == list(nodes)


async def test_taints_keep_new_pods_off_or_drive_those_away_that_are_there(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        (kept,) = [pod for pod in await it.pods() if pod.spec.node_name == "node-1"]
        await change_node(it, "node-1", taints=["full:NoSchedule"])
        await change_node(it, "node-2", taints=["broken:NoExecute"])
        await it.until(lambda: has(it, "node-1", "node-3"))
        assert kept.name in [pod.name for pod in await it.pods()]
        await asyncio.sleep(1)
        found = await status(it)
        assert (found["desiredNumberScheduled"], found["numberMisscheduled"]) == (1, 1)
        await it.client.delete(Pod, kept.name, "default")
        await asyncio.sleep(5)
        assert await has(it, "node-3")
        await change_node(it, "node-1", taints=[])
        await change_node(it, "node-2", taints=[])
        await it.until(lambda: has(it, *NODES))
        assert (await settled(it))["desiredNumberScheduled"] == 3


async def test_it_runs_on_cordoned_nodes(store: Client) -> None:
    async with running(store) as it:
        await it.client.patch(Node, "node-1", {"spec": {"unschedulable": True}})
        await change_node(it, "node-1", taints=["node.kubernetes.io/unschedulable:NoSchedule"])
        await it.client.create(daemon_set())
        assert (await settled(it))["desiredNumberScheduled"] == 3


async def test_a_template_with_a_node_name_is_for_that_node_alone(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(pod={"nodeName": "node-2"}))
        await it.until(lambda: has(it, "node-2"))
        assert (await settled(it))["desiredNumberScheduled"] == 1


async def test_its_pods_stay_on_a_node_that_is_lost_and_serve_again_when_it_is_back(store: Client) -> None:
    async with running(store, node_grace=8, eviction_after=4) as it:
        await it.client.create(daemon_set())
        await settled(it)
        before = sorted(pod.name for pod in await it.pods())
        it.workloads.nodes.kill("node-2")
        await it.until(lambda: counts(it, numberReady=2, desiredNumberScheduled=2, numberMisscheduled=1))
        await asyncio.sleep(30)
        it.workloads.nodes.revive("node-2")
        await it.until(lambda: counts(it, numberReady=3, desiredNumberScheduled=3, numberMisscheduled=0))
        assert sorted(pod.name for pod in await it.pods()) == before


async def counts(it: Cluster, **expected: int) -> bool:
    found = (await get(it)).raw.get("status", {})
    return {field: found.get(field, 0) for field in expected} == expected


async def test_a_change_of_a_node_wakes_only_whom_it_concerns(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await it.client.create(daemon_set("ssd", pod={"nodeSelector": {"disk": "ssd"}}))
        await settled(it)
        await asyncio.sleep(60)  # heartbeats too
        runs = it.manager.statistics().controllers["daemonset"].reconciles
        await asyncio.sleep(60)
        await change_node(it, "node-1", zone="a")
        await it.client.patch(Node, "node-1", {"status": {"addresses": []}}, subresource="status")
        await asyncio.sleep(10)
        assert it.manager.statistics().controllers["daemonset"].reconciles == runs
        await change_node(it, "node-1", disk="ssd")
        await it.until(lambda: counts_of(it, "ssd", 1))
        assert await counts_of(it, "agent", 3)


async def counts_of(it: Cluster, name: str, number: int) -> bool:
    return bool((await status(it, name))["numberReady"] == number)


# ---- claiming, deleting, failing -------------------------------------------------------------------------------------


async def test_pods_are_adopted_where_they_run_and_released_when_they_lose_the_label(store: Client) -> None:
    async with running(store) as it:
        raw = {
            "metadata": {"name": "stray", "namespace": "default", "labels": {"app": "agent"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "stray"}]},
        }
        await it.client.create(Pod.from_raw(raw))
        await it.client.create(daemon_set(updateStrategy={"type": "OnDelete"}))
        await it.until(lambda: counts(it, numberReady=3, updatedNumberScheduled=2))
        assert (await on_nodes(it))["node-1"] == ["stray"]
        await it.client.patch(Pod, "stray", {"metadata": {"labels": {"app": "free"}}}, "default")
        await settled(it)
        stray = await it.client.get(Pod, "stray", "default")
        assert stray.metadata.owner_references == []
        assert (await on_nodes(it, app="agent"))["node-1"] == ["agent:1"]


async def test_pods_that_are_deleted_are_replaced_once_they_are_gone(store: Client) -> None:
    async with running(store, pod_delete_delay=5.0) as it:
        await it.client.create(daemon_set())
        await settled(it)
        (pod,) = [pod for pod in await it.pods() if pod.spec.node_name == "node-2"]
        await it.client.delete(Pod, pod.name, "default")
        await asyncio.sleep(4)
        assert await has(it, "node-1", "node-3")
        await settled(it)
        assert list(await on_nodes(it)) == NODES


async def test_of_two_pods_on_a_node_the_older_stays(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        (first,) = [pod for pod in await it.pods() if pod.spec.node_name == "node-2"]
        await asyncio.sleep(5)
        second = Pod.from_raw(
            {
                "metadata": {"name": "second", "namespace": "default", "labels": dict(first.metadata.labels)},
                "spec": {"nodeName": "node-2", "containers": [{"name": "c", "image": "x"}]},
            }
        )
        set_controller_reference(await get(it), second)
        await it.client.create(second)
        await it.until(lambda: gone(it, Pod, "second"))
        await settled(it)
        assert first.name in [pod.name for pod in await it.pods()]
        assert await told(it, "SuccessfulDelete") == ["Deleted pod: second"]


async def gone(it: Cluster, cls: type[Resource], name: str) -> bool:
    return not await it.exists(cls, name)


async def finish(it: Cluster, node: str, phase: str) -> Pod:
    """Let the pod of a node end."""
    (pod,) = [pod for pod in await it.pods() if pod.spec.node_name == node and not pod.deleting]
    pod.raw["status"] = {"phase": phase}
    return await it.client.update_status(pod)


async def test_failed_pods_are_replaced_ever_later(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        times = []
        for _ in range(5):
            await settled(it)
            pod = await finish(it, "node-2", "Failed")
            await it.until(lambda: gone(it, Pod, pod.name))  # noqa: B023 - awaited here
            times.append(asyncio.get_running_loop().time())
        assert [round(after - before) for before, after in pairwise(times)][1:] == [2, 4, 8]
        message = f"Found failed daemon pod default/{pod.name} on node node-2, will try to kill it"
        assert message in await told(it, "FailedDaemonPod")


async def test_pods_that_succeed_are_replaced_at_once(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        pod = await finish(it, "node-1", "Succeeded")
        await it.until(lambda: gone(it, Pod, pod.name))
        await settled(it)
        message = f"Found succeeded daemon pod default/{pod.name} on node node-1, will try to delete it"
        assert await told(it, "SucceededDaemonPod") == [message]


async def test_a_pod_that_is_refused_is_told_and_tried_again(store: Client) -> None:
    # Each refusal is logged, and drawing its traceback takes long.
    with capture_logs():
        async with running(store) as it:
            quota = {"metadata": {"name": "few", "namespace": "default"}, "spec": {"hard": {"pods": "1"}}}
            await it.client.create(ResourceQuota.from_raw(quota))
            await asyncio.sleep(2)
            await it.client.create(daemon_set())

            async def refused() -> bool:
                refusals = [event.message for event in await it.events("FailedCreate")]
                assert all("Error creating: " in message for message in refusals)
                return bool(refusals) and await counts(it, desiredNumberScheduled=3, currentNumberScheduled=1)

            await it.until(refused)
            await it.client.delete(ResourceQuota, "few", "default")
            await settled(it)
            assert list(await on_nodes(it)) == NODES


async def test_a_sync_makes_no_more_pods_than_a_burst(store: Client) -> None:
    manager = Manager(client=store, now=virtual_now, rng=random.Random(1))
    DaemonSetController(manager, manager.events, burst=2).register()
    client = ObjectClient(store, now=virtual_now, rng=random.Random(0))
    for number in range(5):
        await client.create(Node(name=f"n{number}"))
    await client.create(daemon_set())
    async with manager:
        await asyncio.sleep(5)
    # A sync ends with the status of what it found.
    written = [each for each in await history(store) if any("/daemonsets/" in key for key in each.changed)]
    assert [len(list(each.of(Pod))) for each in written] == [0, 2, 4, 5, 5]


async def test_deleting_it_deletes_its_pods_and_revisions(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        await it.client.delete(DaemonSet, "agent", "default", propagation="foreground")
        await it.until(lambda: gone(it, DaemonSet, "agent"))
        await asyncio.sleep(2)
        assert await it.pods() == []
        assert (await it.client.list(ControllerRevision, "default")).items == []


async def test_orphaned_pods_are_adopted_and_replaced_by_the_next_one(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        await it.client.delete(DaemonSet, "agent", "default", propagation="orphan")
        await it.until(lambda: gone(it, DaemonSet, "agent"))
        assert len(await it.pods()) == 3
        await it.client.create(daemon_set(image="agent:2"))
        await settled(it)
        assert await on_nodes(it) == {name: ["agent:2"] for name in NODES}
        assert [each.revision for each in await revisions(it)] == [1, 2]


# ---- rolling ---------------------------------------------------------------------------------------------------------


async def test_a_rolling_update_takes_one_node_at_a_time(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        first = (await history(store))[-1].number
        await set_image(it, "agent:2")
        found = await settled(it)
        assert found["observedGeneration"] == 2
        assert await on_nodes(it) == {name: ["agent:2"] for name in NODES}
        seen = await numbers(it, first, "agent:2")
        assert min(available for _, _, available in seen) == 2
        assert max(old + new for old, new, _ in seen) == 3
        assert {pod.metadata.labels["pod-template-generation"] for pod in await it.pods()} == {"2"}
        assert (await get(it)).metadata.annotations[TEMPLATE_GENERATION] == "2"
        assert [each.revision for each in await revisions(it)] == [1, 2]


async def test_a_rolling_update_waits_for_min_ready_seconds(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(minReadySeconds=20))
        await settled(it)
        start = asyncio.get_running_loop().time()
        await set_image(it, "agent:2", updateStrategy=rolling(maxUnavailable="50%"))
        await settled(it)
        # 50 % of 3 is 2: two steps
        assert 40 < asyncio.get_running_loop().time() - start < 60


async def test_a_surge_keeps_all_nodes_served(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(updateStrategy=surging(1), minReadySeconds=2))
        await settled(it)
        first = (await history(store))[-1].number
        await set_image(it, "agent:2")
        await settled(it)
        seen = await numbers(it, first, "agent:2")
        assert min(available for _, _, available in seen) == 3
        assert max(old + new for old, new, _ in seen) == 4
        assert await on_nodes(it) == {name: ["agent:2"] for name in NODES}


async def test_a_rollout_that_does_not_get_ready_stops_and_is_undone(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        await set_image(it, "agent:does-not-exist")
        await asyncio.sleep(60)
        assert sorted(await on_nodes(it)) == NODES
        assert await counts(it, updatedNumberScheduled=1, numberAvailable=2, numberUnavailable=1)
        old = find_revision(await revisions(it))

        def back(ds: DaemonSet) -> None:
            assert undo(ds, old)

        await it.change(DaemonSet, "agent", back)
        await settled(it)
        assert await on_nodes(it) == {name: ["agent:1"] for name in NODES}
        assert [each.revision for each in await revisions(it)] == [2, 3]


async def test_on_delete_replaces_what_somebody_deletes(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(updateStrategy={"type": "OnDelete"}))
        await settled(it)
        await set_image(it, "agent:2")
        await asyncio.sleep(30)
        assert await on_nodes(it) == {name: ["agent:1"] for name in NODES}
        assert await counts(it, updatedNumberScheduled=0, numberAvailable=3)
        (pod,) = [pod for pod in await it.pods() if pod.spec.node_name == "node-2"]
        await it.client.delete(Pod, pod.name, "default")
        await it.until(lambda: counts(it, updatedNumberScheduled=1, numberAvailable=3))
        assert (await on_nodes(it))["node-2"] == ["agent:2"]


async def test_history_is_kept_up_to_its_limit(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set(revisionHistoryLimit=2, updateStrategy=rolling(maxUnavailable="100%")))
        await settled(it)
        for number in range(2, 6):
            await set_image(it, f"agent:{number}")
            await settled(it)
        await asyncio.sleep(1)
        assert [each.revision for each in await revisions(it)] == [3, 4, 5]
        assert (await get(it)).template_generation == 5
        (newest, *_) = (await it.pods())[0].metadata.labels["controller-revision-hash"], 0
        assert (await revisions(it))[-1].metadata.labels["controller-revision-hash"] == newest


async def test_a_revision_that_is_deleted_is_made_again(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        (revision,) = await revisions(it)
        await it.client.delete(ControllerRevision, revision.name, "default")
        await asyncio.sleep(1)
        assert [each.name for each in await revisions(it)] == [revision.name]
        assert len(await told(it, "SuccessfulCreate")) == 3


async def test_another_objects_name_is_a_collision(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        (revision,) = await revisions(it)
        await it.client.delete(DaemonSet, "agent", "default", propagation="foreground")
        await it.until(lambda: gone(it, DaemonSet, "agent"))
        taken = {"metadata": {"name": revision.name, "namespace": "default"}, "data": {}, "revision": 1}
        await it.client.create(ControllerRevision.from_raw(taken))
        await it.client.create(daemon_set())
        assert (await settled(it))["collisionCount"] == 1
        assert [each.name for each in await revisions(it)] != [revision.name]


async def test_the_server_checks_it(store: Client) -> None:
    async with running(store) as it:
        with pytest.raises(Invalid, match="maxSurge"):
            await it.client.create(daemon_set(updateStrategy=rolling(maxSurge=1)))
        await it.client.create(daemon_set())
        selector = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
        with pytest.raises(Invalid, match="immutable"):
            await it.client.patch(DaemonSet, "agent", {"spec": {"selector": selector}}, "default")


async def test_nothing_is_written_once_all_is_as_wanted(store: Client) -> None:
    async with running(store) as it:
        await it.client.create(daemon_set())
        await settled(it)
        await asyncio.sleep(5)
        before = (await history(store))[-1]
        await asyncio.sleep(300)
        after = (await history(store))[-1]
        kinds = {key.split("/")[3] for key in after.objects if after.objects[key] != before.objects.get(key)}
        assert kinds <= {"leases"}
