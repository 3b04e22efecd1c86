"""The disruption controller: how many pods of a budget may be away on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from controllers.apps.types import Deployment, ReplicaSet
from controllers.conditions import set_status_condition
from controllers.context import Context
from controllers.core.events import EventBroadcaster, Reference
from controllers.core.pods import PodView, decode_pod
from controllers.core.types import Pod
from controllers.decoded import Decoded
from controllers.manager import Manager
from controllers.policy.types import DISRUPTION_ALLOWED, PodDisruptionBudget, scaled_size
from controllers.reconcile import Request, Result
from controllers.workqueue import WorkQueue
from informer import patch
from informer.cache import OwnerRef, Stored
from informer.codecs import format_time
from informer.errors import Invalid, NotFound, UnknownKind
from informer.resources import SCHEME, Resource
from informer.scale import read_scale
from informer.selectors import Selector
from informer.shared import Handler, Registration

# Kubernetes' DeletionTimeout: a pod whose eviction was granted and that is still there then was not evicted after all.
DELETION_TIMEOUT = timedelta(minutes=2)
NAME = "disruption"

Raw = dict[str, Any]


class _NotCounted(Exception):
    """It cannot be said how many pods there should be."""


class DisruptionController:
    """Keeps the status of PodDisruptionBudgets, from which evictions draw.

    Pods are listened to only while there are budgets: a cluster without any pays nothing for them.
    """

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("controllermanager")
        self._pods = Decoded(decode_pod)
        # namespace -> name of a budget -> its pods
        self._selectors: dict[str, dict[str, Selector]] = {}
        self._listening: Registration | None = None

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(
            PodDisruptionBudget, self.reconcile, reads=[Pod, ReplicaSet, Deployment], workers=1, name=NAME
        )

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: count the pods, write the status."""
        budget = ctx.get(PodDisruptionBudget, request)
        if budget is None:
            self._forget(request)
            return None
        try:
            selector = Selector.of((budget.raw.get("spec") or {}).get("selector"))
        except Invalid as error:
            return await self._fail(ctx, budget, "NoPods", f"Failed to get pods: {error}", str(error))
        self._listen(request, selector)
        pods = self._pods.of(request, ctx.stored(Pod, request.namespace, selector=selector))
        if not pods:
            self._recorder.event(budget, "Normal", "NoPods", "No matching pods found")
        try:
            expected, desired = await self._expected(ctx, budget, pods)
        except _NotCounted as error:
            text = f"Failed to calculate the number of expected pods: {error}"
            return await self._fail(ctx, budget, "CalculateExpectedPodCountFailed", text, str(error))
        now = ctx.now()
        disrupted, after = self._disrupted(budget, pods, now)
        healthy = sum(pod.ready and not pod.deleting and pod.name not in disrupted for pod in pods)
        # Of a budget without pods nothing is allowed: its first ones may be there before the next count.
        allowed = max(0, healthy - desired) if expected > 0 else 0
        before: Raw = budget.raw.get("status") or {}
        budget.raw["status"] = {
            "observedGeneration": budget.metadata.generation,
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            **({"disruptedPods": disrupted} if disrupted else {}),
            "conditions": patch.copy(before.get("conditions") or []),
        }
        budget.tell_allowed(now)
        if not patch.equal(budget.raw["status"], before):
            # By the version that was counted by: an eviction that was granted meanwhile makes this a Conflict.
            await ctx.update_status(budget)
        return None if after is None else Result(requeue_after=after)

    async def _fail(self, ctx: Context, budget: PodDisruptionBudget, reason: str, text: str, problem: str) -> Result:
        """Allow nothing as long as it cannot be counted, and try again."""
        self._recorder.event(budget, "Warning", reason, text)
        before = patch.copy(budget.raw.get("status") or {})
        status = budget.raw.setdefault("status", {})
        for field in ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"):
            status.setdefault(field, 0)
        status["disruptionsAllowed"] = 0
        set_status_condition(
            status.setdefault("conditions", []),
            DISRUPTION_ALLOWED,
            False,
            "SyncFailed",
            problem,
            now=ctx.now(),
            observed_generation=status.get("observedGeneration", 0),
        )
        if not patch.equal(status, before):
            await ctx.update_status(budget)
        return Result(requeue=True)

    # ---- counting --------------------------------------------------------------------------------------------------

    async def _expected(self, ctx: Context, budget: PodDisruptionBudget, pods: Sequence[PodView]) -> tuple[int, int]:
        """How many pods there should be, and how many of them healthy."""
        spec: Raw = budget.raw.get("spec") or {}
        most, least = spec.get("maxUnavailable"), spec.get("minAvailable")
        if most is not None:
            expected = await self._scale(ctx, budget, pods)
            return expected, max(0, expected - scaled_size(most, expected))
        if isinstance(least, str):
            expected = await self._scale(ctx, budget, pods)
            return expected, scaled_size(least, expected)
        return (len(pods), least) if least is not None else (0, 0)

    async def _scale(self, ctx: Context, budget: PodDisruptionBudget, pods: Sequence[PodView]) -> int:
        """The sum of what the pods' controllers want. Pods without one do not count."""
        namespace = budget.namespace or ""
        known: dict[str, tuple[str, int]] = {}
        for pod in pods:
            owner = pod.controller
            if owner is None or owner.uid in known:
                continue
            found = await self._scale_of(ctx, owner, namespace)
            if found is None:
                raise _NotCounted(f'found no controllers for pod "{pod.name}"')
            known[owner.uid] = found
        return sum(dict(known.values()).values())

    async def _scale_of(self, ctx: Context, owner: OwnerRef, namespace: str) -> tuple[str, int] | None:
        """The uid and the size of what decides on the number of a controller's pods: of a Deployment's ReplicaSet,
        the Deployment. None if it is not there."""
        if _is(owner, ReplicaSet):
            replica_set = ctx.get(ReplicaSet, owner.name, namespace)
            if replica_set is None or replica_set.metadata.uid != owner.uid:
                return None
            above = next((each for each in replica_set.metadata.owner_references if each.controller), None)
            if above is None or not _is(above, Deployment):
                return owner.uid, replica_set.spec.replicas
            deployment = ctx.get(Deployment, above.name, namespace)
            if deployment is None or deployment.metadata.uid != above.uid:
                return None
            return above.uid, deployment.spec.replicas
        try:
            found = await ctx.fetch(SCHEME.by_gvk(owner.api_version, owner.kind), owner.name, namespace)
            if found is None or found.metadata.uid != owner.uid:
                return None
            return owner.uid, read_scale(found).replicas
        except NotFound:
            return None
        except (UnknownKind, Invalid) as error:
            raise _NotCounted(str(error)) from None

    def _disrupted(
        self, budget: PodDisruptionBudget, pods: Sequence[PodView], now: datetime
    ) -> tuple[dict[str, str], float | None]:
        """Whose eviction was granted and not seen yet, and in how many seconds the first of them has had its time."""
        granted = budget.status.disrupted_pods
        kept: dict[str, str] = {}
        waits: list[float] = []
        for pod in pods if granted else ():
            since = granted.get(pod.name)
            if since is None or pod.deleting:
                continue
            left = (since + DELETION_TIMEOUT - now).total_seconds()
            if left < 0:
                about = Reference("v1", "Pod", budget.namespace or "", pod.name, pod.uid)
                text = f"Pod was expected by PDB {budget.namespace}/{budget.name} to be deleted but it wasn't"
                self._recorder.event(about, "Warning", "NotDeleted", text)
                continue
            kept[pod.name] = format_time(since)
            waits.append(left)
        # Just after its time, not at it.
        return kept, min(waits) + 0.001 if waits else None

    # ---- listening -------------------------------------------------------------------------------------------------

    def _listen(self, request: Request, selector: Selector) -> None:
        """Hear of the pods of this budget."""
        self._selectors.setdefault(request.namespace, {})[request.name] = selector
        if self._listening is None:
            handler = _Pods(self, self._manager.controller(NAME).queue)
            self._listening = self._manager.informer(Pod).add_handler(handler, name=NAME)

    def _forget(self, request: Request) -> None:
        """The budget is gone, and with the last of them the interest in pods."""
        self._pods.forget(request)
        budgets = self._selectors.get(request.namespace, {})
        budgets.pop(request.name, None)
        if not budgets:
            self._selectors.pop(request.namespace, None)
        if not self._selectors and self._listening is not None:
            self._listening.remove()
            self._listening = None

    def budgets_of(self, stored: Stored) -> list[Request]:
        """The budgets that count a pod, by name."""
        budgets = self._selectors.get(stored.namespace)
        if not budgets:
            return []
        labels = stored.meta.labels
        return [Request(stored.namespace, name) for name in sorted(budgets) if budgets[name].matches(labels)]

    def tell_ambiguous(self, stored: Stored, found: Sequence[Request]) -> None:
        """Several budgets count a pod: it cannot be evicted."""
        about = Reference("v1", "Pod", stored.namespace, stored.name, stored.meta.uid or "")
        pod, chosen = f'"{stored.namespace}"/"{stored.name}"', found[0].name
        text = f'Pod {pod} matches multiple PodDisruptionBudgets.  Chose "{chosen}" arbitrarily.'
        self._recorder.event(about, "Warning", "MultiplePodDisruptionBudgets", text)


class _Pods(Handler):
    def __init__(self, controller: DisruptionController, queue: WorkQueue[Request]) -> None:
        self._controller = controller
        self._queue = queue

    def on_add(self, new: Stored, initial: bool) -> None:
        self._changed(new)

    def on_update(self, old: Stored, new: Stored) -> None:
        if old.meta.raw_labels != new.meta.raw_labels:
            self._changed(old)
        self._changed(new)

    def on_delete(self, old: Stored, final_state_known: bool) -> None:
        self._changed(old)

    def _changed(self, stored: Stored) -> None:
        found = self._controller.budgets_of(stored)
        for request in found:
            self._queue.add(request)
        if len(found) > 1:
            self._controller.tell_ambiguous(stored, found)


def _is(owner: Any, cls: type[Resource]) -> bool:
    group: str = owner.api_version.rpartition("/")[0]
    return (group, owner.kind) == (cls.TYPE.group, cls.TYPE.kind)
