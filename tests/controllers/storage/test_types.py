"""What claims, volumes and classes may say, and what of it may change."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.core.types import PersistentVolumeClaim
from controllers.storage.classes import default_of
from controllers.storage.types import PersistentVolume, StorageClass
from informer.client import ObjectClient
from informer.errors import Invalid
from kvstore.api import Client
from tests.controllers.storage.volumes import claim, storage_class, volume

Raw = dict[str, Any]


async def test_defaults(store: Client) -> None:
    client = ObjectClient(store)
    made = await client.create(claim())
    assert (made.raw["spec"]["volumeMode"], made.raw["status"]) == ("Filesystem", {"phase": "Pending"})
    disk = await client.create(volume())
    assert disk.raw["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert (disk.raw["spec"]["volumeMode"], disk.raw["status"]) == ("Filesystem", {"phase": "Pending"})
    fast = await client.create(storage_class())
    assert (fast.raw["reclaimPolicy"], fast.raw["volumeBindingMode"]) == ("Delete", "Immediate")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"accessModes": []}, "spec.accessModes"),
        ({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}, "spec.accessModes"),
        ({"accessModes": ["Write"]}, "spec.accessModes[0]"),
        ({"resources": {}}, "spec.resources.requests.storage"),
        ({"resources": {"requests": {"storage": "0"}}}, "spec.resources.requests.storage"),
        ({"volumeMode": "Tape"}, "spec.volumeMode"),
    ],
)
def test_a_claim_that_nothing_could_meet(spec: Raw, path: str) -> None:
    raw = claim().raw
    raw["spec"] |= spec
    with pytest.raises(Invalid) as refused:
        PersistentVolumeClaim.from_raw(raw).validate()
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"accessModes": []}, "spec.accessModes"),
        ({"capacity": {}}, "spec.capacity.storage"),
        ({"capacity": {"storage": 0}}, "spec.capacity.storage"),
        ({"hostPath": None}, "spec"),
        ({"nfs": {"server": "s", "path": "/"}}, "spec.nfs"),
    ],
)
async def test_a_volume_that_is_none(store: Client, spec: Raw, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        await ObjectClient(store).create(volume(**spec))
    assert refused.value.path == path


async def test_a_claim_stays_what_it_is_and_may_grow_once_it_is_bound(store: Client) -> None:
    client = ObjectClient(store)
    await client.create(claim(storageClassName="fast"))

    async def change(spec: Raw) -> PersistentVolumeClaim:
        return await client.patch(PersistentVolumeClaim, "data", {"spec": spec}, "default")

    def sized(size: str) -> Raw:
        return {"resources": {"requests": {"storage": size}}}

    for spec in ({"storageClassName": "slow"}, {"accessModes": ["ReadWriteMany"]}, sized("2Gi")):
        with pytest.raises(Invalid, match="immutable after creation except"):
            await change(spec)
    await change({"volumeName": "disk"})
    with pytest.raises(Invalid, match="immutable"):
        await change({"volumeName": "other"})
    await client.patch(PersistentVolumeClaim, "data", {"status": {"phase": "Bound"}}, "default", subresource="status")
    await change(sized("2Gi"))
    with pytest.raises(Invalid, match="field can not be less than previous value"):
        await change(sized("1Gi"))


async def test_where_a_volume_is_and_how_a_class_makes_them_stays(store: Client) -> None:
    client = ObjectClient(store)
    await client.create(volume())
    with pytest.raises(Invalid, match="immutable after creation"):
        await client.patch(PersistentVolume, "disk", {"spec": {"hostPath": {"path": "/other"}}})
    await client.patch(PersistentVolume, "disk", {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    await client.create(storage_class())
    with pytest.raises(Invalid, match="forbidden"):
        await client.patch(StorageClass, "fast", {"provisioner": "example.com/others"})
    await client.patch(StorageClass, "fast", {"allowVolumeExpansion": True})


def test_of_several_default_classes_the_newest_counts() -> None:
    marked = {"storageclass.kubernetes.io/is-default-class": "true"}
    classes = [storage_class(name) for name in "abcd"]
    for each, made in zip(classes, ("2", "3", "3", "9"), strict=True):
        each.raw["metadata"] |= {"creationTimestamp": made, "annotations": marked if made != "9" else {}}
    found = default_of(classes)
    assert found is not None
    assert found.name == "b"
    assert default_of([classes[3]]) is None
