"""Taints keep pods off, the soft ones if there is a choice."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo
from controllers.core.taints import tolerates, untolerated


class TaintToleration(Plugin):
    """NoSchedule and NoExecute refuse. Score: the fewer PreferNoSchedule taints a pod does not tolerate the better.

    A node that is not ready counts as tainted for it, even before the node lifecycle controller has done so.
    """

    weight = 3
    woken_by = frozenset([Change.NODE])

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
        """Nothing to do while no node is tainted."""
        if not cluster.tainted:
            return None
        tolerations = pod.needs.tolerations

        def judge(node: NodeInfo) -> Refusal | None:
            if not node.taints:
                return None
            taint = untolerated(node.taints, tolerations, "NoSchedule", "NoExecute")
            return None if taint is None else Refusal((f"node(s) had untolerated taint {taint}",), final=True)

        return judge

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """Nothing to do while no node is tainted."""
        if not cluster.tainted:
            return None
        # Tolerations of other effects do not count against a wish.
        tolerations = [each for each in pod.needs.tolerations if each.effect in ("", "PreferNoSchedule")]

        def judge(nodes: Sequence[NodeInfo]) -> Sequence[float]:
            soft = [
                sum(taint.effect == "PreferNoSchedule" and not tolerates(tolerations, taint) for taint in node.taints)
                for node in nodes
            ]
            most = max(soft) or 1
            return [100 - 100 * number / most for number in soft]

        return judge
