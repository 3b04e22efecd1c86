"""The DaemonSet controller: which keys an event concerns, and the order of one sync."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from controllers.apps.daemonset.backoff import FailedPods
from controllers.apps.daemonset.managing import manage
from controllers.apps.daemonset.nodes import Judge, KnownNodes, node_changed
from controllers.apps.daemonset.pods import DaemonPod, PodMaker, decode_daemon_pod
from controllers.apps.daemonset.rolling import roll
from controllers.apps.daemonset.situation import Plan, Situation, next_status, situation_of
from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.history import REVISION_HASH, claimed_revisions, truncate_history, update_revision
from controllers.apps.types import ControllerRevision
from controllers.claiming import claim, selecting
from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.pod_control import PodControl, first_error, slow_start
from controllers.core.pods import CONTROLLER_INDEX, controller_index
from controllers.core.types import Node, Pod
from controllers.decoded import Decoded
from controllers.handlers import controller_owner, own_key
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer import patch
from informer.cache import Stored
from informer.errors import ApiError, NamespaceTerminating
from informer.selectors import Selector

WORKERS = 2  # kube-controller-manager's --concurrent-daemonset-syncs
BURST = 250  # its BurstReplicas: creates, and deletes, in one sync

_owning_daemon_set = controller_owner(DaemonSet.TYPE)


class DaemonSetController:
    """Keeps a pod of each DaemonSet on every node that takes it."""

    def __init__(self, manager: Manager, events: EventBroadcaster, *, burst: int = BURST) -> None:
        self._manager = manager
        self._recorder = events.recorder("daemonset-controller")
        self._control = PodControl(self._recorder)
        self._burst = burst
        self._pods = Decoded(decode_daemon_pod)
        self._nodes = KnownNodes()
        # Both by request, and for one object only: its uid, and for judges the generation of its spec.
        self._judges: dict[Request, tuple[tuple[str, int], Judge]] = {}
        self._failed: dict[Request, tuple[str, FailedPods]] = {}

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Pod, CONTROLLER_INDEX, controller_index)
        manager.add_index(ControllerRevision, CONTROLLER_INDEX, controller_index)
        manager.add_controller(
            DaemonSet,
            self.reconcile,
            watches={Pod: self._of_dependent, ControllerRevision: self._of_dependent, Node: self._of_node},
            predicates={Node: node_changed},
            workers=WORKERS,
            name="daemonset",
        )

    def _of_dependent(self, stored: Stored) -> Iterable[Request]:
        if stored.meta.raw_owner_references:
            # Most pods are some other kind's: this is asked of each of them at every change.
            owner = next((each for each in stored.meta.owner_references if each.controller), None)
            if owner is not None:
                return _owning_daemon_set(stored) if owner.kind == DaemonSet.TYPE.kind else ()
        return selecting(self._manager.informer(DaemonSet).cache.by_index("namespace", stored.namespace), stored)

    def _of_node(self, stored: Stored) -> Iterator[Request]:
        """The DaemonSets to which the node is something else than when they last looked."""
        current = self._manager.informer(Node).cache.get(stored.name)
        node = self._nodes.one(current) if current is not None else None
        for each in self._manager.informer(DaemonSet).cache.list():
            (request,) = own_key(each)
            known = self._judges.get(request)
            if known is None or known[1].is_news(stored.name, node):
                yield request

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: revisions, then pods where they are missing or too many, else a step of the rollout; the status."""
        ds = ctx.get(DaemonSet, request)
        if ds is None:
            self._pods.forget(request)
            self._judges.pop(request, None)
            self._failed.pop(request, None)
            return None
        if Selector.of(ds.spec.selector).empty:
            message = "This daemon set is selecting all pods. A non-empty selector is required."
            self._recorder.event(ds, "Warning", "SelectingAll", message)
            return None
        if ds.deleting:
            # Its revisions may be gone already, or somebody else's.
            return None
        revisions = await claimed_revisions(ctx, ds, ds.spec.selector)
        try:
            current, collisions = await update_revision(ctx, ds, revisions, ds.status.collision_count or 0)
        except NamespaceTerminating:
            return None  # it takes nothing new any more, and its own end is near
        claimed = await claim(ctx, ds, Pod, ds.spec.selector)
        places = self._judge(ds, request).of(self._nodes.of(ctx.stored(Node)))
        pods = self._pods.of(request, claimed)
        found = situation_of(ds, places, pods, hash_of(current), ctx.now())
        plan, failure = await self._act(ctx, ds, found)
        if failure is None:
            old = [each for each in revisions if each.name != current.name]
            await self._clean_up(ctx, ds, old, pods)
        status, after = next_status(ds, found, collisions)
        if not patch.equal(status, ds.raw.get("status") or {}):
            ds.raw["status"] = status
            await ctx.update_status(ds)
        if failure is not None:
            raise failure
        after = min((each for each in (plan.after, after) if each is not None), default=None)
        return None if after is None else Result(requeue_after=max(after, 0.001))

    def _judge(self, ds: DaemonSet, request: Request) -> Judge:
        identity = (ds.metadata.uid or "", ds.metadata.generation or 0)
        known = self._judges.get(request)
        if known is None or known[0] != identity:
            known = self._judges[request] = (identity, Judge(ds.raw["spec"]["template"]["spec"]))
        return known[1]

    def _failures(self, ds: DaemonSet, request: Request) -> FailedPods:
        uid = ds.metadata.uid or ""
        known = self._failed.get(request)
        if known is None or known[0] != uid:
            known = self._failed[request] = (uid, FailedPods())
        return known[1]

    # ---- pods ------------------------------------------------------------------------------------------------------

    async def _act(self, ctx: Context, ds: DaemonSet, found: Situation) -> tuple[Plan, ApiError | None]:
        """What was done, and the first error. A rollout moves only when nothing else is to be done."""
        failures = self._failures(ds, ctx.request)
        failures.keep(found.places)
        moment = asyncio.get_running_loop().time()
        plan = manage(found, partial(failures.wait, generation=ds.status.observed_generation, now=moment))
        for verb, pods in (("failed", plan.failed), ("succeeded", plan.succeeded)):
            for pod in pods:
                self._tell_ended(ds, pod, verb)
        if plan.empty and found.rolling:
            step = roll(found)
            plan.create, plan.delete = step.create, step.delete
        return plan, await self._carry_out(ctx, ds, found, plan)

    def _tell_ended(self, ds: DaemonSet, pod: DaemonPod, verb: str) -> None:
        where = f"daemon pod {ds.namespace}/{pod.name} on node {pod.target}"
        if verb == "failed":
            self._recorder.event(ds, "Warning", "FailedDaemonPod", f"Found failed {where}, will try to kill it")
        else:
            self._recorder.event(ds, "Normal", "SucceededDaemonPod", f"Found succeeded {where}, will try to delete it")

    async def _carry_out(self, ctx: Context, ds: DaemonSet, found: Situation, plan: Plan) -> ApiError | None:
        """Create, then delete, up to a burst of each; the first error, after all was tried that is to be tried."""
        failure: ApiError | None = None
        if plan.create:
            maker = PodMaker(ds, found.revision_hash)
            nodes = iter(plan.create[: self._burst])
            count = min(len(plan.create), self._burst)
            failure = await slow_start(count, lambda: self._control.create(ctx, ds, maker.pod_for(next(nodes))))
        deletions = (self._control.delete(ctx, ds, pod.name, pod.uid) for pod in plan.delete[: self._burst])
        results = await asyncio.gather(*deletions, return_exceptions=True)
        return failure or first_error(results)

    @staticmethod
    async def _clean_up(
        ctx: Context, ds: DaemonSet, old: Sequence[ControllerRevision], pods: Sequence[DaemonPod]
    ) -> None:
        """Delete the oldest revisions beyond the limit but for those that pods are of, which count as well."""
        live = {pod.labels.get(REVISION_HASH) for pod in pods}
        used = {each.name for each in old if hash_of(each) in live}
        await truncate_history(ctx, old, used, max(0, ds.spec.revision_history_limit - len(used)))


def hash_of(revision: ControllerRevision) -> str:
    """What the pods of a revision are labelled with."""
    return revision.metadata.labels.get(REVISION_HASH) or revision.name
