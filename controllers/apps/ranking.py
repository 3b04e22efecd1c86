"""Which pods of a ReplicaSet go first when there are too many."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from controllers.core.pods import PodView

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}


def pods_to_delete(pods: Sequence[PodView], related: Iterable[PodView], count: int, now: datetime) -> Sequence[PodView]:
    """The first `count` to go.

    related: the active pods of all ReplicaSets of the same owner: a pod that has more of them on its node goes sooner.
    """
    if count >= len(pods):
        return pods
    on_node = Counter(pod.node for pod in related)

    def order(a: PodView, b: PodView) -> int:
        return compare(a, b, on_node, now)

    return sorted(pods, key=functools.cmp_to_key(order))[:count]


def compare(a: PodView, b: PodView, on_node: Counter[str], now: datetime) -> int:
    """Negative if `a` goes before `b`. The order is kube-controller-manager's."""
    if a.node != b.node and not (a.node and b.node):
        return -1 if not a.node else 1
    if by_phase := _PHASES.get(a.phase, 0) - _PHASES.get(b.phase, 0):
        return by_phase
    if a.ready != b.ready:
        return -1 if b.ready else 1
    if by_cost := a.deletion_cost - b.deletion_cost:
        return by_cost
    if by_spread := on_node[b.node] - on_node[a.node]:
        return by_spread
    if a.ready and a.ready_since != b.ready_since:
        return _younger(a.ready_since, b.ready_since, now) or _by_uid(a, b)
    if by_restarts := b.restarts - a.restarts:
        return by_restarts
    created, other = a.metadata.creation_timestamp, b.metadata.creation_timestamp
    if created != other:
        return _younger(created, other, now) or _by_uid(a, b)
    return 0


def _younger(a: datetime | None, b: datetime | None, now: datetime) -> int:
    """Negative if `a` is younger by a power of two. Ages that are alike count as equal, so that the youngest are not
    always the ones to go: a roll-out puts them all on the same nodes."""
    return _age(a, now) - _age(b, now)


def _age(since: datetime | None, now: datetime) -> int:
    nanoseconds = (now - since).total_seconds() * 1e9 if since is not None else 0.0
    return math.floor(math.log2(nanoseconds)) if nanoseconds > 0 else -1


def _by_uid(a: PodView, b: PodView) -> int:
    return -1 if a.uid < b.uid else 1
