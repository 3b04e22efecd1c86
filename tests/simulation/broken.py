"""Reconcilers with the mistakes that people make. Each has to be caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from controllers import Context, Manager, Request, Result, set_controller_reference
from controllers.simulation import Faults, Process, Revision
from informer import ObjectClient
from tests.simulation.parts import ElectedParts, Part, Parts, Site, part, reconcile


class EdgeTriggered(Parts):
    """Acts on what is new, and never looks at it again: what failed, or what somebody deleted, stays so."""

    def manager(self, process: Process) -> Manager:
        self.acted: dict[str, int] = {}  # it has no memory of its last life either
        return super().manager(process)

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None:
            self.acted.pop(request.key, None)
            return
        if self.acted.get(request.key) == site.metadata.generation:
            return
        self.acted[request.key] = site.metadata.generation
        await reconcile(ctx, request)


class TrustsAStaleCache(Parts):
    """Counts children in a cache that it has not declared, so that nobody waits until that shows its own writes."""

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)

        async def make(ctx: Context, request: Request) -> Result | None:
            site = ctx.get(Site, request)
            if site is None or site.deleting:
                return None
            cache = manager.informer(Part).cache
            there = [each for each in cache.list() if site.metadata.uid in {o.uid for o in each.meta.owner_references}]
            for _ in range(site.spec.replicas - len(there)):
                one = Part(generate_name=f"{site.name}-", namespace=site.namespace, spec={"image": site.spec.image})
                set_controller_reference(site, one)
                await ctx.create(one)
            for each in there[site.spec.replicas :]:
                await ctx.delete(Part, each.name, each.namespace)
            return Result(requeue_after=40.0)

        manager.add_controller(Site, make)

        async def fill() -> None:
            await manager.informer(Part).wait_synced()

        manager.add_runnable(fill)
        return manager


class NotIdempotent(Parts):
    """Makes something outside, and records that afterwards: after a crash in between it makes another one."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.made = 0

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None or site.deleting:
            return
        if not site.status.seen:
            self.made += 1
            volume = self.directory / f"{site.metadata.uid}.{self.made}"
            volume.touch()
            site.status.seen = volume.name
            await ctx.update_status(site)

    def check_outside(self) -> None:
        owners = [each.name.partition(".")[0] for each in self.directory.iterdir()]
        assert len(owners) == len(set(owners)), "one object has two volumes"

    def end_state(self, last: Revision) -> Any:
        return None


class FinalizerTooLate(Parts):
    """Puts its finalizer on after it has made something outside: who is deleted in between leaves that behind."""

    FINALIZER = "example.com/volume"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.forced: set[str] = set()

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None:
            return
        volume = self.directory / (site.metadata.uid or "")
        if site.deleting:
            volume.unlink(missing_ok=True)
            if self.FINALIZER in site.metadata.finalizers:
                site.metadata.finalizers.remove(self.FINALIZER)
                await ctx.update(site)
            return
        volume.touch()
        if self.FINALIZER not in site.metadata.finalizers:
            site.metadata.finalizers.append(self.FINALIZER)
            await ctx.update(site)

    # Who takes a finalizer off by force leaves things behind, whoever put it on.
    operations: ClassVar = {name: each for name, each in Parts.operations.items() if name != "force"}

    def end_state(self, last: Revision) -> Any:
        uids = {site["metadata"]["uid"] for site in last.of(Site)}
        return sorted(each.name in uids for each in self.directory.iterdir())


class FinalizerFirst(FinalizerTooLate):
    """The same as it should be: the finalizer is there before anything that needs it."""

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None:
            return
        if not site.deleting and self.FINALIZER not in site.metadata.finalizers:
            site.metadata.finalizers.append(self.FINALIZER)
            await ctx.update(site)
        await super().reconcile(ctx, request)


class ForgetsChildren(Parts):
    """Makes what is missing and leaves what is too much."""

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None or site.deleting:
            return
        for number in range(site.spec.replicas):
            await ctx.apply(part(site, number), owner=site)


class HotLoop(Parts):
    """Writes the time into the status, which is a change, which is another run."""

    async def reconcile(self, ctx: Context, request: Request) -> None:
        await reconcile(ctx, request)
        site = await ctx.fetch(Site, request)
        if site is not None:
            site.status.seen = ctx.now().isoformat()
            await ctx.update_status(site)


class Polls(Parts):
    """Asks again ten times a second whether there is something to do, and writes nothing."""

    def manager(self, process: Process) -> Manager:
        async def poll(ctx: Context, request: Request) -> Result:
            await reconcile(ctx, request)
            return Result(requeue_after=0.1)

        manager = Manager(**process.options)
        manager.add_controller(Site, poll, owns=[Part])
        return manager


class IgnoresTheVersion(Parts):
    """Writes what it read over whatever is there by now: it takes the version from a second look."""

    faults = Faults(slow=0.3, slowest=0.5, crash=0.0)
    pauses = (0.1, 0.3)
    steps = 30

    async def reconcile(self, ctx: Context, request: Request) -> None:
        site = ctx.get(Site, request)
        if site is None or site.deleting:
            return
        for number in range(site.spec.replicas):
            await ctx.apply(part(site, number), owner=site)
        site.metadata.annotations["replicas"] = str(site.spec.replicas)
        now = await ctx.fetch(Site, request)
        if now is not None and now.metadata.uid == site.metadata.uid:
            site.metadata.resource_version = now.metadata.resource_version
            await ctx.update(site)


class PassesTheFence(ElectedParts):
    """Writes with a client of its own, which the fence does not guard."""

    def manager(self, process: Process) -> Manager:
        manager = Manager(**process.options)

        async def make(ctx: Context, request: Request) -> None:
            client = ObjectClient(process.client, now=process.now, rng=process.rng)
            site = ctx.get(Site, request)
            if site is None or site.deleting:
                return
            for number in range(site.spec.replicas):
                await client.apply(part(site, number), owner=site)
            for each in ctx.list(Part, owner=site)[site.spec.replicas :]:
                await client.delete(Part, each.name, each.namespace)

        manager.add_controller(Site, make, owns=[Part])
        return manager
