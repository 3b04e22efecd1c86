"""Taking stock of a Job: what its pods have come to, what that means for it, and which of them may be let go.

Exact counting, as kube-controller-manager's: a pod bears a finalizer until its end is counted. Its uid goes into the
status first, then the finalizer comes off, then the uid becomes part of a number. Whatever is lost in between, the
status says whether a pod that still has its finalizer was counted, and one without it is never looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from controllers.batch.indexes import format_indexes, parse_indexes
from controllers.batch.pods import JobPod
from controllers.batch.policies import is_failed, match_failure, match_success
from controllers.batch.types import Job

COUNTED_AT_ONCE = 500  # kube-controller-manager's: uids that a status has at the most

FAILURE_TARGET: Final = "FailureTarget"
SUCCESS_CRITERIA_MET: Final = "SuccessCriteriaMet"
FAILED, COMPLETE, SUSPENDED = "Failed", "Complete", "Suspended"

Raw = dict[str, Any]


class Verdict(msgspec.Struct, frozen=True):
    """What will become of the Job, as the condition says that goes before Failed or Complete."""

    kind: Literal["FailureTarget", "SuccessCriteriaMet"]
    reason: str
    message: str

    @property
    def final(self) -> str:
        """The condition that the Job ends with."""
        return FAILED if self.kind == FAILURE_TARGET else COMPLETE


COMPLETIONS_REACHED = Verdict(SUCCESS_CRITERIA_MET, "CompletionsReached", "Reached expected number of succeeded pods")


def is_finished(raw: Raw) -> bool:
    """Whether a Job has ended, by its JSON."""
    return final_condition(raw) is not None


def final_condition(raw: Raw) -> Raw | None:
    """The condition that a Job has ended with."""
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] in (COMPLETE, FAILED) and each["status"] == "True"), None)


class Stock(msgspec.Struct):
    """active: pods that run or will. terminating: pods being deleted that have not ended. new_succeeded, new_failed:
    ended, with the finalizer, not yet in the status; failures that a policy ignores are not in `new_failed`.
    succeeded, failed: what the status will say once all is counted. succeeded_indexes, failed_indexes: of an Indexed
    Job, the latter with a limit for each index. delayed: index -> the failed pod that is kept until it has a
    successor. releasable: pods of which nothing is to be learnt any more.
    """

    active: list[JobPod]
    terminating: int
    new_succeeded: list[JobPod]
    new_failed: list[JobPod]
    succeeded: int
    failed: int
    succeeded_indexes: set[int]
    failed_indexes: set[int]
    delayed: dict[int, JobPod]
    releasable: list[JobPod]


def take_stock(job: Job, pods: Sequence[JobPod]) -> Stock:
    """What the pods in sight come to. O(pods + completions)."""
    raw: Raw = job.raw.get("status") or {}
    uncounted: Raw = raw.get("uncountedTerminatedPods") or {}
    counted_succeeded, counted_failed = set(uncounted.get("succeeded") or ()), set(uncounted.get("failed") or ())
    completions, indexed = job.spec.completions or 0, job.spec.completion_mode == "Indexed"
    stock = Stock(
        active=[pod for pod in pods if pod.active],
        terminating=sum(pod.deleting and not pod.finished for pod in pods),
        new_succeeded=[],
        new_failed=[],
        succeeded=0,
        failed=0,
        succeeded_indexes=parse_indexes(raw.get("completedIndexes") or "", completions) if indexed else set(),
        failed_indexes=parse_indexes(raw.get("failedIndexes") or "", completions) if indexed else set(),
        delayed={},
        releasable=[],
    )
    failed: list[JobPod] = []
    for pod in pods:
        if not pod.tracked:
            continue
        counts = not indexed or (pod.index is not None and pod.index < completions)
        if pod.phase == "Succeeded" and pod.uid not in counted_failed:
            stock.releasable.append(pod)
            if counts and pod.uid not in counted_succeeded:
                stock.new_succeeded.append(pod)
        elif pod.uid in counted_failed:
            stock.releasable.append(pod)
        elif is_failed(job, pod):
            failed.append(pod)
            if counts and match_failure(job, pod).action != "Ignore":
                stock.new_failed.append(pod)
    if indexed:
        stock.succeeded_indexes.update(pod.index for pod in stock.new_succeeded if pod.index is not None)
        stock.succeeded = len(stock.succeeded_indexes)
    else:
        stock.succeeded = (raw.get("succeeded") or 0) + len(counted_succeeded) + len(stock.new_succeeded)
    stock.failed = (raw.get("failed") or 0) + len(counted_failed) + len(stock.new_failed)
    if job.spec.backoff_limit_per_index is not None:
        _by_index(job, stock, pods, failed)
    kept = {pod.uid for pod in stock.delayed.values()}
    stock.releasable += [pod for pod in failed if pod.uid not in kept]
    return stock


def _by_index(job: Job, stock: Stock, pods: Sequence[JobPod], failed: Sequence[JobPod]) -> None:
    completions, limit = job.spec.completions or 0, job.spec.backoff_limit_per_index or 0
    for pod in failed:
        action = match_failure(job, pod).action
        if pod.index is None or pod.index >= completions or pod.index in stock.succeeded_indexes:
            continue
        if action == "FailIndex" or (action != "Ignore" and pod.failures >= limit):
            stock.failed_indexes.add(pod.index)
    # The last pod of an index tells how often it has failed, so it stays until its successor does.
    newest: dict[int, int] = {}
    for pod in pods:
        if pod.index is not None:
            newest[pod.index] = max(newest.get(pod.index, -1), pod.failures_in_all)
    for pod in failed:
        if pod.index is None or pod.index >= completions or pod.failures_in_all < newest[pod.index]:
            continue
        if pod.index not in stock.succeeded_indexes and pod.index not in stock.failed_indexes:
            stock.delayed[pod.index] = pod


def given_verdict(job: Job) -> Verdict | None:
    """What was judged before: it stays."""
    for condition in (job.raw.get("status") or {}).get("conditions") or ():
        if condition["status"] == "True" and condition["type"] in (FAILURE_TARGET, SUCCESS_CRITERIA_MET):
            return Verdict(condition["type"], condition.get("reason", ""), condition.get("message", ""))
    return None


def judge(job: Job, stock: Stock, pods: Sequence[JobPod], now: datetime) -> Verdict | None:
    """Whether the Job ends before all has succeeded; the first of kube-controller-manager's reasons that applies."""
    for pod in pods if job.spec.pod_failure_policy is not None else ():
        if pod.phase != "Succeeded" and is_failed(job, pod):
            match = match_failure(job, pod)
            if match.action == "FailJob":
                return Verdict(FAILURE_TARGET, "PodFailurePolicy", match.message)
    if stock.failed > job.spec.backoff_limit or _restarted_too_often(job, stock.active):
        return Verdict(FAILURE_TARGET, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if (left := deadline(job, now)) is not None and left <= 0:
        return Verdict(FAILURE_TARGET, "DeadlineExceeded", "Job was active longer than specified deadline")
    if job.spec.backoff_limit_per_index is not None:
        failed, most = len(stock.failed_indexes), job.spec.max_failed_indexes
        if most is not None and failed > most:
            message = "Job has exceeded the specified maximal number of failed indexes"
            return Verdict(FAILURE_TARGET, "MaxFailedIndexesExceeded", message)
        if failed and failed + len(stock.succeeded_indexes) >= (job.spec.completions or 0):
            return Verdict(FAILURE_TARGET, "FailedIndexes", "Job has failed indexes")
    enough = match_success(job, stock.succeeded_indexes)
    return Verdict(SUCCESS_CRITERIA_MET, "SuccessPolicy", enough) if enough is not None else None


def _restarted_too_often(job: Job, active: Sequence[JobPod]) -> bool:
    if job.raw["spec"]["template"]["spec"].get("restartPolicy") != "OnFailure":
        return False
    running = [pod for pod in active if pod.phase in ("Running", "Pending")]
    restarts = sum(container.restart_count for pod in running for container in pod.containers)
    return restarts > 0 if not job.spec.backoff_limit else restarts >= job.spec.backoff_limit


def deadline(job: Job, now: datetime) -> float | None:
    """Seconds that the Job may still be active; None if it may be for ever, or is not now."""
    allowed, start = job.spec.active_deadline_seconds, job.status.start_time
    if allowed is None or start is None or job.spec.suspend or _was_suspended(job):
        return None
    return (start + timedelta(seconds=allowed) - now).total_seconds()


def _was_suspended(job: Job) -> bool:
    """Whether it has yet to be told that the Job is resumed: its time starts anew with that."""
    return any(each.type == SUSPENDED and each.status == "True" for each in job.status.conditions)


def wanted_active(job: Job, stock: Stock) -> int:
    """How many pods should run."""
    if job.spec.suspend:
        return 0
    if job.spec.completions is None:
        # Which pods are the work is not known: once one has succeeded the others come to their end by themselves.
        return len(stock.active) if stock.succeeded else job.spec.parallelism
    return max(0, min(job.spec.completions - stock.succeeded, job.spec.parallelism))


def surplus(job: Job, stock: Stock) -> list[JobPod]:
    """Active pods of an Indexed Job that are of no use: of an index that has ended, that there is not, or that another
    one works on, which is ready or older."""
    if job.spec.completion_mode != "Indexed":
        return []
    ended, taken = stock.succeeded_indexes | stock.failed_indexes, set[int]()
    found = []
    for pod in sorted(
        stock.active, key=lambda each: (not each.tracked, not each.ready, each.failures_in_all, each.name)
    ):
        index = pod.index
        if index is None or index >= (job.spec.completions or 0) or index in ended or index in taken:
            found.append(pod)
        else:
            taken.add(index)
    return found


def pending_indexes(job: Job, stock: Stock, pods: Sequence[JobPod], count: int) -> list[int]:
    """The lowest indexes that have neither ended nor a pod, at most `count`."""
    taken = stock.succeeded_indexes | stock.failed_indexes
    waits = job.spec.pod_replacement_policy == "Failed"
    for pod in pods:
        working = pod.active or (waits and pod.deleting and not is_failed(job, pod))
        if working and pod.index is not None:
            taken.add(pod.index)
    found: list[int] = []
    for index in range(job.spec.completions or 0):
        if len(found) >= count:
            break
        if index not in taken:
            found.append(index)
    return found


def count(job: Job, stock: Stock, status: Raw) -> list[JobPod]:
    """Put what has ended into the status, up to a bound; the pods that may lose their finalizers once it is stored."""
    uncounted = status["uncountedTerminatedPods"]
    succeeded, failed = {pod.uid for pod in stock.new_succeeded}, {pod.uid for pod in stock.new_failed}
    indexed = job.spec.completion_mode == "Indexed"
    free = COUNTED_AT_ONCE - sum(map(len, uncounted.values()))
    released: list[JobPod] = []
    done: set[int] = set()
    for pod in stock.releasable:
        new = pod.uid in succeeded or pod.uid in failed
        if new and free <= 0:
            continue
        released.append(pod)
        free -= new
        if pod.uid in failed:
            uncounted.setdefault("failed", []).append(pod.uid)
        elif pod.uid in succeeded and not indexed:
            uncounted.setdefault("succeeded", []).append(pod.uid)
        elif pod.uid in succeeded and pod.index is not None:
            done.add(pod.index)
    if indexed:
        completed = parse_indexes(status.get("completedIndexes") or "", job.spec.completions or 0) | done
        status["completedIndexes"], status["succeeded"] = format_indexes(completed), len(completed)
        if job.spec.backoff_limit_per_index is not None:
            status["failedIndexes"] = format_indexes(stock.failed_indexes)
    return released


def settle(status: Raw, waiting: set[str]) -> None:
    """Turn the uids of pods that have lost their finalizers into numbers. waiting: the uids of those that have not."""
    uncounted = status["uncountedTerminatedPods"]
    for field in ("succeeded", "failed"):
        uids = uncounted.pop(field, None) or []
        left = [uid for uid in uids if uid in waiting]
        if left:
            uncounted[field] = left
        if len(uids) > len(left):
            status[field] = (status.get(field) or 0) + len(uids) - len(left)
