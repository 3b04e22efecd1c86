"""Pods wait for their claims."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.scheduling.scheduler import Scheduler
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.storage.matching import NO_PROVISIONER
from controllers.storage.types import DEFAULT_CLASS
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster
from tests.controllers.storage.volumes import claim, reached, storage_class, told, user_of, volume

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"nodes": 1, "pod_start_delay": 0.1, "pod_ready_delay": 0}
UNHELPFUL = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."


async def runs(it: Cluster, name: str = "user") -> Pod:
    async def ready() -> bool:
        return (await it.client.get(Pod, name, "default")).ready

    await it.until(ready, 60)
    return await it.client.get(Pod, name, "default")


async def test_a_pod_waits_for_a_claim_that_is_not_there(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(user_of("data"))
        text = 'persistentvolumeclaim "data" not found'
        assert await told(it, "FailedScheduling") == f"0/1 nodes are available: {text}. {UNHELPFUL}"
        condition = (await it.client.get(Pod, "user", "default")).condition("PodScheduled")
        assert condition is not None
        assert (condition.status, condition.reason) == ("False", "Unschedulable")
        await it.client.create(claim())
        await runs(it)


async def test_a_pod_waits_for_a_claim_that_is_not_bound(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(claim(storageClassName="manual"))
        await it.client.create(user_of("data"))
        text = "pod has unbound immediate PersistentVolumeClaims"
        assert await told(it, "FailedScheduling") == f"0/1 nodes are available: {text}. {UNHELPFUL}"
        scheduler: Scheduler = it.workloads.scheduler
        assert scheduler.statistics().unschedulable == 1
        await it.client.create(volume())
        await runs(it)
        assert (await it.client.get(PersistentVolumeClaim, "data", "default")).status.phase == "Bound"


async def test_a_claim_and_a_pod_that_wait_for_each_other_do_not(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(storage_class(volumeBindingMode="WaitForFirstConsumer"))
        await it.client.create(claim(storageClassName="fast"))
        await told(it, "WaitForFirstConsumer")
        await it.client.create(user_of("data"))
        await runs(it)
        await reached(it, "Bound")
        assert not await it.events("FailedScheduling")


async def test_a_default_class_is_named_at_once(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        made = storage_class(volumeBindingMode="WaitForFirstConsumer")
        made.metadata.annotations[DEFAULT_CLASS] = "true"
        await it.client.create(made)
        await asyncio.sleep(1)
        for name, named, expected in (("data", None, "fast"), ("none", "", ""), ("other", "manual", "manual")):
            asked = claim(name) if named is None else claim(name, storageClassName=named)
            assert (await it.manager.client.create(asked)).spec.storage_class_name == expected
        await it.client.create(user_of("data"))
        await runs(it)
        assert not await it.events("FailedScheduling")


async def test_a_volume_that_nobody_makes_has_to_be_found(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        local = storage_class("local", provisioner=NO_PROVISIONER, volumeBindingMode="WaitForFirstConsumer")
        await it.client.create(local)
        await it.client.create(claim(storageClassName="local"))
        await it.client.create(user_of("data"))
        text = "node(s) didn't find available persistent volumes to bind"
        assert await told(it, "FailedScheduling") == f"0/1 nodes are available: {text}. {UNHELPFUL}"
        await it.client.create(volume(storageClassName="local"))
        await runs(it)
