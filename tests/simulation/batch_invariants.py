"""What must hold of Jobs and CronJobs at every revision of a history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from controllers.batch.indexes import parse_indexes
from controllers.batch.pods import INDEX_ANNOTATION, TRACKING_FINALIZER
from controllers.batch.stock import final_condition
from controllers.batch.types import CronJob, Job
from controllers.core.types import Pod
from tests.controllers.cluster import Revision
from tests.simulation.invariants import by_controller, controller, is_active, is_ready

Raw = dict[str, Any]

# Seconds until every controller knows what is wished: watches are up to 3 s late, and a write that was on its way
# takes up to 2 s; with a leader that does not know yet that it has lost its office.
LATE = 6.0


def check_counts(history: Sequence[Revision]) -> None:
    """No pod is counted twice, none as what it was not, and no number ever falls."""
    counted: dict[str, dict[str, set[str]]] = defaultdict(lambda: {"succeeded": set(), "failed": set()})
    settled: dict[str, set[str]] = defaultdict(set)
    before: dict[str, Raw] = {}
    for revision in history:
        phases = {pod["metadata"]["uid"]: pod["status"]["phase"] for pod in revision.of(Pod)}
        for job in revision.of(Job):
            uid, status = job["metadata"]["uid"], job.get("status", {})
            uncounted = status.get("uncountedTerminatedPods", {})
            was = before.get(uid, {})
            for field, known in counted[uid].items():
                now, then = set(uncounted.get(field, ())), set(was.get("uncountedTerminatedPods", {}).get(field, ()))
                for pod in now - then:
                    assert pod not in known, f"revision {revision.number}: {pod} is counted as {field} again"
                    assert pod not in settled[uid]
                    assert field == "failed" or phases[pod] == "Succeeded"
                known |= now
                settled[uid] |= then - now
                assert status.get(field, 0) >= was.get(field, 0), f"revision {revision.number}: fewer have {field}"
                if field == "failed" or job["spec"]["completionMode"] == "NonIndexed":
                    assert status.get(field, 0) + len(now) == len(known), (
                        f"revision {revision.number}: {field} is wrong"
                    )
            assert not counted[uid]["succeeded"] & counted[uid]["failed"]
            completions = job["spec"].get("completions")
            assert completions is None or status.get("succeeded", 0) <= completions
            before[uid] = status


def check_nothing_is_lost(history: Sequence[Revision]) -> None:
    """A pod that has succeeded loses its finalizer only when its success is in the status."""
    tracked: set[str] = set()
    for revision in history:
        jobs = {job["metadata"]["uid"]: job for job in revision.of(Job)}
        for pod in revision.of(Pod):
            uid, job = pod["metadata"]["uid"], jobs.get(controller(pod))
            if TRACKING_FINALIZER in pod["metadata"].get("finalizers", ()):
                tracked.add(uid)
            elif uid in tracked:
                tracked.discard(uid)
                # One that was let go while it ran may still succeed before it is deleted: as in Kubernetes.
                if pod["status"]["phase"] != "Succeeded" or job is None:
                    continue
                status = job["status"]
                if "deletionTimestamp" in job["metadata"] or final_condition(job) is not None:
                    continue
                if job["spec"]["completionMode"] == "Indexed":
                    index = int(pod["metadata"]["annotations"][INDEX_ANNOTATION])
                    assert index in parse_indexes(status.get("completedIndexes", ""), index + 1)
                else:
                    uncounted = status["uncountedTerminatedPods"]
                    assert uid in (*uncounted.get("succeeded", ()), *uncounted.get("failed", ())), revision.number


def check_indexes(history: Sequence[Revision]) -> None:
    """Each index succeeds once, and stays succeeded. A pod that was let go while it ran does not count."""
    succeeded: dict[tuple[str, str], set[str]] = defaultdict(set)
    completed: dict[str, set[int]] = defaultdict(set)
    for revision in history:
        for pod in revision.of(Pod):
            index = pod["metadata"].get("annotations", {}).get(INDEX_ANNOTATION)
            tracked = TRACKING_FINALIZER in pod["metadata"].get("finalizers", ())
            if index is not None and tracked and pod["status"]["phase"] == "Succeeded":
                pods = succeeded[controller(pod), index]
                pods.add(pod["metadata"]["uid"])
                assert len(pods) == 1, f"revision {revision.number}: index {index} has succeeded again"
        for job in revision.of(Job):
            uid, status = job["metadata"]["uid"], job.get("status", {})
            now = parse_indexes(status.get("completedIndexes", ""), job["spec"].get("completions") or 0)
            assert completed[uid] <= now, f"revision {revision.number}: {completed[uid] - now} are forgotten"
            completed[uid] = now


def check_active(history: Sequence[Revision], times: Mapping[int, float]) -> None:
    """A pod is made only while fewer run than the parallelism, by the latest wish or one that had not been superseded
    for `LATE` seconds; none is made while the Job is suspended. times: of revisions."""
    wishes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    before: dict[str, set[str]] = defaultdict(set)
    for revision in history:
        now: dict[str, set[str]] = defaultdict(set)
        for pod in revision.of(Pod):
            if is_active(pod):
                now[controller(pod)].add(pod["metadata"]["uid"])
        for job in revision.of(Job):
            uid, spec = job["metadata"]["uid"], job["spec"]
            wish = 0 if spec.get("suspend") else spec["parallelism"]
            known = wishes[uid]
            if not known or known[-1][1] != wish:
                known.append((times[revision.number], wish))
            if now[uid] - before[uid]:
                # Each wish counts until the next one is known to all.
                ends = [since + LATE for since, _ in known[1:]] + [times[revision.number]]
                most = max(each for (_, each), end in zip(known, ends, strict=True) if end >= times[revision.number])
                assert len(now[uid]) <= most, f"revision {revision.number}: {len(now[uid])} pods run, wished {most}"
        before = now


STATUSES = (Pod, Job)


def untrue_statuses(revision: Revision) -> dict[tuple[str], tuple[int, int]]:
    """The Jobs that have not ended and do not tell how many pods run and are ready, and how many."""
    pods = by_controller(filter(is_active, revision.of(Pod)))
    untrue: dict[tuple[str], tuple[int, int]] = {}
    for job in revision.of(Job):
        if final_condition(job) is None and "deletionTimestamp" not in job["metadata"]:
            found, status = pods.get(job["metadata"]["uid"], ()), job.get("status", {})
            truth = (len(found), sum(map(is_ready, found)))
            if (status.get("active", 0), status.get("ready", 0)) != truth:
                untrue[(job["metadata"]["name"],)] = truth
    return untrue


def check_ends(history: Sequence[Revision]) -> None:
    """What has ended stays as it was, and nothing of it runs or waits to be counted."""
    ended: dict[str, Raw] = {}
    for revision in history:
        running = {controller(pod) for pod in revision.of(Pod) if is_active(pod)}
        for job in revision.of(Job):
            uid = job["metadata"]["uid"]
            if uid in ended:
                assert job["status"] == ended[uid], f"revision {revision.number}: it had ended"
            elif final_condition(job) is not None:
                ended[uid] = job["status"]
                assert uid not in running, f"revision {revision.number}: it has ended, and pods run"
                assert job["status"]["uncountedTerminatedPods"] == {}
                assert job["status"]["terminating"] == 0
                assert "active" not in job["status"]
    for pod in history[-1].of(Pod):
        assert TRACKING_FINALIZER not in pod["metadata"].get("finalizers", ()), "a finalizer is left"


def check_schedule(history: Sequence[Revision]) -> None:
    """One Job for each time, and with Forbid one at a time."""
    made: dict[str, str] = {}
    for revision in history:
        running: dict[str, int] = defaultdict(int)
        for job in revision.of(Job):
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            assert made.setdefault(name, uid) == uid, f"revision {revision.number}: {name} is made again"
            running[controller(job)] += final_condition(job) is None and "deletionTimestamp" not in job["metadata"]
        for cron in revision.of(CronJob):
            if cron["spec"]["concurrencyPolicy"] == "Forbid":
                assert running[cron["metadata"]["uid"]] <= 1, f"revision {revision.number}: two run at once"
