"""The Endpoints controller, a test a rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers.core.types import Node, Pod, Service
from controllers.discovery.backends import Backend, Backends
from controllers.discovery.endpoints import OVER_CAPACITY, EndpointsController, subsets_of, truncate
from controllers.discovery.types import Endpoints
from controllers.manager import Manager
from informer.resources import Resource
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, nginx, virtual_now
from tests.controllers.discovery.services import endpoints, endpoints_listed, service, settled, slices

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"pod_start_delay": 0, "pod_ready_delay": 0}


def backend(number: int, *, ready: bool = True, terminating: bool = False, **fields: Any) -> Backend:
    given = {"hostname": "", "subdomain": "", "ports": (("http", "TCP", 8080),), "node": "node-1", **fields}
    ip = f"10.1.{number >> 8}.{number & 255}"
    return Backend(
        name=f"web-{number}", uid=f"uid-{number:05}", addresses=(ip,), ready=ready, terminating=terminating, **given
    )


def made(*backends: Backend, **spec: Any) -> list[dict[str, Any]]:
    wanted = service(**spec)
    wanted.default()
    return subsets_of(wanted, backends)


async def gone(it: Cluster, cls: type[Resource], name: str) -> None:
    async def away() -> bool:
        return not await it.exists(cls, name)

    await it.until(away)


async def test_the_pods_of_a_selector_are_listed_and_those_that_go_are_not(store: Client) -> None:
    async with cluster(store) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=3))
        await it.rolled_out()
        await settled(it)
        found = await endpoints(it)
        (subset,) = found["subsets"]
        assert subset["ports"] == [{"port": 80, "protocol": "TCP"}]
        assert len(subset["addresses"]) == 3
        assert "notReadyAddresses" not in subset
        pods = {pod.raw["status"]["podIP"]: pod for pod in await it.pods()}
        for address in subset["addresses"]:
            pod = pods[address["ip"]]
            assert address["nodeName"] == pod.spec.node_name
            target = {"kind": "Pod", "namespace": "default", "name": pod.name, "uid": pod.metadata.uid}
            assert address["targetRef"] == target
        assert [address["ip"] for address in subset["addresses"]] == sorted(pods)
        assert found["metadata"]["labels"]["team"] == "blue"
        await it.scale(1)
        await it.rolled_out()
        await settled(it)
        assert len((await endpoints(it))["subsets"][0]["addresses"]) == 1
        await it.client.delete(Service, "web", "default")
        await gone(it, Endpoints, "web")


async def test_pods_that_are_not_ready_stand_apart_or_not(store: Client) -> None:
    async with cluster(store, pod_start_delay=0.1, pod_ready_delay=1000.0) as it:
        await it.client.create(service())
        await it.client.create(service("early", publishNotReadyAddresses=True))
        await it.apply(nginx(replicas=2))

        async def listed() -> bool:
            subsets = (await endpoints(it))["subsets"]
            return bool(subsets) and len(subsets[0].get("notReadyAddresses", ())) == 2

        await it.until(listed)
        await settled(it)
        assert "addresses" not in (await endpoints(it))["subsets"][0]
        assert len((await endpoints(it, "early"))["subsets"][0]["addresses"]) == 2


async def test_services_without_selector_and_names_for_other_hosts_are_left_alone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service("manual", {}))
        await it.client.create(service("elsewhere", type="ExternalName", externalName="example.com"))
        own = {"metadata": {"name": "manual", "namespace": "default"}, "subsets": [{"addresses": [{"ip": "1.2.3.4"}]}]}
        await it.client.create(Endpoints.from_raw(own))
        await it.apply(nginx(replicas=1))
        await it.rolled_out()
        await asyncio.sleep(60)
        assert (await endpoints(it, "manual"))["subsets"] == own["subsets"]
        assert not await it.exists(Endpoints, "elsewhere")
        assert not await slices(it, "manual")
        # What a user made stays when the Service goes.
        await it.client.delete(Service, "manual", "default")
        await asyncio.sleep(60)
        assert await it.exists(Endpoints, "manual")


async def test_nothing_is_written_when_only_versions_of_pods_change(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=2))
        await it.rolled_out()
        await settled(it)
        before = [(await endpoints(it))["metadata"]["resourceVersion"]]
        before += [each["metadata"]["resourceVersion"] for each in await slices(it)]
        for pod in await it.pods():
            await it.client.patch(Pod, pod.name, {"metadata": {"annotations": {"seen": "yes"}}}, "default")
        await asyncio.sleep(60)
        after = [(await endpoints(it))["metadata"]["resourceVersion"]]
        after += [each["metadata"]["resourceVersion"] for each in await slices(it)]
        assert after == before


async def test_what_others_change_is_put_right(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=2))
        await it.rolled_out()
        await settled(it)
        await it.client.patch(Endpoints, "web", {"subsets": None}, "default")
        await settled(it)
        await it.client.delete(Endpoints, "web", "default")
        await settled(it)
        await it.client.patch(Service, "web", {"metadata": {"labels": {"team": "red"}}}, "default")

        async def labelled() -> bool:
            every = [await endpoints(it), *await slices(it)]
            return all(each["metadata"]["labels"]["team"] == "red" for each in every)

        await it.until(labelled)


async def test_a_pod_that_changes_its_labels_changes_sides(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(service("blue", {"app": "nginx", "side": "blue"}))
        await it.client.create(service("green", {"side": "green", "app": "nginx"}))
        pod = nginx().raw["spec"]["template"]
        for number in range(2):
            raw = {**pod, "metadata": {"name": f"p{number}", "labels": {"app": "nginx", "side": "blue"}}}
            await it.client.create(Pod.from_raw(raw))
        await settled(it)
        await it.client.patch(Pod, "p1", {"metadata": {"labels": {"side": "green"}}}, "default")

        async def moved() -> bool:
            return len(endpoints_listed(await endpoints(it, "green"))) == 1

        await it.until(moved)
        await settled(it)
        assert len(endpoints_listed(await endpoints(it, "blue"))) == 1


async def test_a_pod_on_a_dead_node_is_not_ready(store: Client) -> None:
    async with cluster(store, nodes=2, node_grace=8.0, eviction_after=1e6, **FAST) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=4))
        await it.rolled_out()
        await settled(it)
        it.workloads.nodes.kill("node-2")

        async def halved() -> bool:
            subset = (await endpoints(it))["subsets"][0]
            return {each["nodeName"] for each in subset.get("notReadyAddresses", ())} == {"node-2"}

        await it.until(halved)
        await settled(it)
        assert await it.exists(Node, "node-2")


def test_named_ports_are_those_of_each_pod() -> None:
    old, new = backend(1), backend(2, ports=(("http", "TCP", 9090),))
    neither = backend(3, ports=(("http", "UDP", 53),))
    ports = [{"port": 80, "name": "web", "targetPort": "http"}, {"port": 443, "name": "tls"}]
    found = made(new, old, neither, ports=ports)
    assert [([each["ip"] for each in subset["addresses"]], subset["ports"]) for subset in found] == [
        (["10.1.0.3"], [{"port": 443, "protocol": "TCP", "name": "tls"}]),
        (
            ["10.1.0.1"],
            [{"port": 8080, "protocol": "TCP", "name": "web"}, {"port": 443, "protocol": "TCP", "name": "tls"}],
        ),
        (
            ["10.1.0.2"],
            [{"port": 9090, "protocol": "TCP", "name": "web"}, {"port": 443, "protocol": "TCP", "name": "tls"}],
        ),
    ]
    # A pod that has none of the ports is in none of the subsets.
    assert made(neither, ports=[{"port": 80, "targetPort": "http"}]) == []


def test_pods_that_are_being_deleted_are_listed_only_where_readiness_does_not_count() -> None:
    assert made(backend(1, terminating=True)) == []
    (subset,) = made(backend(1, terminating=True, ready=False), publishNotReadyAddresses=True)
    assert [each["ip"] for each in subset["addresses"]] == ["10.1.0.1"]


def test_a_headless_service_needs_no_ports_and_names_its_pods() -> None:
    named, other = backend(1, hostname="db-0", subdomain="web"), backend(2, hostname="db-1", subdomain="other")
    (subset,) = made(named, other, clusterIP="None", ports=[])
    assert "ports" not in subset
    assert [each.get("hostname") for each in subset["addresses"]] == ["db-0", None]


def test_a_thousand_addresses_at_the_most_ready_ones_first() -> None:
    subsets = made(*(backend(number, ready=number < 900) for number in range(1_100)))
    assert truncate(subsets)
    assert (len(subsets[0]["addresses"]), len(subsets[0]["notReadyAddresses"])) == (900, 100)
    subsets = made(*(backend(number, ready=number < 1_050) for number in range(1_100)))
    assert truncate(subsets)
    assert len(subsets[0]["addresses"]) == 1_000
    assert "notReadyAddresses" not in subsets[0]
    # Each subset its share, rounded up; the last gets what is left.
    pods = [backend(number, ports=(("http", "TCP", 8000 + number % 3),)) for number in range(1_500)]
    subsets = made(*pods, ports=[{"port": 80, "targetPort": "http"}])
    assert truncate(subsets)
    assert [len(subset["addresses"]) for subset in subsets] == [334, 334, 332]
    assert not truncate(subsets)


async def test_a_rollout_of_many_pods_is_few_writes(store: Client) -> None:
    async with cluster(store, pod_start_delay=(0.0, 1.0), pod_ready_delay=(0.0, 1.0)) as it:
        await it.client.create(service())
        await it.apply(nginx(replicas=100))
        await asyncio.sleep(10)
        await settled(it, 100)
        # 200 changes within 2 s, and a rest of 50 ms after a run for all the pods.
        runs = [it.manager.controller(name).statistics().reconciles for name in ("endpoints", "endpointslice")]
        assert max(runs) < 100


async def test_what_is_left_out_is_told(store: Client) -> None:
    manager = Manager(client=store, now=virtual_now)
    backends = Backends(manager)
    backends.register()
    EndpointsController(manager, manager.events, backends, capacity=2).register()
    async with manager:
        client = manager.client
        await client.create(service())
        for number in range(3):
            raw = nginx().raw["spec"]["template"]
            pod = await client.create(Pod.from_raw({**raw, "metadata": {**raw["metadata"], "name": f"p{number}"}}))
            pod.raw["status"] = {"podIP": f"10.1.0.{number}", "conditions": [{"type": "Ready", "status": "True"}]}
            await client.update_status(pod)
        await asyncio.sleep(1)
        found = await client.get(Endpoints, "web", "default")
        assert found.metadata.annotations == {OVER_CAPACITY: "truncated"}
        assert len(found.subsets[0].addresses) == 2
        await client.delete(Pod, "p0", "default")
        await asyncio.sleep(1)
        found = await client.get(Endpoints, "web", "default")
        assert found.metadata.annotations == {}
        assert [each.ip for each in found.subsets[0].addresses] == ["10.1.0.1", "10.1.0.2"]
