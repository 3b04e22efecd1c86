"""The EndpointSlice controller, a test a rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.types import Node, Pod, Service
from controllers.discovery.endpointslice import endpoints_of, plan, set_of
from controllers.discovery.types import EndpointSlice
from informer.client import ObjectClient
from informer.errors import Invalid
from kvstore.api import Client
from tests.controllers.cluster import cluster, history, nginx
from tests.controllers.discovery.services import (
    check,
    now,
    service,
    settled,
    slices,
    slices_by_service,
    slices_listed,
)
from tests.controllers.discovery.test_endpoints import FAST, backend

pytestmark = pytest.mark.virtual_time

Raw = dict[str, Any]


def desired(*backends: Any, zones: dict[str, str | None] | None = None, **spec: Any) -> list[tuple[Any, list[Raw]]]:
    wanted = service(**spec)
    wanted.default()
    found = endpoints_of(wanted, backends, {"node-1": ""} if zones is None else zones)
    return [(key, [*endpoints.values()]) for key, endpoints in sorted(found.items(), key=repr)]


async def test_slices_tell_whose_they_are_and_where_each_pod_is(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        owner = await it.client.create(service())
        await it.apply(nginx(replicas=2))
        await it.rolled_out()
        await it.client.patch(Node, "node-1", {"metadata": {"labels": {"topology.kubernetes.io/zone": "a"}}})
        await settled(it)
        (found,) = await slices(it)
        metadata = found["metadata"]
        assert metadata["name"].startswith("web-")
        assert metadata["generateName"] == "web-"
        assert metadata["labels"] == {
            "team": "blue",
            "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        }
        (reference,) = metadata["ownerReferences"]
        assert (reference["kind"], reference["name"], reference["uid"]) == ("Service", "web", owner.metadata.uid)
        assert reference["controller"]
        assert reference["blockOwnerDeletion"]
        assert (found["addressType"], found["ports"]) == ("IPv4", [{"name": "", "port": 80, "protocol": "TCP"}])
        pods = {pod.name: pod for pod in await it.pods()}
        for endpoint in found["endpoints"]:
            pod = pods[endpoint["targetRef"]["name"]]
            assert endpoint["conditions"] == {"ready": True, "serving": True, "terminating": False}
            assert endpoint["addresses"] == [pod.raw["status"]["podIP"]]
            assert endpoint["nodeName"] == pod.spec.node_name
            assert endpoint.get("zone") == ("a" if pod.spec.node_name == "node-1" else None)
        await it.client.delete(Service, "web", "default")

        async def gone() -> bool:
            return not await slices(it)

        await it.until(gone)


async def test_a_pod_that_goes_is_told_as_terminating_before(store: Client) -> None:
    async with cluster(store, **FAST, pod_delete_delay=5.0) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        await settled(it)
        (pod,) = await it.pods()
        await it.client.delete(Pod, pod.name, "default")
        await it.rolled_out()
        await settled(it)
        told: list[Raw] = []
        for revision in await history(store):
            for each in slices_by_service(revision)["web"]:
                told += [each["conditions"] for each in each["endpoints"] if each["targetRef"]["name"] == pod.name]
        assert {"ready": False, "serving": True, "terminating": True} in told


async def test_a_service_without_pods_has_one_slice_without_endpoints(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service())

        async def there() -> bool:
            return len(await slices(it)) == 1

        await it.until(there)
        (found,) = await slices(it)
        assert (found["endpoints"], found["ports"]) == ([], [])
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        await settled(it)
        # It is the one that is filled, and emptied.
        assert [each["metadata"]["name"] for each in await slices(it)] == [found["metadata"]["name"]]
        await it.scale(0)
        await it.rolled_out()
        await settled(it)
        (empty,) = await slices(it)
        assert empty["endpoints"] == []


async def test_slices_are_dealt_out_and_kept(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=205))
        await asyncio.sleep(5)
        check(await now(it))
        before = {each["metadata"]["name"]: each for each in await slices(it)}
        assert sum(len(each["endpoints"]) for each in before.values()) == 205
        victim = (await it.pods())[0]
        await it.client.delete(Pod, victim.name, "default")
        await asyncio.sleep(5)
        check(await now(it))
        after = {each["metadata"]["name"]: each for each in await slices(it)}
        # One pod is another: the slice of the old one and that of the new one were written, the others stay.
        changed = [name for name in after if after[name] != before.get(name)]
        assert after.keys() == before.keys()
        assert 1 <= len(changed) <= 2 < len(after)


async def test_other_ports_are_other_slices(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service(ports=[{"port": 80, "targetPort": "http"}]))
        for number in range(4):
            ports = [{"name": "http", "containerPort": 8000 + number % 2}]
            container = {"name": "web", "image": "web", "ports": ports}
            metadata = {"name": f"p{number}", "namespace": "default", "labels": {"app": "nginx"}}
            await it.client.create(Pod.from_raw({"metadata": metadata, "spec": {"containers": [container]}}))
        await settled(it, 4)
        found = await slices(it)
        assert sorted((each["ports"][0]["port"], len(each["endpoints"])) for each in found) == [(8000, 2), (8001, 2)]
        names = {each["metadata"]["name"] for each in found}
        await it.client.patch(Service, "web", {"spec": {"ports": [{"port": 80, "targetPort": 9}]}}, "default")
        await settled(it)
        (one,) = await slices(it)
        assert one["metadata"]["name"] in names
        assert len(one["endpoints"]) == 4


async def test_headless_services_of_stateful_sets_name_their_pods(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service("db", clusterIP="None", ports=[]))
        pod = nginx().raw["spec"]["template"]["spec"]
        for number in range(2):
            metadata = {"name": f"db-{number}", "namespace": "default", "labels": {"app": "nginx"}}
            spec = {**pod, "hostname": f"db-{number}", "subdomain": "db"}
            await it.client.create(Pod.from_raw({"metadata": metadata, "spec": spec}))
        await settled(it, 2)
        (found,) = await slices(it, "db")
        assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
        assert sorted(each["hostname"] for each in found["endpoints"]) == ["db-0", "db-1"]
        assert found["ports"] == []


async def test_slices_of_others_are_left_alone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        own = EndpointSlice.from_raw(
            {
                "metadata": {"name": "mine", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": ["1.2.3.4"]}],
            }
        )
        made = await it.client.create(own)
        await it.client.create(service())
        await asyncio.sleep(30)
        assert (await it.client.get(EndpointSlice, "mine", "default")).raw == made.raw


def test_conditions() -> None:
    pods = [backend(number, ready=number < 2, terminating=number % 2 == 1) for number in range(4)]
    ((_, found),) = desired(*pods)
    conditions = [tuple(each["conditions"].values()) for each in found]
    assert conditions == [(True, True, False), (False, True, True), (False, False, False), (False, False, True)]
    ((_, found),) = desired(*pods, publishNotReadyAddresses=True)
    assert all(each["conditions"]["ready"] for each in found)


def test_pods_of_a_node_that_is_not_there_are_left_out() -> None:
    assert desired(backend(1), zones={"node-1": None}) == []
    assert len(desired(backend(1), zones={"node-1": None}, publishNotReadyAddresses=True)) == 1


def test_two_families_are_two_slices() -> None:
    dual = backend(1)
    dual = type(dual)(
        **{**{name: getattr(dual, name) for name in dual.__struct_fields__}, "addresses": ("10.1.0.1", "fd00::1")}
    )
    found = desired(dual, backend(2), ipFamilies=["IPv4", "IPv6"])
    assert [(key[0], len(endpoints)) for key, endpoints in found] == [("IPv4", 2), ("IPv6", 1)]


def test_what_lets_an_address_go_is_written_before_what_takes_it() -> None:
    """Another pod may have got the address that one had that is gone: no watcher must see it twice."""
    wanted = service()
    wanted.default()
    wanted.raw["metadata"]["uid"] = "u"

    def found(name: str, *pods: Any) -> EndpointSlice:
        ((key, endpoints),) = endpoints_of(wanted, pods, {"node-1": ""}).items()
        ports = [{"name": "", "port": 80, "protocol": "TCP"}]
        assert set_of({"addressType": "IPv4", "ports": ports}) == key
        raw = {"metadata": {"name": name, "namespace": "default"}, "addressType": "IPv4", "ports": ports}
        return EndpointSlice.from_raw({**raw, "endpoints": [*endpoints.values()]})

    existing = [found("a", backend(1), backend(2)), found("b", backend(3))]
    steps = plan(wanted, endpoints_of(wanted, [backend(2), backend(3), backend(4)], {"node-1": ""}), existing, 2)
    assert [(step.phase.name, step.old.name if step.old else "") for step in steps] == [("SHRINK", "a"), ("GROW", "b")]
    steps = plan(wanted, endpoints_of(wanted, [backend(3), backend(4)], {"node-1": ""}), existing, 2)
    assert [step.phase.name for step in steps][:1] == ["SHRINK"]


async def test_what_a_slice_may_say(store: Client) -> None:
    client = ObjectClient(store)
    raw = {"metadata": {"name": "a", "namespace": "default"}, "addressType": "IPv4", "endpoints": []}
    made = await client.create(EndpointSlice.from_raw(raw))
    made.raw["addressType"] = "IPv6"
    with pytest.raises(Invalid, match="addressType"):
        await client.update(made)
    for change, problem in (
        ({"addressType": "IPX"}, "addressType"),
        ({"endpoints": [{"addresses": []}]}, r"endpoints\[0\].addresses"),
        ({"endpoints": [{"addresses": ["1.1.1.1"]}] * 1_001}, "endpoints: expected 1000"),
    ):
        with pytest.raises(Invalid, match=problem):
            await client.create(EndpointSlice.from_raw({**raw, **change}))


def test_the_judge_sees_what_is_told_twice() -> None:
    wanted = service()
    wanted.default()
    ((_, found),) = endpoints_of(wanted, [backend(1)], {"node-1": ""}).items()
    each = {"metadata": {"name": "a"}, "endpoints": [*found.values()]}
    with pytest.raises(AssertionError, match="told twice"):
        slices_listed([each, each])
