"""ResourceQuota and LimitRange: what a namespace may use, and what one pod of it may."""

from __future__ import annotations

from typing import Any, Literal

from controllers.core.quantities import scaled
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource

Quantities = dict[str, int | float | str]
Scope = Literal["Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass"]

# What a quota of a scope may limit: those of pods that use nothing, their number alone.
_COMPUTE = {
    "pods",
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
    "ephemeral-storage",
}
_OF_SCOPE = {"BestEffort": {"pods"}}


class ScopeRequirement(Model):
    """One expression about the pods that are counted."""

    scope_name: Scope
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str]


class ScopeSelector(Model):
    """All of these have to fit."""

    match_expressions: list[ScopeRequirement]


class ResourceQuotaSpec(Model):
    """Quantities by what is counted: `pods`, `requests.cpu`, `count/deployments.apps`; and which pods count."""

    hard: Quantities
    scopes: list[Scope]
    scope_selector: ScopeSelector | None


class ResourceQuotaStatus(Model):
    """What was last enforced, and what is used of it."""

    hard: Quantities
    used: Quantities


class ResourceQuota(Resource, group="", version="v1", short_names=("quota",)):
    """What the objects of a namespace may use together."""

    spec: ResourceQuotaSpec
    status: ResourceQuotaStatus

    def validate(self) -> None:
        """Quantities are not negative, and scopes fit each other and what is counted."""
        _check_quantities(self.raw.get("spec") or {}, "hard", "spec")
        scopes = set(self.spec.scopes)
        for one, other in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
            if {one, other} <= scopes:
                raise Invalid("spec.scopes", f"{one} and {other} together fit nothing")
        for scope in sorted(scopes):
            allowed = _OF_SCOPE.get(scope, _COMPUTE)
            for name in self.spec.hard:
                if name not in allowed and name != "count/pods":
                    raise Invalid("spec.scopes", f'{scope} says nothing about "{name}"')
        selector = self.spec.scope_selector
        for index, each in enumerate([] if selector is None else selector.match_expressions):
            path = f"spec.scopeSelector.matchExpressions[{index}]"
            if each.scope_name != "PriorityClass" and each.operator != "Exists":
                raise Invalid(f"{path}.operator", f"expected Exists for {each.scope_name}, got {each.operator}")
            if bool(each.values) != (each.operator in ("In", "NotIn")):
                raise Invalid(f"{path}.values", "required for In and NotIn, and for them alone")

    def validate_update(self, old: ResourceQuota) -> None:
        """Scopes stay."""
        if sorted(self.spec.scopes) != sorted(old.spec.scopes):
            raise Invalid("spec.scopes", "field is immutable")


class LimitRangeItem(Model):
    """Limits of one type. `max_limit_request_ratio`: how often the request goes into the limit at the most."""

    type: Literal["Container", "Pod", "PersistentVolumeClaim"]
    max: Quantities
    min: Quantities
    default: Quantities
    default_request: Quantities
    max_limit_request_ratio: Quantities


class LimitRangeSpec(Model):
    """The limits, one for each type."""

    limits: list[LimitRangeItem]


class LimitRange(Resource, group="", version="v1", short_names=("limits",), status=False):
    """What one container, pod or claim of a namespace may ask for, and what one gets that asks for nothing."""

    spec: LimitRangeSpec

    def default(self) -> None:
        """As kube-apiserver: of a container the default follows the maximum, the default request the default."""
        for item in (self.raw.get("spec") or {}).get("limits") or ():
            if item.get("type") != "Container":
                continue
            default = {**(item.get("max") or {}), **(item.get("default") or {})}
            request = {**(item.get("min") or {}), **default, **(item.get("defaultRequest") or {})}
            for field, value in (("default", default), ("defaultRequest", request)):
                if value:
                    item[field] = value

    def validate(self) -> None:
        """One item a type, whose numbers are in order: min, default request, default, max."""
        seen: set[str] = set()
        for index, item in enumerate((self.raw.get("spec") or {}).get("limits") or ()):
            path = f"spec.limits[{index}]"
            if item["type"] in seen:
                raise Invalid(f"{path}.type", f'"{item["type"]}" is there already')
            seen.add(item["type"])
            self._validate_item(item, path)

    def _validate_item(self, item: dict[str, Any], path: str) -> None:
        order = ("min", "defaultRequest", "default", "max")
        for field in (*reversed(order), "maxLimitRequestRatio"):
            _check_quantities(item, field, path)
            if field.startswith("default") and item["type"] != "Container" and item.get(field):
                raise Invalid(f"{path}.{field}", f"may not be specified when `type` is '{item['type']}'")
        for place, low in enumerate(order):
            for high in order[place + 1 :]:
                for name in (item.get(low) or {}).keys() & (item.get(high) or {}).keys():
                    if scaled(item[low][name], 1000) > scaled(item[high][name], 1000):
                        told = f"{low} value {item[low][name]} is greater than {high} value {item[high][name]}"
                        raise Invalid(f"{path}.{low}[{name}]", told)
        for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
            if scaled(ratio, 1000) < 1000:
                raise Invalid(f"{path}.maxLimitRequestRatio[{name}]", f"ratio {ratio} is less than 1")
        if item["type"] == "PersistentVolumeClaim" and not any(
            "storage" in (item.get(field) or {}) for field in ("min", "max")
        ):
            raise Invalid(
                f"{path}.limits", "either minimum or maximum storage value is required, but neither was provided"
            )


def _check_quantities(raw: dict[str, Any], field: str, path: str) -> None:
    for name, quantity in (raw.get(field) or {}).items():
        try:
            negative = scaled(quantity, 1000) < 0
        except Invalid as error:
            raise Invalid(f"{path}.{field}[{name}]", error.problem) from None
        if negative:
            raise Invalid(f"{path}.{field}[{name}]", f"must be greater than or equal to 0, got {quantity}")
