"""A pod on each node that takes one, and no other. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from controllers.apps.daemonset.nodes import Place
from controllers.apps.daemonset.pods import DaemonPod
from controllers.apps.daemonset.situation import Plan, Situation


def manage(found: Situation, wait: Callable[[str], float]) -> Plan:
    """Which nodes lack a pod, and which pods are too many, have ended, or must not be where they are. O(nodes + pods).

    wait: of a node's name, how long a pod that has failed there has to stay; asked once for each such pod.
    """
    plan = Plan()
    for name, place in found.places.items():
        pods = found.pods.get(name)
        if place is Place.LEAVE:
            plan.delete += [pod for pod in pods or () if not pod.deleting]
        elif pods is not None:
            if len(pods) == 1 and pods[0].runs:
                continue  # as it should be; nearly all nodes are, nearly always
            _tidy(found, name, pods, place, wait, plan)
        elif place is Place.RUN:
            plan.create.append(name)
    for name, pods in found.pods.items():
        if name not in found.places:
            # Pods that wait for a node that is gone will never be bound; those that were bound are collected.
            plan.delete += [pod for pod in pods if not pod.bound and not pod.deleting]
    return plan


def _tidy(
    found: Situation,
    node: str,
    pods: Sequence[DaemonPod],
    place: Place,
    wait: Callable[[str], float],
    plan: Plan,
) -> None:
    """One node that has pods, which may be there."""
    for pod in pods:
        if pod.deleting:
            continue
        if pod.phase == "Failed":
            if seconds := wait(node):
                plan.look_again(seconds)
                continue
            plan.failed.append(pod)
            plan.delete.append(pod)
        elif pod.phase == "Succeeded":
            plan.succeeded.append(pod)
            plan.delete.append(pod)
    running = sorted((pod for pod in pods if pod.runs), key=lambda pod: pod.age)
    if not found.surges:
        plan.delete += running[1:]
    elif running:
        _tidy_surge(found, running, plan)
    elif place is Place.RUN:
        # There is to be one at any time, so it does not wait for the end of the one before.
        plan.create.append(node)


def _tidy_surge(found: Situation, running: Sequence[DaemonPod], plan: Plan) -> None:
    """Two pods may be on a node: an old one that serves and a new one that does not yet."""
    new = [pod for pod in running if found.is_updated(pod)]
    old = [pod for pod in running if not found.is_updated(pod)]
    plan.delete += [pod for pod in running if pod in new[1:] or pod in old[1:]]
    if not new or not old:
        return
    seconds = found.seconds_until_available(new[0])
    if not old[0].ready or seconds == 0.0:
        plan.delete.append(old[0])
    elif seconds is not None:
        plan.look_again(seconds)
