"""Namespaces: what is in one goes with it, pods first, and nothing is created in it any more."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from controllers.admission import CachedLookups
from controllers.apps.types import Deployment
from controllers.batch.types import CronJob
from controllers.core.types import ConfigMap, Event, Namespace, Pod, Secret, Service
from informer.client import ObjectClient
from informer.errors import Forbidden, NamespaceTerminating, NotFound
from informer.resources import Resource, Scheme
from kvstore.api import Client, prefix_end
from tests.controllers.apps.daemonsets import daemon_set
from tests.controllers.apps.statefulsets import web
from tests.controllers.batch.jobs import cron_job
from tests.controllers.cluster import Cluster, cluster, history, nginx, virtual_now

pytestmark = pytest.mark.virtual_time

FAST: dict[str, Any] = {"nodes": 1, "pod_start_delay": 0.1, "pod_ready_delay": 0, "pod_delete_delay": (1.0, 1.0)}


class Widget(Resource, group="example.com", version="v1", scheme=Scheme()):
    """A kind that no process but this test knows."""


def shop(cls: type[Resource] = Deployment, **options: Any) -> Any:
    obj = nginx("web", **options) if cls is Deployment else cls(name="web")
    obj.raw["metadata"]["namespace"] = "shop"
    return obj


async def space(it: Cluster, name: str = "shop") -> Namespace:
    return await it.client.get(Namespace, name)


async def gone(it: Cluster, name: str = "shop") -> None:
    await it.until(lambda: _missing(it, name))


async def _missing(it: Cluster, name: str) -> bool:
    return not any(each.name == name for each in await it.client.list(Namespace))


async def left(it: Cluster, namespace: str = "shop") -> Sequence[str]:
    """The keys of all that is in a namespace."""
    from kvstore.api import Range

    registry = b"/registry/"
    found = await it.store.range(Range(registry, prefix_end(registry), keys_only=True))
    keys = [each.key.decode() for each in found.kvs]
    return [key for key in keys if f"/{namespace}/" in key]


async def pods_run(it: Cluster, count: int) -> None:
    async def running() -> bool:
        pods = (await it.client.list(Pod, "shop")).items
        return len(pods) == count and all(pod.ready for pod in pods)

    await it.until(running)


def conditions(namespace: Namespace) -> dict[str, tuple[str, str, str]]:
    return {each.type: (each.status, each.reason, each.message) for each in namespace.status.conditions}


async def test_a_new_one_is_active_and_kept_for_its_content(store: Client) -> None:
    client = ObjectClient(store, now=virtual_now, rng=random.Random(0))
    made = await client.create(Namespace(name="shop"))
    assert (made.spec.finalizers, made.raw["status"]) == (["kubernetes"], {"phase": "Active"})
    deleted = await client.delete(Namespace, "shop")
    assert deleted.object is not None
    assert (deleted.object.status.phase, deleted.object.spec.finalizers) == ("Terminating", ["kubernetes"])
    deleted.object.spec.finalizers = []
    await client.update(deleted.object)
    with pytest.raises(NotFound):
        await client.get(Namespace, "shop")


async def test_its_own_finalizers_keep_it_too(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop", finalizers=["example.com/keep"]))
        await it.client.delete(Namespace, "shop")

        async def emptied() -> bool:
            return not (await space(it)).spec.finalizers

        await it.until(emptied)
        await it.client.patch(Namespace, "shop", {"metadata": {"finalizers": None}})
        await gone(it)


async def test_the_four_of_the_system_are_made_and_cannot_be_deleted(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        names = {"default", "kube-system", "kube-public", "kube-node-lease"}

        async def made() -> bool:
            return {each.name for each in await it.client.list(Namespace)} == names

        await it.until(made)
        for name in names:
            with pytest.raises(Forbidden) as error:
                await it.manager.client.delete(Namespace, name)
            assert str(error.value) == f'namespaces "{name}" is forbidden: this namespace may not be deleted'
        # Somebody who asks nobody deletes one: it is made again.
        await it.store.delete(Namespace.TYPE.key(None, "kube-public"))
        await it.until(made)


async def test_no_controller_fails_over_one_that_goes(store: Client) -> None:
    with structlog.testing.capture_logs() as logs:
        async with cluster(store, **FAST) as it:
            await it.client.create(Namespace(name="shop"))
            service = shop(Service)
            service.raw["spec"] = {"selector": {"app": "nginx"}, "ports": [{"port": 80}]}
            for obj in (shop(replicas=3), service):
                await it.client.create(obj)
            await pods_run(it, 3)
            await it.client.delete(Namespace, "shop")
            await gone(it)
    assert [each for each in logs if each["log_level"] == "error"] == []


async def test_all_that_is_in_it_goes_with_it_and_nothing_is_made_in_it_meanwhile(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        cron = cron_job("* * * * *", run="30")
        cron.raw["metadata"]["namespace"] = "shop"
        for obj in (shop(replicas=3), shop(ConfigMap), shop(Secret), shop(Widget), cron):
            await it.client.create(obj)
        await pods_run(it, 3)
        await asyncio.sleep(90)
        assert await it.client.list(Event, "shop")
        deleted = await it.client.delete(Namespace, "shop")
        since = int(deleted.revision)
        await gone(it)
        assert await left(it) == []
        for revision in await history(it.store):
            made = [
                key
                for key in revision.changed
                if "/shop/" in key and key in revision.objects and revision.number > since
                if not revision.objects[key]["metadata"].get("deletionTimestamp")
            ]
            assert all("/pods/" in key or "status" in revision.objects[key] for key in made), made
        before = {key for each in await history(it.store) if each.number == since for key in each.objects}
        after = {key for each in await history(it.store) if each.number > since for key in each.objects}
        assert not [key for key in after - before if "/shop/" in key]


async def test_pods_go_before_what_they_may_need_to_end(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        await it.client.create(shop(replicas=1))
        await it.client.create(shop(ConfigMap))
        await pods_run(it, 1)
        await it.client.delete(Namespace, "shop")
        await gone(it)
        ends: dict[str, int] = {}
        before: set[str] = set()
        for revision in await history(it.store):
            for key in before - revision.objects.keys():
                ends[key.split("/")[3]] = revision.number
            before = {key for key in revision.objects if "/shop/" in key}
        assert ends["pods"] < min(ends["configmaps"], ends["deployments"], ends["replicasets"])


async def test_what_remains_is_told(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        kept = shop(ConfigMap)
        kept.metadata.finalizers = ["example.com/keep"]
        await it.client.create(kept)
        await it.client.delete(Namespace, "shop")

        async def told() -> bool:
            return bool(conditions(await space(it)))

        await it.until(told)
        assert conditions(await space(it)) == {
            "NamespaceDeletionDiscoveryFailure": (
                "False",
                "ResourcesDiscovered",
                "All resources successfully discovered",
            ),
            "NamespaceDeletionGroupVersionParsingFailure": (
                "False",
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            "NamespaceDeletionContentFailure": (
                "False",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
            "NamespaceContentRemaining": (
                "True",
                "SomeResourcesRemain",
                "Some resources are remaining: configmaps. has 1 resource instances",
            ),
            "NamespaceFinalizersRemaining": (
                "True",
                "SomeFinalizersRemain",
                "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances",
            ),
        }
        await asyncio.sleep(60)
        assert (await space(it)).status.phase == "Terminating"
        await it.client.patch(ConfigMap, "web", {"metadata": {"finalizers": None}}, "shop")
        await gone(it)


async def test_what_is_no_object_is_told_and_not_thrown_away(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        key = ConfigMap.TYPE.key("shop", "broken")
        await it.store.put(key, b"[]")
        await it.client.delete(Namespace, "shop")

        async def told() -> bool:
            return conditions(await space(it)).get("NamespaceDeletionContentFailure", ("",))[0] == "True"

        await it.until(told)
        failure = conditions(await space(it))["NamespaceDeletionContentFailure"]
        assert failure[1] == "ContentDeletionFailed"
        assert "Failed to delete all resource types, 1 remaining: " in failure[2]
        await it.store.delete(key)
        await gone(it)


async def test_nothing_is_created_where_there_is_no_namespace(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        with pytest.raises(NotFound) as absent:
            await it.manager.client.create(shop(ConfigMap))
        assert str(absent.value) == 'namespaces "shop" not found'
        await it.client.create(Namespace(name="shop"))
        await it.manager.client.create(shop(ConfigMap))


async def test_one_that_is_being_deleted_takes_nothing_even_if_no_cache_knows_yet(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        kept = shop(ConfigMap)
        kept.metadata.finalizers = ["example.com/keep"]
        await it.manager.client.create(kept)
        cache = it.manager.informer(Namespace).cache
        await it.client.delete(Namespace, "shop")
        stored = cache.get("shop")
        assert stored is not None
        assert stored.meta.deletion_timestamp is None, "the cache has had no time to learn of it"
        with pytest.raises(NamespaceTerminating) as error:
            await it.manager.client.create(shop(Secret))
        assert str(error.value) == (
            'secrets "web" is forbidden: unable to create new content in namespace shop because it is being terminated'
        )


async def test_a_label_that_changes_just_then_holds_up_nobody(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        await it.manager.client.create(shop(ConfigMap))
        await it.client.patch(Namespace, "shop", {"metadata": {"labels": {"team": "web"}}})
        await it.manager.client.create(shop(Secret))


async def test_controllers_that_cannot_create_there_any_more_say_nothing(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        await it.client.create(Namespace(name="shop"))
        await it.client.create(shop(replicas=2))
        for made in (web(2, name="db"), daemon_set()):
            made.raw["metadata"]["namespace"] = "shop"
            await it.client.create(made)
        await pods_run(it, 5)
        before = it.manager.statistics().controllers
        await it.client.delete(Namespace, "shop")
        await gone(it)
        after = it.manager.statistics().controllers
        for name in ("deployment", "replicaset", "statefulset", "daemonset"):
            assert after[name].outcomes.get("error", 0) == before[name].outcomes.get("error", 0)
        assert all("FailedCreate" not in event.reason for event in await it.client.list(Event))


async def test_it_can_be_made_again_once_it_is_gone(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        for _ in range(2):
            await it.client.create(Namespace(name="shop"))
            await it.manager.client.create(shop(replicas=1))
            await pods_run(it, 1)
            await it.client.delete(Namespace, "shop")
            await gone(it)
        assert (await it.client.list(CronJob, "shop")).items == []


async def test_admission_remembers_no_more_namespaces_than_there_are(store: Client) -> None:
    async with cluster(store, **FAST) as it:
        lookups = CachedLookups(it.manager)
        await asyncio.sleep(1)
        for number in range(9):
            await it.client.create(Namespace(name=f"space-{number}"))
            await asyncio.sleep(0.1)
            assert await lookups.namespace(f"space-{number}") is not None
            await it.client.delete(Namespace, f"space-{number}")
            await gone(it, f"space-{number}")
        there = len(await it.client.list(Namespace))
        assert len(lookups._namespaces) <= there + 1
