"""What a kubelet makes of the fate of containers: their statuses, and from these the pod's phase and conditions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.core.stages.reading import ContainerChange
from informer.codecs import format_time

Raw = dict[str, Any]

CRASH_LOOP = "CrashLoopBackOff"
TERMINATED = 143  # a shell's exit code for SIGTERM


def _no_address() -> str:
    return ""


class Setting(msgspec.Struct):
    """Where and when a pod changes. address: gives the pod its IP. rng: for exit codes that are drawn. stamp: the time
    as Kubernetes writes it."""

    now: datetime
    host_ip: str = ""
    node: str = ""
    address: Callable[[], str] = _no_address
    rng: random.Random | None = None
    drawn: dict[str, int] = {}
    stamp: str = ""

    def __post_init__(self) -> None:
        self.stamp = format_time(self.now.replace(microsecond=0))


def change_containers(
    raw: Raw,
    changes: Sequence[ContainerChange],
    setting: Setting,
    code_of: Callable[[ContainerChange, Raw], int],
    *,
    initial: bool = False,
    text_of: Callable[[str, Raw], str] | None = None,
) -> list[tuple[Raw, bool]]:
    """Let the containers (initial: the init containers) go through changes, in place.

    code_of: what a container ends with. text_of: fills in a message. Returns the containers' specs, and whether each
    now waits to be started again.
    """
    spec, status = raw["spec"], raw.setdefault("status", {})
    stamp = setting.stamp
    if "startTime" not in status:
        status["startTime"] = stamp
        status["qosClass"] = qos_class(spec)
        if setting.host_ip:
            status["hostIP"] = setting.host_ip
            status["hostIPs"] = [{"ip": setting.host_ip}]
        status.setdefault("phase", "Pending")
    containers = spec.get("initContainers" if initial else "containers") or []
    field = "initContainerStatuses" if initial else "containerStatuses"
    known = {each["name"]: each for each in status.get(field) or ()}
    statuses = [_whole(each, known.get(each["name"])) for each in containers]
    changed: list[tuple[Raw, bool]] = []
    for change in changes:
        for index, container in enumerate(containers):
            current = statuses[index]
            if change.in_ and _state(current) not in change.in_:
                continue
            if change.names and container["name"] not in change.names:
                continue
            if current is None:
                current = statuses[index] = _fresh(container)
            message = change.message
            if message and text_of is not None:
                message = text_of(message, container)
            _apply(raw, container, current, change, message, stamp, code_of, initial)
            changed.append((container, current["state"].get("waiting", {}).get("reason") == CRASH_LOOP))
            if change.first:
                break
    pending = "PodInitializing" if spec.get("initContainers") else "ContainerCreating"
    status[field] = [
        each if each is not None else _fresh(container, pending)
        for container, each in zip(containers, statuses, strict=True)
    ]
    if not status.get("podIP") and any("running" in each["state"] for each in status[field]):
        if address := setting.address():
            status["podIP"] = address
            status["podIPs"] = [{"ip": address}]
        set_condition(status, "PodReadyToStartContainers", True, stamp)
    return changed


def _apply(
    raw: Raw,
    container: Raw,
    current: Raw,
    change: ContainerChange,
    message: str,
    stamp: str,
    code_of: Callable[[ContainerChange, Raw], int],
    initial: bool,
) -> None:
    before = current["state"]
    if change.state == "running":
        if "running" not in before:
            if "terminated" in before:
                current["lastState"] = before
            if "terminated" in current.get("lastState", ()):
                current["restartCount"] += 1
            uid = raw["metadata"].get("uid", "")
            current["state"] = {"running": {"startedAt": stamp}}
            current["imageID"] = f"docker.io/library/{container['image']}"
            current["containerID"] = f"containerd://{uid}/{container['name']}"
            current["ready"], current["started"] = False, True
    elif change.state == "waiting":
        if "terminated" in before:
            current["lastState"] = before
        current["state"] = {"waiting": _told(change.reason, message)}
        current["ready"] = current["started"] = False
    elif change.state == "terminated":
        code = code_of(change, container)
        started = (before.get("running") or {}).get("startedAt", stamp)
        reason = change.reason or ("Error" if code else "Completed")
        ended = {"exitCode": code, **_told(reason, message), "startedAt": started, "finishedAt": stamp}
        current["state"] = {"terminated": ended}
        current["ready"] = current["started"] = False
        if change.back_off and _restarts(raw, code, initial=initial):
            current["lastState"] = current["state"]
            back_off = f"back-off restarting failed container={container['name']}"
            current["state"] = {"waiting": {"reason": CRASH_LOOP, "message": back_off}}
    if change.ready is not None:
        current["ready"] = change.ready


def _told(reason: str, message: str) -> Raw:
    told = {"reason": reason} if reason else {}
    if message:
        told["message"] = message
    return told


def _fresh(container: Raw, reason: str = "ContainerCreating") -> Raw:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "containerID": "",
        "ready": False,
        "started": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason}},
    }


def _whole(container: Raw, current: Raw | None) -> Raw | None:
    """The status with all that is read of it: a template may have written but a part."""
    if current is None or (current.get("state") and "restartCount" in current and "ready" in current):
        return current
    fresh = _fresh(container)
    return {**fresh, **current, "state": current.get("state") or fresh["state"]}


def _state(current: Raw | None) -> str:
    if current is None:
        return "new"
    return str(next(iter(current["state"])))


def _restarts(raw: Raw, code: int, *, initial: bool = False) -> bool:
    """Whether a container that ended with this code is started again."""
    if raw["metadata"].get("deletionTimestamp"):
        return False
    policy = raw["spec"].get("restartPolicy", "Always")
    return (policy == "Always" and not (initial and not code)) or (policy == "OnFailure" and code != 0)


def follow(raw: Raw, setting: Setting, phase: str | None = None) -> None:
    """Bring a pod's phase and conditions in line with its containers, in place. phase: it is said to be this."""
    status, stamp = raw["status"], setting.stamp
    if phase is not None:
        status["phase"] = phase
    elif status.get("phase") not in ("Succeeded", "Failed"):
        status["phase"] = _phase(raw, status)
    waiting = [each for each in status.get("initContainerStatuses") or () if _ended(each) != 0]
    if waiting:
        incomplete = f"containers with incomplete status: [{' '.join(each['name'] for each in waiting)}]"
        set_condition(status, "Initialized", False, stamp, "ContainersNotInitialized", incomplete)
    else:
        set_condition(status, "Initialized", True, stamp)
    if status["phase"] in ("Succeeded", "Failed"):
        ready, reason, message = False, "PodCompleted" if status["phase"] == "Succeeded" else "PodFailed", ""
    else:
        # A container that is done and not started again is none that somebody waits for.
        statuses = status.get("containerStatuses") or ()
        unready = [each["name"] for each in statuses if not each["ready"] and not _done(raw, each)]
        ready = bool(statuses) and not unready
        reason = message = ""
        if not ready:
            reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    set_condition(status, "Ready", ready, stamp, reason, message)
    set_condition(status, "ContainersReady", ready, stamp, reason, message)


def _done(raw: Raw, current: Raw) -> bool:
    return _ended(current) == 0 and not _restarts(raw, 0)


def _ended(current: Raw) -> int | None:
    ended = (current.get("state") or {}).get("terminated")
    return None if ended is None else int(ended.get("exitCode", 0))


def _phase(raw: Raw, status: Raw) -> str:
    """As the kubelet's getPhase."""
    policy = raw["spec"].get("restartPolicy", "Always")
    statuses = status.get("containerStatuses") or ()
    codes = [_ended(each) for each in statuses]
    if raw["metadata"].get("deletionTimestamp") and None not in codes:
        return "Succeeded" if codes and not any(codes) else "Failed"
    initial = [_ended(each) for each in status.get("initContainerStatuses") or ()]
    if policy == "Never" and any(initial):
        return "Failed"
    # One that waits to be started again has run; only one that never did keeps the pod Pending.
    unborn = [each for each in statuses if "waiting" in each["state"] and not each.get("lastState")]
    if any(code != 0 for code in initial) or unborn or not statuses:
        return "Pending"
    if None in codes or policy == "Always":
        return "Running"
    if not any(codes):
        return "Succeeded"
    return "Failed" if policy == "Never" else "Running"


def set_condition(
    status: Raw, kind: str, on: bool | str, stamp: str, reason: str = "", message: str = "", **more: Any
) -> None:
    """Put a condition in, in place. The transition time changes with the status only."""
    text = on if isinstance(on, str) else "True" if on else "False"
    told: Raw = {"type": kind, "status": text, **_told(reason, message), **more}
    told.setdefault("lastTransitionTime", stamp)
    conditions = status.get("conditions")
    if conditions is None:
        conditions = status["conditions"] = []
    for index, each in enumerate(conditions):
        if each["type"] == kind:
            if each["status"] == text and "lastTransitionTime" not in more:
                told["lastTransitionTime"] = each.get("lastTransitionTime", stamp)
            conditions[index] = told
            return
    conditions.append(told)


def qos_class(spec: Raw) -> str:
    """Guaranteed, Burstable or BestEffort, by what the containers request and are limited to."""
    guaranteed, any_set = True, False
    for container in [*spec["containers"], *(spec.get("initContainers") or ())]:
        resources = container.get("resources") or {}
        limits = resources.get("limits") or {}
        requests = {**limits, **(resources.get("requests") or {})}
        any_set = any_set or bool(requests)
        for resource in ("cpu", "memory"):
            if resource not in limits or str(requests[resource]) != str(limits[resource]):
                guaranteed = False
    return "BestEffort" if not any_set else "Guaranteed" if guaranteed else "Burstable"
