"""What a simulated kubelet makes of a pod: the stages it goes through, as data, and the status that each one gives.

| stage      | the pod is                   | becomes                           | after          |
|------------|------------------------------|-----------------------------------|----------------|
| starting   | bound, its containers waiting | Running, not yet ready            | `start_delay`  |
| pulling    | the same, image not to be had | Pending, ImagePullBackOff, for good | `start_delay`  |
| readying   | Running, not ready           | Ready                             | `ready_delay`  |
| finishing  | Ready, not restarted Always  | Succeeded, Failed; OnFailure: in CrashLoopBackOff | its run time |
| restarting | in CrashLoopBackOff          | Running and Ready                 | 10 s, doubled, up to 300 s |
| ending     | being deleted                | gone (Failed before, if a finalizer keeps it) | `delete_delay` |

How long a pod that ends runs, and how: by its annotations `listwatch.dev/run-seconds` ("5"; "1,5": drawn from evenly;
"forever") and `listwatch.dev/exit-code` ("1"; "0,0,3": one of these, drawn evenly); without them by what the commands
of its containers say: `sleep 5` is a run of 5 s, `exit 3` and the command `false` a failure; else after `run_time`, and
well.
"""

from __future__ import annotations

import enum
import random
import re
from collections.abc import Sequence
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

RUN_SECONDS = "listwatch.dev/run-seconds"
EXIT_CODE = "listwatch.dev/exit-code"
FOREVER = "forever"
TERMINATED = 143  # a shell's exit code for SIGTERM
BACK_OFF, MOST_BACK_OFF = 10.0, 300.0  # seconds; the kubelet's before it restarts a container

_SLEEP = re.compile(r"\bsleep\s+(\d+(?:\.\d+)?|infinity)\b")
_EXIT = re.compile(r"\bexit\s+(\d{1,3})\b")

CRASH_LOOP = "CrashLoopBackOff"

Raw = dict[str, Any]


class Stage(enum.StrEnum):
    """What a pod goes through next."""

    STARTING = "starting"
    PULLING = "pulling"
    READYING = "readying"
    FINISHING = "finishing"
    RESTARTING = "restarting"
    ENDING = "ending"


class _Container(msgspec.Struct, gc=False):
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None


class _Spec(msgspec.Struct, gc=False, rename="camel"):
    containers: list[_Container] = []
    node_name: str = ""
    restart_policy: str = "Always"


class _Waiting(msgspec.Struct, gc=False):
    reason: str = ""


class _State(msgspec.Struct, gc=False):
    waiting: _Waiting | None = None


class _ContainerStatus(msgspec.Struct, gc=False, rename="camel"):
    state: _State | None = None
    restart_count: int = 0


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
    finalizers: list[str] | None = None


class _Pod(msgspec.Struct, gc=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


_decode = msgspec.json.Decoder(_Pod).decode


class Seen(msgspec.Struct, frozen=True):
    """What a kubelet has to know of a pod: its node, its address, and what comes next (None: nothing).

    seconds: after how long, a pair to draw from, None if the pod leaves that open. kept: it has not ended, and a
    finalizer will keep it.
    """

    node: str
    pod_ip: str
    next: Stage | None
    seconds: float | tuple[float, float] | None = None
    kept: bool = False


def look(data: bytes) -> Seen:
    """What comes next for a stored pod. Raises msgspec.ValidationError."""
    pod = _decode(data)
    stage, seconds = _next(pod), None
    if stage is Stage.FINISHING:
        asked = _run_seconds(pod)
        if asked == FOREVER:
            stage = None
        elif not isinstance(asked, str):
            seconds = asked
    elif stage is Stage.RESTARTING:
        restarts = max(each.restart_count for each in pod.status.container_statuses or ())
        seconds = min(BACK_OFF * 2 ** min(restarts, 10), MOST_BACK_OFF)
    kept = bool(pod.metadata.finalizers) and pod.status.phase not in ("Succeeded", "Failed")
    return Seen(pod.spec.node_name, pod.status.pod_ip, stage, seconds, kept)


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
    if pod.spec.restart_policy != "Always" and _backs_off(status):
        return Stage.RESTARTING
    ready = any(each.type == "Ready" and each.status == "True" for each in status.conditions or ())
    if not ready:
        return Stage.READYING
    return None if pod.spec.restart_policy == "Always" else Stage.FINISHING


def _backs_off(status: _Status) -> bool:
    states = [each.state for each in status.container_statuses or ()]
    return any(each is not None and each.waiting is not None and each.waiting.reason == CRASH_LOOP for each in states)


def _run_seconds(pod: _Pod) -> float | tuple[float, float] | str | None:
    text = (pod.metadata.annotations or {}).get(RUN_SECONDS)
    if text is not None:
        if text.strip() == FOREVER:
            return FOREVER
        try:
            given = sorted(max(0.0, float(each)) for each in text.split(","))
        except ValueError:
            return None
        return given[0] if len(given) == 1 else (given[0], given[-1])
    slept = [_SLEEP.findall(_command(each.command, each.args)) for each in pod.spec.containers]
    if any("infinity" in each for each in slept):
        return FOREVER
    return max(sum(map(float, each)) for each in slept) if any(slept) else None


def _command(command: Sequence[str] | None, args: Sequence[str] | None) -> str:
    return " ".join([*(command or ()), *(args or ())])


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


def exit_codes(raw: Raw, rng: random.Random) -> list[int]:
    """How each of the pod's containers ends."""
    containers = raw["spec"]["containers"]
    text = (raw["metadata"].get("annotations") or {}).get(EXIT_CODE)
    given = [int(each) for each in text.split(",") if each.strip().isdecimal()] if text is not None else []
    if given:
        return [rng.choice(given)] * len(containers)
    return [_exit_code(each) for each in containers]


def _exit_code(container: Raw) -> int:
    command, args = container.get("command"), container.get("args")
    found = _EXIT.findall(_command(command, args))
    if found:
        return int(found[-1])
    return 1 if (command or args or [""])[0].rpartition("/")[2] == "false" else 0


def finish(raw: Raw, now: datetime, codes: Sequence[int]) -> bool:
    """The pod's containers end with these codes; in place. Whether the pod has ended too: if its containers are
    restarted when they fail, it waits for that."""
    status, spec = raw["status"], raw["spec"]
    # Those that have succeeded before another one was restarted stay as they are.
    running = [
        (container, code)
        for container, code in zip(status["containerStatuses"], codes, strict=True)
        if "running" in container["state"]
    ]
    failed = any(code for _, code in running)
    again = failed and spec["restartPolicy"] == "OnFailure"
    for container, code in running:
        _terminate(container, now, code)
        if code and again:
            message = f"back-off restarting failed container={container['name']}"
            container["lastState"] = container["state"]
            container["state"] = {"waiting": {"reason": CRASH_LOOP, "message": message}}
    if again:
        _set_ready(status, spec, False, now)
        return False
    _end(status, spec, now, failed=failed)
    return True


def restart(raw: Raw, now: datetime) -> None:
    """The containers that failed run again; in place."""
    status = raw["status"]
    for container in status["containerStatuses"]:
        if "waiting" in container["state"]:
            stamp = format_time(now.replace(microsecond=0))
            container.update(state={"running": {"startedAt": stamp}}, ready=True, started=True)
            container["restartCount"] += 1
    _set_ready(status, raw["spec"], True, now)


def terminate(raw: Raw, now: datetime) -> None:
    """The pod's containers are stopped, and it ends; in place. A pod whose containers have all succeeded has, too."""
    status = raw.setdefault("status", {})
    containers = status.get("containerStatuses") or []
    for container in containers:
        if "terminated" not in (container.get("state") or {}):
            _terminate(container, now, TERMINATED)
    failed = not containers or any(each["state"]["terminated"]["exitCode"] for each in containers)
    _end(status, raw["spec"], now, failed=failed)


def _terminate(container: Raw, now: datetime, code: int) -> None:
    stamp = format_time(now.replace(microsecond=0))
    started = ((container.get("state") or {}).get("running") or {}).get("startedAt", stamp)
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": started, "finishedAt": stamp}
    container.update(state={"terminated": ended}, ready=False, started=False)


def _end(status: Raw, spec: Raw, now: datetime, *, failed: bool) -> None:
    status["phase"] = "Failed" if failed else "Succeeded"
    _set_ready(status, spec, False, now, reason="PodFailed" if failed else "PodCompleted")


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
