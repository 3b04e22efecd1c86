"""The tables of `get`, kind by kind, as kubectl has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from controllers.cli.columns import _BY_KIND, columns_of
from controllers.kinds import BUILTIN_KINDS

NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
TEMPLATE = {
    "spec": {
        "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}],
        "nodeSelector": {"disk": "ssd", "arch": "arm64"},
    }
}
SELECTOR = {"matchLabels": {"app": "q"}}


def table(kind: str, raw: dict[str, Any], *, wide: bool = False) -> dict[str, str]:
    """The row of an object that is ten minutes old, by column."""
    metadata = {"name": "q", "creationTimestamp": "2026-01-01T00:00:00Z", **raw.pop("metadata", {})}
    columns = columns_of(kind)
    return dict(zip(columns.header(wide=wide), columns.row({**raw, "metadata": metadata}, NOW, wide=wide), strict=True))


def test_stateful_sets() -> None:
    raw = {"spec": {"replicas": 3, "template": TEMPLATE}, "status": {"readyReplicas": 2}}
    assert table("statefulsets.apps", dict(raw)) == {"NAME": "q", "READY": "2/3", "AGE": "10m"}
    assert table("statefulsets.apps", dict(raw), wide=True) == {
        "NAME": "q", "READY": "2/3", "AGE": "10m", "CONTAINERS": "a,b", "IMAGES": "x:1,y:2",
    }  # fmt: skip


def test_daemon_sets() -> None:
    status = {
        "desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 2,
        "numberAvailable": 1,
    }  # fmt: skip
    raw = {"spec": {"selector": SELECTOR, "template": TEMPLATE}, "status": status}
    assert table("daemonsets.apps", raw, wide=True) == {
        "NAME": "q", "DESIRED": "5", "CURRENT": "4", "READY": "3", "UP-TO-DATE": "2", "AVAILABLE": "1",
        "NODE SELECTOR": "arch=arm64,disk=ssd", "AGE": "10m", "CONTAINERS": "a,b", "IMAGES": "x:1,y:2",
        "SELECTOR": "app=q",
    }  # fmt: skip
    assert table("daemonsets.apps", {})["NODE SELECTOR"] == "<none>"


def test_controller_revisions() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": True}
    raw = {"metadata": {"ownerReferences": [owner]}, "revision": 4}
    assert table("controllerrevisions.apps", raw) == {
        "NAME": "q", "CONTROLLER": "statefulset.apps/db", "REVISION": "4", "AGE": "10m",
    }  # fmt: skip
    assert table("controllerrevisions.apps", {})["CONTROLLER"] == "<none>"


def utilization(resource: str, target: int, now: int | None) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = {"type": "Resource", "resource": {"name": resource, "target": {"averageUtilization": target}}}
    current = {} if now is None else {"averageUtilization": now}
    return spec, {"type": "Resource", "resource": {"name": resource, "current": current}}


def autoscaler(*metrics: tuple[dict[str, Any], dict[str, Any]], **spec: Any) -> dict[str, Any]:
    return {
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 9,
            "metrics": [each for each, _ in metrics], **spec,
        },
        "status": {"currentReplicas": 3, "currentMetrics": [each for _, each in metrics]},
    }  # fmt: skip


def test_autoscalers() -> None:
    kind = "horizontalpodautoscalers.autoscaling"
    assert table(kind, autoscaler(utilization("cpu", 80, 42), minReplicas=2)) == {
        "NAME": "q", "REFERENCE": "Deployment/web", "TARGETS": "cpu: 42%/80%", "MINPODS": "2", "MAXPODS": "9",
        "REPLICAS": "3", "AGE": "10m",
    }  # fmt: skip
    bare = table(kind, autoscaler())
    assert (bare["TARGETS"], bare["MINPODS"]) == ("<none>", "<unset>")
    unknown = table(kind, autoscaler(utilization("cpu", 80, None), utilization("memory", 50, 10)))
    assert unknown["TARGETS"] == "cpu: <unknown>/80%, memory: 10%/50%"
    pods = (
        {"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"averageValue": "1k"}}},
        {"type": "Pods", "pods": {"current": {"averageValue": "500"}}},
    )
    external = (
        {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"averageValue": "30"}}},
        {"type": "External", "external": {"current": {"averageValue": "20"}}},
    )
    assert table(kind, autoscaler(pods, external))["TARGETS"] == "500/1k, 20/30 (avg)"
    assert table(kind, autoscaler(pods, pods, pods))["TARGETS"] == "500/1k, 500/1k + 1 more..."


def test_disruption_budgets() -> None:
    raw = {"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}
    assert table("poddisruptionbudgets.policy", raw) == {
        "NAME": "q", "MIN AVAILABLE": "50%", "MAX UNAVAILABLE": "N/A", "ALLOWED DISRUPTIONS": "1", "AGE": "10m",
    }  # fmt: skip
    assert table("poddisruptionbudgets.policy", {"spec": {"maxUnavailable": 0}})["MAX UNAVAILABLE"] == "0"


def test_endpoints() -> None:
    subset = {
        "addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}],
        "notReadyAddresses": [{"ip": "10.0.0.9"}],
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
    }
    assert table("endpoints", {"subsets": [subset]}) == {
        "NAME": "q", "ENDPOINTS": "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more...", "AGE": "10m",
    }  # fmt: skip
    assert table("endpoints", {"subsets": []})["ENDPOINTS"] == "<none>"


def test_endpoint_slices() -> None:
    raw = {
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [f"10.0.0.{i}"]} for i in range(5)],
    }  # fmt: skip
    assert table("endpointslices.discovery.k8s.io", raw) == {
        "NAME": "q", "ADDRESSTYPE": "IPv4", "PORTS": "8080",
        "ENDPOINTS": "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more...", "AGE": "10m",
    }  # fmt: skip
    empty = table("endpointslices.discovery.k8s.io", {"ports": None, "endpoints": []})
    assert (empty["PORTS"], empty["ENDPOINTS"]) == ("<unset>", "<unset>")


def test_volumes() -> None:
    raw = {
        "spec": {
            "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "fast",
            "claimRef": {"namespace": "shop", "name": "data-db-0"},
        },
        "status": {"phase": "Bound"},
    }  # fmt: skip
    assert table("persistentvolumes", dict(raw)) == {
        "NAME": "q", "CAPACITY": "8Gi", "ACCESS MODES": "RWO,ROX", "RECLAIM POLICY": "Delete", "STATUS": "Bound",
        "CLAIM": "shop/data-db-0", "STORAGECLASS": "fast", "VOLUMEATTRIBUTESCLASS": "<unset>", "REASON": "",
        "AGE": "10m",
    }  # fmt: skip
    assert table("persistentvolumes", dict(raw), wide=True)["VOLUMEMODE"] == "Filesystem"


def test_claims_show_their_size_when_they_are_bound() -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}
    status = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "8Gi"}}
    waiting = table("persistentvolumeclaims", {"spec": dict(spec), "status": {"phase": "Pending"}})
    assert [waiting[name] for name in ("STATUS", "VOLUME", "CAPACITY", "ACCESS MODES")] == ["Pending", "", "", ""]
    bound = table("persistentvolumeclaims", {"spec": {**spec, "volumeName": "pv-1"}, "status": status})
    assert [bound[name] for name in ("STATUS", "VOLUME", "CAPACITY", "ACCESS MODES", "STORAGECLASS")] == [
        "Bound", "pv-1", "8Gi", "RWO", "fast",
    ]  # fmt: skip


def test_storage_classes() -> None:
    default = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    assert table("storageclasses.storage.k8s.io", {"metadata": default, "provisioner": "example.com/disk"}) == {
        "NAME": "q (default)", "PROVISIONER": "example.com/disk", "RECLAIMPOLICY": "Delete",
        "VOLUMEBINDINGMODE": "Immediate", "ALLOWVOLUMEEXPANSION": "false", "AGE": "10m",
    }  # fmt: skip


def test_quotas() -> None:
    hard = {"requests.cpu": "2", "pods": "10", "limits.cpu": "4"}
    assert table("resourcequotas", {"status": {"hard": hard, "used": {"pods": "3", "limits.cpu": "1"}}}) == {
        "NAME": "q", "REQUEST": "pods: 3/10, requests.cpu: 0/2", "LIMIT": "limits.cpu: 1/4", "AGE": "10m",
    }  # fmt: skip


def test_limit_ranges_and_priorities() -> None:
    assert table("limitranges", {}) == {"NAME": "q", "CREATED AT": "2026-01-01T00:00:00Z"}
    raw = {"value": 1000, "globalDefault": True, "preemptionPolicy": "Never"}
    assert table("priorityclasses.scheduling.k8s.io", raw) == {
        "NAME": "q", "VALUE": "1000", "GLOBAL-DEFAULT": "true", "AGE": "10m", "PREEMPTIONPOLICY": "Never",
    }  # fmt: skip


def test_the_wide_columns_of_events_stand_where_kubectl_has_them() -> None:
    assert columns_of("events").header(wide=False) == ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert columns_of("events").header(wide=True) == [
        "LAST SEEN", "TYPE", "REASON", "OBJECT", "SUBOBJECT", "SOURCE", "MESSAGE", "FIRST SEEN", "COUNT", "NAME",
    ]  # fmt: skip


def test_a_pod_that_is_held_back() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
    assert table("pods", {"status": {"phase": "Pending", "conditions": [condition]}})["STATUS"] == "SchedulingGated"


def initializing(*statuses: dict[str, Any], **status: Any) -> dict[str, Any]:
    """A pod with a sidecar between two init containers, and two containers."""
    init = [{"name": "a"}, {"name": "proxy", "restartPolicy": "Always"}, {"name": "b"}]
    named = [{"name": spec["name"], **each} for spec, each in zip(init, statuses, strict=False)]
    spec = {"initContainers": init, "containers": [{"name": "c"}, {"name": "d"}]}
    return {"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": named, **status}}


OVER: dict[str, Any] = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "restartCount": 2}
ENDED = {"terminated": {"finishedAt": "2026-01-01T00:09:00Z"}}
SIDECAR: dict[str, Any] = {
    "started": True, "ready": True, "restartCount": 1, "state": {"running": {}}, "lastState": ENDED,
}  # fmt: skip
WAITING: dict[str, Any] = {"state": {"waiting": {"reason": "PodInitializing"}}}
UP: dict[str, Any] = {"ready": True, "state": {"running": {}}}
AGO = "1 (60s ago)"


@pytest.mark.parametrize(
    ("raw", "ready", "status", "restarts"),
    [
        (initializing(WAITING, WAITING, WAITING), "0/3", "Init:0/3", "0"),
        (initializing(OVER, {"state": {"running": {}}}, WAITING), "0/3", "Init:1/3", "2"),
        (initializing(OVER, SIDECAR, {"state": {"running": {}}}), "1/3", "Init:2/3", "3 (60s ago)"),
        (initializing(OVER, SIDECAR, OVER, containerStatuses=[WAITING, WAITING]), "1/3", "PodInitializing", AGO),
        (initializing(OVER, SIDECAR, OVER, phase="Running", containerStatuses=[UP, UP]), "3/3", "Running", AGO),
        (
            initializing(WAITING, conditions=[{"type": "Initialized", "status": "True"}], containerStatuses=[UP]),
            "1/3", "Pending", "0",
        ),
        (
            initializing({"state": {"terminated": {"exitCode": 2}}, "restartCount": 4, "lastState": ENDED}),
            "0/3", "Init:ExitCode:2", "4 (60s ago)",
        ),
    ],
)  # fmt: skip
def test_sidecars_and_init_containers_in_a_pods_row(
    raw: dict[str, Any], ready: str, status: str, restarts: str
) -> None:
    row = table("pods", raw)
    assert (row["READY"], row["STATUS"], row["RESTARTS"]) == (ready, status, restarts)


def test_every_built_in_kind_has_columns_of_its_own() -> None:
    assert {cls.TYPE.qualified for cls in BUILTIN_KINDS} - set(_BY_KIND) == set()


LITTLE: list[dict[str, Any]] = [
    {},
    {"metadata": None, "spec": None, "status": []},
    {"metadata": {"name": "x", "labels": []}, "spec": [], "status": "odd", "subsets": {}, "endpoints": [1], "ports": 5},
    {"metadata": {"ownerReferences": [{"controller": True}]}, "spec": {"metrics": [{}], "claimRef": 5}, "value": "x"},
]


@pytest.mark.parametrize("kind", [*sorted(_BY_KIND), "websites.example.com"])
@pytest.mark.parametrize("raw", LITTLE)
def test_rows_fit_their_columns_however_little_there_is(kind: str, raw: dict[str, Any]) -> None:
    columns = columns_of(kind)
    for wide in (True, False):
        row = columns.row(raw, NOW, wide=wide)
        assert len(row) == len(columns.header(wide=wide))
        assert all(isinstance(cell, str) for cell in row)
