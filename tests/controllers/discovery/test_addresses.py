"""What Services are given: addresses and node ports."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from controllers.core.types import Service
from controllers.discovery.addresses import NETWORK
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster
from tests.controllers.discovery.services import service

pytestmark = pytest.mark.virtual_time


async def of(it: Cluster, name: str) -> Service:
    return await it.client.get(Service, name, "default")


async def test_each_service_gets_an_address_of_its_own_and_keeps_it(store: Client) -> None:
    async with cluster(store) as it:
        await asyncio.gather(*(it.client.create(service(f"s{number}")) for number in range(50)))
        await it.client.create(service("headless", clusterIP="None"))
        await it.client.create(service("chosen", clusterIP="10.96.0.10"))
        await it.client.create(service("elsewhere", type="ExternalName", externalName="example.com"))
        await asyncio.sleep(5)
        found = {each.name: each for each in await it.client.list(Service, "default")}
        given = [found[f"s{number}"].spec.cluster_ip for number in range(50)]
        assert len({*given, "10.96.0.10"}) == 51
        assert all(ipaddress.ip_address(each) in NETWORK for each in given)
        assert found["s0"].raw["spec"]["clusterIPs"] == [given[0]]
        assert found["s0"].raw["spec"]["ipFamilies"] == ["IPv4"]
        assert found["headless"].spec.cluster_ip == "None"
        assert found["chosen"].spec.cluster_ip == "10.96.0.10"
        assert found["elsewhere"].spec.cluster_ip == ""
        await it.client.apply(service("s0"))
        await asyncio.sleep(5)
        assert (await of(it, "s0")).spec.cluster_ip == given[0]
    # The same name gets the same address, unless it is taken.
    async with cluster(store) as it:
        await it.client.delete(Service, "s0", "default")
        await it.client.create(service("thief", clusterIP=given[1]))
        await it.client.delete(Service, "s1", "default")
        await asyncio.sleep(5)
        await it.client.create(service("s0"))
        await it.client.create(service("s1"))
        await asyncio.sleep(5)
        assert (await of(it, "s0")).spec.cluster_ip == given[0]
        assert (await of(it, "s1")).spec.cluster_ip not in ("", given[1])


async def test_node_ports_come_and_go_with_the_type(store: Client) -> None:
    async with cluster(store) as it:
        ports = [{"port": 80, "name": "http"}, {"port": 443, "name": "tls", "nodePort": 30_001}]
        await it.client.create(service("a", type="NodePort", ports=ports))
        await it.client.create(service("b", type="LoadBalancer"))
        await asyncio.sleep(5)
        given = [port.node_port for port in (await of(it, "a")).spec.ports]
        given += [port.node_port for port in (await of(it, "b")).spec.ports]
        assert given[1] == 30_001
        assert len(set(given)) == 3
        assert all(each is not None and 30_000 <= each <= 32_767 for each in given)
        await it.client.patch(Service, "a", {"spec": {"type": "ClusterIP"}}, "default")
        await asyncio.sleep(5)
        assert [port.node_port for port in (await of(it, "a")).spec.ports] == [None, None]
        change = {"spec": {"type": "ExternalName", "externalName": "example.com"}}
        await it.client.patch(Service, "b", change, "default")
        await asyncio.sleep(5)
        assert (await of(it, "b")).spec.cluster_ip == ""
