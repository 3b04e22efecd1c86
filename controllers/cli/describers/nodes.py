"""Nodes, with what is taken of them."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from controllers.cli.columns.nodes import node_roles, node_status
from controllers.cli.describers.parts import conditions, created, head, labels
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import Raw, age_of, amount, dig, items, mapping, name_of, text

_BYTES = ("memory", "ephemeral-storage")


def taint_text(each: Raw) -> str:
    """`key=value:Effect`."""
    value = f"={each['value']}" if each.get("value") else ""
    return f"{each.get('key')}{value}:{each.get('effect')}"


def _node(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    page.field("Roles", node_roles(raw))
    labels(page, raw)
    created(page, raw)
    page.many("Taints", [taint_text(each) for each in items(raw, "spec", "taints")])
    page.field("Unschedulable", bool(dig(raw, "spec", "unschedulable")))
    page.field("Status", node_status(raw))
    _lease(page, raw, related)
    conditions(page, raw, ("Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"))
    if addresses := items(raw, "status", "addresses"):
        with page.section("Addresses"):
            for each in addresses:
                page.field(str(each.get("type")), each.get("address"))
    for field in ("capacity", "allocatable"):
        if quantities := mapping(raw, "status", field):
            with page.section(field.title()):
                for key, value in sorted(quantities.items()):
                    page.field(key, value)
    if info := mapping(raw, "status", "nodeInfo"):
        with page.section("System Info"):
            page.tree(info)
    for field, title in (("podCIDR", "PodCIDR"), ("providerID", "ProviderID")):
        if dig(raw, "spec", field):
            page.field(title, dig(raw, "spec", field))
    running = [each for each in related.pods if dig(each, "status", "phase") not in ("Succeeded", "Failed")]
    _pods(page, raw, running, related)
    _allocated(page, raw, running)


def _lease(page: Page, raw: Raw, related: Related) -> None:
    for lease in related.within("leases.coordination.k8s.io", "kube-node-lease"):
        if name_of(lease) == name_of(raw):
            with page.section("Lease"):
                page.field("HolderIdentity", text(lease, "spec", "holderIdentity", otherwise="<unset>"))
                page.field("AcquireTime", text(lease, "spec", "acquireTime", otherwise="<unset>"))
                page.field("RenewTime", text(lease, "spec", "renewTime", otherwise="<unset>"))


def _pods(page: Page, raw: Raw, running: list[Raw], related: Related) -> None:
    rows = []
    for pod in sorted(running, key=lambda each: (text(each, "metadata", "namespace"), name_of(each))):
        cells = [
            _share(raw, resource, _total([pod], field, resource))
            for resource in ("cpu", "memory")
            for field in ("requests", "limits")
        ]
        rows.append((text(pod, "metadata", "namespace"), name_of(pod), *cells, age_of(pod, related.now)))
    with page.section(f"Non-terminated Pods ({len(running)} in total)"):
        titles = ("Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age")
        page.table(titles, rows)


def _allocated(page: Page, raw: Raw, running: list[Raw]) -> None:
    named = {"cpu", "memory", *mapping(raw, "status", "allocatable")} - {"pods"}
    rows = []
    for resource in sorted(named):
        totals = [_total(running, field, resource) for field in ("requests", "limits")]
        if resource in ("cpu", "memory") or any(totals):
            rows.append((resource, *(_share(raw, resource, total) for total in totals)))
    with page.section("Allocated resources"):
        page.text("(Total limits may be over 100 percent, i.e., overcommitted.)")
        page.table(("Resource", "Requests", "Limits"), rows)


def _total(pods: Iterable[Raw], field: str, resource: str) -> Decimal:
    """What pods ask for: the sum of their containers, or the largest init container if that is more."""
    total = Decimal(0)
    for pod in pods:
        each, first = (
            [amount(mapping(one, "resources", field).get(resource, 0)) for one in items(pod, "spec", kind)]
            for kind in ("containers", "initContainers")
        )
        total += max(sum(each, Decimal(0)), max(first, default=Decimal(0)))
    return total


def _share(raw: Raw, resource: str, total: Decimal) -> str:
    """`750m (37%)`."""
    whole = amount(dig(raw, "status", "allocatable", resource) or dig(raw, "status", "capacity", resource) or 0)
    return f"{quantity_text(resource, total)} ({int(total / whole * 100) if whole else 0}%)"


def quantity_text(resource: str, value: Decimal) -> str:
    """A number as a quantity, in the unit that leaves no fraction: `250m`, `64Mi`."""
    if value != value.to_integral_value():
        return f"{int(value * 1000)}m"
    whole = int(value)
    if resource in _BYTES:
        for suffix, size in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
            if whole and whole % size == 0:
                return f"{whole // size}{suffix}"
    return str(whole)


BY_KIND: dict[str, Describer] = {"nodes": _node}
