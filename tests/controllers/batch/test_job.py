"""The Job controller: which pods there are, what counts, and how a Job ends."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
import structlog

from controllers.batch.pods import FAILURES_ANNOTATION, INDEX_ANNOTATION, TRACKING_FINALIZER
from controllers.batch.types import Job
from controllers.core.limits import ResourceQuota
from controllers.core.stages import EXIT_CODE
from controllers.core.types import Event, Pod
from kvstore.api import Client
from tests.controllers.batch.jobs import conditions, end, ended, job, now, running, settled, status
from tests.controllers.cluster import Cluster, cluster, history

pytestmark = pytest.mark.virtual_time

NO_PODS: dict[str, Any] = {"metadata": {"name": "none", "namespace": "default"}, "spec": {"hard": {"pods": "0"}}}

FAST: dict[str, Any] = {"pod_start_delay": 0.1, "pod_ready_delay": 0}


async def told(it: Cluster, reason: str) -> list[str]:
    await settled()
    return [event.message for event in (await it.client.list(Event, "default")).items if event.reason == reason]


async def test_it_ends_when_its_pod_has_succeeded(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(run="5"))
        found = await ended(it)
        assert {key: found[key] for key in ("succeeded", "ready", "terminating", "uncountedTerminatedPods")} == {
            "succeeded": 1,
            "ready": 0,
            "terminating": 0,
            "uncountedTerminatedPods": {},
        }
        assert await conditions(it) == [
            ("SuccessCriteriaMet", "CompletionsReached"),
            ("Complete", "CompletionsReached"),
        ]
        assert found["conditions"][1]["message"] == "Reached expected number of succeeded pods"
        assert (found["startTime"], found["completionTime"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z")
        (pod,) = await it.pods()
        assert pod.name.startswith("work-")
        assert pod.metadata.finalizers == []
        assert pod.raw["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
        assert await told(it, "SuccessfulCreate") == [f"Created pod: {pod.name}"]
        assert await told(it, "Completed") == ["Job completed"]


async def test_never_more_pods_than_parallelism_nor_than_are_missing(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=3, parallelism=2))
        first, second = await running(it, 2)
        assert (await status(it))["active"] == 2
        await end(it, first)
        third = next(pod for pod in await running(it, 2) if pod.name != second.name)
        await end(it, second)
        assert [pod.name for pod in await running(it, 1)] == [third.name]
        await end(it, third)
        assert (await ended(it))["succeeded"] == 3
        assert len(await it.pods()) == 3


async def test_a_work_queue_makes_no_more_pods_once_one_has_succeeded_and_waits_for_the_others(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(parallelism=3))
        first, second, third = await running(it, 3)
        await end(it, first)
        await running(it, 2)
        await end(it, second, 1)
        await settled(30)
        assert [pod.name for pod in await running(it, 1)] == [third.name]
        assert await conditions(it) == []
        await end(it, third)
        found = await ended(it)
        assert (found["succeeded"], found["failed"]) == (2, 1)
        assert found["conditions"][-1]["type"] == "Complete"


async def test_parallelism_can_change_and_what_it_takes_away_is_no_failure(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=4, parallelism=1, podReplacementPolicy="TerminatingOrFailed"))
        await running(it, 1)
        await it.client.patch(Job, "work", {"spec": {"parallelism": 3}}, "default")
        await running(it, 3)
        await it.client.patch(Job, "work", {"spec": {"parallelism": 1}}, "default")
        await running(it, 1)
        await settled()
        found = await status(it)
        assert ("failed" in found, found["active"]) == (False, 1)
        assert len(await told(it, "SuccessfulDelete")) == 2


async def test_failures_are_counted_and_replaced_ever_later(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(backoffLimit=3))
        times = []
        for number in range(4):
            (pod,) = await running(it, 1)
            times.append(now())
            assert (await status(it)).get("failed", 0) == number
            await end(it, pod, 1)
        found = await ended(it)
        waits = [after - before for before, after in pairwise(times)]
        assert [round(each, -1) for each in waits] == [10, 20, 40]
        assert found["failed"] == 4
        assert "completionTime" not in found
        assert await conditions(it) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
        assert await told(it, "BackoffLimitExceeded") == ["Job has reached the specified backoff limit"]


async def test_a_success_ends_the_waiting(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=3, parallelism=2, backoffLimit=9))
        first, second = await running(it, 2)
        await end(it, first, 1)
        await settled(1)
        failed = now()
        await end(it, second)
        await running(it, 2)
        assert now() - failed < 2


async def test_restarts_count_for_pods_that_are_restarted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(run="2", code="3", restart="OnFailure", backoffLimit=2))
        found = await ended(it)
        assert await conditions(it) == [("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")]
        assert found["failed"] == 1
        # 2 s, 10 s of back-off, 2 s, 20 s of back-off.
        assert 33 <= now() <= 40
        assert "BackOff" in {event.reason for event in (await it.client.list(Event, "default")).items}


async def test_a_deadline_ends_it_and_its_pods(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=2, parallelism=2, activeDeadlineSeconds=30))
        await running(it, 2)
        found = await ended(it)
        assert 30 <= now() <= 32
        assert await conditions(it) == [("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")]
        assert (found["failed"], found.get("active")) == (2, None)
        assert await it.pods() == []
        assert await told(it, "DeadlineExceeded") == ["Job was active longer than specified deadline"]


async def test_it_ends_only_after_its_pods(store: Client) -> None:
    async with cluster(store, pod_delete_delay=20.0, **FAST) as it:
        await it.client.create(job(activeDeadlineSeconds=10))
        await running(it, 1)

        async def judged() -> bool:
            return await conditions(it) == [("FailureTarget", "DeadlineExceeded")]

        await it.until(judged)
        await settled(5)
        assert await judged()
        assert (await status(it))["terminating"] == 1
        await ended(it)
        assert 30 <= now() <= 32


async def test_suspending_takes_the_pods_and_resuming_starts_the_clock_anew(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(suspend=True, activeDeadlineSeconds=60))
        await settled()
        assert await it.pods() == []
        assert "startTime" not in await status(it)
        assert await conditions(it) == [("Suspended", "JobSuspended")]
        await it.client.patch(Job, "work", {"spec": {"suspend": False}}, "default")
        await running(it, 1)
        began = (await status(it))["startTime"]
        await settled(50)
        await it.client.patch(Job, "work", {"spec": {"suspend": True}}, "default")
        await running(it, 0)
        await settled(100)
        found = await status(it)
        assert ("active" in found, "failed" in found, await it.pods()) == (False, False, [])
        await it.client.patch(Job, "work", {"spec": {"suspend": False}}, "default")
        (pod,) = await running(it, 1)
        await settled(50)
        assert (await status(it))["startTime"] > began
        assert await conditions(it) == []
        await end(it, pod)
        assert (await ended(it))["conditions"][-1]["type"] == "Complete"
        assert await told(it, "Suspended") == ["Job suspended"]
        assert await told(it, "Resumed") == ["Job resumed"]


# ---- indexes --------------------------------------------------------------------------------------------------------


async def test_an_indexed_job_gives_each_index_its_pod(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=5, parallelism=3, completionMode="Indexed"))
        pods = await running(it, 3)
        for index, pod in enumerate(pods):
            assert pod.name.startswith(f"work-{index}-")
            assert pod.metadata.annotations[INDEX_ANNOTATION] == str(index)
            assert pod.metadata.labels[INDEX_ANNOTATION] == str(index)
            assert pod.spec.hostname == f"work-{index}"
            (variable,) = pod.raw["spec"]["containers"][0]["env"]
            assert variable["name"] == "JOB_COMPLETION_INDEX"
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == f"metadata.labels['{INDEX_ANNOTATION}']"
        await end(it, pods[1])
        pods = await running(it, 3)
        assert (await status(it))["completedIndexes"] == "1"
        assert [pod.metadata.annotations[INDEX_ANNOTATION] for pod in pods] == ["0", "2", "3"]
        # The lowest index that has no pod is the next, a failed one's its own.
        await end(it, pods[0], 1)
        pods = await running(it, 3)
        assert [pod.metadata.annotations[INDEX_ANNOTATION] for pod in pods] == ["0", "2", "3"]
        for pod in pods:
            await end(it, pod)
        (last,) = await running(it, 1)
        assert (await status(it))["completedIndexes"] == "0-3"
        await end(it, last)
        found = await ended(it)
        assert (found["succeeded"], found["failed"], found["completedIndexes"]) == (5, 1, "0-4")


async def test_an_index_with_two_pods_loses_one_and_succeeds_once(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=2, parallelism=2, completionMode="Indexed"))
        first, second = await running(it, 2)
        twin = Pod.from_raw({**first.raw, "metadata": {**first.raw["metadata"], "name": "twin"}})
        del twin.raw["metadata"]["resourceVersion"]
        del twin.raw["spec"]["nodeName"]
        await it.client.create(twin)
        await settled()
        assert {pod.name for pod in await running(it, 2)} == {first.name, second.name}
        for pod in (first, second):
            await end(it, pod)
        assert (await ended(it))["succeeded"] == 2


async def test_each_index_has_its_own_limit(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=3, parallelism=3, completionMode="Indexed", backoffLimitPerIndex=1))
        first, second, third = await running(it, 3)
        assert (await it.client.get(Job, "work", "default")).spec.backoff_limit == 2**31 - 1
        began = now()
        await end(it, second, 1)
        await end(it, third)
        first, again = await running(it, 2)
        assert 9 <= now() - began <= 12
        assert again.metadata.annotations[FAILURES_ANNOTATION] == "1"
        await end(it, again, 1)

        async def failed() -> bool:
            return (await status(it)).get("failedIndexes") == "1"

        await it.until(failed)
        assert await conditions(it) == []
        await end(it, first)
        found = await ended(it)
        assert (found["completedIndexes"], found["failedIndexes"], found["failed"]) == ("0,2", "1", 2)
        assert await conditions(it) == [("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]


async def test_too_many_failed_indexes_end_it(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        spec: dict[str, Any] = {"completions": 4, "parallelism": 4, "completionMode": "Indexed"}
        await it.client.create(job(backoffLimitPerIndex=0, maxFailedIndexes=1, **spec))
        pods = await running(it, 4)
        await end(it, pods[0], 1)
        await running(it, 3)
        await end(it, pods[2], 1)
        found = await ended(it)
        assert await conditions(it) == [
            ("FailureTarget", "MaxFailedIndexesExceeded"),
            ("Failed", "MaxFailedIndexesExceeded"),
        ]
        assert found["failedIndexes"] == "0,2"


@pytest.mark.parametrize(
    ("rule", "enough"),
    [
        ({"succeededCount": 2}, (1, 3)),
        ({"succeededIndexes": "0,2-3"}, (0, 2, 3)),
        ({"succeededIndexes": "1-3", "succeededCount": 1}, (2,)),
    ],
)
async def test_a_success_policy_ends_it_early(store: Client, rule: dict[str, Any], enough: tuple[int, ...]) -> None:
    async with cluster(store, **FAST) as it:
        policy = {"rules": [rule]}
        await it.client.create(job(completions=4, parallelism=4, completionMode="Indexed", successPolicy=policy))
        pods = await running(it, 4)
        for index in enough[:-1]:
            await end(it, pods[index])
        await settled()
        assert await conditions(it) == []
        await end(it, pods[enough[-1]])
        found = await ended(it)
        assert await conditions(it) == [("SuccessCriteriaMet", "SuccessPolicy"), ("Complete", "SuccessPolicy")]
        assert found["conditions"][-1]["message"] == "Matched rules at index 0"
        assert found["succeeded"] == len(enough)
        assert "failed" not in found
        assert len(await it.pods()) == len(enough)


async def test_completions_of_an_indexed_job_can_change_with_its_parallelism(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=2, parallelism=2, completionMode="Indexed"))
        await running(it, 2)
        await it.client.patch(Job, "work", {"spec": {"completions": 3, "parallelism": 3}}, "default")
        pods = await running(it, 3)
        await it.client.patch(Job, "work", {"spec": {"completions": 1, "parallelism": 1}}, "default")
        assert [pod.name for pod in await running(it, 1)] == [pods[0].name]
        await end(it, pods[0])
        assert (await ended(it))["completedIndexes"] == "0"


# ---- what a failure means -------------------------------------------------------------------------------------------


def codes(action: str, *values: int, operator: str = "In") -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"operator": operator, "values": list(values)}}


async def test_a_failure_policy_ignores_counts_and_ends(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        policy = {"rules": [codes("Ignore", 7), codes("FailJob", 42), codes("Count", 5, operator="NotIn")]}
        await it.client.create(job(backoffLimit=1, podFailurePolicy=policy))
        (pod,) = await running(it, 1)
        assert (await it.client.get(Job, "work", "default")).spec.pod_replacement_policy == "Failed"
        for _ in range(3):
            await end(it, pod, 7)
            (pod,) = await running(it, 1)
        assert "failed" not in await status(it)
        await end(it, pod, 1)
        (pod,) = await running(it, 1)
        assert (await status(it))["failed"] == 1
        await end(it, pod, 42)
        found = await ended(it)
        assert await conditions(it) == [("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]
        assert found["conditions"][-1]["message"] == (
            f"Container work for pod default/{pod.name} failed with exit code 42 matching FailJob rule at index 1"
        )


async def test_a_failure_policy_goes_by_conditions_too(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        await it.client.create(job(backoffLimit=0, podFailurePolicy={"rules": [rule]}))
        (pod,) = await running(it, 1)
        seen = await it.client.get(Pod, pod.name, "default")
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        told = [*seen.raw["status"]["conditions"], disrupted]
        await it.client.patch(Pod, pod.name, {"status": {"conditions": told}}, "default", subresource="status")
        await end(it, pod, 1)
        (pod,) = await running(it, 1)
        assert "failed" not in await status(it)
        await end(it, pod)
        assert (await ended(it))["succeeded"] == 1


async def test_a_failure_policy_can_end_an_index(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        policy = {"rules": [codes("FailIndex", 42)]}
        spec: dict[str, Any] = {
            "completions": 2,
            "parallelism": 2,
            "completionMode": "Indexed",
            "backoffLimitPerIndex": 3,
        }
        await it.client.create(job(podFailurePolicy=policy, **spec))
        first, second = await running(it, 2)
        await end(it, first, 42)
        await running(it, 1)
        await end(it, second)
        found = await ended(it)
        assert (found["failedIndexes"], found["completedIndexes"]) == ("0", "1")


@pytest.mark.parametrize(("policy", "at_once"), [("TerminatingOrFailed", True), ("Failed", False)])
async def test_a_pod_that_is_being_deleted_is_replaced_at_once_or_after_its_end(
    store: Client, policy: str, at_once: bool
) -> None:
    async with cluster(store, pod_delete_delay=60.0, **FAST) as it:
        slow = job(podReplacementPolicy=policy)
        slow.raw["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60
        await it.client.create(slow)
        (pod,) = await running(it, 1)
        await it.client.delete(Pod, pod.name, "default")
        began = now()
        await running(it, 0)
        await settled(30)
        assert (await status(it))["terminating"] == 1
        await running(it, 1)
        assert (now() - began < 45) == at_once
        assert (await status(it))["failed"] == 1


# ---- counting, owners and ends --------------------------------------------------------------------------------------


async def test_pods_are_told_apart_from_uncounted_to_counted_and_the_finalizer_goes_in_between(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(run="1"))
        await ended(it)
        steps: list[tuple[bool, bool, int]] = []
        for revision in await history(store):
            found = next(revision.of(Job), None)
            pod = next(revision.of(Pod), None)
            if found is None or pod is None:
                continue
            uncounted = found.get("status", {}).get("uncountedTerminatedPods", {}).get("succeeded", [])
            finalizer = TRACKING_FINALIZER in pod["metadata"].get("finalizers", ())
            step = (bool(uncounted), finalizer, found.get("status", {}).get("succeeded", 0))
            if not steps or steps[-1] != step:
                steps.append(step)
        assert steps == [(False, True, 0), (True, True, 0), (True, False, 0), (False, False, 1)]


async def test_pods_lose_the_finalizer_when_their_job_is_deleted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(parallelism=2, completions=2))
        await running(it, 2)
        await it.client.delete(Job, "work", "default")

        async def gone() -> bool:
            return not await it.pods()

        await it.until(gone)


@pytest.mark.parametrize("propagation", ["foreground", "orphan"])
async def test_deleting_it_in_the_foreground_and_leaving_its_pods(store: Client, propagation: Any) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job())
        await running(it, 1)
        await it.client.delete(Job, "work", "default", propagation=propagation)

        async def gone() -> bool:
            return not await it.exists(Job, "work")

        await it.until(gone)
        await settled()
        left = await it.pods()
        assert [pod.metadata.finalizers for pod in left] == ([[]] if propagation == "orphan" else [])


async def test_a_manual_selector_adopts_and_counts_what_it_adopts(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        model = job(manualSelector=True, selector={"matchLabels": {"batch": "mine"}})
        model.raw["spec"]["template"]["metadata"]["labels"] = {"batch": "mine"}
        spec = model.raw["spec"]["template"]["spec"]
        orphan = Pod.from_raw({"metadata": {"name": "orphan", "labels": {"batch": "mine"}}, "spec": spec})
        orphan.metadata.annotations = dict(model.raw["spec"]["template"]["metadata"]["annotations"])
        await it.client.create(orphan)
        await it.client.create(model)
        (pod,) = await running(it, 1)
        await settled()
        pod = await it.client.get(Pod, "orphan", "default")
        assert (pod.metadata.finalizers, len(await it.pods())) == ([TRACKING_FINALIZER], 1)
        await end(it, pod)
        assert (await ended(it))["succeeded"] == 1


async def test_a_job_of_another_controller_is_left_alone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(managedBy="example.com/queue"))
        await settled(30)
        assert await it.pods() == []
        assert await status(it) == {}


async def test_it_goes_after_its_time_with_its_pods(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(run="1", ttlSecondsAfterFinished=60))
        await ended(it)
        over = now()

        async def gone() -> bool:
            return not await it.exists(Job, "work")

        await settled(30)
        assert await it.exists(Job, "work")
        await it.until(gone)
        assert 58 <= now() - over <= 63
        assert await it.pods() == []


async def test_nothing_is_written_once_it_has_ended(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(run="1", completions=2))
        await ended(it)
        await settled()
        before = (await it.client.get(Job, "work", "default")).metadata.resource_version
        await settled(600)
        assert (await it.client.get(Job, "work", "default")).metadata.resource_version == before


async def test_zero_completions_are_reached_at_once(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(job(completions=0))
        found = await ended(it)
        assert found["conditions"][-1]["type"] == "Complete"
        assert await it.pods() == []


async def test_exit_codes_come_from_commands(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        model = job(backoffLimit=0)
        model.raw["spec"]["template"]["metadata"]["annotations"] = {}
        model.raw["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "sleep 7; exit 3"]
        await it.client.create(model)
        await ended(it)
        (pod,) = await it.pods()
        state = pod.raw["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"], pod.raw["status"]["phase"]) == (3, "Error", "Failed")
        assert 7 <= now() <= 9
        assert EXIT_CODE not in pod.metadata.annotations


async def test_a_job_that_a_quota_refuses_looks_again_within_a_minute(store: Client) -> None:
    # Each refusal is told with a traceback, which takes longer to draw than all the rest.
    with structlog.testing.capture_logs():
        async with cluster(store) as it:
            quota = await it.client.create(ResourceQuota.from_raw(NO_PODS))
            await it.client.create(job(run="1"))
            await asyncio.sleep(1500)  # without a bound the next attempt would be in some ten minutes
            assert await it.pods() == []
            await it.client.delete(ResourceQuota, quota.name, "default")
            await ended(it, patience=70)
