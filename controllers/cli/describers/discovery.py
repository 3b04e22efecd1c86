"""Services, and the addresses behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controllers.cli.columns.discovery import endpoint_addresses
from controllers.cli.describers.parts import head, labels, pairs
from controllers.cli.describers.related import Describer, Related
from controllers.cli.page import Page
from controllers.cli.raw import NONE, UNSET, Raw, condition, dig, first_few, items, mapping, name_of, text, texts

MOST = 3  # kubectl's, of endpoints

SERVICE_NAME = "kubernetes.io/service-name"  # on each of a Service's EndpointSlices


def _service(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    spec = mapping(raw, "spec")
    page.field("Selector", ",".join(pairs(mapping(spec, "selector"))))
    page.field("Type", spec.get("type"))
    if spec.get("ipFamilyPolicy"):
        page.field("IP Family Policy", spec["ipFamilyPolicy"])
    if families := texts(spec, "ipFamilies"):
        page.field("IP Families", ",".join(families))
    page.field("IP", spec.get("clusterIP"))
    if addresses := texts(spec, "clusterIPs"):
        page.field("IPs", ",".join(addresses))
    if external := texts(spec, "externalIPs"):
        page.field("External IPs", ",".join(external))
    if spec.get("externalName"):
        page.field("External Name", spec["externalName"])
    ingress = [text(each, "ip") or text(each, "hostname") for each in items(raw, "status", "loadBalancer", "ingress")]
    if ingress:
        page.field("LoadBalancer Ingress", ", ".join(ingress))
    for port in items(spec, "ports"):
        protocol, name = port.get("protocol", "TCP"), text(port, "name")
        page.field("Port", f"{name or UNSET}  {port.get('port')}/{protocol}")
        page.field("TargetPort", f"{port.get('targetPort', port.get('port'))}/{protocol}")
        if port.get("nodePort"):
            page.field("NodePort", f"{name or UNSET}  {port['nodePort']}/{protocol}")
        page.field("Endpoints", first_few(_behind(raw, port, related), MOST))
    page.field("Session Affinity", spec.get("sessionAffinity"))
    for field, title in (
        ("externalTrafficPolicy", "External Traffic Policy"),
        ("internalTrafficPolicy", "Internal Traffic Policy"),
    ):
        if spec.get(field):
            page.field(title, spec[field])


def _behind(raw: Raw, port: Raw, related: Related) -> Sequence[str]:
    """The ready addresses behind a port: of its slices or its Endpoints, or of its pods where nobody keeps these."""
    namespace, name = dig(raw, "metadata", "namespace"), name_of(raw)
    slices = [
        each
        for each in related.within("endpointslices.discovery.k8s.io", namespace)
        if dig(each, "metadata", "labels", SERVICE_NAME) == name
    ]
    if slices:
        return [address for each in slices for address in _of_slice(each, text(port, "name"))]
    for each in related.within("endpoints", namespace):
        if name_of(each) == name:
            return endpoint_addresses(each, text(port, "name"))
    found = []
    for pod in related.pods:
        address, number = dig(pod, "status", "podIP"), _target(pod, port)
        if address and number is not None and condition(pod, "Ready") == "True":
            found.append(f"{address}:{number}")
    return found


def _of_slice(raw: Raw, name: str) -> list[str]:
    ready = [each for each in items(raw, "endpoints") if dig(each, "conditions", "ready") is not False]
    addresses = [texts(each, "addresses")[0] for each in ready if texts(each, "addresses")]
    return [
        f"{address}:{port.get('port')}"
        for port in items(raw, "ports")
        if text(port, "name") == name
        for address in addresses
    ]


def _target(pod: Raw, port: Raw) -> Any:
    """The number of the port in a pod; None where the pod has no port of that name."""
    target = port.get("targetPort") or port.get("port")
    if not isinstance(target, str) or target.isdigit():
        return target
    for container in items(pod, "spec", "containers"):
        for each in items(container, "ports"):
            if each.get("name") == target:
                return each.get("containerPort")
    return None


def _ports(page: Page, ports: Sequence[Mapping[str, Any]]) -> None:
    if not ports:
        page.field("Ports", UNSET)
        return
    with page.section("Ports"):
        rows = [
            (text(each, "name", otherwise=UNSET), text(each, "port", otherwise="*"), text(each, "protocol"))
            for each in ports
        ]
        page.table(("Name", "Port", "Protocol"), rows)


def _endpoints(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    with page.section("Subsets"):
        for subset in items(raw, "subsets"):
            for field, title in (("addresses", "Addresses"), ("notReadyAddresses", "NotReadyAddresses")):
                page.field(title, ",".join(text(each, "ip") for each in items(subset, field)))
            _ports(page, items(subset, "ports"))


def _endpoint_slice(page: Page, raw: Raw, related: Related) -> None:
    head(page, raw)
    labels(page, raw)
    page.field("AddressType", text(raw, "addressType"))
    _ports(page, items(raw, "ports"))
    endpoints = items(raw, "endpoints")
    if not endpoints:
        page.field("Endpoints", NONE)
        return
    with page.section("Endpoints"):
        for each in endpoints:
            page.field("- Addresses", ", ".join(texts(each, "addresses")))
            with page.indented():
                with page.section("Conditions"):
                    for kind in ("ready", "serving", "terminating"):
                        if dig(each, "conditions", kind) is not None:
                            page.field(kind.title(), bool(dig(each, "conditions", kind)))
                page.field("Hostname", text(each, "hostname", otherwise=UNSET))
                target = mapping(each, "targetRef")
                if target:
                    page.field("TargetRef", f"{target.get('kind')}/{target.get('name')}")
                page.field("NodeName", text(each, "nodeName", otherwise=UNSET))
                page.field("Zone", text(each, "zone", otherwise=UNSET))


BY_KIND: dict[str, Describer] = {
    "services": _service,
    "endpoints": _endpoints,
    "endpointslices.discovery.k8s.io": _endpoint_slice,
}
