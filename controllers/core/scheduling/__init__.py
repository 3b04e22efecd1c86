"""The scheduler: filters and scores as small plug-ins, priorities, preemption."""

from __future__ import annotations

from controllers.core.scheduling.cluster import Cluster, Group
from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal, Score
from controllers.core.scheduling.node import NodeInfo
from controllers.core.scheduling.plugins import default_plugins
from controllers.core.scheduling.pod import Needs, PodInfo
from controllers.core.scheduling.priorities import Priority, resolve_priority

__all__ = [
    "Change",
    "Cluster",
    "Filter",
    "Group",
    "Needs",
    "NodeInfo",
    "Plugin",
    "PodInfo",
    "Priority",
    "Refusal",
    "Score",
    "default_plugins",
    "resolve_priority",
]
