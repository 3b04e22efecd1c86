"""ResourceQuotas: what a namespace may use, charged before an object is created, counted again when one goes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import structlog

from controllers.admission import StoreLookups, add_builtin_admission
from controllers.apps.types import Deployment
from controllers.core.limits import ResourceQuota
from controllers.core.types import ConfigMap, PersistentVolumeClaim, Pod, Service
from controllers.core.usage import matches_scopes, pod_total, unspecified, usage_of
from informer.admission import Admission
from informer.client import ObjectClient
from informer.errors import AlreadyExists, Forbidden, Invalid
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, nginx, virtual_now

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"nodes": 1, "pod_start_delay": 0.1, "pod_ready_delay": 0, "pod_delete_delay": 0.1}
Raw = dict[str, Any]


def quota(name: str = "room", **spec: Any) -> ResourceQuota:
    return ResourceQuota.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": spec})


def pod(name: str = "web", *, requests: Raw | None = None, limits: Raw | None = None, **spec: Any) -> Pod:
    resources = {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
    container = {"name": "web", "image": "nginx:1", "resources": resources}
    return Pod.from_raw(
        {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [container], **spec}}
    )


async def enforced(it: Cluster, obj: ResourceQuota) -> None:
    """Create it, and wait until it is counted."""
    await it.client.create(obj)

    async def counted() -> bool:
        return bool((await it.client.get(ResourceQuota, obj.name)).status.hard)

    await it.until(counted)
    cache = it.manager.informer(ResourceQuota).cache
    await cache.wait_for((await it.client.get(ResourceQuota, obj.name)).metadata.resource_version or "")


async def used(it: Cluster, name: str = "room") -> Raw:
    found: Raw = (await it.client.get(ResourceQuota, name)).raw["status"]["used"]
    return found


async def until_used(it: Cluster, expected: Raw) -> None:
    async def so() -> bool:
        return await used(it) == expected

    await it.until(so, 30)


async def refused(it: Cluster, obj: Any) -> str:
    with pytest.raises(Forbidden) as error:
        await it.manager.client.create(obj)
    return str(error.value)


async def test_there_is_room_for_as_many_as_it_says(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "2", "count/configmaps": 1}))
        assert (await it.client.get(ResourceQuota, "room")).raw["status"] == {
            "hard": {"pods": "2", "count/configmaps": 1},
            "used": {"count/configmaps": "0", "pods": "0"},
        }
        await it.manager.client.create(pod("one"))
        await it.manager.client.create(pod("two"))
        assert await used(it) == {"count/configmaps": "0", "pods": "2"}
        assert await refused(it, pod("three")) == (
            'pods "three" is forbidden: exceeded quota: room, requested: pods=1, used: pods=2, limited: pods=2'
        )
        await it.manager.client.create(ConfigMap(name="one"))
        assert "exceeded quota: room, requested: count/configmaps=1" in await refused(it, ConfigMap(name="two"))
        await it.client.delete(Pod, "one", grace_seconds=0)
        await until_used(it, {"count/configmaps": "1", "pods": "1"})
        await it.manager.client.create(pod("three"))


async def test_creates_that_wait_together_are_charged_together_and_never_too_many(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "5"}))
        writes = it.manager.statistics().requests["PUT"]["200"]
        made = await asyncio.gather(
            *(it.manager.client.create(pod(f"web-{number}")) for number in range(20)), return_exceptions=True
        )
        assert sum(isinstance(each, Pod) for each in made) == 5
        assert all(isinstance(each, Pod | Forbidden) for each in made)
        assert await used(it) == {"pods": "5"}
        charges = it.manager.statistics().requests["PUT"]["200"] - writes
        assert charges < 5


async def test_two_processes_never_give_away_the_same_room(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "3"}))
        clients = []
        for number in range(3):
            admission = Admission()
            plain = ObjectClient(store, now=virtual_now, rng=random.Random(number))
            add_builtin_admission(admission, StoreLookups(plain))
            clients.append(ObjectClient(store, now=virtual_now, rng=random.Random(number + 10), admission=admission))
        made = await asyncio.gather(
            *(client.create(pod(f"web-{place}")) for place, client in enumerate(clients * 3)), return_exceptions=True
        )
        assert sum(isinstance(each, Pod) for each in made) == len((await it.client.list(Pod)).items) == 3


async def test_compute_has_to_be_specified_once_it_is_limited(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        hard = {"requests.cpu": "1", "limits.memory": "1Gi", "memory": "2Gi"}
        await enforced(it, quota(hard=hard))
        assert await refused(it, pod()) == (
            'pods "web" is forbidden: failed quota: room: must specify limits.memory for: web; memory for: web; '
            "requests.cpu for: web"
        )
        fits = {"requests": {"cpu": "400m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}
        await it.manager.client.create(pod("one", **fits))
        assert await used(it) == {"limits.memory": "512Mi", "memory": "512Mi", "requests.cpu": "400m"}
        await it.manager.client.create(pod("two", **fits))
        assert await refused(it, pod("three", **fits)) == (
            'pods "three" is forbidden: exceeded quota: room, requested: limits.memory=512Mi,requests.cpu=400m, '
            "used: limits.memory=1Gi,requests.cpu=800m, limited: limits.memory=1Gi,requests.cpu=1"
        )


async def test_what_has_ended_uses_nothing(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "1"}))
        await it.manager.client.create(pod("one", restartPolicy="Never"))
        await it.client.patch(Pod, "one", {"status": {"phase": "Succeeded"}}, subresource="status")
        await until_used(it, {"pods": "0"})
        await it.manager.client.create(pod("two"))


async def test_what_was_charged_and_not_created_is_given_back(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(pod("one"))
        await enforced(it, quota(hard={"count/pods": "2"}))
        with pytest.raises(AlreadyExists):
            await it.manager.client.create(pod("one"))
        assert await used(it) == {"count/pods": "2"}
        await until_used(it, {"count/pods": "1"})


async def test_an_old_etcd_does_not_keep_a_quota_from_being_counted(
    store: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose answers to progress requests are worth nothing: the cache of claims stays at its revision."""
    monkeypatch.setattr("informer.listwatch.orders_progress", lambda version: False)
    async with cluster(store, **FAST) as it:
        await it.client.create(pod("one"))
        async with asyncio.timeout(5):
            await enforced(it, quota(hard={"pods": "9", "persistentvolumeclaims": "9"}))
        assert await used(it) == {"pods": "1", "persistentvolumeclaims": "0"}


async def test_a_quota_that_shrinks_takes_nothing_away(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "2"}))
        await it.manager.client.create(pod("one"))
        await it.manager.client.create(pod("two"))
        await it.client.patch(ResourceQuota, "room", {"spec": {"hard": {"pods": "1"}}}, "default")

        async def follows() -> bool:
            return (await it.client.get(ResourceQuota, "room")).status.hard == {"pods": "1"}

        await it.until(follows)
        assert await used(it) == {"pods": "2"}
        assert len((await it.client.list(Pod)).items) == 2


async def test_a_deployment_comes_to_rest_at_its_quota_and_goes_on_when_there_is_room(store: Client) -> None:
    # Each failing run is logged with its traceback, which takes its time to draw.
    with structlog.testing.capture_logs():
        await _come_to_rest(store)


async def _come_to_rest(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"pods": "2"}))
        await it.client.create(nginx(replicas=4))

        async def told() -> bool:
            return any(each.type == "ReplicaFailure" for rs in await it.replica_sets() for each in rs.status.conditions)

        await it.until(told)
        assert len(await it.pods()) == 2
        (failure,) = (each for each in (await it.replica_sets())[0].status.conditions if each.type == "ReplicaFailure")
        assert "is forbidden: exceeded quota: room, requested: pods=1, used: pods=2, limited: pods=2" in failure.message
        await it.client.patch(ResourceQuota, "room", {"spec": {"hard": {"pods": "10"}}}, "default")
        await it.rolled_out()


async def test_claims_and_services_count_for_what_they_ask_for(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        hard = {
            "requests.storage": "10Gi",
            "persistentvolumeclaims": 5,
            "services.nodeports": 1,
            "fast.storageclass.storage.k8s.io/requests.storage": "1Gi",
        }
        await enforced(it, quota(hard=hard))

        def claim(name: str, size: str, **spec: Any) -> PersistentVolumeClaim:
            wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, **spec}
            return PersistentVolumeClaim.from_raw({"metadata": {"name": name, "namespace": "default"}, "spec": wanted})

        await it.manager.client.create(claim("one", "6Gi"))
        assert "requested: requests.storage=6Gi, used: requests.storage=6Gi" in await refused(it, claim("two", "6Gi"))
        assert "fast.storageclass" in await refused(it, claim("two", "2Gi", storageClassName="fast"))
        port = {"port": 80}
        service = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"type": "NodePort", "ports": [port]}}
        await it.manager.client.create(Service.from_raw(service))
        found = await it.manager.client.get(Service, "web", "default")
        found.raw["spec"]["ports"] = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
        with pytest.raises(Forbidden, match=r"exceeded quota: room, requested: services\.nodeports=1"):
            await it.manager.client.update(found)


async def test_any_kind_can_be_counted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await enforced(it, quota(hard={"count/deployments.apps": "1"}))
        await it.manager.client.create(nginx("one", replicas=0))
        assert "exceeded quota" in await refused(it, nginx("two", replicas=0))
        await it.client.delete(Deployment, "one", "default")
        await until_used(it, {"count/deployments.apps": "0"})


def test_scopes_say_which_pods_count() -> None:
    busy = pod(requests={"cpu": "1"})
    brief = pod(activeDeadlineSeconds=5)
    dear = pod(priorityClassName="high")
    expression = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    for spec, counted in (
        ({"scopes": ["BestEffort"]}, [False, True, True]),
        ({"scopes": ["NotBestEffort"]}, [True, False, False]),
        ({"scopes": ["Terminating"]}, [False, True, False]),
        ({"scopes": ["NotTerminating"]}, [True, False, True]),
        ({"scopes": ["BestEffort", "Terminating"]}, [False, True, False]),
        ({"scopeSelector": {"matchExpressions": [expression]}}, [False, False, True]),
        ({"scopeSelector": {"matchExpressions": [{**expression, "operator": "NotIn"}]}}, [True, True, False]),
    ):
        found = [matches_scopes(quota(hard={}, **spec), Pod.TYPE, each.raw) for each in (busy, brief, dear)]
        assert found == counted, spec
    assert not matches_scopes(quota(hard={}, scopes=["BestEffort"]), ConfigMap.TYPE, {})


def test_init_containers_count_by_the_largest_and_those_that_stay_with_the_others() -> None:
    def container(name: str, cpu: str, **more: Any) -> Raw:
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "containers": [container("a", "1"), container("b", "500m")],
        "initContainers": [container("first", "2"), container("beside", "100m", restartPolicy="Always")],
    }
    assert pod_total(spec, "requests") == {"cpu": 2000}
    spec["initContainers"].append(container("third", "3"))
    assert pod_total(spec, "requests") == {"cpu": 3100}
    assert pod_total({**spec, "overhead": {"cpu": "1"}}, "requests") == {"cpu": 4100}
    assert usage_of(Pod.TYPE, {"spec": {"containers": []}, "status": {"phase": "Failed"}}) == {"count/pods": 1000}


def test_what_a_pod_asks_for_as_a_whole_counts_instead_of_its_containers() -> None:
    made = pod(requests={"cpu": "1", "memory": "1Gi"})
    made.raw["spec"]["resources"] = {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}
    spec = made.raw["spec"]
    assert pod_total(spec, "requests") == {"cpu": 3000, "memory": 1000 << 30}
    assert pod_total(spec, "limits") == {"cpu": 4000}
    assert unspecified(spec, ["requests.cpu", "limits.cpu"]) == ""
    spec["containers"][0]["resources"] = {}
    assert not matches_scopes(quota(hard={}, scopes=["BestEffort"]), Pod.TYPE, made.raw)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"hard": {"pods": "-1"}}, "spec.hard[pods]"),
        ({"hard": {"pods": "many"}}, "spec.hard[pods]"),
        ({"hard": {}, "scopes": ["BestEffort", "NotBestEffort"]}, "spec.scopes"),
        ({"hard": {"requests.cpu": 1}, "scopes": ["BestEffort"]}, "spec.scopes"),
        ({"hard": {"configmaps": 1}, "scopes": ["Terminating"]}, "spec.scopes"),
        (
            {"hard": {}, "scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}]}},
            "spec.scopeSelector.matchExpressions[0].values",
        ),
    ],
)
async def test_what_makes_no_sense_is_refused(store: Client, spec: Raw, path: str) -> None:
    with pytest.raises(Invalid) as error:
        await ObjectClient(store, now=virtual_now).create(quota(**spec))
    assert error.value.path == path
