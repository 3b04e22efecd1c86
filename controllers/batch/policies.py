"""What a Job's policies make of its pods: which failure means what, and when enough has succeeded."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

import msgspec

from controllers.batch.indexes import parse_indexes
from controllers.batch.pods import JobContainer, JobPod, JobPodCondition
from controllers.batch.types import Job, OnExitCodes, PodFailureRule

Action = Literal["FailJob", "FailIndex", "Ignore", "Count"]


def is_failed(job: Job, pod: JobPod) -> bool:
    """Whether the pod counts as failed, as far as the pod failure policy does not say otherwise.

    A pod that is being deleted has failed unless the Job waits for its end (podReplacementPolicy Failed). One of which
    nobody will ever tell the end has failed at once: in Kubernetes the pod garbage collector sets its phase.
    """
    if pod.finished:
        return pod.phase == "Failed"
    if job.spec.pod_replacement_policy == "Failed":
        return pod.ended_for_good
    return pod.deleting


class Match(msgspec.Struct, frozen=True):
    """What the policy says of a failed pod; `message`: why the Job fails of it."""

    action: Action = "Count"
    message: str = ""


def match_failure(job: Job, pod: JobPod) -> Match:
    """What becomes of the Job by this pod's failure: the first rule that it meets, else it counts."""
    policy = job.spec.pod_failure_policy
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        why = _why(rule, pod)
        if why is not None:
            return Match(rule.action, f"{why} matching {rule.action} rule at index {number}")
    return Match()


def _why(rule: PodFailureRule, pod: JobPod) -> str | None:
    name = f"{pod.metadata.namespace}/{pod.name}"
    if rule.on_exit_codes is not None:
        container = _failed_container(rule.on_exit_codes, pod)
        if container is None or container.terminated is None:
            return None
        return f"Container {container.name} for pod {name} failed with exit code {container.terminated.exit_code}"
    condition = _condition(rule, pod)
    return None if condition is None else f"Pod {name} has condition {condition.type}"


def _failed_container(wanted: OnExitCodes, pod: JobPod) -> JobContainer | None:
    for container in pod.containers:
        ended = container.terminated
        if ended is None or not ended.exit_code or wanted.container_name not in (None, container.name):
            continue
        if (ended.exit_code in wanted.values) == (wanted.operator == "In"):
            return container
    return None


def _condition(rule: PodFailureRule, pod: JobPod) -> JobPodCondition | None:
    for condition in pod.status.conditions or ():
        if any((each.type, each.status) == (condition.type, condition.status) for each in rule.on_pod_conditions):
            return condition
    return None


def match_success(job: Job, succeeded: Set[int]) -> str | None:
    """Why what has succeeded is enough by the Job's success policy, or None."""
    policy, completions = job.spec.success_policy, job.spec.completions or 0
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        wanted: Set[int] = set(range(completions))
        if rule.succeeded_indexes is not None:
            wanted = parse_indexes(rule.succeeded_indexes, completions)
        enough = len(wanted) if rule.succeeded_count is None else rule.succeeded_count
        if len(wanted & succeeded) >= enough:
            return f"Matched rules at index {number}"
    return None
