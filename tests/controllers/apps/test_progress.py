"""What a Deployment's status says of its rollout: pure functions, time given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.apps.deployment import progress
from controllers.apps.types import Deployment, ReplicaSet
from controllers.conditions import find_condition, new_condition, set_condition
from tests.controllers.cluster import nginx

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)


def deployment(replicas: int = 4, status: dict[str, Any] | None = None, **spec: Any) -> Deployment:
    made = nginx(replicas=replicas, **spec)
    made.default()
    made.metadata.generation = 3
    made.raw["status"] = status or {}
    return made


def replica_set(name: str, spec: int, status: dict[str, Any]) -> ReplicaSet:
    template = nginx().raw["spec"]["template"]
    return ReplicaSet.from_raw(
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"replicas": spec, "selector": {"matchLabels": {"app": "nginx"}}, "template": template},
            "status": status,
        }
    )


def counts(ready: int, total: int | None = None) -> dict[str, Any]:
    return {"replicas": ready if total is None else total, "readyReplicas": ready, "availableReplicas": ready}


def progressing(status: dict[str, Any]) -> dict[str, Any]:
    condition = find_condition(status["conditions"], "Progressing")
    assert condition is not None
    return condition


def rolled(it: Deployment, new: ReplicaSet, *old: ReplicaSet, now: datetime = NOW) -> dict[str, Any]:
    status = progress.next_status(it, new, [new, *old], now)
    return progress.with_progress(it, status, new, [new, *old], now)


def test_the_status_adds_up_the_replica_sets() -> None:
    new, old = replica_set("new", 2, counts(1, 2)), replica_set("old", 3, counts(3))
    status = progress.next_status(deployment(), new, [new, old], NOW)
    del status["conditions"]
    assert status == {
        "observedGeneration": 3,
        "replicas": 5,
        "updatedReplicas": 2,
        "readyReplicas": 4,
        "availableReplicas": 4,
        "unavailableReplicas": 1,
        "terminatingReplicas": 0,
    }


@pytest.mark.parametrize(("available", "reason"), [(3, "MinimumReplicasAvailable"), (2, "MinimumReplicasUnavailable")])
def test_available_means_no_more_are_missing_than_may_be(available: int, reason: str) -> None:
    new = replica_set("new", 4, counts(available, 4))
    status = progress.next_status(deployment(), new, [new], NOW)
    condition = find_condition(status["conditions"], "Available")
    assert condition is not None
    assert condition["reason"] == reason


def test_progress_moves_the_update_time_and_keeps_the_transition_time() -> None:
    it = deployment()
    it.raw["status"] = rolled(it, replica_set("new", 4, counts(1, 4)))
    status = rolled(it, replica_set("new", 4, counts(2, 4)), now=LATER)
    condition = progressing(status)
    assert condition["reason"] == "ReplicaSetUpdated"
    assert condition["lastUpdateTime"] == "2026-01-01T12:00:30Z"
    assert condition["lastTransitionTime"] == "2026-01-01T12:00:00Z"


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ({"updatedReplicas": 1}, {"updatedReplicas": 2}, True),
        ({"replicas": 5, "updatedReplicas": 2}, {"replicas": 4, "updatedReplicas": 2}, True),
        ({"readyReplicas": 1}, {"readyReplicas": 2}, True),
        ({"availableReplicas": 1}, {"availableReplicas": 2}, True),
        ({"availableReplicas": 2}, {"availableReplicas": 1}, False),
        ({"replicas": 4}, {"replicas": 4}, False),
    ],
)
def test_progress(before: dict[str, Any], after: dict[str, Any], moved: bool) -> None:
    assert progress.is_progressing(before, after) is moved


def test_a_finished_rollout_stays_finished_when_pods_fail_later() -> None:
    it = deployment()
    it.raw["status"] = rolled(it, replica_set("new", 4, counts(4)))
    assert progressing(it.raw["status"])["reason"] == "NewReplicaSetAvailable"
    status = rolled(it, replica_set("new", 4, counts(1, 4)), now=NOW + timedelta(hours=1))
    assert progressing(status)["reason"] == "NewReplicaSetAvailable"


def test_a_deadline_counts_from_the_last_progress() -> None:
    it = deployment(progressDeadlineSeconds=60)
    new = replica_set("new", 4, counts(1, 4))
    it.raw["status"] = rolled(it, new)
    for seconds, again in [(0, 61.0), (20, 41.0), (59.5, 0.0)]:
        now = NOW + timedelta(seconds=seconds)
        assert progressing(rolled(it, new, now=now))["reason"] == "ReplicaSetUpdated"
        assert progress.check_again_after(it, it.raw["status"], now) == again
    late = rolled(it, new, now=NOW + timedelta(seconds=61))
    assert progressing(late)["reason"] == "ProgressDeadlineExceeded"
    assert progressing(late)["status"] == "False"
    assert progress.check_again_after(it, late, NOW) is None


def test_without_a_deadline_there_is_no_progressing_condition() -> None:
    it = deployment(progressDeadlineSeconds=progress.NO_DEADLINE)
    it.raw["status"] = {"conditions": [new_condition("Progressing", "True", "ReplicaSetUpdated", "", NOW)]}
    status = rolled(it, replica_set("new", 4, counts(1, 4)))
    assert find_condition(status["conditions"], "Progressing") is None
    assert progress.check_again_after(it, status, NOW) is None


def test_a_failure_of_the_new_replica_set_is_told_first_and_goes_with_it() -> None:
    it = deployment()
    failures = [new_condition("ReplicaFailure", "True", "FailedCreate", text, NOW) for text in ("new", "old")]
    new = replica_set("new", 4, {**counts(1, 4), "conditions": [failures[0]]})
    old = replica_set("old", 4, {**counts(1, 4), "conditions": [failures[1]]})
    status = progress.with_progress(it, progress.next_status(it, new, [old, new], NOW), new, [old, new], NOW)
    found = find_condition(status["conditions"], "ReplicaFailure")
    assert found is not None
    assert found["message"] == "new"
    it.raw["status"] = status
    assert find_condition(rolled(it, replica_set("new", 4, counts(4)))["conditions"], "ReplicaFailure") is None


@pytest.mark.parametrize(
    ("paused", "reason", "expected"),
    [
        (True, "ReplicaSetUpdated", "DeploymentPaused"),
        (True, "DeploymentPaused", None),
        (True, "ProgressDeadlineExceeded", None),
        (False, "DeploymentPaused", "DeploymentResumed"),
        (False, "ReplicaSetUpdated", None),
    ],
)
def test_pausing_and_resuming(paused: bool, reason: str, expected: str | None) -> None:
    it = deployment(status={"conditions": [new_condition("Progressing", "True", reason, "", NOW)]}, paused=paused)
    condition = progress.paused_condition(it, NOW)
    assert (condition["reason"] if condition else None) == expected


def test_a_condition_that_says_the_same_is_no_news() -> None:
    first = new_condition("Ready", "True", "Fine", "", NOW)
    assert set_condition([first], new_condition("Ready", "True", "Fine", "else", LATER)) == [first]
    (other,) = set_condition([first], new_condition("Ready", "True", "Better", "", LATER))
    assert (other["reason"], other["lastTransitionTime"]) == ("Better", first["lastTransitionTime"])
    (turned,) = set_condition([first], new_condition("Ready", "False", "Bad", "", LATER))
    assert turned["lastTransitionTime"] == "2026-01-01T12:00:30Z"
