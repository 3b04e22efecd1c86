"""The ReplicaSet controller: claiming, bursts, failures, minReadySeconds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.apps.types import ReplicaSet
from controllers.core.pod_control import slow_start
from controllers.core.types import Pod
from informer.errors import Conflict
from kvstore.api import Client, Op, TxnResponse
from kvstore.errors import NoSpace
from tests.controllers.cluster import Cluster, cluster, history, nginx

pytestmark = pytest.mark.virtual_time


def replica_set(replicas: int = 3, **spec: Any) -> ReplicaSet:
    template = nginx().raw["spec"]["template"]
    return ReplicaSet.from_raw(
        {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "nginx"}}, "template": template, **spec},
        }
    )


def bare_pod(name: str, **labels: str) -> Pod:
    spec = nginx().raw["spec"]["template"]["spec"]
    return Pod.from_raw({"metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": spec})


async def status(it: Cluster) -> dict[str, Any]:
    found = (await it.client.get(ReplicaSet, "web", "default")).raw.get("status", {})
    assert isinstance(found, dict)
    return found


async def available(it: Cluster, count: int) -> None:
    async def reached() -> bool:
        return (await status(it)).get("availableReplicas", 0) == count and len(await it.pods(app="nginx")) == count

    await it.until(reached)


async def test_it_keeps_the_number_and_replaces_what_goes(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(replica_set())
        await available(it, 3)
        victim = (await it.pods())[0]
        await it.client.delete(Pod, victim.name, "default")

        async def gone() -> bool:
            return not await it.exists(Pod, victim.name)

        await it.until(gone)
        await available(it, 3)
        assert victim.name not in {pod.name for pod in await it.pods()}
        assert await status(it) == {
            "replicas": 3,
            "fullyLabeledReplicas": 3,
            "readyReplicas": 3,
            "availableReplicas": 3,
            "terminatingReplicas": 0,
            "observedGeneration": 1,
        }


async def test_a_pod_that_is_being_deleted_is_replaced_at_once_and_counted_as_terminating(store: Client) -> None:
    async with cluster(store, pod_delete_delay=20.0) as it:
        await it.client.create(replica_set())
        await available(it, 3)
        await it.client.delete(Pod, (await it.pods())[0].name, "default")

        async def replaced() -> bool:
            found = await status(it)
            return (found["availableReplicas"], found["terminatingReplicas"]) == (3, 1)

        await it.until(replaced)
        assert len(await it.pods()) == 4
        await available(it, 3)


async def test_finished_pods_do_not_count(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(replica_set())
        await available(it, 3)
        done = (await it.pods())[0]
        patch = {"status": {"phase": "Failed"}}
        await it.client.patch(Pod, done.name, patch, "default", subresource="status")

        async def replaced() -> bool:
            return len(await it.pods()) == 4 and (await status(it)).get("availableReplicas") == 3

        await it.until(replaced)


async def test_orphans_that_match_are_adopted_and_too_many_of_them_deleted(store: Client) -> None:
    async with cluster(store) as it:
        for number in range(4):
            await it.client.create(bare_pod(f"orphan-{number}", app="nginx"))
        await it.client.create(bare_pod("other", app="other"))
        await it.client.create(replica_set(3))
        await available(it, 3)
        rs = await it.client.get(ReplicaSet, "web", "default")
        for pod in await it.pods(app="nginx"):
            assert pod.name.startswith("orphan-")
            assert pod.metadata.controller is not None
            assert pod.metadata.controller.uid == rs.metadata.uid
        assert (await it.client.get(Pod, "other", "default")).metadata.controller is None


async def test_a_pod_that_loses_its_label_is_released_and_replaced(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(replica_set(2))
        await available(it, 2)
        name = (await it.pods())[0].name
        await it.client.patch(Pod, name, {"metadata": {"labels": {"app": "debug"}}}, "default")
        await available(it, 2)
        released = await it.client.get(Pod, name, "default")
        assert released.metadata.controller is None
        assert not released.deleting


async def test_pods_of_another_controller_are_left_alone(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(replica_set(1))
        await available(it, 1)
        second = replica_set(1)
        second.metadata.name = "rival"
        await it.client.create(second)

        async def both() -> bool:
            return len([pod for pod in await it.pods() if pod.ready]) == 2

        await it.until(both)
        owners = {pod.metadata.controller.name for pod in await it.pods() if pod.metadata.controller is not None}
        assert owners == {"web", "rival"}


async def test_min_ready_seconds_delay_availability_and_nothing_else_has_to_happen_for_it_to_come(
    store: Client,
) -> None:
    async with cluster(store, pod_start_delay=0, pod_ready_delay=0) as it:
        await it.client.create(replica_set(2, minReadySeconds=30))

        async def ready() -> bool:
            return (await status(it)).get("readyReplicas") == 2

        await it.until(ready)
        assert "availableReplicas" not in await status(it)
        began = asyncio.get_running_loop().time()
        await available(it, 2)
        assert 29 <= asyncio.get_running_loop().time() - began <= 31


async def test_a_burst_is_five_hundred(store: Client) -> None:
    async with cluster(store, pod_start_delay=0, pod_ready_delay=0) as it:
        await it.client.create(replica_set(700))
        await available(it, 700)
        # What a sync made is told before the next one makes more.
        told = [
            rs["status"].get("replicas", 0)
            for revision in await history(store)
            for rs in revision.of(ReplicaSet)
            if "status" in rs
        ]
        assert max(count for count in told if count < 700) == 500


async def test_slow_start_doubles() -> None:
    alive: list[int] = []

    async def create() -> None:
        alive.append(len(asyncio.all_tasks()) - 1)

    assert await slow_start(20, create) is None
    assert alive[0] == 1
    assert alive[1] == 2
    assert alive[3] == 4
    assert alive[7] == 8
    assert alive[15] == 5
    assert len(alive) == 20


async def test_slow_start_ends_with_the_batch_in_which_one_fails() -> None:
    tries: list[int] = []

    async def create() -> None:
        tries.append(len(tries))
        if len(tries) == 5:
            raise Conflict("the fifth")

    failure = await slow_start(100, create)
    assert isinstance(failure, Conflict)
    assert len(tries) == 1 + 2 + 4


class FullStore:
    """A store that takes no pods as long as it is full."""

    def __init__(self, inner: Client) -> None:
        self.inner = inner
        self.full = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def txn(self, compare: Any = (), success: tuple[Op, ...] = (), failure: tuple[Op, ...] = ()) -> TxnResponse:
        if self.full and compare and compare[0].key.startswith(Pod.TYPE.prefix()):
            raise NoSpace
        return await self.inner.txn(compare, success, failure)


async def test_a_failure_is_told_by_condition_and_event_and_tried_again(store: Client) -> None:
    full = FullStore(store)
    async with cluster(store, client=full) as it:  # type: ignore[arg-type]
        await it.apply(nginx())

        async def failed() -> bool:
            conditions = [each for rs in await it.replica_sets() for each in rs.status.conditions]
            return [(each.type, each.status, each.reason) for each in conditions] == [
                ("ReplicaFailure", "True", "FailedCreate")
            ]

        await it.until(failed)

        async def told() -> bool:
            kinds = [each.type for each in (await it.deployment()).status.conditions]
            return "ReplicaFailure" in kinds and bool(await it.events("FailedCreate"))

        await it.until(told)
        full.full = False
        await it.rolled_out()
        (rs,) = await it.replica_sets()
        assert rs.status.conditions == []
        assert "ReplicaFailure" not in [each.type for each in (await it.deployment()).status.conditions]
