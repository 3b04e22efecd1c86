"""The pages of `describe`, kind by kind, as kubectl lays them out."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controllers.cli.describers import _BY_KIND, Related, describe_object
from controllers.cli.raw import Raw
from tests.cli.conftest import Cli
from tests.cli.seeding import node, owned_by, pod, seed
from tests.cli.test_columns import LITTLE, autoscaler, utilization

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)


def page(kind: str, raw: dict[str, Any], *, owned: list[Raw] | None = None, **near: list[Raw]) -> list[str]:
    """The lines of an object's page."""
    metadata = {"name": "q", "namespace": "shop", **raw.pop("metadata", {})}
    kinds = {name.replace("__", ".").replace("_", "-"): found for name, found in near.items()}
    related = Related(owned or [], [], [], NOW, kinds)
    return describe_object({**raw, "metadata": metadata}, kind, related).splitlines()


def lines(text: str) -> list[str]:
    return inspect.cleandoc(text).splitlines()


def test_a_template() -> None:
    """In kubectl's order, a command as it writes them."""
    container = {"name": "c", "image": "db:1", "readinessProbe": {"exec": {"command": ["pg_isready", "-U", "shop"]}}}
    spread = {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}
    spec = {"priorityClassName": "front", "containers": [container], "topologySpreadConstraints": [spread]}
    found = page("daemonsets.apps", {"spec": {"selector": {}, "template": {"spec": spec}}})
    assert "      Readiness:    exec [pg_isready -U shop] delay=0s timeout=0s period=0s #success=0 #failure=0" in found
    titles = [line.partition(":")[0].strip() for line in found]
    at = titles.index("Volumes")
    wanted = ["Volumes", "Topology Spread Constraints", "Priority Class Name", "Node-Selectors", "Tolerations"]
    assert titles[at : at + 5] == wanted


def test_what_a_container_is_and_was() -> None:
    """A crash loop: how it ended and when."""
    last = {
        "reason": "Error", "exitCode": 137, "signal": 9,
        "startedAt": "2026-01-01T00:05:00Z", "finishedAt": "2026-01-01T00:06:00Z",
    }  # fmt: skip
    states = [
        {"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
         "lastState": {"terminated": last}, "restartCount": 3},
        {"name": "b", "state": {"running": {"startedAt": "2026-01-01T00:06:00Z"}}, "lastState": {}, "ready": True},
        {"name": "c", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
    ]  # fmt: skip
    ports = [{"containerPort": 80, "hostPort": 8080}]
    named: list[Raw] = [{"name": name, "image": "x", "ports": ports} for name in "abc"]
    everywhere = [{"operator": "Exists"}]
    found = page(
        "pods", {"spec": {"containers": named, "tolerations": everywhere}, "status": {"containerStatuses": states}}
    )
    text = "\n".join(" ".join(line.split()) for line in found)
    assert (
        "a: Image: x Port: 80/TCP Host Port: 8080/TCP State: Waiting Reason: CrashLoopBackOff Message: back-off 10s "
        "Last State: Terminated Reason: Error Exit Code: 137 Signal: 9 "
        "Started: 2026-01-01T00:05:00Z Finished: 2026-01-01T00:06:00Z Ready: false Restart Count: 3"
    ) in text.replace("\n", " ")
    assert "State: Running\nStarted: 2026-01-01T00:06:00Z\nReady: true" in text
    assert "State: Terminated\nReason: Completed\nExit Code: 0\nReady: false" in text
    assert "Tolerations: op=Exists" in text


def test_events_of_the_same_second_are_told_in_the_order_in_which_they_were_seen() -> None:
    def event(reason: str, revision: str) -> Raw:
        return {"reason": reason, "lastTimestamp": "2026-01-01T00:09:00Z", "metadata": {"resourceVersion": revision}}

    told = [event("Third", "101"), event("Second", "100"), event("First", "99")]
    text = describe_object({"metadata": {"name": "q"}}, "configmaps", Related([], [], told, NOW, {}))
    assert [word for word in text.split() if word in ("First", "Second", "Third")] == ["First", "Second", "Third"]


def test_a_stateful_set() -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    raw = {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "db"}}, "volumeClaimTemplates": [claim],
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}},
            "template": {
                "metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "db:1"}]},
            },
        },
        "status": {"replicas": 2},
    }  # fmt: skip
    running: Raw = {"kind": "Pod", "metadata": {"name": "q-0"}, "status": {"phase": "Running"}}
    assert page("statefulsets.apps", raw, owned=[running]) == lines(
        """
        Name:               q
        Namespace:          shop
        CreationTimestamp:  2026-01-01T00:00:00Z
        Selector:           app=db
        Labels:             <none>
        Annotations:        <none>
        Replicas:           3 desired | 2 total
        Update Strategy:    RollingUpdate
          Partition:  1
        Pods Status:  1 Running / 0 Waiting / 0 Succeeded / 0 Failed
        Pod Template:
          Labels:  app=db
          Containers:
            c:
              Image:        db:1
              Port:         <none>
              Host Port:    <none>
              Environment:  <none>
              Mounts:       <none>
          Volumes:         <none>
          Node-Selectors:  <none>
          Tolerations:     <none>
        Volume Claims:
          Name:          data
          StorageClass:  <none>
          Labels:        <none>
          Annotations:   <none>
          Capacity:      1Gi
          Access Modes:  [ReadWriteOnce]
        Owns:
          Object    State
          ------    -----
          Pod/q-0   Running
        Events:  <none>
        """
    )


def test_a_daemon_set() -> None:
    status = {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberMisscheduled": 1}
    shown = page("daemonsets.apps", {"spec": {"template": {}}, "status": status})
    assert "Desired Number of Nodes Scheduled: 3" in shown
    assert "Number of Nodes Misscheduled: 1" in shown


def test_a_job() -> None:
    raw = {
        "metadata": {"ownerReferences": [{"kind": "CronJob", "name": "night", "controller": True}]},
        "spec": {
            "parallelism": 2, "completions": 4, "completionMode": "Indexed", "backoffLimit": 6,
            "activeDeadlineSeconds": 90,
        },
        "status": {
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:02:30Z", "active": 1, "ready": 1,
            "succeeded": 3, "completedIndexes": "0-2",
        },
    }  # fmt: skip
    shown = page("jobs.batch", raw)
    for line in (
        "Controlled By:            CronJob/night",
        "Completion Mode:          Indexed",
        "Suspend:                  false",
        "Active Deadline Seconds:  90s",
        "Duration:                 2m30s",
        "Pods Statuses:            1 Active (1 Ready) / 3 Succeeded / 0 Failed",
        "Completed Indexes:        0-2",
    ):
        assert line in shown


def test_a_cron_job() -> None:
    raw = {"spec": {"schedule": "0 2 * * *", "jobTemplate": {"spec": {}}}, "status": {"active": [{"name": "q-1"}]}}
    shown = page("cronjobs.batch", raw)
    assert "Schedule:                      0 2 * * *" in shown
    assert "Starting Deadline Seconds:     <unset>" in shown
    assert "Last Schedule Time:  <unset>" in shown
    assert "Active Jobs:         q-1" in shown


def test_an_autoscaler() -> None:
    raw = autoscaler(utilization("cpu", 80, 42), minReplicas=2)
    raw["spec"]["behavior"] = {"scaleDown": {"stabilizationWindowSeconds": 60, "policies": [
        {"type": "Percent", "value": 50, "periodSeconds": 15}]}}  # fmt: skip
    raw["status"] |= {"desiredReplicas": 4, "conditions": [{"type": "AbleToScale", "status": "True", "reason": "Ok"}]}
    shown = page("horizontalpodautoscalers.autoscaling", raw)
    for line in (
        "Metrics:            ( current / target )",
        "  resource cpu on pods  (as a percentage of request):  42% / 80%",
        "Min replicas:  2",
        "    Stabilization Window:  60 seconds",
        "      - Type: Percent  Value: 50  Period: 15 seconds",
        "Deployment pods:  3 current / 4 desired",
    ):
        assert line in shown


def test_a_disruption_budget() -> None:
    raw = {
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "db"}}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3},
    }
    assert page("poddisruptionbudgets.policy", raw) == lines(
        """
        Name:           q
        Namespace:      shop
        Min available:  2
        Selector:       app=db
        Status:
          Allowed disruptions:  1
          Current:              3
          Desired:              2
          Total:                3
        Events:  <none>
        """
    )


def test_a_namespace_with_its_quota_and_limits() -> None:
    quota: Raw = {
        "metadata": {"name": "small", "namespace": "shop"},
        "status": {"hard": {"pods": "10"}, "used": {"pods": "3"}},
    }
    limits: Raw = {
        "metadata": {"name": "usual", "namespace": "shop"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}, "max": {"cpu": "2"}}]},
    }
    raw = {"metadata": {"name": "shop", "namespace": None}, "status": {"phase": "Active"}}
    shown = page("namespaces", dict(raw), resourcequotas=[quota], limitranges=[limits])
    assert "  Name:  small" in shown
    assert "  pods       3      10" in [line.rstrip() for line in shown]
    assert [line.split() for line in shown if "Container" in line] == [
        ["Container", "cpu", "-", "2", "-", "1", "-"],
    ]  # fmt: skip
    elsewhere = {**quota, "metadata": {"name": "small", "namespace": "other"}}
    bare = page("namespaces", dict(raw), resourcequotas=[elsewhere])
    assert "No resource quota." in bare
    assert "No LimitRange resource." in bare


def test_endpoints_and_slices() -> None:
    subset = {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    shown = page("endpoints", {"subsets": [subset]})
    assert "  Addresses:          10.0.0.1" in shown
    assert "  NotReadyAddresses:  <none>" in shown
    one = {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": "n1", "targetRef": {
        "kind": "Pod", "name": "p"}}  # fmt: skip
    sliced = page("endpointslices.discovery.k8s.io", {"addressType": "IPv4", "endpoints": [one], "ports": []})
    assert "AddressType:  IPv4" in sliced
    assert "    TargetRef:  Pod/p" in sliced
    assert "      Ready:  true" in sliced


def test_volumes() -> None:
    raw = {
        "metadata": {"namespace": None, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"},
            "claimRef": {"namespace": "shop", "name": "data"}, "persistentVolumeReclaimPolicy": "Retain",
        },
        "status": {"phase": "Bound"},
    }  # fmt: skip
    shown = page("persistentvolumes", raw)
    for line in (
        "Finalizers:      [kubernetes.io/pv-protection]",
        "Claim:           shop/data",
        "Access Modes:    RWO",
        "  Type:  HostPath",
        "  Path:  /data",
    ):
        assert line in shown
    user: Raw = {
        "metadata": {"name": "db-0", "namespace": "shop"},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "q"}}]},
    }
    assert "Used By:       db-0" in page("persistentvolumeclaims", {"spec": {}}, pods=[user])
    assert "IsDefaultClass:        No" in page("storageclasses.storage.k8s.io", {"provisioner": "x"})
    assert "Value:             7" in page("priorityclasses.scheduling.k8s.io", {"value": 7})


@pytest.mark.parametrize("kind", [*sorted(_BY_KIND), "websites.example.com"])
@pytest.mark.parametrize("raw", LITTLE)
def test_there_is_a_page_however_little_there_is(kind: str, raw: dict[str, Any]) -> None:
    shown = describe_object(raw, kind, Related([], [], [], NOW)).splitlines()
    assert shown[0].startswith("Name:")
    assert shown[-1].split() == ["Events:", "<none>"]


# ---- with a store ---------------------------------------------------------------------------------------------------


def test_what_a_node_has_given_away(cli: Cli, tmp_path: Path) -> None:
    resources = {"requests": {"cpu": "750m", "memory": "1Gi"}, "limits": {"cpu": "2"}}
    container = {"name": "c", "image": "i", "resources": resources}
    first = {"name": "f", "image": "i", "resources": {"requests": {"cpu": "3"}}}
    seed(
        tmp_path / "store",
        node("alpha"),
        pod("one", node="alpha", spec={"containers": [container]}),
        pod("two", node="alpha", spec={"containers": [container], "initContainers": [first]}),
        pod("done", node="alpha", spec={"containers": [container]}, status={"phase": "Succeeded"}),
        {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "alpha", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "alpha"},
        },
    )  # fmt: skip
    shown = [line.split() for line in cli("describe", "node", "alpha").lines]
    assert ["HolderIdentity:", "alpha"] in shown
    assert ["Non-terminated", "Pods", "(2", "in", "total):"] in shown
    one = next(line for line in shown if line[:2] == ["default", "one"])
    assert one[2:-1] == ["750m", "(18%)", "2", "(50%)", "1Gi", "(12%)", "0", "(0%)"]
    assert ["cpu", "3750m", "(93%)", "4", "(100%)"] in shown
    assert ["memory", "2Gi", "(25%)", "0", "(0%)"] in shown


def test_the_endpoints_of_a_service(cli: Cli, tmp_path: Path) -> None:
    ports = [{"name": "web", "containerPort": 8080}]
    container = {"name": "c", "image": "i", "ports": ports}
    labels = {"labels": {"app": "web"}}
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
    }  # fmt: skip
    seed(
        tmp_path / "store",
        service,
        pod("a", metadata=labels, spec={"containers": [container]}, status={"podIP": "10.0.0.1"}),
        pod("b", metadata=labels, spec={"containers": [container]}, status={"podIP": "10.0.0.2", "conditions": []}),
    )
    # Without controllers its pods tell.
    assert "Endpoints:                10.0.0.1:8080" in cli("describe", "svc/web").lines
    sliced = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.0.0.7"], "conditions": {"ready": True}},
            {"addresses": ["10.0.0.8"], "conditions": {"ready": False}},
        ],
    }  # fmt: skip
    seed(tmp_path / "store", sliced)
    assert "Endpoints:                10.0.0.7:8080" in cli("describe", "svc/web").lines


def test_owned_objects_have_states(cli: Cli, tmp_path: Path) -> None:
    (owner,) = seed(tmp_path / "store", pod("top"))
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "ownerReferences": owned_by(owner)},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}},
        "status": {"conditions": [{"type": "Failed", "status": "True"}]},
    }  # fmt: skip
    seed(tmp_path / "store", job)
    assert ["Job/j", "Failed"] in [line.split() for line in cli("describe", "pod/top").lines]
