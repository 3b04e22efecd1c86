"""LimitRanger: what a container, pod or claim of a namespace gets if it asks for nothing, and what it may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from controllers.admission.lookups import Lookups
from controllers.core.limits import LimitRange
from controllers.core.quantities import scaled
from controllers.core.types import PersistentVolumeClaim, Pod
from controllers.core.usage import pod_total, quantities, shown
from informer.admission import AdmissionRequest, Operation, Plugin
from informer.errors import Forbidden
from informer.resources import ResourceType

Raw = dict[str, Any]
SETS_DEFAULTS = "kubernetes.io/limit-ranger"  # the annotation that tells of defaults


class LimitRanger(Plugin):
    """Kubernetes' plug-in of that name."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    def handles(self, kind: ResourceType, operation: Operation) -> bool:
        """Creates of pods, whose containers cannot change, and all writes of claims, which can grow."""
        if kind == Pod.TYPE:
            return operation == "create"
        return operation != "delete" and kind == PersistentVolumeClaim.TYPE

    async def admit(self, request: AdmissionRequest[Any]) -> None:
        """Fill in the defaults of a pod's containers."""
        if request.object.TYPE != Pod.TYPE:
            return
        for limits in await self._lookups.of(LimitRange, request.object.namespace or ""):
            _set_defaults(request.object.raw, limits)

    async def validate(self, request: AdmissionRequest[Any]) -> None:
        """Raise Forbidden with everything that is too much or too little."""
        obj = request.object
        if obj.deleting:
            return
        problems: list[str] = []
        for limits in await self._lookups.of(LimitRange, obj.namespace or ""):
            for item in (limits.raw.get("spec") or {}).get("limits") or ():
                problems += _problems(obj.raw, item, obj.TYPE == Pod.TYPE)
        if problems:
            told = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise Forbidden(f'{obj.TYPE.qualified} "{obj.name}" is forbidden: {told}')


def _set_defaults(pod: Raw, limits: LimitRange) -> None:
    items = (limits.raw.get("spec") or {}).get("limits") or ()
    item: Raw = next((each for each in items if each["type"] == "Container"), {})
    told = [
        text
        for field, word in (("containers", "container"), ("initContainers", "init container"))
        for container in pod["spec"].get(field) or ()
        if (text := _fill_in(container, item, word))
    ]
    if told:
        annotations = pod["metadata"].setdefault("annotations", {})
        annotations[SETS_DEFAULTS] = "LimitRanger plugin set: " + "; ".join(told)


def _fill_in(container: Raw, item: Raw, word: str) -> str:
    """What was set, in words."""
    resources = container.setdefault("resources", {})
    told: list[str] = []
    for field, defaults, what in (("requests", "defaultRequest", "request"), ("limits", "default", "limit")):
        given = resources.get(field) or {}
        missing = {name: value for name, value in (item.get(defaults) or {}).items() if name not in given}
        if missing:
            resources[field] = {**given, **missing}
            told.append(f"{', '.join(sorted(missing))} {what} for {word} {container['name']}")
    return "; ".join(told)


def _problems(raw: Raw, item: Raw, is_pod: bool) -> Iterator[str]:
    kind = item["type"]
    if kind == "PersistentVolumeClaim":
        if not is_pod:
            requests = (raw["spec"].get("resources") or {}).get("requests") or {}
            for name, least in (item.get("min") or {}).items():
                yield from _min("PersistentVolumeClaim", name, least, requests, {})
            for name, most in (item.get("max") or {}).items():
                yield from _max_request("PersistentVolumeClaim", name, most, requests)
        return
    if not is_pod:
        return
    spec = raw["spec"]
    if kind == "Container":
        for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
            resources = container.get("resources") or {}
            yield from _bounds("Container", item, resources.get("requests") or {}, resources.get("limits") or {})
    else:
        yield from _bounds("Pod", item, quantities(pod_total(spec, "requests")), quantities(pod_total(spec, "limits")))


def _bounds(kind: str, item: Raw, requests: Raw, limits: Raw) -> Iterator[str]:
    for name, least in (item.get("min") or {}).items():
        yield from _min(kind, name, least, requests, limits)
    for name, most in (item.get("max") or {}).items():
        yield from _max(kind, name, most, requests, limits)
    for name, ratio in (item.get("maxLimitRequestRatio") or {}).items():
        yield from _ratio(kind, name, ratio, requests, limits)


def _min(kind: str, name: str, least: Any, requests: Raw, limits: Raw) -> Iterator[str]:
    if name not in requests:
        yield f"minimum {name} usage per {kind} is {_text(name, least)}.  No request is specified"
    elif _less(requests[name], least):
        yield f"minimum {name} usage per {kind} is {_text(name, least)}, but request is {_text(name, requests[name])}"
    elif name in limits and _less(limits[name], least):
        yield f"minimum {name} usage per {kind} is {_text(name, least)}, but limit is {_text(name, limits[name])}"


def _max(kind: str, name: str, most: Any, requests: Raw, limits: Raw) -> Iterator[str]:
    if name not in limits:
        yield f"maximum {name} usage per {kind} is {_text(name, most)}.  No limit is specified"
    elif _less(most, limits[name]):
        yield f"maximum {name} usage per {kind} is {_text(name, most)}, but limit is {_text(name, limits[name])}"
    elif name in requests and _less(most, requests[name]):
        yield f"maximum {name} usage per {kind} is {_text(name, most)}, but request is {_text(name, requests[name])}"


def _max_request(kind: str, name: str, most: Any, requests: Raw) -> Iterator[str]:
    if name not in requests:
        yield f"maximum {name} usage per {kind} is {_text(name, most)}.  No request is specified"
    elif _less(most, requests[name]):
        yield f"maximum {name} usage per {kind} is {_text(name, most)}, but request is {_text(name, requests[name])}"


def _ratio(kind: str, name: str, ratio: Any, requests: Raw, limits: Raw) -> Iterator[str]:
    about = f"{name} max limit to request ratio per {kind} is {_text(name, ratio)}"
    if name not in requests or not scaled(requests[name], 1000):
        yield f"{about}, but no request is specified or request is 0."
    elif name not in limits or not scaled(limits[name], 1000):
        yield f"{about}, but no limit is specified or limit is 0."
    elif scaled(limits[name], 1000) * 1000 > scaled(ratio, 1000) * scaled(requests[name], 1000):
        provided = scaled(limits[name], 1000) / scaled(requests[name], 1000)
        yield f"{about}, but provided ratio is {provided:f}"


def _less(one: Any, other: Any) -> bool:
    return scaled(one, 1000) < scaled(other, 1000)


def _text(name: str, quantity: Any) -> str:
    return shown(name, scaled(quantity, 1000))
