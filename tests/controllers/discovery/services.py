"""Services to try, and what has to be behind them: computed from the raw objects of the store, the long way."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from controllers.core.types import Node, Pod, Service
from controllers.discovery.types import Endpoints, EndpointSlice
from tests.controllers.cluster import Cluster, Revision

Raw = dict[str, Any]
# (address, port name, port, protocol), or without a port (address, None, None, None) -> what is said of it
Listed = dict[tuple[Any, ...], Any]


def service(name: str = "web", selector: dict[str, str] | None = None, **spec: Any) -> Service:
    """A Service of port 80 for the pods with `app: nginx`."""
    wanted = {"app": "nginx"} if selector is None else selector
    return Service.from_raw(
        {
            "metadata": {"name": name, "namespace": "default", "labels": {"team": "blue"}},
            "spec": {"selector": wanted, "ports": [{"port": 80}], **spec},
        }
    )


def port_of(pod: Raw, port: Raw) -> int | None:
    """What a Service's port means for a pod."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for each in container.get("ports", ()):
            if (each.get("name"), each["protocol"]) == (target, port["protocol"]):
                return int(each["containerPort"])
    return None


def expected(revision: Revision, found: Raw) -> tuple[Listed, Listed]:
    """What Endpoints and slices of a Service have to tell: ready or not; ready, serving, terminating, node, zone."""
    spec, name = found["spec"], found["metadata"]["name"]
    tolerant = spec.get("publishNotReadyAddresses", False)
    nodes = {node["metadata"]["name"]: node for node in revision.of(Node)}
    endpoints: Listed = {}
    slices: Listed = {}
    for pod in revision.of(Pod):
        metadata, status = pod["metadata"], pod["status"]
        labels = metadata.get("labels", {})
        if metadata["namespace"] != found["metadata"]["namespace"]:
            continue
        if any(labels.get(key) != value for key, value in spec["selector"].items()):
            continue
        if status["phase"] in ("Succeeded", "Failed") or not status.get("podIP"):
            continue
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
        terminating = "deletionTimestamp" in metadata
        ports: list[tuple[Any, ...]] = [
            (port.get("name", ""), number, port["protocol"])
            for port in spec.get("ports", ())
            if (number := port_of(pod, port)) is not None
        ]
        hostname = pod["spec"].get("hostname") if pod["spec"].get("subdomain") == name else None
        node = pod["spec"].get("nodeName")
        for port in ports or ([(None, None, None)] if not spec.get("ports") else []):
            if tolerant or not terminating:
                endpoints[status["podIP"], *port] = (ready or tolerant, metadata["uid"], node, hostname)
        if node in nodes or tolerant:
            zone = nodes.get(node, {}).get("metadata", {}).get("labels", {}).get("topology.kubernetes.io/zone")
            conditions = (tolerant or (ready and not terminating), ready, terminating)
            for port in ports or [(None, None, None)]:
                slices[status["podIP"], *port] = (*conditions, metadata["uid"], node, zone, hostname)
    return endpoints, slices


def endpoints_listed(found: Raw) -> Listed:
    """What Endpoints tell. Nothing is told twice."""
    listed: Listed = {}
    for subset in found.get("subsets", ()):
        for port in subset.get("ports") or [{}]:
            for field in ("addresses", "notReadyAddresses"):
                for each in subset.get(field, ()):
                    key = (each["ip"], port.get("name", "") if port else None, port.get("port"), port.get("protocol"))
                    assert key not in listed, f"{key} is told twice"
                    told = (field == "addresses", each["targetRef"]["uid"], each.get("nodeName"), each.get("hostname"))
                    listed[key] = told
    return listed


def slices_listed(slices: list[Raw], capacity: int = 100) -> Listed:
    """What slices tell. Nothing is told twice, and none has too much."""
    listed: Listed = {}
    for each in slices:
        assert len(each["endpoints"]) <= capacity, f"{each['metadata']['name']} has {len(each['endpoints'])} endpoints"
        for endpoint in each["endpoints"]:
            conditions = tuple(endpoint["conditions"][field] for field in ("ready", "serving", "terminating"))
            rest = (endpoint.get("nodeName"), endpoint.get("zone"), endpoint.get("hostname"))
            for port in each.get("ports") or [{}]:
                key = (endpoint["addresses"][0], port.get("name"), port.get("port"), port.get("protocol"))
                assert key not in listed, f"{key} is told twice"
                listed[key] = (*conditions, endpoint["targetRef"]["uid"], *rest)
    return listed


def slices_by_service(revision: Revision) -> dict[str, list[Raw]]:
    """The slices of each Service."""
    found: dict[str, list[Raw]] = defaultdict(list)
    for each in revision.of(EndpointSlice):
        found[each["metadata"]["labels"]["kubernetes.io/service-name"]].append(each)
    return found


def check(revision: Revision, capacity: int = 100) -> None:
    """Endpoints and slices are what Services and pods make them."""
    services = {each["metadata"]["name"]: each for each in revision.of(Service) if each["spec"].get("selector")}
    endpoints = {each["metadata"]["name"]: each for each in revision.of(Endpoints)}
    slices = slices_by_service(revision)
    assert set(endpoints) == set(services)
    assert set(slices) == set(services)
    for name, each in services.items():
        told, in_slices = expected(revision, each)
        assert endpoints_listed(endpoints[name]) == told
        assert slices_listed(slices[name], capacity) == in_slices


async def now(it: Cluster) -> Revision:
    """The store at this moment."""
    objects: dict[str, Raw] = {}
    last = "0"
    for cls in (Service, Endpoints, EndpointSlice, Pod, Node):
        found = await it.client.list(cls)
        last = found.revision
        objects.update({cls.TYPE.key(each.namespace, each.name).decode(): each.raw for each in found})
    return Revision(int(last), objects, [])


async def settled(it: Cluster, ready: int | None = None) -> None:
    """Wait until Endpoints and slices are right. ready: and so many pods are."""

    async def right() -> bool:
        revision = await now(it)
        if ready is not None and sum(pod.ready for pod in await it.pods()) != ready:
            return False
        try:
            check(revision)
        except AssertionError:
            return False
        return True

    await it.until(right)


async def endpoints(it: Cluster, name: str = "web") -> Raw:
    """The Endpoints of a Service."""
    return (await it.client.get(Endpoints, name, "default")).raw


async def slices(it: Cluster, name: str = "web") -> list[Raw]:
    """The slices of a Service."""
    found = await it.client.list(EndpointSlice, "default", {"kubernetes.io/service-name": name})
    return [each.raw for each in found]
