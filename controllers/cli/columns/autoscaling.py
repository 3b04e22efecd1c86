"""HorizontalPodAutoscalers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from controllers.cli.columns.model import Columns
from controllers.cli.raw import NONE, UNKNOWN, UNSET, Raw, age_of, dig, items, mapping, name_of, number, text

MOST = 2  # kubectl's, of metrics

# Where a metric of each type has its target and what it is at.
_KEYS = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}


def metric_parts(raw: Raw) -> list[tuple[Raw, str, str]]:
    """Each metric of the autoscaler: its spec of the type's own, the value it is at, and its target."""
    current = items(raw, "status", "currentMetrics")
    found = []
    for index, metric in enumerate(items(raw, "spec", "metrics")):
        key = _KEYS.get(text(metric, "type"), "")
        at = mapping(current[index], key, "current") if index < len(current) else {}
        spec = mapping(metric, key)
        found.append((spec, *_values(mapping(spec, "target"), at)))
    return found


def _values(target: Mapping[str, Any], at: Mapping[str, Any]) -> tuple[str, str]:
    if target.get("averageUtilization") is not None:
        now = at.get("averageUtilization")
        return UNKNOWN if now is None else f"{now}%", f"{target['averageUtilization']}%"
    for field, suffix in (("averageValue", " (avg)"), ("value", "")):
        if target.get(field) is not None:
            return text(at, field, otherwise=UNKNOWN), f"{target[field]}{suffix}"
    return UNKNOWN, "<auto>"


def targets_text(raw: Raw) -> str:
    """`cpu: 42%/80%`, of the first metrics."""
    kinds = [text(each, "type") for each in items(raw, "spec", "metrics")]
    shown = []
    for kind, (spec, at, target) in zip(kinds, metric_parts(raw), strict=True):
        # As kubectl: of resources the name is told, of external metrics and objects that it is an average.
        name = f"{spec['name']}: " if kind in ("Resource", "ContainerResource") and spec.get("name") else ""
        wanted = target if kind in ("External", "Object") else target.removesuffix(" (avg)")
        shown.append(f"{name}{at}/{wanted}")
    if not shown:
        return NONE
    more = f" + {len(shown) - MOST} more..." if len(shown) > MOST else ""
    return ", ".join(shown[:MOST]) + more


def reference_text(raw: Raw) -> str:
    """`Deployment/web`."""
    target = mapping(raw, "spec", "scaleTargetRef")
    return f"{target.get('kind', '')}/{target.get('name', '')}"


def _autoscaler(raw: Raw, now: datetime) -> Sequence[str]:
    least = dig(raw, "spec", "minReplicas")
    return (
        name_of(raw),
        reference_text(raw),
        targets_text(raw),
        UNSET if least is None else str(least),
        str(number(raw, "spec", "maxReplicas")),
        str(number(raw, "status", "currentReplicas")),
        age_of(raw, now),
    )


COLUMNS = {
    "horizontalpodautoscalers.autoscaling": Columns(
        ("NAME", "REFERENCE", "TARGETS", "MINPODS", "MAXPODS", "REPLICAS", "AGE"), _autoscaler
    ),
}
