"""Pods."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.durations import age, parse_time
from controllers.cli.raw import NONE, Raw, age_of, condition, dig, is_deleting, items, mapping, name_of, number, text


def pod_status(raw: Raw) -> str:
    """The STATUS column: the phase, or what is more telling about it."""
    status = mapping(raw, "status")
    phase = status.get("phase") or "Unknown"
    reason = status.get("reason") or phase
    if is_deleting(raw):
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
    if phase == "Pending" and _is_gated(raw):
        reason = "SchedulingGated"
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


def _is_gated(raw: Raw) -> bool:
    found = items(raw, "status", "conditions")
    return any(each.get("type") == "PodScheduled" and each.get("reason") == "SchedulingGated" for each in found)


def _ended(state: Raw) -> str:
    if state.get("reason"):
        return str(state["reason"])
    return f"Signal:{state['signal']}" if state.get("signal") else f"ExitCode:{state.get('exitCode', 0)}"


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
        age_of(raw, now),
        text(raw, "status", "podIP", otherwise=NONE),
        text(raw, "spec", "nodeName", otherwise=NONE),
        text(raw, "status", "nominatedNodeName", otherwise=NONE),
        f"{passed}/{len(gates)}" if gates else NONE,
    )


_WIDE = ("IP", "NODE", "NOMINATED NODE", "READINESS GATES")
COLUMNS = {"pods": Columns(("NAME", "READY", "STATUS", "RESTARTS", "AGE", *_WIDE), _pod, wide=_WIDE)}
