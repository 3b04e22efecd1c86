"""Pods lie evenly over the values of a label of nodes: zones, hosts."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def _count(constraints: Sequence[Constraint], pod: PodInfo, cluster: Cluster) -> list[dict[str, int]]:
    """For each constraint how many pods there are by the label's value, over the nodes that it looks at."""
    needs = pod.needs
    keys = [constraint.topology_key for constraint in constraints]
    counts: list[dict[str, int]] = [{} for _ in constraints]
    eligible: list[set[str]] = [set() for _ in constraints]
    for node in cluster.nodes:
        if not all(key in node.labels for key in keys):
            continue
        fits = tolerated = None
        for number, constraint in enumerate(constraints):
            if constraint.honors_affinity:
                if fits is None:
                    fits = node_fits(needs.node_selector, needs.node_affinity, node.name, node.labels)
                if not fits:
                    continue
            if constraint.honors_taints:
                if tolerated is None:
                    tolerated = untolerated(node.taints, needs.tolerations, "NoSchedule", "NoExecute") is None
                if not tolerated:
                    continue
            counts[number].setdefault(node.labels[constraint.topology_key], 0)
            eligible[number].add(node.name)
    for number, constraint in enumerate(constraints):
        selector = constraint.selects(pod.labels)
        for group in cluster.groups([pod.namespace]):
            if group.deleting or not selector.matches(group.traits.labels):
                continue
            for name, pods in group.nodes.items():
                if name in eligible[number]:
                    node_info = cluster.node(name)
                    assert node_info is not None
                    counts[number][node_info.labels[constraint.topology_key]] += pods
    return counts
