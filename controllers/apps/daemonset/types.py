"""The kind DaemonSet, with its defaults and rules."""

from __future__ import annotations

from typing import Any, Literal

from controllers.apps.types import (
    LabelSelector,
    default_template,
    not_negative,
    selector_stays,
    validate_size,
    validate_workload,
)
from controllers.core.types import Condition, PodTemplate
from informer import patch
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource

# How often the template has changed; what v1 kept of an older API's field, and a pod of its label.
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


class RollingUpdateDaemonSet(Model):
    """How many nodes may be without an available pod, or have two, during a rollout: a number, or a percentage of the
    nodes that should have one. One of the two is 0."""

    max_unavailable: int | str = 1
    max_surge: int | str = 0


class DaemonSetUpdateStrategy(Model):
    """How old pods give way to new ones: step by step, or when somebody deletes them."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: RollingUpdateDaemonSet | None


class DaemonSetSpec(Model):
    """Which pods, and how they are replaced. Times in seconds."""

    selector: LabelSelector
    template: PodTemplate
    update_strategy: DaemonSetUpdateStrategy
    min_ready_seconds: int = 0
    revision_history_limit: int = 10


class DaemonSetStatus(Model):
    """Numbers of nodes."""

    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    observed_generation: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    collision_count: int | None
    conditions: list[Condition]


class DaemonSet(Resource, group="apps", version="v1", short_names=("ds",)):
    """A pod of one template on every node that takes it."""

    spec: DaemonSetSpec
    status: DaemonSetStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("revisionHistoryLimit", 10)
        strategy = spec.setdefault("updateStrategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxUnavailable", 1)
            rolling.setdefault("maxSurge", 0)
        default_template(spec)
        if not self.template_generation:
            self._set_template_generation(1)

    def validate(self) -> None:
        """The selector selects the template, and a rollout can move."""
        spec = self.raw["spec"]
        validate_workload(spec)
        not_negative(spec, "revisionHistoryLimit")
        if spec["template"]["spec"].get("activeDeadlineSeconds") is not None:
            raise Invalid(
                "spec.template.spec.activeDeadlineSeconds", "may not be set: pods of a DaemonSet run for ever"
            )
        strategy = spec["updateStrategy"]
        if strategy["type"] == "RollingUpdate":
            _validate_rolling(strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate")

    def validate_update(self, old: DaemonSet) -> None:
        """The selector stays."""
        selector_stays(self.raw, old.raw)

    def prepare_update(self, old: DaemonSet) -> None:
        """Count the changes of the template, whatever the writer says of their number."""
        changed = not patch.semantic_equal(self.raw["spec"].get("template"), old.raw["spec"].get("template"))
        self._set_template_generation(max(1, old.template_generation) + changed)

    @property
    def template_generation(self) -> int:
        """How often the template has changed, 1 at first; 0 if the object does not say."""
        annotations = (self.raw.get("metadata") or {}).get("annotations") or {}
        text = annotations.get(TEMPLATE_GENERATION)
        return int(text) if isinstance(text, str) and text.isdecimal() else 0

    def _set_template_generation(self, number: int) -> None:
        metadata = self.raw["metadata"]
        if (metadata.get("annotations") or {}).get(TEMPLATE_GENERATION) != str(number):
            metadata["annotations"] = {**(metadata.get("annotations") or {}), TEMPLATE_GENERATION: str(number)}


def _validate_rolling(rolling: dict[str, Any], path: str) -> None:
    sizes = {field: validate_size(rolling[field], f"{path}.{field}") for field in ("maxUnavailable", "maxSurge")}
    for field, size in sizes.items():
        if isinstance(rolling[field], str) and size > 100:
            raise Invalid(f"{path}.{field}", "may not be more than 100%")
    if all(sizes.values()):
        raise Invalid(f"{path}.maxSurge", "may not be set when maxUnavailable is not 0")
    if not any(sizes.values()):
        raise Invalid(f"{path}.maxUnavailable", "may not be 0 when maxSurge is 0")
