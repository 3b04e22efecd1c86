"""Resources: what a pod asks for has to be there; the emptier a node the better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo

TOO_MANY_PODS: Final = "Too many pods"


class NodeResourcesFit(Plugin):
    """Requests of cpu, memory, ephemeral storage and what else nodes offer, and the number of pods.

    Score: kube-scheduler's LeastAllocated, the mean of the free shares of cpu and memory.
    """

    woken_by = frozenset([Change.NODE, Change.POD_GONE])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Every pod takes room."""
        asked = list(pod.needs.requests.items())

        def judge(node: NodeInfo) -> Refusal | None:
            allocatable, used = node.allocatable, node.used
            if len(node.pods) < node.most_pods:
                for resource, amount in asked:
                    if amount > allocatable.get(resource, 0) - used.get(resource, 0):
                        break
                else:
                    return None
            return _refusal(node, asked)

        return judge

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Every pod takes room."""
        cpu, memory = pod.needs.compared_cpu, pod.needs.compared_memory

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            return [
                (50 * free / node.cpu if (free := node.cpu - node.compared_cpu - cpu) > 0 else 0.0)
                + (50 * free / node.memory if (free := node.memory - node.compared_memory - memory) > 0 else 0.0)
                for node in nodes
            ]

        return judge


def _refusal(node: NodeInfo, asked: list[tuple[str, int]]) -> Refusal:
    reasons = [] if len(node.pods) < node.most_pods else [TOO_MANY_PODS]
    for resource, amount in asked:
        if amount > node.allocatable.get(resource, 0) - node.used.get(resource, 0):
            reasons.append(f"Insufficient {resource}")
    # More than the whole node has: nobody's leaving would help.
    final = any(amount > node.allocatable.get(resource, 0) for resource, amount in asked)
    return Refusal(tuple(reasons), final)
