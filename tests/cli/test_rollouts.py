"""`rollout` of StatefulSets and DaemonSets; what Deployments have in common with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.history import revision_data
from controllers.cli.errors import CliError
from controllers.cli.rollout.status import rollout_status
from informer.patch import copy
from informer.resources import SCHEME
from tests.cli.conftest import Cli
from tests.cli.seeding import owned_by, seed


def workload(kind: str, image: str = "app:1", **more: Any) -> dict[str, Any]:
    labels = {"app": "q"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template, **more.pop("spec", {})}
    if kind == "StatefulSet":
        spec.setdefault("serviceName", "q")
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "q", **more.pop("metadata", {})},
        "spec": spec,
        **more,
    }


def state(kind: str, spec: dict[str, Any], status: dict[str, Any]) -> tuple[str, bool]:
    raw = workload(kind, spec=spec, status={"observedGeneration": 2, **status}, metadata={"generation": 2})
    return rollout_status(SCHEME.by_gvk("apps/v1", kind).from_raw(raw))


ROLLING: dict[str, Any] = {"updateStrategy": {"type": "RollingUpdate"}}
PARTS: dict[str, Any] = {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}


@pytest.mark.parametrize(
    ("kind", "spec", "status", "text", "over"),
    [
        ("Deployment", {}, {"observedGeneration": 1}, "Waiting for deployment spec update to be observed...", False),
        (
            "Deployment", {"replicas": 3}, {"updatedReplicas": 1, "replicas": 4},
            'Waiting for deployment "q" rollout to finish: 1 out of 3 new replicas have been updated...', False,
        ),
        (
            "Deployment", {"replicas": 3}, {"updatedReplicas": 3, "replicas": 4},
            'Waiting for deployment "q" rollout to finish: 1 old replicas are pending termination...', False,
        ),
        (
            "Deployment", {"replicas": 3}, {"updatedReplicas": 3, "replicas": 3, "availableReplicas": 2},
            'Waiting for deployment "q" rollout to finish: 2 of 3 updated replicas are available...', False,
        ),
        (
            "Deployment", {"replicas": 3}, {"updatedReplicas": 3, "replicas": 3, "availableReplicas": 3},
            'deployment "q" successfully rolled out', True,
        ),
        (
            "DaemonSet", ROLLING, {"observedGeneration": 1},
            "Waiting for daemon set spec update to be observed...", False,
        ),
        (
            "DaemonSet", ROLLING, {"desiredNumberScheduled": 3, "updatedNumberScheduled": 1},
            'Waiting for daemon set "q" rollout to finish: 1 out of 3 new pods have been updated...', False,
        ),
        (
            "DaemonSet", ROLLING, {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2},
            'Waiting for daemon set "q" rollout to finish: 2 of 3 updated pods are available...', False,
        ),
        (
            "DaemonSet", ROLLING, {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3},
            'daemon set "q" successfully rolled out', True,
        ),
        (
            "StatefulSet", ROLLING, {"observedGeneration": 0},
            "Waiting for statefulset spec update to be observed...", False,
        ),
        (
            "StatefulSet", {**ROLLING, "replicas": 3}, {"readyReplicas": 1},
            "Waiting for 2 pods to be ready...", False,
        ),
        (
            "StatefulSet", {**PARTS, "replicas": 3}, {"readyReplicas": 3, "updatedReplicas": 1},
            "Waiting for partitioned roll out to finish: 1 out of 2 new pods have been updated...", False,
        ),
        (
            "StatefulSet", {**PARTS, "replicas": 3}, {"readyReplicas": 3, "updatedReplicas": 2},
            "partitioned roll out complete: 2 new pods have been updated...", True,
        ),
        (
            "StatefulSet", {**ROLLING, "replicas": 1},
            {"readyReplicas": 1, "updatedReplicas": 0, "currentRevision": "q-1", "updateRevision": "q-2"},
            "waiting for statefulset rolling update to complete 0 pods at revision q-2...", False,
        ),
        (
            "StatefulSet", {**ROLLING, "replicas": 1},
            {"readyReplicas": 1, "currentReplicas": 1, "currentRevision": "q-2", "updateRevision": "q-2"},
            "statefulset rolling update complete 1 pods at revision q-2...", True,
        ),
    ],
)  # fmt: skip
def test_how_far_a_rollout_is(kind: str, spec: dict[str, Any], status: dict[str, Any], text: str, over: bool) -> None:
    assert state(kind, spec, status) == (text, over)


def test_pods_that_are_replaced_by_hand_have_no_rollout() -> None:
    with pytest.raises(CliError, match="rollout status is only available for RollingUpdate strategy type"):
        state("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, {})


@pytest.fixture(params=["StatefulSet", "DaemonSet"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def revisions(cli: Cli, tmp_path: Path, kind: str) -> Cli:
    """A workload at its third template, with the revisions of all three."""
    (owner,) = seed(tmp_path / "store", workload(kind, "app:3"))
    for number in (1, 2, 3):
        old = type(owner).from_raw(copy(owner.raw))
        old.raw["spec"]["template"]["spec"]["containers"][0]["image"] = f"app:{number}"
        cause = {"kubernetes.io/change-cause": "the second"} if number == 2 else {}
        seed(
            tmp_path / "store",
            {
                "apiVersion": "apps/v1", "kind": "ControllerRevision",
                "metadata": {"name": f"q-{number}", "ownerReferences": owned_by(owner), "annotations": cause},
                "data": revision_data(old), "revision": number,
            },
        )  # fmt: skip
    stranger = {"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "x-9"}, "revision": 9}
    seed(tmp_path / "store", {**stranger, "data": {}})
    return cli


def image(cli: Cli, kind: str) -> str:
    raw = json.loads(cli("get", kind.lower(), "q", "-o", "json").out)
    return str(raw["spec"]["template"]["spec"]["containers"][0]["image"])


def test_history_and_undo(revisions: Cli, kind: str) -> None:
    name = f"{kind.lower()}.apps/q"
    assert [line.split() for line in revisions("rollout", "history", f"{kind}/q").lines] == [
        [name], ["REVISION", "CHANGE-CAUSE"], ["1", "<none>"], ["2", "the", "second"], ["3", "<none>"], [],
    ]  # fmt: skip
    shown = revisions("rollout", "history", f"{kind}/q", "--revision=2").lines
    assert shown[:2] == [f"{name} with revision #2", "Pod Template:"]
    assert "      Image:        app:2" in shown
    assert revisions("rollout", "undo", f"{kind}/q", "--dry-run=client").out == f"{name} rolled back (dry run)\n"
    assert image(revisions, kind) == "app:3"
    assert revisions("rollout", "undo", f"{kind}/q").out == f"{name} rolled back\n"
    assert image(revisions, kind) == "app:2"
    assert revisions("rollout", "undo", f"{kind}/q", "--to-revision=1").out == f"{name} rolled back\n"
    assert image(revisions, kind) == "app:1"
    again = revisions("rollout", "undo", f"{kind}/q", "--to-revision=1")
    assert again.out == f"{name} skipped rollback (current template already matches revision 1)\n"
    for command in (("undo", f"{kind}/q", "--to-revision=7"), ("history", f"{kind}/q", "--revision=7")):
        missing = revisions("rollout", *command)
        assert (missing.code, missing.out) == (1, "")
        assert missing.err == f"error: {name}: unable to find specified revision 7 in history\n"


def test_restart_and_what_only_deployments_can(revisions: Cli, kind: str) -> None:
    name = f"{kind.lower()}.apps/q"
    assert revisions("rollout", "restart", f"{kind}/q").out == f"{name} restarted\n"
    raw = json.loads(revisions("get", kind.lower(), "q", "-o", "json").out)
    assert "kubectl.kubernetes.io/restartedAt" in raw["spec"]["template"]["metadata"]["annotations"]
    for verb, doing in (("pause", "pausing"), ("resume", "resuming")):
        refused = revisions("rollout", verb, f"{kind}/q")
        plural = f"{kind.lower()}s.apps"
        assert refused.err == f'error: {plural} "q" {doing} is not supported: deployments have it\n'
    late = revisions("rollout", "status", f"{kind}/q", "--timeout=100ms")
    assert late.code == 1
    assert "timed out waiting for the rollout" in late.err


def test_workloads_of_a_manifest_or_with_a_label(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.write_text(json.dumps(workload("DaemonSet", metadata={"labels": {"a": "b"}})))
    cli("apply", "-f", file)
    assert cli("rollout", "restart", "-f", file).out == "daemonset.apps/q restarted\n"
    assert cli("rollout", "restart", "ds", "-l", "a=b").out == "daemonset.apps/q restarted\n"
    assert cli("rollout", "restart", "ds", "-l", "a=c").err == "error: no daemonsets found\n"
    assert cli("rollout", "undo", "ds/q").err == "error: daemonset.apps/q: no last revision to roll back to\n"
