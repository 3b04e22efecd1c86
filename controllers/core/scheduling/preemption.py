"""Whom a pod that fits nowhere may push out. No I/O: the answer is a node and the pods that would have to leave it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.placing import Placer, Unschedulable, availability
from controllers.core.scheduling.pod import PodInfo
from informer.selectors import Selector

# So many nodes with victims are compared; kube-scheduler's minCandidateNodesAbsolute.
COMPARED = 100
UNHELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
NEVER = "not eligible due to preemptionPolicy=Never."
VICTIMS_LEAVING = "not eligible due to a terminating pod on the nominated node."


class Budget(msgspec.Struct, frozen=True, gc=False):
    """A PodDisruptionBudget. allowed: how many more pods may be disrupted; disrupted: names of those that are."""

    namespace: str
    selector: Selector
    allowed: int
    disrupted: frozenset[str] = frozenset()

    def covers(self, pod: PodInfo) -> bool:
        """Whether the pod's disruption counts."""
        if pod.namespace != self.namespace or not pod.labels or not self.selector.matches(pod.labels):
            return False
        return pod.key.rpartition("/")[2] not in self.disrupted


class Candidate(msgspec.Struct, frozen=True):
    """A node, and the pods whose leaving makes room there, those that matter most first. violations: how many of them a
    budget forbids."""

    node: str
    victims: list[PodInfo]
    violations: int


class Unpreemptable(Exception):
    """Preemption does not help either; the text says why, in kube-scheduler's words."""


Started = Callable[[PodInfo], str]  # RFC 3339, "" if it has not


def preempt(
    pod: PodInfo,
    cluster: Cluster,
    placer: Placer,
    refused: Unschedulable,
    budgets: Sequence[Budget] = (),
    started: Started = lambda pod: pod.created,
) -> Candidate:
    """The node on which the least is lost if pods of lower priority make room. Raises Unpreemptable.

    The least, as in kube-scheduler: fewest violations of budgets, lowest highest priority of victims, smallest sum of
    priorities, fewest victims, the latest start of those with the highest priority. O(pods) for each node compared.
    """
    _check_eligible(pod, cluster, refused)
    found: list[Candidate] = []
    reasons: list[str] = []
    anybody = any(priority < pod.priority for priority in cluster.priorities)
    for node in cluster.nodes:
        refusal = refused.refusals.get(node.name)
        if refusal is None or refusal.final:
            reasons.append(UNHELPFUL)
        elif not anybody:
            reasons.append(NO_VICTIMS)
        elif len(found) < COMPARED:
            candidate = _victims(pod, node, cluster, placer, budgets, started)
            if isinstance(candidate, Candidate):
                found.append(candidate)
            else:
                reasons.extend(candidate)
    if not found:
        raise Unpreemptable(availability(len(cluster.nodes), reasons) if cluster.nodes else "")
    return min(found, key=lambda candidate: _loss(candidate, started))


def _check_eligible(pod: PodInfo, cluster: Cluster, refused: Unschedulable) -> None:
    if not pod.preempts:
        raise Unpreemptable(NEVER)
    nominated = cluster.node(cluster.nomination(pod.key))
    refusal = refused.refusals.get(nominated.name) if nominated is not None else None
    if nominated is None or (refusal is not None and refusal.final):
        return
    # Those it has pushed out may still be on their way: it would push out more than it needs.
    if any(each.deleting and each.priority < pod.priority for each in nominated.pods.values()):
        raise Unpreemptable(VICTIMS_LEAVING)


def _victims(
    pod: PodInfo, node: NodeInfo, cluster: Cluster, placer: Placer, budgets: Sequence[Budget], started: Started
) -> Candidate | tuple[str, ...]:
    """Those who have to leave this node, or why that does not help."""
    lower = [each for each in node.pods.values() if each.priority < pod.priority]
    if not lower:
        return (NO_VICTIMS,)
    importance = _by_importance(started)
    lower.sort(key=importance)
    with cluster.without(lower):
        refusal = placer.refusal(pod, node)
        if refusal is not None:
            return refusal.reasons
        violating, others = _split(lower, budgets)
        victims: list[PodInfo] = []
        violations = 0
        # Each is kept if it can be: first those that a budget protects, of each the most important.
        for each in (*violating, *others):
            cluster.note(each, node.name)
            if placer.refusal(pod, node) is not None:
                cluster.forget(each.key)
                victims.append(each)
                violations += each in violating
    victims.sort(key=importance)
    return Candidate(node.name, victims, violations)


def _split(pods: Iterable[PodInfo], budgets: Sequence[Budget]) -> tuple[list[PodInfo], list[PodInfo]]:
    """Those whose leaving, in this order, would be more than a budget allows, and the others."""
    left = [budget.allowed for budget in budgets]
    violating: list[PodInfo] = []
    others: list[PodInfo] = []
    for pod in pods:
        violates = False
        for number, budget in enumerate(budgets):
            if budget.covers(pod):
                left[number] -= 1
                violates = violates or left[number] < 0
        (violating if violates else others).append(pod)
    return violating, others


def _by_importance(started: Started) -> Callable[[PodInfo], tuple[int, str]]:
    # A pod that has not started is the least important of its priority.
    return lambda pod: (-pod.priority, started(pod) or "~")


def _loss(candidate: Candidate, started: Started) -> tuple[int, int, int, int, _Latest]:
    victims = candidate.victims
    highest = max((each.priority for each in victims), default=-(2**31))
    # Shifted so that a victim of a negative priority costs something too.
    total = sum(each.priority + 2**31 for each in victims)
    earliest = min((started(each) or "~" for each in victims if each.priority == highest), default="~")
    return candidate.violations, highest, total, len(victims), _Latest(earliest)


class _Latest(msgspec.Struct, frozen=True, gc=False):
    """Sorts the later time first."""

    time: str

    def __lt__(self, other: _Latest) -> bool:
        return self.time > other.time


class _BudgetMetadata(msgspec.Struct, gc=False):
    namespace: str = ""


class _BudgetSpec(msgspec.Struct, gc=False):
    selector: dict[str, Any] | None = None


class _BudgetStatus(msgspec.Struct, gc=False, rename="camel"):
    disruptions_allowed: int = 0
    disrupted_pods: dict[str, Any] | None = None


class _Budget(msgspec.Struct, gc=False):
    metadata: _BudgetMetadata
    spec: _BudgetSpec = msgspec.field(default_factory=_BudgetSpec)
    status: _BudgetStatus = msgspec.field(default_factory=_BudgetStatus)


_decode_budget: Final = msgspec.json.Decoder(_Budget).decode


def budget_of(data: bytes) -> Budget:
    """A stored PodDisruptionBudget; one without a status allows nothing. Raises Invalid, msgspec.ValidationError."""
    said = _decode_budget(data)
    return Budget(
        namespace=said.metadata.namespace,
        selector=Selector.of(said.spec.selector),
        allowed=said.status.disruptions_allowed,
        disrupted=frozenset(said.status.disrupted_pods or ()),
    )
