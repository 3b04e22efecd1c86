"""What `get` shows of each kind, in kubectl's columns. Rows are made of plain JSON, so a half-written object shows too.

A function takes the object and the time, and gives a cell for each of its kind's columns, the wide ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controllers.cli.durations import age, human_duration, parse_time
from informer.selectors import Selector

Raw = Mapping[str, Any]
NONE = "<none>"


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a kind, those for `-o wide` last."""

    names: Sequence[str]
    wide: Sequence[str]
    cells: Callable[[Raw, datetime], Sequence[str]]

    def header(self, *, wide: bool) -> list[str]:
        """The column names."""
        return [*self.names, *self.wide] if wide else [*self.names]

    def row(self, raw: Raw, now: datetime, *, wide: bool) -> list[str]:
        """The object's cells."""
        cells = [*self.cells(raw, now)]
        return cells if wide else cells[: len(self.names)]


def dig(raw: Any, *path: str) -> Any:
    """What is at this path, None where anything on the way is missing."""
    for part in path:
        if not isinstance(raw, Mapping):
            return None
        raw = raw.get(part)
    return raw


def items(raw: Any, *path: str) -> list[Any]:
    """The list of objects at this path, empty where there is none."""
    found = dig(raw, *path)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def number(raw: Any, *path: str) -> int:
    """The number at this path, 0 where there is none."""
    found = dig(raw, *path)
    return found if isinstance(found, int) else 0


def name_of(raw: Raw) -> str:
    """The object's name."""
    return str(dig(raw, "metadata", "name") or "")


def labels_text(labels: Any) -> str:
    """`a=b,c=d`, or `<none>`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) if labels else NONE


def selector_text(selector: Any) -> str:
    """A label selector as a string."""
    if not selector:
        return NONE
    return str(Selector.of(selector))


def _age(raw: Raw, now: datetime) -> str:
    return age(dig(raw, "metadata", "creationTimestamp"), now)


def _containers(raw: Raw, *path: str) -> tuple[str, str]:
    found = items(raw, *(path or ("spec", "template", "spec", "containers")))
    return ",".join(str(c.get("name")) for c in found), ",".join(str(c.get("image")) for c in found)


def _deployment(raw: Raw, now: datetime) -> Sequence[str]:
    names, images = _containers(raw)
    return (
        name_of(raw),
        f"{number(raw, 'status', 'readyReplicas')}/{number(raw, 'spec', 'replicas')}",
        str(number(raw, "status", "updatedReplicas")),
        str(number(raw, "status", "availableReplicas")),
        _age(raw, now),
        names,
        images,
        selector_text(dig(raw, "spec", "selector")),
    )


def _replica_set(raw: Raw, now: datetime) -> Sequence[str]:
    names, images = _containers(raw)
    return (
        name_of(raw),
        str(number(raw, "spec", "replicas")),
        str(number(raw, "status", "replicas")),
        str(number(raw, "status", "readyReplicas")),
        _age(raw, now),
        names,
        images,
        selector_text(dig(raw, "spec", "selector")),
    )


def _job(raw: Raw, now: datetime) -> Sequence[str]:
    names, images = _containers(raw)
    done, wanted = number(raw, "status", "succeeded"), dig(raw, "spec", "completions")
    parallel = number(raw, "spec", "parallelism")
    of = str(wanted) if wanted is not None else f"1 of {parallel}" if parallel > 1 else "1"
    start, end = (parse_time(dig(raw, "status", field)) for field in ("startTime", "completionTime"))
    return (
        name_of(raw),
        job_status(raw),
        f"{done}/{of}",
        human_duration(((end or now) - start).total_seconds()) if start is not None else "",
        _age(raw, now),
        names,
        images,
        selector_text(dig(raw, "spec", "selector")),
    )


def job_status(raw: Raw) -> str:
    """How far a Job is, in kubectl's word."""
    for kind in ("Complete", "Failed"):
        if condition(raw, kind) == "True":
            return kind
    if dig(raw, "metadata", "deletionTimestamp"):
        return "Terminating"
    known = ("Suspended", "FailureTarget", "SuccessCriteriaMet")
    return next((kind for kind in known if condition(raw, kind) == "True"), "Running")


def _cron_job(raw: Raw, now: datetime) -> Sequence[str]:
    template = ("spec", "jobTemplate", "spec")
    names, images = _containers(raw, *template, "template", "spec", "containers")
    last = dig(raw, "status", "lastScheduleTime")
    return (
        name_of(raw),
        str(dig(raw, "spec", "schedule") or ""),
        dig(raw, "spec", "timeZone") or NONE,
        str(bool(dig(raw, "spec", "suspend"))),
        str(len(items(raw, "status", "active"))),
        age(last, now) if last else NONE,
        _age(raw, now),
        names,
        images,
        selector_text(dig(raw, *template, "selector")),
    )


# ---- pods -----------------------------------------------------------------------------------------------------------


def pod_status(raw: Raw) -> str:
    """The STATUS column: the phase, or what is more telling about it."""
    status = dig(raw, "status") or {}
    phase = status.get("phase") or "Unknown"
    reason = status.get("reason") or phase
    if dig(raw, "metadata", "deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if phase not in ("Failed", "Succeeded"):
            return "Terminating"
    total = len(items(raw, "spec", "initContainers"))
    for index, container in enumerate(items(status, "initContainerStatuses")):
        ended, waiting = dig(container, "state", "terminated"), dig(container, "state", "waiting")
        if ended is not None and not ended.get("exitCode"):
            continue
        if ended is not None:
            return f"Init:{_ended(ended)}"
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{index}/{total}"
    running = False
    for container in reversed(items(status, "containerStatuses")):
        ended, waiting = dig(container, "state", "terminated"), dig(container, "state", "waiting")
        if waiting and waiting.get("reason"):
            reason = waiting["reason"]
        elif ended is not None:
            reason = _ended(ended)
        elif container.get("ready"):
            running = True
    if reason == "Completed" and running:
        return "Running" if condition(raw, "Ready") == "True" else "NotReady"
    return str(reason)


def _ended(state: Raw) -> str:
    if state.get("reason"):
        return str(state["reason"])
    return f"Signal:{state['signal']}" if state.get("signal") else f"ExitCode:{state.get('exitCode', 0)}"


def condition(raw: Raw, kind: str) -> str | None:
    """The status of a condition."""
    return next((c.get("status") for c in items(raw, "status", "conditions") if c.get("type") == kind), None)


def _pod(raw: Raw, now: datetime) -> Sequence[str]:
    containers = items(raw, "status", "containerStatuses")
    restarts = sum(number(c, "restartCount") for c in containers)
    ready = sum(1 for c in containers if c.get("ready") and dig(c, "state", "running") is not None)
    ends = [parse_time(dig(c, "lastState", "terminated", "finishedAt")) for c in containers]
    last = max((end for end in ends if end is not None), default=None)
    gates = items(raw, "spec", "readinessGates")
    passed = sum(condition(raw, str(gate.get("conditionType"))) == "True" for gate in gates)
    return (
        name_of(raw),
        f"{ready}/{len(items(raw, 'spec', 'containers'))}",
        pod_status(raw),
        f"{restarts} ({age(last.isoformat(), now)} ago)" if restarts and last else str(restarts),
        _age(raw, now),
        dig(raw, "status", "podIP") or NONE,
        dig(raw, "spec", "nodeName") or NONE,
        dig(raw, "status", "nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    )


# ---- the others -----------------------------------------------------------------------------------------------------


def node_status(raw: Raw) -> str:
    """`Ready`, `NotReady` or `Unknown`, and whether pods may be put there."""
    ready = {"True": "Ready", None: "Unknown"}.get(condition(raw, "Ready"), "NotReady")
    return f"{ready},SchedulingDisabled" if dig(raw, "spec", "unschedulable") else ready


def _node(raw: Raw, now: datetime) -> Sequence[str]:
    labels = dig(raw, "metadata", "labels") or {}
    roles = sorted(label.partition("/")[2] for label in labels if label.startswith("node-role.kubernetes.io/"))
    addresses = {each.get("type"): each.get("address") for each in items(raw, "status", "addresses")}
    info = dig(raw, "status", "nodeInfo") or {}
    return (
        name_of(raw),
        node_status(raw),
        ",".join(roles) or NONE,
        _age(raw, now),
        info.get("kubeletVersion") or NONE,
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    )


def service_ports(raw: Raw) -> str:
    """`80/TCP,443:30443/TCP`."""
    shown = []
    for port in items(raw, "spec", "ports"):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or NONE


def _external_ip(raw: Raw) -> str:
    spec = dig(raw, "spec") or {}
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    given = list(spec.get("externalIPs") or [])
    if spec.get("type") == "LoadBalancer":
        ingress = items(raw, "status", "loadBalancer", "ingress")
        given = [str(each.get("ip") or each.get("hostname")) for each in ingress] + given
        return ",".join(given) or "<pending>"
    return ",".join(given) or NONE


def _service(raw: Raw, now: datetime) -> Sequence[str]:
    spec = dig(raw, "spec") or {}
    return (
        name_of(raw),
        spec.get("type") or "ClusterIP",
        spec.get("clusterIP") or NONE,
        _external_ip(raw),
        service_ports(raw),
        _age(raw, now),
        labels_text(spec.get("selector")),
    )


def _config_map(raw: Raw, now: datetime) -> Sequence[str]:
    size = len(raw.get("data") or {}) + len(raw.get("binaryData") or {})
    return name_of(raw), str(size), _age(raw, now)


def _secret(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), raw.get("type") or "Opaque", str(len(raw.get("data") or {})), _age(raw, now)


def _service_account(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), str(len(raw.get("secrets") or [])), _age(raw, now)


def _namespace(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), dig(raw, "status", "phase") or "Active", _age(raw, now)


def _claim(raw: Raw, now: datetime) -> Sequence[str]:
    modes = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
    return (
        name_of(raw),
        "Terminating" if dig(raw, "metadata", "deletionTimestamp") else dig(raw, "status", "phase") or "Pending",
        dig(raw, "spec", "volumeName") or "",
        str(dig(raw, "status", "capacity", "storage") or ""),
        ",".join(modes.get(mode, mode) for mode in dig(raw, "status", "accessModes") or []),
        dig(raw, "spec", "storageClassName") or "",
        _age(raw, now),
        dig(raw, "spec", "volumeMode") or "Filesystem",
    )


def event_time(raw: Raw) -> str:
    """When an event was last seen."""
    return raw.get("lastTimestamp") or raw.get("eventTime") or raw.get("firstTimestamp") or ""


def _event(raw: Raw, now: datetime) -> Sequence[str]:
    about = dig(raw, "involvedObject") or {}
    source = dig(raw, "source") or {}
    said_by = [part for part in (source.get("component") or raw.get("reportingComponent"), source.get("host")) if part]
    return (
        age(event_time(raw), now),
        raw.get("type") or "",
        raw.get("reason") or "",
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        str(raw.get("message") or "").strip(),
        about.get("fieldPath") or "",
        ", ".join(said_by),
        age(raw.get("firstTimestamp") or raw.get("eventTime"), now),
        str(raw.get("count") or 1),
        name_of(raw),
    )


def _lease(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), dig(raw, "spec", "holderIdentity") or "", _age(raw, now)


def _definition(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), dig(raw, "metadata", "creationTimestamp") or ""


def _any(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), _age(raw, now)


_TEMPLATE = ("CONTAINERS", "IMAGES", "SELECTOR")
_ANY = Columns(("NAME", "AGE"), (), _any)
_BY_KIND = {
    "deployments.apps": Columns(("NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"), _TEMPLATE, _deployment),
    "replicasets.apps": Columns(("NAME", "DESIRED", "CURRENT", "READY", "AGE"), _TEMPLATE, _replica_set),
    "jobs.batch": Columns(("NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"), _TEMPLATE, _job),
    "cronjobs.batch": Columns(
        ("NAME", "SCHEDULE", "TIMEZONE", "SUSPEND", "ACTIVE", "LAST SCHEDULE", "AGE"), _TEMPLATE, _cron_job
    ),
    "pods": Columns(
        ("NAME", "READY", "STATUS", "RESTARTS", "AGE"), ("IP", "NODE", "NOMINATED NODE", "READINESS GATES"), _pod
    ),
    "nodes": Columns(
        ("NAME", "STATUS", "ROLES", "AGE", "VERSION"),
        ("INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"),
        _node,
    ),
    "services": Columns(("NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"), ("SELECTOR",), _service),
    "configmaps": Columns(("NAME", "DATA", "AGE"), (), _config_map),
    "secrets": Columns(("NAME", "TYPE", "DATA", "AGE"), (), _secret),
    "serviceaccounts": Columns(("NAME", "SECRETS", "AGE"), (), _service_account),
    "namespaces": Columns(("NAME", "STATUS", "AGE"), (), _namespace),
    "persistentvolumeclaims": Columns(
        ("NAME", "STATUS", "VOLUME", "CAPACITY", "ACCESS MODES", "STORAGECLASS", "AGE"), ("VOLUMEMODE",), _claim
    ),
    "events": Columns(
        ("LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"),
        ("SUBOBJECT", "SOURCE", "FIRST SEEN", "COUNT", "NAME"),
        _event,
    ),
    "leases.coordination.k8s.io": Columns(("NAME", "HOLDER", "AGE"), (), _lease),
    "customresourcedefinitions.apiextensions.k8s.io": Columns(("NAME", "CREATED AT"), (), _definition),
}


def columns_of(qualified: str) -> Columns:
    """The columns of a kind, by its qualified plural; NAME and AGE for those that have no columns of their own."""
    return _BY_KIND.get(qualified, _ANY)
