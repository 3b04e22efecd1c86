"""What nodes say of themselves, the taints that come of it, and the pods that leave for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from controllers.batch.types import Job
from controllers.core.taint_eviction import UNREACHABLE
from controllers.core.types import Node, Pod
from informer.errors import Conflict
from kvstore.api import Client, Compare, DeleteRange, Op, Put, TxnResponse
from kvstore.client.embedded import EmbeddedClient
from kvstore.errors import Unavailable
from tests.controllers.batch.jobs import ended, job, running
from tests.controllers.cluster import Cluster, cluster, history

pytestmark = pytest.mark.virtual_time

QUICK: dict[str, Any] = {"pod_start_delay": 0.0, "pod_ready_delay": 0.0}
NO_EXECUTE = {"key": "example.com/leave", "effect": "NoExecute"}

Raw = dict[str, Any]


def now() -> float:
    return asyncio.get_running_loop().time()


async def there(it: Cluster, count: int = 3) -> None:
    """Wait until all nodes have registered."""

    async def all_ready() -> bool:
        nodes = (await it.client.list(Node)).items
        return len(nodes) == count and all(node.ready for node in nodes)

    await it.until(all_ready)


async def taint(it: Cluster, name: str, *taints: Raw) -> None:
    """As `kubectl taint`: beside those that the node has from its conditions."""
    while True:
        node = await it.client.get(Node, name)
        node.raw.setdefault("spec", {})["taints"] = list(taints)
        try:
            await it.client.update(node)
        except Conflict:
            continue
        return


async def taints(it: Cluster, name: str) -> set[tuple[str, str]]:
    return {(each.key, each.effect) for each in (await it.client.get(Node, name)).spec.taints}


def bound(name: str, node: str = "node-2", *tolerations: Raw) -> Pod:
    spec = {"nodeName": node, "containers": [{"name": "a", "image": "a"}], "tolerations": list(tolerations)}
    return Pod.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": spec})


def tolerating(key: str, seconds: int | None = None) -> Raw:
    found: Raw = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    return found if seconds is None else {**found, "tolerationSeconds": seconds}


async def gone(it: Cluster, name: str, patience: float = 600.0) -> float:
    """Wait until a pod is gone; when that was."""

    async def absent() -> bool:
        return not await it.exists(Pod, name)

    await it.until(absent, patience)
    return now()


async def set_condition(it: Cluster, name: str, kind: str, status: str) -> None:
    while True:
        node = await it.client.get(Node, name)
        for condition in node.raw["status"]["conditions"]:
            if condition["type"] == kind:
                condition.update(status=status, reason="Said", message="")
        try:
            await it.client.update_status(node)
        except Conflict:
            continue
        return


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        (
            "Ready",
            "False",
            {("node.kubernetes.io/not-ready", "NoSchedule"), ("node.kubernetes.io/not-ready", "NoExecute")},
        ),
        ("MemoryPressure", "True", {("node.kubernetes.io/memory-pressure", "NoSchedule")}),
        ("DiskPressure", "True", {("node.kubernetes.io/disk-pressure", "NoSchedule")}),
        ("PIDPressure", "True", {("node.kubernetes.io/pid-pressure", "NoSchedule")}),
    ],
)
async def test_taints_follow_the_conditions(
    store: Client, kind: str, status: str, expected: set[tuple[str, str]]
) -> None:
    async with cluster(store) as it:
        await there(it)
        mine = {"key": "example.com/mine", "effect": "NoSchedule"}
        await taint(it, "node-2", mine)
        await set_condition(it, "node-2", kind, status)

        async def tainted() -> bool:
            return await taints(it, "node-2") == {("example.com/mine", "NoSchedule"), *expected}

        await it.until(tainted)
        added = [each for each in (await it.client.get(Node, "node-2")).spec.taints if each.key != "example.com/mine"]
        assert all(each.time_added is not None for each in added)
        await set_condition(it, "node-2", kind, "True" if kind == "Ready" else "False")

        async def as_before() -> bool:
            return await taints(it, "node-2") == {("example.com/mine", "NoSchedule")}

        await it.until(as_before)


async def test_a_cordoned_node_is_tainted(store: Client) -> None:
    async with cluster(store) as it:
        await there(it)
        await it.client.patch(Node, "node-2", {"spec": {"unschedulable": True}})

        async def tainted() -> bool:
            return await taints(it, "node-2") == {("node.kubernetes.io/unschedulable", "NoSchedule")}

        await it.until(tainted)
        await it.client.patch(Node, "node-2", {"spec": {"unschedulable": None}})

        async def untainted() -> bool:
            return not await taints(it, "node-2")

        await it.until(untainted)


async def test_a_node_that_is_not_ready_loses_its_pods_readiness_until_it_is(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one"))

        async def ready() -> bool:
            return (await it.client.get(Pod, "one", "default")).ready

        async def unready() -> bool:
            return not await ready()

        await it.until(ready)
        it.workloads.nodes.kill("node-2")
        await it.until(unready)
        condition = (await it.client.get(Pod, "one", "default")).condition("Ready")
        assert condition is not None
        assert condition.reason == "NodeNotReady"
        it.workloads.nodes.revive("node-2")
        await it.until(ready)


async def test_a_pod_leaves_at_once_or_when_its_time_is_over_or_never(store: Client) -> None:
    async with cluster(store, pod_delete_delay=0.0, **QUICK) as it:
        await there(it)
        key = NO_EXECUTE["key"]
        await it.client.create(bound("at-once"))
        await it.client.create(bound("other", "node-2", tolerating("example.com/other")))
        await it.client.create(bound("later", "node-2", tolerating(key, 30)))
        await it.client.create(bound("sooner", "node-2", tolerating(key, 30), tolerating(key, 10)))
        await it.client.create(bound("never", "node-2", tolerating(key)))
        await it.client.create(bound("elsewhere", "node-1"))
        began = now()
        await taint(it, "node-2", NO_EXECUTE)
        assert await gone(it, "at-once") - began < 0.2
        assert await gone(it, "other") - began < 0.2
        assert await gone(it, "sooner") - began == pytest.approx(10, abs=0.2)
        assert await gone(it, "later") - began == pytest.approx(30, abs=0.2)
        await it.client.create(bound("newcomer"))
        assert await gone(it, "newcomer") - began < 31
        await asyncio.sleep(100)
        assert {pod.name for pod in await it.pods()} == {"never", "elsewhere"}
        told = await it.events("TaintManagerEviction")
        assert {event.message for event in told} == {
            f"Marking for deletion Pod default/{name}" for name in ("at-once", "other", "later", "sooner", "newcomer")
        }
        assert it.workloads.node_lifecycle.statistics().evicted == 5


async def test_a_taint_that_goes_in_time_lets_the_pods_stay(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one", "node-2", tolerating(NO_EXECUTE["key"], 30)))
        await taint(it, "node-2", NO_EXECUTE)
        await asyncio.sleep(20)
        await taint(it, "node-2")
        await asyncio.sleep(60)
        assert not (await it.client.get(Pod, "one", "default")).deleting
        (event,) = await it.events("TaintManagerEviction")
        assert event.message == "Cancelling deletion of Pod default/one"


async def test_a_toleration_of_lost_nodes_is_worth_more_than_the_default(store: Client) -> None:
    async with cluster(store, eviction_after=100.0, node_grace=40.0, **QUICK) as it:
        await there(it)
        for pod in (
            bound("default"),
            bound("patient", "node-2", tolerating(UNREACHABLE, 200)),
            bound("daemon", "node-2", tolerating(UNREACHABLE)),
        ):
            await it.client.create(pod)
        await asyncio.sleep(1)
        it.workloads.nodes.kill("node-2")
        first = await gone(it, "default")
        assert await gone(it, "patient") - first == pytest.approx(100, abs=0.2)
        await asyncio.sleep(100)
        assert await it.exists(Pod, "daemon")


async def test_a_restart_does_not_begin_the_waiting_anew(store: Client) -> None:
    async with cluster(store, eviction_after=100.0, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one"))
        await set_condition(it, "node-2", "Ready", "False")
        began = now()
        await asyncio.sleep(60)
    # The controllers alone: kubelets would say anew that they are ready.
    async with cluster(store, nodes=0, node_grace=1000.0, eviction_after=100.0) as it:

        async def leaving() -> bool:
            return (await it.client.get(Pod, "one", "default")).deleting

        await it.until(leaving)
        assert now() - began == pytest.approx(100, abs=2)


async def targets(store: Client) -> set[tuple[str, str, str]]:
    """Pod, reason and phase with which it was told to go, over the whole history."""
    return {
        (raw["metadata"]["name"], each["reason"], raw["status"]["phase"])
        for revision in await history(store)
        for raw in revision.of(Pod)
        for each in raw["status"].get("conditions", ())
        if each["type"] == "DisruptionTarget" and each["status"] == "True"
    }


async def test_pods_are_told_why_they_go(store: Client) -> None:
    async with cluster(store, eviction_after=10.0, **QUICK) as it:
        await there(it)
        await it.client.create(bound("tainted", "node-1"))
        await it.client.create(bound("lost", "node-2"))
        await it.client.create(bound("orphan", "node-3"))
        await asyncio.sleep(1)
        began = now()
        await it.client.delete(Node, "node-3")
        it.workloads.nodes.kill("node-2")
        await taint(it, "node-1", NO_EXECUTE)
        await gone(it, "tainted")
        # The quarantine of a node that is gone.
        assert await gone(it, "orphan") - began == pytest.approx(40, abs=0.5)
        await gone(it, "lost")
    assert await targets(store) == {
        ("tainted", "DeletionByTaintManager", "Running"),
        ("lost", "DeletionByTaintManager", "Running"),
        ("orphan", "DeletionByPodGC", "Failed"),
    }


class Interfering(EmbeddedClient):
    """A store in which somebody else writes a pod just before it is told that its node is lost, three times."""

    interfered = 0

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        for op in success:
            if isinstance(op, Put) and b"NodeNotReady" in op.value and op.key == Pod.TYPE.key("default", "one"):
                present = await self.get(op.key)
                if present is not None and self.interfered < 3:
                    self.interfered += 1
                    await self.put(op.key, present.value)
        return await super().txn(compare, success, failure)


async def test_a_pod_that_changes_when_its_node_is_lost_is_told_all_the_same(store: EmbeddedClient) -> None:
    client = Interfering(store._node)
    async with cluster(store, client=client, eviction_after=1000.0, node_grace=8.0, **QUICK) as it:
        await there(it)
        for name in ("one", "two"):
            await it.client.create(bound(name))
        await asyncio.sleep(1)
        it.workloads.nodes.kill("node-2")

        async def told() -> bool:
            return not any(pod.ready for pod in await it.pods())

        await it.until(told)
        assert client.interfered == 3


class Undeletable(EmbeddedClient):
    """A store in which nothing can be deleted for now."""

    async def txn(
        self, compare: Sequence[Compare] = (), success: Sequence[Op] = (), failure: Sequence[Op] = ()
    ) -> TxnResponse:
        if any(isinstance(op, DeleteRange) for op in success):
            raise Unavailable
        return await super().txn(compare, success, failure)


async def test_a_pod_whose_eviction_got_no_further_than_its_condition_lives_on(store: EmbeddedClient) -> None:
    async with cluster(store, client=Undeletable(store._node), eviction_after=5.0, node_grace=8.0, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one"))
        await asyncio.sleep(1)
        it.workloads.nodes.kill("node-2")

        async def told() -> bool:
            return (await it.client.get(Pod, "one", "default")).condition("DisruptionTarget") is not None

        await it.until(told)
    # Another process, which finds the node in good health.
    async with cluster(store, eviction_after=5.0, node_grace=8.0, **QUICK) as it:
        await asyncio.sleep(200)
        pod = await it.client.get(Pod, "one", "default")
        assert (pod.status.phase, pod.deleting) == ("Running", False)


async def test_a_pod_that_finalizers_keep_on_a_lost_node_has_failed(store: Client) -> None:
    async with cluster(store, eviction_after=5.0, node_grace=8.0, **QUICK) as it:
        await there(it)
        pod = bound("one")
        pod.raw["metadata"]["finalizers"] = ["example.com/keep"]
        await it.client.create(pod)
        await asyncio.sleep(1)
        it.workloads.nodes.kill("node-2")

        async def failed() -> bool:
            found = await it.client.get(Pod, "one", "default")
            return found.deleting and found.status.phase == "Failed"

        await it.until(failed)


async def test_a_pod_that_ended_on_a_lost_node_before_its_grace_was_over_goes(store: Client) -> None:
    async with cluster(store, eviction_after=5.0, node_grace=8.0, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one"))
        await asyncio.sleep(1)
        it.workloads.nodes.kill("node-2")
        await it.client.delete(Pod, "one", "default", grace_seconds=30)
        pod = await it.client.get(Pod, "one", "default")
        pod.status.phase = "Failed"
        await it.client.update_status(pod)
        await gone(it, "one")


async def test_pods_of_a_node_that_has_gone_before_the_start_are_collected(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        await it.client.create(bound("kept", "node-1"))
        await it.client.create(bound("orphan", "node-9"))
    async with cluster(store, **QUICK) as it:
        await gone(it, "orphan")
        assert await it.exists(Pod, "kept")


async def test_a_pod_on_a_node_that_never_was_is_collected(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        await it.client.create(bound("ghost", "node-9"))
        await asyncio.sleep(39)
        assert await it.exists(Pod, "ghost")
        await asyncio.sleep(22)
        assert not await it.exists(Pod, "ghost")


async def test_of_many_ended_pods_the_oldest_are_collected(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        it.workloads.node_lifecycle.collector.threshold = 2
        await it.client.create(bound("runs"))
        for name in ("d", "c", "b", "a"):
            made = await it.client.create(bound(name))
            made.status.phase = "Succeeded"
            await it.client.update_status(made)
            await asyncio.sleep(1)
        await asyncio.sleep(20)
        assert {pod.name for pod in await it.pods()} == {"a", "b", "runs"}


async def test_a_node_that_is_made_anew_in_time_keeps_its_pods(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)
        await it.client.create(bound("one"))
        node = await it.client.get(Node, "node-2")
        await it.client.delete(Node, "node-2")
        await asyncio.sleep(20)
        again = Node(name="node-2", labels=dict(node.metadata.labels))
        await it.client.create(again)
        await asyncio.sleep(30)
        assert await it.exists(Pod, "one")


@pytest.mark.parametrize("end", ["taint", "loss", "deletion"])
async def test_a_job_does_not_count_pods_that_went_for_the_clusters_sake(store: Client, end: str) -> None:
    async with cluster(store, nodes=2, eviction_after=10.0, pod_start_delay=0.0, pod_ready_delay=0.0) as it:
        await there(it, 2)
        rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]
        await it.client.create(job(backoffLimit=0, podFailurePolicy={"rules": rules}, run="60"))
        (first,) = await running(it, 1)
        if end == "taint":
            await taint(it, first.spec.node_name, NO_EXECUTE)
        elif end == "loss":
            it.workloads.nodes.kill(first.spec.node_name)
        else:
            await it.client.delete(Node, first.spec.node_name)
        found = await ended(it)
        assert (found.get("succeeded"), found.get("failed")) == (1, None)
        assert not await it.exists(Pod, first.name)


async def test_without_that_policy_it_does(store: Client) -> None:
    async with cluster(store, nodes=2, pod_start_delay=0.0, pod_ready_delay=0.0) as it:
        await there(it, 2)
        await it.client.create(job(backoffLimit=0, run="60"))
        (first,) = await running(it, 1)
        await taint(it, first.spec.node_name, NO_EXECUTE)
        assert (await ended(it))["failed"] == 1
        assert (await it.client.get(Job, "work", "default")).status.failed == 1


async def test_pods_are_watched_only_while_a_node_is_tainted(store: Client) -> None:
    async with cluster(store, **QUICK) as it:
        await there(it)

        def watching() -> bool:
            return any(each.name == "taint eviction" for each in it.manager.informer(Pod).statistics().handlers)

        assert not watching()
        await taint(it, "node-2", NO_EXECUTE)
        await it.client.create(bound("one"))
        await gone(it, "one")
        assert watching()
        await taint(it, "node-2")
        await asyncio.sleep(1)
        assert not watching()
