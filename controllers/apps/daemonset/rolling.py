"""A step of a rolling update: what was made of an older template is replaced, a few nodes at a time. No I/O.

It expects that each node has at the most one old and one new pod, which `manage` sees to; nodes that are not so count
as being in motion.
"""

from __future__ import annotations

from collections.abc import Sequence

from controllers.apps.daemonset.nodes import Place
from controllers.apps.daemonset.pods import DaemonPod
from controllers.apps.daemonset.situation import Plan, Situation


def roll(found: Situation) -> Plan:
    """What may be replaced now. O(nodes + pods)."""
    unavailable, surge = found.limits(found.wanted)
    return _surge(found, surge) if surge else _delete_first(found, unavailable)


def _delete_first(found: Situation, most: int) -> Plan:
    """Old pods go until `most` nodes are without an available pod; new ones follow when they are gone."""
    plan = Plan()
    unavailable = 0
    candidates: list[DaemonPod] = []
    for name in _nodes(found):
        new, old, clear = _updated(found, found.pods.get(name, ()))
        if not clear or (new is None) == (old is None):
            unavailable += 1
        elif new is not None:
            unavailable += not found.is_available(new)
        elif old is not None and not found.is_available(old):
            # Nothing is lost with it, so it does not have to wait for its turn.
            plan.delete.append(old)
            unavailable += 1
        elif old is not None:
            candidates.append(old)
    plan.delete += candidates[: max(0, most - unavailable)]
    return plan


def _surge(found: Situation, most: int) -> Plan:
    """New pods are made beside old ones on `most` nodes; an old one goes when the new one is available."""
    plan = Plan()
    surging = available = 0
    candidates: list[str] = []
    unwanted: list[DaemonPod] = []
    for name in _nodes(found):
        new, old, clear = _updated(found, found.pods.get(name, ()))
        if not clear:
            surging += 1
            continue
        counted = old or new
        available += counted is not None and found.is_available(counted)
        if old is None:
            continue
        if new is not None:
            if found.is_available(new):
                plan.delete.append(old)
            else:
                surging += 1
        elif (place := found.places.get(name)) is not Place.RUN:
            if place is None:
                continue
            # No new pod is made there: the old one goes, if it serves then only when another can be spared.
            (unwanted if found.is_available(old) else plan.delete).append(old)
        elif found.is_available(old):
            candidates.append(name)
        else:
            plan.create.append(name)
    plan.delete += unwanted[: max(0, available - found.wanted)]
    plan.create += candidates[: max(0, most - surging)]
    return plan


def _nodes(found: Situation) -> list[str]:
    """The nodes that have a pod or should, each once and always in the same order."""
    wanted = {name for name, place in found.places.items() if place is Place.RUN}
    return sorted(wanted | found.pods.keys())


def _updated(found: Situation, pods: Sequence[DaemonPod]) -> tuple[DaemonPod | None, DaemonPod | None, bool]:
    """(new, old, clear) of those on a node that are not being deleted. Not clear: there are several of a kind."""
    if len(pods) == 1 and not pods[0].deleting:
        return (pods[0], None, True) if found.is_updated(pods[0]) else (None, pods[0], True)
    there = [pod for pod in pods if not pod.deleting]
    new = [pod for pod in there if found.is_updated(pod)]
    old = [pod for pod in there if not found.is_updated(pod)]
    if len(new) > 1 or len(old) > 1:
        return None, None, False
    return new[0] if new else None, old[0] if old else None, True
