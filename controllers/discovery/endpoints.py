"""The Endpoints controller: the addresses behind each Service that selects pods, in one object of its name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.types import Pod, Service
from controllers.discovery.backends import PACE, Backend, Backends, family_of, hostname_of, target_of
from controllers.discovery.types import Endpoints
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer import patch
from informer.cache import Stored
from informer.errors import ApiError, Conflict, NamespaceTerminating

WORKERS = 5  # kube-controller-manager's --concurrent-endpoint-syncs
BATCH_PERIOD = 0.0  # seconds; kube-controller-manager's --endpoint-updates-batch-period
CAPACITY = 1000  # kube-controller-manager's: addresses in one object

OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
TRUNCATED = "truncated"
HEADLESS = "service.kubernetes.io/headless"
MANAGED_BY, MANAGER = "endpoints.kubernetes.io/managed-by", "endpoint-controller"

Raw = dict[str, Any]


class EndpointsController:
    """Keeps the Endpoints of Services that have a selector. batch_period: seconds that changes of pods wait for others.
    capacity: addresses that are told.

    A Service with many pods rests after each run, for `PACE` a pod: kube-controller-manager has the rate limit of its
    client for that.
    """

    def __init__(
        self,
        manager: Manager,
        events: EventBroadcaster,
        backends: Backends,
        *,
        batch_period: float = BATCH_PERIOD,
        capacity: int = CAPACITY,
    ) -> None:
        self._manager = manager
        self._recorder = events.recorder("endpoint-controller")
        self._backends = backends
        self._batch_period = batch_period
        self._capacity = capacity
        self._queue = backends.queue()

    def register(self) -> None:
        """Add it to the manager."""
        self._manager.add_controller(
            Service,
            self.reconcile,
            watches={Endpoints: _of_endpoints},
            reads=[Pod],
            workers=WORKERS,
            name="endpoints",
            queue=lambda: self._queue,
        )

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: write what differs, and nothing else."""
        service = ctx.get(Service, request)
        current = ctx.get(Endpoints, request)
        if service is None:
            self._queue.forget_rest(request)
            if current is not None and (current.metadata.labels or {}).get(MANAGED_BY) == MANAGER:
                await ctx.delete(Endpoints, request, uid=current.metadata.uid)
            return None
        if service.deleting or not has_backends(service):
            return None
        backends = self._backends.of(request.namespace, service.spec.selector)
        self._queue.rest(request, self._batch_period + PACE * len(backends))
        subsets = subsets_of(service, backends)
        truncated = truncate(subsets, self._capacity)
        labels = labels_of(service)
        if current is None:
            made = Endpoints(name=request.name, namespace=request.namespace, labels=labels)
        else:
            if (
                current.metadata.labels == labels
                and (current.metadata.annotations.get(OVER_CAPACITY) == TRUNCATED) == truncated
                and patch.equal(without_versions(current.raw.get("subsets") or []), subsets)
            ):
                return None
            made = current
            made.raw["metadata"]["labels"] = labels
        annotations = {**(made.metadata.annotations or {})}
        annotations.pop(OVER_CAPACITY, None)
        if truncated:
            annotations[OVER_CAPACITY] = TRUNCATED
        made.raw["metadata"]["annotations"] = annotations
        if not annotations:
            del made.raw["metadata"]["annotations"]
        made.raw["subsets"] = subsets
        try:
            await (ctx.create(made) if current is None else ctx.update(made))
        except NamespaceTerminating:
            return None  # every create will fail, and the Service's own end is near
        except Conflict:
            raise
        except ApiError as error:
            verb = "create" if current is None else "update"
            message = f"Failed to {verb} endpoint {request.key}: {error}"
            self._recorder.event(service, "Warning", f"FailedTo{verb.capitalize()}Endpoint", message)
            raise
        return None


def _of_endpoints(stored: Stored) -> Iterable[Request]:
    return (Request(stored.namespace, stored.name),)


def has_backends(service: Service) -> bool:
    """Whether pods are looked for: it has a selector, and is no mere name for another host."""
    return bool(service.spec.selector) and service.spec.type != "ExternalName"


def labels_of(service: Service) -> dict[str, str]:
    """Those of the Service, and what tells whose the object is."""
    labels = {**(service.metadata.labels or {}), MANAGED_BY: MANAGER}
    labels.pop(HEADLESS, None)
    if service.spec.cluster_ip == "None":
        labels[HEADLESS] = ""
    return labels


def subsets_of(service: Service, backends: Sequence[Backend]) -> list[Raw]:
    """The addresses by the ports that they have, in an order that does not depend on that of the pods.

    A pod that has none of the Service's named ports is in none of them; of a pod that is being deleted nobody is told
    unless the Service publishes what is not ready.
    """
    tolerant = bool(service.raw["spec"].get("publishNotReadyAddresses"))
    wanted = service.raw["spec"].get("ports") or []
    families = service.raw["spec"].get("ipFamilies") or ()
    namespace, name, headless = service.namespace or "", service.name, service.spec.cluster_ip == "None"
    groups: dict[tuple[tuple[Any, ...], ...], tuple[list[Raw], list[Raw]]] = {}
    for backend in backends:
        if backend.terminating and not tolerant:
            continue
        ip = backend.address(families[0] if families else family_of(backend.addresses[0]))
        ports = tuple(
            (port.get("name", ""), number, port.get("protocol", "TCP"), port.get("appProtocol"))
            for port in wanted
            if (number := backend.port(port)) is not None
        )
        if ip is None or not (ports or (not wanted and headless)):
            continue
        address = {"ip": ip, "targetRef": target_of(backend, namespace)}
        if backend.node:
            address["nodeName"] = backend.node
        if hostname := hostname_of(backend, name):
            address["hostname"] = hostname
        ready, not_ready = groups.setdefault(ports, ([], []))
        (ready if backend.ready or tolerant else not_ready).append(address)
    subsets = []
    for ports in sorted(groups, key=repr):
        ready, not_ready = groups[ports]
        subset: Raw = {}
        for field, addresses in (("addresses", ready), ("notReadyAddresses", not_ready)):
            if addresses:
                subset[field] = sorted(addresses, key=lambda each: (each["ip"], each["targetRef"]["uid"]))
        if ports:
            subset["ports"] = [_port(*port) for port in ports]
        subsets.append(subset)
    return subsets


def _port(name: str, number: int, protocol: str, app_protocol: str | None) -> Raw:
    port: Raw = {"port": number, "protocol": protocol}
    if name:
        port["name"] = name
    if app_protocol:
        port["appProtocol"] = app_protocol
    return port


def truncate(subsets: list[Raw], capacity: int = CAPACITY) -> bool:
    """Leave no more addresses than `capacity`, ready ones first, each subset its share; whether any had to go.

    As the endpoint controller: shares are rounded up, the last subset gets what is left.
    """
    ready = sum(len(subset.get("addresses") or ()) for subset in subsets)
    not_ready = sum(len(subset.get("notReadyAddresses") or ()) for subset in subsets)
    if ready + not_ready <= capacity:
        return False
    field, total, room = (
        ("addresses", ready, capacity)
        if ready > capacity
        else (
            "notReadyAddresses",
            not_ready,
            capacity - ready,
        )
    )
    left = room
    for subset in subsets:
        addresses = subset.get(field) or []
        share = min(math.ceil(len(addresses) / total * room), left)
        left -= share
        subset[field] = addresses[:share]
        if field == "addresses":
            subset.pop("notReadyAddresses", None)
        if not subset[field]:
            del subset[field]
    subsets[:] = [subset for subset in subsets if "addresses" in subset or "notReadyAddresses" in subset]
    return True


def without_versions(subsets: Sequence[Raw]) -> list[Raw]:
    """The subsets, without the versions of pods that other writers may have put there."""
    cleaned = []
    for subset in subsets:
        copied = dict(subset)
        for field in ("addresses", "notReadyAddresses"):
            if field in copied:
                copied[field] = [_without_version(address) for address in copied[field]]
        cleaned.append(copied)
    return cleaned


def _without_version(address: Raw) -> Raw:
    target = address.get("targetRef")
    if not target or "resourceVersion" not in target:
        return address
    return {**address, "targetRef": {key: value for key, value in target.items() if key != "resourceVersion"}}
