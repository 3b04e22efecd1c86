"""What a StatefulSet's pods need next. Pure functions: pods and wishes in, steps out.

With OrderedReady one pod at a time is in motion: the lowest ordinal that is missing or does not serve is waited for,
then pods beyond the wanted number go, highest first, and only then an update goes on. With Parallel all of that happens
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from controllers.apps.deployment.arithmetic import part_of
from controllers.apps.statefulset.pods import StatefulPod
from controllers.apps.statefulset.types import StatefulSet


class Wish(msgspec.Struct, frozen=True):
    """What a StatefulSet asks for. current, update: names of revisions. partition: counted from `start`.

    max_unavailable: None waits for each pod that was updated before it takes the next, whatever else is missing.
    """

    replicas: int
    current: str
    update: str
    start: int = 0
    parallel: bool = False
    on_delete: bool = False
    partition: int = 0
    max_unavailable: int | str | None = None
    min_ready_seconds: int = 0

    @classmethod
    def of(cls, sts: StatefulSet, current: str, update: str) -> Wish:
        """The wish of a StatefulSet."""
        spec = sts.spec
        rolling = spec.update_strategy.rolling_update
        return cls(
            replicas=spec.replicas,
            current=current,
            update=update,
            start=spec.ordinals.start if spec.ordinals is not None else 0,
            parallel=spec.pod_management_policy == "Parallel",
            on_delete=spec.update_strategy.type == "OnDelete",
            partition=rolling.partition if rolling is not None else 0,
            max_unavailable=rolling.max_unavailable if rolling is not None else None,
            min_ready_seconds=spec.min_ready_seconds,
        )

    @property
    def ordinals(self) -> range:
        """Those that are to exist."""
        return range(self.start, self.start + self.replicas)

    def revision_for(self, ordinal: int) -> str:
        """Of which revision a pod that is missing is made."""
        return self.current if not self.on_delete and ordinal < self.start + self.partition else self.update


class Plan(msgspec.Struct):
    """The steps, in the order in which they are to be done; the first that fails ends it.

    pending: pods that wait to be run, perhaps for a claim that is missing. repair: those that run, whose identity and
    claims are to be put right. create: ordinals. restart: pods that have ended, to be deleted so that they are
    made anew. condemned: all pods beyond the wanted number, whose claims may go with them; remove: those of them to be
    deleted now. replace: pods of an old revision to be deleted.
    """

    pending: list[StatefulPod] = msgspec.field(default_factory=list)
    repair: list[StatefulPod] = msgspec.field(default_factory=list)
    restart: list[StatefulPod] = msgspec.field(default_factory=list)
    create: list[int] = msgspec.field(default_factory=list)
    condemned: list[StatefulPod] = msgspec.field(default_factory=list)
    remove: list[StatefulPod] = msgspec.field(default_factory=list)
    replace: list[StatefulPod] = msgspec.field(default_factory=list)


def make_plan(wish: Wish, pods: Sequence[StatefulPod], stale: Callable[[int], bool], now: datetime) -> Plan:
    """What to do next. stale: whether a claim of an ordinal is about to go with an earlier pod of its name, so that a
    new pod has to wait."""
    plan = Plan()
    known = {pod.ordinal: pod for pod in pods}
    for ordinal in wish.ordinals:
        pod = known.get(ordinal)
        moving = True
        if pod is None:
            if not stale(ordinal):
                plan.create.append(ordinal)
        elif pod.finished:
            if not pod.deleting:
                plan.restart.append(pod)
        else:
            moving = pod.deleting or not pod.available(wish.min_ready_seconds, now)
            if pod.phase == "Pending":
                plan.pending.append(pod)
            elif wish.parallel or not moving:
                plan.repair.append(pod)
        if moving and not wish.parallel:
            return plan
    condemned = [pod for pod in pods if pod.ordinal not in wish.ordinals]
    plan.condemned = sorted(condemned, key=lambda pod: pod.ordinal, reverse=True)
    plan.remove = _to_remove(wish, plan.condemned, now)
    if (wish.parallel or not condemned) and not wish.on_delete:
        plan.replace = _to_replace(wish, known, now)
    return plan


def _to_remove(wish: Wish, condemned: Sequence[StatefulPod], now: datetime) -> list[StatefulPod]:
    """condemned: the highest ordinal first."""
    if wish.parallel:
        return [pod for pod in condemned if not pod.deleting]
    if not condemned or condemned[0].deleting:
        return []
    highest = condemned[0]
    unhealthy = [pod for pod in condemned if not pod.healthy]
    # Of several that do not serve the lowest is waited for: it may be what keeps the others from it.
    if highest.available(wish.min_ready_seconds, now) or (unhealthy and highest is unhealthy[-1]):
        return [highest]
    return []


def _to_replace(wish: Wish, known: Mapping[int, StatefulPod], now: datetime) -> list[StatefulPod]:
    """Of the pods that an update concerns, those whose turn it is."""
    targets = [known.get(ordinal) for ordinal in reversed(wish.ordinals[wish.partition :])]
    if wish.max_unavailable is None:
        for pod in targets:
            if pod is None or pod.finished:
                return []
            if pod.revision != wish.update and not pod.deleting:
                return [pod]
            if pod.deleting or not pod.available(wish.min_ready_seconds, now):
                return []
        return []

    def available(pod: StatefulPod | None) -> bool:
        return pod is not None and not pod.deleting and pod.available(wish.min_ready_seconds, now)

    most = max(1, part_of(wish.max_unavailable, wish.replicas, round_up=False))
    spare = most - sum(not available(known.get(ordinal)) for ordinal in wish.ordinals)
    old = [pod for pod in targets if pod is not None and pod.revision != wish.update and not pod.deleting]
    # What serves nobody costs nothing to replace.
    broken = [pod for pod in old if not available(pod) and not pod.finished] if wish.parallel else []
    return broken + [pod for pod in old if available(pod)][: max(0, spare)]
