"""What a StatefulSet's pods need next, case by case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.apps.statefulset.plan import Wish, make_plan
from controllers.apps.statefulset.pods import StatefulPod, decode_pod
from controllers.apps.statefulset.status import next_status
from informer import patch
from informer.cache import Metadata, Stored
from tests.controllers.apps.statefulsets import web

NOW = datetime(2026, 1, 1, tzinfo=UTC)

# Small letters are of the current revision, capital ones of the update's.
STATES: dict[str, dict[str, Any]] = {
    "r": {"phase": "Running", "ready": True},
    "y": {"phase": "Running", "ready": True, "since": 3},  # ready, for three seconds
    "u": {"phase": "Running"},
    "p": {"phase": "Pending"},
    "f": {"phase": "Failed"},
    "s": {"phase": "Succeeded"},
    "g": {"phase": "Failed", "deleting": True},
    "t": {"phase": "Running", "ready": True, "deleting": True},
    "x": {"phase": "Running", "deleting": True},
}


def pod(text: str) -> StatefulPod:
    """`3R` is web-3: ready, of the update's revision."""
    ordinal, letter = text[:-1], text[-1]
    state = STATES[letter.lower()]
    metadata: dict[str, Any] = {
        "name": f"web-{ordinal}",
        "uid": f"uid-{ordinal}",
        "labels": {"controller-revision-hash": "new" if letter.isupper() else "old"},
    }
    if state.get("deleting"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    since = (NOW - timedelta(seconds=state.get("since", 3600))).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True" if state.get("ready") else "False", "lastTransitionTime": since}
    raw = {"metadata": metadata, "status": {"phase": state["phase"], "conditions": [ready]}}
    return decode_pod(Stored(f"default/web-{ordinal}", patch.encode(raw), "1", Metadata()))


def steps(wish: dict[str, Any], pods: str, stale: tuple[int, ...] = ()) -> str:
    full = Wish(**{"replicas": 3, "current": "old", "update": "new", **wish})
    plan = make_plan(full, [pod(text) for text in pods.split()], stale.__contains__, NOW)
    found = [f"create {ordinal}" for ordinal in plan.create]
    for verb, chosen in (("restart", plan.restart), ("remove", plan.remove), ("replace", plan.replace)):
        found += [f"{verb} {each.ordinal}" for each in chosen]
    return ", ".join(found)


PARALLEL = {"parallel": True}
ON_DELETE = {"updateStrategy": {"type": "OnDelete"}}


@pytest.mark.parametrize(
    ("wish", "pods", "expected"),
    [
        # OrderedReady: up, one at a time, each after those before it serve.
        ({}, "", "create 0"),
        ({}, "0P", ""),
        ({}, "0U", ""),
        ({}, "0R", "create 1"),
        ({}, "0R 2R", "create 1"),
        ({}, "0U 2R", ""),
        ({}, "0T 1R", ""),
        ({}, "0R 1R 2R", ""),
        ({"replicas": 0}, "", ""),
        ({"min_ready_seconds": 10}, "0Y", ""),
        ({"min_ready_seconds": 3}, "0Y", "create 1"),
        # Pods that have ended are made anew, once they are gone.
        ({}, "0F 1R", "restart 0"),
        ({}, "0R 1S 2R", "restart 1"),
        ({}, "0G 1R", ""),
        # Ordinals may begin elsewhere.
        ({"start": 5}, "", "create 5"),
        ({"start": 5}, "5R 6R", "create 7"),
        ({"start": 1}, "0R 1R 2R 3R", "remove 0"),
        ({"start": 1, "replicas": 2}, "0R 1R 2R 3R", "remove 3"),
        # Down: the highest first, one at a time, once all others serve.
        ({"replicas": 1}, "0R 1R 2R", "remove 2"),
        ({"replicas": 1}, "0R 1R 2T", ""),
        ({"replicas": 1}, "0U 1R 2R", ""),
        ({"replicas": 1}, "1R 2R", "create 0"),
        ({"replicas": 1}, "0R 1U 2R", "remove 2"),
        ({"replicas": 1}, "0R 1R 2U", "remove 2"),
        ({"replicas": 1}, "0R 1U 2U", ""),
        ({"replicas": 1}, "0R 1X 2U", ""),
        ({"replicas": 0}, "0F", "remove 0"),
        ({"replicas": 1, "min_ready_seconds": 10}, "0R 1R 2Y", ""),
        # Rolling update: the highest first, each after the one before it serves again.
        ({}, "0r 1r 2r", "replace 2"),
        ({}, "0r 1r 2t", ""),
        ({}, "0r 1r", "create 2"),
        ({}, "0r 1r 2U", ""),
        ({}, "0r 1r 2R", "replace 1"),
        ({"min_ready_seconds": 10}, "0r 1r 2Y", ""),
        ({}, "0r 1u 2r", ""),
        # Scaling goes first.
        ({"replicas": 2}, "0r 1r 2r", "remove 2"),
        ({"replicas": 4}, "0r 1r 2r", "create 3"),
        # Partition, counted from the first ordinal.
        ({"partition": 2}, "0r 1r 2R", ""),
        ({"partition": 2}, "0r 1r 2r", "replace 2"),
        ({"partition": 5}, "0r 1r 2r", ""),
        ({"partition": 2, "start": 5}, "5r 6r 7r", "replace 7"),
        ({"partition": 2, "start": 5}, "5r 6r 7R", ""),
        # OnDelete.
        ({"on_delete": True}, "0r 1r 2r", ""),
        # A pod of a broken revision is waited for for ever, whatever the template says by now.
        ({}, "0r 1r 2u", ""),
        # So many at once.
        ({"max_unavailable": 2}, "0r 1r 2r", "replace 2, replace 1"),
        ({"max_unavailable": "50%", "replicas": 4}, "0r 1r 2r 3r", "replace 3, replace 2"),
        ({"max_unavailable": "10%"}, "0r 1r 2r", "replace 2"),
        ({"max_unavailable": 9, "partition": 1}, "0r 1r 2r", "replace 2, replace 1"),
        ({"max_unavailable": 2}, "0r 1r 2T", ""),
        # Parallel: all at once.
        (PARALLEL, "", "create 0, create 1, create 2"),
        (PARALLEL, "1U", "create 0, create 2"),
        (PARALLEL, "0F 1T 2R", "restart 0"),
        ({**PARALLEL, "replicas": 1}, "0U 1R 2U 3T", "remove 2, remove 1"),
        (PARALLEL, "0r 1r 2r", "replace 2"),
        (PARALLEL, "0r 1r 2U", ""),
        (PARALLEL, "0r 1u 2R", "replace 1"),
        (PARALLEL, "0r 1r", "create 2"),
        ({**PARALLEL, "max_unavailable": 2}, "0r 1r 2r", "replace 2, replace 1"),
        ({**PARALLEL, "max_unavailable": 2}, "0r 1r 2U", "replace 1"),
        ({**PARALLEL, "max_unavailable": 1}, "0r 1r 2U", ""),
        ({**PARALLEL, "max_unavailable": 1}, "0u 1r 2r", "replace 0"),
        ({**PARALLEL, "max_unavailable": 2, "partition": 1}, "0u 1r 2u", "replace 2"),
    ],
)
def test_what_comes_next(wish: dict[str, Any], pods: str, expected: str) -> None:
    assert steps(wish, pods) == expected


def test_a_claim_that_is_about_to_go_is_waited_for() -> None:
    assert steps({}, "0R", stale=(1,)) == ""
    assert steps(PARALLEL, "", stale=(1,)) == "create 0, create 2"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, "new new new"),
        ({"partition": 2}, "old old new"),
        ({"partition": 1, "start": 4}, "old new new"),
        ({"on_delete": True, "partition": 2}, "new new new"),
    ],
)
def test_a_missing_pod_is_made_of_the_current_revision_below_the_partition(wish: Any, expected: str) -> None:
    full = Wish(**{"replicas": 3, "current": "old", "update": "new", **wish})
    assert " ".join(full.revision_for(ordinal) for ordinal in full.ordinals) == expected


def test_pods_that_wait_get_their_claims_and_those_that_serve_are_put_right() -> None:
    def tended(wish: dict[str, Any], pods: str) -> tuple[list[int], list[int]]:
        full = Wish(**{"replicas": 3, "current": "old", "update": "new", **wish})
        plan = make_plan(full, [pod(text) for text in pods.split()], lambda ordinal: False, NOW)
        return [each.ordinal for each in plan.pending], [each.ordinal for each in plan.repair]

    assert tended({}, "0R 1P 2R") == ([1], [0])
    assert tended({}, "0R 1U 2R") == ([], [0])
    assert tended(PARALLEL, "0R 1P 2U") == ([1], [0, 2])


@pytest.mark.parametrize(
    ("spec", "pods", "counts", "current"),
    [
        ({}, "0R 1R 2R", "3 ready, 3 available, 3 current, 3 updated of 3", "new"),
        ({}, "0r 1R 2R", "3 ready, 3 available, 1 current, 2 updated of 3", "old"),
        ({}, "0R 1R 2U", "2 ready, 2 available, 0 current, 3 updated of 3", "old"),
        ({}, "0R 1R 2R 3r", "4 ready, 4 available, 1 current, 3 updated of 4", "old"),
        ({}, "0r 1r 2T", "3 ready, 3 available, 2 current, 0 updated of 3", "old"),
        ({"minReadySeconds": 10}, "0R 1R 2Y", "3 ready, 2 available, 3 current, 3 updated of 3", "new"),
        (
            {"updateStrategy": {"type": "OnDelete"}},
            "0R 1R 2R",
            "3 ready, 3 available, 0 current, 3 updated of 3",
            "old",
        ),
        ({}, "", "0 ready, 0 available, 0 current, 0 updated of 0", "old"),
    ],
)
def test_status(spec: dict[str, Any], pods: str, counts: str, current: str) -> None:
    sts = web(**spec)
    sts.default()
    found = [pod(text) for text in pods.split()]
    status, after = next_status(sts, found, current="old", update="new", collisions=0, deleted=(), now=NOW)
    fields = ("ready", "available", "current", "updated")
    shown = ", ".join(f"{status.get(f'{field}Replicas', 0)} {field}" for field in fields)
    assert f"{shown} of {status['replicas']}" == counts
    assert (status["currentRevision"], status["updateRevision"], status["collisionCount"]) == (current, "new", 0)
    assert after == (7 if "Y" in pods else None)


def test_a_pod_whose_deletion_was_asked_for_is_of_no_revision_any_more() -> None:
    sts = web()
    sts.default()
    found = [pod("0r"), pod("1r")]
    status, _ = next_status(sts, found, current="old", update="new", collisions=0, deleted=["uid-1"], now=NOW)
    assert (status["replicas"], status["currentReplicas"]) == (2, 1)
