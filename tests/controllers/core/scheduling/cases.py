"""Small clusters for tests of the scheduler's decisions: nodes and pods in a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from controllers.core.scheduling.cluster import Cluster
from controllers.core.scheduling.framework import Plugin
from controllers.core.scheduling.placing import Placer, Unschedulable
from controllers.core.scheduling.plugins import default_plugins
from controllers.core.scheduling.pod import PodInfo, pod_info
from informer import patch
from informer.cache import Metadata, Stored

Raw = dict[str, Any]


def node(
    labels: Mapping[str, str] | None = None,
    *,
    ready: str = "True",
    allocatable: Mapping[str, str] | None = None,
    **spec: Any,
) -> Raw:
    """A node's JSON: 2 cpu, 1 Gi, three pods."""
    return {
        "metadata": {"labels": dict(labels or {})},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", **(allocatable or {})},
            "conditions": [{"type": "Ready", "status": ready}] if ready else [],
        },
    }


def stored(raw: Raw) -> Stored:
    """A pod as a cache holds it."""

    class Object(msgspec.Struct):
        metadata: Metadata

    data = patch.encode(raw)
    metadata = raw["metadata"]
    meta = msgspec.json.decode(data, type=Object).metadata
    return Stored(f"{metadata['namespace']}/{metadata['name']}", data, "1", meta)


def raw_pod(
    name: str = "pod",
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    owner: str = "",
    requests: Mapping[str, str] | None = None,
    status: Raw | None = None,
    deleting: bool = False,
    **spec: Any,
) -> Raw:
    """A pod's JSON with one container; its uid is its name."""
    metadata: Raw = {"name": name, "namespace": namespace, "uid": name, "generation": 1, "labels": dict(labels or {})}
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "controller": True}]
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    container = {"name": "a", "image": "a:1", "resources": {"requests": dict(requests or {})}}
    return {"metadata": metadata, "spec": {"containers": [container], **spec}, "status": status or {}}


def pod(name: str = "pod", **options: Any) -> PodInfo:
    """The same as the scheduler sees it."""
    return pod_info(stored(raw_pod(name, **options)))


class Case:
    """A cluster of named nodes; pods are put on them or placed."""

    def __init__(self, plugins: Sequence[Plugin] | None = None, /, **nodes: Raw) -> None:
        self.cluster = Cluster()
        self.placer = Placer(self.cluster, default_plugins() if plugins is None else plugins)
        for name, raw in nodes.items():
            self.node(name, raw)

    def node(self, name: str, raw: Raw) -> None:
        raw["metadata"]["name"] = name
        self.cluster.set_node(name, patch.encode(raw))

    def on(self, where: str, name: str, **options: Any) -> PodInfo:
        """A pod that runs there."""
        made = pod(name, **options)
        self.cluster.note(made, where)
        return made

    def place(self, name: str = "new", /, **options: Any) -> str:
        """Where a pod would go."""
        return self.placer.place(pod(name, **options))

    def bind(self, name: str, /, **options: Any) -> str:
        """Place it, and let it run there."""
        made = pod(name, **options)
        where = self.placer.place(made)
        self.cluster.note(made, where)
        return where

    def refusal(self, name: str = "new", /, **options: Any) -> str:
        """What a pod is told that no node takes."""
        try:
            where = self.place(name, **options)
        except Unschedulable as refused:
            return str(refused)
        raise AssertionError(f"{where} takes it")

    def takers(self, name: str = "new", /, **options: Any) -> list[str]:
        """All nodes that take a pod."""
        made = pod(name, **options)
        return [each.name for each in self.cluster.nodes if self.placer.refusal(made, each) is None]
