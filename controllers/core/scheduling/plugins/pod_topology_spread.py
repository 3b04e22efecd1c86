"""Pods lie evenly over the values of a label of nodes: zones, hosts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from controllers.core.node_affinity import node_fits
from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import Constraint, PodInfo
from controllers.core.taints import untolerated

NO_LABEL: Final = Refusal(
    ("node(s) didn't match pod topology spread constraints (missing required label)",), final=True
)
SKEWED: Final = Refusal(("node(s) didn't match pod topology spread constraints",))


class PodTopologySpread(Plugin):
    """`topologySpreadConstraints`: DoNotSchedule refuses what would lie too unevenly, ScheduleAnyway scores it down.

    Pods of the same namespace count that the constraint selects and that are not being deleted.
    """

    weight = 2

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do for a pod without hard constraints. O(nodes)."""
        constraints = [each for each in pod.needs.constraints if each.hard]
        if not constraints:
            return None
        rules = []
        for constraint, counts in zip(constraints, _count(constraints, pod, cluster), strict=True):
            least = min(counts.values(), default=0) if len(counts) >= constraint.min_domains else 0
            itself = constraint.selects(pod.labels).matches(pod.labels)
            # The most pods that a domain may have before this one.
            rules.append((constraint.topology_key, counts, constraint.max_skew + least - itself))

        def judge(node: NodeInfo) -> Refusal | None:
            for key, counts, most in rules:
                value = node.labels.get(key)
                if value is None:
                    return NO_LABEL
                if counts.get(value, 0) > most:
                    return SKEWED
            return None

        return judge

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do for a pod without soft constraints. O(nodes)."""
        constraints = [each for each in pod.needs.constraints if not each.hard]
        if not constraints:
            return None
        rules = [
            # Many small domains hold few pods each: the logarithm lets them count for something beside few large ones.
            (constraint.topology_key, counts, math.log(len(counts) + 2), constraint.max_skew - 1)
            for constraint, counts in zip(constraints, _count(constraints, pod, cluster), strict=True)
        ]

        def crowd(node: NodeInfo) -> float | None:
            total = 0.0
            for key, counts, weight, allowance in rules:
                value = node.labels.get(key)
                if value is None:
                    return None
                total += counts.get(value, 0) * weight + allowance
            return total

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            crowds = [crowd(node) for node in nodes]
            known = [each for each in crowds if each is not None]
            least, most = min(known, default=0.0), max(known, default=0.0)
            if not most:
                return [0.0 if each is None else 100.0 for each in crowds]
            return [0.0 if each is None else 100 * (most + least - each) / most for each in crowds]

        return judge


def _count(constraints: Sequence[Constraint], pod: PodInfo, cluster: Cluster) -> list[Mapping[str, int]]:
    """For each constraint how many pods there are by the label's value, over the nodes that it looks at."""
    eligible = _eligible(constraints, pod, cluster)
    counts: list[Mapping[str, int]] = []
    for number, constraint in enumerate(constraints):
        selector, label = constraint.selects(pod.labels), constraint.topology_key
        groups = [
            group
            for group in cluster.groups([pod.namespace])
            if not group.deleting and selector.matches(group.traits.labels)
        ]
        if eligible is None:
            found = dict(cluster.values(label)[1])
            for group in groups:
                for value, pods in group.domains(label, cluster).items():
                    found[value] += pods
        else:
            found = dict.fromkeys(eligible[number].values(), 0)
            for group in groups:
                for name, pods in group.nodes.items():
                    if name in eligible[number]:
                        found[eligible[number][name]] += pods
        counts.append(found)
    return counts


def _eligible(constraints: Sequence[Constraint], pod: PodInfo, cluster: Cluster) -> list[dict[str, str]] | None:
    """For each constraint the label's value by the name of the nodes that it looks at; None: all look at all nodes."""
    needs, nodes = pod.needs, cluster.nodes
    labels = [constraint.topology_key for constraint in constraints]
    affinity = needs.node_affinity
    anywhere = not needs.node_selector and (affinity is None or affinity.required is None)
    if all(cluster.values(label)[0] == len(nodes) for label in labels) and all(
        (anywhere or not each.honors_affinity) and (not cluster.tainted or not each.honors_taints)
        for each in constraints
    ):
        return None
    eligible: list[dict[str, str]] = [{} for _ in constraints]
    for node in nodes:
        if not all(label in node.labels for label in labels):
            continue
        fits = anywhere or node_fits(needs.node_selector, affinity, node.name, node.labels)
        tolerated = untolerated(node.taints, needs.tolerations, "NoSchedule", "NoExecute") is None
        for constraint, found in zip(constraints, eligible, strict=True):
            if (fits or not constraint.honors_affinity) and (tolerated or not constraint.honors_taints):
                found[node.name] = node.labels[constraint.topology_key]
    return eligible
