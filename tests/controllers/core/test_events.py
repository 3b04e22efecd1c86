"""Events: counted, combined, throttled, and gone in the end."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controllers.core.events import EventBroadcaster, Reference
from controllers.core.types import Event
from informer.client import ObjectClient
from kvstore.api import Client
from tests.controllers.cluster import cluster, nginx, virtual_now

pytestmark = pytest.mark.virtual_time

ABOUT = Reference("apps/v1", "Deployment", "default", "nginx", "u-1")


@asynccontextmanager
async def broadcaster(store: Client, **options: Any) -> AsyncIterator[EventBroadcaster]:
    made = EventBroadcaster(lambda: store, now=virtual_now, rng=random.Random(1), **options)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stored(store: Client) -> list[Event]:
    await asyncio.sleep(0.5)
    return (await ObjectClient(store).list(Event, "default")).items


async def test_an_event_names_its_object_and_its_source(store: Client) -> None:
    async with broadcaster(store) as events:
        events.recorder("tester").event(ABOUT, "Warning", "Broke", "It broke.")
        (event,) = await stored(store)
        assert event.name.startswith("nginx.")
        assert (event.type, event.reason, event.message, event.count) == ("Warning", "Broke", "It broke.", 1)
        assert event.source.component == "tester"
        about = event.involved_object
        assert (about.api_version, about.kind, about.namespace, about.name, about.uid) == (
            "apps/v1",
            "Deployment",
            "default",
            "nginx",
            "u-1",
        )
        event.check()


async def test_a_repetition_counts(store: Client) -> None:
    async with broadcaster(store) as events:
        for _ in range(3):
            events.recorder("tester").event(ABOUT, "Normal", "Again", "Same.")
            await asyncio.sleep(10)
        (event,) = await stored(store)
        assert event.count == 3
        assert event.first_timestamp is not None
        assert event.last_timestamp is not None
        assert (event.last_timestamp - event.first_timestamp).total_seconds() == 20


async def test_what_is_no_text_is_told_as_text_and_harms_nothing(store: Client) -> None:
    async with broadcaster(store) as events:
        recorder = events.recorder("tester")
        recorder.event(ABOUT, "Warning", "Failed", OSError("no such bucket"))  # type: ignore[arg-type]
        recorder.event(ABOUT, "Warning", "NotText", os.fsdecode(b"caf\xe9"))
        recorder.event(ABOUT, "Normal", "After", "It goes on.")
        messages = {event.reason: event.message for event in await stored(store)}
        assert messages == {"Failed": "no such bucket", "NotText": "caf?", "After": "It goes on."}


async def test_many_similar_ones_are_combined(store: Client) -> None:
    async with broadcaster(store) as events:
        for number in range(20):
            events.recorder("tester").event(ABOUT, "Normal", "Made", f"Made pod {number}")
        found = await stored(store)
        (combined,) = [event for event in found if event.message.startswith("(combined from similar events): ")]
        assert combined.message.endswith("Made pod 19")
        assert combined.count == 10
        assert len(found) == 11


async def test_one_object_cannot_flood_the_store(store: Client) -> None:
    async with broadcaster(store) as events:
        for number in range(100):
            events.recorder("tester").event(ABOUT, "Normal", f"Reason{number}", "x")
        assert len(await stored(store)) == 25
        other = Reference("v1", "Pod", "default", "other", "u-2")
        events.recorder("tester").event(other, "Normal", "Fine", "x")
        assert len(await stored(store)) == 26
        assert events.statistics().throttled == 75


async def test_one_component_cannot_flood_the_store(store: Client) -> None:
    async with broadcaster(store, burst=10, rate=1.0) as events:
        for number in range(50):
            about = Reference("v1", "Pod", "default", f"pod-{number}", f"u-{number}")
            events.recorder("tester").event(about, "Normal", "Started", "x")
        events.recorder("another").event(ABOUT, "Normal", "Fine", "x")
        assert len(await stored(store)) == 11


async def test_events_are_gone_after_their_time(store: Client) -> None:
    async with broadcaster(store, ttl=100.0) as events:
        events.recorder("tester").event(ABOUT, "Normal", "Once", "x")
        assert len(await stored(store)) == 1
        await asyncio.sleep(90)
        assert len(await stored(store)) == 1
        await asyncio.sleep(30)
        assert await stored(store) == []
        events.recorder("tester").event(ABOUT, "Normal", "Once", "x")
        (event,) = await stored(store)
        assert event.count == 2


async def test_describing_a_deployment_tells_its_story(store: Client) -> None:
    async with cluster(store) as it:
        await it.apply(nginx())
        await it.rolled_out()
        await it.scale(1)
        await it.rolled_out()
        await asyncio.sleep(1)
        reasons = {event.reason for event in (await it.client.list(Event, "default")).items}
        assert reasons == {"ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled", "Started"}
