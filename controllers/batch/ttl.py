"""The TTL controller: Jobs that have ended go after their time."""

from __future__ import annotations

from datetime import datetime, timedelta

from controllers.batch.stock import final_condition
from controllers.batch.types import Job
from controllers.context import Context
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer.codecs import SCALARS
from informer.errors import Conflict

WORKERS = 5  # kube-controller-manager's --concurrent-ttl-after-finished-syncs


class TTLAfterFinished:
    """Deletes Jobs `ttlSecondsAfterFinished` after their end, with all that they own."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(Job, self.reconcile, workers=WORKERS, name="ttl-after-finished")

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """Delete the Job if its time is over, else come back when it is."""
        job = ctx.get(Job, request)
        left = seconds_left(job, ctx.now())
        if job is None or left is None:
            return None
        if left > 0:
            return Result(requeue_after=left)
        # The cache may be behind, and the time may have been made longer.
        live = await ctx.fetch(Job, request)
        if live is None or live.metadata.uid != job.metadata.uid:
            return None
        left = seconds_left(live, ctx.now())
        if left is not None and left > 0:
            return Result(requeue_after=left)
        if left is not None:
            version = live.metadata.resource_version
            try:
                await ctx.delete(
                    Job, request, uid=live.metadata.uid, resource_version=version, propagation="foreground"
                )
            except Conflict:
                return Result(requeue=True)
        return None


def seconds_left(job: Job | None, now: datetime) -> float | None:
    """Until the Job is to go; None if it has not ended, goes already, or stays."""
    if job is None or job.deleting or job.spec.ttl_seconds_after_finished is None:
        return None
    ended = final_condition(job.raw)
    if ended is None:
        return None
    at: datetime = SCALARS[datetime].load(ended["lastTransitionTime"], None)
    return (at + timedelta(seconds=job.spec.ttl_seconds_after_finished) - now).total_seconds()
