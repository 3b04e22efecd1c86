"""One sync of one Deployment: what every strategy does with its ReplicaSets and its status."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from controllers.apps.deployment import progress, revisions
from controllers.apps.deployment.arithmetic import Size, new_size, proportional
from controllers.apps.hash import template_hash
from controllers.apps.types import Deployment, ReplicaSet
from controllers.conditions import find_condition, new_condition, set_condition
from controllers.context import Context
from controllers.core.events import EventType, Recorder
from controllers.owners import is_controlled_by, set_controller_reference
from controllers.reconcile import Result
from informer import patch
from informer.errors import AlreadyExists, ApiError, NamespaceTerminating

Raw = dict[str, Any]


class Rollout:
    """A Deployment and its ReplicaSets during one sync. Every write goes through here and is reflected here.

    `replica_sets` are all that it has; `new` is the one of its template, if there is one; `old` are the others.
    """

    def __init__(
        self, ctx: Context, deployment: Deployment, replica_sets: Sequence[ReplicaSet], recorder: Recorder
    ) -> None:
        self.ctx = ctx
        self.deployment = deployment
        self.replica_sets = list(replica_sets)
        self.new = revisions.find_new(deployment, self.replica_sets)
        self._recorder = recorder

    @property
    def now(self) -> datetime:
        """The wall clock."""
        return self.ctx.now()

    @property
    def replicas(self) -> int:
        """How many pods are wanted."""
        return self.deployment.spec.replicas

    @property
    def old(self) -> list[ReplicaSet]:
        """All but the new ReplicaSet, oldest first."""
        return revisions.oldest_first(rs for rs in self.replica_sets if rs is not self.new)

    @property
    def status(self) -> Raw:
        """The status as last read or written."""
        return self.deployment.raw.get("status") or {}

    def event(self, reason: str, message: str, kind: EventType = "Normal") -> None:
        """Tell something about the Deployment."""
        self._recorder.event(self.deployment, kind, reason, message)

    # ---- the new ReplicaSet ----------------------------------------------------------------------------------------

    async def sync_new(self) -> ReplicaSet | None:
        """Bring the new ReplicaSet's annotations up to date, and the Deployment's revision with them."""
        new = self.new
        if new is None:
            return None
        deployment = self.deployment
        changed = revisions.set_annotations(new, revisions.copied_annotations(deployment))
        changed |= revisions.take_revision(new, revisions.max_revision(self.old) + 1)
        if new.spec.min_ready_seconds != deployment.spec.min_ready_seconds:
            new.spec.min_ready_seconds = deployment.spec.min_ready_seconds
            changed = True
        if changed:
            return await self._update(new)
        changed = self._take_revision_of(new)
        conditions = self.status.get("conditions") or []
        if progress.has_deadline(deployment) and find_condition(conditions, progress.PROGRESSING) is None:
            self._set_progressing("True", "FoundNewReplicaSet", f'Found new replica set "{new.name}"')
            changed = True
        if changed:
            await self.write_status()
        return new

    async def ensure_new(self) -> ReplicaSet:
        """The new ReplicaSet, made if there is none, with as many pods as the strategy lets it begin with.

        Raises the error that its creation ended with; the Deployment's status tells of it then.
        """
        found = await self.sync_new()
        if found is not None:
            return found
        deployment = self.deployment
        made = self._make()
        size = made.spec.replicas
        try:
            created = await self.ctx.create(made)
        except AlreadyExists:
            taken = await self.ctx.fetch(ReplicaSet, made.name, deployment.namespace)
            if taken is None or not self._is_mine(taken):
                # Another object has the name by chance of the hash: the next run tries another hash.
                self._set_status({**self.status, "collisionCount": (deployment.status.collision_count or 0) + 1})
                await self.write_status()
                raise
            self._add(taken)
            if self._take_revision_of(taken):
                await self.write_status()
            return taken
        except NamespaceTerminating:
            raise  # its own end is near: nothing to tell
        except ApiError as error:
            message = f'Failed to create new replica set "{made.name}": {error}'
            self.event("ReplicaSetCreateError", message, "Warning")
            if progress.has_deadline(deployment):
                self._set_progressing("False", "ReplicaSetCreateError", message)
                # Why the creation failed is what the caller has to know, not that this could not be written down.
                with suppress(ApiError):
                    await self.write_status()
            raise
        self._add(created)
        if size > 0:
            self.event("ScalingReplicaSet", f"Scaled up replica set {created.name} from 0 to {size}")
        changed = self._take_revision_of(created)
        if progress.has_deadline(deployment):
            self._set_progressing("True", "NewReplicaSetCreated", f'Created new replica set "{created.name}"')
            changed = True
        if changed:
            await self.write_status()
        return created

    def _make(self) -> ReplicaSet:
        deployment = self.deployment
        spec = deployment.raw["spec"]
        template = patch.copy(spec["template"])
        hashed = template_hash(spec["template"], deployment.status.collision_count)
        labels = {**(template.setdefault("metadata", {}).get("labels") or {}), revisions.TEMPLATE_HASH: hashed}
        template["metadata"]["labels"] = labels
        selector = patch.copy(spec["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), revisions.TEMPLATE_HASH: hashed}
        surge, _ = progress.limits(deployment)
        size = new_size(self.replicas, surge, self.occupied, 0) if progress.is_rolling(deployment) else self.replicas
        made = ReplicaSet.from_raw(
            {
                "metadata": {
                    "name": f"{deployment.name}-{hashed}",
                    "namespace": deployment.namespace,
                    "labels": dict(labels),
                    "annotations": {
                        **revisions.copied_annotations(deployment),
                        revisions.REVISION: str(revisions.max_revision(self.replica_sets) + 1),
                        **revisions.replica_annotations(self.replicas, self.replicas + surge),
                    },
                },
                "spec": {"replicas": size, "selector": selector, "template": template},
            }
        )
        if deployment.spec.min_ready_seconds:
            made.spec.min_ready_seconds = deployment.spec.min_ready_seconds
        set_controller_reference(deployment, made)
        return made

    def _add(self, new: ReplicaSet) -> None:
        self.replica_sets.append(new)
        self.new = new

    def _is_mine(self, rs: ReplicaSet) -> bool:
        wanted = self.deployment.raw["spec"]["template"]
        return is_controlled_by(rs, self.deployment) and revisions.same_template(rs.raw["spec"]["template"], wanted)

    def _take_revision_of(self, rs: ReplicaSet) -> bool:
        revision = revisions.annotations_of(rs).get(revisions.REVISION)
        present = revisions.annotations_of(self.deployment)
        if revision is None or present.get(revisions.REVISION) == revision:
            return False
        self.deployment.raw["metadata"]["annotations"] = {**present, revisions.REVISION: revision}
        return True

    # ---- scaling ---------------------------------------------------------------------------------------------------

    @staticmethod
    def has_followed(rs: ReplicaSet) -> bool:
        """Whether the ReplicaSet controller has acted on its present size."""
        return rs.status.observed_generation >= rs.metadata.generation

    @property
    def occupied(self) -> int:
        """How many pods there may be now, so that nothing is added to more than there is room for.

        kube-controller-manager adds up the sizes only. Pods of a ReplicaSet that was made smaller may then still be
        there, or even be in the making, when the new ones come.
        """
        surge, _ = progress.limits(self.deployment)
        if not all(map(self.has_followed, self.replica_sets)):
            return self.replicas + surge
        return sum(max(rs.spec.replicas, rs.status.replicas) for rs in self.replica_sets)

    async def scale(self, rs: ReplicaSet, size: int) -> bool:
        """Give a ReplicaSet another size and note the scale of the whole; whether the size changed."""
        before = rs.spec.replicas
        surge, _ = progress.limits(self.deployment)
        changed = revisions.set_annotations(rs, revisions.replica_annotations(self.replicas, self.replicas + surge))
        if before == size and not changed:
            return False
        rs.spec.replicas = size
        await self._update(rs)
        if before == size:
            return False
        direction = "up" if size > before else "down"
        self.event("ScalingReplicaSet", f"Scaled {direction} replica set {rs.name} from {before} to {size}")
        return True

    async def resize(self, rs: ReplicaSet, size: int) -> bool:
        """As `scale`, but one that has the size already is left alone."""
        return rs.spec.replicas != size and await self.scale(rs, size)

    @property
    def is_scaling(self) -> bool:
        """Whether the number of pods wanted changed since the ReplicaSets were last scaled."""
        sizes = (revisions.desired_replicas(rs) for rs in self.replica_sets if rs.spec.replicas > 0)
        return any(size is not None and size != self.replicas for size in sizes)

    async def scale_all(self) -> None:
        """Follow a change of the number of pods without rolling anything out."""
        new, old = self.new, self.old
        active = [rs for rs in [*old, *([new] if new is not None else [])] if rs.spec.replicas > 0]
        surge, _ = progress.limits(self.deployment)
        total = progress.total_spec(active)
        if total < self.replicas + surge and total < self.occupied:
            # It may grow, but pods that are on their way out still take the room. Their end leads to the next sync.
            return
        if len(active) <= 1:
            only = active[0] if active else new or next(iter(revisions.newest_first(old)), None)
            if only is not None:
                # Also if it has that size already, for the note of the scale: without it this goes on being a scaling,
                # and a rollout never begins.
                await self.scale(only, self.replicas)
        elif new is not None and self._saturated(new):
            for rs in old:
                if rs.spec.replicas > 0:
                    await self.resize(rs, 0)
        elif progress.is_rolling(self.deployment):
            await self._scale_in_proportion(active)

    def _saturated(self, new: ReplicaSet) -> bool:
        """Whether the new one has all the pods that are wanted, and they serve."""
        return new.spec.replicas == revisions.desired_replicas(new) == new.status.available_replicas == self.replicas

    async def _scale_in_proportion(self, active: list[ReplicaSet]) -> None:
        surge, _ = progress.limits(self.deployment)
        allowed = self.replicas + surge if self.replicas > 0 else 0
        # Of the same size the newer goes first when pods are added, the older when they are taken away.
        growing = allowed > progress.total_spec(active)
        by_age = revisions.newest_first(active) if growing else revisions.oldest_first(active)
        ordered = sorted(by_age, key=lambda rs: rs.spec.replicas, reverse=True)
        sizes = [Size(rs.spec.replicas, max_replicas=revisions.max_replicas(rs)) for rs in ordered]
        for rs, size in zip(
            ordered, proportional(sizes, self.replicas, surge, self.deployment.status.replicas), strict=True
        ):
            await self.scale(rs, size)

    # ---- history ---------------------------------------------------------------------------------------------------

    async def clean_up(self) -> None:
        """Delete old ReplicaSets beyond the revision history's limit."""
        for rs in revisions.to_delete(self.old, self.deployment.spec.revision_history_limit):
            await self.ctx.delete(ReplicaSet, rs.name, rs.namespace, uid=rs.metadata.uid, propagation="background")
            self.replica_sets.remove(rs)

    # ---- status ----------------------------------------------------------------------------------------------------

    async def sync_status(self) -> None:
        """Write the status if it differs, saying nothing of progress: nothing is being rolled out."""
        status = progress.next_status(self.deployment, self.new, self.replica_sets, self.now)
        await self._write_if_changed(status)

    async def sync_rollout_status(self) -> Result | None:
        """Write the status if it differs, progress included; otherwise say when the deadline has to be looked at."""
        deployment, new, now = self.deployment, self.new, self.now
        status = progress.next_status(deployment, new, self.replica_sets, now)
        status = progress.with_progress(deployment, status, new, self.replica_sets, now)
        if await self._write_if_changed(status):
            return None
        after = progress.check_again_after(deployment, status, now)
        if after is None:
            return None
        return Result(requeue_after=after) if after else Result(requeue=True)

    async def _write_if_changed(self, status: Raw) -> bool:
        if patch.equal(patch.without_nulls(status), self.status):
            return False
        self._set_status(status)
        await self.write_status()
        return True

    def _set_status(self, status: Raw) -> None:
        self.deployment.raw["status"] = status

    def _set_progressing(self, status: str, reason: str, message: str) -> None:
        condition = new_condition(progress.PROGRESSING, status, reason, message, self.now, updated=True)
        conditions = set_condition(self.status.get("conditions") or [], condition)
        self._set_status({**self.status, "conditions": conditions})

    async def sync_paused(self) -> None:
        """Let the Progressing condition say that the Deployment is paused, or not any more."""
        condition = progress.paused_condition(self.deployment, self.now)
        if condition is not None:
            conditions = set_condition(self.status.get("conditions") or [], condition)
            self._set_status({**self.status, "conditions": conditions})
            await self.write_status()

    async def write_status(self) -> None:
        """Store the status, and the annotations with it. Raises Conflict if the Deployment changed meanwhile."""
        self.deployment = await self.ctx.update_status(self.deployment)

    async def write(self) -> None:
        """Store the Deployment but for its status. Raises Conflict if it changed meanwhile."""
        self.deployment = await self.ctx.update(self.deployment)

    async def _update(self, rs: ReplicaSet) -> ReplicaSet:
        updated = await self.ctx.update(rs)
        # In place, because callers go on with the object they have.
        rs.raw.clear()
        rs.raw.update(updated.raw)
        return rs
