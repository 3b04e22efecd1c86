"""Pods that have to go for the cluster's sake: they are told why before they are deleted."""

from __future__ import annotations

from datetime import datetime

from controllers.core.stages import set_condition
from controllers.core.types import Pod
from informer.cache import Stored
from informer.client import ObjectClient
from informer.codecs import format_time

DISRUPTION_TARGET = "DisruptionTarget"
ENDED = ("Succeeded", "Failed")


async def disrupt(
    client: ObjectClient,
    stored: Stored,
    reason: str,
    message: str,
    now: datetime,
    *,
    by_force: bool,
    may_return: bool = False,
) -> None:
    """Put the condition DisruptionTarget on a pod, then delete it. by_force: nothing runs it any more, so it has failed
    and goes at once. may_return: what ran it may be back before it is deleted, so it fails only when it has to go.

    Raises NotFound if it is gone, Conflict if it has changed since.
    """
    pod = Pod.decode(stored.data, stored.revision)
    status = pod.raw.setdefault("status", {})
    if status.get("phase") not in ENDED:
        stamp = format_time(now.replace(microsecond=0))
        set_condition(status, DISRUPTION_TARGET, True, stamp, reason, message)
        if by_force and not may_return:
            status["phase"] = "Failed"
        await client.update_status(pod)
    grace = 0 if by_force else None
    deleted = await client.delete(Pod, stored.name, stored.namespace, uid=stored.meta.uid, grace_seconds=grace)
    kept = deleted.object
    if by_force and kept is not None and kept.status.phase not in ENDED:
        # Whose finalizers keep it wants to know how it ended, and no kubelet will say.
        kept.raw["status"]["phase"] = "Failed"
        await client.update_status(kept)
