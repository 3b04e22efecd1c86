"""What Prometheus is told of informers."""

from __future__ import annotations

import asyncio
import random

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from informer.cache import Stored
from informer.client import ObjectClient
from informer.errors import Unreachable
from informer.informers import Informers
from informer.listwatch import StoreListWatch
from informer.metrics import InformerCollector
from informer.shared import Handler
from kvstore.client.embedded import EmbeddedClient
from tests.informer.faulty import FaultyListWatch
from tests.informer.test_informers import Book

NAME = "books.example.com -n a"


class Slow(Handler):
    async def on_add(self, new: Stored, initial: bool) -> None:
        await asyncio.sleep(10)
        raise ValueError("broken")


@pytest.mark.virtual_time
async def test_every_informer_and_handler_is_measured(client: EmbeddedClient) -> None:
    objects = ObjectClient(client, rng=random.Random(1))
    sources: list[FaultyListWatch] = []

    def source(*args: object) -> FaultyListWatch:
        sources.append(FaultyListWatch(StoreListWatch(*args)))  # type: ignore[arg-type]
        return sources[-1]

    async with Informers(client, list_watch=source, rng=random.Random(1)) as informers:
        registry = CollectorRegistry()
        registry.register(InformerCollector(informers.statistics))

        def collect() -> dict[str, float]:
            return {
                sample.name
                + "".join(f"|{value}" for key, value in sample.labels.items() if key != "name"): sample.value
                for family in text_string_to_metric_families(generate_latest(registry).decode())
                for sample in family.samples
                if sample.labels["name"] == NAME
            }

        assert collect() == {}
        for n in range(3):
            await objects.create(Book(name=f"b{n}", namespace="a"))
        informer = informers.acquire(Book, "a")
        informer.add_handler(Slow(), name="slow")
        informer.add_handler(Handler(), name="quick")
        await asyncio.sleep(15)
        first = collect()
        expected = {
            "reflector_lists_total": 1,
            "reflector_watches_total": 1,
            "reflector_last_resource_version": 4,
            "informer_store_resource_version": 4,
            "informer_queued_items": 1,
            "informer_processing_latency_seconds_count|slow": 2,
            "informer_processing_latency_seconds_count|quick": 3,
            "listwatch_informer_synced": 1,
            "listwatch_informer_lag_seconds": 0,
            "listwatch_cache_objects": 3,
            "listwatch_cache_encoded_bytes": informer.cache.statistics().encoded_bytes,
            "listwatch_handler_pending|slow": 1,
            "listwatch_handler_pending_high_water|slow": 3,
            "listwatch_handler_failed_total|slow": 1,
            "listwatch_handler_failed_total|quick": 0,
            "listwatch_handler_synced|slow": 0,
            "listwatch_handler_synced|quick": 1,
            "listwatch_reflector_state|watching": 1,
            "listwatch_reflector_state|resuming": 0,
            "listwatch_reflector_resumes_total|unreachable": 0,
            "listwatch_cache_errors_total|transform": 0,
        }
        assert {name: first[name] for name in expected} == expected
        assert first["listwatch_handler_oldest_seconds|slow"] == pytest.approx(15, abs=0.1)
        assert first["informer_processing_latency_seconds_sum|slow"] == pytest.approx(10, abs=0.1)

        sources[0].cut(Unreachable("cut"), stay_away=True)
        await asyncio.sleep(7)
        second = collect()
        assert second["listwatch_informer_lag_seconds"] == second["listwatch_reflector_silent_seconds"]
        assert second["listwatch_informer_lag_seconds"] == pytest.approx(22, abs=0.1)
        assert second["listwatch_reflector_state|resuming"] == 1
        assert second["listwatch_reflector_resumes_total|unreachable"] == 1
        assert second["listwatch_reflector_failures_total|unreachable"] == 1
        assert first.keys() == second.keys()
