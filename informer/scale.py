"""The scale subresource: how many there are to be and how many there are, of any kind that says where these stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from informer import fields
from informer.codecs import Raw, show
from informer.errors import Invalid
from informer.selectors import Selector

if TYPE_CHECKING:
    from informer.resources import Resource

MOST_REPLICAS = 2**31 - 1  # Kubernetes counts in int32


class Scale(msgspec.Struct, frozen=True):
    """Where a kind has its number of replicas, in `Resource(..., scale=Scale())`: paths from the top of an object.

    spec: how many are wanted. status: how many there are. selector: the labels of what is counted, as a text or a
    LabelSelector; "" if the kind does not say.
    """

    spec: str = "spec.replicas"
    status: str = "status.replicas"
    selector: str = ""

    def __post_init__(self) -> None:
        for path, top in ((self.spec, "spec"), (self.status, "status"), (self.selector, "")):
            if path and fields.parse(path)[0] not in ((top,) if top else ("spec", "status")):
                raise ValueError(f"{path!r}: expected a path below {top or 'spec or status'}")


class CurrentScale(msgspec.Struct, frozen=True):
    """What `get_scale` tells, as autoscaling/v1's Scale: `replicas` wanted, `ready` there, `selector` as a text."""

    name: str
    namespace: str | None
    uid: str
    resource_version: str
    replicas: int
    ready: int
    selector: str


def scale_of(obj: Resource) -> Scale:
    """Where the kind says its numbers stand. One that does not say is taken to have them where most have.

    Raises `Invalid` if it cannot be scaled: it has no spec.replicas.
    """
    declared = obj.TYPE.scale
    if declared is not None:
        return declared
    usual = Scale()
    if "replicas" in (obj.raw.get("spec") or {}) or _property(type(obj), usual.spec):
        return usual
    raise Invalid("", f"{obj.TYPE.qualified} cannot be scaled: they have no {usual.spec}")


def read_scale(obj: Resource) -> CurrentScale:
    """The scale of an object. Raises `Invalid` if it cannot be scaled, or says nothing sensible."""
    where, metadata = scale_of(obj), obj.raw["metadata"]
    return CurrentScale(
        metadata["name"],
        metadata.get("namespace"),
        metadata.get("uid") or "",
        metadata.get("resourceVersion") or "",
        _number(obj, where.spec, None),
        _number(obj, where.status, 0),
        _selector(obj.raw, where.selector),
    )


def set_replicas(obj: Resource, replicas: int) -> None:
    """How many there are to be from now on, in memory. Raises `Invalid` for a number that is none."""
    where = scale_of(obj).spec
    if type(replicas) is not int or not 0 <= replicas <= MOST_REPLICAS:
        raise Invalid(where, f"expected 0 to {MOST_REPLICAS}, got {show(replicas)}")
    *parents, last = fields.parse(where)
    inside = obj.raw
    for part in parents:
        inside = inside.setdefault(part, {})
        if not isinstance(inside, dict):
            raise Invalid(where, f"{part} is no object")
    inside[last] = replicas


def _number(obj: Resource, path: str, missing: int | None) -> int:
    found = next(fields.values(obj.raw, fields.parse(path)), None) if path else None
    if found is None:
        found = _property(type(obj), path).get("default") if missing is None else missing
    if type(found) is not int:
        raise Invalid(path, "required" if found is None else f"expected int, got {show(found)}")
    return found


def _property(cls: type[Resource], path: str) -> Raw:
    """The schema of a field."""
    schema = cls.schema()
    for part in fields.parse(path):
        schema = (schema.get("properties") or {}).get(part) or {}
    return schema


def _selector(raw: Raw, path: str) -> str:
    found = next(fields.values(raw, fields.parse(path)), None) if path else None
    if isinstance(found, dict):
        return str(Selector.of(found))
    return found if isinstance(found, str) else ""
