"""Deployments and their kin."""

from __future__ import annotations

from collections.abc import Sequence

from controllers.cli.describers.parts import conditions, controlled_by, created, deleting, head, labels, pods_status
from controllers.cli.describers.pods import pod_template
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import NONE, Raw, dig, items, labels_text, mapping, name_of, number, selector_text, text, texts

_REVISION = "deployment.kubernetes.io/revision"


def _template(page: Page, raw: Raw) -> None:
    with page.section("Pod Template"):
        pod_template(page, dig(raw, "spec", "template"))


def _deployment(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    created(page, raw)
    labels(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    status = mapping(raw, "status")
    counts = (
        f"{number(raw, 'spec', 'replicas')} desired",
        f"{number(status, 'updatedReplicas')} updated",
        f"{number(status, 'replicas')} total",
        f"{number(status, 'availableReplicas')} available",
        f"{number(status, 'unavailableReplicas')} unavailable",
    )
    page.field("Replicas", " | ".join(counts))
    page.field("StrategyType", dig(raw, "spec", "strategy", "type"))
    page.field("MinReadySeconds", number(raw, "spec", "minReadySeconds"))
    if rolling := mapping(raw, "spec", "strategy", "rollingUpdate"):
        limits = f"{rolling.get('maxUnavailable')} max unavailable, {rolling.get('maxSurge')} max surge"
        page.field("RollingUpdateStrategy", limits)
    if dig(raw, "spec", "paused"):
        page.field("Paused", True)
    deleting(page, raw)
    _template(page, raw)
    conditions(page, raw, ("Type", "Status", "Reason"))
    sets = [each for each in related.owned if each.get("kind") == "ReplicaSet"]
    current = dig(raw, "metadata", "annotations", _REVISION)
    newest = [each for each in sets if current and dig(each, "metadata", "annotations", _REVISION) == current]
    olds = [each for each in sets if each not in newest and number(each, "spec", "replicas")]
    page.field("OldReplicaSets", _created(olds))
    page.field("NewReplicaSet", _created(newest))


def _created(sets: Sequence[Raw]) -> str:
    return ", ".join(
        f"{name_of(each)} ({number(each, 'status', 'replicas')}/{number(each, 'spec', 'replicas')} replicas created)"
        for each in sets
    )


def _replica_set(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    labels(page, raw)
    controlled_by(page, raw)
    page.field("Replicas", f"{number(raw, 'status', 'replicas')} current / {number(raw, 'spec', 'replicas')} desired")
    pods_status(page, related)
    deleting(page, raw)
    _template(page, raw)
    conditions(page, raw, ("Type", "Status", "Reason"))


def _stateful_set(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    created(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    labels(page, raw)
    page.field("Replicas", f"{number(raw, 'spec', 'replicas')} desired | {number(raw, 'status', 'replicas')} total")
    page.field("Update Strategy", text(raw, "spec", "updateStrategy", "type"))
    rolling = mapping(raw, "spec", "updateStrategy", "rollingUpdate")
    with page.indented():
        for field, title in (("partition", "Partition"), ("maxUnavailable", "MaxUnavailable")):
            if rolling.get(field) is not None:
                page.field(title, rolling[field])
    pods_status(page, related)
    deleting(page, raw)
    _template(page, raw)
    claims = items(raw, "spec", "volumeClaimTemplates")
    if not claims:
        page.field("Volume Claims", NONE)
        return
    with page.section("Volume Claims"):
        for claim in claims:
            page.field("Name", name_of(claim))
            page.field("StorageClass", text(claim, "spec", "storageClassName"))
            page.field("Labels", labels_text(dig(claim, "metadata", "labels")))
            page.field("Annotations", labels_text(dig(claim, "metadata", "annotations")))
            page.field("Capacity", text(claim, "spec", "resources", "requests", "storage", otherwise="<default>"))
            page.field("Access Modes", f"[{' '.join(texts(claim, 'spec', 'accessModes'))}]")


def _daemon_set(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.field("Selector", selector_text(dig(raw, "spec", "selector")))
    page.field("Node-Selector", labels_text(dig(raw, "spec", "template", "spec", "nodeSelector")))
    labels(page, raw)
    for title, field in (
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ):
        page.text(f"{title}: {number(raw, 'status', field)}")
    pods_status(page, related)
    deleting(page, raw)
    _template(page, raw)


BY_KIND: dict[str, Describer] = {
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "statefulsets.apps": _stateful_set,
    "daemonsets.apps": _daemon_set,
}
