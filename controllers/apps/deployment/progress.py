"""The status of a Deployment and what it says about the rollout's progress. Pure functions over plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from controllers.apps.deployment.arithmetic import fenceposts
from controllers.apps.types import Deployment, ReplicaSet, RollingUpdate
from controllers.conditions import find_condition, new_condition, set_condition, without_condition

AVAILABLE, PROGRESSING, REPLICA_FAILURE = "Available", "Progressing", "ReplicaFailure"
NEW_REPLICA_SET_AVAILABLE = "NewReplicaSetAvailable"
DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
PAUSED, RESUMED = "DeploymentPaused", "DeploymentResumed"

NO_DEADLINE = 2**31 - 1  # Kubernetes' way to say that a rollout may take any time

Raw = dict[str, Any]


def is_rolling(deployment: Deployment) -> bool:
    """Whether old pods go step by step."""
    return deployment.spec.strategy.type == "RollingUpdate"


def limits(deployment: Deployment) -> tuple[int, int]:
    """(surge, unavailable) in pods: 0 where the strategy has none."""
    if not is_rolling(deployment):
        return 0, 0
    rolling = deployment.spec.strategy.rolling_update or RollingUpdate()
    replicas = deployment.spec.replicas
    surge, unavailable = fenceposts(rolling.max_surge, rolling.max_unavailable, replicas)
    return surge, min(unavailable, replicas)


def has_deadline(deployment: Deployment) -> bool:
    """Whether the rollout is to make progress in some time."""
    return deployment.spec.progress_deadline_seconds != NO_DEADLINE


def total_spec(replica_sets: Sequence[ReplicaSet]) -> int:
    """How many pods they are to have."""
    return sum(rs.spec.replicas for rs in replica_sets)


def _sum(replica_sets: Sequence[ReplicaSet], field: str) -> int:
    return sum((rs.raw.get("status") or {}).get(field) or 0 for rs in replica_sets)


def next_status(
    deployment: Deployment, new: ReplicaSet | None, replica_sets: Sequence[ReplicaSet], now: datetime
) -> Raw:
    """What the ReplicaSets (the new one among them) make of the status; conditions as they were, but for Available."""
    before: Raw = deployment.raw.get("status") or {}
    available = _sum(replica_sets, "availableReplicas")
    status: Raw = {
        "observedGeneration": deployment.metadata.generation,
        "replicas": _sum(replica_sets, "replicas"),
        "updatedReplicas": _sum([new], "replicas") if new is not None else 0,
        "readyReplicas": _sum(replica_sets, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, total_spec(replica_sets) - available),
        "terminatingReplicas": _sum(replica_sets, "terminatingReplicas"),
    }
    if before.get("collisionCount") is not None:
        status["collisionCount"] = before["collisionCount"]
    least = deployment.spec.replicas - limits(deployment)[1]
    if available >= least:
        condition = new_condition(
            AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.", now, updated=True
        )
    else:
        condition = new_condition(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
            now,
            updated=True,
        )
    # Kubernetes leaves counts of zero out, and so does what `get -o yaml` shows of it.
    optional = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas")
    status = {key: value for key, value in status.items() if value or key not in optional}
    status["conditions"] = set_condition(list(before.get("conditions") or []), condition)
    return status


def count(status: Raw, field: str) -> int:
    """A number of the status."""
    return int(status.get(field) or 0)


def is_complete(deployment: Deployment, status: Raw) -> bool:
    """Whether all pods are of the new template and serve, and no others are left."""
    replicas = deployment.spec.replicas
    fields = ("updatedReplicas", "replicas", "availableReplicas")
    seen = count(status, "observedGeneration") >= deployment.metadata.generation
    return seen and all(count(status, field) == replicas for field in fields)


def is_progressing(before: Raw, after: Raw) -> bool:
    """Whether more pods are updated, ready or available than before, or fewer are old."""
    if _old(after) < _old(before):
        return True
    fields = ("updatedReplicas", "readyReplicas", "availableReplicas")
    return any(count(after, field) > count(before, field) for field in fields)


def _old(status: Raw) -> int:
    return count(status, "replicas") - count(status, "updatedReplicas")


def timed_out(deployment: Deployment, status: Raw, now: datetime) -> bool:
    """Whether the deadline has passed since the last progress. A finished rollout cannot time out."""
    condition = find_condition(status["conditions"], PROGRESSING)
    if condition is None or condition.get("reason") == NEW_REPLICA_SET_AVAILABLE:
        return False
    return condition.get("reason") == DEADLINE_EXCEEDED or _remaining(deployment, condition, now) < 0


def _remaining(deployment: Deployment, condition: Raw, now: datetime) -> float:
    """Seconds until the deadline."""
    since = condition.get("lastUpdateTime") or condition.get("lastTransitionTime")
    began = datetime.fromisoformat(since) if since else now
    due = began + timedelta(seconds=deployment.spec.progress_deadline_seconds)
    return (due - now).total_seconds()


def with_progress(
    deployment: Deployment, status: Raw, new: ReplicaSet | None, replica_sets: Sequence[ReplicaSet], now: datetime
) -> Raw:
    """The status of a rollout with its Progressing and ReplicaFailure conditions brought up to date."""
    before: Raw = deployment.raw.get("status") or {}
    conditions = status["conditions"]
    current = find_condition(conditions, PROGRESSING)
    subject = f'Deployment "{deployment.name}"' if new is None else f'ReplicaSet "{new.name}"'
    if not has_deadline(deployment):
        conditions = without_condition(conditions, PROGRESSING)
    elif not _was_complete(status, current):
        if is_complete(deployment, status):
            message = f"{subject} has successfully progressed."
            conditions = set_condition(
                conditions, new_condition(PROGRESSING, "True", NEW_REPLICA_SET_AVAILABLE, message, now, updated=True)
            )
        elif is_progressing(before, status):
            condition = new_condition(
                PROGRESSING, "True", "ReplicaSetUpdated", f"{subject} is progressing.", now, updated=True
            )
            if current is not None and current["status"] == "True":
                condition["lastTransitionTime"] = current.get("lastTransitionTime", condition["lastTransitionTime"])
            # Put in even if it says the same as before: its update time is what the deadline counts from.
            conditions = [*without_condition(conditions, PROGRESSING), condition]
        elif timed_out(deployment, status, now):
            message = f"{subject} has timed out progressing."
            conditions = set_condition(
                conditions, new_condition(PROGRESSING, "False", DEADLINE_EXCEEDED, message, now, updated=True)
            )
    failure = _failure(new, replica_sets)
    if failure is None:
        conditions = without_condition(conditions, REPLICA_FAILURE)
    else:
        conditions = set_condition(conditions, failure)
    return {**status, "conditions": conditions}


def _was_complete(status: Raw, current: Raw | None) -> bool:
    """Whether the rollout was over before: pods that fail or a scaling afterwards do not make it begin again."""
    same = count(status, "replicas") == count(status, "updatedReplicas")
    return same and current is not None and current.get("reason") == NEW_REPLICA_SET_AVAILABLE


def _failure(new: ReplicaSet | None, replica_sets: Sequence[ReplicaSet]) -> Raw | None:
    """The ReplicaFailure condition of a ReplicaSet, the new one's first."""
    ordered = [new] if new is not None else []
    for rs in [*ordered, *replica_sets]:
        found = find_condition((rs.raw.get("status") or {}).get("conditions") or [], REPLICA_FAILURE)
        if found is not None:
            copied = {key: value for key, value in found.items() if key != "lastTransitionTime"}
            stamp = found.get("lastTransitionTime")
            return {**copied, "lastTransitionTime": stamp, "lastUpdateTime": stamp}
    return None


def paused_condition(deployment: Deployment, now: datetime) -> Raw | None:
    """The Progressing condition that a pause or its end asks for, or None. No deadline runs while it says so."""
    if not has_deadline(deployment):
        return None
    current = find_condition((deployment.raw.get("status") or {}).get("conditions") or [], PROGRESSING)
    reason = current.get("reason") if current is not None else None
    if reason == DEADLINE_EXCEEDED or deployment.spec.paused == (reason == PAUSED):
        return None
    if deployment.spec.paused:
        reason, message = PAUSED, "Deployment is paused"
    else:
        reason, message = RESUMED, "Deployment is resumed"
    return new_condition(PROGRESSING, "Unknown", reason, message, now, updated=True)


def check_again_after(deployment: Deployment, status: Raw, now: datetime) -> float | None:
    """In how many seconds a rollout that does not move has to be looked at again, None if it need not.

    Less than a second before the deadline it is 0: look again soon.
    """
    condition = find_condition(status["conditions"], PROGRESSING)
    if not has_deadline(deployment) or condition is None or is_complete(deployment, status):
        return None
    if condition.get("reason") == DEADLINE_EXCEEDED:
        return None
    remaining = _remaining(deployment, condition, now)
    return 0.0 if remaining < 1 else remaining + 1
