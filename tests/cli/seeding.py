"""Objects as controllers and nodes would have left them, put straight into the store of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import controllers.kinds  # noqa: F401 - registers the built-in kinds
from controllers.stores import open_store
from informer import ObjectClient, Resource
from informer.patch import copy
from informer.resources import SCHEME


def seed(store: Path, *raws: dict[str, Any]) -> list[Resource]:
    """Create objects with the status they have; as they are stored."""

    async def body() -> list[Resource]:
        async with open_store(str(store)) as client:
            objects = ObjectClient(client)
            return [await _one(objects, raw) for raw in raws]

    return asyncio.run(body())


async def _one(objects: ObjectClient, raw: dict[str, Any]) -> Resource:
    cls = SCHEME.by_gvk(raw["apiVersion"], raw["kind"])
    created = await objects.create(cls.from_raw(copy(raw)))
    if cls.TYPE.status and raw.get("status"):
        created.raw["status"] = copy(raw["status"])
        created = await objects.update_status(created)
    return created


def owned_by(owner: Resource) -> list[dict[str, Any]]:
    """The owner references of an object that this one manages."""
    kind = owner.TYPE
    reference = {"apiVersion": kind.api_version, "kind": kind.kind, "name": owner.name, "uid": owner.metadata.uid}
    return [{**reference, "controller": True}]


def pod(name: str, *, node: str = "", owners: Iterable[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """A running pod."""
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "app:1"}], **more.pop("spec", {})}
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "ownerReferences": [*owners], **more.pop("metadata", {})},
        "spec": spec,
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            **more.pop("status", {}),
        },
    }


def node(name: str, **spec: Any) -> dict[str, Any]:
    """A ready node."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
        },
    }
