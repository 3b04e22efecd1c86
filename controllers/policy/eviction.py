"""Evictions: a pod is deleted on purpose, if its budget allows that; Kubernetes' Eviction subresource."""

from __future__ import annotations

from typing import Any

from controllers.conditions import set_status_condition
from controllers.core.types import Pod
from controllers.policy.types import DISRUPTION_ALLOWED, PodDisruptionBudget, budgets_for
from informer.client import ObjectClient
from informer.codecs import format_time
from informer.errors import ApiError, Conflict, Forbidden, TooManyRequests
from informer.retry import retry_on_conflict

DISRUPTION_TARGET = "DisruptionTarget"
REASON = "EvictionByEvictionAPI"
MOST_DISRUPTED = 2000  # kube-apiserver's MaxDisruptedPodSize: evictions of one budget whose pods have not gone yet
# kube-apiserver's EvictionsRetry, in seconds. Of those who collide one has won, so that no jitter is needed.
_RETRY: Any = {"steps": 20, "delay": 0.5, "jitter": 0.0}


class BudgetExhausted(TooManyRequests):
    """The pod's budget does not allow to take it now. `budget`: its name; `cause`: why not."""

    def __init__(self, budget: str, cause: str) -> None:
        super().__init__("Cannot evict pod as it would violate the pod's disruption budget.")
        self.budget = budget
        self.cause = cause

    def __reduce__(self) -> tuple[type[BudgetExhausted], tuple[str, str]]:
        return type(self), (self.budget, self.cause)


async def evict(client: ObjectClient, pod: Pod, *, grace_seconds: int | None = None, dry_run: bool = False) -> None:
    """Delete the pod, unless that would leave fewer healthy pods than its PodDisruptionBudget wants.

    What runs not yet or no more, and what goes already, is deleted whatever the budget says. The permission is taken
    from the budget's status, where nobody else can take it again, before the pod is touched; when what follows fails,
    the disruption controller gives it back after two minutes. As kube-apiserver.

    grace_seconds: as for `ObjectClient.delete`. dry_run: only find out whether it would be done.

    Raises `BudgetExhausted` (a `TooManyRequests`: ask again later), `NotFound` and `Conflict` if there is no such pod
    or another one has its name, `Forbidden` if too many evictions are under way, `ApiError` if several budgets count
    the pod, `Unreachable`: then it may have been done. Cancelling it leaves that open, too.
    """
    live = await retry_on_conflict(lambda: _take_free(client, pod, grace_seconds, dry_run), **_RETRY)
    if live is None:
        return
    budget = await _budget_of(client, live)
    if budget is None:
        await _take(client, live, grace_seconds, dry_run)
        return
    if not live.ready and _may_take_unhealthy(budget):
        try:
            await _take(client, live, grace_seconds, dry_run, as_seen=True)
        except Conflict:
            # It may be ready by now.
            raise _exhausted(budget, "is still being processed by the server") from None
        return
    await _draw_on(client, budget, live, dry_run)
    await _take(client, live, grace_seconds, dry_run)


async def _take_free(client: ObjectClient, pod: Pod, grace_seconds: int | None, dry_run: bool) -> Pod | None:
    """Delete a pod whose end disrupts nothing; another one is returned as it is now."""
    live = await _live(client, pod)
    if live.finished or live.deleting:
        await _take(client, live, grace_seconds, dry_run)
        return None
    if live.status.phase == "Pending":
        await _take(client, live, grace_seconds, dry_run, as_seen=True)
        return None
    return live


async def _live(client: ObjectClient, pod: Pod) -> Pod:
    # The store itself is asked, whatever caches the client has: who decides by old objects decides wrongly.
    live = await ObjectClient.get(client, Pod, pod.name, pod.namespace)
    if pod.metadata.uid and live.metadata.uid != pod.metadata.uid:
        raise Conflict(f'pods "{pod.name}" is another pod of that name: its uid is {live.metadata.uid}')
    return live


async def _budget_of(client: ObjectClient, pod: Pod) -> PodDisruptionBudget | None:
    if not pod.metadata.labels:
        return None
    there = await ObjectClient.list(client, PodDisruptionBudget, pod.namespace)
    found = budgets_for(pod.metadata.labels, there)
    if len(found) > 1:
        raise ApiError(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    return found[0] if found else None


def _may_take_unhealthy(budget: PodDisruptionBudget) -> bool:
    """Whether a pod that is not ready can go without drawing on the budget."""
    if budget.spec.unhealthy_pod_eviction_policy == "AlwaysAllow":
        return True
    status = budget.status
    return status.current_healthy >= status.desired_healthy > 0


async def _draw_on(client: ObjectClient, budget: PodDisruptionBudget, pod: Pod, dry_run: bool) -> None:
    """Take one disruption from the budget in the pod's name."""
    known: PodDisruptionBudget | None = budget

    async def draw() -> None:
        nonlocal known
        if known is None:
            current = await ObjectClient.get(client, PodDisruptionBudget, budget.name, budget.namespace)
        else:
            current, known = known, None
        _check(current)
        if dry_run:
            return
        status: dict[str, Any] = current.raw["status"]
        status["disruptionsAllowed"] -= 1
        stamp = format_time(client.now().replace(microsecond=0))
        status["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod.name: stamp}
        if not status["disruptionsAllowed"]:
            current.tell_allowed(client.now())
        await client.update_status(current)

    await retry_on_conflict(draw, **_RETRY)


def _check(budget: PodDisruptionBudget) -> None:
    """Raise unless its status allows a disruption now."""
    status = budget.status
    if status.observed_generation < budget.metadata.generation:
        raise _exhausted(budget, "is still being processed by the server")
    refused = "does not allow evicting pods currently"
    about = f'poddisruptionbudgets.policy "{budget.name}" is forbidden'
    if status.disruptions_allowed < 0:
        raise Forbidden(f"{about}: pdb disruptions allowed is negative")
    if len(status.disrupted_pods) > MOST_DISRUPTED:
        raise Forbidden(f"{about}: DisruptedPods map too big - too many evictions not confirmed by PDB controller")
    if status.disruptions_allowed:
        return
    told = next((each for each in status.conditions if each.type == DISRUPTION_ALLOWED), None)
    because = told.message if told is not None and told.status == "False" else ""
    if because and told is not None and told.reason == "SyncFailed":
        raise _exhausted(budget, f"{refused} because it failed sync: {because}")
    if status.current_healthy <= status.desired_healthy:
        counts = f"needs {status.desired_healthy} healthy pods and has {status.current_healthy} currently"
        raise _exhausted(budget, counts)
    if because and told is not None:
        raise _exhausted(budget, f"{refused} ({told.reason}): {because}")
    raise _exhausted(budget, refused)


def _exhausted(budget: PodDisruptionBudget, cause: str) -> BudgetExhausted:
    return BudgetExhausted(budget.name, f"The disruption budget {budget.name} {cause}")


async def _take(
    client: ObjectClient, pod: Pod, grace_seconds: int | None, dry_run: bool, *, as_seen: bool = False
) -> None:
    """Say on the pod why it goes, and delete it. as_seen: only if it has not changed since; raises Conflict."""
    if dry_run:
        return
    marked = await _mark(client, pod, as_seen)
    version = marked.metadata.resource_version if as_seen else None
    await client.delete(
        Pod, pod.name, pod.namespace, uid=pod.metadata.uid, resource_version=version, grace_seconds=grace_seconds
    )


async def _mark(client: ObjectClient, pod: Pod, as_seen: bool) -> Pod:
    known: Pod | None = pod

    async def mark() -> Pod:
        nonlocal known
        if known is None:
            current = await _live(client, pod)
        else:
            current, known = known, None
        conditions = current.raw.setdefault("status", {}).setdefault("conditions", [])
        set_status_condition(conditions, DISRUPTION_TARGET, True, REASON, "Eviction API: evicting", now=client.now())
        return await client.update_status(current)

    return await mark() if as_seen else await retry_on_conflict(mark, **_RETRY)
