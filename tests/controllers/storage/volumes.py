"""Claims, volumes and pods for tests."""

from __future__ import annotations

from typing import Any

from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.storage.types import PersistentVolume, StorageClass
from tests.controllers.cluster import Cluster

Raw = dict[str, Any]


def claim(name: str = "data", size: str = "1Gi", modes: tuple[str, ...] = ("ReadWriteOnce",), **spec: Any) -> Any:
    return PersistentVolumeClaim.from_raw(
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"accessModes": list(modes), "resources": {"requests": {"storage": size}}, **spec},
        }
    )


def volume(
    name: str = "disk",
    size: str = "10Gi",
    modes: tuple[str, ...] = ("ReadWriteOnce",),
    *,
    labels: Raw | None = None,
    **spec: Any,
) -> PersistentVolume:
    return PersistentVolume.from_raw(
        {
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {
                "capacity": {"storage": size},
                "accessModes": list(modes),
                "storageClassName": "manual",
                "hostPath": {"path": f"/mnt/{name}"},
                **spec,
            },
        }
    )


def storage_class(name: str = "fast", **fields: Any) -> StorageClass:
    return StorageClass.from_raw({"metadata": {"name": name}, "provisioner": "example.com/disks", **fields})


def user_of(name: str, pod: str = "user", **spec: Any) -> Pod:
    """A pod that uses the claim."""
    return Pod.from_raw(
        {
            "metadata": {"name": pod, "namespace": "default"},
            "spec": {
                "containers": [{"name": "c", "image": "nginx"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}],
                **spec,
            },
        }
    )


async def claim_of(it: Cluster, name: str = "data") -> PersistentVolumeClaim:
    return await it.client.get(PersistentVolumeClaim, name, "default")


async def reached(it: Cluster, phase: str, name: str = "data") -> PersistentVolumeClaim:
    """Wait until the claim is in that phase."""

    async def done() -> bool:
        return (await claim_of(it, name)).status.phase == phase

    await it.until(done, 60)
    return await claim_of(it, name)


async def volume_reached(it: Cluster, phase: str, name: str = "disk") -> PersistentVolume:
    async def done() -> bool:
        return (await it.client.get(PersistentVolume, name)).status.phase == phase

    await it.until(done, 60)
    return await it.client.get(PersistentVolume, name)


async def gone(it: Cluster, cls: Any, name: str) -> None:
    async def done() -> bool:
        return not await it.exists(cls, name)

    await it.until(done, 60)


async def told(it: Cluster, reason: str) -> str:
    """Wait for an event; its text."""

    async def there() -> bool:
        return bool(await it.events(reason))

    await it.until(there, 60)
    return (await it.events(reason))[0].message
