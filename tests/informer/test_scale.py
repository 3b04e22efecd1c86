"""How many there are to be: of any kind that says where that stands. And objects made by what they should be."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from controllers.apps.types import Deployment, ReplicaSet
from informer import (
    Conflict,
    CurrentScale,
    Invalid,
    NotFound,
    ObjectClient,
    Resource,
    Scale,
    Scheme,
    crd_for,
    resource_from_crd,
    retry_on_conflict,
)
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

HERE = Scheme()


class Pool(
    Resource,
    group="example.com",
    version="v1",
    scale=Scale(spec="spec.workers.count", status="status.ready", selector="status.selector"),
    scheme=HERE,
):
    class Spec:
        class Workers:
            count: int = 2

        workers: Workers
        hosts: list[str]

    class Status:
        ready: int = 0
        selector: str = ""

    def default(self) -> None:
        self.raw.setdefault("spec", {}).setdefault("hosts", ["localhost"])


class Fixed(Resource, group="example.com", version="v1", scheme=HERE):
    pass


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[ObjectClient]:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        client = EmbeddedClient(node)
        yield ObjectClient(client, rng=random.Random(1), field_manager="tester")
        await client.close()


def deployment(replicas: int) -> Deployment:
    labels = {"app": "web", "tier": "front"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
    return Deployment(
        name="web", spec={"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    )


# ---- scale ----------------------------------------------------------------------------------------------------------


async def test_the_scale_of_a_kind_of_ones_own(objects: ObjectClient) -> None:
    made = await objects.create(Pool(name="a"))
    assert await objects.get_scale(Pool, "a") == CurrentScale(
        "a", "default", made.metadata.uid or "", made.metadata.resource_version or "", 2, 0, ""
    )
    scale = await objects.update_scale(Pool, "a", 5)
    assert (scale.replicas, scale.ready) == (5, 0)
    found = await objects.get(Pool, "a")
    assert found.raw["spec"] == {"hosts": ["localhost"], "workers": {"count": 5}}
    assert found.metadata.generation == 2
    last = found.metadata.managed_fields[-1]
    assert (last.manager, last.subresource) == ("tester", "scale")
    await objects.patch(Pool, "a", {"status": {"ready": 4, "selector": "app=x"}}, subresource="status")
    scale = await objects.get_scale(Pool, "a")
    assert (scale.ready, scale.selector) == (4, "app=x")


@pytest.mark.parametrize("cls", [Deployment, ReplicaSet])
def test_built_in_kinds_have_one(cls: type[Resource]) -> None:
    assert cls.TYPE.scale == Scale(selector="spec.selector")


async def test_a_selector_of_labels_is_told_as_text(objects: ObjectClient) -> None:
    await objects.create(deployment(3))
    scale = await objects.get_scale(Deployment, "web")
    assert (scale.replicas, scale.ready, scale.selector) == (3, 0, "app=web,tier=front")
    assert (await objects.update_scale(Deployment, "web", 0)).replicas == 0


async def test_only_of_the_version_that_was_seen(objects: ObjectClient) -> None:
    seen = (await objects.create(Pool(name="a"))).metadata.resource_version
    await objects.update_scale(Pool, "a", 3, resource_version=seen)
    with pytest.raises(Conflict):
        await objects.update_scale(Pool, "a", 4, resource_version=seen)
    assert (await objects.get_scale(Pool, "a")).replicas == 3


@pytest.mark.parametrize("replicas", [-1, 2**31, True, "3"])
async def test_a_number_that_is_none(objects: ObjectClient, replicas: Any) -> None:
    await objects.create(Pool(name="a"))
    with pytest.raises(Invalid, match=r"^spec.workers.count: expected 0 to 2147483647"):
        await objects.update_scale(Pool, "a", replicas)


async def test_what_cannot_be_scaled(objects: ObjectClient) -> None:
    await objects.create(Fixed(name="a"))
    with pytest.raises(Invalid, match=r"^fixeds.example.com cannot be scaled: they have no spec.replicas$"):
        await objects.get_scale(Fixed, "a")
    with pytest.raises(NotFound):
        await objects.update_scale(Pool, "absent", 1)


@pytest.mark.parametrize("wrong", [{"spec": "status.replicas"}, {"status": "spec.x"}, {"selector": "metadata.labels"}])
def test_a_path_has_to_be_where_it_belongs(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected a path below"):
        Scale(**wrong)


async def test_a_kind_that_does_not_say_has_it_where_most_have(objects: ObjectClient) -> None:
    await objects.create(Fixed(name="a", spec={"replicas": 1}))
    assert (await objects.update_scale(Fixed, "a", 2)).replicas == 2


async def test_it_travels_with_the_definition(objects: ObjectClient) -> None:
    crd = crd_for(Pool)
    assert crd.spec.versions[0].raw["subresources"]["scale"] == {
        "specReplicasPath": ".spec.workers.count",
        "statusReplicasPath": ".status.ready",
        "labelSelectorPath": ".status.selector",
    }
    cls = resource_from_crd(crd)
    assert cls.TYPE == Pool.TYPE
    await objects.create(cls.from_raw({"metadata": {"name": "a"}}))
    assert (await objects.get_scale(cls, "a")).replicas == 2
    crd.raw["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] = ".status.x"
    with pytest.raises(Invalid, match=r"scale: 'status.x': expected a path below spec"):
        crd.validate()


# ---- create or update -----------------------------------------------------------------------------------------------


def workers(count: int) -> Callable[[Pool], None]:
    def mutate(pool: Pool) -> None:
        pool.raw["spec"] = {"workers": {"count": count}}  # without what the kind's defaults put in

    return mutate


async def test_create_or_update_comes_to_rest(objects: ObjectClient) -> None:
    first = await objects.create_or_update(Pool(name="a"), workers(3))
    assert (first.outcome, first.object.raw["spec"]["hosts"]) == ("created", ["localhost"])
    again = await objects.create_or_update(Pool(name="a"), workers(3))
    assert (again.outcome, again.object.raw) == ("unchanged", first.object.raw)
    more = await objects.create_or_update(Pool(name="a"), workers(4))
    assert (more.outcome, more.object.spec.workers.count) == ("updated", 4)


async def test_the_kinds_with_most_defaults_come_to_rest_too(objects: ObjectClient) -> None:
    def mutate(obj: Deployment) -> None:
        obj.raw["spec"] = deployment(2).raw["spec"]

    assert (await objects.create_or_update(Deployment(name="web"), mutate)).outcome == "created"
    assert (await objects.create_or_update(Deployment(name="web"), mutate)).outcome == "unchanged"


async def test_mutate_must_not_make_it_another_object(objects: ObjectClient) -> None:
    def rename(pool: Pool) -> None:
        pool.metadata.name = "b"

    with pytest.raises(Invalid, match="must not change that"):
        await objects.create_or_update(Pool(name="a"), rename)
    await objects.create(Pool(name="a"))
    with pytest.raises(Invalid, match="must not change that"):
        await objects.create_or_update(Pool(name="a"), rename)


async def test_a_faster_writer_is_a_conflict_that_can_be_tried_again(objects: ObjectClient) -> None:
    await objects.create(Pool(name="a"))
    attempts, raced = 0, "once"

    class Racing(ObjectClient):
        async def update(self, obj: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                await objects.patch(Pool, "a", {"metadata": {"labels": {"raced": raced}}})
            return await super().update(obj)

    racing = Racing(objects._client)
    with pytest.raises(Conflict):
        await racing.create_or_update(Pool(name="a"), workers(5))
    attempts, raced = 0, "twice"
    done = await retry_on_conflict(lambda: racing.create_or_update(Pool(name="a"), workers(6)))
    assert (done.outcome, attempts, dict(done.object.metadata.labels)) == ("updated", 2, {"raced": "twice"})
