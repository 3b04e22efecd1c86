"""What an object uses of a quota: counts and quantities by name, in thousandths. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from controllers.core.limits import ResourceQuota
from controllers.core.quantities import scaled
from controllers.core.types import Event, PersistentVolumeClaim, Pod, Service
from informer.resources import ResourceType

Raw = dict[str, Any]
Usage = dict[str, int]
"""Thousandths by name: 1500 of cpu is one and a half, 1000 of pods is one pod."""

MILLI = 1000
ONE = MILLI
# Core kinds that Kubernetes also counts under their plain names.
_PLAIN = {"pods", "services", "configmaps", "secrets", "persistentvolumeclaims", "resourcequotas"}
# What a pod's containers have to say once a quota limits it.
MUST_SPECIFY = {"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"}
_DECIMAL = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def usage_of(kind: ResourceType, raw: Raw) -> Usage:
    """What this object uses. An Event uses nothing."""
    if kind == Event.TYPE:
        return {}
    used = {f"count/{kind.qualified}": ONE}
    if kind == Pod.TYPE:
        return used | _pod_usage(raw)
    if not kind.group and kind.plural in _PLAIN:
        used[kind.plural] = ONE
    if kind == Service.TYPE:
        used |= _service_usage(raw["spec"])
    if kind == PersistentVolumeClaim.TYPE:
        used |= _claim_usage(raw)
    return used


def pod_total(spec: Raw, field: str) -> Usage:
    """The `requests` or `limits` of a pod: of its containers together, or of the init container that has the most.

    Init containers go first, one after the other; those that are always restarted stay beside all that come later.
    What the pod says as a whole takes the place of what its containers say.
    """
    total: Counter[str] = Counter()
    for container in spec.get("containers") or ():
        total.update(_of_container(container, field))
    beside: Counter[str] = Counter()
    largest: Usage = {}
    for container in spec.get("initContainers") or ():
        wanted = Counter(_of_container(container, field))
        if container.get("restartPolicy") == "Always":
            beside.update(wanted)
            wanted = Counter(beside)
        else:
            wanted.update(beside)
        for name, amount in wanted.items():
            largest[name] = max(largest.get(name, 0), amount)
    total.update(beside)
    found = {name: max(total[name], largest.get(name, 0)) for name in total.keys() | largest.keys()}
    found |= _of_container(spec, field)
    for name, quantity in (spec.get("overhead") or {}).items():
        found[name] = found.get(name, 0) + scaled(quantity, MILLI)
    return found


def matches_scopes(quota: ResourceQuota, kind: ResourceType, raw: Raw) -> bool:
    """Whether the quota counts the object: one with scopes counts pods only, those that fit all of them."""
    spec: Raw = quota.raw.get("spec") or {}
    scopes = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    if not scopes:
        return True
    return kind == Pod.TYPE and all(_fits(each, raw["spec"]) for each in scopes)


def unspecified(spec: Raw, limited: Iterable[str]) -> str:
    """What containers do not say although a quota limits it: `limits.cpu for: web,log; requests.cpu for: log`."""
    missing: list[str] = []
    for name in sorted(MUST_SPECIFY.intersection(limited)):
        field, _, resource = name.rpartition(".")
        silent = [
            container["name"]
            for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
            if resource not in ((container.get("resources") or {}).get(field or "requests") or {})
            and resource not in ((spec.get("resources") or {}).get(field or "requests") or {})
        ]
        if silent:
            missing.append(f"{name} for: {','.join(sorted(silent))}")
    return "; ".join(missing)


def quantities(used: Mapping[str, int]) -> dict[str, str]:
    """As a status has them."""
    return {name: shown(name, amount) for name, amount in sorted(used.items())}


def shown(name: str, thousandths: int) -> str:
    """The quantity as Kubernetes writes it: the largest suffix that leaves a whole number.

    >>> shown("cpu", 1500), shown("pods", 3000), shown("memory", 1536 * 1024**2 * 1000), shown("memory", 10**12)
    ('1500m', '3', '1536Mi', '1G')
    """
    amount, rest = divmod(thousandths, MILLI)
    if rest:
        return f"{thousandths}m"
    binary = name.endswith(("memory", "storage")) and amount % 1024 == 0
    factor, suffixes = (1024, _BINARY) if binary else (1000, _DECIMAL)
    power = 0
    while amount and amount % factor == 0 and power + 1 < len(suffixes):
        amount //= factor
        power += 1
    return f"{amount}{suffixes[power]}"


def _of_container(container: Raw, field: str) -> Usage:
    found = (container.get("resources") or {}).get(field) or {}
    return {name: scaled(quantity, MILLI) for name, quantity in found.items()}


def _pod_usage(raw: Raw) -> Usage:
    if (raw.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    used = {"pods": ONE}
    for name, amount in pod_total(raw["spec"], "requests").items():
        used[f"requests.{name}"] = amount
        if name in ("cpu", "memory", "ephemeral-storage") or name.startswith("hugepages-"):
            used[name] = amount
    for name, amount in pod_total(raw["spec"], "limits").items():
        if name in ("cpu", "memory", "ephemeral-storage"):
            used[f"limits.{name}"] = amount
    return used


def _service_usage(spec: Raw) -> Usage:
    used: Usage = {}
    kind = spec.get("type")
    if kind == "LoadBalancer":
        used["services.loadbalancers"] = ONE
    if kind == "NodePort" or (kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False):
        used["services.nodeports"] = ONE * len(spec.get("ports") or ())
    return used


def _claim_usage(raw: Raw) -> Usage:
    requests = (raw["spec"].get("resources") or {}).get("requests") or {}
    used: Usage = {}
    if "storage" in requests:
        used["requests.storage"] = scaled(requests["storage"], MILLI)
    if storage_class := raw["spec"].get("storageClassName"):
        prefix = f"{storage_class}.storageclass.storage.k8s.io/"
        used |= {f"{prefix}{name}": amount for name, amount in used.items()}
        used[f"{prefix}persistentvolumeclaims"] = ONE
    return used


def _fits(scope: Raw, spec: Raw) -> bool:
    match scope["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return _best_effort(spec)
        case "NotBestEffort":
            return not _best_effort(spec)
    name, values = spec.get("priorityClassName") or "", scope.get("values") or ()
    match scope["operator"]:
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "Exists":
            return bool(name)
    return not name


def _best_effort(spec: Raw) -> bool:
    """Kubernetes' class of quality for pods whose containers ask for neither cpu nor memory."""
    for asking in (spec, *(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = asking.get("resources") or {}
        for field in ("requests", "limits"):
            for name in ("cpu", "memory"):
                if scaled((resources.get(field) or {}).get(name, 0), MILLI):
                    return False
    return True
