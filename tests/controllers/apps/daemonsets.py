"""DaemonSets, nodes and pods for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from controllers.apps.daemonset.types import DaemonSet
from informer.cache import Metadata, Stored
from tests.controllers.cluster import EPOCH

Raw = dict[str, Any]

NOW = EPOCH + timedelta(seconds=1000)


def daemon_set(name: str = "agent", *, pod: Raw | None = None, image: str = "agent:1", **spec: Any) -> DaemonSet:
    """A DaemonSet of one container. pod: fields of the template's pod spec."""
    return DaemonSet.from_raw(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "agent", "image": image}], **(pod or {})},
                },
                **spec,
            },
        }
    )


def rolling(**sizes: int | str) -> Raw:
    """An updateStrategy."""
    return {"type": "RollingUpdate", "rollingUpdate": sizes}


def surging(surge: int | str) -> Raw:
    """An updateStrategy in which the new pod comes first."""
    return rolling(maxSurge=surge, maxUnavailable=0)


def stored(raw: Raw, revision: int = 1) -> Stored:
    """An object as a cache has it."""
    metadata = raw["metadata"]
    key = "/".join(each for each in (metadata.get("namespace"), metadata["name"]) if each)
    meta = msgspec.json.decode(msgspec.json.encode(metadata), type=Metadata)
    return Stored(key, msgspec.json.encode(raw), str(revision), meta)


def node(name: str, *taints: str, generation: int = 1, **labels: str) -> Raw:
    """A node. A taint is `key:effect` or `key=value:effect`; in labels `_` stands for `-`."""
    metadata = {
        "name": name,
        "generation": generation,
        "labels": {key.replace("_", "-"): value for key, value in labels.items()},
    }
    return {"metadata": metadata, "spec": {"taints": [taint(each) for each in taints]}}


def taint(text: str) -> Raw:
    """`key:effect` or `key=value:effect`."""
    what, _, effect = text.rpartition(":")
    key, _, value = what.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}
