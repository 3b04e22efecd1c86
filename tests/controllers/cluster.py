"""A whole small cluster on an embedded store and virtual time, for tests of the built-in controllers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from controllers.apps.types import Deployment, ReplicaSet
from controllers.builtin import Workloads, add_workloads
from controllers.core.types import Event, Pod
from controllers.manager import Manager
from informer.client import ObjectClient
from informer.errors import Conflict, NotFound
from informer.resources import Resource
from kvstore.api import Client, EventType, Range, prefix_end

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = 600.0  # seconds, virtual

R = TypeVar("R", bound=Resource)
Raw = dict[str, Any]


def virtual_now() -> datetime:
    """A wall clock that goes with the loop's."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


def nginx(name: str = "nginx", replicas: int = 3, image: str = "nginx:1.14.2", **spec: Any) -> Deployment:
    """The Deployment of Kubernetes' documentation."""
    return Deployment.from_raw(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "nginx", "image": image, "ports": [{"containerPort": 80}]}]},
                },
                **spec,
            },
        }
    )


class Cluster:
    """The running controllers, and what a test asks of them."""

    def __init__(self, manager: Manager, workloads: Workloads, store: Client) -> None:
        self.manager = manager
        self.workloads = workloads
        self.store = store
        # The user's own way to the store, whatever lies between it and the controllers.
        self.client = ObjectClient(store, now=virtual_now, rng=random.Random(0))

    async def apply(self, obj: Resource) -> Resource:
        return (await self.client.apply(obj)).object

    async def deployment(self, name: str = "nginx") -> Deployment:
        return await self.client.get(Deployment, name, "default")

    async def change(self, cls: type[R], name: str, change: Callable[[R], None]) -> R:
        """Read, change, write; again if somebody was faster."""
        while True:
            obj = await self.client.get(cls, name, "default")
            change(obj)
            try:
                return await self.client.update(obj)
            except Conflict:
                continue

    async def scale(self, replicas: int, name: str = "nginx") -> None:
        await self.client.patch(Deployment, name, {"spec": {"replicas": replicas}}, "default")

    async def set_image(self, image: str, name: str = "nginx") -> None:
        def change(deployment: Deployment) -> None:
            deployment.spec.template.spec.containers[0].image = image

        await self.change(Deployment, name, change)

    async def pods(self, **labels: str) -> list[Pod]:
        return (await self.client.list(Pod, "default", labels or "")).items

    async def replica_sets(self) -> list[ReplicaSet]:
        """From the oldest revision on."""
        found = (await self.client.list(ReplicaSet, "default")).items
        return sorted(found, key=lambda rs: int(rs.metadata.annotations.get("deployment.kubernetes.io/revision", "0")))

    async def events(self, reason: str) -> list[Event]:
        found = (await self.client.list(Event, "default")).items
        return [event for event in found if event.reason == reason]

    async def exists(self, cls: type[Resource], name: str) -> bool:
        try:
            await self.client.get(cls, name, "default")
        except NotFound:
            return False
        return True

    async def until(self, condition: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
        """Wait until the condition holds; it is asked again after every change in the store."""
        registry = b"/registry/"
        async with asyncio.timeout(patience), self.store.watch(registry, prefix_end(registry)) as watch:
            while not await condition():
                await anext(watch)

    async def rolled_out(self, name: str = "nginx") -> None:
        """Wait until the Deployment is complete, its old pods gone included."""

        async def complete() -> bool:
            deployment = await self.deployment(name)
            wanted, status = deployment.spec.replicas, deployment.status
            if status.observed_generation < deployment.metadata.generation:
                return False
            counts = (status.replicas, status.updated_replicas, status.available_replicas)
            return counts == (wanted,) * 3 and len(await self.pods(app=name)) == wanted

        await self.until(complete)


@asynccontextmanager
async def cluster(
    store: Client, *, client: Client | None = None, seed: int = 1, **options: Any
) -> AsyncIterator[Cluster]:
    """Run the built-in controllers on a store; `client` is what they reach it through, if not directly."""
    manager = Manager(client=client or store, now=virtual_now, rng=random.Random(seed))
    workloads = add_workloads(manager, **options)
    async with manager:
        yield Cluster(manager, workloads, store)


class Revision(msgspec.Struct, frozen=True):
    """The registry at a revision: key -> object. `changed` are the keys that this revision wrote."""

    number: int
    objects: dict[str, Raw]
    changed: list[str]

    def of(self, cls: type[Resource]) -> Iterator[Raw]:
        """All objects of a kind."""
        prefix = cls.TYPE.prefix().decode()
        return (obj for key, obj in self.objects.items() if key.startswith(prefix))


async def history(store: Client) -> list[Revision]:
    """The registry at every revision there ever was. The store must not have been compacted."""
    registry = b"/registry/"
    answer = await store.range(Range(registry, prefix_end(registry), count_only=True))
    assert answer.header is not None
    last = answer.header.revision
    revisions: list[Revision] = []
    objects: dict[str, Raw] = {}
    async with asyncio.timeout(30), store.watch(registry, prefix_end(registry), start_revision=1) as watch:
        await watch.request_progress()
        async for response in watch:
            for event in response.events:
                number, key = event.kv.mod_revision, event.kv.key.decode()
                objects = dict(objects)
                if event.type is EventType.DELETE:
                    objects.pop(key, None)
                else:
                    objects[key] = msgspec.json.decode(event.kv.value)
                if revisions and revisions[-1].number == number:
                    revisions[-1] = Revision(number, objects, [*revisions[-1].changed, key])
                else:
                    revisions.append(Revision(number, objects, [key]))
            if not response.events and response.header.revision >= last:
                return revisions
    raise AssertionError("the watch does not end by itself")
