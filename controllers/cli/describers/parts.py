"""The parts that the pages of many kinds have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controllers.cli.columns.batch import job_status
from controllers.cli.columns.events import event_order, event_time
from controllers.cli.columns.nodes import node_status
from controllers.cli.columns.pods import pod_status
from controllers.cli.describers.related import Related
from controllers.cli.durations import age
from controllers.cli.page import Page
from controllers.cli.raw import NONE, Raw, controller_of, dig, is_deleting, items, mapping, name_of, number, texts
from informer.client import LAST_APPLIED


def pairs(values: Any) -> list[str]:
    """`key=value`, sorted."""
    return [f"{key}={value}" for key, value in sorted(values.items())] if values else []


def head(page: Page, raw: Raw) -> None:
    """Name and namespace."""
    page.field("Name", name_of(raw))
    if dig(raw, "metadata", "namespace"):
        page.field("Namespace", dig(raw, "metadata", "namespace"))


def labels(page: Page, raw: Raw) -> None:
    """Labels and annotations."""
    page.many("Labels", pairs(dig(raw, "metadata", "labels")))
    noted(page, raw)


def noted(page: Page, raw: Raw) -> None:
    """All but the manifest last applied."""
    shown = {key: value for key, value in mapping(raw, "metadata", "annotations").items() if key != LAST_APPLIED}
    page.many("Annotations", [f"{key}: {value}" for key, value in sorted(shown.items())])


def created(page: Page, raw: Raw) -> None:
    """When it was made."""
    page.field("CreationTimestamp", dig(raw, "metadata", "creationTimestamp"))


def controlled_by(page: Page, raw: Raw) -> None:
    """Who manages it, if somebody does."""
    owner = controller_of(raw)
    if owner is not None:
        page.field("Controlled By", f"{owner.get('kind')}/{owner.get('name')}")


def finalizers(page: Page, raw: Raw) -> None:
    """What keeps it, `[a b]` as kubectl writes lists."""
    page.field("Finalizers", f"[{' '.join(texts(raw, 'metadata', 'finalizers'))}]")


def deleting(page: Page, raw: Raw) -> None:
    """That it is on its way out, and what for it stays."""
    if is_deleting(raw):
        page.field("Status", "Terminating")
        page.field("Termination Grace Period", f"{number(raw, 'metadata', 'deletionGracePeriodSeconds')}s")
        if kept := texts(raw, "metadata", "finalizers"):
            page.field("Finalizers", ", ".join(kept))


def conditions(page: Page, raw: Raw, columns: Sequence[str]) -> None:
    """A table of them, if there are any."""
    found = items(raw, "status", "conditions")
    if not found:
        return
    with page.section("Conditions"):
        fields = [f"{name[0].lower()}{name[1:]}" for name in columns]
        page.table(columns, [[str(each.get(field) or "") for field in fields] for each in found])


def pods_status(page: Page, related: Related) -> None:
    """How many of the pods it owns are in which phase."""
    phases = [dig(each, "status", "phase") for each in related.owned if each.get("kind") == "Pod"]
    counts = [
        f"{sum(phase in known for phase in phases)} {title}"
        for title, known in (
            ("Running", ("Running",)),
            ("Waiting", ("Pending", None)),
            ("Succeeded", ("Succeeded",)),
            ("Failed", ("Failed",)),
        )
    ]
    page.field("Pods Status", " / ".join(counts))


def object_state(raw: Raw) -> str:
    """How an object is, in a word or two; empty for a kind that has no states."""
    kind = raw.get("kind")
    if kind == "Pod":
        return pod_status(raw)
    if is_deleting(raw):
        return "Terminating"
    if kind in ("Deployment", "ReplicaSet", "StatefulSet"):
        return f"{number(raw, 'status', 'readyReplicas')}/{number(raw, 'spec', 'replicas')} ready"
    if kind == "DaemonSet":
        return f"{number(raw, 'status', 'numberReady')}/{number(raw, 'status', 'desiredNumberScheduled')} ready"
    if kind == "Node":
        return node_status(raw)
    if kind == "Job":
        return job_status(raw)
    if phase := dig(raw, "status", "phase"):
        return str(phase)
    for each in items(raw, "status", "conditions"):
        if each.get("type") in ("Ready", "Available"):
            return str(each["type"] if each.get("status") == "True" else each.get("reason") or f"Not{each['type']}")
    return ""


def owned(page: Page, raw: Raw, related: Related) -> None:
    """What it owns, and how that is."""
    # A Deployment's ReplicaSets are told already, as old and new.
    told = "ReplicaSet" if raw.get("kind") == "Deployment" else ""
    if shown := [each for each in related.owned if each.get("kind") != told]:
        with page.section("Owns"):
            rows = [(f"{each.get('kind')}/{name_of(each)}", object_state(each)) for each in shown]
            page.table(("Object", "State"), rows)


def events(page: Page, related: Related) -> None:
    """What is told of it."""
    if not related.events:
        page.field("Events", NONE)
        return
    rows = []
    for each in sorted(related.events, key=event_order):
        when = age(event_time(each), related.now)
        if number(each, "count") > 1:
            first = age(each.get("firstTimestamp"), related.now)
            when = f"{when} (x{number(each, 'count')} over {first})"
        source = dig(each, "source", "component") or each.get("reportingComponent") or ""
        message = str(each.get("message") or "").strip()
        rows.append((str(each.get("type") or ""), str(each.get("reason") or ""), when, source, message))
    with page.section("Events"):
        page.table(("Type", "Reason", "Age", "From", "Message"), rows)
