"""What a simulated kubelet makes of a pod: the stages it goes through, as data, and the status that each one gives.

| stage    | the pod is                   | becomes                           | after          |
|----------|------------------------------|-----------------------------------|----------------|
| starting | bound, its containers waiting | Running, not yet ready            | `start_delay`  |
| pulling  | the same, image not to be had | Pending, ImagePullBackOff, for good | `start_delay`  |
| readying | Running, not ready           | Ready                             | `ready_delay`  |
| ending   | being deleted                | gone                              | `delete_delay` |
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

import msgspec

from controllers.conditions import new_condition, without_condition
from informer.codecs import format_time

# A pod (or the template it is made of) with this annotation, or an image with this tag, can never start. So a bad
# rollout can be shown: `listwatch set image deployment/nginx nginx=nginx:does-not-exist`.
SIMULATE = "listwatch.dev/simulate"
IMAGE_PULL_ERROR = "image-pull-error"
MISSING_TAG = "does-not-exist"

Raw = dict[str, Any]


class Stage(enum.StrEnum):
    """What a pod goes through next."""

    STARTING = "starting"
    PULLING = "pulling"
    READYING = "readying"
    ENDING = "ending"


class _Container(msgspec.Struct, gc=False):
    image: str = ""


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] = []
    node_name: str = ""


class _Waiting(msgspec.Struct, gc=False):
    reason: str = ""


class _State(msgspec.Struct, gc=False):
    waiting: _Waiting | None = None


class _ContainerStatus(msgspec.Struct, gc=False):
    state: _State | None = None


class _Condition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, gc=False, rename="camel"):
    phase: str = ""
    conditions: list[_Condition] | None = None
    container_statuses: list[_ContainerStatus] | None = None
    pod_ip: str = msgspec.field(name="podIP", default="")


class _Metadata(msgspec.Struct, gc=False, rename="camel"):
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Pod).decode


class Seen(msgspec.Struct, frozen=True):
    """What a kubelet has to know of a pod: its node, its address, and what comes next (None: nothing)."""

    node: str
    pod_ip: str
    next: Stage | None


def look(data: bytes) -> Seen:
    """What comes next for a stored pod. Raises msgspec.ValidationError."""
    pod = _decode(data)
    return Seen(pod.spec.node_name, pod.status.pod_ip, _next(pod))


def _next(pod: _Pod) -> Stage | None:
    status = pod.status
    if pod.metadata.deletion_timestamp is not None:
        return Stage.ENDING
    if status.phase in ("Succeeded", "Failed"):
        return None
    if status.phase != "Running":
        if not _cannot_start(pod):
            return Stage.STARTING
        states = [each.state for each in status.container_statuses or ()]
        told = any(state is not None and state.waiting is not None and state.waiting.reason for state in states)
        return None if told else Stage.PULLING
    ready = any(each.type == "Ready" and each.status == "True" for each in status.conditions or ())
    return None if ready else Stage.READYING


def _cannot_start(pod: _Pod) -> bool:
    if (pod.metadata.annotations or {}).get(SIMULATE) == IMAGE_PULL_ERROR:
        return True
    return any(image_missing(each.image) for each in pod.spec.containers)


def image_missing(image: str) -> bool:
    """Whether an image is one that cannot be had."""
    return image.rpartition(":")[2] == MISSING_TAG


def start(raw: Raw, now: datetime, *, host_ip: str, pod_ip: str, uid: str) -> None:
    """The pod's containers run; in place."""
    status = raw.setdefault("status", {})
    stamp = format_time(now.replace(microsecond=0))
    spec = raw["spec"]
    status.update(_addresses(host_ip, pod_ip), phase="Running", startTime=stamp, qosClass=qos_class(spec))
    status["containerStatuses"] = [
        _container(each, uid, ready=False, state={"running": {"startedAt": stamp}}) for each in spec["containers"]
    ]
    if initial := spec.get("initContainers"):
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": stamp, "finishedAt": stamp}
        status["initContainerStatuses"] = [
            {**_container(each, uid, ready=True, state={"terminated": ended}), "started": False} for each in initial
        ]
    _set(status, "PodReadyToStartContainers", True, now)
    _set(status, "Initialized", True, now)
    _set_ready(status, spec, False, now)


def make_ready(raw: Raw, now: datetime) -> None:
    """The pod's containers serve; in place."""
    status = raw["status"]
    for each in status.get("containerStatuses") or ():
        each["ready"] = True
    _set_ready(status, raw["spec"], True, now)


def fail_to_pull(raw: Raw, now: datetime, *, host_ip: str, uid: str) -> None:
    """The pod's images cannot be had, so it waits; in place."""
    status = raw.setdefault("status", {})
    spec = raw["spec"]
    stamp = format_time(now.replace(microsecond=0))
    status.update(hostIP=host_ip, startTime=stamp, phase="Pending", qosClass=qos_class(spec))
    status["containerStatuses"] = [
        {
            **_container(each, uid, ready=False, state=_back_off(each["image"])),
            "started": False,
            "imageID": "",
            "containerID": "",
        }
        for each in spec["containers"]
    ]
    _set(status, "Initialized", True, now)
    _set_ready(status, spec, False, now)


def lose_node(raw: Raw, now: datetime) -> None:
    """Nobody hears of the pod's node any more, so the pod does not count as ready; in place."""
    _set_ready(raw.setdefault("status", {}), raw["spec"], False, now, reason="NodeNotReady")


def _back_off(image: str) -> Raw:
    return {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}


def _addresses(host_ip: str, pod_ip: str) -> Raw:
    return {"hostIP": host_ip, "hostIPs": [{"ip": host_ip}], "podIP": pod_ip, "podIPs": [{"ip": pod_ip}]}


def _container(container: Raw, uid: str, *, ready: bool, state: Raw) -> Raw:
    image = container["image"]
    return {
        "name": container["name"],
        "image": image,
        "imageID": f"docker.io/library/{image}",
        "containerID": f"containerd://{uid}/{container['name']}",
        "ready": ready,
        "started": True,
        "restartCount": 0,
        "state": state,
    }


def _set_ready(status: Raw, spec: Raw, ready: bool, now: datetime, reason: str = "ContainersNotReady") -> None:
    names = " ".join(each["name"] for each in spec["containers"])
    message = "" if ready else f"containers with unready status: [{names}]"
    for kind in ("Ready", "ContainersReady"):
        _set(status, kind, ready, now, "" if ready else reason, message)


def _set(status: Raw, kind: str, on: bool, now: datetime, reason: str = "", message: str = "") -> None:
    conditions = status.get("conditions") or []
    told = new_condition(kind, "True" if on else "False", reason, message, now)
    before = next((each for each in conditions if each["type"] == kind), None)
    if before is not None and before["status"] == told["status"]:
        told["lastTransitionTime"] = before.get("lastTransitionTime", told["lastTransitionTime"])
    told = {key: value for key, value in told.items() if value}
    status["conditions"] = [*without_condition(conditions, kind), told]


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
