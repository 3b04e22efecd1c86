"""Jobs and CronJobs."""

from __future__ import annotations

from controllers.cli.describers.parts import conditions, controlled_by, deleting, head, labels
from controllers.cli.describers.pods import pod_template
from controllers.cli.describers.related import Describer, Related
from controllers.cli.durations import human_duration, parse_time
from controllers.cli.page import Page
from controllers.cli.raw import UNSET, Raw, dig, items, number, selector_text, text


def _job(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    labels(page, raw)
    controlled_by(page, raw)
    page.field("Parallelism", text(raw, "spec", "parallelism", otherwise=UNSET))
    page.field("Completions", text(raw, "spec", "completions", otherwise=UNSET))
    page.field("Completion Mode", text(raw, "spec", "completionMode", otherwise="NonIndexed"))
    page.field("Suspend", bool(dig(raw, "spec", "suspend")))
    for field, title, unit in (
        ("backoffLimit", "Backoff Limit", ""),
        ("backoffLimitPerIndex", "Backoff Limit Per Index", ""),
        ("maxFailedIndexes", "Max Failed Indexes", ""),
        ("ttlSecondsAfterFinished", "TTL Seconds After Finished", ""),
        ("activeDeadlineSeconds", "Active Deadline Seconds", "s"),
    ):
        if dig(raw, "spec", field) is not None:
            page.field(title, f"{dig(raw, 'spec', field)}{unit}")
    start, end = (parse_time(dig(raw, "status", field)) for field in ("startTime", "completionTime"))
    if start is not None:
        page.field("Start Time", dig(raw, "status", "startTime"))
    if end is not None:
        page.field("Completed At", dig(raw, "status", "completionTime"))
    if start is not None and end is not None:
        page.field("Duration", human_duration((end - start).total_seconds()))
    counts = {field: number(raw, "status", field) for field in ("active", "ready", "succeeded", "failed")}
    active = f"{counts['active']} Active ({counts['ready']} Ready)"
    page.field("Pods Statuses", f"{active} / {counts['succeeded']} Succeeded / {counts['failed']} Failed")
    if text(raw, "spec", "completionMode") == "Indexed":
        page.field("Completed Indexes", dig(raw, "status", "completedIndexes"))
        if dig(raw, "status", "failedIndexes") is not None:
            page.field("Failed Indexes", dig(raw, "status", "failedIndexes"))
    deleting(page, raw)
    with page.section("Pod Template"):
        pod_template(page, dig(raw, "spec", "template"))
    conditions(page, raw, ("Type", "Status", "Reason", "Message"))


def _cron_job(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    page.field("Schedule", text(raw, "spec", "schedule"))
    if dig(raw, "spec", "timeZone"):
        page.field("Time Zone", dig(raw, "spec", "timeZone"))
    page.field("Concurrency Policy", text(raw, "spec", "concurrencyPolicy", otherwise="Allow"))
    page.field("Suspend", str(bool(dig(raw, "spec", "suspend"))))
    page.field("Successful Job History Limit", text(raw, "spec", "successfulJobsHistoryLimit", otherwise=UNSET))
    page.field("Failed Job History Limit", text(raw, "spec", "failedJobsHistoryLimit", otherwise=UNSET))
    deadline = dig(raw, "spec", "startingDeadlineSeconds")
    page.field("Starting Deadline Seconds", UNSET if deadline is None else f"{deadline}s")
    template = ("spec", "jobTemplate", "spec")
    selector = dig(raw, *template, "selector")
    page.field("Selector", selector_text(selector) if selector else UNSET)
    page.field("Parallelism", text(raw, *template, "parallelism", otherwise=UNSET))
    page.field("Completions", text(raw, *template, "completions", otherwise=UNSET))
    if dig(raw, *template, "activeDeadlineSeconds") is not None:
        page.field("Active Deadline Seconds", f"{dig(raw, *template, 'activeDeadlineSeconds')}s")
    deleting(page, raw)
    with page.section("Pod Template"):
        pod_template(page, dig(raw, *template, "template"))
    page.field("Last Schedule Time", text(raw, "status", "lastScheduleTime", otherwise=UNSET))
    page.field("Active Jobs", ", ".join(text(each, "name") for each in items(raw, "status", "active")))


BY_KIND: dict[str, Describer] = {"jobs.batch": _job, "cronjobs.batch": _cron_job}
