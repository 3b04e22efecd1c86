"""Pods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.durations import age, parse_time
from controllers.cli.raw import NONE, Raw, age_of, condition, dig, is_deleting, items, mapping, name_of, number, text


@dataclass(slots=True)
class _Count:
    """What a row adds up over the containers that count."""

    ready: int = 0
    restarts: int = 0
    ends: list[datetime] = field(default_factory=list)

    def add(self, container: Raw, *, ready: bool) -> None:
        self.ready += ready
        self.restarts += number(container, "restartCount")
        if end := parse_time(dig(container, "lastState", "terminated", "finishedAt")):
            self.ends.append(end)


def pod_status(raw: Raw) -> str:
    """The STATUS column: the phase, or what is more telling about it."""
    return _look(raw)[0]


def _look(raw: Raw) -> tuple[str, _Count]:
    """STATUS, and what READY and RESTARTS are made of: as kube-apiserver does, from the init containers on."""
    status = mapping(raw, "status")
    phase = text(status, "phase", otherwise="Unknown")
    reason = "SchedulingGated" if _is_gated(raw) else text(status, "reason", otherwise=phase)
    count = _Count()
    reason = _initializing(raw, count) or _of_containers(raw, reason, count)
    if is_deleting(raw):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif phase not in ("Failed", "Succeeded"):
            reason = "Terminating"
    return reason, count


def _sidecars(raw: Raw) -> set[str]:
    """The init containers that go on beside the others."""
    return {
        text(each, "name") for each in items(raw, "spec", "initContainers") if each.get("restartPolicy") == "Always"
    }


def _initializing(raw: Raw, count: _Count) -> str:
    """What is to be said of the init container that the others wait for; "" if there is none.

    Sidecars are counted, and all init containers as long as one of them is waited for.
    """
    sidecars, waiting_for = _sidecars(raw), ""
    others = _Count()
    for index, container in enumerate(items(raw, "status", "initContainerStatuses")):
        is_sidecar = text(container, "name") in sidecars
        ended, waiting = dig(container, "state", "terminated"), text(container, "state", "waiting", "reason")
        is_over = ended is not None and not dig(ended, "exitCode")
        goes_on = is_sidecar and container.get("started") is True and not is_over
        (count if is_sidecar else others).add(container, ready=goes_on and bool(container.get("ready")))
        if is_over or goes_on:
            continue
        if ended is not None:
            waiting_for = f"Init:{_ended(ended)}"
        elif waiting not in ("", "PodInitializing"):
            waiting_for = f"Init:{waiting}"
        else:
            waiting_for = f"Init:{index}/{len(items(raw, 'spec', 'initContainers'))}"
        break
    if not waiting_for or condition(raw, "Initialized") == "True":
        return ""
    count.restarts += others.restarts
    count.ends += others.ends
    return waiting_for


def _of_containers(raw: Raw, reason: str, count: _Count) -> str:
    """What the containers are at; `reason` where they have nothing to tell."""
    running = False
    for container in reversed(items(raw, "status", "containerStatuses")):
        ended, waiting = dig(container, "state", "terminated"), text(container, "state", "waiting", "reason")
        ready = (
            not waiting and ended is None and container.get("ready") and dig(container, "state", "running") is not None
        )
        count.add(container, ready=bool(ready))
        running = running or bool(ready)
        if waiting:
            reason = waiting
        elif ended is not None:
            reason = _ended(ended)
    if reason == "Completed" and running:
        return "Running" if condition(raw, "Ready") == "True" else "NotReady"
    return reason


def _is_gated(raw: Raw) -> bool:
    found = items(raw, "status", "conditions")
    return any(each.get("type") == "PodScheduled" and each.get("reason") == "SchedulingGated" for each in found)


def _ended(state: Raw) -> str:
    if state.get("reason"):
        return str(state["reason"])
    return f"Signal:{state['signal']}" if state.get("signal") else f"ExitCode:{state.get('exitCode', 0)}"


def _pod(raw: Raw, now: datetime) -> Sequence[str]:
    status, count = _look(raw)
    last = max(count.ends, default=None)
    ago = f" ({age(last.isoformat(), now)} ago)" if count.restarts and last else ""
    gates = items(raw, "spec", "readinessGates")
    passed = sum(condition(raw, str(gate.get("conditionType"))) == "True" for gate in gates)
    return (
        name_of(raw),
        f"{count.ready}/{len(items(raw, 'spec', 'containers')) + len(_sidecars(raw))}",
        status,
        f"{count.restarts}{ago}",
        age_of(raw, now),
        text(raw, "status", "podIP", otherwise=NONE),
        text(raw, "spec", "nodeName", otherwise=NONE),
        text(raw, "status", "nominatedNodeName", otherwise=NONE),
        f"{passed}/{len(gates)}" if gates else NONE,
    )


_WIDE = ("IP", "NODE", "NOMINATED NODE", "READINESS GATES")
COLUMNS = {"pods": Columns(("NAME", "READY", "STATUS", "RESTARTS", "AGE", *_WIDE), _pod, wide=_WIDE)}
