"""The EndpointSlice controller: the addresses behind each Service that selects pods, in slices of a hundred."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.types import Node, Pod, Service
from controllers.decoded import Decoded
from controllers.discovery.backends import PACE, Backend, Backends, family_of, hostname_of, target_of
from controllers.discovery.endpoints import HEADLESS, has_backends
from controllers.discovery.packing import CAPACITY, Identity, Slice, identity, pack
from controllers.discovery.types import EndpointSlice
from controllers.manager import Manager
from controllers.owners import set_controller_reference
from controllers.reconcile import Request, Result
from informer import patch
from informer.cache import Stored
from informer.errors import ApiError, Conflict, NamespaceTerminating

WORKERS = 5  # kube-controller-manager's --concurrent-service-endpoint-syncs
BATCH_PERIOD = 0.0  # seconds; kube-controller-manager's --endpointslice-updates-batch-period

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY, MANAGER = "endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"
ZONE = "topology.kubernetes.io/zone"
SLICES_INDEX = "service"

Raw = dict[str, Any]
_Ports = tuple[tuple[str, int | None, str, str | None], ...]
_SetKey = tuple[str, _Ports]  # address type and ports: what the endpoints of one slice share


def slices_index(stored: Stored) -> tuple[str, ...]:
    """Finds the slices that this controller made for a Service, by its `namespace/name`."""
    labels = stored.meta.labels
    if labels.get(MANAGED_BY) != MANAGER or SERVICE_NAME not in labels:
        return ()
    return (f"{stored.namespace}/{labels[SERVICE_NAME]}",)


class EndpointSliceController:
    """Keeps the EndpointSlices of Services that have a selector. batch_period: as of `EndpointsController`.

    capacity: endpoints in a slice.
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
        self._recorder = events.recorder("endpoint-slice-controller")
        self._backends = backends
        self._batch_period = batch_period
        self._capacity = capacity
        self._queue = backends.queue()
        self._slices = Decoded(lambda stored: EndpointSlice.decode(stored.data, stored.revision))

    def register(self) -> None:
        """Add it to the manager."""
        manager = self._manager
        manager.add_index(EndpointSlice, SLICES_INDEX, slices_index)
        manager.add_controller(
            Service,
            self.reconcile,
            watches={EndpointSlice: _of_slice, Node: self._of_node},
            predicates={Node: _zone_changed},
            reads=[Pod],
            workers=WORKERS,
            name="endpointslice",
            queue=lambda: self._queue,
        )

    def _of_node(self, stored: Stored) -> Iterable[Request]:
        services = self._manager.informer(Service).cache
        return [Request(each.namespace, each.name) for each in services.list()]

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One sync: write the slices that differ, and no others."""
        service = ctx.get(Service, request)
        if service is None:
            # Its slices go with it: it owns them.
            self._slices.forget(request)
            self._queue.forget_rest(request)
            return None
        if service.deleting or not has_backends(service):
            return None
        backends = self._backends.of(request.namespace, service.spec.selector)
        self._queue.rest(request, self._batch_period + PACE * len(backends))
        existing = self._slices.of(request, ctx.stored(EndpointSlice, index=(SLICES_INDEX, request.key)))
        try:
            await self._sync(ctx, service, self._desired(ctx, service, backends), existing)
        except NamespaceTerminating:
            return None  # every create will fail, and the Service's own end is near
        except Conflict:
            raise
        except ApiError as error:
            message = f"Error updating Endpoint Slices for Service {request.key}: {error}"
            self._recorder.event(service, "Warning", "FailedToUpdateEndpointSlices", message)
            raise
        return None

    def _desired(
        self, ctx: Context, service: Service, backends: Sequence[Backend]
    ) -> dict[_SetKey, dict[Identity, Raw]]:
        zones: dict[str, str | None] = {}
        for backend in backends:
            if backend.node and backend.node not in zones:
                node = ctx.get_stored(Node, backend.node, "")
                zones[backend.node] = None if node is None else node.meta.labels.get(ZONE, "")
        return endpoints_of(service, backends, zones)

    async def _sync(
        self,
        ctx: Context,
        service: Service,
        desired: dict[_SetKey, dict[Identity, Raw]],
        existing: Sequence[EndpointSlice],
    ) -> None:
        steps = plan(service, desired, existing, self._capacity)
        for phase in _Phase:
            # Together, so that they share commits.
            writes = [self._write(ctx, service, step) for step in steps if step.phase is phase]
            for result in await asyncio.gather(*writes, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result

    async def _write(self, ctx: Context, service: Service, step: _Step) -> None:
        old = step.old
        if step.endpoints is None:
            assert old is not None
            await ctx.delete(EndpointSlice, old.name, uid=old.metadata.uid)
            return
        raw: Raw = {"metadata": {"namespace": service.namespace}} if old is None else patch.copy(old.raw)
        raw["addressType"], ports = step.key
        raw["ports"] = [_port(*port) for port in ports]
        raw["endpoints"] = step.endpoints
        raw["metadata"]["labels"] = labels_of(service)
        if old is None:
            raw["metadata"]["generateName"] = f"{service.name}-"
        made = EndpointSlice.from_raw(raw)
        set_controller_reference(service, made)
        await (ctx.create(made) if old is None else ctx.update(made))


class _Phase(enum.Enum):
    """The order of writes. What lets an address go comes before what takes it, for another pod may have it by now;
    what replaces the slices of other ports comes before these go."""

    SHRINK = enum.auto()
    GROW = enum.auto()
    CLEAN = enum.auto()


class _Step(msgspec.Struct, frozen=True):
    """One write. old: the slice that it changes, None for a new one; endpoints: None for a slice that goes."""

    phase: _Phase
    key: _SetKey
    old: EndpointSlice | None
    endpoints: list[Raw] | None


def plan(
    service: Service,
    desired: dict[_SetKey, dict[Identity, Raw]],
    existing: Sequence[EndpointSlice],
    capacity: int = CAPACITY,
) -> list[_Step]:
    """The writes that make the slices list what is desired."""
    labels = labels_of(service)
    families = families_of(service) if service.raw["spec"].get("ipFamilies") or not desired else []
    # Where nothing is to be listed one slice without endpoints says so.
    empty: dict[_SetKey, dict[Identity, Raw]] = {
        (family, ()): {} for family in families if not any(key[0] == family for key in desired)
    }
    by_set: dict[_SetKey, list[EndpointSlice]] = {}
    for each in existing:
        by_set.setdefault(set_of(each.raw), []).append(each)
    # Those of ports that nothing has any more: their names are used again.
    spare = [each for key, slices in by_set.items() if key not in desired and key not in empty for each in slices]
    steps = []

    def create(key: _SetKey, endpoints: list[Raw]) -> None:
        old = next((each for each in spare if each.raw["addressType"] == key[0]), None)
        if old is not None:
            spare.remove(old)
        steps.append(_Step(_Phase.GROW, key, old, endpoints))

    for key, endpoints in desired.items():
        known = {each.name: each for each in by_set.get(key, ())}
        slices = [
            Slice(name, each.raw.get("endpoints") or [], _is_current(each, service, labels))
            for name, each in known.items()
        ]
        packed = pack(slices, endpoints, capacity)
        steps += [_Step(_Phase.SHRINK, key, known[name], None) for name in packed.delete]
        for name, content in packed.update.items():
            before = {identity(each) for each in known[name].raw.get("endpoints") or ()}
            lets_go = before - {identity(each) for each in content}
            steps.append(_Step(_Phase.SHRINK if lets_go else _Phase.GROW, key, known[name], content))
        for content in packed.create:
            create(key, content)
    for key in empty:
        listed = by_set.get(key, [])
        kept = next((each for each in listed if not each.raw.get("endpoints")), None)
        steps += [_Step(_Phase.SHRINK, key, each, None) for each in listed if each is not kept]
        if kept is None:
            create(key, [])
        elif not _is_current(kept, service, labels):
            steps.append(_Step(_Phase.GROW, key, kept, []))
    return steps + [_Step(_Phase.CLEAN, set_of(each.raw), each, None) for each in spare]


def _of_slice(stored: Stored) -> Iterable[Request]:
    return (Request(*key.split("/")) for key in slices_index(stored))


def _zone_changed(old: Stored | None, new: Stored | None) -> bool:
    if old is None or new is None:
        return True
    return old.meta.labels.get(ZONE) != new.meta.labels.get(ZONE)


def _is_current(each: EndpointSlice, service: Service, labels: dict[str, str]) -> bool:
    owner = each.metadata.controller
    return each.metadata.labels == labels and owner is not None and owner.uid == service.metadata.uid


def labels_of(service: Service) -> dict[str, str]:
    """Those of the Service, and what tells whose the slice is."""
    labels = {**(service.metadata.labels or {}), SERVICE_NAME: service.name, MANAGED_BY: MANAGER}
    labels.pop(HEADLESS, None)
    if service.spec.cluster_ip == "None":
        labels[HEADLESS] = ""
    return labels


def families_of(service: Service) -> list[str]:
    """The address types that it has slices of."""
    families: list[str] = service.raw["spec"].get("ipFamilies") or ["IPv4"]
    return families


def set_of(raw: Raw) -> _SetKey:
    """What a slice's endpoints share."""
    ports = (
        (each.get("name", ""), each.get("port"), each.get("protocol", "TCP"), each.get("appProtocol"))
        for each in raw.get("ports") or ()
    )
    return raw["addressType"], tuple(sorted(ports, key=repr))


def endpoints_of(
    service: Service, backends: Sequence[Backend], zones: dict[str, str | None]
) -> dict[_SetKey, dict[Identity, Raw]]:
    """The endpoints by address type and ports. zones: node -> its zone, "" if it does not say, None if there is no
    such node; then its pods are left out unless the Service publishes what is not ready."""
    spec = service.raw["spec"]
    tolerant = bool(spec.get("publishNotReadyAddresses"))
    wanted = spec.get("ports") or []
    families = families_of(service) if spec.get("ipFamilies") else None
    namespace, name = service.namespace or "", service.name
    found: dict[_SetKey, dict[Identity, Raw]] = {}
    for backend in sorted(backends, key=lambda each: (each.addresses[0], each.uid)):
        zone = zones.get(backend.node)
        if backend.node and zone is None and not tolerant:
            continue
        ports = sorted(
            (
                (port.get("name", ""), number, port.get("protocol", "TCP"), port.get("appProtocol"))
                for port in wanted
                if (number := backend.port(port)) is not None
            ),
            key=repr,
        )
        for family in families or [family_of(backend.addresses[0])]:
            address = backend.address(family)
            if address is None:
                continue
            endpoint: Raw = {
                "addresses": [address],
                "conditions": {
                    "ready": tolerant or (backend.ready and not backend.terminating),
                    "serving": backend.ready,
                    "terminating": backend.terminating,
                },
                "targetRef": target_of(backend, namespace),
            }
            if backend.node:
                endpoint["nodeName"] = backend.node
            if zone:
                endpoint["zone"] = zone
            if hostname := hostname_of(backend, name):
                endpoint["hostname"] = hostname
            found.setdefault((family, tuple(ports)), {})[identity(endpoint)] = endpoint
    return found


def _port(name: str, number: int | None, protocol: str, app_protocol: str | None) -> Raw:
    port: Raw = {"name": name, "port": number, "protocol": protocol}
    if app_protocol:
        port["appProtocol"] = app_protocol
    return port
