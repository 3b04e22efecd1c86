"""Jobs and CronJobs on the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controllers.batch.types import Job
from controllers.cli.columns import columns_of
from informer.client import ObjectClient
from kvstore.client.embedded import EmbeddedClient
from kvstore.node import Node
from tests.cli.conftest import ROOT, Cli

EXAMPLE = ROOT / "examples" / "batch.yaml"
NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def test_the_kinds_are_known(cli: Cli) -> None:
    listed = {line.split()[0]: line.split() for line in cli("api-resources").lines}
    assert listed["jobs"] == ["jobs", "batch/v1", "true", "Job"]
    assert listed["cronjobs"] == ["cronjobs", "cj", "batch/v1", "true", "CronJob"]


def test_the_example_has_kubectls_columns(cli: Cli) -> None:
    assert cli("apply", "-f", EXAMPLE).lines == [
        "job.batch/resize-images created",
        "cronjob.batch/nightly-report created",
    ]
    assert cli("apply", "-f", EXAMPLE).lines == [
        "job.batch/resize-images unchanged",
        "cronjob.batch/nightly-report unchanged",
    ]
    header, row = cli("get", "jobs").lines
    assert header.split() == ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]
    assert row.split()[:3] == ["resize-images", "Running", "0/5"]
    header, row = cli("get", "cj").lines
    assert header.split("  ")[0] == "NAME"
    assert header.split() == ["NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST", "SCHEDULE", "AGE"]
    assert row.split()[:9] == ["nightly-report", "30", "2", "*", "*", "*", "Europe/Berlin", "False", "0"]
    assert "<none>" in row
    everything = cli("get", "all").out
    assert "job.batch/resize-images" in everything
    assert "cronjob.batch/nightly-report" in everything


def test_a_job_of_a_cron_job_by_hand(cli: Cli) -> None:
    cli("apply", "-f", EXAMPLE)
    assert cli("create", "job", "now", "--from=cronjob/nightly-report").lines == ["job.batch/now created"]
    assert cli("create", "job/soon", "--from=cj/nightly-report", "-o", "name").lines == ["job.batch/soon"]
    metadata = json.loads(cli("get", "job", "now", "-o", "json").out)["metadata"]
    assert metadata["annotations"] == {"cronjob.kubernetes.io/instantiate": "manual"}
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("CronJob", "nightly-report", True)
    assert "blockOwnerDeletion" not in owner
    again = cli("create", "job", "now", "--from=cronjob/nightly-report")
    assert (again.code, again.err) == (1, 'error: jobs.batch "now" already exists\n')


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "now"),
        ("job", "now", "--from=job/resize-images"),
        ("job", "now", "--from=cronjob"),
        ("deployment", "web", "--from=cronjob/nightly-report"),
        ("job", "a", "b", "--from=cronjob/nightly-report"),
        ("--from=cronjob/nightly-report",),
        ("job", "now", "--from=cronjob/nightly-report", "-f", str(EXAMPLE)),
    ],
)
def test_what_create_does_not_take(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli("apply", "-f", EXAMPLE)
    result = cli("create", *arguments)
    assert (result.code, result.out) == (2, "")


def test_waiting_for_its_end(cli: Cli, tmp_path: Path) -> None:
    cli("apply", "-f", EXAMPLE)
    late = cli("wait", "job/resize-images", "--for=condition=Complete", "--timeout=0.1s")
    assert late.code == 1

    async def complete() -> None:
        async with Node.open(tmp_path / "store") as node:
            client = EmbeddedClient(node)
            condition = {"type": "Complete", "status": "True"}
            patch = {"status": {"conditions": [condition]}}
            await ObjectClient(client).patch(Job, "resize-images", patch, "default", subresource="status")
            await client.close()

    asyncio.run(complete())
    done = cli("wait", "job/resize-images", "--for=condition=Complete", "--timeout=5s")
    assert done.lines == ["job.batch/resize-images condition met"]


def row(spec: dict[str, Any], status: dict[str, Any]) -> list[str]:
    raw = {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": status}
    return columns_of("jobs.batch").row(raw, NOW, wide=False)


def condition(kind: str) -> dict[str, str]:
    return {"type": kind, "status": "True"}


def test_how_far_a_job_is() -> None:
    start = {"startTime": "2026-01-01T00:01:00Z"}
    assert row({"completions": 3}, {}) == ["a", "Running", "0/3", "", "10m"]
    assert row({"parallelism": 4}, {**start, "succeeded": 1}) == ["a", "Running", "1/1 of 4", "9m", "10m"]
    assert row({"parallelism": 1}, start)[2] == "0/1"
    ended = {**start, "completionTime": "2026-01-01T00:01:30Z", "succeeded": 3, "conditions": [condition("Complete")]}
    assert row({"completions": 3}, ended) == ["a", "Complete", "3/3", "30s", "10m"]
    for kind in ("Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"):
        assert row({}, {"conditions": [condition(kind)]})[1] == kind
    assert row({}, {"conditions": [condition("FailureTarget"), condition("Failed")]})[1] == "Failed"
