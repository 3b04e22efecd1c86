"""`--field-selector`: objects by the fields that kube-apiserver can select their kind by."""

from __future__ import annotations

import re
from typing import Any

from controllers.cli.raw import Raw, dig
from informer.errors import Invalid
from informer.resources import Resource

_PART = re.compile(r"([^=!,]+)(==|=|!=)([^,]*)")
_COMMON = ("metadata.name", "metadata.namespace")
# kube-apiserver's, by qualified kind.
_FIELDS = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    "jobs.batch": ("status.successful",),
    "namespaces": ("status.phase",),
    "nodes": ("spec.unschedulable",),
    "replicasets.apps": ("status.replicas",),
    "secrets": ("type",),
}
# Fields whose name is not their path.
_PATHS = {("events", "source"): "source.component", ("jobs.batch", "status.successful"): "status.succeeded"}
# What a field that is not there counts as.
_ZERO = {
    "spec.unschedulable": "false",
    "spec.hostNetwork": "false",
    "status.replicas": "0",
    "status.successful": "0",
}


class FieldSelector:
    """All of `field=value` and `field!=value`, separated by commas."""

    def __init__(self, text: str) -> None:
        """Raises `Invalid` for a text that is none."""
        self._parts: list[tuple[str, bool, str]] = []
        for part in filter(None, (each.strip() for each in text.split(","))):
            found = _PART.fullmatch(part)
            if found is None:
                raise Invalid("", f'invalid field selector "{part}": write FIELD=VALUE or FIELD!=VALUE')
            self._parts.append((found[1].strip(), found[2] != "!=", found[3].strip()))

    @property
    def empty(self) -> bool:
        """Whether it selects everything."""
        return not self._parts

    def check(self, cls: type[Resource]) -> None:
        """Raise `Invalid` if objects of the kind cannot be selected so."""
        known = (*_COMMON, *_FIELDS.get(cls.TYPE.qualified, ()))
        for field, _, _ in self._parts:
            if field not in known:
                kind, fields = cls.TYPE.qualified, ", ".join(known)
                raise Invalid("", f'field label not supported: "{field}"; {kind} can be selected by {fields}')

    def matches(self, cls: type[Resource], raw: Raw) -> bool:
        """Whether the object is selected."""
        return all((_value(cls, raw, field) == value) is wanted for field, wanted, value in self._parts)


def _value(cls: type[Resource], raw: Raw, field: str) -> str:
    found: Any = dig(raw, *_PATHS.get((cls.TYPE.qualified, field), field).split("."))
    if found is None:
        return _ZERO.get(field, "")
    return {True: "true", False: "false"}[found] if isinstance(found, bool) else str(found)
