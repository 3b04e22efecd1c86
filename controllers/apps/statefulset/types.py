"""StatefulSet, with kube-apiserver's defaults and rules."""

from __future__ import annotations

from typing import Any, Literal

from controllers.apps.types import LabelSelector, default_template, not_negative, validate_size, validate_workload
from controllers.core.types import Condition, PersistentVolumeClaimSpec, PodTemplate
from informer import patch
from informer.errors import Invalid
from informer.names import label_problem
from informer.objects import Model
from informer.resources import Resource
from informer.scale import Scale

# What of a spec may change after the creation.
MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


class RollingUpdateStatefulSetStrategy(Model):
    """How far an update goes: pods from `partition` on, counted from the first; so many may be missing at a time."""

    partition: int = 0
    max_unavailable: int | str | None


class StatefulSetUpdateStrategy(Model):
    """How pods of an old template give way to new ones."""

    type: Literal["RollingUpdate", "OnDelete"] = "RollingUpdate"
    rolling_update: RollingUpdateStatefulSetStrategy | None


class PersistentVolumeClaimRetentionPolicy(Model):
    """What becomes of the claims when the StatefulSet is deleted, and of those of pods that a scaling takes away."""

    when_deleted: Literal["Retain", "Delete"] = "Retain"
    when_scaled: Literal["Retain", "Delete"] = "Retain"


class StatefulSetOrdinals(Model):
    """The number of the first pod."""

    start: int = 0


class ClaimTemplateMeta(Model):
    """The metadata of claims made of a template; the name is that of the volume too."""

    name: str = ""
    labels: dict[str, str]
    annotations: dict[str, str]


class ClaimTemplate(Model):
    """What the claims of each pod look like."""

    metadata: ClaimTemplateMeta
    spec: PersistentVolumeClaimSpec


class StatefulSetSpec(Model):
    """How many pods of which template, each with a name and volumes of its own. Times in seconds."""

    replicas: int = 1
    selector: LabelSelector
    template: PodTemplate
    volume_claim_templates: list[ClaimTemplate]
    service_name: str = ""
    pod_management_policy: Literal["OrderedReady", "Parallel"] = "OrderedReady"
    update_strategy: StatefulSetUpdateStrategy
    revision_history_limit: int = 10
    min_ready_seconds: int = 0
    persistent_volume_claim_retention_policy: PersistentVolumeClaimRetentionPolicy
    ordinals: StatefulSetOrdinals | None


class StatefulSetStatus(Model):
    """How many pods there are, and of which revision; `current` is the old one while an update is under way."""

    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    current_replicas: int = 0
    updated_replicas: int = 0
    current_revision: str = ""
    update_revision: str = ""
    collision_count: int | None
    conditions: list[Condition]


class StatefulSet(Resource, group="apps", version="v1", short_names=("sts",), scale=Scale(selector="spec.selector")):
    """Pods that each have a name, an order and volumes of their own, kept through every replacement."""

    STATUS_WRITES_ANNOTATIONS = True

    spec: StatefulSetSpec
    status: StatefulSetStatus

    def default(self) -> None:
        """As kube-apiserver."""
        spec = self.raw.setdefault("spec", {})
        spec.setdefault("replicas", 1)
        spec.setdefault("revisionHistoryLimit", 10)
        spec.setdefault("podManagementPolicy", "OrderedReady")
        strategy = spec.setdefault("updateStrategy", {})
        if "type" not in strategy:
            strategy["type"] = "RollingUpdate"
            strategy.setdefault("rollingUpdate", {})
        if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
            strategy["rollingUpdate"].setdefault("partition", 0)
        retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
        retention.setdefault("whenDeleted", "Retain")
        retention.setdefault("whenScaled", "Retain")
        for claim in spec.get("volumeClaimTemplates") or ():
            claim.setdefault("apiVersion", "v1")
            claim.setdefault("kind", "PersistentVolumeClaim")
            claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
            claim.setdefault("status", {}).setdefault("phase", "Pending")
        default_template(spec)

    def validate(self) -> None:
        """The selector selects the template, and each of its mounts has a volume or a claim."""
        spec = self.raw["spec"]
        if problem := label_problem(self.name):
            raise Invalid("metadata.name", problem)
        names = _claim_names(spec)
        validate_workload(_with_volumes(spec, names))
        not_negative(spec, "revisionHistoryLimit")
        if ((spec.get("ordinals") or {}).get("start") or 0) < 0:
            raise Invalid("spec.ordinals.start", f"must not be negative, got {spec['ordinals']['start']}")
        if "activeDeadlineSeconds" in spec["template"]["spec"]:
            raise Invalid("spec.template.spec.activeDeadlineSeconds", "is not supported in a StatefulSet")
        _validate_strategy(spec["updateStrategy"])

    def validate_update(self, old: StatefulSet) -> None:
        """All but `MUTABLE` stays."""
        changed = {**self.raw["spec"]}
        for field in MUTABLE:
            changed.pop(field, None)
            if field in old.raw["spec"]:
                changed[field] = old.raw["spec"][field]
        if not patch.semantic_equal(changed, old.raw["spec"]):
            *most, last = (f"'{field}'" for field in MUTABLE)
            allowed = f"{', '.join(most)} and {last}"
            raise Invalid("spec", f"updates to statefulset spec for fields other than {allowed} are forbidden")


def _validate_strategy(strategy: dict[str, Any]) -> None:
    path = "spec.updateStrategy.rollingUpdate"
    rolling = strategy.get("rollingUpdate")
    if rolling is None:
        return
    if strategy["type"] != "RollingUpdate":
        raise Invalid(path, "only allowed for updateStrategy 'RollingUpdate'")
    if (rolling.get("partition") or 0) < 0:
        raise Invalid(f"{path}.partition", f"must not be negative, got {rolling['partition']}")
    most = rolling.get("maxUnavailable")
    if most is None:
        return
    size = validate_size(most, f"{path}.maxUnavailable")
    if not size:
        raise Invalid(f"{path}.maxUnavailable", "cannot be 0")
    if isinstance(most, str) and size > 100:
        raise Invalid(f"{path}.maxUnavailable", "may not be more than 100%")


def _claim_names(spec: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        path = f"spec.volumeClaimTemplates[{index}].metadata.name"
        name = (claim.get("metadata") or {}).get("name") or ""
        if not name:
            raise Invalid(path, "required")
        if problem := label_problem(name):
            raise Invalid(path, problem)
        if name in names:
            raise Invalid(path, f'"{name}" is there already')
        names.append(name)
    return names


def _with_volumes(spec: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The spec as the pods will have it: the claims are volumes."""
    pod = (spec.get("template") or {}).get("spec") or {}
    volumes = [*(pod.get("volumes") or ()), *({"name": name} for name in names)]
    return {**spec, "template": {**(spec.get("template") or {}), "spec": {**pod, "volumes": volumes}}}
