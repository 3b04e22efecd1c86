"""What a plug-in of the scheduler is.

A plug-in looks at a pod once and answers with a function that judges nodes, or with None when the pod gives it nothing
to judge by. So a rule costs only the pods that use it:

    class OnSsd(Plugin):
        def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | None:
            if "fast" not in pod.labels:
                return None
            return lambda node: None if node.labels.get("disk") == "ssd" else Refusal(("node(s) had no SSD",))

    add_workloads(manager, scheduler_plugins=[*default_plugins(), OnSsd()])
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.pod import PodInfo


class Change(enum.Enum):
    """What may make room for a pod that no node took."""

    NODE = "a node came or changed"
    POD_GONE = "a pod left its node"
    POD_PLACED = "a pod got a node"
    NAMESPACE = "a namespace came or changed"
    VOLUME = "a claim, a volume or a storage class came or changed"


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a node does not take a pod, in kube-scheduler's words. final: whichever pods left it, it still would not."""

    reasons: tuple[str, ...]
    final: bool = False


Filter: TypeAlias = Callable[[NodeInfo], Refusal | None]
Score: TypeAlias = Callable[[Sequence[NodeInfo]], Sequence[float]]


class Plugin:
    """A rule about where pods go. Subclass it, and define `filter`, `score` or both.

    Both are called once a pod, without I/O and on the loop: they have to be quick. What they are given may be read
    only. weight: of the scores against other plug-ins'. woken_by: what may change this plug-in's mind; a pod that it
    refused is not tried again before.
    """

    weight: float = 1
    woken_by: frozenset[Change] = frozenset(Change)

    @property
    def name(self) -> str:
        """What it is called."""
        return type(self).__name__

    def filter(self, pod: PodInfo, cluster: Cluster) -> Filter | Refusal | None:
        """A function that says why a node cannot take the pod, None if it can. None: all nodes can. A refusal: none
        can, whatever the node, as by kube-scheduler's PreFilter."""
        return None

    def score(self, pod: PodInfo, cluster: Cluster) -> Score | None:
        """A function that gives nodes 0 (bad) to 100 (good), in their order. None: they are all the same."""
        return None
