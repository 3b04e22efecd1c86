"""StatefulSets for tests."""

from __future__ import annotations

import asyncio
from typing import Any

from controllers.apps.statefulset.types import StatefulSet
from controllers.apps.types import ControllerRevision
from controllers.core.types import Event, PersistentVolumeClaim, Pod
from tests.controllers.cluster import Cluster

Raw = dict[str, Any]


def claim(name: str, **metadata: Any) -> Raw:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": name, **metadata}, "spec": spec}


def web(replicas: int = 3, image: str = "nginx:1.24", name: str = "web", **spec: Any) -> StatefulSet:
    """The StatefulSet of Kubernetes' documentation; `volumeClaimTemplates=[]` leaves out its claim."""
    templates = spec.setdefault("volumeClaimTemplates", [claim("www")])
    mounts = [{"name": each["metadata"]["name"], "mountPath": "/usr/share/nginx/html"} for each in templates]
    container = {
        "name": "nginx",
        "image": image,
        "ports": [{"containerPort": 80, "name": "web"}],
        "volumeMounts": mounts,
    }
    return StatefulSet.from_raw(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "serviceName": "nginx",
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
                **spec,
            },
        }
    )


async def change(it: Cluster, spec: Raw, name: str = "web") -> None:
    await it.client.patch(StatefulSet, name, {"spec": spec}, "default")


async def set_image(it: Cluster, image: str, name: str = "web") -> None:
    def change(sts: StatefulSet) -> None:
        sts.spec.template.spec.containers[0].image = image

    await it.change(StatefulSet, name, change)


async def status(it: Cluster, name: str = "web") -> Raw:
    found = (await it.client.get(StatefulSet, name, "default")).raw.get("status", {})
    assert isinstance(found, dict)
    return found


async def settled(it: Cluster, name: str = "web") -> list[Pod]:
    """Wait until the StatefulSet has all its pods and no other, all available, as far as its update is to go; them."""

    async def over() -> bool:
        sts = await it.client.get(StatefulSet, name, "default")
        wanted, found = sts.spec.replicas, sts.status
        rolling = sts.spec.update_strategy.rolling_update
        updated = wanted - rolling.partition if rolling is not None else 0
        counts = (found.replicas, found.ready_replicas, found.available_replicas)
        if found.observed_generation < sts.metadata.generation or found.updated_replicas < updated:
            return False
        there = await it.pods(app=name)
        return counts == (wanted,) * 3 and len(there) == wanted and not any(pod.deleting for pod in there)

    await it.until(over)
    return await pods(it, name)


async def pods(it: Cluster, name: str = "web") -> list[Pod]:
    """By ordinal."""
    return sorted(await it.pods(app=name), key=lambda pod: int(pod.name.rpartition("-")[2]))


async def names(it: Cluster, name: str = "web") -> list[str]:
    return [pod.name for pod in await pods(it, name)]


async def images(it: Cluster) -> list[str]:
    return [pod.spec.containers[0].image.partition(":")[2] for pod in await pods(it)]


async def claims(it: Cluster) -> list[PersistentVolumeClaim]:
    return sorted(await it.client.list(PersistentVolumeClaim, "default"), key=lambda each: each.name)


async def revisions(it: Cluster) -> list[ControllerRevision]:
    """The oldest first."""
    return sorted(await it.client.list(ControllerRevision, "default"), key=lambda each: each.revision)


async def told(it: Cluster, reason: str) -> list[str]:
    """What the events of a reason say, in the order of their names' stamps."""
    await asyncio.sleep(10)
    found = [each for each in await it.client.list(Event, "default") if each.reason == reason]
    return sorted(each.message for each in found if each.source.component == "statefulset-controller")
