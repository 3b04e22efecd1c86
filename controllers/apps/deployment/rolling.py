"""RollingUpdate: the new ReplicaSet grows and the old ones shrink, one step a sync, within surge and unavailability."""

from __future__ import annotations

from controllers.apps.deployment import progress
from controllers.apps.deployment.arithmetic import Size, new_size, old_budget, without_spare, without_unhealthy
from controllers.apps.deployment.sync import Rollout
from controllers.apps.types import ReplicaSet
from controllers.reconcile import Result


async def roll(rollout: Rollout) -> Result | None:
    """One step. Whatever it is, the status tells of it, and the events of the ReplicaSets lead to the next."""
    new = await rollout.ensure_new()
    scaled = await _scale_new(rollout, new) or await _scale_old(rollout, new)
    if not scaled and progress.is_complete(rollout.deployment, rollout.status):
        await rollout.clean_up()
    return await rollout.sync_rollout_status()


async def _scale_new(rollout: Rollout, new: ReplicaSet) -> bool:
    surge, _ = progress.limits(rollout.deployment)
    return await rollout.resize(new, new_size(rollout.replicas, surge, rollout.occupied, new.spec.replicas))


async def _scale_old(rollout: Rollout, new: ReplicaSet) -> bool:
    olds = [rs for rs in rollout.old if rs.spec.replicas > 0]
    _, unavailable = progress.limits(rollout.deployment)
    total = progress.total_spec(rollout.replica_sets)
    budget = old_budget(rollout.replicas, unavailable, total, _size(new))
    if not olds or budget <= 0:
        return False
    scaled = False
    # What does not serve goes first: taking it away costs nothing, and makes room.
    for rs, size in zip(olds, without_unhealthy([_size(rs) for rs in olds], budget), strict=True):
        scaled |= await rollout.resize(rs, size)
    available = sum(_size(rs).available for rs in rollout.replica_sets)
    sizes = without_spare([rs.spec.replicas for rs in olds], available, rollout.replicas - unavailable)
    for rs, size in zip(olds, sizes, strict=True):
        scaled |= await rollout.resize(rs, size)
    return scaled


def _size(rs: ReplicaSet) -> Size:
    # Pods beyond its size are on their way out, whatever its status still says. kube-controller-manager counts them as
    # available, and can take away too many when a scaling and a rollout meet.
    return Size(rs.spec.replicas, min(rs.spec.replicas, rs.status.available_replicas))
