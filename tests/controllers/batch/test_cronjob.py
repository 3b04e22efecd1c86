"""The CronJob controller: when Jobs are made, which are kept, and what its status says."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.batch.types import CronJob, Job
from informer.errors import NotFound
from kvstore.api import Client
from tests.controllers.batch.jobs import cron_job, now, settled
from tests.controllers.cluster import Cluster, cluster

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0.1, "pod_ready_delay": 0}
MINUTE = 29_453_760  # of 2026-01-01T00:00Z, where virtual time begins


async def jobs(it: Cluster) -> list[str]:
    """Their names, by the minutes since the start."""
    found = (await it.client.list(Job, "default")).items
    return sorted(str(int(job.name.rpartition("-")[2]) - MINUTE) for job in found)


async def read(it: Cluster) -> dict[str, Any]:
    found = (await it.client.get(CronJob, "tick", "default")).raw.get("status", {})
    assert isinstance(found, dict)
    return found


async def events(it: Cluster, reason: str) -> list[str]:
    return [event.message for event in await it.events(reason)]


async def test_a_job_at_each_time(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("*/2 * * * *"))
        await settled(119)
        assert await jobs(it) == []
        await settled(1.5)
        (job,) = (await it.client.list(Job, "default")).items
        assert job.name == f"tick-{MINUTE + 2}"
        assert job.metadata.labels == {"app": "tick"}
        assert job.metadata.annotations == {"batch.kubernetes.io/cronjob-scheduled-timestamp": "2026-01-01T00:02:00Z"}
        owner = job.metadata.controller
        assert owner is not None
        assert (owner.kind, owner.name, owner.block_owner_deletion) == ("CronJob", "tick", True)
        status = await read(it)
        assert status["lastScheduleTime"] == "2026-01-01T00:02:00Z"
        assert [each["uid"] for each in status["active"]] == [job.metadata.uid]
        await settled(10)
        status = await read(it)
        assert "active" not in status
        done = await it.client.get(Job, job.name, "default")
        assert status["lastSuccessfulTime"] == done.raw["status"]["completionTime"]
        assert await events(it, "SuccessfulCreate") != []
        assert await events(it, "SawCompletedJob") == [f"Saw completed job: {job.name}, condition: Complete"]
        assert await events(it, "UnexpectedJob") == []
        await settled(120)
        assert await jobs(it) == ["2", "4"]


async def test_old_jobs_go_with_their_pods(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", successfulJobsHistoryLimit=2))
        await settled(6 * 60 + 30)
        assert await jobs(it) == ["5", "6"]
        assert len(await it.pods()) == 2
        assert len(await events(it, "SuccessfulDelete")) == 4


async def test_failed_jobs_have_a_history_of_their_own(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", code="1", failedJobsHistoryLimit=1))
        await settled(4 * 60 + 30)
        assert await jobs(it) == ["4"]
        assert "lastSuccessfulTime" not in await read(it)


@pytest.mark.parametrize(
    ("policy", "left", "active"),
    [("Allow", ["1", "2", "3"], 3), ("Forbid", ["1"], 1), ("Replace", ["3"], 1)],
)
async def test_what_becomes_of_one_that_still_runs(store: Client, policy: str, left: list[str], active: int) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", run="forever", concurrencyPolicy=policy))
        await settled(3 * 60 + 30)
        assert await jobs(it) == left
        assert len((await read(it))["active"]) == active
        assert len(await it.pods()) == active
        assert bool(await events(it, "JobAlreadyActive")) == (policy == "Forbid")


async def test_one_that_was_forbidden_is_made_up_for_within_its_deadline(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        spec: dict[str, Any] = {"concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 45}
        await it.client.create(cron_job("* * * * *", run="80", **spec))
        # The first runs from 1:00 to 2:20: that of 2:00 can still begin then.
        await settled(150)
        assert await jobs(it) == ["1", "2"]


async def test_suspended_it_makes_none_and_resumed_the_latest(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", suspend=True))
        await settled(5 * 60 + 30)
        assert await jobs(it) == []
        await it.client.patch(CronJob, "tick", {"spec": {"suspend": False}}, "default")
        await settled(5)
        assert await jobs(it) == ["5"]


async def test_more_than_a_hundred_missed_are_told_of_and_the_latest_is_made(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", suspend=True))
        await settled(150 * 60 + 30)
        await it.client.patch(CronJob, "tick", {"spec": {"suspend": False}}, "default")
        await settled(5)
        assert await jobs(it) == ["150"]
        assert await events(it, "TooManyMissedTimes") == [
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        ]


async def test_one_that_is_too_late_is_not_made(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("0 * * * *", suspend=True, startingDeadlineSeconds=30))
        await settled(3600 + 60)
        await it.client.patch(CronJob, "tick", {"spec": {"suspend": False}}, "default")
        await settled(5)
        assert await jobs(it) == []
        await settled(3600)
        assert await jobs(it) == ["120"]


async def test_times_are_those_of_its_zone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("30 9 * * *", timeZone="Asia/Tokyo"))
        await settled(3600)
        (job,) = (await it.client.list(Job, "default")).items
        stamp = job.metadata.annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"]
        assert stamp == "2026-01-01T09:30:00+09:00"
        assert (await read(it))["lastScheduleTime"] == "2026-01-01T00:30:00Z"


async def test_another_schedule_counts_from_then_on(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("0 0 1 1 *"))
        await settled(90)
        await it.client.patch(CronJob, "tick", {"spec": {"schedule": "*/5 * * * *"}}, "default")
        await settled(300)
        assert await jobs(it) == ["5"]


async def test_a_job_that_is_deleted_is_forgotten_and_not_made_again(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("*/5 * * * *", run="forever"))
        await settled(301)
        await it.client.delete(Job, f"tick-{MINUTE + 5}", "default")
        await settled(60)
        assert await jobs(it) == []
        assert "active" not in await read(it)
        assert await events(it, "MissingJob") == [f"Active job went missing: tick-{MINUTE + 5}"]


async def test_its_jobs_go_with_it(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("* * * * *", run="forever"))
        await settled(130)
        assert len(await it.pods()) == 2
        await it.client.delete(CronJob, "tick", "default")

        async def gone() -> bool:
            return not await it.pods() and not await jobs(it)

        await it.until(gone)
        with pytest.raises(NotFound):
            await it.client.get(CronJob, "tick", "default")


async def test_a_job_that_could_not_be_noted_is_not_made_twice(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("*/5 * * * *", run="forever", concurrencyPolicy="Forbid"))
        await settled(301)
        before = await read(it)
        # As if the process had ended between the two writes.
        await it.client.patch(
            CronJob,
            "tick",
            {"status": {"active": None, "lastScheduleTime": None}},
            "default",
            subresource="status",
        )
        await settled(5)
        after = await read(it)
        assert [each["uid"] for each in after["active"]] == [each["uid"] for each in before["active"]]
        assert after["lastScheduleTime"] == before["lastScheduleTime"]
        assert await jobs(it) == ["5"]
        assert await events(it, "UnexpectedJob") == []


async def test_nothing_is_written_between_two_times(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(cron_job("0 * * * *"))
        await settled(30)
        before = (await it.client.get(CronJob, "tick", "default")).metadata.resource_version
        await settled(3000)
        assert (await it.client.get(CronJob, "tick", "default")).metadata.resource_version == before
        assert now() < 3600
