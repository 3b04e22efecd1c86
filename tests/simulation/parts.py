"""A small kind with children, for reconcilers that are right and for reconcilers that are not."""

from __future__ import annotations

import random
from typing import Any

from controllers import Context, Manager, Request
from controllers.simulation import Process, Scenario
from informer import Resource
from informer.resources import Scheme

SCHEME = Scheme()


class Site(Resource, group="example.com", version="v1", scheme=SCHEME):
    class Spec:
        image: str = ""
        replicas: int = 1

    class Status:
        ready: int = 0
        seen: str = ""


class Part(Resource, group="example.com", version="v1", scheme=SCHEME):
    class Spec:
        image: str = ""


def part(site: Site, number: int) -> Part:
    return Part(name=f"{site.name}-{number}", namespace=site.namespace, spec={"image": site.spec.image})


async def reconcile(ctx: Context, request: Request) -> None:
    """One part for each replica: as it should be written."""
    site = ctx.get(Site, request)
    if site is None or site.deleting:
        return
    wanted = [part(site, number) for number in range(site.spec.replicas)]
    for each in wanted:
        await ctx.apply(each, owner=site)
    names = {each.name for each in wanted}
    for each in ctx.list(Part, owner=site):
        if each.name not in names and not each.deleting:
            await ctx.delete(Part, each.name, each.namespace, uid=each.metadata.uid)
    site.status.ready = len(wanted)
    await ctx.update_status(site)


class Parts(Scenario):
    kind, children = Site, (Part,)

    async def reconcile(self, ctx: Context, request: Request) -> None:
        await reconcile(ctx, request)

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)
        manager.add_controller(Site, self.reconcile, owns=[Part])
        return manager

    def spec(self, rng: random.Random) -> dict[str, Any]:
        return {"image": rng.choice("xyz"), "replicas": rng.randint(0, 3)}


class ElectedParts(Parts):
    """Two processes, of which one leads."""

    processes = 2
