"""HorizontalPodAutoscaler, with its defaults and rules."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from controllers.core.quantities import scaled
from controllers.core.types import Condition
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource

LONGEST_PERIOD = 1800  # seconds; kube-apiserver's, of a policy
LONGEST_WINDOW = 3600  # seconds; kube-apiserver's, of a stabilization window
DEFAULT_UTILIZATION = 80  # percent of the cpu request, without metrics

Raw = dict[str, Any]

UP_RULES: Raw = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
# Without a window of its own: the controller's, of 300 s.
DOWN_RULES: Raw = {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}

# Metric type -> its field and the fields of its target that count.
SOURCES = {
    "Resource": ("resource", ("averageUtilization", "averageValue")),
    "ContainerResource": ("containerResource", ("averageUtilization", "averageValue")),
    "Pods": ("pods", ("averageValue",)),
    "Object": ("object", ("value", "averageValue")),
    "External": ("external", ("value", "averageValue")),
}


class CrossVersionObjectReference(Model):
    """An object of the same namespace."""

    api_version: str = ""
    kind: str
    name: str


class MetricTarget(Model):
    """What a metric is to be: percent of the request, a quantity for each pod, or one in all."""

    type: Literal["Utilization", "Value", "AverageValue"]
    average_utilization: int | None
    average_value: int | float | str | None
    value: int | float | str | None


class ResourceMetricSource(Model):
    """cpu or memory, of pods or of one of their containers."""

    name: str
    container: str = ""
    target: MetricTarget


class MetricIdentifier(Model):
    """A metric by name and, where a source has several, by labels."""

    name: str
    selector: dict[str, Any] | None


class MetricSource(Model):
    """A metric of pods, of an object, or from elsewhere."""

    metric: MetricIdentifier
    described_object: CrossVersionObjectReference | None
    target: MetricTarget


class MetricSpec(Model):
    """One of the metrics; the one that asks for most counts."""

    type: Literal["Resource", "ContainerResource", "Pods", "Object", "External"]
    resource: ResourceMetricSource | None
    container_resource: ResourceMetricSource | None
    pods: MetricSource | None
    object: MetricSource | None
    external: MetricSource | None


class ScalingPolicy(Model):
    """How much may change in how many seconds."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: int


class ScalingRules(Model):
    """How fast to scale in one direction."""

    stabilization_window_seconds: int | None
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    policies: list[ScalingPolicy]
    tolerance: int | float | str | None


class Behavior(Model):
    """How fast to scale."""

    scale_up: ScalingRules | None
    scale_down: ScalingRules | None


class HorizontalPodAutoscalerSpec(Model):
    """What to scale, between which bounds, by which metrics."""

    scale_target_ref: CrossVersionObjectReference
    min_replicas: int = 1
    max_replicas: int
    metrics: list[MetricSpec]
    behavior: Behavior | None


class HorizontalPodAutoscalerStatus(Model):
    """What it saw and decided."""

    observed_generation: int | None
    last_scale_time: datetime | None
    current_replicas: int = 0
    desired_replicas: int = 0
    current_metrics: list[dict[str, Any]]
    conditions: list[Condition]


class HorizontalPodAutoscaler(Resource, group="autoscaling", version="v2", short_names=("hpa",)):
    """Keeps the number of an object's pods in step with their load."""

    spec: HorizontalPodAutoscalerSpec
    status: HorizontalPodAutoscalerStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("minReplicas", 1)
        if not spec.get("metrics"):
            target = {"type": "Utilization", "averageUtilization": DEFAULT_UTILIZATION}
            spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
        behavior = spec.get("behavior")
        if behavior is not None:
            for field, rules in (("scaleUp", UP_RULES), ("scaleDown", DOWN_RULES)):
                given = behavior.get(field) or {}
                behavior[field] = {**rules, **{key: value for key, value in given.items() if value not in (None, [])}}

    def validate(self) -> None:
        """It has something to scale, bounds that leave room, metrics with targets, and policies that move."""
        spec = self.raw["spec"]
        target = spec.get("scaleTargetRef") or {}
        for field in ("kind", "name"):
            if not target.get(field):
                raise Invalid(f"spec.scaleTargetRef.{field}", "required")
        least, most = spec["minReplicas"], spec.get("maxReplicas") or 0
        if most < 1:
            raise Invalid("spec.maxReplicas", "must be greater than 0")
        if least < 0:
            raise Invalid("spec.minReplicas", "must be greater than or equal to 0")
        if most < least:
            raise Invalid("spec.maxReplicas", "must be greater than or equal to `minReplicas`")
        kinds = [metric.get("type") for metric in spec["metrics"]]
        if least == 0 and not {"Object", "External"} & set(kinds):
            raise Invalid("spec.metrics", "must specify at least one Object or External metric to support scaling to 0")
        for index, metric in enumerate(spec["metrics"]):
            _validate_metric(metric, f"spec.metrics[{index}]")
        for field in ("scaleUp", "scaleDown"):
            if rules := (spec.get("behavior") or {}).get(field):
                _validate_rules(rules, f"spec.behavior.{field}")


def _validate_metric(metric: Raw, path: str) -> None:
    kind = metric.get("type")
    if kind not in SOURCES:
        raise Invalid(f"{path}.type", f"expected one of {', '.join(SOURCES)}")
    field, targets = SOURCES[kind]
    source = metric.get(field)
    if source is None:
        raise Invalid(f"{path}.{field}", "must populate information for the given metric source")
    if kind in ("Resource", "ContainerResource"):
        names = {"name": source.get("name")}
        if kind == "ContainerResource":
            names["container"] = source.get("container")
    else:
        names = {"metric.name": (source.get("metric") or {}).get("name")}
        if kind == "Object":
            described = source.get("describedObject") or {}
            names |= {f"describedObject.{each}": described.get(each) for each in ("kind", "name")}
    for name, value in names.items():
        if not value:
            raise Invalid(f"{path}.{field}.{name}", "required")
    target = source.get("target") or {}
    given = [each for each in targets if target.get(each) is not None]
    if len(given) != 1:
        raise Invalid(f"{path}.{field}.target", f"must set exactly one of {', '.join(targets)}")
    value = target[given[0]]
    if (value if given[0] == "averageUtilization" else scaled(value, 1000)) <= 0:
        raise Invalid(f"{path}.{field}.target.{given[0]}", "must be positive")


def _validate_rules(rules: Raw, path: str) -> None:
    window = rules.get("stabilizationWindowSeconds")
    if window is not None and not 0 <= window <= LONGEST_WINDOW:
        raise Invalid(f"{path}.stabilizationWindowSeconds", f"expected 0 to {LONGEST_WINDOW}, got {window}")
    for index, policy in enumerate(rules["policies"]):
        if (policy.get("value") or 0) <= 0:
            raise Invalid(f"{path}.policies[{index}].value", "must be greater than zero")
        if not 0 < (policy.get("periodSeconds") or 0) <= LONGEST_PERIOD:
            raise Invalid(f"{path}.policies[{index}].periodSeconds", f"expected 1 to {LONGEST_PERIOD}")
    if rules.get("tolerance") is not None and scaled(rules["tolerance"], 1000) < 0:
        raise Invalid(f"{path}.tolerance", "must be greater or equal to 0")
