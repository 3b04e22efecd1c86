"""The status of a StatefulSet. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from controllers.apps.statefulset.pods import StatefulPod
from controllers.apps.statefulset.types import StatefulSet
from controllers.core.pods import seconds_until_available

Raw = dict[str, Any]


def next_status(
    sts: StatefulSet,
    pods: Sequence[StatefulPod],
    *,
    current: str,
    update: str,
    collisions: int,
    deleted: Collection[str],
    now: datetime,
) -> tuple[Raw, float | None]:
    """The status that these pods make, and in how many seconds the next of them becomes available by waiting.

    current, update: names of revisions. deleted: uids of pods whose deletion was just asked for.
    """
    wanted, before = sts.spec.replicas, sts.raw.get("status") or {}
    ready = available = of_current = of_update = 0
    after: float | None = None
    for pod in pods:
        if not pod.deleting and pod.uid not in deleted:
            of_current += pod.revision == current
            of_update += pod.revision == update
        if not pod.running_and_ready:
            continue
        ready += 1
        seconds = seconds_until_available(pod, sts.spec.min_ready_seconds, now)
        if seconds == 0:
            available += 1
        elif seconds is not None and (after is None or seconds < after):
            after = seconds
    if sts.spec.update_strategy.type == "RollingUpdate" and of_update == ready == len(pods) == wanted:
        current, of_current = update, of_update
    counts = {"readyReplicas": ready, "currentReplicas": of_current, "updatedReplicas": of_update}
    status: Raw = {
        "observedGeneration": sts.metadata.generation,
        "replicas": len(pods),
        **{field: count for field, count in counts.items() if count},
        "availableReplicas": available,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": collisions,
    }
    if before.get("conditions"):
        status["conditions"] = before["conditions"]
    return status, after
