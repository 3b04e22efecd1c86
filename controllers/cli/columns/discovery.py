"""Services, and the addresses behind them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from controllers.cli.columns.model import Columns
from controllers.cli.raw import (
    NONE,
    UNSET,
    Raw,
    age_of,
    first_few,
    items,
    labels_text,
    mapping,
    name_of,
    text,
    texts,
)

MOST = 3  # kubectl's, of endpoints and of ports of a slice


def service_ports(raw: Raw) -> str:
    """`80/TCP,443:30443/TCP`."""
    shown = []
    for port in items(raw, "spec", "ports"):
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}")
    return ",".join(shown) or NONE


def _external_ip(raw: Raw) -> str:
    spec = mapping(raw, "spec")
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    given = texts(spec, "externalIPs")
    if spec.get("type") == "LoadBalancer":
        ingress = items(raw, "status", "loadBalancer", "ingress")
        given = [str(each.get("ip") or each.get("hostname")) for each in ingress] + given
        return ",".join(given) or "<pending>"
    return ",".join(given) or NONE


def _service(raw: Raw, now: datetime) -> Sequence[str]:
    spec = mapping(raw, "spec")
    return (
        name_of(raw),
        spec.get("type") or "ClusterIP",
        spec.get("clusterIP") or NONE,
        _external_ip(raw),
        service_ports(raw),
        age_of(raw, now),
        labels_text(spec.get("selector")),
    )


def endpoint_addresses(raw: Raw, port_name: str | None = None) -> list[str]:
    """`10.0.0.1:80` for each ready address and port of an Endpoints; port_name: only ports of this name."""
    shown = []
    for subset in items(raw, "subsets"):
        addresses = [str(each.get("ip")) for each in items(subset, "addresses")]
        ports = items(subset, "ports")
        if not ports and port_name is None:
            shown += addresses
        for port in ports:
            if port_name is None or text(port, "name") == port_name:
                shown += [f"{address}:{port.get('port')}" for address in addresses]
    return shown


def _endpoints(raw: Raw, now: datetime) -> Sequence[str]:
    return name_of(raw), first_few(endpoint_addresses(raw), MOST), age_of(raw, now)


def slice_ports(raw: Raw) -> str:
    """The ports of an EndpointSlice; `<unset>` where it has none."""
    ports = [text(each, "port", otherwise="*") for each in items(raw, "ports")]
    return first_few(ports, MOST) if ports else UNSET


def _endpoint_slice(raw: Raw, now: datetime) -> Sequence[str]:
    addresses = [address for each in items(raw, "endpoints") for address in texts(each, "addresses")]
    shown = first_few(addresses, MOST) if addresses else UNSET
    return name_of(raw), text(raw, "addressType"), slice_ports(raw), shown, age_of(raw, now)


COLUMNS = {
    "services": Columns(
        ("NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"), _service, wide=("SELECTOR",)
    ),
    "endpoints": Columns(("NAME", "ENDPOINTS", "AGE"), _endpoints),
    "endpointslices.discovery.k8s.io": Columns(("NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"), _endpoint_slice),
}
