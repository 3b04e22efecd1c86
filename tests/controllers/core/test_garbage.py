"""The garbage collector: the graph as a core, and what it does on a whole cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controllers.apps.types import Deployment, ReplicaSet
from controllers.core.garbage import Graph
from controllers.core.types import ConfigMap, Event, Node, Pod
from informer import patch
from informer.cache import Cache
from informer.client import Propagation
from informer.crd import CustomResourceDefinition
from informer.listwatch import Item
from informer.resources import OwnerReference, Resource, ResourceType
from kvstore.api import Client
from tests.controllers.cluster import Cluster, cluster, nginx

virtual_time = pytest.mark.virtual_time


def config(name: str, *owners: Resource, **fields: Any) -> ConfigMap:
    made = ConfigMap(name=name, namespace="default", **fields)
    made.metadata.owner_references = [reference(owner) for owner in owners]
    return made


def reference(owner: Resource, uid: str | None = None, *, block: bool = False) -> OwnerReference:
    found = OwnerReference(
        api_version=owner.TYPE.api_version, kind=owner.TYPE.kind, name=owner.name, uid=uid or owner.metadata.uid
    )
    if block:
        found.block_owner_deletion = True
    return found


async def gone(it: Cluster, *names: str, cls: type[Resource] = ConfigMap) -> None:
    async def all_gone() -> bool:
        return not any([await it.exists(cls, name) for name in names])

    await it.until(all_gone)


@virtual_time
async def test_a_deployment_takes_all_that_is_its_own_with_it(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.apply(nginx("other"))
        await it.rolled_out()
        await it.rolled_out("other")
        await it.client.delete(Deployment, "nginx", "default")

        async def collected() -> bool:
            return not await it.pods(app="nginx") and len(await it.replica_sets()) == 1

        await it.until(collected)
        await asyncio.sleep(600)
        assert len(await it.pods(app="other")) == 3


@virtual_time
async def test_an_object_goes_only_when_its_last_owner_is_gone(store: Client) -> None:
    async with cluster(store) as it:
        first, second = await it.client.create(config("first")), await it.client.create(config("second"))
        await it.client.create(config("child", first, second))
        await it.client.delete(ConfigMap, "first", "default")

        async def released() -> bool:
            child = await it.client.get(ConfigMap, "child", "default")
            return [owner.name for owner in child.metadata.owner_references] == ["second"]

        await it.until(released)
        await it.client.delete(ConfigMap, "second", "default")
        await gone(it, "child")


@virtual_time
async def test_an_owner_that_never_was_or_was_made_anew_does_not_count(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        child = config("child")
        child.metadata.owner_references = [reference(owner, uid="11111111-1111-4111-8111-111111111111")]
        await it.client.create(child)
        await gone(it, "child")
        assert await it.exists(ConfigMap, "owner")


@virtual_time
async def test_who_comes_late_to_an_owner_that_is_gone_goes_too(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        kept = config("kept", owner)
        kept.metadata.finalizers = ["example.com/kept"]
        await it.client.create(kept)
        await it.client.delete(ConfigMap, "owner", "default")
        await asyncio.sleep(60)
        assert (await it.client.get(ConfigMap, "kept", "default")).deleting
        await it.client.create(config("late", owner))
        await gone(it, "late")


@virtual_time
async def test_an_owner_of_an_unknown_kind_keeps_its_dependents(store: Client) -> None:
    async with cluster(store) as it:
        child = config("child")
        strange = OwnerReference(api_version="example.com/v1", kind="Strange", name="it", uid="u-1")
        child.metadata.owner_references = [strange]
        await it.client.create(child)
        await asyncio.sleep(600)
        assert await it.exists(ConfigMap, "child")


@virtual_time
async def test_a_kind_that_another_process_defines_is_learned(store: Client) -> None:
    """The definition comes while the collector runs; its class is in no registry here."""
    made = Resource.of(ResourceType("example.com", "v1", "Site", "sites"))
    definition = CustomResourceDefinition(
        name="sites.example.com",
        spec={
            "group": "example.com",
            "names": {"kind": "Site", "plural": "sites", "singular": "site"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {}}],
        },
    )
    async with cluster(store) as it:
        site = await it.client.create(made(name="blog", namespace="default"))
        await it.client.create(config("early", site))
        await asyncio.sleep(5)
        await it.client.create(definition)
        await it.client.create(config("late", site))
        await it.client.create(config("never", site, data={"k": "v"}))
        await asyncio.sleep(600)
        assert await it.exists(ConfigMap, "early")
        await it.client.delete(made, "blog", "default")
        await gone(it, "early", "late", "never")


@virtual_time
async def test_garbage_that_arose_while_nobody_collected_is_found_at_the_start(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
    client = it.client
    await client.delete(Deployment, "nginx", "default")
    assert (await client.list(ReplicaSet, "default")).items
    async with cluster(store) as it:

        async def collected() -> bool:
            return not await it.pods() and not await it.replica_sets()

        await it.until(collected)


@virtual_time
async def test_foreground_deletion_waits_for_dependents_that_block(store: Client) -> None:
    async with cluster(store, pod_delete_delay=20.0) as it:
        await it.apply(nginx())
        await it.rolled_out()
        await it.client.delete(Deployment, "nginx", "default", propagation="foreground")
        await asyncio.sleep(5)
        deployment = await it.deployment()
        assert deployment.deleting
        assert deployment.metadata.finalizers == ["foregroundDeletion"]
        assert all(pod.deleting for pod in await it.pods())
        await gone(it, "nginx", cls=Deployment)
        assert await it.pods() == []
        assert await it.replica_sets() == []


@virtual_time
async def test_foreground_deletion_does_not_wait_for_others(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        kept = config("kept", owner)
        kept.metadata.finalizers = ["example.com/wait"]
        await it.client.create(kept)
        await it.client.delete(ConfigMap, "owner", "default", propagation="foreground")
        await gone(it, "owner")
        assert await it.exists(ConfigMap, "kept")


@virtual_time
async def test_two_that_block_each_other_can_both_go(store: Client) -> None:
    async with cluster(store) as it:
        first = await it.client.create(config("first"))
        second = config("second")
        second.metadata.owner_references = [reference(first, block=True)]
        second = await it.client.create(second)
        first.metadata.owner_references = [reference(second, block=True)]
        await it.client.update(first)
        await asyncio.sleep(1)
        await it.client.delete(ConfigMap, "first", "default", propagation="foreground")
        await gone(it, "first", "second")


@virtual_time
async def test_orphaning_lets_dependents_go_free(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        await it.client.create(config("child", owner))
        await asyncio.sleep(1)
        await it.client.delete(ConfigMap, "owner", "default", propagation="orphan")
        await gone(it, "owner")
        await asyncio.sleep(60)
        child = await it.client.get(ConfigMap, "child", "default")
        assert child.metadata.owner_references == []


@virtual_time
@pytest.mark.parametrize("propagation", ["foreground", "orphan"])
async def test_an_old_etcd_does_not_keep_an_owner(
    store: Client, propagation: Propagation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose answers to progress requests are worth nothing: caches of quiet kinds stay at their revisions."""
    monkeypatch.setattr("informer.listwatch.orders_progress", lambda version: False)
    async with cluster(store) as it:
        await it.client.create(config("owner"))
        await asyncio.sleep(1)
        await it.client.delete(ConfigMap, "owner", "default", propagation=propagation)
        async with asyncio.timeout(5):
            await gone(it, "owner")


@virtual_time
async def test_a_cluster_scoped_object_cannot_belong_to_one_in_a_namespace(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        node = Node(name="owned")
        node.metadata.owner_references = [reference(owner)]
        await it.client.create(node)
        await it.client.delete(ConfigMap, "owner", "default")

        async def told() -> bool:
            return bool(await it.events("OwnerRefInvalidNamespace"))

        await it.until(told)
        assert await it.client.get(Node, "owned")


@virtual_time
async def test_a_thousand_pods_go_with_their_deployment(store: Client) -> None:
    async with cluster(store, pod_start_delay=0, pod_ready_delay=0, pod_delete_delay=0) as it:
        await it.apply(nginx(replicas=1000))
        await it.rolled_out()
        await it.client.delete(Deployment, "nginx", "default")

        async def collected() -> bool:
            return not it.manager.informer(Pod).cache.list()

        await it.until(collected)
        it.workloads.garbage._graph._check()


class GraphMachine(RuleBasedStateMachine):
    """Objects come, change owners and go in any order, owners after their dependents too."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.cache = Cache()
        self.revision = 0
        self.there: dict[str, list[str]] = {}

    @rule(uid=st.sampled_from("abcde"), owners=st.lists(st.sampled_from("abcde"), unique=True, max_size=3))
    def observe(self, uid: str, owners: list[str]) -> None:
        references = [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": True}
            for owner in owners
            if owner != uid
        ]
        raw = {"metadata": {"uid": uid, "ownerReferences": references}}
        self.revision += 1
        (change,) = self.cache.apply([Item(f"default/{uid}", patch.encode(raw), str(self.revision))])
        assert change.new is not None
        self.graph.observe(ConfigMap, change.new)
        self.there[uid] = [each["uid"] for each in references if isinstance(each["uid"], str)]

    @rule(uid=st.sampled_from("abcde"))
    def remove(self, uid: str) -> None:
        if uid not in self.there:
            return
        found = self.graph.remove(uid)
        del self.there[uid]
        # Whoever named it has to be looked at.
        assert {child for child, owners in self.there.items() if uid in owners} <= set(found)

    @invariant()
    def agrees(self) -> None:
        self.graph._check()
        known = {uid for uid, node in self.graph.nodes.items() if not node.virtual}
        assert known == set(self.there)


TestGraph = GraphMachine.TestCase


@virtual_time
async def test_a_wrong_reference_says_nothing_of_the_owner_it_names(store: Client) -> None:
    async with cluster(store) as it:
        owner, other = await it.client.create(config("owner")), await it.client.create(config("other"))
        wrong = config("wrong", owner)
        wrong.metadata.owner_references[0].name = "nobody"
        await it.client.create(wrong)
        await gone(it, "wrong")
        # Looked at again, and in need of an owner that was once not found where it was said to be.
        await it.client.create(config("child", owner, other))
        await it.client.delete(ConfigMap, "other", "default")
        await asyncio.sleep(60)
        assert [each.name for each in (await it.client.get(ConfigMap, "child")).metadata.owner_references] == ["owner"]


@virtual_time
async def test_an_owner_in_another_namespace_is_none(store: Client) -> None:
    async with cluster(store) as it:
        owner = await it.client.create(config("owner"))
        child = config("child", owner)
        child.raw["metadata"]["namespace"] = "kube-public"
        await it.client.create(child)

        async def collected() -> bool:
            return not (await it.client.list(ConfigMap, "kube-public")).items

        await it.until(collected)
        assert await it.exists(ConfigMap, "owner")

        async def told() -> bool:
            return bool((await it.client.list(Event, "kube-public")).items)

        await it.until(told)
        (event,) = await it.client.list(Event, "kube-public")
        assert event.reason == "OwnerRefInvalidNamespace"
        assert event.message.endswith('does not exist in namespace "kube-public"')


@virtual_time
async def test_an_orphaning_that_was_called_off_takes_no_references_out(store: Client) -> None:
    async with cluster(store) as it:
        owner = config("owner", finalizers=["example.com/keep"])
        owner = await it.client.create(owner)
        await it.client.create(config("child", owner))
        await it.client.delete(ConfigMap, "owner", propagation="orphan")
        await it.client.delete(ConfigMap, "owner", propagation="background")
        await asyncio.sleep(60)
        assert [each.name for each in (await it.client.get(ConfigMap, "child")).metadata.owner_references] == ["owner"]
