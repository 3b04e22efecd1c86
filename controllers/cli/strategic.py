"""Kubernetes' strategic merge patch, for the built-in kinds: lists of objects merge by the key that tells these apart.

Directives: `$patch: delete|replace|merge` in maps and in lists, `$deleteFromPrimitiveList/FIELD`, `$retainKeys`, and
`$setElementOrder/FIELD`, which orders the merged list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from informer import patch as patches
from informer.errors import Invalid

_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"

# By the name of the list, the keys of its items; the first that the items of a patch have is the one. The names are
# those of Kubernetes' types with patchStrategy=merge; `ports` are containerPort in pods, port in Services.
_KEYS: Mapping[str, Sequence[str]] = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("containerPort", "port"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "secrets": ("name",),
    "taints": ("key",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_SETS = frozenset({"finalizers"})  # lists of texts that a patch adds to


def strategic_merge(target: Any, patch: Any) -> Any:
    """What the object becomes. Nothing is changed in place. Raises `Invalid` for a patch that makes no sense."""
    if not isinstance(patch, dict):
        raise Invalid("", "a strategic merge patch is an object")
    return _maps(patches.copy(target), patches.copy(patch), "")


def _maps(target: Any, patch: dict[str, Any], path: str) -> dict[str, Any]:
    directive = patch.pop("$patch", "merge")
    if directive == "replace":
        replaced: dict[str, Any] = _plain(patch)
        return replaced
    if directive == "delete":
        return {}
    if directive != "merge":
        raise Invalid(f"{path}.$patch".lstrip("."), f'expected merge, replace or delete, got "{directive}"')
    result: dict[str, Any] = target if isinstance(target, dict) else {}
    keys = patch.pop("$retainKeys", None)
    for name in [name for name in patch if name.startswith(_DELETE_FROM)]:
        field, gone = name.removeprefix(_DELETE_FROM), patch.pop(name)
        if isinstance(result.get(field), list) and isinstance(gone, list):
            result[field] = [each for each in result[field] if each not in gone]
    orders = {name.removeprefix(_ORDER): patch.pop(name) for name in [*patch] if name.startswith(_ORDER)}
    for field, value in patch.items():
        where = f"{path}.{field}".lstrip(".")
        if value is None:
            result.pop(field, None)
        elif isinstance(value, dict):
            result[field] = _maps(result.get(field), value, where)
        elif isinstance(value, list):
            result[field] = _lists(field, result.get(field), value, where)
        else:
            result[field] = value
    for field, order in orders.items():
        if isinstance(result.get(field), list) and isinstance(order, list):
            result[field] = _ordered(field, result[field], order)
    if isinstance(keys, list):
        return {field: value for field, value in result.items() if field in keys}
    return result


def _lists(field: str, target: Any, patch: list[Any], path: str) -> list[Any]:
    before = target if isinstance(target, list) else []
    if any(isinstance(each, dict) and each.get("$patch") == "replace" and len(each) == 1 for each in patch):
        return [_plain(each) for each in patch if not (isinstance(each, dict) and each.get("$patch") == "replace")]
    if field in _SETS:
        return [*before, *(each for each in patch if each not in before)]
    key = _key_of(field, patch)
    if key is None:
        return [_plain(each) for each in patch]
    result = list(before)
    for number, item in enumerate(patch):
        where = f"{path}[{number}]"
        if not isinstance(item, dict) or key not in item:
            raise Invalid(where, f'an item to merge needs its key "{key}"')
        places = [i for i, each in enumerate(result) if isinstance(each, dict) and each.get(key) == item[key]]
        directive = item.get("$patch", "merge")
        if directive == "delete":
            result = [each for i, each in enumerate(result) if i not in places]
        elif places:
            result[places[0]] = _maps(result[places[0]], item, where)
        else:
            result.append(_plain(item))
    return result


def _key_of(field: str, patch: list[Any]) -> str | None:
    known = _KEYS.get(field)
    if known is None or not all(isinstance(each, dict) for each in patch):
        return None
    return next((key for key in known if any(key in each for each in patch)), known[0])


def _ordered(field: str, merged: list[Any], order: list[Any]) -> list[Any]:
    """The items in the order that the patch says; those that it does not name keep their places at the end."""
    key = _key_of(field, order) if order else None

    def identity(each: Any) -> Any:
        return each.get(key) if key is not None and isinstance(each, dict) else each

    places = {repr(identity(each)): place for place, each in enumerate(order)}
    return sorted(merged, key=lambda each: places.get(repr(identity(each)), len(places)))


def _plain(value: Any) -> Any:
    """The value without directives and nulls: there is nothing that these could remove."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None and not key.startswith("$")}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
