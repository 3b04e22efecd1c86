"""The kinds of Kubernetes' apps group, with their defaults and rules."""

from __future__ import annotations

import re
from typing import Any, Literal

from controllers.core.defaults import default_pod_spec
from controllers.core.label_selector import LabelSelector as LabelSelector
from controllers.core.types import Condition, PodTemplate, validate_pod_spec
from informer import patch
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource
from informer.scale import MOST_REPLICAS, Scale
from informer.selectors import Selector

_PERCENT = re.compile(r"[0-9]+%")


class RollingUpdate(Model):
    """How far a rollout may go above and below the wanted number of pods: a number or a percentage of it."""

    max_unavailable: int | str = "25%"
    max_surge: int | str = "25%"


class DeploymentStrategy(Model):
    """How old pods give way to new ones."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None


class DeploymentSpec(Model):
    """How many pods of which template, and how they are replaced. Times in seconds."""

    replicas: int = 1
    selector: LabelSelector
    template: PodTemplate
    strategy: DeploymentStrategy
    min_ready_seconds: int = 0
    revision_history_limit: int = 10
    progress_deadline_seconds: int = 600
    paused: bool = False


class DeploymentStatus(Model):
    """Where the rollout is."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    terminating_replicas: int | None
    collision_count: int | None
    conditions: list[Condition]


class Deployment(Resource, group="apps", version="v1", short_names=("deploy",), scale=Scale(selector="spec.selector")):
    """Pods of one template, kept running and replaced step by step when the template changes."""

    GENERATION_COUNTS_ANNOTATIONS = True
    STATUS_WRITES_ANNOTATIONS = True

    spec: DeploymentSpec
    status: DeploymentStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("progressDeadlineSeconds", 600)
        strategy = spec.setdefault("strategy", {})
        if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
            rolling = strategy.setdefault("rollingUpdate", {})
            rolling.setdefault("maxSurge", "25%")
            rolling.setdefault("maxUnavailable", "25%")
        default_template(spec)

    def validate(self) -> None:
        """The selector selects the template, and a rollout can move."""
        spec = self.raw["spec"]
        validate_workload(spec)
        not_negative(spec, "revisionHistoryLimit", "progressDeadlineSeconds")
        if spec["progressDeadlineSeconds"] <= (spec.get("minReadySeconds") or 0):
            raise Invalid("spec.progressDeadlineSeconds", "must be greater than minReadySeconds")
        strategy = spec["strategy"]
        rolling = strategy.get("rollingUpdate")
        if strategy["type"] == "Recreate":
            if rolling is not None:
                raise Invalid("spec.strategy.rollingUpdate", "may not be set when the type is Recreate")
            return
        sizes = [
            validate_size(rolling[field], f"spec.strategy.rollingUpdate.{field}")
            for field in ("maxUnavailable", "maxSurge")
        ]
        if not any(sizes):
            raise Invalid("spec.strategy.rollingUpdate.maxUnavailable", "may not be 0 when maxSurge is 0")
        if isinstance(rolling["maxUnavailable"], str) and sizes[0] > 100:
            raise Invalid("spec.strategy.rollingUpdate.maxUnavailable", "may not be more than 100%")

    def validate_update(self, old: Deployment) -> None:
        """The selector stays."""
        selector_stays(self.raw, old.raw)


class ReplicaSetSpec(Model):
    """How many pods of which template."""

    replicas: int = 1
    selector: LabelSelector
    template: PodTemplate
    min_ready_seconds: int = 0


class ReplicaSetStatus(Model):
    """How many there are."""

    observed_generation: int = 0
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    terminating_replicas: int | None
    conditions: list[Condition]


class ReplicaSet(Resource, group="apps", version="v1", short_names=("rs",), scale=Scale(selector="spec.selector")):
    """Pods of one template, kept at a number."""

    STATUS_WRITES_ANNOTATIONS = True

    spec: ReplicaSetSpec
    status: ReplicaSetStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        default_template(spec)

    def validate(self) -> None:
        """The selector selects the template."""
        validate_workload(self.raw["spec"])

    def validate_update(self, old: ReplicaSet) -> None:
        """The selector stays."""
        selector_stays(self.raw, old.raw)


def default_template(spec: dict[str, Any]) -> None:
    """Fill in the pod template of a workload's spec, in place."""
    template = spec.get("template")
    if template is not None and template.get("spec") is not None:
        default_pod_spec(template["spec"])


def validate_workload(spec: dict[str, Any]) -> None:
    """Raise `Invalid` unless the selector selects the template and its pods run for ever."""
    not_negative(spec, "replicas", "minReadySeconds")
    raw = spec.get("selector")
    if raw is None:
        raise Invalid("spec.selector", "required")
    try:
        selector = Selector.of(raw)
    except Invalid as error:
        raise Invalid(f"spec.selector.{error.path}", error.problem) from None
    if selector.empty:
        raise Invalid("spec.selector", "must not be empty: it would select every pod of the namespace")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selector.matches(labels):
        raise Invalid("spec.template.metadata.labels", f"the selector {selector} does not select them")
    validate_pod_spec(template.get("spec") or {}, "spec.template.spec")
    restart = template["spec"]["restartPolicy"]
    if restart != "Always":
        raise Invalid("spec.template.spec.restartPolicy", f'expected "Always", got "{restart}"')


def not_negative(spec: dict[str, Any], *fields: str) -> None:
    """Raise `Invalid` if one of the fields is a negative number, or more than Kubernetes can count."""
    for field in fields:
        value = spec.get(field) or 0
        if value < 0:
            raise Invalid(f"spec.{field}", f"must not be negative, got {value}")
        if value > MOST_REPLICAS:
            raise Invalid(f"spec.{field}", f"must not be more than {MOST_REPLICAS}, got {value}")


def validate_size(value: int | str, path: str) -> int:
    """The number or percentage. Raises `Invalid` if it is neither, or negative."""
    if isinstance(value, str):
        if not _PERCENT.fullmatch(value):
            raise Invalid(path, f'expected a number or a percentage such as "25%", got "{value}"')
        return int(value[:-1])
    if value < 0:
        raise Invalid(path, f"must not be negative, got {value}")
    return value


def selector_stays(new: dict[str, Any], old: dict[str, Any]) -> None:
    """Raise `Invalid` if the selector is another one: pods that it selected would be lost."""
    if not patch.semantic_equal(new["spec"].get("selector"), old["spec"].get("selector")):
        raise Invalid("spec.selector", "is immutable")


class ControllerRevision(Resource, group="apps", version="v1"):
    """A state of a StatefulSet or DaemonSet that can be gone back to. `data` never changes, `revision` may rise."""

    revision: int = 0
    data: dict[str, Any]

    def validate(self) -> None:
        """It holds something."""
        if self.raw.get("data") is None:
            raise Invalid("data", "required")
        if self.revision < 0:
            raise Invalid("revision", f"must not be negative, got {self.revision}")

    def validate_update(self, old: ControllerRevision) -> None:
        """What it holds stays."""
        if not patch.semantic_equal(self.raw["data"], old.raw.get("data")):
            raise Invalid("data", "is immutable")
