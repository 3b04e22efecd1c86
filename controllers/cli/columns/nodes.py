"""Nodes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.raw import NONE, UNKNOWN, Raw, age_of, condition, dig, items, mapping, name_of

_ROLE = "node-role.kubernetes.io/"


def node_status(raw: Raw) -> str:
    """`Ready`, `NotReady` or `Unknown`, and whether pods may be put there."""
    ready = {"True": "Ready", None: "Unknown"}.get(condition(raw, "Ready"), "NotReady")
    return f"{ready},SchedulingDisabled" if dig(raw, "spec", "unschedulable") else ready


def node_roles(raw: Raw) -> str:
    """What its labels say that it is for."""
    labels = mapping(raw, "metadata", "labels")
    return ",".join(sorted(label.removeprefix(_ROLE) for label in labels if label.startswith(_ROLE))) or NONE


def _node(raw: Raw, now: datetime) -> Sequence[str]:
    addresses = {each.get("type"): each.get("address") for each in items(raw, "status", "addresses")}
    info = mapping(raw, "status", "nodeInfo")
    return (
        name_of(raw),
        node_status(raw),
        node_roles(raw),
        age_of(raw, now),
        info.get("kubeletVersion") or NONE,
        addresses.get("InternalIP") or NONE,
        addresses.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    )


_WIDE = ("INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME")
COLUMNS = {"nodes": Columns(("NAME", "STATUS", "ROLES", "AGE", "VERSION", *_WIDE), _node, wide=_WIDE)}
