"""Pods that have to go for the cluster's sake: they are told why before they are deleted."""

from __future__ import annotations

from datetime import datetime

from controllers.core.stages import set_condition
from controllers.core.types import Pod
from informer.cache import Stored
from informer.client import ObjectClient
from informer.codecs import format_time

DISRUPTION_TARGET = "DisruptionTarget"


async def disrupt(
    client: ObjectClient, stored: Stored, reason: str, message: str, now: datetime, *, by_force: bool
) -> None:
    """Put the condition DisruptionTarget on a pod, then delete it. by_force: nothing runs it any more, so it has failed
    and goes at once. Raises NotFound if it is gone, Conflict if it has changed since."""
    pod = Pod.decode(stored.data, stored.revision)
    status = pod.raw.setdefault("status", {})
    if status.get("phase") not in ("Succeeded", "Failed"):
        stamp = format_time(now.replace(microsecond=0))
        set_condition(status, DISRUPTION_TARGET, True, stamp, reason, message)
        if by_force:
            status["phase"] = "Failed"
        await client.update_status(pod)
    grace = 0 if by_force else None
    await client.delete(Pod, stored.name, stored.namespace, uid=stored.meta.uid, grace_seconds=grace)
