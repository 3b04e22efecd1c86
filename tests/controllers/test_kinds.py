"""What a kind of one's own brings into a manager: the names of its writers, its hooks, its versions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from controllers import Context, Manager, Request
from informer import AdmissionRequest, CustomResourceDefinition, Invalid, Resource, Scheme
from kvstore.api import Client
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

HERE = Scheme()


class Site(Resource, group="example.com", version="v1", scheme=HERE):
    class Spec:
        size: int = 1

    class Status:
        seen: int = 0


class SiteV1Beta1(Resource, version="v1beta1", hub=Site, scheme=HERE):
    class Spec:
        replicas: int = 1

    class Status:
        seen: int = 0

    def convert_to(self, hub: Site) -> None:
        hub.spec.size = self.spec.replicas
        hub.status.seen = self.status.seen

    def convert_from(self, hub: Site) -> None:
        self.spec.replicas = hub.spec.size
        self.status.seen = hub.status.seen


class Part(Resource, group="example.com", version="v1", scheme=HERE):
    class Spec:
        size: int = 0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Client]:
    async with Node.open(tmp_path / "d", NodeOptions(fsync=False)) as node:
        client = EmbeddedClient(node)
        yield client
        await client.close()


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await done():
            await asyncio.sleep(0.005)


async def test_a_controller_writes_in_its_own_name(store: Client) -> None:
    manager = Manager(client=store, rng=random.Random(1))

    @manager.reconciler(Site, owns=[Part], name="sites")
    async def reconcile(ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None:
            return

        def size(part: Part) -> None:
            part.spec.size = site.spec.size

        await ctx.create_or_update(Part(name=request.name, namespace=request.namespace), size)
        site.status.seen = site.spec.size
        await ctx.update_status(site)

    async with manager:
        mine = manager.client.with_field_manager("me")
        await mine.create(Site(name="a", spec={"size": 3}))

        async def seen() -> bool:
            return bool((await mine.get(Site, "a")).status.seen == 3)

        await until(seen)
        writers = [(each.manager, each.subresource) for each in (await mine.get(Site, "a")).metadata.managed_fields]
        assert writers == [("me", None), ("sites", "status")]
        part = await mine.get(Part, "a")
        assert (part.spec.size, part.metadata.managed_fields[0].manager) == (3, "sites")
        assert manager.statistics().controllers["sites"].outcomes.get("error", 0) == 0


async def test_hooks_of_a_manager_are_asked_by_its_reconcilers(store: Client) -> None:
    manager = Manager(client=store, rng=random.Random(1))
    refused: list[str] = []

    @manager.admission.validate(Part)
    def small(request: AdmissionRequest[Part]) -> None:
        if request.object.spec.size > 1:
            raise Invalid("spec.size", "must be small")

    @manager.reconciler(Site, owns=[Part])
    async def reconcile(ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        assert site is not None
        try:
            await ctx.apply(Part(name="p", namespace="default", spec={"size": site.spec.size}), owner=site)
        except Invalid as error:
            refused.append(str(error))

    async with manager:
        await manager.client.create(Site(name="a", spec={"size": 3}))

        async def told() -> bool:
            return bool(refused)

        await until(told)
    assert refused[0] == 'spec.size: must be small (admission hook "small")'


async def test_a_reconciler_of_an_older_version(store: Client) -> None:
    manager = Manager(client=store, rng=random.Random(1))

    async def reconcile(ctx: Context, request: Request) -> None:
        site = ctx.get(SiteV1Beta1, request)
        assert site is not None
        site.status.seen = site.spec.replicas
        await ctx.update_status(site)

    manager.add_controller(SiteV1Beta1, reconcile)
    async with manager:
        await manager.client.create(Site(name="a", spec={"size": 4}))

        async def seen() -> bool:
            return bool((await manager.client.get(Site, "a")).status.seen == 4)

        await until(seen)
        definition = await manager.client.get(CustomResourceDefinition, "sites.example.com")
        assert [(each.name, each.storage) for each in definition.spec.versions] == [("v1", True), ("v1beta1", False)]
