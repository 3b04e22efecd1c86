"""Which volume a claim gets, and what a pod's claims say about where it can go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controllers.storage.matching import NO_PROVISIONER, best, claims_of, problem_of, unmet_claim
from controllers.storage.types import PersistentVolume, StorageClass
from informer.cache import Metadata, Stored
from tests.controllers.storage.volumes import claim, storage_class, user_of, volume

Raw = dict[str, Any]


@pytest.mark.parametrize(
    ("has", "problem"),
    [
        ({}, ""),
        ({"capacity": {"storage": "999Mi"}}, "requested PV is too small"),
        ({"storageClassName": "other"}, "storageClassName does not match"),
        ({"volumeMode": "Block"}, "incompatible volumeMode"),
        ({"accessModes": ["ReadOnlyMany"]}, "incompatible accessMode"),
        ({"accessModes": ["ReadOnlyMany", "ReadWriteOnce"]}, ""),
    ],
)
def test_what_a_volume_must_have(has: Raw, problem: str) -> None:
    disk = volume()
    disk.raw["spec"] |= has
    assert problem_of(disk, claim(storageClassName="manual")) == problem


def chosen(volumes: list[PersistentVolume], **spec: Any) -> str | None:
    found = best(volumes, claim(storageClassName="manual", **spec))
    return None if found is None else found.name


def test_the_smallest_that_fits() -> None:
    assert chosen([volume("a", "5Gi"), volume("b", "2Gi"), volume("c", "500Mi"), volume("d", "2048Mi")]) == "b"
    assert chosen([volume("c", "500Mi")]) is None


def test_the_one_that_was_made_for_it_first_and_never_another_ones() -> None:
    for_us = volume("ours", "50Gi", claimRef={"namespace": "default", "name": "data"})
    for_others = volume("theirs", "1Gi", claimRef={"namespace": "default", "name": "other"})
    earlier = volume("earlier", "1Gi", claimRef={"namespace": "default", "name": "data", "uid": "gone"})
    assert chosen([for_others, earlier, volume("free", "1Gi"), for_us]) == "ours"
    assert chosen([for_others, earlier]) is None


def test_by_labels() -> None:
    volumes = [volume("a"), volume("b", labels={"disk": "ssd"})]
    assert chosen(volumes, selector={"matchLabels": {"disk": "ssd"}}) == "b"
    assert chosen(volumes, selector={"matchLabels": {"disk": "tape"}}) is None


def stored(obj: Any) -> Stored:
    return Stored(obj.name, msgspec.json.encode(obj.raw), "1", Metadata())


def test_the_claims_of_a_pod() -> None:
    assert claims_of(msgspec.json.encode(user_of("data").raw)) == ["data"]
    assert claims_of(b'{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}') == []


def lazy(name: str, *, found: bool = False) -> StorageClass:
    provisioner = NO_PROVISIONER if found else "example.com/disks"
    return storage_class(name, volumeBindingMode="WaitForFirstConsumer", provisioner=provisioner)


def test_what_keeps_a_pod_from_being_scheduled() -> None:
    bound, pending, going, lost = (claim(name, volumeName="v") for name in ("bound", "pending", "going", "lost"))
    bound.raw["status"] = {"phase": "Bound"}
    going.raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    lost.raw["status"] = {"phase": "Lost"}
    claims = {each.name: stored(each) for each in (bound, pending, going, lost)}
    volumes = {"v": stored(volume("v"))}

    classes = {each.name: stored(each) for each in (storage_class("fast"), lazy("made"), lazy("found", found=True))}
    for name in ("fast", "made", "found"):
        claims[f"of-{name}"] = stored(claim(f"of-{name}", storageClassName=name))
    claims["picky"] = stored(claim("picky", storageClassName="made", selector={"matchLabels": {"disk": "ssd"}}))

    def why(*names: str) -> str:
        return unmet_claim(names, claims.get, volumes.get, classes.get)

    assert why("bound") == why() == ""
    assert why("bound", "data") == 'persistentvolumeclaim "data" not found'
    assert why("pending") == why("of-fast") == "pod has unbound immediate PersistentVolumeClaims"
    assert why("of-made") == ""
    assert why("of-found") == why("picky") == "node(s) didn't find available persistent volumes to bind"
    assert why("going") == 'persistentvolumeclaim "going" is being deleted'
    assert why("lost") == 'persistentvolumeclaim "lost" bound to non-existent persistentvolume "v"'
    volumes.clear()
    assert why("bound") == 'persistentvolumeclaim "bound" bound to non-existent persistentvolume "v"'
