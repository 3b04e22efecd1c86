"""Endpoints and EndpointSlice: where the pods of a Service can be reached."""

from __future__ import annotations

from typing import Annotated, Literal

from controllers.core.types import ObjectReference
from informer.constraints import Immutable
from informer.errors import Invalid
from informer.objects import Model
from informer.resources import Resource

MOST_ENDPOINTS = 1000  # kube-apiserver's: in one EndpointSlice
MOST_PORTS = 20_000  # kube-apiserver's: in one EndpointSlice

ADDRESS_TYPES = ("IPv4", "IPv6", "FQDN")


class EndpointAddress(Model):
    """One pod's address."""

    ip: str
    hostname: str = ""
    node_name: str | None
    target_ref: ObjectReference | None


class EndpointPort(Model):
    """A port of the addresses beside it; the name is that of the Service's port."""

    name: str = ""
    port: int | None
    protocol: str = "TCP"
    app_protocol: str | None


class EndpointSubset(Model):
    """Every one of the addresses with every one of the ports."""

    addresses: list[EndpointAddress]
    not_ready_addresses: list[EndpointAddress]
    ports: list[EndpointPort]


class Endpoints(Resource, group="", version="v1", plural="endpoints", short_names=("ep",), status=False):
    """The addresses behind the Service of the same name, a thousand at the most."""

    subsets: list[EndpointSubset]


class EndpointConditions(Model):
    """ready: gets traffic; serving: the pod is ready; terminating: its deletion was asked for."""

    ready: bool | None
    serving: bool | None
    terminating: bool | None


class Endpoint(Model):
    """One pod."""

    addresses: list[str]
    conditions: EndpointConditions
    hostname: str | None
    node_name: str | None
    target_ref: ObjectReference | None
    zone: str | None


class EndpointSlice(Resource, group="discovery.k8s.io", version="v1", status=False):
    """A part of the addresses behind a Service, all with the same ports. Its label names the Service."""

    address_type: Annotated[Literal["IPv4", "IPv6", "FQDN"], Immutable]
    endpoints: list[Endpoint]
    ports: list[EndpointPort]

    def default(self) -> None:
        """As kube-apiserver."""
        for port in self.raw.get("ports") or ():
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def validate(self) -> None:
        """It has an address type, and no more endpoints and ports than a watcher can take at once."""
        if self.raw.get("addressType") not in ADDRESS_TYPES:
            raise Invalid("addressType", f"expected one of {', '.join(ADDRESS_TYPES)}")
        for field, most in (("endpoints", MOST_ENDPOINTS), ("ports", MOST_PORTS)):
            count = len(self.raw.get(field) or ())
            if count > most:
                raise Invalid(field, f"expected {most} at the most, got {count}")
        for index, endpoint in enumerate(self.raw.get("endpoints") or ()):
            if not endpoint.get("addresses"):
                raise Invalid(f"endpoints[{index}].addresses", "required")
