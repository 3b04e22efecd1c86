"""What the HorizontalPodAutoscaler computes, without I/O: from samples to replicas, and how fast to get there.

As kube-controller-manager's. Quantities are whole thousandths: 250 is 250m of cpu, 64 Mi of memory are 67,108,864,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Literal

import msgspec

TOLERANCE = Fraction(1, 10)  # kube-controller-manager's --horizontal-pod-autoscaler-tolerance
DOWNSCALE_WINDOW = 300.0  # seconds; its --horizontal-pod-autoscaler-downscale-stabilization
CPU_INITIALIZATION = 300.0  # seconds; its --horizontal-pod-autoscaler-cpu-initialization-period
READINESS_DELAY = 30.0  # seconds; its --horizontal-pod-autoscaler-initial-readiness-delay
UP_FACTOR, UP_MINIMUM = 2, 4  # its limit of one step up, without a behavior

NO_METRICS = "did not receive metrics for targeted pods (pods might be unready)"
NO_PODS = "no pods returned by selector while calculating replica count"


class CannotCompute(Exception):
    """There is not enough to compute with."""


class Sample(msgspec.Struct, frozen=True):
    """What a pod uses. value: in thousandths; over the `window` seconds before `timestamp`."""

    value: int
    timestamp: datetime
    window: float = 0.0


class PodState(msgspec.Struct, frozen=True):
    """What of a pod decides whether its sample counts. ready: None if it has not said. requests: in thousandths."""

    name: str
    phase: str
    deleting: bool = False
    ready: bool | None = None
    ready_since: datetime | None = None  # or not ready since
    started: datetime | None = None
    requests: Mapping[str, int] = {}  # by container, of the resource in question


class Tolerances(msgspec.Struct, frozen=True):
    """How far from the target a metric may be, as a share of it, without anything being done."""

    down: Fraction = TOLERANCE
    up: Fraction = TOLERANCE

    def hold(self, ratio: Fraction) -> bool:
        """Whether the ratio of usage and target is near enough to 1."""
        return 1 - self.down <= ratio <= 1 + self.up


DEFAULT_TOLERANCES = Tolerances()


class Proposal(msgspec.Struct, frozen=True):
    """What one metric asks for. usage: in thousandths, for each pod or in all; utilization: percent of the request."""

    replicas: int
    usage: int
    utilization: int | None = None


class _Groups(msgspec.Struct):
    ready: int
    unready: list[str]
    missing: list[str]
    samples: dict[str, int]


def group_pods(pods: Iterable[PodState], samples: Mapping[str, Sample], *, cpu: bool, now: datetime) -> _Groups:
    """Which pods count, which are not ready, and of which nothing is known. Those that go or have failed are left out.

    cpu: a pod that has just started may use much, so its sample counts only once it is ready and was for a window.
    """
    groups = _Groups(0, [], [], {})
    for pod in pods:
        if pod.deleting or pod.phase == "Failed":
            continue
        if pod.phase == "Pending":
            groups.unready.append(pod.name)
            continue
        sample = samples.get(pod.name)
        if sample is None:
            groups.missing.append(pod.name)
        elif cpu and _warming_up(pod, sample, now):
            groups.unready.append(pod.name)
        else:
            groups.ready += 1
            groups.samples[pod.name] = sample.value
    return groups


def _measured(pods: Sequence[PodState], samples: Mapping[str, Sample], *, cpu: bool, now: datetime) -> _Groups:
    """The groups, if there is anything to go by. Raises CannotCompute."""
    if not pods:
        raise CannotCompute(NO_PODS)
    groups = group_pods(pods, samples, cpu=cpu, now=now)
    if not groups.samples:
        raise CannotCompute(NO_METRICS)
    return groups


def _warming_up(pod: PodState, sample: Sample, now: datetime) -> bool:
    if pod.ready is None or pod.started is None:
        return True
    since = pod.ready_since or pod.started
    if pod.started + timedelta(seconds=CPU_INITIALIZATION) > now:
        return not pod.ready or sample.timestamp < since + timedelta(seconds=sample.window)
    # Later only one that never was ready.
    return not pod.ready and pod.started + timedelta(seconds=READINESS_DELAY) > since


def by_utilization(
    current: int,
    target: int,
    pods: Sequence[PodState],
    samples: Mapping[str, Sample],
    *,
    resource: str,
    container: str = "",
    now: datetime,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> Proposal:
    """By usage in percent of what the pods request. Raises CannotCompute."""
    groups = _measured(pods, samples, cpu=resource == "cpu", now=now)
    requests = {pod.name: _request(pod, resource, container) for pod in pods}

    def utilization(values: Mapping[str, int]) -> int:
        requested = sum(requests[name] for name in values)
        if not requested:
            raise CannotCompute("no metrics returned matched known pods")
        return sum(values.values()) * 100 // requested

    percent = utilization(groups.samples)
    usage = sum(groups.samples.values()) // len(groups.samples)
    # What nothing is known of is taken to use all that it requests where that keeps pods, and nothing where it saves.
    full = {name: requests[name] * max(100, target) // 100 for name in groups.missing}
    replicas = _conservative(
        current,
        groups,
        full,
        tolerances,
        lambda values: Fraction(utilization(values), target),
        Fraction(percent, target),
    )
    return Proposal(replicas, usage, percent)


def by_average(
    current: int,
    target: int,
    pods: Sequence[PodState],
    samples: Mapping[str, Sample],
    *,
    resource: str = "",
    now: datetime,
    tolerances: Tolerances = DEFAULT_TOLERANCES,
) -> Proposal:
    """By a quantity for each pod. Raises CannotCompute."""
    groups = _measured(pods, samples, cpu=resource == "cpu", now=now)

    def average(values: Mapping[str, int]) -> int:
        return sum(values.values()) // len(values)

    usage = average(groups.samples)
    full = dict.fromkeys(groups.missing, target)
    replicas = _conservative(
        current, groups, full, tolerances, lambda values: Fraction(average(values), target), Fraction(usage, target)
    )
    return Proposal(replicas, usage)


def _conservative(
    current: int,
    groups: _Groups,
    full: Mapping[str, int],
    tolerances: Tolerances,
    ratio_of: Callable[[Mapping[str, int]], Fraction],
    ratio: Fraction,
) -> int:
    """The replicas for a ratio of usage and target, with the pods that are not ready or say nothing damping it."""
    up_with_unready = bool(groups.unready) and ratio > 1
    if not up_with_unready and not groups.missing:
        return current if tolerances.hold(ratio) else math.ceil(ratio * groups.ready)
    values = dict(groups.samples)
    if ratio < 1:
        values.update(full)
    elif ratio > 1:
        values.update(dict.fromkeys(groups.missing, 0))
    if up_with_unready:
        values.update(dict.fromkeys(groups.unready, 0))
    damped = ratio_of(values)
    if tolerances.hold(damped) or (ratio < 1) != (damped < 1) or (ratio > 1) != (damped > 1):
        return current
    replicas = math.ceil(damped * len(values))
    if (damped < 1 and replicas > current) or (damped > 1 and replicas < current):
        return current
    return replicas


def _request(pod: PodState, resource: str, container: str) -> int:
    if container:
        if container not in pod.requests:
            raise CannotCompute(f"container {container} not found in Pod {pod.name}")
        wanted = {container: pod.requests[container]}
    else:
        wanted = dict(pod.requests)
    for name, request in wanted.items():
        if not request:
            raise CannotCompute(f"missing request for {resource} in container {name} of Pod {pod.name}")
    return sum(wanted.values())


def by_value(
    current: int, target: int, usage: int, ready: int, *, tolerances: Tolerances = DEFAULT_TOLERANCES
) -> Proposal:
    """By one quantity for all. ready: how many pods are."""
    ratio = Fraction(usage, target)
    if not current:
        return Proposal(math.ceil(ratio), usage)
    return Proposal(current if tolerances.hold(ratio) else math.ceil(ratio * ready), usage)


def by_share(replicas: int, target: int, usage: int, *, tolerances: Tolerances = DEFAULT_TOLERANCES) -> Proposal:
    """By one quantity divided by the number of pods. replicas: how many there are."""
    wanted = replicas
    if not replicas or not tolerances.hold(Fraction(usage, target * replicas)):
        wanted = math.ceil(Fraction(usage, target))
    return Proposal(wanted, math.ceil(Fraction(usage, replicas)) if replicas else usage)


# ---- how fast -------------------------------------------------------------------------------------------------------


class Policy(msgspec.Struct, frozen=True):
    """So many pods, or percent of them, in so many seconds."""

    type: Literal["Pods", "Percent"]
    value: int
    period: int


class Rules(msgspec.Struct, frozen=True):
    """How fast to scale in one direction. window: seconds; tolerance: None = the controller's."""

    window: float
    select: Literal["Max", "Min", "Disabled"]
    policies: tuple[Policy, ...]
    tolerance: Fraction | None = None


class History(msgspec.Struct):
    """What was recommended and done lately, by time. Kept in memory, as in Kubernetes.

    unknown_until: until then this process may not scale, for another one may have, by how much nobody knows.
    """

    recommendations: list[tuple[datetime, int]] = []
    ups: list[tuple[datetime, int]] = []
    downs: list[tuple[datetime, int]] = []
    unknown_until: datetime | None = None


class Limited(msgspec.Struct, frozen=True):
    """A decision. stable: the conditions AbleToScale, limited: ScalingLimited, each as (status, reason, message)."""

    replicas: int
    able: tuple[str, str, str]
    limited: tuple[str, str, str]


_READY = ("True", "ReadyForNewScale", "recommended size matches current size")
_UP_STABILIZED = (
    "True",
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
)
_DOWN_STABILIZED = (
    "True",
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
)
_WITHIN = ("DesiredWithinRange", "the desired count is within the acceptable range")
_TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
_TOO_FAST_UP = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_TOO_FAST_DOWN = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")


def limit(
    desired: int,
    current: int,
    least: int,
    most: int,
    history: History,
    now: datetime,
    rules: tuple[Rules, Rules] | None = None,
) -> Limited:
    """How far to go towards what the metrics ask for. Notes the recommendation in the history.

    rules: up and down; None is Kubernetes' way without a behavior: twice as many or 4 in one step up, and down to the
    highest recommendation of five minutes.
    """
    up_window, down_window = (0.0, DOWNSCALE_WINDOW) if rules is None else (rules[0].window, rules[1].window)
    lowest = _recent(history, now, up_window, desired, min)
    highest = _recent(history, now, down_window, desired, max)
    stable = highest if rules is None else min(max(current, lowest), highest)
    longest = max(up_window, down_window)
    history.recommendations = [each for each in history.recommendations if not _older(each[0], now, longest)]
    history.recommendations.append((now, desired))
    able = _READY
    if stable != desired:
        able = _UP_STABILIZED if rules is not None and desired >= current else _DOWN_STABILIZED
    if rules is None:
        replicas, why = _plain_limit(stable, current, least, most)
    else:
        replicas, why = _policy_limit(stable, current, least, most, history, now, rules)
    return Limited(replicas, able, ("False" if replicas == stable else "True", *why))


def _plain_limit(desired: int, current: int, least: int, most: int) -> tuple[int, tuple[str, str]]:
    fastest = max(UP_FACTOR * current, UP_MINIMUM)
    highest, why = (fastest, _TOO_FAST_UP) if most > fastest else (most, _TOO_MANY)
    if desired < least:
        return least, _TOO_FEW
    return (highest, why) if desired > highest else (desired, _WITHIN)


def _policy_limit(
    desired: int, current: int, least: int, most: int, history: History, now: datetime, rules: tuple[Rules, Rules]
) -> tuple[int, tuple[str, str]]:
    if desired > current:
        fastest = max(current, up_limit(current, history, now, rules[0]))
        highest, why = (fastest, _TOO_FAST_UP) if most > fastest else (most, _TOO_MANY)
        if desired > highest:
            return highest, why
    elif desired < current:
        fastest = min(current, down_limit(current, history, now, rules[1]))
        lowest, why = (fastest, _TOO_FAST_DOWN) if least < fastest else (least, _TOO_FEW)
        if desired < lowest:
            return lowest, why
    return desired, _WITHIN


def up_limit(current: int, history: History, now: datetime, rules: Rules) -> int:
    """The most replicas that the policies allow at this moment."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        start = _at_start(current, history, now, policy)
        percent = math.ceil(start * Fraction(100 + policy.value, 100))
        limits.append(start + policy.value if policy.type == "Pods" else percent)
    return min(limits) if rules.select == "Min" else max(limits)


def down_limit(current: int, history: History, now: datetime, rules: Rules) -> int:
    """The fewest replicas that the policies allow at this moment."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        start = _at_start(current, history, now, policy)
        percent = math.trunc(start * Fraction(100 - policy.value, 100))
        limits.append(start - policy.value if policy.type == "Pods" else percent)
    return max(limits) if rules.select == "Min" else min(limits)


def note_scaled(before: int, after: int, history: History, now: datetime, rules: tuple[Rules, Rules] | None) -> None:
    """The number was changed. Forgets what no policy asks for any more."""
    if rules is None:
        return
    longest = float(max((policy.period for each in rules for policy in each.policies), default=0))
    history.ups = [each for each in history.ups if not _older(each[0], now, longest)]
    history.downs = [each for each in history.downs if not _older(each[0], now, longest)]
    if after > before:
        history.ups.append((now, after - before))
    elif after < before:
        history.downs.append((now, before - after))


def _at_start(current: int, history: History, now: datetime, policy: Policy) -> int:
    """How many there were at the start of the policy's period."""
    added = sum(change for at, change in history.ups if not _older(at, now, policy.period))
    removed = sum(change for at, change in history.downs if not _older(at, now, policy.period))
    return current - added + removed


def _recent(
    history: History, now: datetime, window: float, desired: int, choose: Callable[[Iterable[int]], int]
) -> int:
    return choose([desired, *(count for at, count in history.recommendations if not _older(at, now, window))])


def _older(at: datetime, now: datetime, seconds: float) -> bool:
    return at <= now - timedelta(seconds=seconds)
