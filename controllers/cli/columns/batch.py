"""Jobs and CronJobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import TEMPLATE, Columns
from controllers.cli.durations import age, human_duration, parse_time
from controllers.cli.raw import (
    NONE,
    Raw,
    age_of,
    condition,
    containers_of,
    dig,
    is_deleting,
    items,
    name_of,
    number,
    selector_text,
    text,
)


def _job(raw: Raw, now: datetime) -> Sequence[str]:
    done, wanted = number(raw, "status", "succeeded"), dig(raw, "spec", "completions")
    parallel = number(raw, "spec", "parallelism")
    of = str(wanted) if wanted is not None else f"1 of {parallel}" if parallel > 1 else "1"
    start, end = (parse_time(dig(raw, "status", field)) for field in ("startTime", "completionTime"))
    return (
        name_of(raw),
        job_status(raw),
        f"{done}/{of}",
        human_duration(((end or now) - start).total_seconds()) if start is not None else "",
        age_of(raw, now),
        *containers_of(raw),
        selector_text(dig(raw, "spec", "selector")),
    )


def job_status(raw: Raw) -> str:
    """How far a Job is, in kubectl's word."""
    for kind in ("Complete", "Failed"):
        if condition(raw, kind) == "True":
            return kind
    if is_deleting(raw):
        return "Terminating"
    known = ("Suspended", "FailureTarget", "SuccessCriteriaMet")
    return next((kind for kind in known if condition(raw, kind) == "True"), "Running")


def _cron_job(raw: Raw, now: datetime) -> Sequence[str]:
    template = ("spec", "jobTemplate", "spec")
    last = dig(raw, "status", "lastScheduleTime")
    return (
        name_of(raw),
        text(raw, "spec", "schedule"),
        text(raw, "spec", "timeZone", otherwise=NONE),
        str(bool(dig(raw, "spec", "suspend"))),
        str(len(items(raw, "status", "active"))),
        age(last, now) if last else NONE,
        age_of(raw, now),
        *containers_of(raw, *template, "template", "spec", "containers"),
        selector_text(dig(raw, *template, "selector")),
    )


COLUMNS = {
    "jobs.batch": Columns(("NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE", *TEMPLATE), _job, wide=TEMPLATE),
    "cronjobs.batch": Columns(
        ("NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST SCHEDULE", "AGE", *TEMPLATE),
        _cron_job,
        wide=TEMPLATE,
    ),
}
