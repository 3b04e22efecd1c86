"""Where the day takes place: a store, the built-in controllers, simulated nodes and customers, on one clock.

The clock is the event loop's: it is a `TimeLapseLoop`, so all of Kubernetes' own times hold, from the 15 s of an
autoscaler to the five minutes until a lost node's pods are replaced, and a day is over in two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from controllers.autoscaling.usage import LOAD
from controllers.builtin import Workloads, add_workloads
from controllers.cli.demo.runner import StepFailed
from controllers.core.types import Event, Pod, Service
from controllers.manager import Manager
from informer.cache import Stored
from informer.client import ObjectClient
from informer.resources import Resource
from informer.shared import Handler
from kvstore.client import EmbeddedClient
from kvstore.node import Node, NodeOptions

R = TypeVar("R", bound=Resource)

NAMESPACE = "shop"
OPENS = datetime(2026, 5, 4, 6, 0, tzinfo=UTC)
NODES = 4
SEED = 1
LOOK_EVERY = 5.0  # seconds of the day
CUSTOMERS_EVERY = 300.0
# How many of the most customers are there, by hours since midnight; in between evenly.
CUSTOMERS = ((0, 0.1), (7, 0.1), (9, 0.5), (12, 1.0), (14, 0.8), (18, 1.0), (20, 0.6), (23, 0.1), (24, 0.1))
# What the most of them cost, in millicores: about 12 pods of the web front, and 6 of the API.
MOST_LOAD = {"web": 560, "api": 700}


class Shop:
    """Everything there is, and how it stands. Made by `open_shop`."""

    def __init__(self, node: Node, manager: Manager, workloads: Workloads, objects: ObjectClient) -> None:
        self.node = node
        self.manager = manager
        self.workloads = workloads
        self.objects = objects
        self.news: list[str] = []

    @property
    def revision(self) -> int:
        """The store's."""
        return self.node.revision

    def all(self, cls: type[R]) -> list[R]:
        """The shop's objects of a kind, and those of no namespace, by name."""
        stored = self.manager.informer(cls).cache.list()
        found = [cls.decode(each.data, each.revision) for each in stored if each.namespace in ("", NAMESPACE)]
        return sorted(found, key=lambda obj: obj.name)

    def get(self, cls: type[R], name: str) -> R:
        """One of them. Raises StepFailed if it is not there."""
        for obj in self.all(cls):
            if obj.name == name:
                return obj
        raise StepFailed(f"there is no {cls.TYPE.kind} {name}")

    def pods(self, app: str) -> list[Pod]:
        """The pods of one of its parts that are not on their way out."""
        return [pod for pod in self.all(Pod) if pod.metadata.labels.get("app") == app and not pod.deleting]

    def ready(self, app: str) -> int:
        """How many of them serve."""
        return sum(pod.ready for pod in self.pods(app))

    async def until(self, expected: str, reached: Callable[[], bool], minutes: float) -> None:
        """Wait until something holds. Raises StepFailed after so many minutes of the day."""
        try:
            async with asyncio.timeout(minutes * 60):
                while True:
                    if reached():
                        return
                    await asyncio.sleep(LOOK_EVERY)
        except TimeoutError:
            raise StepFailed(f"expected within {minutes:g} minutes: {expected}") from None

    async def until_hour(self, hour: float) -> None:
        """Wait for a time of the first day; from 24 on it is of the second."""
        due = OPENS.replace(hour=0) + timedelta(hours=hour)
        await asyncio.sleep((due - now()).total_seconds())


def now() -> datetime:
    """The time of the day."""
    return OPENS + timedelta(seconds=asyncio.get_running_loop().time())


def customers(at: datetime) -> float:
    """How many are there, of 1."""
    hour = at.hour + at.minute / 60
    for (before, some), (after, others) in pairwise(CUSTOMERS):
        if before <= hour <= after:
            return some + (others - some) * (hour - before) / (after - before)
    raise AssertionError("a day has 24 hours")


async def _let_customers_in(shop: Shop) -> None:
    """Say again and again what comes in through the services."""
    while True:
        share = customers(now())
        for name, most in MOST_LOAD.items():
            load = {"metadata": {"annotations": {LOAD: f"cpu={round(share * most)}m"}}}
            if any(service.name == name for service in shop.all(Service)):
                await shop.objects.patch(Service, name, load, NAMESPACE)
        await asyncio.sleep(CUSTOMERS_EVERY)


class _News(Handler):
    """The last few things that controllers have told."""

    KEPT = 5

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def on_add(self, new: Stored, initial: bool) -> None:
        event = Event.decode(new.data, new.revision)
        about = event.involved_object
        if about.kind != "Pod" and event.namespace == NAMESPACE:
            line = f"{now():%H:%M} {event.reason} {about.kind.lower()}/{about.name}: {event.message}"
            self._shop.news = [*self._shop.news[1 - self.KEPT :], line]


@asynccontextmanager
async def open_shop(directory: Path) -> AsyncIterator[Shop]:
    """Start it all in a directory; leaving stops it. On a `TimeLapseLoop`, or another loop of virtual time."""
    async with AsyncExitStack() as stack:
        # One thread, so that the same day is seen each time.
        options = NodeOptions(fsync=False, inline_commits=True)
        node = await stack.enter_async_context(Node.open(directory / "store", options, rng=random.Random(SEED)))
        client = EmbeddedClient(node)
        stack.push_async_callback(client.close)
        manager = Manager(client=client, now=now, rng=random.Random(SEED), stop_timeout=1.0)
        workloads = add_workloads(manager, nodes=NODES, stages=("chaos",))
        objects = ObjectClient(client, now=now, rng=random.Random(SEED), field_manager="listwatch-demo")
        shop = Shop(node, manager, workloads, objects)
        await stack.enter_async_context(manager)
        manager.informer(Event).add_handler(_News(shop), name="news")
        came = asyncio.create_task(_let_customers_in(shop), name="customers")
        try:
            yield shop
        finally:
            came.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await came
