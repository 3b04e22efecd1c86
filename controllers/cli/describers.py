"""What `describe` says of each kind: kubectl's fields, from plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.cli.columns import (
    NONE,
    dig,
    event_time,
    items,
    name_of,
    node_status,
    number,
    pod_status,
    selector_text,
    service_ports,
)
from controllers.cli.durations import age
from controllers.cli.page import Page
from informer.client import LAST_APPLIED

Raw = Mapping[str, Any]


class Related(msgspec.Struct, frozen=True):
    """What was found around an object: what it owns, the pods it concerns, and what events tell of it."""

    owned: Sequence[Raw]
    pods: Sequence[Raw]
    events: Sequence[Raw]
    now: datetime


def describe_object(raw: Raw, related: Related) -> str:
    """The whole page of an object."""
    page = Page()
    kind = raw.get("kind")
    describer = _BY_KIND.get(str(kind)) if "." not in str(raw.get("apiVersion")).partition("/")[0] else None
    if describer is None:
        _any(page, raw, related)
    else:
        describer(page, raw, related)
    _owned(page, raw, related)
    _events(page, related)
    return str(page)


# ---- parts ----------------------------------------------------------------------------------------------------------


def _pairs(values: Any) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(values.items())] if values else []


def _annotations(raw: Raw) -> list[str]:
    shown = {key: value for key, value in (dig(raw, "metadata", "annotations") or {}).items() if key != LAST_APPLIED}
    return [f"{key}: {value}" for key, value in sorted(shown.items())]


def _head(page: Page, raw: Raw) -> None:
    page.field("Name", name_of(raw))
    if dig(raw, "metadata", "namespace"):
        page.field("Namespace", dig(raw, "metadata", "namespace"))


def _labels(page: Page, raw: Raw) -> None:
    page.many("Labels", _pairs(dig(raw, "metadata", "labels")))
    page.many("Annotations", _annotations(raw))


def _owner(raw: Raw) -> str:
    managing = [each for each in items(raw, "metadata", "ownerReferences") if each.get("controller")]
    return f"{managing[0].get('kind')}/{managing[0].get('name')}" if managing else ""


def _deleting(page: Page, raw: Raw) -> None:
    if dig(raw, "metadata", "deletionTimestamp"):
        page.field("Status", "Terminating")
        page.field("Termination Grace Period", f"{number(raw, 'metadata', 'deletionGracePeriodSeconds')}s")
        if finalizers := dig(raw, "metadata", "finalizers"):
            page.field("Finalizers", ", ".join(finalizers))


def _conditions(page: Page, raw: Raw, columns: Sequence[str]) -> None:
    found = items(raw, "status", "conditions")
    if not found:
        return
    with page.section("Conditions"):
        fields = [f"{name[0].lower()}{name[1:]}" for name in columns]
        page.table(columns, [[str(each.get(field) or "") for field in fields] for each in found])


def _owned(page: Page, raw: Raw, related: Related) -> None:
    # A Deployment's ReplicaSets are told already, as old and new.
    told = "ReplicaSet" if raw.get("kind") == "Deployment" else ""
    if owned := [each for each in related.owned if each.get("kind") != told]:
        with page.section("Owns"):
            page.table(
                ("Object", "State"), [(f"{each.get('kind')}/{name_of(each)}", object_state(each)) for each in owned]
            )


def object_state(raw: Raw) -> str:
    """How an object is, in a word or two; empty for a kind that has no states."""
    kind = raw.get("kind")
    if kind == "Pod":
        return pod_status(raw)
    if dig(raw, "metadata", "deletionTimestamp"):
        return "Terminating"
    if kind in ("Deployment", "ReplicaSet"):
        return f"{number(raw, 'status', 'readyReplicas')}/{number(raw, 'spec', 'replicas')} ready"
    if kind == "Node":
        return node_status(raw)
    if phase := dig(raw, "status", "phase"):
        return str(phase)
    for each in items(raw, "status", "conditions"):
        if each.get("type") in ("Ready", "Available"):
            return str(each["type"] if each.get("status") == "True" else each.get("reason") or f"Not{each['type']}")
    return ""


def _events(page: Page, related: Related) -> None:
    if not related.events:
        page.field("Events", NONE)
        return
    rows = []
    for each in sorted(related.events, key=event_time):
        when = age(event_time(each), related.now)
        if number(each, "count") > 1:
            first = age(each.get("firstTimestamp"), related.now)
            when = f"{when} (x{number(each, 'count')} over {first})"
        source = dig(each, "source", "component") or each.get("reportingComponent") or ""
        message = str(each.get("message") or "").strip()
        rows.append((str(each.get("type") or ""), str(each.get("reason") or ""), when, source, message))
    with page.section("Events"):
        page.table(("Type", "Reason", "Age", "From", "Message"), rows)


def pod_template(page: Page, template: Any) -> None:
    """The pods that a controller makes."""
    page.many("Labels", _pairs(dig(template, "metadata", "labels")))
    if annotations := dig(template, "metadata", "annotations"):
        page.many("Annotations", [f"{key}: {value}" for key, value in sorted(annotations.items())])
    spec = dig(template, "spec") or {}
    if spec.get("serviceAccountName"):
        page.field("Service Account", spec["serviceAccountName"])
    _containers(page, "Init Containers", items(spec, "initContainers"), {})
    _containers(page, "Containers", items(spec, "containers"), {})
    _volumes(page, spec)
    page.many("Node-Selectors", _pairs(spec.get("nodeSelector")))
    page.many("Tolerations", [_toleration(each) for each in items(spec, "tolerations")])


def _containers(page: Page, title: str, containers: Sequence[Raw], states: Mapping[str, Raw]) -> None:
    if not containers:
        return
    with page.section(title):
        for container in containers:
            with page.section(str(container.get("name"))):
                _container(page, container, states.get(str(container.get("name"))))


def _container(page: Page, container: Raw, state: Raw | None) -> None:
    page.field("Image", container.get("image"))
    ports = [f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}" for port in items(container, "ports")]
    page.field("Ports" if len(ports) > 1 else "Port", ", ".join(ports))
    for field, title in (("command", "Command"), ("args", "Args")):
        if container.get(field):
            page.many(title, map(str, container[field]))
    if state is not None:
        _container_state(page, state)
    for field, title in (("limits", "Limits"), ("requests", "Requests")):
        if quantities := dig(container, "resources", field):
            page.many(title, [f"{key}: {value}" for key, value in sorted(quantities.items())])
    for field, title in (("livenessProbe", "Liveness"), ("readinessProbe", "Readiness"), ("startupProbe", "Startup")):
        if probe := container.get(field):
            page.field(title, _probe(probe))
    if sources := items(container, "envFrom"):
        page.many("Environment Variables from", [_env_source(each) for each in sources])
    page.many("Environment", [f"{each.get('name')}: {_env(each)}" for each in items(container, "env")])
    mounts = [
        f"{each.get('mountPath')} from {each.get('name')} ({'ro' if each.get('readOnly') else 'rw'})"
        for each in items(container, "volumeMounts")
    ]
    page.many("Mounts", mounts)


def _container_state(page: Page, status: Raw) -> None:
    for title, state in (("State", dig(status, "state") or {}), ("Last State", dig(status, "lastState") or {})):
        for kind in ("waiting", "running", "terminated"):
            if kind in state:
                details = state[kind] or {}
                since = f" since {details['startedAt']}" if kind == "running" and details.get("startedAt") else ""
                why = f" ({details['reason']})" if details.get("reason") else ""
                page.field(title, f"{kind.title()}{why}{since}")
    page.field("Ready", bool(status.get("ready")))
    page.field("Restart Count", number(status, "restartCount"))


def _probe(probe: Raw) -> str:
    http, tcp, command, grpc = (dig(probe, kind) for kind in ("httpGet", "tcpSocket", "exec", "grpc"))
    what = "unknown"
    if http is not None:
        scheme, host = http.get("scheme", "http").lower(), http.get("host", "")
        what = f"http-get {scheme}://{host}:{http.get('port')}{http.get('path', '/')}"
    elif tcp is not None:
        what = f"tcp-socket {tcp.get('host', '')}:{tcp.get('port')}"
    elif command is not None:
        what = f"exec {command.get('command')}"
    elif grpc is not None:
        what = f"grpc <pod>:{grpc.get('port')}"
    return (
        f"{what} delay={number(probe, 'initialDelaySeconds')}s timeout={number(probe, 'timeoutSeconds')}s "
        f"period={number(probe, 'periodSeconds')}s #success={number(probe, 'successThreshold')} "
        f"#failure={number(probe, 'failureThreshold')}"
    )


def _env_source(source: Raw) -> str:
    kind = "configMapRef" if "configMapRef" in source else "secretRef"
    prefix = f" with prefix {source['prefix']}" if source.get("prefix") else ""
    return f"{dig(source, kind, 'name')} ({'ConfigMap' if kind == 'configMapRef' else 'Secret'}){prefix}"


def _env(variable: Raw) -> str:
    source = dig(variable, "valueFrom")
    if not source:
        return str(variable.get("value", ""))
    for kind, title in (("configMapKeyRef", "config map"), ("secretKeyRef", "secret")):
        if kind in source:
            return f"<set to the key '{source[kind].get('key')}' in {title} '{source[kind].get('name')}'>"
    if "fieldRef" in source:
        return f"({source['fieldRef'].get('apiVersion', 'v1')}:{source['fieldRef'].get('fieldPath')})"
    return f"({dig(source, 'resourceFieldRef', 'resource')})"


def _volumes(page: Page, spec: Raw) -> None:
    volumes = items(spec, "volumes")
    if not volumes:
        page.field("Volumes", NONE)
        return
    with page.section("Volumes"):
        for volume in volumes:
            with page.section(str(volume.get("name"))):
                for kind, details in volume.items():
                    if kind != "name":
                        page.field("Type", kind[:1].upper() + kind[1:])
                        page.tree({key: value for key, value in (details or {}).items() if key != "defaultMode"})


def _toleration(each: Raw) -> str:
    value = f"={each['value']}" if each.get("value") else ""
    exists = f" op={each['operator']}" if each.get("operator") == "Exists" else ""
    seconds = f" for {each['tolerationSeconds']}s" if each.get("tolerationSeconds") is not None else ""
    effect = f":{each['effect']}" if each.get("effect") else ""
    return f"{each.get('key', '')}{value}{effect}{exists}{seconds}"


# ---- kinds ----------------------------------------------------------------------------------------------------------


def _deployment(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    page.field("CreationTimestamp", dig(raw, "metadata", "creationTimestamp"))
    _labels(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    status = dig(raw, "status") or {}
    counts = (
        f"{number(raw, 'spec', 'replicas')} desired",
        f"{number(status, 'updatedReplicas')} updated",
        f"{number(status, 'replicas')} total",
        f"{number(status, 'availableReplicas')} available",
        f"{number(status, 'unavailableReplicas')} unavailable",
    )
    page.field("Replicas", " | ".join(counts))
    page.field("StrategyType", dig(raw, "spec", "strategy", "type"))
    page.field("MinReadySeconds", number(raw, "spec", "minReadySeconds"))
    if rolling := dig(raw, "spec", "strategy", "rollingUpdate"):
        limits = f"{rolling.get('maxUnavailable')} max unavailable, {rolling.get('maxSurge')} max surge"
        page.field("RollingUpdateStrategy", limits)
    if dig(raw, "spec", "paused"):
        page.field("Paused", True)
    _deleting(page, raw)
    with page.section("Pod Template"):
        pod_template(page, dig(raw, "spec", "template"))
    _conditions(page, raw, ("Type", "Status", "Reason"))
    sets = [each for each in related.owned if each.get("kind") == "ReplicaSet"]
    revision = "deployment.kubernetes.io/revision"
    current = dig(raw, "metadata", "annotations", revision)
    newest = [each for each in sets if current and dig(each, "metadata", "annotations", revision) == current]
    olds = [each for each in sets if each not in newest and number(each, "spec", "replicas")]
    page.field("OldReplicaSets", ", ".join(map(_created, olds)))
    page.field("NewReplicaSet", ", ".join(map(_created, newest)))


def _created(raw: Raw) -> str:
    counts = f"{number(raw, 'status', 'replicas')}/{number(raw, 'spec', 'replicas')}"
    return f"{name_of(raw)} ({counts} replicas created)"


def _replica_set(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    _labels(page, raw)
    if _owner(raw):
        page.field("Controlled By", _owner(raw))
    page.field("Replicas", f"{number(raw, 'status', 'replicas')} current / {number(raw, 'spec', 'replicas')} desired")
    phases = [dig(each, "status", "phase") for each in related.owned if each.get("kind") == "Pod"]
    counts = [
        f"{sum(phase in known for phase in phases)} {title}"
        for title, known in (
            ("Running", ("Running",)),
            ("Waiting", ("Pending", None)),
            ("Succeeded", ("Succeeded",)),
            ("Failed", ("Failed",)),
        )
    ]
    page.field("Pods Status", " / ".join(counts))
    _deleting(page, raw)
    with page.section("Pod Template"):
        pod_template(page, dig(raw, "spec", "template"))
    _conditions(page, raw, ("Type", "Status", "Reason"))


def _pod(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    spec, status = dig(raw, "spec") or {}, dig(raw, "status") or {}
    if spec.get("serviceAccountName"):
        page.field("Service Account", spec["serviceAccountName"])
    where = [part for part in (spec.get("nodeName"), status.get("hostIP")) if part]
    page.field("Node", "/".join(where))
    if status.get("startTime"):
        page.field("Start Time", status["startTime"])
    _labels(page, raw)
    if dig(raw, "metadata", "deletionTimestamp"):
        _deleting(page, raw)
    else:
        page.field("Status", status.get("phase"))
    for field in ("reason", "message"):
        if status.get(field):
            page.field(field.title(), status[field])
    page.field("IP", status.get("podIP"))
    if _owner(raw):
        page.field("Controlled By", _owner(raw))
    states = {str(each.get("name")): each for each in items(status, "initContainerStatuses")}
    _containers(page, "Init Containers", items(spec, "initContainers"), states)
    states = {str(each.get("name")): each for each in items(status, "containerStatuses")}
    _containers(page, "Containers", items(spec, "containers"), states)
    _conditions(page, raw, ("Type", "Status"))
    _volumes(page, spec)
    if status.get("qosClass"):
        page.field("QoS Class", status["qosClass"])
    page.many("Node-Selectors", _pairs(spec.get("nodeSelector")))
    page.many("Tolerations", [_toleration(each) for each in items(spec, "tolerations")])


def _node(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    labels = dig(raw, "metadata", "labels") or {}
    roles = sorted(label.partition("/")[2] for label in labels if label.startswith("node-role.kubernetes.io/"))
    page.field("Roles", ",".join(roles))
    _labels(page, raw)
    page.field("CreationTimestamp", dig(raw, "metadata", "creationTimestamp"))
    page.many("Taints", [_taint(each) for each in items(raw, "spec", "taints")])
    page.field("Unschedulable", bool(dig(raw, "spec", "unschedulable")))
    page.field("Status", node_status(raw))
    _conditions(page, raw, ("Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"))
    if addresses := items(raw, "status", "addresses"):
        with page.section("Addresses"):
            for each in addresses:
                page.field(str(each.get("type")), each.get("address"))
    for field in ("capacity", "allocatable"):
        if quantities := dig(raw, "status", field):
            with page.section(field.title()):
                for key, value in sorted(quantities.items()):
                    page.field(key, value)
    if info := dig(raw, "status", "nodeInfo"):
        with page.section("System Info"):
            page.tree(info)
    running = [each for each in related.pods if dig(each, "status", "phase") not in ("Succeeded", "Failed")]
    with page.section(f"Non-terminated Pods ({len(running)} in total)"):
        rows = [(str(dig(each, "metadata", "namespace")), name_of(each), pod_status(each)) for each in running]
        page.table(("Namespace", "Name", "Status"), rows)


def _taint(each: Raw) -> str:
    value = f"={each['value']}" if each.get("value") else ""
    return f"{each.get('key')}{value}:{each.get('effect')}"


def _service(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    _labels(page, raw)
    spec = dig(raw, "spec") or {}
    page.field("Selector", ",".join(_pairs(spec.get("selector"))))
    page.field("Type", spec.get("type"))
    page.field("IP", spec.get("clusterIP"))
    page.field("Ports", service_ports(raw))
    for port in items(spec, "ports"):
        title = f" ({port['name']})" if port.get("name") else ""
        page.field(f"TargetPort{title}", f"{port.get('targetPort', port.get('port'))}/{port.get('protocol', 'TCP')}")
    ready = [str(dig(each, "status", "podIP")) for each in related.pods if _is_ready(each)]
    page.field("Endpoints", ", ".join(ready[:5]) + (f" + {len(ready) - 5} more" if len(ready) > 5 else ""))
    page.field("Session Affinity", spec.get("sessionAffinity"))


def _is_ready(raw: Raw) -> bool:
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in items(raw, "status", "conditions"))
    return ready and bool(dig(raw, "status", "podIP"))


def _config_map(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    _labels(page, raw)
    with page.section("Data"):
        for key, value in sorted((raw.get("data") or {}).items()):
            with page.section(key):
                for line in str(value).splitlines():
                    page.text(line)
    if binary := raw.get("binaryData"):
        with page.section("Binary Data"):
            for key, value in sorted(binary.items()):
                page.field(key, f"{len(str(value))} characters of base64")


def _secret(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    _labels(page, raw)
    page.field("Type", raw.get("type"))
    with page.section("Data"):
        for key, value in sorted((raw.get("data") or {}).items()):
            page.field(key, f"{len(str(value)) * 3 // 4 - str(value).count('=')} bytes")


def _any(page: Page, raw: Raw, related: Related) -> None:
    _head(page, raw)
    _labels(page, raw)
    page.field("API Version", raw.get("apiVersion"))
    page.field("Kind", raw.get("kind"))
    shown = ("name", "namespace", "labels", "annotations", "managedFields")
    with page.section("Metadata"):
        page.tree({key: value for key, value in (dig(raw, "metadata") or {}).items() if key not in shown})
    page.tree({key: value for key, value in raw.items() if key not in ("apiVersion", "kind", "metadata", "status")})
    status = dig(raw, "status")
    if isinstance(status, Mapping) and items(status, "conditions"):
        page.tree({"status": {key: value for key, value in status.items() if key != "conditions"}})
        _conditions(page, raw, ("Type", "Status", "LastTransitionTime", "Reason", "Message"))
    elif status is not None:
        page.tree({"status": status})


_BY_KIND: dict[str, Callable[[Page, Raw, Related], None]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "Pod": _pod,
    "Node": _node,
    "Service": _service,
    "ConfigMap": _config_map,
    "Secret": _secret,
}
