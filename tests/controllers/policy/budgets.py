"""Budgets and pods for tests that need no controller."""

from __future__ import annotations

import random
from typing import Any

from controllers.core.types import Pod
from controllers.policy.types import PodDisruptionBudget
from informer.client import ObjectClient
from kvstore.api import Client
from tests.controllers.cluster import virtual_now

Raw = dict[str, Any]


def client_of(store: Client) -> ObjectClient:
    return ObjectClient(store, now=virtual_now, rng=random.Random(0))


def budget(name: str = "web", selector: Raw | None = None, **spec: Any) -> PodDisruptionBudget:
    wanted = {"matchLabels": {"app": "web"}} if selector is None else selector
    return PodDisruptionBudget.from_raw(
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": wanted, **spec}}
    )


async def make_budget(client: ObjectClient, name: str = "web", *, status: Raw | None = None, **spec: Any) -> None:
    """A budget as its controller has left it: of three healthy pods two are needed, unless `status` says otherwise."""
    made = await client.create(budget(name, **spec))
    made.raw["status"] = {
        "observedGeneration": 1,
        "disruptionsAllowed": 1,
        "currentHealthy": 3,
        "desiredHealthy": 2,
        "expectedPods": 3,
        **(status or {}),
    }
    await client.update_status(made)


async def make_pod(
    client: ObjectClient,
    name: str = "a",
    *,
    phase: str = "Running",
    ready: bool = True,
    node: str = "node-1",
    **more: Any,
) -> Pod:
    made = await client.create(
        Pod.from_raw(
            {
                "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}, **more},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "nginx"}]},
            }
        )
    )
    made.raw["status"] = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    return await client.update_status(made)


async def budget_status(client: ObjectClient, name: str = "web") -> Raw:
    found = (await client.get(PodDisruptionBudget, name, "default")).raw.get("status", {})
    assert isinstance(found, dict)
    return found
