"""The scheduler: filters and scores as small plug-ins, priorities, preemption."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controllers.core.scheduling.cluster import Cluster, Group
    from controllers.core.scheduling.framework import Change, Filter, Plugin, Refusal, Score
    from controllers.core.scheduling.node import NodeInfo
    from controllers.core.scheduling.plugins import default_plugins
    from controllers.core.scheduling.pod import Needs, PodInfo
    from controllers.core.scheduling.priorities import Priority, resolve_priority

# The command line has the kinds of this package: it must not pay for the plug-ins.
_HOMES = {
    "cluster": ("Cluster", "Group"),
    "framework": ("Change", "Filter", "Plugin", "Refusal", "Score"),
    "node": ("NodeInfo",),
    "plugins": ("default_plugins",),
    "pod": ("Needs", "PodInfo"),
    "priorities": ("Priority", "resolve_priority"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
