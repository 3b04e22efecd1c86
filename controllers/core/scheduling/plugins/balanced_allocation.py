"""A node whose cpu and memory are used to the same degree can take more pods than one that runs out of one of them."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Plugin, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import CPU, MEMORY, PodInfo


class NodeResourcesBalancedAllocation(Plugin):
    """Score: 100 less the standard deviation of the used shares of cpu and memory, the pod included."""

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do for a pod that asks for neither."""
        requests = pod.needs.requests
        cpu, memory = requests.get(CPU, 0), requests.get(MEMORY, 0)
        if not cpu and not memory:
            return None

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            # Of two numbers the standard deviation is half their difference.
            return [
                100
                - 50 * abs((node.used[CPU] + cpu) / (node.cpu or 1) - (node.used[MEMORY] + memory) / (node.memory or 1))
                for node in nodes
            ]

        return judge
