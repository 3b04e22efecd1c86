"""Claims get volumes, keep them while they are used, and give them back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.storage.types import PersistentVolume, StorageClass
from kvstore.api import Client
from tests.controllers.cluster import cluster
from tests.controllers.storage.volumes import (
    claim,
    claim_of,
    gone,
    reached,
    storage_class,
    told,
    user_of,
    volume,
    volume_reached,
)

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0.1, "pod_ready_delay": 0.1, "pod_delete_delay": 0.1}


async def test_a_claim_without_a_class_gets_a_volume_of_the_default_class(store: Client) -> None:
    async with cluster(store) as it:
        made = await it.client.create(claim())
        bound = await reached(it, "Bound")
        name = f"pvc-{made.metadata.uid}"
        assert (bound.spec.volume_name, bound.spec.storage_class_name) == (name, "standard")
        assert bound.raw["status"] == {
            "phase": "Bound",
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
        }
        assert bound.metadata.annotations["pv.kubernetes.io/bind-completed"] == "yes"
        assert bound.metadata.finalizers == ["kubernetes.io/pvc-protection"]
        disk = await it.client.get(PersistentVolume, name)
        assert disk.status.phase == "Bound"
        assert disk.metadata.finalizers == ["kubernetes.io/pv-protection"]
        assert disk.spec.persistent_volume_reclaim_policy == "Delete"
        assert disk.raw["spec"]["claimRef"] == {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": "default",
            "name": "data",
            "uid": made.metadata.uid,
        }
        assert (await it.client.get(StorageClass, "standard")).is_default
        assert await told(it, "ProvisioningSucceeded") == f"Successfully provisioned volume {name}"


async def test_a_claim_may_name_the_class_that_a_cluster_comes_with(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim(storageClassName="standard"))
        await reached(it, "Bound")
        assert (await it.client.get(StorageClass, "standard")).is_default


async def test_what_is_made_goes_with_its_claim(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim())
        name = (await reached(it, "Bound")).spec.volume_name
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        await gone(it, PersistentVolumeClaim, "data")
        await gone(it, PersistentVolume, name)


async def test_a_class_can_keep_what_it_made(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(storage_class(reclaimPolicy="Retain"))
        await it.client.create(claim(storageClassName="fast"))
        name = (await reached(it, "Bound")).spec.volume_name
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        released = await volume_reached(it, "Released", name)
        assert released.spec.claim_ref is not None
        # Another claim of that name does not get the data of the first.
        await it.client.create(claim(storageClassName="fast"))
        assert (await reached(it, "Bound")).spec.volume_name != name


async def test_the_smallest_free_volume_that_fits_is_bound(store: Client) -> None:
    async with cluster(store) as it:
        for name, size in (("big", "20Gi"), ("small", "500Mi"), ("right", "5Gi")):
            await it.client.create(volume(name, size))
        await it.client.create(claim(storageClassName="manual"))
        bound = await reached(it, "Bound")
        assert (bound.spec.volume_name, bound.status.capacity) == ("right", {"storage": "5Gi"})
        assert (await volume_reached(it, "Bound", "right")).metadata.annotations == {
            "pv.kubernetes.io/bound-by-controller": "yes"
        }
        for name in ("big", "small"):
            await volume_reached(it, "Available", name)


async def test_claims_that_wait_get_volumes_that_come_one_each(store: Client) -> None:
    async with cluster(store) as it:
        for name in ("a", "b"):
            await it.client.create(claim(name, storageClassName="manual"))
        assert await told(it, "ProvisioningFailed") == 'storageclass.storage.k8s.io "manual" not found'
        await it.client.create(volume("one"))
        await volume_reached(it, "Bound", "one")
        await asyncio.sleep(30)
        phases = sorted([(await claim_of(it, name)).status.phase for name in ("a", "b")])
        assert phases == ["Bound", "Pending"]
        await it.client.create(volume("two"))
        for name in ("a", "b"):
            await reached(it, "Bound", name)


async def test_a_class_that_comes_later_makes_them(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim(storageClassName="fast"))
        await told(it, "ProvisioningFailed")
        await it.client.create(storage_class())
        bound = await reached(it, "Bound")
        disk = await it.client.get(PersistentVolume, bound.spec.volume_name)
        assert disk.raw["spec"]["csi"] == {"driver": "example.com/disks", "volumeHandle": disk.name}


async def test_no_class_at_all_means_a_volume_without_one(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim(storageClassName=""))
        assert await told(it, "FailedBinding") == (
            "no persistent volumes available for this claim and no storage class is set"
        )
        await it.client.create(volume(storageClassName=""))
        assert (await reached(it, "Bound")).spec.volume_name == "disk"


@pytest.mark.parametrize(
    ("provisioner", "spec", "text"),
    [
        ("kubernetes.io/no-provisioner", {}, "no volume plugin matched name: kubernetes.io/no-provisioner"),
        (
            "example.com/disks",
            {"selector": {"matchLabels": {"a": "b"}}},
            'failed to provision volume with StorageClass "fast": claim Selector is not supported',
        ),
    ],
)
async def test_what_nobody_makes(store: Client, provisioner: str, spec: dict[str, Any], text: str) -> None:
    async with cluster(store) as it:
        await it.client.create(storage_class(provisioner=provisioner))
        await it.client.create(claim(storageClassName="fast", **spec))
        assert await told(it, "ProvisioningFailed") == text
        assert (await claim_of(it)).status.phase == "Pending"


async def test_a_claim_can_name_its_volume(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim(storageClassName="manual", volumeName="disk"))
        assert await told(it, "FailedBinding") == 'volume "disk" not found'
        await it.client.create(volume("disk"))
        # Nothing tells the claim of a volume that nobody is bound to, but that it waits for that class.
        assert (await reached(it, "Bound")).spec.volume_name == "disk"
        await it.client.create(claim("second", storageClassName="manual", volumeName="disk"))

        async def refused() -> bool:
            return any("already bound" in each.message for each in await it.events("FailedBinding"))

        await it.until(refused, 60)
        await it.client.create(volume("tiny", "1Mi"))
        await it.client.create(claim("third", storageClassName="manual", volumeName="tiny"))
        assert await told(it, "VolumeMismatch") == 'Cannot bind to requested volume "tiny": requested PV is too small'


async def test_a_volume_can_name_its_claim(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(volume("disk", claimRef={"namespace": "default", "name": "data"}))
        await volume_reached(it, "Available")
        await it.client.create(volume("smaller", "2Gi"))
        await it.client.create(claim(storageClassName="manual"))
        bound = await reached(it, "Bound")
        assert bound.spec.volume_name == "disk"
        disk = await volume_reached(it, "Bound")
        assert disk.spec.claim_ref is not None
        assert disk.spec.claim_ref.uid == bound.metadata.uid


@pytest.mark.parametrize(
    ("policy", "phase", "reason"),
    [
        ("Retain", "Released", ""),
        ("Delete", "Failed", "VolumeFailedDelete"),
        ("Recycle", "Failed", "VolumeFailedRecycle"),
    ],
)
async def test_what_becomes_of_a_volume_that_nobody_made(store: Client, policy: str, phase: str, reason: str) -> None:
    async with cluster(store) as it:
        await it.client.create(volume(persistentVolumeReclaimPolicy=policy))
        await it.client.create(claim(storageClassName="manual"))
        await reached(it, "Bound")
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        disk = await volume_reached(it, phase)
        assert disk.status.reason == reason


async def test_a_claim_that_loses_its_volume_says_so(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(volume())
        await it.client.create(claim(storageClassName="manual"))
        await reached(it, "Bound")
        await it.client.delete(PersistentVolume, "disk")
        await asyncio.sleep(10)
        # In use: it stays until it is made to go.
        assert (await it.client.get(PersistentVolume, "disk")).deleting
        await it.client.patch(PersistentVolume, "disk", {"metadata": {"finalizers": None}})
        await reached(it, "Lost")
        assert await told(it, "ClaimLost") == ("Bound claim has lost its PersistentVolume. Data on the volume is lost!")


async def test_a_volume_that_is_deleted_goes_once_its_claim_is_gone(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(volume())
        await it.client.create(claim(storageClassName="manual"))
        await reached(it, "Bound")
        await it.client.delete(PersistentVolume, "disk")
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        await gone(it, PersistentVolume, "disk")


async def test_a_claim_in_use_stays_until_the_pod_has_gone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(claim())
        await reached(it, "Bound")
        await it.client.create(user_of("data"))
        await it.until(lambda: ready(it))
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        await asyncio.sleep(60)
        assert (await claim_of(it)).deleting
        await it.client.delete(Pod, "user", "default")
        await gone(it, PersistentVolumeClaim, "data")
        assert not await it.exists(Pod, "user")


async def ready(it: Any) -> bool:
    return any(pod.ready for pod in await it.pods())


async def test_pods_are_listened_to_only_while_a_claim_waits_for_them(store: Client) -> None:
    async with cluster(store, **FAST) as it:

        def listens() -> bool:
            handlers = it.manager.informer(Pod).statistics().handlers
            return any(each.name.startswith("persistentvolume") for each in handlers)

        await it.client.create(claim())
        await reached(it, "Bound")
        await it.client.create(user_of("data"))
        await it.until(lambda: ready(it))
        assert not listens()
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        await asyncio.sleep(5)
        assert listens()
        await it.client.delete(Pod, "user", "default")
        await gone(it, PersistentVolumeClaim, "data")
        await asyncio.sleep(5)
        assert not listens()


async def test_a_claim_of_a_pod_that_is_nowhere_yet_can_go(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(claim())
        await reached(it, "Bound")
        await it.client.create(user_of("data", nodeSelector={"disk": "none"}))
        await asyncio.sleep(5)
        await it.client.delete(PersistentVolumeClaim, "data", "default")
        await gone(it, PersistentVolumeClaim, "data")


async def test_a_class_can_wait_for_the_first_pod(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(storage_class(volumeBindingMode="WaitForFirstConsumer"))
        await it.client.create(claim(storageClassName="fast"))
        assert await told(it, "WaitForFirstConsumer") == ("waiting for first consumer to be created before binding")
        await asyncio.sleep(60)
        assert (await claim_of(it)).status.phase == "Pending"
        await it.client.create(user_of("data"))
        await reached(it, "Bound")


async def test_a_claim_grows_with_its_volume(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(claim())
        name = (await reached(it, "Bound")).spec.volume_name
        bigger = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await it.client.patch(PersistentVolumeClaim, "data", bigger, "default")

        async def grown() -> bool:
            return (await claim_of(it)).status.capacity == {"storage": "3Gi"}

        await it.until(grown, 60)
        assert (await it.client.get(PersistentVolume, name)).spec.capacity == {"storage": "3Gi"}
        await told(it, "VolumeResizeSuccessful")


async def test_a_class_that_does_not_let_volumes_grow(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(storage_class())
        await it.client.create(claim(storageClassName="fast"))
        await reached(it, "Bound")
        bigger = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        await it.client.patch(PersistentVolumeClaim, "data", bigger, "default")
        assert "must support resize" in await told(it, "VolumeResizeFailed")
        assert (await claim_of(it)).status.capacity == {"storage": "1Gi"}


async def test_nothing_is_written_once_all_is_bound(store: Client) -> None:
    async with cluster(store) as it:
        for number in range(20):
            await it.client.create(claim(f"c{number}"))
        for number in range(20):
            await reached(it, "Bound", f"c{number}")
        assert len(await it.client.list(PersistentVolume)) == 20
        await asyncio.sleep(10)

        async def versions() -> set[tuple[str, str | None]]:
            found = [*await it.client.list(PersistentVolumeClaim), *await it.client.list(PersistentVolume)]
            return {(each.name, each.metadata.resource_version) for each in found}

        before = await versions()
        await asyncio.sleep(600)
        assert await versions() == before
