"""Evictions: what a budget allows is taken once, what disrupts nothing is free."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.types import Pod
from controllers.policy.eviction import BudgetExhausted, evict
from controllers.policy.types import PodDisruptionBudget
from informer.client import ObjectClient
from informer.errors import ApiError, Conflict, Forbidden, NotFound, TooManyRequests
from kvstore.api import Client
from tests.controllers.policy.budgets import budget_status, client_of, make_budget, make_pod

pytestmark = pytest.mark.virtual_time

FULL = {"disruptionsAllowed": 0, "currentHealthy": 2}
VIOLATES = "Cannot evict pod as it would violate the pod's disruption budget."


async def there(client: ObjectClient, name: str = "a") -> Pod | None:
    try:
        return await client.get(Pod, name, "default")
    except NotFound:
        return None


async def test_a_pod_without_a_budget_goes_and_says_why(store: Client) -> None:
    client = client_of(store)
    await evict(client, await make_pod(client))
    pod = await there(client)
    assert pod is not None
    assert pod.deleting
    assert pod.metadata.deletion_grace_period_seconds == 30
    assert pod.raw["status"]["conditions"][-1] == {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


async def test_the_grace_can_be_shorter(store: Client) -> None:
    client = client_of(store)
    await evict(client, await make_pod(client), grace_seconds=0)
    assert await there(client) is None


async def test_a_budget_is_drawn_on_once_for_each_pod(store: Client) -> None:
    client = client_of(store)
    await make_budget(client)
    a, b = await make_pod(client, "a"), await make_pod(client, "b")
    await evict(client, a)
    status = await budget_status(client)
    assert status["disruptionsAllowed"] == 0
    assert status["disruptedPods"] == {"a": "2026-01-01T00:00:00Z"}
    assert [(each["status"], each["reason"]) for each in status["conditions"]] == [("False", "InsufficientPods")]
    with pytest.raises(TooManyRequests) as refused:
        await evict(client, b)
    assert str(refused.value) == VIOLATES
    other = await there(client, "b")
    assert other is not None
    assert not other.deleting


async def test_of_many_at_once_as_many_as_allowed_win(store: Client) -> None:
    client = client_of(store)
    await make_budget(client, status={"disruptionsAllowed": 2, "currentHealthy": 8, "desiredHealthy": 6})
    pods = [await make_pod(client, f"p{number}") for number in range(8)]
    results = await asyncio.gather(*(evict(client, pod) for pod in pods), return_exceptions=True)
    assert sum(result is None for result in results) == 2
    assert sum(isinstance(result, BudgetExhausted) for result in results) == 6
    deleting = {pod.name for pod in (await client.list(Pod, "default")).items if pod.deleting}
    assert deleting == set((await budget_status(client))["disruptedPods"])
    assert len(deleting) == 2


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (FULL, "The disruption budget web needs 2 healthy pods and has 2 currently"),
        (
            {
                "disruptionsAllowed": 0,
                "conditions": [{"type": "DisruptionAllowed", "status": "False", "reason": "R", "message": "m"}],
            },
            "The disruption budget web does not allow evicting pods currently (R): m",
        ),
        (
            {
                **FULL,
                "conditions": [
                    {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": "m"}
                ],
            },
            "The disruption budget web does not allow evicting pods currently because it failed sync: m",
        ),
        ({"disruptionsAllowed": 0}, "The disruption budget web does not allow evicting pods currently"),
        ({"observedGeneration": 0}, "The disruption budget web is still being processed by the server"),
    ],
)
async def test_it_tells_why_not(store: Client, status: dict[str, Any], cause: str) -> None:
    client = client_of(store)
    await make_budget(client, status=status)
    with pytest.raises(BudgetExhausted) as refused:
        await evict(client, await make_pod(client))
    assert (str(refused.value), refused.value.cause, refused.value.budget) == (VIOLATES, cause, "web")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"disruptionsAllowed": -1}, "negative"),
        ({"disruptedPods": {f"p{n}": "2026-01-01T00:00:00Z" for n in range(2001)}}, "too many evictions not confirmed"),
    ],
)
async def test_a_budget_out_of_order_forbids(store: Client, status: dict[str, Any], text: str) -> None:
    client = client_of(store)
    await make_budget(client, status=status)
    with pytest.raises(Forbidden, match=text):
        await evict(client, await make_pod(client))


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
async def test_what_does_not_run_goes_whatever_the_budget_says(store: Client, phase: str) -> None:
    client = client_of(store)
    await make_budget(client, status=FULL)
    await evict(client, await make_pod(client, phase=phase, ready=False, node=""))
    assert await there(client) is None
    assert "disruptedPods" not in await budget_status(client)


async def test_what_goes_already_can_be_made_to_go_faster(store: Client) -> None:
    client = client_of(store)
    await make_budget(client, status=FULL)
    pod = await make_pod(client)
    await client.delete(Pod, "a", "default")
    await evict(client, pod, grace_seconds=0)
    assert await there(client) is None


async def test_a_pod_that_begins_to_run_meanwhile_is_judged_anew(store: Client) -> None:
    client = client_of(store)
    await make_budget(client, status=FULL)
    pending = await make_pod(client, phase="Pending", ready=False)
    # It runs by the time of the write: whoever still takes it for pending has its old version.
    running = pending.__deepcopy__({})
    running.raw["status"] = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}

    class Late(ObjectClient):
        """Lets the pod run right after it was first read."""

        async def update_status(self, obj: Any) -> Any:
            if isinstance(obj, Pod) and not waiting:
                waiting.append(obj)
                await client.update_status(running)
            return await super().update_status(obj)

    waiting: list[Pod] = []
    with pytest.raises(BudgetExhausted):
        await evict(Late(store, now=client.now), pending)
    assert len(waiting) == 1


@pytest.mark.parametrize(
    ("policy", "status", "goes"),
    [
        (None, {**FULL, "currentHealthy": 1}, False),
        ("IfHealthyBudget", {**FULL, "currentHealthy": 1}, False),
        ("IfHealthyBudget", FULL, True),
        ("IfHealthyBudget", {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0}, False),
        ("AlwaysAllow", {**FULL, "currentHealthy": 0}, True),
    ],
)
async def test_a_pod_that_is_not_ready_goes_by_the_policy(
    store: Client, policy: str | None, status: dict[str, Any], goes: bool
) -> None:
    client = client_of(store)
    spec = {} if policy is None else {"unhealthyPodEvictionPolicy": policy}
    await make_budget(client, status=status, **spec)
    pod = await make_pod(client, ready=False)
    if goes:
        await evict(client, pod)
    else:
        with pytest.raises(BudgetExhausted):
            await evict(client, pod)
    found = await there(client)
    assert found is not None
    assert found.deleting == goes
    assert "disruptedPods" not in await budget_status(client)


async def test_a_pod_that_gets_ready_meanwhile_is_not_taken_as_unhealthy(store: Client) -> None:
    client = client_of(store)
    await make_budget(client, status=FULL, unhealthyPodEvictionPolicy="AlwaysAllow")
    pod = await make_pod(client, ready=False)

    class Late(ObjectClient):
        """Makes the pod ready right before its status is written."""

        async def update_status(self, obj: Any) -> Any:
            ready = await client.get(Pod, "a", "default")
            ready.raw["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
            await client.update_status(ready)
            return await super().update_status(obj)

    with pytest.raises(TooManyRequests, match="violate"):
        await evict(Late(store, now=client.now), pod)
    found = await there(client)
    assert found is not None
    assert not found.deleting


async def test_two_budgets_for_a_pod_are_an_error(store: Client) -> None:
    client = client_of(store)
    await make_budget(client)
    await make_budget(client, "other", selector={})
    with pytest.raises(ApiError) as refused:
        await evict(client, await make_pod(client))
    assert refused.value.status == 500
    assert str(refused.value) == (
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    )


async def test_a_budget_of_another_namespace_does_not_count(store: Client) -> None:
    client = client_of(store)
    made = PodDisruptionBudget.from_raw(
        {"metadata": {"name": "web", "namespace": "other"}, "spec": {"selector": {}, "maxUnavailable": 0}}
    )
    await client.create(made)
    await evict(client, await make_pod(client), grace_seconds=0)
    assert await there(client) is None


async def test_another_pod_of_that_name_stays(store: Client) -> None:
    client = client_of(store)
    old = await make_pod(client)
    await client.delete(Pod, "a", "default", grace_seconds=0)
    await make_pod(client)
    with pytest.raises(Conflict):
        await evict(client, old)
    assert await there(client) is not None
    with pytest.raises(NotFound):
        await evict(client, Pod(name="b", namespace="default"))


async def test_a_dry_run_writes_nothing(store: Client) -> None:
    client = client_of(store)
    await make_budget(client)
    pod = await make_pod(client)
    before = (await client.list(Pod, "default")).revision
    await evict(client, pod, dry_run=True)
    assert (await client.list(Pod, "default")).revision == before
    await make_budget(client, "full", selector={"matchLabels": {"app": "full"}}, status=FULL)
    full = await make_pod(client, "f", labels={"app": "full"})
    with pytest.raises(BudgetExhausted):
        await evict(client, full, dry_run=True)
