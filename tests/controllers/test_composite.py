"""A function of parent and children, carried out on a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controllers import Children, Context, Desired, Finalized, Manager, Request
from informer import NotFound, Resource
from informer.errors import Invalid
from kvstore.api import Client
from tests.controllers.kinds import Part, Rack, Site

pytestmark = pytest.mark.virtual_time


def parts_of(site: Site, children: Children) -> Desired:
    """As many parts as replicas, and how many there are."""
    wanted = [Part(name=f"{site.name}-{n}", spec={"color": site.spec.image}) for n in range(site.spec.replicas)]
    site.spec.replicas = 99  # its argument is its own: nothing of this is written
    return Desired(children=wanted, status={"ready": len(children.of(Part))})


def test_it_is_a_function_and_a_test_of_it_is_a_call() -> None:
    site = Site(name="a", namespace="default", spec={"image": "red", "replicas": 2})
    answer = parts_of(site, Children([Part(name="a-0", namespace="default")]))
    assert [child.name for child in answer.children] == ["a-0", "a-1"]
    assert answer.status == {"ready": 1}


async def settled(seconds: float = 5) -> None:
    await asyncio.sleep(seconds)


async def parts(manager: Manager) -> dict[str, str]:
    return {part.name: part.spec.color for part in (await manager.client.list(Part)).items}


async def test_children_are_made_kept_and_removed(store: Client) -> None:
    manager = Manager(client=store)
    manager.composite(Site, children=[Part])(parts_of)
    async with manager:
        client = manager.client
        site = await client.create(Site(name="a", namespace="default", spec={"image": "red", "replicas": 3}))
        await settled()
        assert await parts(manager) == {"a-0": "red", "a-1": "red", "a-2": "red"}
        found = await client.get(Site, "a", "default")
        assert (found.status.ready, found.spec.replicas) == (3, 3)
        child = await client.get(Part, "a-0", "default")
        assert [(owner.uid, owner.controller) for owner in child.metadata.owner_references] == [
            (site.metadata.uid, True)
        ]

        await client.patch(Site, "a", {"spec": {"image": "blue", "replicas": 2}}, "default")
        await client.delete(Part, "a-0", "default")
        await client.patch(Part, "a-1", {"spec": {"color": "green"}, "metadata": {"labels": {"mine": "1"}}}, "default")
        await settled()
        assert await parts(manager) == {"a-0": "blue", "a-1": "blue"}
        assert (await client.get(Part, "a-1", "default")).metadata.labels == {"mine": "1"}  # not its business
        revision = (await store.status()).header.revision
        await settled(100)
        assert (await store.status()).header.revision == revision  # what is as desired is not written again


async def test_what_it_does_not_control_is_left_alone(store: Client) -> None:
    manager = Manager(client=store)
    manager.composite(Site, children=[Part])(parts_of)
    async with manager:
        client = manager.client
        await client.create(Part(name="other", namespace="default"))
        other = await client.create(Rack(name="rack"))
        taken = Part(name="a-0", namespace="default")
        taken.raw["metadata"]["ownerReferences"] = [
            {
                "apiVersion": "example.com/v1",
                "kind": "Rack",
                "name": "rack",
                "uid": other.metadata.uid,
                "controller": True,
            }
        ]
        await client.create(taken)
        await client.create(Site(name="a", namespace="default", spec={"image": "red", "replicas": 2}))
        await settled()
        assert (await parts(manager))["a-0"] == ""
        assert "other" in await parts(manager)
        assert manager.statistics().controllers["site"].conflicts > 0


async def test_a_finalize_function_decides_when_the_parent_may_go(store: Client) -> None:
    manager = Manager(client=store)
    asked: list[int] = []

    def finalize(site: Site, children: Children) -> Finalized:
        """One part at a time, the last first."""
        there = children.of(Part)
        asked.append(len(there))
        return Finalized(done=not there, children=[Part(name=each.name) for each in there[:-1]], status={"ready": 7})

    manager.composite(Site, children=[Part], finalize=finalize)(parts_of)
    async with manager:
        client = manager.client
        await client.create(Site(name="a", namespace="default", spec={"replicas": 3}))
        await settled()
        assert len(await parts(manager)) == 3
        await client.delete(Site, "a", "default")
        await settled()
        assert await parts(manager) == {}
        with pytest.raises(NotFound):
            await client.get(Site, "a", "default")
    assert asked == sorted(asked, reverse=True)
    assert {3, 2, 1, 0} <= set(asked)


async def test_requeue_after_asks_again_and_mistakes_are_told(store: Client) -> None:
    manager, asked = Manager(client=store), []

    @manager.composite(Site, children=[Part])
    def desired(site: Site, children: Children) -> Any:
        asked.append(asyncio.get_running_loop().time())
        match site.name:
            case "wrong":
                return None
            case "undeclared":
                return Desired(children=[Rack(name="x")])
            case "twice":
                return Desired(children=[Part(name="x"), Part(name="x")])
            case _:
                return Desired(requeue_after=10)

    async with manager:
        await manager.client.create(Site(name="a", namespace="default"))
        await settled(35)
        assert [round(moment - asked[0]) for moment in asked] == [0, 10, 20, 30]
        errors = manager.statistics().controllers["site"].outcomes["error"]
        for name in ["wrong", "undeclared", "twice"]:
            await manager.client.create(Site(name=name, namespace="default"))
            await settled(0.001)
            now = manager.statistics().controllers["site"].outcomes["error"]
            assert now > errors
            errors = now
        assert await parts(manager) == {}  # a wrong answer is not carried out in part


def test_a_function_that_is_not_pure_is_refused() -> None:
    async def desired(parent: Resource, children: Children) -> Desired:
        raise AssertionError

    with pytest.raises(TypeError, match="is async"):
        Manager().composite(Site, children=[Part])(desired)  # type: ignore[arg-type]


async def test_a_composite_and_a_reconciler_stand_side_by_side(store: Client) -> None:
    manager, seen = Manager(client=store), []
    manager.composite(Site, children=[Part], name="parts")(parts_of)

    @manager.reconciler(Part)
    async def reconcile(ctx: Context, request: Request) -> None:
        seen.append(request.name)

    async with manager:
        with pytest.raises(Invalid):
            await manager.client.create(Site(name="B", namespace="default"))
        await manager.client.create(Site(name="b", namespace="default", spec={"replicas": 1}))
        await settled()
        assert seen == ["b-0"]
