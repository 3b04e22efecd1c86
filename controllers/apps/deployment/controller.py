"""The Deployment controller: which keys an event concerns, and the order of one sync."""

from __future__ import annotations

from collections.abc import Iterable

from controllers.apps.deployment import rollback
from controllers.apps.deployment.recreate import recreate
from controllers.apps.deployment.revisions import ROLLBACK_TO, annotations_of
from controllers.apps.deployment.rolling import roll
from controllers.apps.deployment.sync import Rollout
from controllers.apps.types import Deployment, ReplicaSet
from controllers.claiming import claim, selecting
from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.pods import CONTROLLER_INDEX, controller_index
from controllers.core.types import Pod
from controllers.handlers import controller_owner
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer.cache import Stored
from informer.errors import NamespaceTerminating
from informer.selectors import Selector

WORKERS = 5  # kube-controller-manager's --concurrent-deployment-syncs

_owning_deployment = controller_owner(Deployment.TYPE)
_owning_replica_set = controller_owner(ReplicaSet.TYPE)


class DeploymentController:
    """Keeps the ReplicaSets of Deployments as their specs want them."""

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("deployment-controller")

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Pod, CONTROLLER_INDEX, controller_index)
        manager.add_index(ReplicaSet, CONTROLLER_INDEX, controller_index)
        manager.add_controller(
            Deployment,
            self.reconcile,
            watches={ReplicaSet: self._of_replica_set, Pod: self._of_pod},
            # Only the end of a pod matters here: Recreate waits for it.
            predicates={Pod: lambda old, new: new is None},
            workers=WORKERS,
            name="deployment",
        )

    def _of_replica_set(self, stored: Stored) -> Iterable[Request]:
        if stored.meta.raw_owner_references and (owned := _owning_deployment(stored)):
            return owned
        if any(owner.controller for owner in stored.meta.owner_references):
            return ()
        deployments = self._manager.informer(Deployment).cache.by_index("namespace", stored.namespace)
        return selecting(deployments, stored)

    def _of_pod(self, stored: Stored) -> Iterable[Request]:
        replica_sets = self._manager.informer(ReplicaSet).cache
        for owner in _owning_replica_set(stored):
            found = replica_sets.get(owner.key)
            if found is not None:
                return _owning_deployment(found)
        return ()

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync, in kube-controller-manager's order. At most one step of a rollout."""
        deployment = ctx.get(Deployment, request)
        if deployment is None:
            return None
        if Selector.of(deployment.spec.selector).empty:
            self._recorder.event(
                deployment,
                "Warning",
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            )
            if deployment.status.observed_generation < deployment.metadata.generation:
                deployment.status.observed_generation = deployment.metadata.generation
                await ctx.update_status(deployment)
            return None
        claimed = await claim(ctx, deployment, ReplicaSet, deployment.spec.selector)
        replica_sets = [ReplicaSet.decode(stored.data, stored.revision) for stored in claimed]
        rollout = Rollout(ctx, deployment, replica_sets, self._recorder)
        try:
            return await _sync(rollout)
        except NamespaceTerminating:
            return None  # every create will fail, and its own end is near


async def _sync(rollout: Rollout) -> Result | None:
    deployment = rollout.deployment
    if deployment.deleting:
        await rollout.sync_status()
        return None
    await rollout.sync_paused()
    if deployment.spec.paused:
        await _follow(rollout)
        return None
    if ROLLBACK_TO in annotations_of(deployment):
        await _roll_back(rollout)
        return None
    if rollout.is_scaling:
        await _follow(rollout)
        return None
    if deployment.spec.strategy.type == "Recreate":
        return await recreate(rollout)
    return await roll(rollout)


async def _follow(rollout: Rollout) -> None:
    """Scale and tell, but roll nothing out."""
    await rollout.sync_new()
    await rollout.scale_all()
    if rollout.deployment.spec.paused and ROLLBACK_TO not in annotations_of(rollout.deployment):
        await rollout.clean_up()
    await rollout.sync_status()


async def _roll_back(rollout: Rollout) -> None:
    """Do what the annotation asks for, and take it away."""
    await rollout.ensure_new()
    deployment = rollout.deployment
    text = annotations_of(deployment)[ROLLBACK_TO]
    try:
        revision = int(text)
        rs = rollback.replica_set_of(rollout.replica_sets, revision)
    except ValueError:
        rollout.event("DeploymentRollbackRevisionNotFound", f"Not a revision: {text!r}.", "Warning")
    except rollback.RevisionNotFound:
        what = "the revision to rollback to" if revision else "last revision"
        rollout.event("DeploymentRollbackRevisionNotFound", f"Unable to find {what}.", "Warning")
    else:
        number = annotations_of(rs).get("deployment.kubernetes.io/revision")
        if rollback.undo(deployment, rs):
            rollout.event("DeploymentRollback", f'Rolled back deployment "{deployment.name}" to revision {number}')
        else:
            rollout.event(
                "DeploymentRollbackTemplateUnchanged",
                f'The rollback revision contains the same template as current deployment "{deployment.name}"',
                "Warning",
            )
    annotations = annotations_of(deployment)
    deployment.raw["metadata"]["annotations"] = {k: v for k, v in annotations.items() if k != ROLLBACK_TO}
    await rollout.write()
