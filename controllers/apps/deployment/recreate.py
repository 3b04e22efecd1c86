"""Recreate: all old pods go, and only when none of them runs any more the new ones come."""

from __future__ import annotations

from controllers.apps.deployment import progress
from controllers.apps.deployment.sync import Rollout
from controllers.core.pods import CONTROLLER_INDEX, decode_pod
from controllers.core.types import Pod
from controllers.reconcile import Result


async def recreate(rollout: Rollout) -> Result | None:
    """One step."""
    await rollout.sync_new()
    scaled = False
    for rs in rollout.old:
        scaled |= await rollout.resize(rs, 0)
    if not scaled and not _old_pods_run(rollout):
        new = await rollout.ensure_new()
        await rollout.resize(new, rollout.replicas)
        if progress.is_complete(rollout.deployment, rollout.status):
            await rollout.clean_up()
    return await rollout.sync_rollout_status()


def _old_pods_run(rollout: Rollout) -> bool:
    """Whether pods of an old ReplicaSet are there that have not ended; one that is being deleted still runs."""
    old = rollout.old
    # Its controller may be making pods still as long as it has not seen that it is to have none.
    if any(not rollout.has_followed(rs) or rs.status.replicas > 0 for rs in old):
        return True
    return any(
        not decode_pod(stored).finished
        for rs in old
        for stored in rollout.ctx.stored(Pod, index=(CONTROLLER_INDEX, rs.metadata.uid or ""))
    )
