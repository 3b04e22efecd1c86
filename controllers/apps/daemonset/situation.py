"""What a DaemonSet finds, and what is to be done about it: which nodes get a pod, and which pods go. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from controllers.apps.daemonset.nodes import Place
from controllers.apps.daemonset.pods import GENERATION_LABEL, DaemonPod
from controllers.apps.daemonset.types import DaemonSet
from controllers.apps.deployment.arithmetic import part_of
from controllers.apps.history import REVISION_HASH

Raw = dict[str, Any]


class Situation(msgspec.Struct, frozen=True):
    """places: by node. pods: by the node each is on or for, without those that have ended and are being deleted; a node
    has an entry only if it has a pod. revision_hash, generation: of the present template. min_ready: seconds."""

    places: Mapping[str, Place]
    pods: Mapping[str, Sequence[DaemonPod]]
    revision_hash: str
    generation: str
    min_ready: int
    rolling: bool
    max_unavailable: int | str
    max_surge: int | str
    now: datetime

    @property
    def wanted(self) -> int:
        """How many nodes should have a pod."""
        return sum(place is Place.RUN for place in self.places.values())

    def limits(self, nodes: int) -> tuple[int, int]:
        """(unavailable, surge) of so many nodes, in nodes, rounded up. 0 where the strategy is not to roll."""
        if not self.rolling:
            return 0, 0
        unavailable = part_of(self.max_unavailable, nodes, round_up=True)
        surge = part_of(self.max_surge, nodes, round_up=True)
        return (unavailable, surge) if unavailable or surge or not nodes else (1, 0)

    @property
    def surges(self) -> bool:
        """Whether a node may have two pods during a rollout."""
        return self.limits(1)[1] > 0

    def seconds_until_available(self, pod: DaemonPod) -> float | None:
        """0 if the pod has been ready for long enough, None if it is not ready."""
        if not pod.ready or (self.min_ready and pod.since is None):
            return None
        if not self.min_ready or pod.since is None:
            return 0.0
        return max(0.0, self.min_ready - (self.now - pod.since).total_seconds())

    def is_available(self, pod: DaemonPod) -> bool:
        """Whether it has been ready for long enough."""
        return self.seconds_until_available(pod) == 0.0

    def is_updated(self, pod: DaemonPod) -> bool:
        """Whether it is of the present template. The generation counts only where a pod has no hash: it begins anew
        with each DaemonSet, so pods that were adopted may bear the same one and be of another template."""
        found = pod.labels.get(REVISION_HASH)
        if found is None:
            return pod.labels.get(GENERATION_LABEL) == self.generation
        return found == self.revision_hash


def situation_of(
    ds: DaemonSet, places: Mapping[str, Place], pods: Iterable[DaemonPod], revision_hash: str, now: datetime
) -> Situation:
    """The situation of a DaemonSet with these nodes and pods. Pods of which nobody knows what node they are for are
    left alone."""
    strategy = ds.raw["spec"]["updateStrategy"]
    rolling = strategy.get("rollingUpdate") or {}
    by_node: dict[str, list[DaemonPod]] = {}
    for pod in pods:
        if pod.target and not (pod.deleting and pod.finished):
            by_node.setdefault(pod.target, []).append(pod)
    return Situation(
        places=places,
        pods=by_node,
        revision_hash=revision_hash,
        generation=str(ds.template_generation),
        min_ready=ds.spec.min_ready_seconds,
        rolling=strategy["type"] == "RollingUpdate",
        max_unavailable=rolling.get("maxUnavailable", 0),
        max_surge=rolling.get("maxSurge", 0),
        now=now,
    )


class Plan(msgspec.Struct):
    """What to do. create: names of nodes. failed, succeeded: pods, among those to delete, that have ended. after: in
    how many seconds something is due that no event will tell."""

    create: list[str] = []
    delete: list[DaemonPod] = []
    failed: list[DaemonPod] = []
    succeeded: list[DaemonPod] = []
    after: float | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self.create and not self.delete

    def look_again(self, seconds: float) -> None:
        """In so many seconds, or earlier."""
        self.after = seconds if self.after is None else min(self.after, seconds)


def next_status(ds: DaemonSet, found: Situation, collisions: int) -> tuple[Raw, float | None]:
    """The status that this makes, and in how many seconds the next pod becomes available by waiting.

    Of several pods on a node the first counts: the oldest of those that have their node.
    """
    counts = dict.fromkeys(("current", "misscheduled", "wanted", "ready", "available", "updated"), 0)
    after: float | None = None
    for name, place in found.places.items():
        pods = found.pods.get(name)
        if place is not Place.RUN:
            counts["misscheduled"] += pods is not None
            continue
        counts["wanted"] += 1
        if pods is None:
            continue
        pod = pods[0] if len(pods) == 1 else min(pods, key=lambda each: each.age)
        counts["current"] += 1
        counts["updated"] += found.is_updated(pod)
        counts["ready"] += pod.ready
        seconds = found.seconds_until_available(pod)
        if seconds == 0.0:
            counts["available"] += 1
        elif seconds is not None:
            after = seconds if after is None else min(after, seconds)
    status: Raw = {
        "currentNumberScheduled": counts["current"],
        "numberMisscheduled": counts["misscheduled"],
        "desiredNumberScheduled": counts["wanted"],
        "numberReady": counts["ready"],
        "observedGeneration": ds.metadata.generation,
    }
    told = {
        "updatedNumberScheduled": counts["updated"],
        "numberAvailable": counts["available"],
        "numberUnavailable": counts["wanted"] - counts["available"],
        "collisionCount": collisions,
    }
    status.update({field: number for field, number in told.items() if number})
    before: Raw = ds.raw.get("status") or {}
    if before.get("conditions"):
        status["conditions"] = before["conditions"]
    return status, after
