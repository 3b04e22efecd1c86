"""The rules that need no cluster: the order of judgement, what is let go of, back-off."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controllers.batch.backoff import Backoff, delay
from controllers.batch.pods import FAILURES_ANNOTATION, INDEX_ANNOTATION, TRACKING_FINALIZER, JobPod, decode_pod
from controllers.batch.stock import COUNTED_AT_ONCE, Verdict, count, judge, settle, take_stock
from controllers.batch.types import Job
from informer.cache import Metadata, Stored
from informer.patch import encode
from tests.controllers.batch.jobs import job

NOW = datetime(2026, 1, 1, 1, tzinfo=UTC)


def pod(
    name: str, phase: str, *, index: int | None = None, failures: int = 0, code: int = 1, **metadata: Any
) -> JobPod:
    annotations = {} if index is None else {INDEX_ANNOTATION: str(index), FAILURES_ANNOTATION: str(failures)}
    ended = {"terminated": {"exitCode": 0 if phase == "Succeeded" else code}}
    raw = {
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": name,
            "annotations": annotations,
            "finalizers": [TRACKING_FINALIZER],
            **metadata,
        },
        "status": {"phase": phase, "containerStatuses": [{"name": "work", "state": ended if code >= 0 else {}}]},
    }
    return decode_pod(Stored(f"default/{name}", encode(raw), "1", Metadata()))


def defaulted(status: dict[str, Any] | None = None, **spec: Any) -> Job:
    made = job(**spec)
    made.default()
    made.raw["status"] = status or {}
    return made


def verdict(made: Job, *pods: JobPod) -> str | None:
    found: Verdict | None = judge(made, take_stock(made, pods), pods, NOW)
    return found.reason if found is not None else None


POLICY = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}
LATE = {"startTime": "2026-01-01T00:00:00Z"}
INDEXED: dict[str, Any] = {"completionMode": "Indexed", "completions": 2, "parallelism": 2}
FIRST = {"rules": [{"succeededIndexes": "0"}]}


@pytest.mark.parametrize(
    ("reason", "status", "spec"),
    [
        ("PodFailurePolicy", LATE, {"podFailurePolicy": POLICY, "backoffLimit": 0, "activeDeadlineSeconds": 1}),
        ("BackoffLimitExceeded", LATE, {"backoffLimit": 0, "activeDeadlineSeconds": 1}),
        ("DeadlineExceeded", LATE, {"activeDeadlineSeconds": 1, "backoffLimitPerIndex": 0, "maxFailedIndexes": 0}),
        ("MaxFailedIndexesExceeded", LATE, {"backoffLimitPerIndex": 0, "maxFailedIndexes": 0}),
        ("FailedIndexes", LATE, {"backoffLimitPerIndex": 0, "successPolicy": FIRST}),
        ("SuccessPolicy", LATE, {"successPolicy": FIRST}),
        (None, LATE, {}),
    ],
)
def test_the_order_of_judgement(reason: str | None, status: dict[str, Any], spec: dict[str, Any]) -> None:
    """The first succeeded, the second failed with 42: each reason wins over those after it."""
    pods = pod("a", "Succeeded", index=0), pod("b", "Failed", index=1, code=42)
    assert verdict(defaulted(status, **INDEXED, **spec), *pods) == reason


def test_what_the_status_has_counted_is_not_counted_again() -> None:
    status = {"succeeded": 1, "failed": 2, "uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["b"]}}
    made = defaulted(status, completions=9)
    pods = [pod("a", "Succeeded"), pod("b", "Failed"), pod("c", "Succeeded"), pod("d", "Failed")]
    pods += [pod("e", "Succeeded", finalizers=[]), pod("f", "Failed", finalizers=[])]
    stock = take_stock(made, pods)
    assert (stock.succeeded, stock.failed) == (3, 4)
    assert {each.uid for each in count(made, stock, made.raw["status"])} == {"a", "b", "c", "d"}
    assert made.raw["status"]["uncountedTerminatedPods"] == {"succeeded": ["a", "c"], "failed": ["b", "d"]}
    settle(made.raw["status"], {"c"})
    assert made.raw["status"] == {"succeeded": 2, "failed": 4, "uncountedTerminatedPods": {"succeeded": ["c"]}}


def test_one_that_has_failed_for_the_job_does_not_succeed_after_that() -> None:
    made = defaulted({"uncountedTerminatedPods": {"failed": ["a"]}})
    stock = take_stock(made, [pod("a", "Succeeded")])
    assert (stock.succeeded, stock.failed, stock.new_succeeded) == (0, 1, [])
    assert [each.uid for each in stock.releasable] == ["a"]


def test_a_status_has_so_many_uids_at_the_most() -> None:
    made = defaulted({"uncountedTerminatedPods": {}}, completions=1000)
    pods = [pod(str(number), "Succeeded") for number in range(COUNTED_AT_ONCE + 20)]
    stock = take_stock(made, pods)
    assert stock.succeeded == COUNTED_AT_ONCE + 20
    assert len(count(made, stock, made.raw["status"])) == COUNTED_AT_ONCE
    assert len(made.raw["status"]["uncountedTerminatedPods"]["succeeded"]) == COUNTED_AT_ONCE


def test_the_last_failed_pod_of_an_index_is_kept_until_it_has_a_successor() -> None:
    made = defaulted(**INDEXED, backoffLimitPerIndex=5)
    failed = pod("a", "Failed", index=0)
    stock = take_stock(made, [failed])
    assert (stock.delayed, stock.releasable, stock.failed) == ({0: failed}, [], 1)
    successor = pod("b", "Running", index=0, failures=1, code=-1)
    stock = take_stock(made, [failed, successor])
    assert (stock.delayed, stock.releasable) == ({}, [failed])


def test_a_pod_that_is_being_deleted_has_failed_or_is_waited_for() -> None:
    leaving: dict[str, Any] = {"deletionTimestamp": "2026-01-01T00:59:00Z", "deletionGracePeriodSeconds": 30}
    gone: dict[str, Any] = {**leaving, "deletionGracePeriodSeconds": 0}
    eager, patient = defaulted(), defaulted(podReplacementPolicy="Failed")
    assert take_stock(eager, [pod("a", "Running", code=-1, **leaving)]).failed == 1
    assert take_stock(patient, [pod("a", "Running", code=-1, **leaving)]).failed == 0
    assert take_stock(patient, [pod("a", "Running", code=-1, **gone)]).failed == 1


def test_back_off_doubles_from_the_last_failure_since_the_last_success() -> None:
    assert [delay(failures) for failures in (0, 1, 2, 3, 6, 7, 8, 100)] == [0, 10, 20, 40, 320, 600, 600, 600]
    at = [NOW + timedelta(seconds=each) for each in range(5)]
    twice = Backoff().after([], at[:2])
    assert twice == Backoff(2, at[1])
    assert twice.remaining(at[4]) == 17
    assert twice.remaining(NOW + timedelta(hours=1)) == 0
    assert twice.after([at[2]], [at[3]]) == Backoff(1, at[3])
    assert twice.after([at[3]], [at[2]]) == Backoff()
