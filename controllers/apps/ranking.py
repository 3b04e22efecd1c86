"""Which pods of a ReplicaSet go first when there are too many."""

from __future__ import annotations

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
    return sorted(pods, key=lambda pod: Rank(pod, on_node, now))[:count]


class Rank:
    """Sorts pods: those of lower rank go first. The order is kube-controller-manager's."""

    __slots__ = ("_first", "_now", "_pod", "_ready_since", "_restarts")

    def __init__(self, pod: PodView, on_node: Counter[str], now: datetime) -> None:
        self._pod, self._now = pod, now
        self._ready_since, self._restarts = pod.ready_since, pod.restarts
        self._first = (
            bool(pod.node),
            _PHASES.get(pod.phase, 0),
            pod.ready,
            pod.deletion_cost,
            -on_node[pod.node],
            _age(self._ready_since, now),
        )

    def __lt__(self, other: Rank) -> bool:
        if self._first != other._first:
            return self._first < other._first
        mine, others = self._pod, other._pod
        if self._ready_since != other._ready_since:
            return mine.uid < others.uid
        if self._restarts != other._restarts:
            return self._restarts > other._restarts
        created, other_created = mine.metadata.creation_timestamp, others.metadata.creation_timestamp
        if created == other_created:
            return False
        return (_age(created, self._now), mine.uid) < (_age(other_created, self._now), others.uid)


def _age(since: datetime | None, now: datetime) -> int:
    """In powers of two of nanoseconds. Ages that are alike count as equal, so that the
    youngest are not always the ones to go: a roll-out puts them all on the same nodes."""
    nanoseconds = (now - since).total_seconds() * 1e9 if since is not None else 0.0
    return math.floor(math.log2(nanoseconds)) if nanoseconds > 0 else -1
