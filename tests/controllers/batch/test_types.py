"""What Jobs and CronJobs may say, and what is filled in."""

from __future__ import annotations

import math
from typing import Any

import pytest

from controllers.batch.types import CONTROLLER_UID_LABEL, JOB_NAME_LABEL, Job
from controllers.core.stages import Stages, read_stages
from informer.client import ObjectClient
from informer.errors import Invalid
from informer.patch import encode
from kvstore.api import Client
from tests.controllers.batch.jobs import cron_job, job
from tests.controllers.cluster import EPOCH

INDEXED: dict[str, Any] = {"completionMode": "Indexed", "completions": 3}
FAIL = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}


async def test_defaults(store: Client) -> None:
    client = ObjectClient(store)
    made = await client.create(job())
    spec = made.spec
    assert (spec.completions, spec.parallelism, spec.backoff_limit, spec.completion_mode) == (1, 1, 6, "NonIndexed")
    assert (spec.suspend, spec.pod_replacement_policy) == (False, "TerminatingOrFailed")
    uid = made.metadata.uid
    assert made.raw["spec"]["selector"] == {"matchLabels": {CONTROLLER_UID_LABEL: uid}}
    labels = spec.template.metadata.labels
    assert dict(labels) == {
        "controller-uid": uid,
        CONTROLLER_UID_LABEL: uid,
        "job-name": "work",
        JOB_NAME_LABEL: "work",
    }
    queue = await client.create(job("queue", parallelism=2))
    assert queue.spec.completions is None
    again = await client.update(made)
    assert again.metadata.resource_version == made.metadata.resource_version


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"restart": "Always"}, "spec.template.spec.restartPolicy"),
        ({"parallelism": -1}, "spec.parallelism"),
        ({"backoffLimit": -1}, "spec.backoffLimit"),
        ({"completionMode": "Indexed", "parallelism": 1}, "spec.completions"),
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex"),
        ({**INDEXED, "maxFailedIndexes": 1}, "spec.maxFailedIndexes"),
        ({**INDEXED, "backoffLimitPerIndex": 1, "maxFailedIndexes": 4}, "spec.maxFailedIndexes"),
        ({"completionMode": "Indexed", "completions": 100_001}, "spec.completions"),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, "spec.successPolicy"),
        ({**INDEXED, "successPolicy": {"rules": []}}, "spec.successPolicy.rules"),
        ({**INDEXED, "successPolicy": {"rules": [{}]}}, "spec.successPolicy.rules[0]"),
        ({**INDEXED, "successPolicy": {"rules": [{"succeededIndexes": "0,3"}]}}, "rules[0].succeededIndexes"),
        ({**INDEXED, "successPolicy": {"rules": [{"succeededIndexes": "2,1"}]}}, "rules[0].succeededIndexes"),
        ({**INDEXED, "successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 2}]}}, "succeededCount"),
        ({"podFailurePolicy": {"rules": [FAIL]}, "restart": "OnFailure"}, "spec.podFailurePolicy"),
        (
            {"podFailurePolicy": {"rules": [FAIL]}, "podReplacementPolicy": "TerminatingOrFailed"},
            "podReplacementPolicy",
        ),
        ({"podFailurePolicy": {"rules": [{"action": "Count"}]}}, "spec.podFailurePolicy.rules[0]"),
        ({"podFailurePolicy": {"rules": [{**FAIL, "action": "FailIndex"}]}}, "rules[0].action"),
        (
            {"podFailurePolicy": {"rules": [{**FAIL, "onExitCodes": {"operator": "In", "values": [0]}}]}},
            "rules[0].onExitCodes.values",
        ),
        (
            {"podFailurePolicy": {"rules": [{**FAIL, "onExitCodes": {"operator": "In", "values": [2, 1]}}]}},
            "rules[0].onExitCodes.values",
        ),
        ({"managedBy": "me"}, "spec.managedBy"),
        ({"selector": {"matchLabels": {"app": "a"}}}, "spec.selector"),
        ({"manualSelector": True}, "spec.selector"),
        ({"completionMode": "Sorted"}, "spec.completionMode"),
    ],
)
async def test_what_no_job_may_say(store: Client, spec: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        await ObjectClient(store).create(job(**spec))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"completions": 2},
        {"completionMode": "Indexed"},
        {"selector": {"matchLabels": {"a": "b"}}},
        {"template": {"spec": {"restartPolicy": "OnFailure"}}},
        {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}},
        {"managedBy": "example.com/queue"},
    ],
)
async def test_what_stays(store: Client, change: dict[str, Any]) -> None:
    client = ObjectClient(store)
    await client.create(job())
    with pytest.raises(Invalid):
        await client.patch(Job, "work", {"spec": change}, "default")


async def test_where_the_pods_of_a_suspended_job_go_can_change(store: Client) -> None:
    client = ObjectClient(store)
    await client.create(job(suspend=True))
    change = {"spec": {"template": {"spec": {"nodeSelector": {"disk": "ssd"}}}}}
    assert (await client.patch(Job, "work", change, "default")).spec.template.spec.node_selector == {"disk": "ssd"}
    with pytest.raises(Invalid):
        await client.patch(Job, "work", {"spec": {"template": {"spec": {"hostname": "a"}}}}, "default")


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"schedule": "* * * *"}, "spec.schedule"),
        ({"schedule": "TZ=UTC * * * * *"}, "spec.schedule"),
        ({"timeZone": "Mars/Olympus"}, "spec.timeZone"),
        ({"startingDeadlineSeconds": -1}, "spec.startingDeadlineSeconds"),
        ({"concurrencyPolicy": "Queue"}, "spec.concurrencyPolicy"),
        ({"name": "a" * 53}, "metadata.name"),
    ],
)
async def test_what_no_cron_job_may_say(store: Client, spec: dict[str, Any], path: str) -> None:
    made = {"schedule": "* * * * *", **spec}
    with pytest.raises(Invalid) as caught:
        await ObjectClient(store).create(cron_job(**made))
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("annotations", "command", "seconds"),
    [
        ({}, ["perl"], (1.0, 3.0)),
        ({}, ["sh", "-c", "sleep 5; exit 1"], 5.0),
        ({}, ["sleep", "0.5"], 0.5),
        ({}, ["sleep", "infinity"], math.inf),
        ({"listwatch.dev/run-seconds": "7"}, ["sleep", "5"], 7.0),
        ({"listwatch.dev/run-seconds": "5,1"}, [], (1.0, 5.0)),
        ({"listwatch.dev/run-seconds": "forever"}, [], math.inf),
        ({"listwatch.dev/run-seconds": "soon"}, [], (1.0, 3.0)),
    ],
)
def test_how_long_a_pod_runs(annotations: dict[str, str], command: list[str], seconds: Any) -> None:
    pod = {
        "metadata": {"annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [{"command": command}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    stages = Stages(read_stages([]), "Pod", {})
    seen = stages.decode(encode(pod))
    (stage,) = stages.fit(seen)
    assert stage.name == "pod-complete"
    assert stage.delay_of(seen, EPOCH) == seconds
    pod["spec"] = {"restartPolicy": "Always", "containers": [{"command": command}]}
    assert stages.fit(stages.decode(encode(pod))) == ()
