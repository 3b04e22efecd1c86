"""Addresses and node ports of Services, handed out by a controller: there is no API server that would do it at once.

As kube-apiserver's allocators: addresses of 10.96.0.0/16 and ports from 30000 to 32767, of which the lower part is left
to those who choose for themselves. What a Service gets follows from its name, and from who was there before.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from controllers.context import Context
from controllers.core.events import EventBroadcaster
from controllers.core.types import Service
from controllers.errors import TerminalError
from controllers.manager import Manager
from controllers.reconcile import Request, Result
from informer.cache import Stored

NETWORK = ipaddress.IPv4Network("10.96.0.0/16")  # kubeadm's --service-cidr
CHOSEN_ADDRESSES = 256  # the first so many are for those who choose: kube-apiserver's, of a network of this size
FIRST_PORT, LAST_PORT = 30_000, 32_767  # kube-apiserver's --service-node-port-range
CHOSEN_PORTS = 86  # likewise

TAKEN_INDEX = "addresses"

Raw = dict[str, Any]


class _Port(msgspec.Struct, gc=False, rename="camel"):
    node_port: int | None = None


class _Spec(msgspec.Struct, gc=False):
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    ports: list[_Port] | None = None


class _Service(msgspec.Struct, gc=False):
    spec: _Spec | None = None


_decode = msgspec.json.Decoder(_Service).decode


def taken_index(stored: Stored) -> tuple[str, ...]:
    """Finds Services by what they have: an address, and `:port`."""
    try:
        spec = _decode(stored.data).spec or _Spec()
    except msgspec.ValidationError:
        return ()
    ports = tuple(f":{port.node_port}" for port in spec.ports or () if port.node_port)
    return (spec.cluster_ip, *ports) if spec.cluster_ip not in ("", "None") else ports


class ServiceAddresses:
    """Gives Services what they lack, and takes what their type does not have."""

    def __init__(self, manager: Manager, events: EventBroadcaster) -> None:
        self._manager = manager
        self._recorder = events.recorder("service-allocator")
        # What was given and the cache does not show yet -> to whom.
        self._given: dict[str, Request] = {}

    def register(self) -> None:
        """Add it to the manager. One worker: two could give the same away."""
        self._manager.add_index(Service, TAKEN_INDEX, taken_index)
        self._manager.add_controller(Service, self.reconcile, workers=1, name="serviceaddresses")

    async def reconcile(self, ctx: Context, request: Request) -> Result | None:
        """One Service. Raises TerminalError if everything is taken."""
        self._settle(request)
        service = ctx.get(Service, request)
        if service is not None and not service.deleting and self._complete(service, request):
            await ctx.update(service)
        return None

    def _complete(self, service: Service, request: Request) -> bool:
        spec, kind = service.raw["spec"], service.spec.type
        changed = False
        if kind == "ExternalName":
            if spec.get("clusterIP"):
                for field in ("clusterIP", "clusterIPs"):
                    spec.pop(field, None)
                changed = True
        elif not spec.get("clusterIP"):
            spec["clusterIP"] = self._free(service, request, _addresses)
            spec["clusterIPs"] = [spec["clusterIP"]]
            spec.setdefault("ipFamilies", ["IPv4"])
            spec.setdefault("ipFamilyPolicy", "SingleStack")
            changed = True
        elsewhere = kind in ("NodePort", "LoadBalancer")
        for port in spec.get("ports") or ():
            if elsewhere and not port.get("nodePort"):
                port["nodePort"] = int(self._free(service, request, _ports)[1:])
                changed = True
            elif not elsewhere and port.pop("nodePort", None) is not None:
                changed = True
        return changed

    def _settle(self, request: Request) -> None:
        """Forget what the cache shows by now, and what a run of this Service did not come to write."""
        services = self._manager.informer(Service).cache
        for each, owner in [*self._given.items()]:
            stored = services.get(owner.key)
            if stored is None or owner == request or each in taken_index(stored):
                del self._given[each]

    def _free(self, service: Service, request: Request, candidates: Callable[[str], Iterator[str]]) -> str:
        services = self._manager.informer(Service).cache
        for candidate in candidates(request.key):
            if candidate not in self._given and not services.by_index(TAKEN_INDEX, candidate):
                self._given[candidate] = request
                return candidate
        message = "range is full"
        self._recorder.event(service, "Warning", "AllocationFailed", message)
        raise TerminalError(message)


def _addresses(name: str) -> Iterator[str]:
    size = NETWORK.num_addresses - CHOSEN_ADDRESSES - 1
    start = zlib.crc32(name.encode())
    return (str(NETWORK[CHOSEN_ADDRESSES + (start + step) % size]) for step in range(size))


def _ports(name: str) -> Iterator[str]:
    first = FIRST_PORT + CHOSEN_PORTS
    size = LAST_PORT + 1 - first
    start = zlib.crc32(name.encode())
    return (f":{first + (start + step) % size}" for step in range(size))
