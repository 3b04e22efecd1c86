"""Pods, and the templates that they are made of."""

from __future__ import annotations

from typing import Any

from controllers.cli.describers.containers import containers
from controllers.cli.describers.parts import conditions, controlled_by, deleting, head, labels, pairs
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import NONE, Raw, dig, is_deleting, items, mapping, selector_text


def pod_template(page: Page, template: Any) -> None:
    """The pods that a controller makes."""
    page.many("Labels", pairs(dig(template, "metadata", "labels")))
    if annotations := dig(template, "metadata", "annotations"):
        page.many("Annotations", [f"{key}: {value}" for key, value in sorted(annotations.items())])
    spec = mapping(template, "spec")
    if spec.get("serviceAccountName"):
        page.field("Service Account", spec["serviceAccountName"])
    containers(page, "Init Containers", items(spec, "initContainers"), {})
    containers(page, "Containers", items(spec, "containers"), {})
    volumes(page, spec)
    _spread(page, spec)
    if spec.get("priorityClassName"):
        page.field("Priority Class Name", spec["priorityClassName"])
    page.many("Node-Selectors", pairs(spec.get("nodeSelector")))
    page.many("Tolerations", [toleration(each) for each in items(spec, "tolerations")])


def _spread(page: Page, spec: Raw) -> None:
    found = [
        f"{each.get('topologyKey')}:{each.get('whenUnsatisfiable')} when max skew {each.get('maxSkew')} is exceeded "
        f"for selector {selector_text(each.get('labelSelector'))}"
        for each in items(spec, "topologySpreadConstraints")
    ]
    if found:
        page.many("Topology Spread Constraints", found)


def volumes(page: Page, spec: Raw) -> None:
    """What the pod mounts."""
    found = items(spec, "volumes")
    if not found:
        page.field("Volumes", NONE)
        return
    with page.section("Volumes"):
        for volume in found:
            with page.section(str(volume.get("name"))):
                for kind, details in volume.items():
                    if kind != "name":
                        page.field("Type", kind[:1].upper() + kind[1:])
                        page.tree({key: value for key, value in (details or {}).items() if key != "defaultMode"})


def toleration(each: Raw) -> str:
    """`key=value:Effect for 30s`."""
    value = f"={each['value']}" if each.get("value") else ""
    exists = f" op={each['operator']}" if each.get("operator") == "Exists" else ""
    seconds = f" for {each['tolerationSeconds']}s" if each.get("tolerationSeconds") is not None else ""
    effect = f":{each['effect']}" if each.get("effect") else ""
    return f"{each.get('key', '')}{value}{effect}{exists}{seconds}".lstrip()


def _pod(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    spec, status = mapping(raw, "spec"), mapping(raw, "status")
    if spec.get("priority") is not None:
        page.field("Priority", spec["priority"])
    if spec.get("priorityClassName"):
        page.field("Priority Class Name", spec["priorityClassName"])
    if spec.get("serviceAccountName"):
        page.field("Service Account", spec["serviceAccountName"])
    where = [part for part in (spec.get("nodeName"), status.get("hostIP")) if part]
    page.field("Node", "/".join(where))
    if status.get("startTime"):
        page.field("Start Time", status["startTime"])
    labels(page, raw)
    if is_deleting(raw):
        deleting(page, raw)
    else:
        page.field("Status", status.get("phase"))
    for field in ("reason", "message"):
        if status.get(field):
            page.field(field.title(), status[field])
    page.field("IP", status.get("podIP"))
    controlled_by(page, raw)
    states = {str(each.get("name")): each for each in items(status, "initContainerStatuses")}
    containers(page, "Init Containers", items(spec, "initContainers"), states)
    states = {str(each.get("name")): each for each in items(status, "containerStatuses")}
    containers(page, "Containers", items(spec, "containers"), states)
    conditions(page, raw, ("Type", "Status"))
    volumes(page, spec)
    if status.get("qosClass"):
        page.field("QoS Class", status["qosClass"])
    page.many("Node-Selectors", pairs(spec.get("nodeSelector")))
    page.many("Tolerations", [toleration(each) for each in items(spec, "tolerations")])
    _spread(page, spec)


BY_KIND: dict[str, Describer] = {"pods": _pod}
