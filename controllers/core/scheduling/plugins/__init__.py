"""The scheduler's own rules, one a file."""

from __future__ import annotations

from controllers.core.scheduling.framework import Plugin
from controllers.core.scheduling.plugins.balanced_allocation import NodeResourcesBalancedAllocation
from controllers.core.scheduling.plugins.inter_pod_affinity import InterPodAffinity
from controllers.core.scheduling.plugins.node_affinity import NodeAffinity
from controllers.core.scheduling.plugins.node_ports import NodePorts
from controllers.core.scheduling.plugins.node_resources_fit import NodeResourcesFit
from controllers.core.scheduling.plugins.node_unschedulable import NodeUnschedulable
from controllers.core.scheduling.plugins.owner_spread import OwnerSpread
from controllers.core.scheduling.plugins.pod_topology_spread import PodTopologySpread
from controllers.core.scheduling.plugins.taint_toleration import TaintToleration
from controllers.core.scheduling.plugins.volume_binding import VolumeBinding


def default_plugins() -> list[Plugin]:
    """All of them. Filters are asked in this order, kube-scheduler's; the first that refuses a node is told."""
    return [
        NodeUnschedulable(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(),
        VolumeBinding(),
        PodTopologySpread(),
        InterPodAffinity(),
        NodeResourcesBalancedAllocation(),
        OwnerSpread(),
    ]
