"""The Job controller: pods of one template, run until enough of them have succeeded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.apps.ranking import Rank
from controllers.batch import stock
from controllers.batch.backoff import Backoff
from controllers.batch.pods import (
    TRACKED_INDEX,
    TRACKING_FINALIZER,
    JobPod,
    decode_pod,
    is_tracked,
    owning_job,
    pod_of,
    tracked_for,
    tracked_index,
)
from controllers.batch.policies import match_failure
from controllers.batch.stock import Verdict, take_stock
from controllers.batch.types import Job
from controllers.claiming import claim, selecting
from controllers.conditions import find_condition, new_condition
from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.pod_control import PodControl, first_error, slow_start
from controllers.core.pods import CONTROLLER_INDEX, controller_index
from controllers.core.types import Pod
from controllers.decoded import Decoded
from controllers.finalizers import remove_finalizer
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from controllers.workqueue import WorkQueue
from informer import patch
from informer.cache import Stored
from informer.codecs import format_time
from informer.errors import ApiError, Conflict, NotFound
from informer.selectors import Selector

WORKERS = 5  # kube-controller-manager's --concurrent-job-syncs
MAX_DELAY = 60.0  # seconds; its MaxJobApiBackOff: a Job that a quota refuses looks again within a minute
BURST = 500  # kube-controller-manager's: creates or deletes in one sync
CONTROLLER_NAME = "kubernetes.io/job-controller"  # what managedBy says where this controller is meant
_TRIES = 5  # to take a finalizer off a pod that others write to

Raw = dict[str, Any]


class _Managed(msgspec.Struct):
    """What a sync did to the pods."""

    active: list[JobPod]
    terminating: int
    created: int = 0
    after: float | None = None
    failure: ApiError | None = None


class JobController:
    """Runs the pods of Jobs, counts each of their ends once, and judges when a Job has ended."""

    def __init__(self, manager: Manager, events: EventBroadcaster, *, burst: int = BURST) -> None:
        self._manager = manager
        self._recorder = events.recorder("job-controller")
        self.control = PodControl(self._recorder)
        self._burst = burst
        # uid of a Job -> its failures; after a restart they are read from the pods that are there.
        self._backoffs: dict[Request, tuple[str, Backoff]] = {}
        self._pods = Decoded(decode_pod)

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Pod, CONTROLLER_INDEX, controller_index)
        manager.add_index(Pod, TRACKED_INDEX, tracked_index)
        manager.add_controller(
            Job,
            self.reconcile,
            watches={Pod: self._of_pod},
            workers=WORKERS,
            name="job",
            queue=lambda: WorkQueue(max_delay=MAX_DELAY),
        )

    def _of_pod(self, stored: Stored) -> Iterable[Request]:
        if stored.meta.raw_owner_references:
            if owned := owning_job(stored):
                return owned
            if any(owner.controller for owner in stored.meta.owner_references):
                return ()
        if is_tracked(stored) and (name := tracked_for(stored)):
            return (Request(stored.namespace, name),)
        jobs = self._manager.informer(Job).cache.by_index("namespace", stored.namespace)
        return selecting(jobs, stored)

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: judge, create or delete pods, count what has ended, write the status."""
        job = ctx.get(Job, request)
        if job is not None and job.spec.managed_by not in (None, CONTROLLER_NAME):
            return None
        if job is None or stock.is_finished(job.raw):
            self._backoffs.pop(request, None)
            self._pods.forget(request)
            await self._let_go(ctx, request, None)
            return None
        await self._let_go(ctx, request, job)
        pods = self._pods.of(request, await claim(ctx, job, Pod, job.spec.selector, finalizer=TRACKING_FINALIZER))
        after, failure = await _Sync(self, ctx, job, pods, ctx.now()).run()
        if failure is not None:
            raise failure
        return None if after is None else Result(requeue_after=max(after, 0.001))

    async def _let_go(self, ctx: Context, request: Request, job: Job | None) -> None:
        """Take the finalizer off pods that nobody will count: their Job is gone, has ended, or is theirs no more."""
        for stored in ctx.stored(Pod, index=(TRACKED_INDEX, request.key)):
            owner = next((each.uid for each in stored.meta.owner_references if each.controller), None)
            if job is not None:
                adoptable = owner is None and Selector.of(job.raw["spec"]["selector"]).matches(stored.meta.labels)
                if adoptable or owner == job.metadata.uid:
                    continue
            await release(ctx, stored.name, stored.namespace, stored.meta.uid or "")

    # ---- for a sync ------------------------------------------------------------------------------------------------

    def backoff(self, ctx: Context, job: Job, pods: Sequence[JobPod]) -> Backoff:
        """The Job's failures so far; of a Job not seen before, those of the pods that are there."""
        uid = job.metadata.uid or ""
        known = self._backoffs.get(ctx.request)
        if known is None or known[0] != uid:
            now = ctx.now()
            counted = job.status.uncounted_terminated_pods
            told = {*counted.succeeded, *counted.failed}
            old = [pod for pod in pods if not pod.tracked or pod.uid in told]
            succeeded = [pod.finish_time(now) for pod in old if pod.phase == "Succeeded"]
            failed = [pod.finish_time(now) for pod in old if pod.phase == "Failed"]
            known = self._backoffs[ctx.request] = (uid, Backoff().after(succeeded, failed))
        return known[1]

    def note_backoff(self, ctx: Context, job: Job, known: Backoff) -> None:
        """What `backoff` gives from now on."""
        self._backoffs[ctx.request] = (job.metadata.uid or "", known)

    def event(self, job: Job, kind: Any, reason: str, message: str) -> None:
        """Tell something about the Job."""
        self._recorder.event(job, kind, reason, message)

    @property
    def burst(self) -> int:
        """Creates or deletes in one sync."""
        return self._burst


class _Sync:
    """One run for one Job. The order of its writes is what makes counting exact: see `controllers.batch.stock`."""

    def __init__(
        self, controller: JobController, ctx: Context, job: Job, pods: Sequence[JobPod], now: datetime
    ) -> None:
        self._controller = controller
        self._ctx = ctx
        self._job = job
        self._pods = pods
        self._now = now
        self._stock = take_stock(job, pods)
        self._status: Raw = patch.copy(job.raw.get("status") or {})
        self._status.setdefault("uncountedTerminatedPods", {})

    async def run(self) -> tuple[float | None, ApiError | None]:
        """In how many seconds to look again, and what went wrong with pods."""
        job, taken, status = self._job, self._stock, self._status
        if "startTime" not in status and not job.spec.suspend:
            status["startTime"] = format_time(self._now.replace(microsecond=0))
        known = self._controller.backoff(self._ctx, job, self._pods).after(
            [pod.finish_time(self._now) for pod in taken.new_succeeded],
            [pod.finish_time(self._now) for pod in taken.new_failed],
        )
        verdict = stock.given_verdict(job) or stock.judge(job, taken, self._pods, self._now)
        done = _Managed(taken.active, taken.terminating)
        if verdict is None and not job.deleting:
            await self._manage(done, known)
            verdict = self._completed(done)
            if verdict is None:
                self._tell_suspended()
        if verdict is not None:
            self._set_condition(verdict.kind, verdict.reason, verdict.message)
            self._give_up_active(verdict)
        elif job.deleting:
            self._give_up_active(None)
        self._tell_pods(done)
        released = stock.count(job, taken, status)
        await self._write()
        if job.spec.backoff_limit_per_index is None:
            self._controller.note_backoff(self._ctx, job, known)
        if verdict is not None:
            await self._delete_active(done)
        results = await asyncio.gather(
            *(release(self._ctx, pod.name, job.namespace or "", pod.uid) for pod in released), return_exceptions=True
        )
        failure = first_error(results) or done.failure
        waiting = {pod.uid for pod in self._pods if pod.tracked} - {
            pod.uid for pod, result in zip(released, results, strict=True) if result is None
        }
        stock.settle(status, waiting)
        self._tell_pods(done)
        ended = verdict is not None and self._end(verdict, done)
        await self._write()
        if ended and verdict is not None:
            self._tell_end(verdict)
            return None, failure
        left = stock.deadline(self._job, self._now) if verdict is None else None
        return min((each for each in (done.after, left) if each is not None), default=None), failure

    # ---- pods ------------------------------------------------------------------------------------------------------

    async def _manage(self, done: _Managed, known: Backoff) -> None:
        """Delete what is too much, else create what is missing; both in one sync would mix up the indexes."""
        job, taken = self._job, self._stock
        wanted = stock.wanted_active(job, taken)
        useless = {pod.uid for pod in stock.surplus(job, taken)}
        # What has lost its finalizer can never be counted: its deletion was begun by a run that did not end.
        useless |= {pod.uid for pod in taken.active if not pod.tracked}
        chosen = [pod for pod in taken.active if pod.uid in useless]
        rest = [pod for pod in taken.active if pod.uid not in useless]
        chosen += self._first_to_go(rest, len(rest) - wanted)
        if chosen:
            await self._delete_uncounted(chosen[: self._controller.burst], done)
            return
        missing = wanted - len(taken.active)
        if job.spec.pod_replacement_policy == "Failed":
            # Those of which nobody will tell the end do not hold up their successors.
            missing -= sum(pod.deleting and not pod.finished and not pod.ended_for_good for pod in self._pods)
        if missing <= 0 or job.spec.suspend:
            return
        per_index = job.spec.backoff_limit_per_index is not None
        if not per_index and (remaining := known.remaining(self._now)):
            done.after = remaining
            return
        missing = min(missing, self._controller.burst)
        if job.spec.completion_mode != "Indexed":
            model = pod_of(job)
            done.failure = await slow_start(missing, lambda: self._create(model, done))
            return
        indexes = stock.pending_indexes(job, taken, self._pods, missing)
        if per_index:
            indexes, done.after = self._due(indexes)
        pending = iter(indexes)
        done.failure = await slow_start(len(indexes), lambda: self._create(self._successor(next(pending)), done))

    def _first_to_go(self, pods: list[JobPod], count: int) -> list[JobPod]:
        if count <= 0:
            return []
        on_node = Counter(pod.node for pod in pods)
        return sorted(pods, key=lambda pod: Rank(pod, on_node, self._now))[:count]

    def _due(self, indexes: Sequence[int]) -> tuple[list[int], float | None]:
        """Those that need not wait after a failure, and how long the next one of the others has to."""
        due, waits = [], []
        for index in indexes:
            last = self._stock.delayed.get(index)
            failures = last.failures_in_all + 1 if last is not None else 0
            since = last.finish_time(self._now) if last is not None else None
            if remaining := Backoff(failures, since).remaining(self._now):
                waits.append(remaining)
            else:
                due.append(index)
        return due, min(waits, default=None)

    def _successor(self, index: int) -> Pod:
        if self._job.spec.backoff_limit_per_index is None:
            return pod_of(self._job, index)
        last = self._stock.delayed.get(index)
        if last is None:
            return pod_of(self._job, index, (0, 0))
        ignored = match_failure(self._job, last).action == "Ignore"
        passed = last.failures_in_all - last.failures
        return pod_of(self._job, index, (last.failures + (not ignored), passed + ignored))

    async def _create(self, model: Pod, done: _Managed) -> None:
        done.created += await self._controller.control.create(self._ctx, self._job, model)

    async def _delete_uncounted(self, pods: Sequence[JobPod], done: _Managed) -> None:
        """Delete pods that are not to count as failed: their finalizers go first."""
        results = await asyncio.gather(*(self._drop(pod) for pod in pods), return_exceptions=True)
        done.failure = first_error(results)
        self._deleted([pod for pod, result in zip(pods, results, strict=True) if result is None], done)

    async def _drop(self, pod: JobPod) -> None:
        if pod.tracked:
            # As it was seen: if it has ended meanwhile, that counts, and this is a Conflict.
            stored = self._ctx.get(Pod, pod.name, self._job.namespace)
            if stored is None or stored.metadata.uid != pod.uid:
                return
            if stored.finished:
                raise Conflict(f"{stored!r} has ended meanwhile")
            remove_finalizer(stored, TRACKING_FINALIZER)
            try:
                await self._ctx.update(stored)
            except NotFound:
                return
        await self._delete(pod)

    async def _delete(self, pod: JobPod) -> None:
        await self._controller.control.delete(self._ctx, self._job, pod.name, pod.uid)

    def _give_up_active(self, verdict: Verdict | None) -> None:
        """The Job ends or goes, and what still runs with it. When it fails they have all failed."""
        taken = self._stock
        known = {pod.uid for pod in taken.releasable}
        left = [pod for pod in self._pods if pod.tracked and pod.uid not in known]
        taken.releasable += left
        if verdict is not None and verdict.kind == stock.FAILURE_TARGET:
            counted = {pod.uid for pod in taken.new_failed}
            taken.new_failed += [
                pod
                for pod in left
                if pod.uid not in counted and self._has_index(pod) and match_failure(self._job, pod).action != "Ignore"
            ]

    def _has_index(self, pod: JobPod) -> bool:
        if self._job.spec.completion_mode != "Indexed":
            return True
        return pod.index is not None and pod.index < (self._job.spec.completions or 0)

    async def _delete_active(self, done: _Managed) -> None:
        results = await asyncio.gather(*(self._delete(pod) for pod in done.active), return_exceptions=True)
        done.failure = first_error(results) or done.failure
        self._deleted([pod for pod, result in zip(done.active, results, strict=True) if result is None], done)

    @staticmethod
    def _deleted(pods: Sequence[JobPod], done: _Managed) -> None:
        gone = {pod.uid for pod in pods}
        done.active = [pod for pod in done.active if pod.uid not in gone]
        done.terminating += len(gone)

    # ---- status ----------------------------------------------------------------------------------------------------

    def _completed(self, done: _Managed) -> Verdict | None:
        """Whether all has succeeded that has to, and nothing runs any more."""
        completions, succeeded = self._job.spec.completions, self._stock.succeeded
        if done.active or done.created:
            return None
        enough = succeeded > 0 if completions is None else succeeded >= completions
        return stock.COMPLETIONS_REACHED if enough else None

    def _tell_suspended(self) -> None:
        status, event = self._status, self._controller.event
        if self._job.spec.suspend:
            if self._set_condition(stock.SUSPENDED, "JobSuspended", "Job suspended"):
                event(self._job, "Normal", "Suspended", "Job suspended")
        elif find_condition(status.get("conditions") or [], stock.SUSPENDED) is not None and self._set_condition(
            stock.SUSPENDED, "JobResumed", "Job resumed", value="False"
        ):
            event(self._job, "Normal", "Resumed", "Job resumed")
            # The time that it was suspended does not count as active.
            status["startTime"] = format_time(self._now.replace(microsecond=0))

    def _tell_pods(self, done: _Managed) -> None:
        status = self._status
        status["active"] = len(done.active) + done.created
        status["ready"] = sum(pod.ready for pod in done.active)
        status["terminating"] = done.terminating

    def _end(self, verdict: Verdict, done: _Managed) -> bool:
        """Whether the Job has ended: nothing is left to be counted or to come to its end."""
        if self._status["uncountedTerminatedPods"] or done.active or done.terminating:
            return False
        self._set_condition(verdict.final, verdict.reason, verdict.message)
        if verdict.final == stock.COMPLETE:
            self._status["completionTime"] = format_time(self._now.replace(microsecond=0))
        return True

    def _set_condition(self, kind: str, reason: str, message: str, *, value: str = "True") -> bool:
        """Whether that is news."""
        conditions = self._status.get("conditions") or []
        current = find_condition(conditions, kind)
        if current is not None and current["status"] == value:
            return False
        condition = new_condition(kind, value, reason, message, self._now)
        condition["lastProbeTime"] = condition["lastTransitionTime"]
        self._status["conditions"] = [*(each for each in conditions if each["type"] != kind), condition]
        return True

    def _tell_end(self, verdict: Verdict) -> None:
        event, job, spec = self._controller.event, self._job, self._job.spec
        if verdict.final == stock.FAILED:
            event(job, "Warning", verdict.reason, verdict.message)
            return
        if spec.completions is not None and self._stock.succeeded > spec.completions:
            message = "Too many succeeded pods running after completion count reached"
            event(job, "Warning", "TooManySucceededPods", message)
        event(job, "Normal", "Completed", "Job completed")

    async def _write(self) -> None:
        """Store the status if it differs."""
        for field in ("active", "succeeded", "failed", "completedIndexes"):
            if not self._status.get(field):
                self._status.pop(field, None)
        if patch.equal(self._status, self._job.raw.get("status") or {}):
            return
        self._job.raw["status"] = patch.copy(self._status)
        self._job = await self._ctx.update_status(self._job)


async def release(ctx: Context, name: str, namespace: str, uid: str) -> None:
    """Take the finalizer off a pod, whatever else changes in it. Raises Conflict if that never stops."""
    pod = ctx.get(Pod, name, namespace)
    for _ in range(_TRIES):
        if pod is None or pod.metadata.uid != uid or not remove_finalizer(pod, TRACKING_FINALIZER):
            return
        try:
            await ctx.update(pod)
        except Conflict:
            pod = await ctx.fetch(Pod, name, namespace)
        except NotFound:
            return
        else:
            return
    raise Conflict(f'pods "{name}" keeps changing, its finalizer is still there')
