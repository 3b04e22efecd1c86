"""The ReplicaSet controller: as many pods of one template as wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from controllers.apps.ranking import pods_to_delete
from controllers.apps.types import ReplicaSet
from controllers.claiming import claim, selecting
from controllers.conditions import find_condition, new_condition, set_condition, without_condition
from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.pod_control import PodControl, first_error, slow_start
from controllers.core.pods import CONTROLLER_INDEX, PodView, controller_index, decode_pod, seconds_until_available
from controllers.core.types import Pod
from controllers.decoded import Decoded
from controllers.handlers import controller_owner
from controllers.manager import Manager
from controllers.owners import controller_of, set_controller_reference
from controllers.reconcile import Request, Result
from informer import patch
from informer.cache import Stored
from informer.errors import ApiError

WORKERS = 5  # kube-controller-manager's --concurrent-replicaset-syncs
BURST = 500  # kube-controller-manager's BurstReplicas: creates or deletes in one sync

REPLICA_FAILURE = "ReplicaFailure"

Raw = dict[str, Any]

_owning_replica_set = controller_owner(ReplicaSet.TYPE)


class ReplicaSetController:
    """Keeps the pods of ReplicaSets at their number.

    Kubernetes' controller counts on expectations: after creating pods it does nothing for their ReplicaSet until it has
    seen as many appear. Here the runtime gives more: a key is not reconciled again until the caches have reached the
    revision of every write of its last run, so what is counted always includes what was done.
    """

    def __init__(self, manager: Manager, events: EventBroadcaster, *, burst: int = BURST) -> None:
        self._manager = manager
        self._control = PodControl(events.recorder("replicaset-controller"))
        self._burst = burst
        # Request -> pod key -> (revision, view): pods that did not change are not decoded again.
        self._pods = Decoded(decode_pod)

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Pod, CONTROLLER_INDEX, controller_index)
        manager.add_controller(
            ReplicaSet, self.reconcile, watches={Pod: self._of_pod}, workers=WORKERS, name="replicaset"
        )

    def _of_pod(self, stored: Stored) -> Iterable[Request]:
        if stored.meta.raw_owner_references and (owned := _owning_replica_set(stored)):
            return owned
        if any(owner.controller for owner in stored.meta.owner_references):
            return ()
        replica_sets = self._manager.informer(ReplicaSet).cache.by_index("namespace", stored.namespace)
        return selecting(replica_sets, stored)

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: claim, create or delete pods, write the status."""
        rs = ctx.get(ReplicaSet, request)
        if rs is None:
            self._pods.forget(request)
            return None
        pods = self._pods.of(request, await claim(ctx, rs, Pod, rs.spec.selector))
        active = [pod for pod in pods if pod.active]
        failure = None if rs.deleting else await self._manage(ctx, rs, active)
        terminating = sum(pod.deleting and not pod.finished for pod in pods)
        after = await self._write_status(ctx, rs, active, terminating, failure)
        if failure is not None:
            raise failure
        return None if after is None else Result(requeue_after=after)

    # ---- pods ------------------------------------------------------------------------------------------------------

    async def _manage(self, ctx: Context, rs: ReplicaSet, active: list[PodView]) -> ApiError | None:
        """Create or delete up to a burst of pods; the first error, if there was one."""
        missing = rs.spec.replicas - len(active)
        failure: ApiError | None = None
        if missing > 0:
            model = pod_of(rs)
            # `create` stores a copy, so all can be made of one.
            failure = await slow_start(min(missing, self._burst), lambda: self._control.create(ctx, rs, model))
        elif missing < 0:
            count = min(-missing, self._burst)
            chosen = pods_to_delete(active, self._related(ctx, rs, active), count, ctx.now())
            deletions = (self._control.delete(ctx, rs, pod.name, pod.uid) for pod in chosen)
            results = await asyncio.gather(*deletions, return_exceptions=True)
            failure = first_error(results)
        return failure

    def _related(self, ctx: Context, rs: ReplicaSet, active: list[PodView]) -> list[PodView]:
        """The active pods of all ReplicaSets of the same owner, this one's among them."""
        owner = controller_of(rs)
        if owner is None:
            return active
        related = list(active)
        for sibling in ctx.stored(ReplicaSet, index=("owner", owner.uid)):
            if sibling.meta.uid != rs.metadata.uid:
                found = ctx.stored(Pod, index=(CONTROLLER_INDEX, sibling.meta.uid or ""))
                related += [pod for pod in self._pods.of(Request(sibling.namespace, sibling.name), found) if pod.active]
        return related

    # ---- status ----------------------------------------------------------------------------------------------------

    async def _write_status(
        self, ctx: Context, rs: ReplicaSet, active: list[PodView], terminating: int, failure: ApiError | None
    ) -> float | None:
        """Write the status if it differs; in how many seconds the next pod becomes available by waiting."""
        now = ctx.now()
        status, after = next_status(rs, active, terminating, failure, now)
        if not patch.equal(status, rs.raw.get("status") or {}):
            rs.raw["status"] = status
            await ctx.update_status(rs)
        return after


def pod_of(rs: ReplicaSet) -> Pod:
    """A pod of the ReplicaSet's template, yet to be named."""
    template = rs.raw["spec"]["template"]
    described = template.get("metadata") or {}
    copied = {field: described[field] for field in ("labels", "annotations", "finalizers") if described.get(field)}
    metadata = {**copied, "generateName": f"{rs.name}-", "namespace": rs.namespace}
    pod = Pod.from_raw({"metadata": metadata, "spec": template["spec"]})
    set_controller_reference(rs, pod)
    return pod


def next_status(
    rs: ReplicaSet, active: list[PodView], terminating: int, failure: ApiError | None, now: datetime
) -> tuple[Raw, float | None]:
    """The status that these pods make, and in how many seconds the next of them becomes available by waiting."""
    before: Raw = rs.raw.get("status") or {}
    labels = ((rs.raw["spec"]["template"].get("metadata") or {}).get("labels") or {}).items()
    min_ready = rs.spec.min_ready_seconds
    fully_labeled = ready = available = 0
    after: float | None = None
    for pod in active:
        fully_labeled += labels <= (pod.metadata.labels or {}).items()
        seconds = seconds_until_available(pod, min_ready, now)
        if seconds is None:
            ready += pod.ready
            continue
        ready += 1
        if not seconds:
            available += 1
        elif after is None or seconds < after:
            after = seconds
    counts = {
        "fullyLabeledReplicas": fully_labeled,
        "readyReplicas": ready,
        "availableReplicas": available,
    }
    status: Raw = {
        "replicas": len(active),
        **{field: count for field, count in counts.items() if count},
        "terminatingReplicas": terminating,
        "observedGeneration": rs.metadata.generation,
    }
    conditions = list(before.get("conditions") or [])
    if failure is None:
        conditions = without_condition(conditions, REPLICA_FAILURE)
    elif find_condition(conditions, REPLICA_FAILURE) is None:
        reason = "FailedCreate" if len(active) < rs.spec.replicas else "FailedDelete"
        conditions = set_condition(conditions, new_condition(REPLICA_FAILURE, "True", reason, str(failure), now))
    if conditions:
        status["conditions"] = conditions
    return status, after
