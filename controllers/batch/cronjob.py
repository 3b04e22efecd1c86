"""The CronJob controller: a Job at each time that a schedule names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import msgspec

from controllers.batch.schedule import Schedule, load_zone
from controllers.batch.stock import COMPLETE, final_condition
from controllers.batch.types import CronJob, Job
from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.pods import CONTROLLER_INDEX, controller_index
from controllers.manager import Manager
from controllers.owners import is_controlled_by, set_controller_reference
from controllers.reconcile import Request, Result
from informer import patch
from informer.codecs import SCALARS, format_time
from informer.errors import AlreadyExists, ApiError, Invalid, NamespaceTerminating

WORKERS = 5  # kube-controller-manager's --concurrent-cron-job-syncs
LATE = 0.1  # seconds after the time that a run is due: kube-controller-manager's, so that it never comes too early
TOO_MANY = 100  # missed runs that are told of; the latest is made in any case
SCHEDULED_ANNOTATION = "batch.kubernetes.io/cronjob-scheduled-timestamp"

Raw = dict[str, Any]


class CronJobController:
    """Makes Jobs when they are due, keeps note of those that run, and deletes old ones."""

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("cronjob-controller")

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(Job, CONTROLLER_INDEX, controller_index)
        manager.add_controller(CronJob, self.reconcile, owns=[Job], workers=WORKERS, name="cronjob")

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: note what has become of its Jobs, make the one that is due, delete those that are too old."""
        cron = ctx.get(CronJob, request)
        if cron is None:
            return None
        jobs = ctx.list(Job, request.namespace, index=(CONTROLLER_INDEX, cron.metadata.uid or ""))
        status: Raw = patch.copy(cron.raw.get("status") or {})
        await self._look_at(ctx, cron, jobs, status)
        # Stored before anything is made: a Job in the list is known to be this one's, whatever comes next.
        cron = await _write(ctx, cron, status)
        after: float | None = None
        if not cron.deleting:
            after = await self._start(ctx, cron, jobs, status)
            await _write(ctx, cron, status)
            await self._clean_up(ctx, cron, jobs)
        return None if after is None else Result(requeue_after=after)

    # ---- what there is ---------------------------------------------------------------------------------------------

    async def _look_at(self, ctx: Context, cron: CronJob, jobs: Sequence[Job], status: Raw) -> None:
        active: dict[str, Raw] = {each["uid"]: each for each in status.get("active") or ()}
        for job in jobs:
            uid, ended = job.metadata.uid or "", final_condition(job.raw)
            if ended is None:
                if uid in active:
                    continue
                if (time := _unnoted(cron, job, status)) is not None:
                    # A run that made it ended before it could take note of it.
                    active[uid] = _reference(job)
                    status["lastScheduleTime"] = format_time(time)
                    continue
                message = f"Saw a job that the controller did not create or forgot: {job.name}"
                self._event(cron, "Warning", "UnexpectedJob", message)
                continue
            if active.pop(uid, None) is not None:
                message = f"Saw completed job: {job.name}, condition: {ended['type']}"
                self._event(cron, "Normal", "SawCompletedJob", message)
            if ended["type"] == COMPLETE and (at := job.raw["status"].get("completionTime")):
                last = status.get("lastSuccessfulTime")
                status["lastSuccessfulTime"] = at if last is None else max(last, at, key=_time)
        known = {job.metadata.uid for job in jobs}
        for uid, reference in list(active.items()):
            if uid in known:
                continue
            live = await ctx.fetch(Job, reference["name"], cron.namespace)
            if live is None or live.metadata.uid != uid:
                del active[uid]
                self._event(cron, "Normal", "MissingJob", f"Active job went missing: {reference['name']}")
        _set_active(status, list(active.values()))

    async def _clean_up(self, ctx: Context, cron: CronJob, jobs: Sequence[Job]) -> None:
        for failed, limit in (
            (False, cron.spec.successful_jobs_history_limit),
            (True, cron.spec.failed_jobs_history_limit),
        ):
            ended = [(job, final_condition(job.raw)) for job in jobs if not job.deleting]
            alike = [job for job, how in ended if how is not None and (how["type"] != COMPLETE) == failed]
            alike.sort(key=lambda job: (job.status.start_time or datetime.max.replace(tzinfo=UTC), job.name))
            for job in alike[: max(0, len(alike) - limit)]:
                await self._delete(ctx, cron, job.name, job.metadata.uid or "")

    async def _delete(self, ctx: Context, cron: CronJob, name: str, uid: str) -> None:
        try:
            await ctx.delete(Job, name, cron.namespace, uid=uid, propagation="background")
        except ApiError as error:
            self._event(cron, "Warning", "FailedDelete", f"Deleted job: {error}")
            raise
        self._event(cron, "Normal", "SuccessfulDelete", f"Deleted job {name}")

    # ---- what is due -----------------------------------------------------------------------------------------------

    async def _start(self, ctx: Context, cron: CronJob, jobs: Sequence[Job], status: Raw) -> float | None:
        """Make the Job that is due, if one is; in how many seconds to look again."""
        spec, now = cron.spec, ctx.now()
        try:
            zone = load_zone(spec.time_zone) if spec.time_zone is not None else UTC
        except ValueError as error:
            self._event(cron, "Warning", "UnknownTimeZone", f'invalid timeZone: "{spec.time_zone}": {error}')
            return None
        if spec.suspend:
            return None
        try:
            schedule = Schedule.parse(spec.schedule)
        except ValueError as error:
            self._event(cron, "Warning", "UnparseableSchedule", f'unparseable schedule: "{spec.schedule}" : {error}')
            return None
        due = latest_due(schedule, zone, _earliest(cron, now), now)
        following = schedule.after(max(now, due.time) if due is not None else now, zone)
        after = None if following is None else (following - now).total_seconds() + LATE
        if due is None:
            return after
        if due.missed > TOO_MANY:
            message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self._event(cron, "Warning", "TooManyMissedTimes", message)
        deadline = spec.starting_deadline_seconds
        if deadline is not None and due.time + timedelta(seconds=deadline) < now:
            when = due.time.strftime("%a, %d %b %Y %H:%M:%S +0000")
            self._event(cron, "Warning", "MissSchedule", f"Missed scheduled time to start a job: {when}")
            return after
        name, active = job_name(cron, due.time), status.get("active") or []
        if any(each["name"] == name for each in active) or cron.status.last_schedule_time == due.time:
            return after
        if spec.concurrency_policy == "Forbid" and active:
            message = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self._event(cron, "Normal", "JobAlreadyActive", message)
            return after
        if spec.concurrency_policy == "Replace":
            for each in active:
                await self._delete(ctx, cron, each["name"], each["uid"])
            active = []
            _set_active(status, active)
        job = await self._create(ctx, cron, job_of(cron, due.time, zone))
        if job is not None and final_condition(job.raw) is None:
            _set_active(status, [*active, _reference(job)])
        if job is not None:
            status["lastScheduleTime"] = format_time(due.time)
        return after

    async def _create(self, ctx: Context, cron: CronJob, job: Job) -> Job | None:
        try:
            created = await ctx.create(job)
        except AlreadyExists:
            # The name tells the time, so this one was made for it, by a run that could not take note of it.
            found = await ctx.fetch(Job, job.name, cron.namespace)
            return found if found is not None and is_controlled_by(found, cron) else None
        except NamespaceTerminating:
            return None  # it takes nothing any more, and its own end is near
        except ApiError as error:
            self._event(cron, "Warning", "FailedCreate", f"Error creating job: {error}")
            raise
        self._event(cron, "Normal", "SuccessfulCreate", f"Created job {created.name}")
        return created

    def _event(self, cron: CronJob, kind: Any, reason: str, message: str) -> None:
        self._recorder.event(cron, kind, reason, message)


class Due(msgspec.Struct, frozen=True):
    """The latest time at which a Job was to be made, and how many such times there were."""

    time: datetime
    missed: int


def latest_due(schedule: Schedule, zone: tzinfo, earliest: datetime, now: datetime) -> Due | None:
    """The latest time after `earliest` and not after `now`; None if there is none. `missed` is counted up to 101."""
    found: datetime | None = None
    missed, at = 0, schedule.after(earliest, zone)
    while at is not None and at <= now:
        found, missed = at, missed + 1
        if missed > TOO_MANY:
            return Due(_latest(schedule, zone, found, now), missed)
        at = schedule.after(at, zone)
    return None if found is None else Due(found, missed)


def _latest(schedule: Schedule, zone: tzinfo, low: datetime, now: datetime) -> datetime:
    """As `latest_due`, for a time that is long ago: by halves, so that years of minutes cost no more than a day."""
    if schedule.every is not None:
        return low + schedule.every * ((now - low) // schedule.every)
    high = now
    # The last is after `low` or at it; nothing is after `high`.
    while high - low >= timedelta(minutes=1):
        middle = low + (high - low) / 2
        found = schedule.after(middle, zone)
        if found is not None and found <= now:
            low = found
        else:
            high = middle
    return low


def _earliest(cron: CronJob, now: datetime) -> datetime:
    """From when on times count: since the last one, but no longer ago than the deadline."""
    created = cron.metadata.creation_timestamp or now
    earliest = cron.status.last_schedule_time or created
    if cron.spec.starting_deadline_seconds is not None:
        earliest = max(earliest, now - timedelta(seconds=cron.spec.starting_deadline_seconds))
    return earliest


def job_name(cron: CronJob, time: datetime) -> str:
    """The name of the Job of a time: with the minutes since 1970, so that it is made once only."""
    return f"{cron.name}-{int(time.timestamp()) // 60}"


def job_of(cron: CronJob, time: datetime, zone: tzinfo = UTC) -> Job:
    """The Job of a time."""
    job = template_job(cron, job_name(cron, time))
    stamp = time.astimezone(zone).isoformat(timespec="seconds")
    job.metadata.annotations[SCHEDULED_ANNOTATION] = stamp.replace("+00:00", "Z")
    return job


def template_job(cron: CronJob, name: str) -> Job:
    """A Job of the CronJob's template, owned by it."""
    template = patch.copy(cron.raw["spec"]["jobTemplate"])
    described = template.get("metadata") or {}
    metadata = {field: described[field] for field in ("labels", "annotations") if described.get(field)}
    job = Job.from_raw({"metadata": {**metadata, "name": name, "namespace": cron.namespace}, "spec": template["spec"]})
    set_controller_reference(cron, job)
    return job


def _unnoted(cron: CronJob, job: Job, status: Raw) -> datetime | None:
    """The time that the Job was made for, if that is later than what the status knows of."""
    last, text = status.get("lastScheduleTime"), job.metadata.annotations.get(SCHEDULED_ANNOTATION)
    try:
        time = _time(text) if text is not None else None
    except Invalid:
        return None
    if time is None or (last is not None and time <= _time(last)) or job.name != job_name(cron, time):
        return None
    return time


def _reference(job: Job) -> Raw:
    return {
        "apiVersion": Job.TYPE.api_version,
        "kind": Job.TYPE.kind,
        "name": job.name,
        "namespace": job.namespace,
        "uid": job.metadata.uid,
        "resourceVersion": job.metadata.resource_version,
    }


def _time(text: str) -> datetime:
    found: datetime = SCALARS[datetime].load(text, None)
    return found


def _set_active(status: Raw, active: list[Raw]) -> None:
    status.pop("active", None)
    if active:
        status["active"] = active


async def _write(ctx: Context, cron: CronJob, status: Raw) -> CronJob:
    if patch.equal(status, cron.raw.get("status") or {}):
        return cron
    cron.raw["status"] = patch.copy(status)
    return await ctx.update_status(cron)
